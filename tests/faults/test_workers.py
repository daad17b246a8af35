"""Workers that are killed while they share one job: [job-4], [job-5].

`make test` kills a few, `make faults` one every five seconds for five minutes. A single death is
tested in tests/mount/test_jobs.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.storage import Back
from tests.gateway import Gateway
from tests.waiting import wait_until

_WORKERS = 3
_KILL_EVERY_S = 5.0
_FEW_S, _LONG_S = 12.0, 300.0
_NAMES_PER_S = 60
"""Of each worker: a tree then lasts as long as is wanted."""
_PER_DIRECTORY = 50
_STALL_S = 5.0
_GRACE_S = 3.0
"""Reports come once a second, and a loaded machine is late."""
_WAIT_S = 120.0


class _Crowd:
    """Workers, one of which is replaced whenever one is killed."""

    def __init__(self, gateway: Gateway) -> None:
        self._command = gateway.command(
            "worker", gateway.source, "-o", f"asyncdelete.max_rate={_NAMES_PER_S}"
        )
        self._workers = [self._start() for _ in range(_WORKERS)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stderr=subprocess.DEVNULL)

    def kill_one(self) -> None:
        victim = self._workers.pop(random.randrange(_WORKERS))
        victim.kill()
        victim.wait()
        self._workers.append(self._start())

    @property
    def pids(self) -> set[int]:
        """Those that live."""
        return {worker.pid for worker in self._workers}

    def stop(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            assert worker.wait(timeout=_WAIT_S) == 0


@contextlib.contextmanager
def _crowd(gateway: Gateway) -> Iterator[_Crowd]:
    crowd = _Crowd(gateway)
    try:
        yield crowd
    finally:
        crowd.stop()


def _plant(top: Path, names: int) -> None:
    for number in range(names // _PER_DIRECTORY):
        directory = top / f"{number // 10}/{number}"
        directory.mkdir(parents=True)
        for name in range(_PER_DIRECTORY - 1):
            (directory / str(name)).touch()


class _Watch:
    """Sees how the work goes on, from beside the workers."""

    def __init__(self, back: Back, job_id: str) -> None:
        self._back = back
        self._job = f"jobs/{job_id}"
        self._removed: dict[str, int] = {}
        self._since_s = time.monotonic()
        self.longest_s = 0.0

    def look(self) -> bool:
        """Note whether anybody has got on; False if the job is over."""
        names = self._back.names(self._job)
        reports = {name for name in names if name.endswith(".json")} - {"job.json", "result.json"}
        removed = {name: self._count(name) for name in reports}
        now_s = time.monotonic()
        if any(count > self._removed.get(name, 0) for name, count in removed.items()):
            self._since_s = now_s
        self._removed |= removed
        self.longest_s = max(self.longest_s, now_s - self._since_s)
        return "result.json" not in names

    def _count(self, name: str) -> int:
        progress = json.loads(self._back.record(f"{self._job}/{name}"))
        return int(progress["files"]) + int(progress["dirs"])

    @property
    def removed(self) -> int:
        """How many names all workers say that they have removed."""
        return sum(self._removed.values())


def _play(gateway: Gateway, back: Back, lasts_s: float) -> None:
    with gateway.mounted("-o", "asyncdelete.max_rate=1"):
        top = gateway.path / "tree"
        _plant(top, int(lasts_s * _WORKERS * _NAMES_PER_S))
        beside = gateway.path / "beside"
        beside.mkdir()
        (beside / "file").write_text("stays")
        os.rename(top, gateway.path / ".trashbin/now/tree")
        (job,) = gateway.json("jobs", "ls")["items"]
    watch = _Watch(back, job["id"])
    watch.look()
    before, kills = watch.removed, 0
    with _crowd(gateway) as crowd:
        wait_until(lambda: watch.look() and watch.removed > before, within_s=_WAIT_S)
        watch.longest_s = 0.0
        next_s = time.monotonic() + _KILL_EVERY_S
        while watch.look():
            if time.monotonic() > next_s:
                crowd.kill_one()
                kills += 1
                next_s += _KILL_EVERY_S
            time.sleep(0.1)
        wait_until(lambda: back.workers() == crowd.pids, within_s=_WAIT_S)
    print(
        f"{watch.removed} names removed, {kills} workers killed, the longest time without "
        f"progress {watch.longest_s:.1f} s"
    )
    assert kills
    assert watch.longest_s < _STALL_S + _GRACE_S
    assert back.names("purging") == []
    assert json.loads(back.record(f"jobs/{job['id']}/result.json"))["state"] == "done"
    assert back.workers() == set()
    with gateway.mounted():
        assert sorted(os.listdir(gateway.path)) == ["beside"]
        assert (gateway.path / "beside/file").read_text() == "stays"
        assert gateway.json("jobs", "ls")["items"] == []


def test_workers_that_are_killed_are_replaced(unmounted: Gateway, back: Back) -> None:
    _play(unmounted, back, _FEW_S)


@pytest.mark.faults
def test_workers_are_killed_for_minutes(unmounted: Gateway, back: Back) -> None:
    _play(unmounted, back, _LONG_S)
