"""The throttle, by a clock of its own: who gets how much, and what makes it more or less."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from asyncdelete.throttle import Throttle
from cephfs_ext.core.config import parse_window
from cephfs_ext.core.limits import PURGE_QUEUE, STRAYS, THROTTLE_TRACE
from cephfs_ext.core.ports import Load
from cephfs_ext.core.types import Rank
from tests.property.gateways import SilentMeter

RANK = Rank(0)
HOUR_S = 3600.0


def run(script: Callable[[], Awaitable[None]]) -> None:
    trio.run(script, clock=MockClock(autojump_threshold=0))


def throttle(**options: Any) -> Throttle:
    return Throttle(SilentMeter(), **options)


async def batches(
    one: Throttle, count: int, latency_s: float, *, at_once: int = 8, rank: Rank = RANK
) -> None:
    """Carry out batches of 32 entries, each of which takes so long."""
    left = [count]

    async def work() -> None:
        while left[0] > 0:
            left[0] -= 1
            async with one.slot(0, rank) as slot:
                await trio.sleep(32 * latency_s)
                slot.removed(32)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)


def test_grows_while_the_cluster_is_calm_up_to_its_limit() -> None:
    async def script() -> None:
        one = throttle(in_flight=6)
        assert one.limit(RANK) == 1
        await batches(one, 500, 0.001)
        assert one.limit(RANK) == 6
        assert {step.reason for step in one.trace} <= {"calm", "idle"}

    run(script)


def test_shrinks_while_entries_take_long_and_never_stops_for_good() -> None:
    async def script() -> None:
        one = throttle(in_flight=8)
        await batches(one, 500, 0.001)
        await batches(one, 300, 0.005)
        assert one.limit(RANK) == pytest.approx(0.1)
        assert one.trace[-1].reason == "latency"
        await batches(one, 300, 0.001)
        assert one.limit(RANK) > 1

    run(script)


def test_below_one_batch_there_are_pauses() -> None:
    async def script() -> None:
        one = throttle()
        await batches(one, 100, 0.001)
        await batches(one, 200, 0.005)
        assert one.limit(RANK) == pytest.approx(0.1)
        begun_s = trio.current_time()
        await batches(one, 10, 0.005)
        assert trio.current_time() - begun_s > 9 * 10 * 32 * 0.005 * 0.9

    run(script)


def test_what_takes_long_for_long_becomes_the_baseline() -> None:
    async def script() -> None:
        one = throttle()
        await batches(one, 100, 0.001)
        for _ in range(30):
            await batches(one, 60, 0.005)
        assert one.limit(RANK) > 1

    run(script)


def test_ranks_have_budgets_of_their_own() -> None:
    async def script() -> None:
        one = throttle()
        async with trio.open_nursery() as nursery:
            for rank in (Rank(0), Rank(1)):
                nursery.start_soon(lambda rank=rank: batches(one, 200, 0.001, rank=rank))
        await batches(one, 200, 0.005, rank=Rank(1))
        assert one.limit(Rank(0)) > 1
        assert one.limit(Rank(1)) < 1

    run(script)


def test_directories_are_not_measured_by_files() -> None:
    async def script() -> None:
        one = throttle()
        await batches(one, 200, 0.001)
        before = one.limit(RANK)
        for _ in range(400):
            async with one.slot(0, RANK) as slot:
                await trio.sleep(0.01)
                slot.removed(1)
        assert one.limit(RANK) >= before

    run(script)


@pytest.mark.parametrize(
    ("load", "reason"),
    [(Load(STRAYS + 1, 0), "strays"), (Load(0, PURGE_QUEUE + 1), "purge_queue")],
)
def test_shrinks_while_a_rank_has_much_to_do_for_what_is_gone(load: Load, reason: str) -> None:
    class Pulse:
        async def load(self, rank: Rank) -> Load | None:
            return load

    async def script() -> None:
        one = throttle(pulse=Pulse())
        await batches(one, 200, 0.001)
        assert one.limit(RANK) == pytest.approx(0.1)
        assert one.trace[-1].reason == reason

    run(script)


def test_pulse_that_does_not_answer_holds_nobody_up() -> None:
    class Pulse:
        async def load(self, rank: Rank) -> Load | None:
            await trio.sleep_forever()

    async def script() -> None:
        begun_s = trio.current_time()
        await batches(throttle(pulse=Pulse()), 200, 0.001)
        assert trio.current_time() - begun_s < 20

    run(script)


def test_owners_take_turns() -> None:
    async def script() -> None:
        one = throttle(in_flight=1)
        order: list[int] = []

        async def batch(owner: int) -> None:
            async with one.slot(owner, RANK):
                order.append(owner)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for owner in (1, 1, 1, 1, 2, 3):
                nursery.start_soon(batch, owner)
                await wait_all_tasks_blocked()
        assert order == [1, 1, 2, 3, 1, 1]  # the second was first in the queue

    run(script)


def test_rate_is_kept() -> None:
    async def script() -> None:
        one = throttle(max_rate=100)
        begun_s = trio.current_time()
        await batches(one, 100, 0.0001)
        took_s = trio.current_time() - begun_s
        assert 3200 / 110 < took_s < 3200 / 90

    run(script)


@pytest.mark.parametrize(
    ("window", "now_h", "waits_h"),
    [
        ("22:00-06:00", 23, 0),
        ("22:00-06:00", 5, 0),
        ("22:00-06:00", 6, 16),
        ("22:00-06:00", 21.5, 0.5),
        ("09:00-17:00", 8, 1),
        ("09:00-17:00", 18, 15),
        ("", 12, 0),
    ],
)
def test_window(window: str, now_h: float, waits_h: float) -> None:
    async def script() -> None:
        begun_s = trio.current_time()

        def seconds_of_day() -> float:
            return (now_h * HOUR_S + trio.current_time() - begun_s) % (24 * HOUR_S)

        one = throttle(window=window, seconds_of_day=seconds_of_day)
        assert one.is_closed == (waits_h > 0)
        async with one.slot(0, RANK):
            assert trio.current_time() - begun_s == pytest.approx(waits_h * HOUR_S)

    run(script)


@pytest.mark.parametrize("text", ["22-06", "25:00-06:00", "22:00-22:00", "22:00", "22:00-06:00 "])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match="22:00-06:00"):
        parse_window(text)


def test_who_is_cancelled_while_waiting_leaves_no_place_taken() -> None:
    async def script() -> None:
        one = throttle(in_flight=1)
        async with one.slot(1, RANK):
            for _ in range(3):
                with trio.move_on_after(1) as scope:
                    async with one.slot(2, RANK):
                        pass
                assert scope.cancelled_caught
        with trio.fail_after(1):
            async with one.slot(3, RANK):
                pass

    run(script)


def test_without_a_factor_nothing_is_held_back() -> None:
    async def script() -> None:
        one = throttle(in_flight=5, latency_factor=0)
        assert one.limit(RANK) == 5
        await batches(one, 100, 0.001)
        await batches(one, 100, 1.0)
        assert one.limit(RANK) == 5

    run(script)


def test_trace_is_bounded() -> None:
    async def script() -> None:
        one = throttle()
        await batches(one, 24 * THROTTLE_TRACE, 0.01, at_once=16)
        assert len(one.trace) == THROTTLE_TRACE

    run(script)
