"""Holes: SEEK_DATA and SEEK_HOLE, fallocate(2)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.posix.libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from tests.posix.nodes import fails, make_dir, make_file, opened, refused

MIB = 1 << 20
SIZE = 4 * MIB
ISLANDS = ((0, 4096), (MIB, 65_536), (3 * MIB, 100))
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)


def _make_islands(path: Path) -> bytes:
    """Write data with holes between; return what the file must read as."""
    model = bytearray(SIZE)
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, SIZE)
        for offset, length in ISLANDS:
            os.pwrite(fd, b"d" * length, offset)
            model[offset : offset + length] = b"d" * length
        os.fsync(fd)
    return bytes(model)


def _extents(fd: int, size: int) -> list[tuple[int, int]]:
    """Return the stretches of data, as SEEK_DATA and SEEK_HOLE tell them."""
    found, position = [], 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                break
            raise
        position = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, position))
    return found


def test_all_data_lies_in_what_is_told_as_data(target: Path) -> None:
    model = _make_islands(target / "f")
    rebuilt = bytearray(SIZE)
    with opened(target / "f") as fd:
        extents = _extents(fd, SIZE)
        for start, end in extents:
            rebuilt[start:end] = os.pread(fd, end - start, start)
    assert bytes(rebuilt) == model
    assert extents == sorted(extents)
    assert all(start < end <= SIZE for start, end in extents)


def test_positions_inside_data_are_data(target: Path) -> None:
    _make_islands(target / "f")
    with opened(target / "f") as fd:
        for offset, length in ISLANDS:
            for inside in (offset, offset + length // 2, offset + length - 1):
                assert os.lseek(fd, inside, os.SEEK_DATA) == inside
                assert os.lseek(fd, inside, os.SEEK_HOLE) >= offset + length


def test_end_of_the_file_is_a_hole_and_nothing_lies_behind_it(target: Path) -> None:
    path = make_file(target / "f", b"d" * 1000)
    with opened(path) as fd:
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 1000
        assert os.lseek(fd, 999, os.SEEK_DATA) == 999
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            for offset in (1000, 5000):
                with fails(errno.ENXIO):
                    os.lseek(fd, offset, whence)


def test_empty_file_has_neither_data_nor_hole(target: Path) -> None:
    with opened(make_file(target / "f")) as fd:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with fails(errno.ENXIO):
                os.lseek(fd, 0, whence)


def test_holes_are_zeros_and_can_be_filled(target: Path) -> None:
    model = bytearray(_make_islands(target / "f"))
    assert (target / "f").read_bytes() == model
    with opened(target / "f", os.O_RDWR) as fd:
        os.pwrite(fd, b"filled", 2 * MIB - 3)
    model[2 * MIB - 3 : 2 * MIB + 3] = b"filled"
    assert (target / "f").read_bytes() == model


def _fallocate_refused(path: Path, mode: int) -> bool:
    with opened(path, os.O_RDWR) as fd:
        return refused(lambda: fallocate(fd, mode, 0, 1), *UNSUPPORTED)


@pytest.mark.parametrize(("offset", "length"), [(0, 10_000), (500, 9_500), (100_000, 1)])
def test_allocating_grows_the_file_with_zeros(target: Path, offset: int, length: int) -> None:
    probe = make_file(target / "probe", b"p")
    path = make_file(target / "f", b"data" * 250)
    if _fallocate_refused(probe, 0):
        return
    with opened(path, os.O_RDWR) as fd:
        fallocate(fd, 0, offset, length)
    assert path.read_bytes() == (b"data" * 250).ljust(offset + length, b"\0")


def test_allocating_behind_the_end_can_keep_the_size(target: Path) -> None:
    path = make_file(target / "f", b"data")
    if _fallocate_refused(path, FALLOC_FL_KEEP_SIZE):
        return
    with opened(path, os.O_RDWR) as fd:
        fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, MIB)
    assert path.read_bytes() == b"data"


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 4096), (4096, 8192), (1000, 5000), (60_000, 100_000)]
)
def test_punched_hole_is_zeros(target: Path, offset: int, length: int) -> None:
    punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    data = b"x" * 65_536
    path = make_file(target / "f", data)
    if _fallocate_refused(make_file(target / "probe", b"p"), punch):
        return
    with opened(path, os.O_RDWR) as fd:
        fallocate(fd, punch, offset, length)
        hole = bytes(min(length, len(data) - offset))
        wanted = data[:offset] + hole + data[offset + len(hole) :]
        assert os.pread(fd, len(data) + 1, 0) == wanted
    assert path.read_bytes() == wanted


def test_posix_fallocate_always_works(target: Path) -> None:
    """posix_fallocate(3) falls back to writing where fallocate(2) is not to be had."""
    path = make_file(target / "f", b"data")
    with opened(path, os.O_RDWR) as fd:
        os.posix_fallocate(fd, 2, 100_000)
    assert path.read_bytes() == b"data".ljust(100_002, b"\0")


def test_impossible_allocations(target: Path) -> None:
    path = make_file(target / "f", b"data")
    make_dir(target / "d")
    with opened(path, os.O_RDWR) as fd:
        for offset, length in ((0, 0), (-1, 1), (0, -1)):
            with fails(errno.EINVAL):
                fallocate(fd, 0, offset, length)
    with opened(path) as fd, fails(errno.EBADF):
        fallocate(fd, 0, 0, 1)
    with opened(target / "d") as fd, fails(errno.EBADF):
        fallocate(fd, 0, 0, 1)
    assert path.read_bytes() == b"data"
