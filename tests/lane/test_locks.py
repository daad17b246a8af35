"""Locks on ranges of files, between processes on two mounts with the lane."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from tests.cluster.ceph import CephCluster
from tests.conftest import short_directory
from tests.gateway import Gateway, ceph_gateway
from tests.posix.actors import Child, elsewhere, errno_of, spawn
from tests.posix.nodes import opened
from tests.posix.record_locks import holding, in_way, record_lock
from tests.waiting import wait_until

_WAIT_S = 30.0
_ROUNDS = 150
_WAITERS = 50
_ROWS = 40


class Site(NamedTuple):
    """Two gateways of one directory."""

    here: Gateway
    there: Gateway

    def paths(self, name: str, content: bytes = b"0123456789" * 10) -> tuple[Path, Path]:
        """Make a file; return where it is on both mounts."""
        path = self.here.path / name
        path.write_bytes(content)
        other = self.there.path / name
        wait_until(other.exists, within_s=_WAIT_S)
        return path, other


@pytest.fixture(scope="module")
def site(cluster: CephCluster) -> Iterator[Site]:
    """Mount one directory twice."""
    with short_directory() as base, ceph_gateway(cluster, base, "lane=on").mounted() as here:
        there = Gateway(
            here.source, base / "other", base / "run2", conf=cluster.conf, options=("lane=on",)
        )
        with there.mounted():
            yield Site(here, there)


def _try(path: Path, kind: int, start: int = 0, length: int = 0) -> int:
    """Return the errno of a lock that another process tries to get."""

    def attempt() -> int:
        with opened(path, os.O_RDWR) as fd:
            return errno_of(lambda: record_lock(fd, kind, start, length))

    return elsewhere(attempt)


def _held(
    path: Path, kind: int, start: int = 0, length: int = 0
) -> AbstractContextManager[Child[None]]:
    """Have another process hold a lock while the body runs."""
    return holding(path, lambda fd: record_lock(fd, kind, start, length))


def _wait_for(path: Path, kind: int = fcntl.F_WRLCK) -> Callable[[], float]:
    """Return what gets a lock, waiting for it, and says when it did."""

    def get() -> float:
        with opened(path, os.O_RDWR) as fd:
            record_lock(fd, kind, command=fcntl.F_SETLKW)
            return time.monotonic()

    return get


def _wait_until_waiting(gateway: Gateway, count: int) -> None:
    wait_until(lambda: gateway.metric("lane_locks_waiting") >= count, within_s=_WAIT_S)


def test_gateways_exclude_each_other(site: Site) -> None:
    """[lock-1]: where ranges overlap, unless both only read."""
    here, there = site.paths("exclude")
    with opened(here, os.O_RDWR) as fd:
        record_lock(fd, fcntl.F_WRLCK, 10, 20)
        for path in (here, there):
            assert _try(path, fcntl.F_WRLCK) == errno.EAGAIN
            assert _try(path, fcntl.F_RDLCK, 29, 1) == errno.EAGAIN
            assert _try(path, fcntl.F_WRLCK, 30, 10) == 0
            assert _try(path, fcntl.F_WRLCK, 0, 10) == 0
        record_lock(fd, fcntl.F_RDLCK, 10, 20)
        assert _try(there, fcntl.F_RDLCK) == 0
        assert _try(there, fcntl.F_WRLCK) == errno.EAGAIN
        record_lock(fd, fcntl.F_UNLCK, 10, 10)
        assert _try(there, fcntl.F_WRLCK, 10, 10) == 0
        assert _try(there, fcntl.F_WRLCK, 20, 10) == errno.EAGAIN
    assert _try(there, fcntl.F_WRLCK) == 0


def test_what_is_in_the_way_is_told(site: Site) -> None:
    """[lock-7]: its range, and its process if that is one of this mount."""
    here, there = site.paths("told")
    with opened(here, os.O_RDWR) as fd, _held(there, fcntl.F_WRLCK, 5, 7):
        assert in_way(fd, fcntl.F_RDLCK) == (fcntl.F_WRLCK, 5, 7, 0)
        assert in_way(fd, fcntl.F_RDLCK, 12, 5)[0] == fcntl.F_UNLCK
        with _held(here, fcntl.F_RDLCK, 50) as child:
            assert in_way(fd, fcntl.F_WRLCK, 40) == (fcntl.F_RDLCK, 50, 0, child.pid)


def test_who_waits_gets_it_when_the_holder_is_killed(site: Site) -> None:
    """[lock-1]: also if it was killed behind another gateway."""
    here, there = site.paths("killed")
    for held, waiting in ((here, there), (there, here), (here, here)):
        gateway = site.there if waiting is there else site.here
        with _held(held, fcntl.F_WRLCK) as holder, spawn(_wait_for(waiting)) as waiter:
            _wait_until_waiting(gateway, 1)
            killed = time.monotonic()
            os.kill(holder.pid, signal.SIGKILL)
            assert waiter.result() >= killed


class _InterruptedError(Exception):
    pass


def _interrupt(number: int, frame: object) -> NoReturn:
    raise _InterruptedError


def test_an_interrupted_wait_ends_without_the_lock(site: Site) -> None:
    """[lock-4]: and what is killed while it waits leaves nothing behind."""
    here, there = site.paths("interrupted")
    done, told = os.pipe()

    def wait() -> None:
        signal.signal(signal.SIGUSR1, _interrupt)
        with opened(here, os.O_RDWR) as fd:
            with contextlib.suppress(_InterruptedError):
                record_lock(fd, fcntl.F_WRLCK, command=fcntl.F_SETLKW)
            os.write(told, b"x")
            signal.pause()

    with _held(there, fcntl.F_WRLCK) as holder, spawn(wait) as waiter:
        with spawn(_wait_for(here)) as other:
            _wait_until_waiting(site.here, 2)
            os.kill(waiter.pid, signal.SIGUSR1)
            os.close(told)
            assert os.read(done, 1) == b"x"
            os.kill(other.pid, signal.SIGKILL)
            _wait_until_waiting(site.here, 0)
        wait_until(lambda: site.here.metric("lane_locks_waiting") == 0, within_s=_WAIT_S)
        os.kill(holder.pid, signal.SIGKILL)
        wait_until(lambda: _try(there, fcntl.F_WRLCK) == 0, within_s=_WAIT_S)
        assert _try(here, fcntl.F_WRLCK) == 0
    os.close(done)


def test_any_descriptor_that_is_closed_ends_all_locks_of_its_process(site: Site) -> None:
    """[lock-1]: those on the file; also one that the process has opened for something else."""
    here, there = site.paths("closed")
    with opened(here, os.O_RDWR) as fd:
        record_lock(fd, fcntl.F_WRLCK)
        elsewhere(here.read_bytes)
        assert _try(there, fcntl.F_WRLCK) == errno.EAGAIN
        here.read_bytes()
        assert _try(there, fcntl.F_WRLCK) == 0


def test_locks_of_an_open_file_end_with_its_last_descriptor(site: Site) -> None:
    """[lock-1]: F_OFD_SETLK."""
    here, there = site.paths("ofd")
    fd = os.open(here, os.O_RDWR)
    record_lock(fd, fcntl.F_WRLCK, command=fcntl.F_OFD_SETLK)
    second = os.dup(fd)
    os.close(fd)
    here.read_bytes()
    assert _try(there, fcntl.F_WRLCK) == errno.EAGAIN
    os.close(second)
    wait_until(lambda: _try(there, fcntl.F_WRLCK) == 0, within_s=_WAIT_S)


def _count(path: Path) -> Callable[[], None]:
    """Return what adds to a number in a file that stays open, whose locks exclude all others."""

    def count() -> None:
        with opened(path, os.O_RDWR) as fd:
            for _ in range(_ROUNDS):
                record_lock(fd, fcntl.F_WRLCK, 0, 1, command=fcntl.F_SETLKW)
                number = int(os.pread(fd, 20, 0))
                os.pwrite(fd, b"%020d" % (number + 1), 0)
                record_lock(fd, fcntl.F_UNLCK, 0, 1)

    return count


def test_who_gets_a_lock_sees_what_was_written_before(site: Site) -> None:
    """[lock-3]: in a file that stays open, though the kernel has its pages."""
    paths = site.paths("counter", b"%020d" % 0)
    with contextlib.ExitStack() as stack:
        counters = [stack.enter_context(spawn(_count(paths[n % 2]))) for n in range(3)]
        for counter in counters:
            counter.result(4 * _WAIT_S)
    assert int(paths[0].read_bytes()) == 3 * _ROUNDS


def test_who_gets_a_lock_sees_what_times_and_size_do_not_show(site: Site) -> None:
    """[lock-3]: as when the clocks of two clients differ."""
    here, there = site.paths("same-times", b"a" * 10_000)
    times = here.stat()

    def write() -> None:
        with opened(there, os.O_RDWR) as fd:
            record_lock(fd, fcntl.F_WRLCK)
            os.pwrite(fd, b"b" * 10_000, 0)
            os.utime(fd, ns=(times.st_atime_ns, times.st_mtime_ns))

    with opened(here, os.O_RDWR) as fd:
        assert os.pread(fd, 10_000, 0) == b"a" * 10_000
        elsewhere(write)
        record_lock(fd, fcntl.F_RDLCK, command=fcntl.F_SETLKW)
        assert os.pread(fd, 10_000, 0) == b"b" * 10_000


def test_what_waits_holds_nobody_up(site: Site) -> None:
    """[lock-4]."""
    here, there = site.paths("blocked")

    def make(number: int) -> float:
        begun = time.monotonic()
        with opened(here.with_name(f"made-{number}"), os.O_CREAT | os.O_RDWR) as fd:
            os.write(fd, b"x" * 1000)
            os.pread(fd, 1000, 0)
        return time.monotonic() - begun

    before = statistics.median(make(number) for number in range(100))
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(_held(there, fcntl.F_WRLCK))
        waiters = [stack.enter_context(spawn(_wait_for(here))) for _ in range(_WAITERS)]
        _wait_until_waiting(site.here, _WAITERS)
        meanwhile = statistics.median(make(number) for number in range(100, 200))
        os.kill(holder.pid, signal.SIGKILL)
        for waiter in waiters:
            waiter.result()
    print(f"median {before * 1e3:.2f} ms before, {meanwhile * 1e3:.2f} ms meanwhile")
    assert meanwhile < before * 5 + 0.02


def _insert(path: Path, who: int) -> Callable[[], None]:
    def insert() -> None:
        base = sqlite3.connect(path, timeout=4 * _WAIT_S, isolation_level=None)
        for number in range(_ROWS):
            base.execute("BEGIN IMMEDIATE")
            total = base.execute("SELECT count(*) FROM t").fetchone()[0]
            base.execute("INSERT INTO t VALUES (?, ?, ?)", (who, number, total))
            base.execute("COMMIT")
        base.close()

    return insert


def test_a_database_is_written_through_two_gateways(site: Site) -> None:
    """[lock-3]: SQLite with its rollback journal."""
    base = sqlite3.connect(site.here.path / "base")
    base.execute("CREATE TABLE t (who, number, total)")
    base.commit()
    base.close()
    there = site.there.path / "base"
    wait_until(there.exists, within_s=_WAIT_S)
    with spawn(_insert(site.here.path / "base", 1)) as first, spawn(_insert(there, 2)) as second:
        first.result(8 * _WAIT_S)
        second.result(8 * _WAIT_S)
    base = sqlite3.connect(there)
    assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    totals = [row[0] for row in base.execute("SELECT total FROM t ORDER BY rowid")]
    base.close()
    assert totals == list(range(2 * _ROWS))


def test_a_locked_file_is_truncated_in_its_place(site: Site) -> None:
    """[lock-5], [truncate-2]: its content isn't kept, and its lock holds."""
    here, there = site.paths("truncated", b"x" * 10_000)
    with opened(here, os.O_RDWR) as fd:
        record_lock(fd, fcntl.F_WRLCK)
        kept = site.here.metric('trash_moves_total{kind="truncated"}')
        os.ftruncate(fd, 0)
        assert site.here.metric('trash_moves_total{kind="truncated"}') == kept
        os.write(fd, b"new")
        assert _try(there, fcntl.F_WRLCK) == errno.EAGAIN
        record_lock(fd, fcntl.F_UNLCK)
        os.ftruncate(fd, 2)
    assert here.read_bytes() == b"ne"


def test_what_python_has_opened_is_locked_as_well(site: Site) -> None:
    """[lock-1]: a file that was opened with O_TRUNC, or truncated, synced, or deleted."""
    here, there = site.paths("python", b"x" * 10_000)
    with opened(here, os.O_RDWR | os.O_TRUNC) as fd:
        record_lock(fd, fcntl.F_WRLCK)
        wait_until(lambda: there.stat().st_size == 0, within_s=_WAIT_S)
        assert _try(there, fcntl.F_WRLCK) == errno.EAGAIN
        os.fsync(fd)
        other = os.open(there, os.O_RDWR)
        here.unlink()
        with pytest.raises(BlockingIOError):
            record_lock(other, fcntl.F_WRLCK)
    record_lock(other, fcntl.F_WRLCK)
    os.close(other)


def test_what_never_changes_can_be_locked(site: Site) -> None:
    """[lock-1]: what is seen in a virtual trash; for reading."""
    (site.here.path / "deleted").mkdir()
    here, _ = site.paths("deleted/f")
    here.unlink()
    views = list((site.here.path / "deleted/.trashbin").rglob("f"))
    assert views
    with opened(views[0], os.O_RDONLY) as fd:
        assert in_way(fd, fcntl.F_RDLCK)[0] == fcntl.F_UNLCK
        record_lock(fd, fcntl.F_RDLCK, command=fcntl.F_SETLKW)
        record_lock(fd, fcntl.F_UNLCK)


def test_locks_and_who_waits_end_with_the_gateway(
    cluster: CephCluster, base: Path, site: Site
) -> None:
    """[lock-4], [lock-6]: of one that was killed the next mount in its place ends the locks."""
    third = Gateway(
        site.here.source, base / "third", base / "run", conf=cluster.conf, options=("lane=on",)
    )
    here, _ = site.paths("ends")
    with third.mounted():
        path = third.path / here.name
        wait_until(path.exists, within_s=_WAIT_S)
        with (
            _held(here, fcntl.F_WRLCK, 0, 10),
            _held(path, fcntl.F_WRLCK, 10, 10),
            spawn(_wait_for(path)) as waiter,
        ):
            _wait_until_waiting(third, 1)
            third.kill()
            with pytest.raises(OSError, match="connect"):
                waiter.result()
    with third.mounted():
        wait_until(lambda: _try(here, fcntl.F_WRLCK, 10, 10) == 0, within_s=_WAIT_S)


def test_what_is_beside_a_locked_file_is_gone_when_that_is_answered(
    cluster: CephCluster, base: Path
) -> None:
    """[pending-4]: others may rely on it, as SQLite does on its journal."""
    eager = "lane=on,asyncdelete.pending=true,asyncdelete.pending_after=1"
    with ceph_gateway(cluster, base, *eager.split(",")).mounted() as gateway:
        for directory in ("locked", "free"):
            (gateway.path / directory).mkdir()
            for number in range(20):
                (gateway.path / directory / f"f{number}").write_text("content")
        with opened(gateway.path / "locked/f0", os.O_RDWR) as fd:
            record_lock(fd, fcntl.F_WRLCK)
            early = gateway.metric("pending_answered_total")
            for number in range(1, 20):
                (gateway.path / "locked" / f"f{number}").unlink()
            assert gateway.metric("pending_answered_total") == early
            for number in range(20):
                (gateway.path / "free" / f"f{number}").unlink()
            assert gateway.metric("pending_answered_total") > early
