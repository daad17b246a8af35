"""The umask of a thread: that of the request, and nobody else's."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cephfs_ext.storage import umask as umasks
from cephfs_ext.storage.umask import with_umask


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """Return a thread that may get a umask of its own; that of the process stays."""
    before = os.umask(0o022)
    with ThreadPoolExecutor(1) as executor:
        yield executor
    assert os.umask(before) == 0o022


def made(path: Path, mode: int, umask: int) -> int:
    """Make a directory; return its permissions."""
    with with_umask(mode, umask) as wanted:
        path.mkdir(mode=wanted)
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_takes_its_bits_away(thread: ThreadPoolExecutor, tmp_path: Path, umask: int) -> None:
    assert thread.submit(made, tmp_path / "d", 0o777, umask).result() == 0o777 & ~umask


def test_plays_no_part_below_a_default_list(thread: ThreadPoolExecutor, tmp_path: Path) -> None:
    entries = [(1, 7), (4, 7), (0x20, 5)]
    raw = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry, 0xFFFFFFFF) for entry in entries
    )
    os.setxattr(tmp_path, "system.posix_acl_default", raw)
    assert thread.submit(made, tmp_path / "d", 0o777, 0o077).result() == 0o775


def test_thread_has_none_afterwards(thread: ThreadPoolExecutor, tmp_path: Path) -> None:
    thread.submit(made, tmp_path / "a", 0o777, 0o077).result()

    def make() -> int:
        (tmp_path / "b").mkdir(mode=0o777)
        return stat.S_IMODE((tmp_path / "b").stat().st_mode)

    assert thread.submit(make).result() == 0o777


def test_is_applied_at_once_where_threads_have_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Refusing:
        def cx_umask(self, mask: int) -> int:
            return -1

    monkeypatch.setattr(umasks, "lib", Refusing())
    before = os.umask(0)
    try:
        assert made(tmp_path / "d", 0o777, 0o027) == 0o750
    finally:
        os.umask(before)
