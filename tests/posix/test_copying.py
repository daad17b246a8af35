"""copy_file_range(2), sendfile(2), splice(2): copies made inside the kernel."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.posix.nodes import fails, make_file, mode_of, opened, refused

DATA = os.urandom(300_000)
REFUSALS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EINVAL)


def _copy_range(source: int, destination: int, count: int, **offsets: int) -> int:
    copied = 0
    while copied < count:
        n = os.copy_file_range(source, destination, count - copied, **offsets)
        if n == 0:
            break
        copied += n
        offsets = {name: offset + n for name, offset in offsets.items()}
    return copied


def _copy_range_refused(target: Path) -> bool:
    probe = make_file(target / "probe", b"p")
    with opened(probe) as source, opened(target / "copy", os.O_CREAT | os.O_WRONLY) as copy:
        return refused(lambda: os.copy_file_range(source, copy, 1), *REFUSALS)


@pytest.mark.parametrize("count", [1, 4096, 100_001, len(DATA), len(DATA) + 5000])
def test_copied_range_is_the_data(target: Path, count: int) -> None:
    make_file(target / "f", DATA)
    if _copy_range_refused(target):
        return
    with opened(target / "f") as source, opened(target / "g", os.O_CREAT | os.O_WRONLY) as out:
        assert _copy_range(source, out, count) == min(count, len(DATA))
        assert os.lseek(source, 0, os.SEEK_CUR) == min(count, len(DATA))
    assert (target / "g").read_bytes() == DATA[:count]


def test_copied_range_goes_where_it_is_told(target: Path) -> None:
    make_file(target / "f", DATA)
    make_file(target / "g", b"." * 20_000)
    if _copy_range_refused(target):
        return
    with opened(target / "f") as source, opened(target / "g", os.O_RDWR) as out:
        assert _copy_range(source, out, 5000, offset_src=777, offset_dst=10_001) == 5000
    wanted = b"." * 10_001 + DATA[777:5777] + b"." * (20_000 - 15_001)
    assert (target / "g").read_bytes() == wanted


def test_data_not_yet_on_disk_is_copied(target: Path) -> None:
    if _copy_range_refused(target):
        return
    with (
        opened(target / "f", os.O_CREAT | os.O_RDWR) as source,
        opened(target / "g", os.O_CREAT | os.O_RDWR) as out,
    ):
        os.write(source, DATA)
        os.pwrite(out, b"overwritten", 0)
        assert _copy_range(source, out, len(DATA), offset_src=0, offset_dst=0) == len(DATA)
        assert os.pread(out, len(DATA), 0) == DATA
        assert os.fstat(out).st_size == len(DATA)


def test_overlapping_ranges_of_one_file_are_refused(target: Path) -> None:
    path = make_file(target / "f", DATA)
    with opened(path, os.O_RDWR) as fd, fails(errno.EINVAL):
        os.copy_file_range(fd, fd, 1000, 0, 500)
    assert path.read_bytes() == DATA


def test_copy_needs_the_right_descriptors(target: Path) -> None:
    path = make_file(target / "f", DATA)
    with opened(path) as reader, fails(errno.EBADF):
        os.copy_file_range(reader, reader, 10, 0, 1000)
    with opened(path, os.O_WRONLY) as writer, fails(errno.EBADF):
        os.copy_file_range(writer, writer, 10, 0, 1000)


def test_sendfile_both_ways(target: Path) -> None:
    make_file(target / "f", DATA)
    with opened(target / "f") as source, opened(target / "g", os.O_CREAT | os.O_WRONLY) as out:
        sent = 0
        while n := os.sendfile(out, source, None, len(DATA)):
            sent += n
    assert sent == len(DATA)
    assert (target / "g").read_bytes() == DATA


def test_splice_through_a_pipe(target: Path) -> None:
    make_file(target / "f", DATA)
    source, sink = os.pipe()
    with opened(target / "f") as fd, opened(target / "g", os.O_CREAT | os.O_WRONLY) as out:
        while n := os.splice(fd, sink, 4096):
            assert os.splice(source, out, n) == n
    os.close(source)
    os.close(sink)
    assert (target / "g").read_bytes() == DATA


@pytest.mark.parametrize("option", ["--archive", "--sparse=always", "--reflink=auto"])
def test_cp_copies(target: Path, option: str) -> None:
    with opened(target / "f", os.O_CREAT | os.O_WRONLY) as fd:
        os.pwrite(fd, DATA, 1 << 20)
    subprocess.run(["cp", option, target / "f", target / "g"], check=True)
    assert (target / "g").read_bytes() == (target / "f").read_bytes()


def test_python_copies_with_times_and_mode(target: Path) -> None:
    make_file(target / "f", DATA, mode=0o750)
    os.utime(target / "f", ns=(10**18 + 1, 10**18 + 2))
    shutil.copy2(target / "f", target / "g")
    assert (target / "g").read_bytes() == DATA
    assert mode_of(target / "g") == 0o750
    assert (target / "g").stat().st_mtime_ns == 10**18 + 2
