"""truncate(2) and ftruncate(2)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.posix.actors import MEMBER, OWNER, STRANGER, as_user
from tests.posix.nodes import fails, make, make_dir, make_file, make_symlink, opened

PATTERN = bytes(range(1, 256))
DATA = PATTERN * 600
SIZES = [0, 1, 511, 4095, 4096, 4097, 65_536, 131_071, len(DATA) - 1, len(DATA)]
GIB = 1 << 30


@pytest.mark.parametrize("size", SIZES)
def test_shorter_file_keeps_its_beginning(target: Path, size: int) -> None:
    path = make_file(target / "f", DATA)
    os.truncate(path, size)
    assert path.stat().st_size == size
    assert path.read_bytes() == DATA[:size]


@pytest.mark.parametrize("size", [len(PATTERN) + 1, 4096, 4097, 1_000_000])
def test_longer_file_ends_in_zeros(target: Path, size: int) -> None:
    path = make_file(target / "f", PATTERN)
    os.truncate(path, size)
    assert path.stat().st_size == size
    assert path.read_bytes() == PATTERN.ljust(size, b"\0")


@pytest.mark.parametrize("size", [0, 1, 100, 4095, 4096, 5000, 100_000])
def test_data_cut_off_never_comes_back(target: Path, size: int) -> None:
    path = make_file(target / "f", DATA)
    os.truncate(path, size)
    os.truncate(path, len(DATA))
    assert path.read_bytes() == DATA[:size].ljust(len(DATA), b"\0")


def test_write_behind_a_cut_leaves_zeros_between(target: Path) -> None:
    path = make_file(target / "f", DATA)
    with opened(path, os.O_RDWR) as fd:
        os.ftruncate(fd, 10)
        os.pwrite(fd, b"end", 10_000)
        assert os.pread(fd, 20_000, 0) == DATA[:10].ljust(10_000, b"\0") + b"end"


@pytest.mark.parametrize("size", [5 * GIB, 64 * GIB])
def test_large_sparse_file(target: Path, size: int) -> None:
    path = make_file(target / "f", b"head")
    os.truncate(path, size)
    assert path.stat().st_size == size
    with opened(path, os.O_RDWR) as fd:
        assert os.pread(fd, 10, size - 4) == b"\0\0\0\0"
        os.pwrite(fd, b"tail", size - 4)
        assert os.pread(fd, 10, size - 4) == b"tail"
        assert os.pread(fd, 6, 0) == b"head\0\0"
        os.ftruncate(fd, 4)
        assert os.fstat(fd).st_size == 4


def test_offset_of_a_descriptor_stays(target: Path) -> None:
    path = make_file(target / "f", PATTERN)
    with opened(path, os.O_RDWR) as fd:
        os.lseek(fd, 100, os.SEEK_SET)
        os.ftruncate(fd, 10)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 100
        assert os.read(fd, 1) == b""
        os.write(fd, b"x")
    assert path.read_bytes() == PATTERN[:10].ljust(100, b"\0") + b"x"


def test_other_descriptors_see_it_at_once(target: Path) -> None:
    path = make_file(target / "f", PATTERN)
    with opened(path) as reader:
        assert os.pread(reader, 255, 0) == PATTERN
        os.truncate(path, 3)
        assert os.fstat(reader).st_size == 3
        assert os.pread(reader, 255, 0) == PATTERN[:3]


def test_link_is_followed(target: Path) -> None:
    make_file(target / "f", PATTERN)
    make_symlink(target / "link", "f")
    os.truncate(target / "link", 5)
    assert (target / "f").stat().st_size == 5


def test_directory_is_refused(target: Path) -> None:
    make_dir(target / "d")
    with fails(errno.EISDIR):
        os.truncate(target / "d", 0)


@pytest.mark.parametrize("kind", ["fifo", "socket", "char", "block"])
def test_special_files_are_refused(target: Path, kind: str) -> None:
    make(kind, target / "it")
    with fails(errno.EINVAL):
        os.truncate(target / "it", 0)


def test_negative_size_is_refused(target: Path) -> None:
    path = make_file(target / "f", PATTERN)
    with fails(errno.EINVAL):
        os.truncate(path, -1)
    with opened(path, os.O_WRONLY) as fd, fails(errno.EINVAL):
        os.ftruncate(fd, -1)
    assert path.read_bytes() == PATTERN


def test_size_beyond_all_bounds_is_refused(target: Path) -> None:
    path = make_file(target / "f", PATTERN)
    with fails(errno.EFBIG, errno.EINVAL):
        os.truncate(path, 2**63 - 1)
    assert path.stat().st_size == len(PATTERN)


def test_descriptor_must_be_open_for_writing(target: Path) -> None:
    path = make_file(target / "f", PATTERN, owner=OWNER)
    with opened(path) as fd, fails(errno.EINVAL, errno.EBADF):
        os.ftruncate(fd, 0)
    assert path.stat().st_size == len(PATTERN)


def test_write_permission_decides(target: Path) -> None:
    path = make_file(target / "f", PATTERN, mode=0o664, owner=OWNER)
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.truncate(path, 0))
    assert path.stat().st_size == len(PATTERN)
    as_user(MEMBER, lambda: os.truncate(path, 7))
    assert path.stat().st_size == 7


def test_owner_without_write_permission_is_refused(target: Path) -> None:
    path = make_file(target / "f", PATTERN, mode=0o444, owner=OWNER)
    with fails(errno.EACCES):
        as_user(OWNER, lambda: os.truncate(path, 0))


def test_same_size_keeps_the_data(target: Path) -> None:
    path = make_file(target / "f", PATTERN)
    os.truncate(path, len(PATTERN))
    assert path.read_bytes() == PATTERN
