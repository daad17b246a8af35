"""Pending deletes: order, barriers, limits, and what becomes of failures."""

from __future__ import annotations

import dataclasses
import errno
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from asyncdelete.bulk import Bulk
from asyncdelete.pending import Pending
from cephfs_ext.core.errors import FSError, NotEmptyError
from tests.property.gateways import SilentMeter

_TOP, _DIR, _BELOW = 1, 2, 3
_CHAINS = {_TOP: (_TOP,), _DIR: (_DIR, _TOP), _BELOW: (_BELOW, _DIR, _TOP)}


class Ground:
    """What deletes are carried out on: says in which order, and fails or waits where it is told."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.undone: list[bytes] = []
        self.released: list[bytes] = []
        self.pinned: list[int] = []
        self.fails: dict[bytes, FSError | Exception] = {}
        self.holds: dict[bytes, trio.Event] = {}
        self.most = self.now = 0
        self.together = False
        self.batches: list[list[bytes]] = []

    def pin(self, directory: int) -> tuple[int, ...]:
        self.pinned += _CHAINS[directory]
        return _CHAINS[directory]

    def unpin(self, chain: tuple[int, ...]) -> None:
        for directory in chain:
            self.pinned.remove(directory)


@dataclasses.dataclass
class Step:
    """A delete."""

    ground: Ground
    directory: int
    name: bytes
    victim: int | None = None

    @property
    def batch(self) -> int | None:
        return self.directory if self.ground.together and self.victim is None else None

    async def carry_out_many(self, deletes: Sequence[Step]) -> Sequence[bool]:
        ground, names = self.ground, [delete.name for delete in deletes]
        ground.batches.append(names)
        await trio.sleep(0.1)
        if self.name in ground.fails:
            raise ground.fails[self.name]
        done = [name not in ground.fails for name in names]
        ground.done += itertools.compress(names, done)
        return done

    async def carry_out(self) -> None:
        ground = self.ground
        ground.now += 1
        ground.most = max(ground.most, ground.now)
        try:
            await trio.sleep(0.1)
            if self.name in ground.holds:
                await ground.holds[self.name].wait()
            if self.name in ground.fails:
                raise ground.fails[self.name]
        finally:
            ground.now -= 1
        ground.done.append(self.name)

    def undo(self) -> None:
        self.ground.undone.append(self.name)

    def release(self) -> None:
        self.ground.released.append(self.name)


Script = Callable[[Pending, Ground], Awaitable[None]]


def play(script: Script, *, limit: int = 1000, in_flight: int = 4) -> tuple[Ground, SilentMeter]:
    """Carry a script out beside the loop; at the end nothing may be left."""
    ground, meter = Ground(), SilentMeter()

    async def main() -> None:
        pending = Pending(ground, meter, limit=limit, in_flight=in_flight)

        async def loop() -> None:
            while True:
                await pending.once()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop)
            try:
                await script(pending, ground)
            finally:
                for event in ground.holds.values():
                    event.set()
                nursery.cancel_scope.cancel()
        await pending.drain()
        assert not len(pending)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not ground.pinned
    return ground, meter


def test_names_are_hidden_until_they_are_gone() -> None:
    """[pending-1]."""

    async def script(pending: Pending, ground: Ground) -> None:
        pending.add(Step(ground, _DIR, b"a"))
        assert pending.has(_DIR, b"a")
        assert not pending.has(_TOP, b"a")
        assert pending.names(_DIR) == {b"a"}
        assert pending.answered_ns(_DIR) is not None
        assert not ground.done
        await pending.settle()
        assert ground.done == ground.released == [b"a"]
        assert not pending.has(_DIR, b"a")
        assert pending.answered_ns(_DIR) is None

    play(script)


def test_a_directory_waits_for_what_was_in_it() -> None:
    """[pending-2]: however much is in flight."""

    async def script(pending: Pending, ground: Ground) -> None:
        ground.holds[b"slow"] = trio.Event()
        for name in (b"slow", b"b", b"c"):
            pending.add(Step(ground, _BELOW, name))
        pending.add(Step(ground, _DIR, b"below", _BELOW))
        pending.add(Step(ground, _TOP, b"dir", _DIR))
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(60)
        assert sorted(ground.done) == [b"b", b"c"]
        ground.holds[b"slow"].set()
        await pending.settle()
        assert ground.done[-3:] == [b"slow", b"below", b"dir"]

    play(script)


def test_who_depends_on_a_name_waits_for_it_alone() -> None:
    """[pending-3]: it goes before all others."""

    async def script(pending: Pending, ground: Ground) -> None:
        for number in range(100):
            pending.add(Step(ground, _DIR, b"%d" % number))
        await pending.settle_name(_DIR, b"77")
        assert ground.done == [b"77"]
        await pending.settle_name(_DIR, b"another")
        assert ground.done == [b"77"]

    play(script, in_flight=1)


def test_who_depends_on_a_directory_waits_for_all_below_it() -> None:
    """[pending-3]: not for what is elsewhere."""

    async def script(pending: Pending, ground: Ground) -> None:
        pending.add(Step(ground, _TOP, b"elsewhere"))
        pending.add(Step(ground, _BELOW, b"f"))
        pending.add(Step(ground, _DIR, b"below", _BELOW))
        await pending.settle_below(_DIR)
        assert ground.done == [b"f", b"below"]

    play(script, in_flight=1)


def test_a_name_of_a_directory_waits_for_what_was_in_it() -> None:
    """[pending-3]: who makes it anew does."""

    async def script(pending: Pending, ground: Ground) -> None:
        pending.add(Step(ground, _TOP, b"elsewhere"))
        pending.add(Step(ground, _BELOW, b"f"))
        pending.add(Step(ground, _DIR, b"below", _BELOW))
        await pending.settle_name(_DIR, b"below")
        assert ground.done == [b"f", b"below"]

    play(script, in_flight=1)


@pytest.mark.parametrize("error", [FSError(errno.EIO), RuntimeError("a bug")])
def test_a_failure_brings_the_name_back(error: Exception) -> None:
    """[pending-4]: that of the directory, too; others go on."""

    async def script(pending: Pending, ground: Ground) -> None:
        ground.fails = {b"bad": error, b"dir": NotEmptyError()}
        for name in (b"bad", b"good"):
            pending.add(Step(ground, _DIR, name))
        pending.add(Step(ground, _TOP, b"dir", _DIR))
        told = await pending.settle()
        assert told is not None
        assert not pending.has(_DIR, b"bad")
        assert ground.undone == [b"bad", b"dir"]
        assert ground.done == [b"good"]
        assert sorted(ground.released) == [b"bad", b"dir", b"good"]

    _, meter = play(script)
    assert meter.counts["pending_failures_total", (("errno", "EIO"),)] == 1
    assert meter.counts["pending_failures_total", (("errno", "ENOTEMPTY"),)] == 1


def test_many_are_in_flight_but_not_more_than_may_be() -> None:
    async def script(pending: Pending, ground: Ground) -> None:
        for number in range(100):
            pending.add(Step(ground, _DIR, b"%d" % number))
        await pending.settle()

    ground, _ = play(script, in_flight=7)
    assert ground.most == 7
    assert len(ground.done) == 100


def test_those_that_are_alike_go_together() -> None:
    """Also if two processes delete in turns; but not more than so many, and no directories."""

    async def script(pending: Pending, ground: Ground) -> None:
        ground.together = True
        for number in range(40):
            pending.add(Step(ground, _DIR, b"%d" % number))
            pending.add(Step(ground, _BELOW, b"%d" % number))
        pending.add(Step(ground, _DIR, b"below", _BELOW))
        await trio.sleep(60)
        names = [b"%d" % number for number in range(40)]
        assert sorted(ground.done) == sorted([*names, *names, b"below"])
        assert sorted(ground.released) == sorted(ground.done)
        assert max(map(len, ground.batches)) == 32
        assert sum(map(len, ground.batches)) == 80

    play(script)


@pytest.mark.parametrize("which", [b"0", b"7"])
@pytest.mark.parametrize("error", [FSError(errno.EIO), RuntimeError("a bug")])
def test_what_fails_together_is_tried_one_by_one(which: bytes, error: Exception) -> None:
    """[pending-4]: the others of the batch are gone, and no name is carried out twice."""

    async def script(pending: Pending, ground: Ground) -> None:
        ground.together, ground.fails = True, {which: error}
        names = [b"%d" % number for number in range(10)]
        for name in names:
            pending.add(Step(ground, _DIR, name))
        told = await pending.settle()
        assert told is not None
        assert ground.batches == [names]
        assert ground.undone == [which]
        assert sorted([*ground.done, which]) == names
        assert sorted(ground.released) == names

    play(script)


def test_who_deletes_more_than_may_be_pending_waits() -> None:
    async def script(pending: Pending, ground: Ground) -> None:
        ground.holds = {b"%d" % number: trio.Event() for number in range(10)}
        for number in range(10):
            await pending.room()
            pending.add(Step(ground, _DIR, b"%d" % number))
        with trio.move_on_after(60) as scope:
            await pending.room()
        assert scope.cancelled_caught
        ground.holds[b"3"].set()
        await pending.room()

    _, meter = play(script, limit=10, in_flight=10)
    assert meter.counts["pending_limit_reached_total", ()] == 2


def test_nothing_is_carried_out_while_the_process_goes_on_but_not_for_ever() -> None:
    async def script(pending: Pending, ground: Ground) -> None:
        for number in range(1000):
            pending.add(Step(ground, _DIR, b"%d" % number))
            await trio.sleep(0.01)
            assert not ground.done or number >= 300
            assert ground.done or number < 350

    play(script, limit=10_000)


def test_the_end_carries_all_out_and_never_leaves_one_half_done() -> None:
    """[pending-5]."""

    async def script(pending: Pending, ground: Ground) -> None:
        ground.holds[b"half"] = trio.Event()
        for name in (b"half", b"b", b"c"):
            pending.add(Step(ground, _DIR, name))
        await trio.sleep(60)
        assert b"half" not in ground.done

    ground, _ = play(script, in_flight=1)
    assert sorted(ground.done) == [b"b", b"c", b"half"]


def test_bulk_is_told_by_number_and_pause() -> None:
    """[pending-1]."""
    now: list[float] = [0.0]
    bulk = Bulk(after=3, now_s=lambda: now[0])

    def count(pid: int = 7, started: int = 1) -> bool:
        return bulk.count(pid, started)

    assert [count() for _ in range(4)] == [False, False, True, True]
    assert not count(started=2)
    assert not count(pid=8)
    now[0] += 0.9
    assert count()
    now[0] += 1.1
    assert not count()
    assert not any(count(pid=0) for _ in range(9))


def test_processes_are_forgotten_beyond_a_limit(monkeypatch: Any) -> None:
    monkeypatch.setattr("asyncdelete.bulk.BULK_PROCESSES", 2)
    bulk = Bulk(after=2)
    assert [bulk.count(pid, 0) for pid in (1, 2, 1)] == [False, False, True]
    assert [bulk.count(pid, 0) for pid in (3, 1)] == [False, False]
