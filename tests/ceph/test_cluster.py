"""The test cluster itself: what would end it under the feet of others."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.ceph import CephCluster


def test_a_client_does_not_make_the_cluster_look_dead(cluster: CephCluster, base: Path):
    with cluster.ceph_fuse(base / "fuse"):
        assert cluster.running()
    assert cluster.running()
