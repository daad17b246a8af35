"""Inodes that the kernel keeps are taken back before they exhaust the storage."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, ceph_gateway, posix_gateway

_DIRECTORIES, _FILES = 12, 150
_FEW = ["prlimit", "--nofile=1200:1200"]
_NOT_MORE = ["setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource"]


def _fill(top: Path) -> None:
    for directory in range(_DIRECTORIES):
        (top / f"d{directory}").mkdir()
        for file in range(_FILES):
            (top / f"d{directory}/f{file}").touch()


def _walk(gateway: Gateway) -> None:
    files = [path for path in gateway.path.rglob("f*") if path.lstat().st_size == 0]
    assert len(files) == _DIRECTORIES * _FILES
    assert gateway.metric("node_limit_reached_total") > 0
    assert gateway.metric("invalidations_dropped_total") == 0


def test_walk_of_more_files_than_descriptors(base: Path) -> None:
    gateway = posix_gateway(base)
    _fill(base / "source")
    gateway.path.mkdir()
    command = gateway.command("mount", gateway.source, str(gateway.path))
    subprocess.run([*_FEW, *_NOT_MORE, *command], check=True, timeout=60)
    try:
        _walk(gateway)
    finally:
        gateway.close()


def test_walk_of_more_files_than_libcephfs_keeps(base: Path, cluster: CephCluster) -> None:
    gateway = ceph_gateway(cluster, base, "ceph.cache_size=800")
    with gateway.mounted():
        _fill(gateway.path)
        _walk(gateway)
