"""fsync(2), fdatasync(2), syncfs(2), sync_file_range(2) and O_SYNC: they succeed and lose nothing.

That the data is then safe is shown by the tests that kill daemons; here the calls are.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.libc import syncfs
from tests.posix.nodes import fails, make_dir, make_file, opened

CALLS: dict[str, Callable[[int], None]] = {
    "fsync": os.fsync,
    "fdatasync": os.fdatasync,
    "syncfs": syncfs,
}

by_call = pytest.mark.parametrize("call", CALLS)


@by_call
def test_file_with_dirty_data(target: Path, call: str) -> None:
    data = os.urandom(300_000)
    with opened(target / "f", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, data)
        CALLS[call](fd)
        os.write(fd, b"more")
        CALLS[call](fd)
    assert (target / "f").read_bytes() == data + b"more"


@by_call
def test_file_open_for_reading(target: Path, call: str) -> None:
    with opened(make_file(target / "f", b"x")) as fd:
        CALLS[call](fd)


@by_call
def test_directory(target: Path, call: str) -> None:
    make_dir(target / "d")
    make_file(target / "d" / "f")
    with opened(target / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        CALLS[call](fd)
        os.rename(target / "d" / "f", target / "d" / "g")
        CALLS[call](fd)


@by_call
def test_unlinked_file(target: Path, call: str) -> None:
    with opened(target / "f", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"x")
        os.unlink(target / "f")
        CALLS[call](fd)
        assert os.pread(fd, 1, 0) == b"x"


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC], ids=["sync", "dsync"])
def test_synchronous_writes(target: Path, flag: int) -> None:
    with opened(target / "f", os.O_CREAT | os.O_WRONLY | flag) as fd:
        for n in range(10):
            os.write(fd, b"%d" % n * 1000)
    assert (target / "f").read_bytes() == b"".join(b"%d" % n * 1000 for n in range(10))


def test_replacing_a_file_the_safe_way(target: Path) -> None:
    """Do what editors do: write aside, fsync, rename over, fsync the directory."""
    make_file(target / "f", b"old")
    with opened(target / "f.tmp", os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
        os.write(fd, b"new")
        os.fsync(fd)
    os.rename(target / "f.tmp", target / "f")
    with opened(target, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
    assert (target / "f").read_bytes() == b"new"
    assert os.listdir(target) == ["f"]


def test_path_descriptor_cannot_be_synced(target: Path) -> None:
    with opened(make_file(target / "f"), os.O_PATH) as fd, fails(errno.EBADF):
        os.fsync(fd)


def test_fadvise_and_sync_are_harmless(target: Path) -> None:
    path = make_file(target / "f", b"x" * 100_000)
    with opened(path) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 200_000, 0) == b"x" * 100_000
