"""A key that may read and write, and nothing else: `osd 'allow rw'`, `mds 'allow rw'`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cephfs_ext.core.errors import ExitCode
from tests.cluster.ceph import CephCluster
from tests.faults.contents import check, find, plant
from tests.gateway import Gateway, ceph_gateway


def test_plain_key_keeps_what_is_deleted_and_says_what_it_lacks(
    cluster: CephCluster, base: Path
) -> None:
    """[trash-13]"""
    plain = ceph_gateway(cluster, base / "plain", key="plain")
    with plain.mounted():
        wanted = plant(plain.path / "round", "round")
        subprocess.run(["rm", "-rf", str(plain.path / "round")], check=True)
        assert plain.log.count("client.plain may take no locks") >= 1
        assert "osd 'allow rwx pool=cephfs.data'; until then nothing can be restored" in plain.log
        assert plain.log.count("it needs mds 'allow rwp'") <= 2, "once a session"
        refused = plain.run("trash", "restore", str(plain.path / "round"))
        assert refused.returncode == ExitCode.DENIED
        assert "it needs osd 'allow rwx pool=cephfs.data'" in refused.stderr
        (plain.path / "round").mkdir()
        assert not list((plain.path / "round").iterdir())
        (plain.path / "round").rmdir()
    full = Gateway(plain.source, base / "full/mnt", base / "full/run", conf=cluster.conf)
    with full.mounted():
        check(wanted, find(full, "round"))


def test_plain_key_removes_without_knowing_of_other_workers(
    cluster: CephCluster, base: Path
) -> None:
    plain = ceph_gateway(cluster, base, key="plain")
    with plain.mounted():
        plant(plain.path / "round", "round")
        plain.run("rm", "-r", "--now", "--wait", str(plain.path / "round"), check=True)
        assert plain.log.count("workers that die make others wait for a minute") == 1
