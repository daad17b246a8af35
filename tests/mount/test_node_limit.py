"""Inodes that the kernel keeps are taken back before they exhaust the storage, and open files
have a limit."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, ceph_gateway, posix_gateway
from tests.waiting import wait_until

_DIRECTORIES, _FILES = 12, 150
_MANY = 2000
"""More than are served with so few descriptors."""

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


@contextlib.contextmanager
def _with_few_descriptors(gateway: Gateway) -> Iterator[None]:
    gateway.path.mkdir()
    command = gateway.command("mount", gateway.source, str(gateway.path))
    subprocess.run([*_FEW, *_NOT_MORE, *command], check=True, timeout=60)
    try:
        yield
    finally:
        gateway.close()


@contextlib.contextmanager
def _open_until_refused(path: Path, flags: int) -> Iterator[int]:
    """Open a path again and again; give the errno that ends it, and close all afterwards."""
    opened: list[int] = []
    try:
        while len(opened) < _MANY:
            try:
                opened.append(os.open(path, flags))
            except OSError as exc:
                yield exc.errno or 0
                return
        yield 0
    finally:
        for fd in opened:
            os.close(fd)


def test_walk_of_more_files_than_descriptors(base: Path) -> None:
    gateway = posix_gateway(base)
    _fill(base / "source")
    with _with_few_descriptors(gateway):
        _walk(gateway)


def test_who_opens_very_many_files_stops_nobody_else(base: Path) -> None:
    """[open-2]: what is to be truncated is left alone, and deletes and listings go on."""
    gateway = posix_gateway(base)
    (base / "source" / "d").mkdir()
    (base / "source" / "f").write_bytes(b"x" * 5000)
    with _with_few_descriptors(gateway):
        file, directory = gateway.path / "f", gateway.path / "d"
        with (
            _open_until_refused(file, os.O_RDONLY) as files,
            _open_until_refused(directory, os.O_RDONLY) as directories,
        ):
            assert (files, directories) == (errno.ENFILE, errno.ENFILE)
            with pytest.raises(OSError, match="Too many open files in system"):
                file.write_bytes(b"")
            with pytest.raises(OSError, match="Too many open files in system"):
                (gateway.path / "new").touch()
            (directory / "e").mkdir()
            (directory / "e").rmdir()
            assert file.stat().st_size == 5000
            assert [item["path"] for item in gateway.trash()] == ["d/e"]
        wait_until(lambda: gateway.metric("handles") == 0, within_s=30.0)
        assert sorted(os.listdir(gateway.path)) == ["d", "f"]
        file.write_bytes(b"")
    assert "Too many open files" not in gateway.log


def test_walk_of_more_files_than_libcephfs_keeps(base: Path, cluster: CephCluster) -> None:
    gateway = ceph_gateway(cluster, base, "ceph.cache_size=800")
    with gateway.mounted():
        _fill(gateway.path)
        _walk(gateway)
