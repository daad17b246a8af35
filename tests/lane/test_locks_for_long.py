"""Many processes on two gateways that lock ranges of few files, wait, are interrupted, and close.

libcephfs is known to abort, and to hang, where locks of one inode are asked for at the same time.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, ceph_gateway
from tests.posix.actors import spawn
from tests.posix.record_locks import record_lock

SOAK_S = float(os.environ.get("SOAK_S") or 300.0)
_FILES = 3
_SLOTS = 40
_LONGEST = 5
_WORKERS = 12
_PATIENCE_S = (0.001, 0.02, 0.5)


class _OverError(Exception):
    pass


def _over(number: int, frame: object) -> NoReturn:
    raise _OverError


class _Worker:
    """Locks ranges, and notes in a table that all share what it has."""

    def __init__(self, paths: Sequence[Path], table: Any, seed: int) -> None:
        self._paths = paths
        self._table = table
        self._random = random.Random(seed)
        self._fds: list[int] = []

    def work(self, until: float) -> int:
        """Return how many locks it got."""
        signal.signal(signal.SIGALRM, _over)
        self._fds = [os.open(path, os.O_RDWR) for path in self._paths]
        return sum(self._step() for _ in iter(lambda: time.monotonic() < until, False))

    def _step(self) -> bool:
        file, start = self._random.randrange(_FILES), self._random.randrange(_SLOTS - _LONGEST)
        slots = range(start, start + 1 + self._random.randrange(_LONGEST))
        kind = self._random.choice((fcntl.F_RDLCK, fcntl.F_WRLCK))
        if not self._lock(file, kind, slots):
            return False
        self._note(file, slots, -1000 if kind == fcntl.F_WRLCK else 1)
        time.sleep(self._random.choice((0.0, 0.0, 0.003)))
        self._note(file, slots, 1000 if kind == fcntl.F_WRLCK else -1)
        if self._random.random() < 0.8:
            self._ask(file, fcntl.F_SETLK, fcntl.F_UNLCK, slots)
        else:
            os.close(self._fds[file])
            self._fds[file] = os.open(self._paths[file], os.O_RDWR)
        return True

    def _lock(self, file: int, kind: int, slots: range) -> bool:
        """Try to get a lock, or wait some time; without it nothing of the file is locked."""
        waits = self._random.random() < 0.7
        try:
            if waits:
                signal.setitimer(signal.ITIMER_REAL, self._random.choice(_PATIENCE_S))
            with contextlib.suppress(BlockingIOError):
                self._ask(file, fcntl.F_SETLKW if waits else fcntl.F_SETLK, kind, slots)
                return True
        except _OverError:
            self._ask(file, fcntl.F_SETLK, fcntl.F_UNLCK, range(_SLOTS))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False

    def _ask(self, file: int, command: int, kind: int, slots: range) -> None:
        record_lock(self._fds[file], kind, slots.start, len(slots), command=command)

    def _note(self, file: int, slots: range, change: int) -> None:
        """Add to the slots: readers count as 1, a writer as -1000."""
        with self._table.get_lock():
            for slot in slots:
                place = file * _SLOTS + slot
                self._table[place] += change
                assert self._table[place] == -1000 or self._table[place] >= 0


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 300)
def test_gateways_exclude_each_other_for_long(cluster: CephCluster, base: Path) -> None:
    """[lock-1], [lock-4]."""
    here = ceph_gateway(cluster, base, "lane=on")
    there = Gateway(
        here.source, base / "other", base / "run2", conf=cluster.conf, options=("lane=on",)
    )
    table = multiprocessing.Array("i", _FILES * _SLOTS)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with here.mounted(), there.mounted(), contextlib.ExitStack() as stack:
        for number in range(_FILES):
            (here.path / f"f{number}").write_bytes(b"x" * _SLOTS)
        time.sleep(1.5)
        until = time.monotonic() + SOAK_S
        workers = []
        for number in range(_WORKERS):
            top = (here if number % 2 else there).path
            paths = [top / f"f{file}" for file in range(_FILES)]
            worker = _Worker(paths, table, seed + number)
            workers.append(stack.enter_context(spawn(lambda: worker.work(until))))  # noqa: B023
        locks = [worker.result(SOAK_S + 60) for worker in workers]
        assert min(locks) > 0
        print(f"{sum(locks)} locks")
