"""read(2), write(2) and their relatives: what is written is read, where it was written."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
from pathlib import Path

import pytest

from tests.posix.actors import elsewhere
from tests.posix.nodes import fails, make_file, opened, refused, tick

SIZES = [0, 1, 511, 4095, 4096, 4097, 131_072, 131_073, 1 << 20, 3_000_000]
GIB = 1 << 30
PATTERN = bytes(range(256)) * 16
BLOCK = 4096


@pytest.mark.parametrize("size", SIZES)
def test_data_comes_back_in_any_size(target: Path, size: int) -> None:
    data = os.urandom(size)
    path = make_file(target / "f", data)
    assert path.stat().st_size == size
    assert path.read_bytes() == data


@pytest.mark.parametrize("step", [1, 7, 1000, 4095, 65_536])
def test_data_written_in_steps_is_one_stream(target: Path, step: int) -> None:
    data = os.urandom(min(200 * step, 300_000))
    with opened(target / "f", os.O_CREAT | os.O_WRONLY) as fd:
        for start in range(0, len(data), step):
            os.write(fd, data[start : start + step])
    assert (target / "f").read_bytes() == data


def test_overwritten_part_only_changes(target: Path) -> None:
    path = make_file(target / "f", PATTERN)
    with opened(path, os.O_WRONLY) as fd:
        os.pwrite(fd, b"XYZ", 1000)
    assert path.read_bytes() == PATTERN[:1000] + b"XYZ" + PATTERN[1003:]


def test_reading_at_and_behind_the_end(target: Path) -> None:
    path = make_file(target / "f", b"0123456789")
    with opened(path) as fd:
        assert os.pread(fd, 100, 5) == b"56789"
        assert os.pread(fd, 100, 10) == b""
        assert os.pread(fd, 100, 10_000_000) == b""
        assert os.pread(fd, 0, 0) == b""


def test_positional_calls_leave_the_offset(target: Path) -> None:
    path = make_file(target / "f", b"0123456789")
    with opened(path, os.O_RDWR) as fd:
        os.lseek(fd, 3, os.SEEK_SET)
        os.pread(fd, 5, 0)
        os.pwrite(fd, b"x", 9)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 3
        assert os.read(fd, 2) == b"34"


@pytest.mark.parametrize(
    ("offset", "whence", "expected"),
    [(4, os.SEEK_SET, 4), (0, os.SEEK_END, 10), (-3, os.SEEK_END, 7), (100, os.SEEK_END, 110)],
)
def test_seeking(target: Path, offset: int, whence: int, expected: int) -> None:
    path = make_file(target / "f", b"0123456789")
    with opened(path) as fd:
        assert os.lseek(fd, offset, whence) == expected
        assert os.lseek(fd, 1, os.SEEK_CUR) == expected + 1
        with fails(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)
    assert path.stat().st_size == 10


def test_negative_offsets_are_refused(target: Path) -> None:
    path = make_file(target / "f", b"data")
    with opened(path, os.O_RDWR) as fd:
        with fails(errno.EINVAL):
            os.pread(fd, 1, -1)
        with fails(errno.EINVAL):
            os.pwrite(fd, b"x", -1)


def test_scattered_buffers_are_one_stream(target: Path) -> None:
    pieces = [os.urandom(n) for n in (1, 4096, 0, 100, 70_000)]
    with opened(target / "f", os.O_CREAT | os.O_RDWR) as fd:
        assert os.writev(fd, pieces) == sum(map(len, pieces))
        buffers = [bytearray(len(piece)) for piece in pieces]
        assert os.preadv(fd, buffers, 0) == sum(map(len, pieces))
        assert [bytes(buffer) for buffer in buffers] == pieces
        os.pwritev(fd, [b"AB", b"CD"], 1)
        assert os.pread(fd, 6, 0) == pieces[0] + b"ABCD" + pieces[1][4:5]


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 100_000, 4 * GIB + 1, 70 * GIB])
def test_gap_in_front_of_a_write_reads_as_zeros(target: Path, offset: int) -> None:
    with opened(target / "f", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", offset)
        assert os.fstat(fd).st_size == offset + 3
        start = max(0, offset - 5000)
        assert os.pread(fd, 10_000, start) == bytes(offset - start) + b"end"
        assert os.pread(fd, 1, 0) == (b"\0" if offset else b"e")


def test_writes_are_seen_through_other_descriptors_at_once(target: Path) -> None:
    path = make_file(target / "f", b"old!")
    with opened(path) as reader, opened(path, os.O_WRONLY) as writer:
        for text in (b"new1", b"new2", b"longer than before"):
            os.pwrite(writer, text, 0)
            assert os.pread(reader, 100, 0) == text
            assert os.fstat(reader).st_size == path.stat().st_size == len(text)


def test_duplicates_share_the_offset_and_other_opens_do_not(target: Path) -> None:
    path = make_file(target / "f", b"0123456789")
    with opened(path) as fd, opened(path) as other:
        duplicate = os.dup(fd)
        assert os.read(fd, 3) == b"012"
        assert os.read(duplicate, 3) == b"345"
        assert os.read(other, 3) == b"012"
        os.close(duplicate)
        assert os.read(fd, 3) == b"678"


def test_forked_child_shares_the_offset(target: Path) -> None:
    with opened(target / "f", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"parent ")
        elsewhere(lambda: os.write(fd, b"child "))
        os.write(fd, b"parent")
    assert (target / "f").read_bytes() == b"parent child parent"


def test_empty_write_changes_nothing(target: Path) -> None:
    path = make_file(target / "f", b"data")
    before = path.stat()
    tick()
    with opened(path, os.O_WRONLY) as fd:
        assert os.write(fd, b"") == 0
        assert os.pwrite(fd, b"", 100) == 0
    assert path.stat().st_size == 4
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_appending_ignores_the_position_of_pwrite(target: Path) -> None:
    """Linux appends whatever the position; POSIX would have it obeyed (pwrite(2), BUGS)."""
    path = make_file(target / "f", b"0123456789")
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.pwrite(fd, b"end", 0)
    assert path.read_bytes() == b"0123456789end"


def test_limit_on_file_size_is_kept(target: Path) -> None:
    path = make_file(target / "f")

    def write_past_the_limit() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with opened(path, os.O_WRONLY) as fd:
            written = os.pwrite(fd, b"x" * 1000, 4500)
            with fails(errno.EFBIG):
                os.pwrite(fd, b"x", 5000)
            with fails(errno.EFBIG):
                os.ftruncate(fd, 5001)
        return written

    assert elsewhere(write_past_the_limit) == 500
    assert path.stat().st_size == 5000


def _direct_io_refused(path: Path) -> bool:
    return refused(lambda: os.close(os.open(path, os.O_RDWR | os.O_DIRECT)), errno.EINVAL)


def test_direct_io_works_or_is_refused(target: Path) -> None:
    path = make_file(target / "f")
    if _direct_io_refused(path):
        return
    with opened(path, os.O_RDWR | os.O_DIRECT) as fd, mmap.mmap(-1, BLOCK) as aligned:
        aligned[:] = PATTERN
        assert os.pwritev(fd, [aligned], 0) == BLOCK
        assert os.pwritev(fd, [aligned], BLOCK) == BLOCK
        aligned[:] = bytes(BLOCK)
        assert os.preadv(fd, [aligned], BLOCK) == BLOCK
        assert aligned[:] == PATTERN
    assert path.read_bytes() == PATTERN * 2


def test_buffered_and_direct_writes_see_each_other(target: Path) -> None:
    path = make_file(target / "f", PATTERN)
    if _direct_io_refused(path):
        return
    with (
        opened(path, os.O_RDWR | os.O_DIRECT) as direct,
        opened(path, os.O_RDWR) as buffered,
        mmap.mmap(-1, BLOCK) as aligned,
    ):
        os.pwrite(buffered, b"buffered", 0)
        os.preadv(direct, [aligned], 0)
        assert aligned[:8] == b"buffered"
        aligned[:8] = b"directly"
        os.pwritev(direct, [aligned], 0)
        assert os.pread(buffered, 8, 0) == b"directly"


def test_modes_of_a_python_file_work(target: Path) -> None:
    with open(target / "f", "x+", encoding="utf-8") as file:
        file.write("line 1\nline 2\n")
        file.seek(0)
        assert file.readlines() == ["line 1\n", "line 2\n"]
    with open(target / "f", "a+", encoding="utf-8") as file:
        file.write("line 3\n")
    assert (target / "f").read_text().count("\n") == 3
