"""Truncation to nothing keeps the old content: docs/semantics.md, [truncate-1] to [truncate-4]."""

from __future__ import annotations

import mmap
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.commands import run_as
from tests.gateway import Gateway, ceph_gateway

_OLD = b"three weeks of work\n" * 500
_SEEN_S = 1.2
"""After which nothing of the kernel's caches is left."""


def _open_truncating(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def _ftruncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)


WAYS: dict[str, Callable[[Path], None]] = {
    "open": _open_truncating,
    "truncate": lambda path: os.truncate(path, 0),
    "ftruncate": _ftruncate,
    "shell": lambda path: subprocess.run(["sh", "-c", f": > {path}"], check=True) and None,
}


def _kept(gateway: Gateway) -> int:
    return sum(item["kind"] == "file" for item in gateway.trash())


def _restored(gateway: Gateway) -> bytes:
    """Bring the newest version back beside the file, and read it."""
    to = gateway.path / "back"
    to.mkdir(exist_ok=True)
    gateway.run(
        "trash", "restore", "--last", "--to", str(to), "--mount", str(gateway.path), check=True
    )
    return next(to.iterdir()).read_bytes()


@pytest.mark.parametrize("way", WAYS)
def test_old_content_can_be_restored(gateway: Gateway, way: str) -> None:
    """[truncate-1]."""
    path = gateway.path / "f"
    path.write_bytes(_OLD)
    WAYS[way](path)
    assert path.read_bytes() == b""
    assert _restored(gateway) == _OLD


def test_nothing_else_of_the_file_changes(gateway: Gateway) -> None:
    """[truncate-2]."""
    path = gateway.path / "f"
    path.write_bytes(_OLD)
    os.chown(path, 1001, 1002)
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"1")
    subprocess.run(["setfacl", "-m", "u:1003:rw", str(path)], check=True)
    before, acl = path.stat(), os.getxattr(path, "system.posix_acl_access")
    os.truncate(path, 0)
    after = path.stat()
    same = ("st_ino", "st_mode", "st_uid", "st_gid", "st_nlink")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    time.sleep(_SEEN_S)
    assert path.stat().st_mode == before.st_mode
    assert os.getxattr(path, "user.note") == b"1"
    assert os.getxattr(path, "system.posix_acl_access") == acl
    assert _kept(gateway) == 1


def test_open_file_goes_on_with_the_empty_one(gateway: Gateway) -> None:
    """[truncate-2]."""
    path = gateway.path / "f"
    path.write_bytes(_OLD)
    with path.open("r+b", buffering=0) as file:
        for turn in range(3):
            file.truncate(0)
            file.seek(0)
            file.write(b"%d" % turn * 5000)
            assert path.read_bytes() == b"%d" % turn * 5000
        with mmap.mmap(file.fileno(), 0) as memory:
            memory[:3] = b"map"
        os.fsync(file.fileno())
    time.sleep(_SEEN_S)
    assert path.read_bytes()[:5] == b"map22"
    assert _kept(gateway) == 3


def test_who_reads_sees_the_truncation(gateway: Gateway) -> None:
    """[truncate-3]: open elsewhere in this host: not kept, since the reader would not notice."""
    path = gateway.path / "f"
    path.write_bytes(_OLD)
    with path.open("rb", buffering=0) as reader:
        assert reader.read(5) == _OLD[:5]
        os.truncate(path, 0)
        assert reader.read(5) == b""
        assert os.fstat(reader.fileno()).st_size == 0
    assert _kept(gateway) == 0
    assert gateway.metric('trash_bypasses_total{reason="opened"}') == 1


def test_small_and_linked_files_are_truncated_as_ever(gateway: Gateway) -> None:
    """[truncate-3]."""
    small, linked = gateway.path / "small", gateway.path / "linked"
    small.write_bytes(b"x" * 100)
    linked.write_bytes(_OLD)
    (gateway.path / "other").hardlink_to(linked)
    for path in (small, linked):
        os.truncate(path, 0)
    assert (gateway.path / "other").read_bytes() == b""
    assert _kept(gateway) == 0
    assert gateway.metric('trash_bypasses_total{reason="small"}') == 1
    assert gateway.metric('trash_bypasses_total{reason="links"}') == 1


def test_who_may_not_write_may_not_truncate(gateway: Gateway) -> None:
    path = gateway.path / "f"
    path.write_bytes(_OLD)
    assert run_as(1001, "truncate", "-s", "0", str(path)).returncode != 0
    assert path.read_bytes() == _OLD
    assert _kept(gateway) == 0


def test_who_may_write_only_the_file_truncates_it(gateway: Gateway) -> None:
    """[truncate-1]: the directory need not be writable."""
    path = gateway.path / "f"
    path.write_bytes(_OLD)
    path.chmod(0o666)
    assert run_as(1001, "truncate", "-s", "0", str(path)).returncode == 0
    assert path.read_bytes() == b""
    assert _restored(gateway) == _OLD


def test_set_user_id_goes_with_the_content(gateway: Gateway) -> None:
    """[perm-6]: also where the fresh file is made like the old one."""
    path = gateway.path / "f"
    path.write_bytes(_OLD)
    os.chown(path, 1001, 1001)
    path.chmod(0o6777)
    assert run_as(1002, "sh", "-c", f": > {path}").returncode == 0
    time.sleep(_SEEN_S)
    assert path.stat().st_mode & 0o7777 == 0o777
    assert _kept(gateway) == 1


def test_old_version_comes_back_to_its_place(gateway: Gateway) -> None:
    path = gateway.path / "f"
    path.write_bytes(_OLD)
    path.write_bytes(b"new" * 3000)
    gateway.run("trash", "restore", str(path), "--on-conflict", "replace", check=True)
    assert path.read_bytes() == _OLD
    assert _restored(gateway) == b"new" * 3000


def test_file_that_another_client_has_open_is_truncated_as_ever(
    base: Path, cluster: CephCluster
) -> None:
    """[truncate-3]."""
    here = ceph_gateway(cluster, base)
    there = Gateway(here.source, base / "there", base / "run2", conf=cluster.conf)
    with here.mounted(), there.mounted():
        (here.path / "f").write_bytes(_OLD)
        with (there.path / "f").open("rb", buffering=0) as reader:
            assert reader.read(5) == _OLD[:5]
            os.truncate(here.path / "f", 0)
            time.sleep(_SEEN_S)
            assert os.pread(reader.fileno(), 5, 0) == b""
        assert _kept(here) == 0
