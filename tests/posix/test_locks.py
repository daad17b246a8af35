"""flock(2), fcntl(2) record locks and open file description locks, between processes of a mount."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.posix.actors import elsewhere, errno_of, spawn
from tests.posix.nodes import fails, make_file, opened
from tests.posix.record_locks import holding, in_way, record_lock

WOULD_BLOCK = (errno.EAGAIN, errno.EACCES)
NOW = fcntl.LOCK_NB
PAUSE_S = 0.05
GRACE_S = 2.0


@pytest.fixture
def path(target: Path) -> Path:
    return make_file(target / "f", b"0123456789" * 10)


def _try_flock(path: Path, operation: int) -> int:
    """Return the errno of a flock through a descriptor of its own, in another process."""

    def lock() -> int:
        with opened(path, os.O_RDWR) as fd:
            return errno_of(lambda: fcntl.flock(fd, operation | NOW))

    return elsewhere(lock)


def _try_record(path: Path, kind: int, start: int = 0, length: int = 0) -> int:
    """Return the errno of a record lock tried in another process."""

    def lock() -> int:
        with opened(path, os.O_RDWR) as fd:
            return errno_of(lambda: record_lock(fd, kind, start, length))

    return elsewhere(lock)


@pytest.mark.parametrize(
    ("held", "tried", "expected"),
    [
        (fcntl.LOCK_EX, fcntl.LOCK_EX, errno.EWOULDBLOCK),
        (fcntl.LOCK_EX, fcntl.LOCK_SH, errno.EWOULDBLOCK),
        (fcntl.LOCK_SH, fcntl.LOCK_EX, errno.EWOULDBLOCK),
        (fcntl.LOCK_SH, fcntl.LOCK_SH, 0),
    ],
    ids=["ex-ex", "ex-sh", "sh-ex", "sh-sh"],
)
def test_flock_conflicts(path: Path, held: int, tried: int, expected: int) -> None:
    """[lock-1]."""
    with opened(path, os.O_RDWR) as fd:
        fcntl.flock(fd, held)
        assert _try_flock(path, tried) == expected
        fcntl.flock(fd, fcntl.LOCK_UN)
        assert _try_flock(path, tried) == 0


def test_flock_goes_with_the_last_descriptor(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    duplicate = os.dup(fd)
    os.close(fd)
    assert _try_flock(path, fcntl.LOCK_EX) == errno.EWOULDBLOCK
    os.close(duplicate)
    assert _try_flock(path, fcntl.LOCK_EX) == 0


def test_flock_belongs_to_the_open_file_not_to_the_process(path: Path) -> None:
    with opened(path) as first, opened(path) as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(second, fcntl.LOCK_EX | NOW)
        elsewhere(lambda: fcntl.flock(first, fcntl.LOCK_UN))
        fcntl.flock(second, fcntl.LOCK_EX | NOW)


def test_flock_can_be_upgraded_and_downgraded(path: Path) -> None:
    with opened(path) as fd:
        fcntl.flock(fd, fcntl.LOCK_SH)
        fcntl.flock(fd, fcntl.LOCK_EX | NOW)
        assert _try_flock(path, fcntl.LOCK_SH) == errno.EWOULDBLOCK
        fcntl.flock(fd, fcntl.LOCK_SH)
        assert _try_flock(path, fcntl.LOCK_SH) == 0


def test_flock_works_on_directories(target: Path) -> None:
    with opened(target) as first, opened(target) as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(second, fcntl.LOCK_EX | NOW)


@pytest.mark.parametrize(
    ("held", "tried", "expected"),
    [
        (fcntl.F_WRLCK, fcntl.F_WRLCK, WOULD_BLOCK),
        (fcntl.F_WRLCK, fcntl.F_RDLCK, WOULD_BLOCK),
        (fcntl.F_RDLCK, fcntl.F_WRLCK, WOULD_BLOCK),
        (fcntl.F_RDLCK, fcntl.F_RDLCK, (0,)),
    ],
    ids=["write-write", "write-read", "read-write", "read-read"],
)
def test_record_locks_conflict(
    path: Path, held: int, tried: int, expected: tuple[int, ...]
) -> None:
    """[lock-1]."""
    with opened(path, os.O_RDWR) as fd:
        record_lock(fd, held)
        assert _try_record(path, tried) in expected
        record_lock(fd, fcntl.F_UNLCK)
        assert _try_record(path, tried) == 0


@pytest.mark.parametrize(
    ("start", "length", "free"),
    [(0, 10, True), (0, 11, False), (15, 1, False), (19, 1, False), (20, 0, True), (5, 0, False)],
)
def test_record_locks_cover_ranges(path: Path, start: int, length: int, free: bool) -> None:
    with opened(path, os.O_RDWR) as fd:
        record_lock(fd, fcntl.F_WRLCK, 10, 10)
        assert (_try_record(path, fcntl.F_WRLCK, start, length) == 0) is free


def test_unlocking_the_middle_leaves_both_ends(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        record_lock(fd, fcntl.F_WRLCK, 0, 30)
        record_lock(fd, fcntl.F_UNLCK, 10, 10)
        free = [_try_record(path, fcntl.F_WRLCK, start, 10) == 0 for start in (0, 10, 20)]
    assert free == [False, True, False]


def test_part_of_a_range_can_change_its_kind(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        record_lock(fd, fcntl.F_WRLCK, 0, 30)
        record_lock(fd, fcntl.F_RDLCK, 10, 10)
        free = [_try_record(path, fcntl.F_RDLCK, start, 10) == 0 for start in (0, 10, 20)]
    assert free == [False, True, False]


def test_record_locks_go_with_any_descriptor_of_the_file(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        record_lock(fd, fcntl.F_WRLCK)
        with opened(path):
            pass
        assert _try_record(path, fcntl.F_WRLCK) == 0


def test_record_locks_are_not_inherited(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        record_lock(fd, fcntl.F_WRLCK)
        assert elsewhere(lambda: errno_of(lambda: record_lock(fd, fcntl.F_WRLCK))) in WOULD_BLOCK


def test_holder_of_a_record_lock_is_told(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        assert in_way(fd, fcntl.F_WRLCK)[0] == fcntl.F_UNLCK
        with holding(path, lambda other: record_lock(other, fcntl.F_WRLCK, 5, 7)) as child:
            assert in_way(fd, fcntl.F_WRLCK) == (fcntl.F_WRLCK, 5, 7, child.pid)
            assert in_way(fd, fcntl.F_WRLCK, 20, 5)[0] == fcntl.F_UNLCK


def test_record_locks_need_the_right_descriptor(path: Path) -> None:
    with opened(path) as fd, fails(errno.EBADF):
        record_lock(fd, fcntl.F_WRLCK)
    with opened(path, os.O_WRONLY) as fd, fails(errno.EBADF):
        record_lock(fd, fcntl.F_RDLCK)


class Kind(NamedTuple):
    """One kind of lock: how to try for it, and how to wait for it."""

    attempt: Callable[[int], None]
    wait: Callable[[int], None]


def _wait_for_record(fd: int, command: int) -> None:
    record_lock(fd, fcntl.F_WRLCK, command=command)


KINDS = {
    "flock": Kind(
        lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | NOW), lambda fd: fcntl.flock(fd, fcntl.LOCK_EX)
    ),
    "record": Kind(
        lambda fd: record_lock(fd, fcntl.F_WRLCK), lambda fd: _wait_for_record(fd, fcntl.F_SETLKW)
    ),
    "ofd": Kind(
        lambda fd: record_lock(fd, fcntl.F_WRLCK, command=fcntl.F_OFD_SETLK),
        lambda fd: _wait_for_record(fd, fcntl.F_OFD_SETLKW),
    ),
}


def _soon(lock: Callable[[], None]) -> None:
    """Lock before `GRACE_S` are over: what the dead had open may be let go in the background."""
    deadline = time.monotonic() + GRACE_S
    while errno_of(lock):
        assert time.monotonic() < deadline, "the lock of a dead process is still held"
        time.sleep(0.01)


of_each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@of_each_kind
def test_lock_of_a_killed_process_is_free(path: Path, kind: Kind) -> None:
    with holding(path, kind.attempt) as child, opened(path, os.O_RDWR) as fd:
        assert errno_of(lambda: kind.attempt(fd)) in WOULD_BLOCK
        child.kill()
        _soon(lambda: kind.attempt(fd))


@of_each_kind
def test_waiting_ends_when_the_lock_is_free(path: Path, kind: Kind) -> None:
    def wait() -> None:
        with opened(path, os.O_RDWR) as own:
            kind.wait(own)

    with holding(path, kind.attempt) as holder, spawn(wait) as waiting:
        time.sleep(PAUSE_S)
        assert not waiting.finished()
        holder.kill()
        waiting.result()


@of_each_kind
def test_waiting_can_be_interrupted(path: Path, kind: Kind) -> None:
    def give_up(*_: object) -> None:
        raise OSError(errno.EINTR, "given up")

    def wait() -> int:
        signal.signal(signal.SIGALRM, give_up)
        with opened(path, os.O_RDWR) as fd:
            signal.setitimer(signal.ITIMER_REAL, PAUSE_S)
            return errno_of(lambda: kind.wait(fd))

    with holding(path, kind.attempt):
        assert elsewhere(wait) == errno.EINTR


@of_each_kind
def test_killed_waiter_leaves_no_lock(path: Path, kind: Kind) -> None:
    def wait() -> None:
        with opened(path, os.O_RDWR) as own:
            kind.wait(own)
            signal.pause()

    with holding(path, kind.attempt) as holder, spawn(wait) as waiting:
        time.sleep(PAUSE_S)
        waiting.kill()
        holder.kill()
        with opened(path, os.O_RDWR) as fd:
            _soon(lambda: kind.attempt(fd))


def test_description_locks_conflict_within_a_process(path: Path) -> None:
    with opened(path, os.O_RDWR) as first, opened(path, os.O_RDWR) as second:
        record_lock(first, fcntl.F_WRLCK, 0, 10, command=fcntl.F_OFD_SETLK)
        with fails(*WOULD_BLOCK):
            record_lock(second, fcntl.F_WRLCK, 5, 10, command=fcntl.F_OFD_SETLK)
        record_lock(second, fcntl.F_WRLCK, 10, 10, command=fcntl.F_OFD_SETLK)
        with fails(*WOULD_BLOCK):
            record_lock(second, fcntl.F_WRLCK, 0, 10)


def test_description_locks_outlive_other_descriptors_of_the_file(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        record_lock(fd, fcntl.F_WRLCK, command=fcntl.F_OFD_SETLK)
        with opened(path):
            pass
        assert _try_record(path, fcntl.F_WRLCK) in WOULD_BLOCK
    assert _try_record(path, fcntl.F_WRLCK) == 0


def test_locks_follow_the_inode(path: Path, target: Path) -> None:
    os.link(path, target / "g")
    with opened(path, os.O_RDWR) as fd:
        record_lock(fd, fcntl.F_WRLCK)
        os.rename(path, target / "h")
        assert _try_record(target / "g", fcntl.F_WRLCK) in WOULD_BLOCK
        os.unlink(target / "h")
        assert _try_record(target / "g", fcntl.F_WRLCK) in WOULD_BLOCK


def test_unlinked_file_can_be_locked(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.unlink(path)
        fcntl.flock(fd, fcntl.LOCK_EX | NOW)
        record_lock(fd, fcntl.F_WRLCK)
        fcntl.flock(fd, fcntl.LOCK_UN)
        record_lock(fd, fcntl.F_UNLCK)


def test_lock_file_made_exclusively_serialises_processes(target: Path) -> None:
    """Count in a file under the oldest lock there is: a name that only one can create."""
    counter = make_file(target / "counter", b"0")

    def count() -> None:
        for _ in range(20):
            while errno_of(lambda: os.mkdir(target / "lock")):
                time.sleep(0.001)
            counter.write_bytes(b"%d" % (int(counter.read_bytes()) + 1))
            os.rmdir(target / "lock")

    with spawn(count) as one, spawn(count) as two:
        one.result()
        two.result()
    assert counter.read_bytes() == b"40"


def test_record_lock_serialises_processes(path: Path) -> None:
    path.write_bytes(b"0")

    def count() -> None:
        for _ in range(50):
            with opened(path, os.O_RDWR) as fd:
                _wait_for_record(fd, fcntl.F_SETLKW)
                os.pwrite(fd, b"%d" % (int(os.pread(fd, 10, 0)) + 1), 0)

    with spawn(count) as one, spawn(count) as two:
        one.result()
        two.result()
    assert path.read_bytes() == b"100"
