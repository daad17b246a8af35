"""mmap(2): mappings, read and write look at the same pages."""

from __future__ import annotations

import errno
import faulthandler
import mmap
import os
import signal
from pathlib import Path

import pytest

from tests.posix.actors import elsewhere, spawn
from tests.posix.nodes import fails, make_file, opened, tick

PAGE = mmap.PAGESIZE
DATA = bytes(range(256)) * 64


def test_mapping_shows_the_data(target: Path) -> None:
    path = make_file(target / "f", DATA)
    with opened(path) as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as shown:
        assert shown[:] == DATA


def test_shared_change_is_read_at_once_and_after_reopening(target: Path) -> None:
    path = make_file(target / "f", DATA)
    with opened(path, os.O_RDWR) as fd:
        with mmap.mmap(fd, 0) as shared:
            shared[100:106] = b"mapped"
            assert os.pread(fd, 6, 100) == b"mapped"
            shared.flush()
        with opened(path) as other:
            assert os.pread(other, 6, 100) == b"mapped"
    assert path.read_bytes() == DATA[:100] + b"mapped" + DATA[106:]


def test_change_outlives_the_descriptor_and_the_mapping(target: Path) -> None:
    path = make_file(target / "f", DATA)
    fd = os.open(path, os.O_RDWR)
    shared = mmap.mmap(fd, 0)
    os.close(fd)
    shared[:4] = b"late"
    shared.close()
    assert path.read_bytes()[:8] == b"late" + DATA[4:8]


def test_write_shows_in_a_mapping(target: Path) -> None:
    path = make_file(target / "f", DATA)
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as shared:
        assert shared[0] == 0
        os.pwrite(fd, b"written", 3 * PAGE - 3)
        assert shared[3 * PAGE - 3 : 3 * PAGE + 4] == b"written"
        with opened(path, os.O_WRONLY) as other:
            os.pwrite(other, b"otherwise", 0)
        assert shared[:9] == b"otherwise"


def test_private_change_stays_private(target: Path) -> None:
    path = make_file(target / "f", DATA)
    with opened(path) as fd, mmap.mmap(fd, 0, access=mmap.ACCESS_COPY) as private:
        private[:7] = b"private"
        assert private[:7] == b"private"
        assert os.pread(fd, 7, 0) == DATA[:7]
    assert path.read_bytes() == DATA


def test_two_processes_share_a_mapping(target: Path) -> None:
    path = make_file(target / "f", DATA)

    def change() -> bytes:
        with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as shared:
            shared[10:15] = b"child"
            return shared[:5]

    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as shared:
        shared[:5] = b"first"
        assert elsewhere(change) == b"first"
        assert shared[10:15] == b"child"


def test_rest_of_the_last_page_is_zeros_and_is_not_written(target: Path) -> None:
    path = make_file(target / "f", b"x" * 100)
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 100) as shared:
        shared[99:100] = b"y"
        shared.flush()
    with opened(path, os.O_RDWR) as fd:
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as shared:
            assert shared[:] == (b"x" * 99 + b"y").ljust(PAGE, b"\0")


def test_access_behind_the_end_is_a_bus_error(target: Path) -> None:
    path = make_file(target / "f", DATA)

    def touch_behind_the_end() -> None:
        faulthandler.disable()
        with opened(path, os.O_RDWR) as fd:
            shared = mmap.mmap(fd, len(DATA))
            os.ftruncate(fd, PAGE)
            assert shared[PAGE - 1] == DATA[PAGE - 1]
            shared[2 * PAGE]

    with spawn(touch_behind_the_end) as child:
        assert child.signal() == signal.SIGBUS


def test_mapping_of_a_file_cut_and_grown_shows_zeros(target: Path) -> None:
    path = make_file(target / "f", DATA)
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as shared:
        os.ftruncate(fd, PAGE + 10)
        assert shared[: PAGE + 10] == DATA[: PAGE + 10]
        os.ftruncate(fd, len(DATA))
        assert shared[:] == DATA[: PAGE + 10].ljust(len(DATA), b"\0")
        shared[-4:] = b"tail"
        assert os.pread(fd, 4, len(DATA) - 4) == b"tail"


def test_hole_can_be_written_through_a_mapping(target: Path) -> None:
    path = make_file(target / "f")
    size = 64 * PAGE
    with opened(path, os.O_RDWR) as fd:
        os.ftruncate(fd, size)
        with mmap.mmap(fd, size) as shared:
            for page in range(0, 64, 7):
                shared[page * PAGE] = page + 1
            shared.flush()
    found = path.read_bytes()
    assert [n // PAGE for n, byte in enumerate(found) if byte] == list(range(0, 64, 7))


def test_unlinked_file_stays_mapped(target: Path) -> None:
    path = make_file(target / "f", DATA)
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as shared:
        os.unlink(path)
        shared[:4] = b"gone"
        shared.flush()
        assert shared[:4] == b"gone"
        assert os.pread(fd, 4, 0) == b"gone"


def test_descriptor_limits_what_a_mapping_may_do(target: Path) -> None:
    path = make_file(target / "f", DATA)
    both = mmap.PROT_READ | mmap.PROT_WRITE
    with opened(path) as fd, fails(errno.EACCES):
        mmap.mmap(fd, PAGE, mmap.MAP_SHARED, both)
    with opened(path, os.O_WRONLY) as fd, fails(errno.EACCES):
        mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ)


def test_synced_change_moves_mtime_on(target: Path) -> None:
    path = make_file(target / "f", DATA)
    before = path.stat()
    tick()
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as shared:
        shared[:1] = b"!"
        shared.flush()
    after = path.stat()
    assert after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_size == before.st_size


@pytest.mark.parametrize("offset", [PAGE, 4 * PAGE])
def test_mapping_can_begin_in_the_middle(target: Path, offset: int) -> None:
    data = os.urandom(8 * PAGE)
    path = make_file(target / "f", data)
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 2 * PAGE, offset=offset) as shared:
        assert shared[:] == data[offset : offset + 2 * PAGE]
        shared[:2] = b"OK"
    assert path.read_bytes() == data[:offset] + b"OK" + data[offset + 2 :]
