"""How fast trees are removed: as fast as the metadata servers bear, and owners get equal shares.

Each rank has a budget of batches that may be under way. It grows by one a step while the time that
an entry takes stays near the least that was seen of late, and shrinks by a third a step when that
time, or what the rank has still to do for names that are gone, is too much. Below one batch there
are pauses between batches. It never falls below a tenth, so nothing but a closed window stops
removal for good; what an operator pauses are jobs.

Concurrency: used in the event loop only. Who has been let in waits for window and rate with
its place in hand, so that the turns of owners stay true. All times are trio's clock.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

import trio

from cephfs_ext.core.config import parse_window
from cephfs_ext.core.limits import PURGE_QUEUE, STRAYS, THROTTLE_TRACE
from cephfs_ext.core.ports import Load, Meter
from cephfs_ext.core.types import Rank

_LEAST = 0.1
_SHRINK = 0.7
_STEP_S = 0.25
"""How long figures are gathered for one decision."""
_STEP_BATCHES = 4
"""How many batches they come from at least."""
_FEW = 8
"""Batches of fewer entries, and directories, are measured by their own: each costs more."""
_BASE_S = 60.0
_BASES = 10
"""The baseline is the least of so many spans of `_BASE_S`."""
_PULSE_S = 5.0
_ANSWER_S = 1.0
_LONGEST_REST_S = 5.0
_LOOK_S = 30.0
"""How often a closed window is looked at: clocks are set, and daylight saving begins."""


class Pulse(Protocol):
    """Says what a metadata server has still to do; a storage is one."""

    async def load(self, rank: Rank) -> Load | None:
        """Return it; None where nothing says it."""
        ...


class Step(NamedTuple):
    """One decision."""

    at_s: float
    """By trio's clock."""
    rank: Rank
    limit: float
    """Batches that may be under way from then on."""
    latency_s: float
    """What an entry took, median."""
    baseline_s: float
    reason: str
    """`calm`, `latency`, `strays`, `purge_queue`, or `idle`: less was wanted than was allowed."""


class Slot:
    """Leave for one batch."""

    def __init__(self) -> None:
        self.entries = 0
        self.begun_s = 0.0

    def removed(self, entries: int) -> None:
        """Say how many entries the batch had; a batch of none teaches nothing."""
        self.entries = entries


def _seconds_of_day() -> float:
    now = time.localtime()
    return now.tm_hour * 3600.0 + now.tm_min * 60 + now.tm_sec


class Throttle:
    """Lets batches in; one for all walks of a process."""

    def __init__(
        self,
        meter: Meter,
        *,
        in_flight: int = 16,
        latency_factor: float = 2.0,
        max_rate: int = 0,
        window: str = "",
        pulse: Pulse | None = None,
        seconds_of_day: Callable[[], float] = _seconds_of_day,
    ) -> None:
        """Keep what is needed.

        Args:
            in_flight: most batches per rank.
            latency_factor: how many times the baseline an entry may take; 0: any time.
            max_rate: entries per second, of all ranks; 0: any number.
            window: when to remove, as `parse_window` has it.
            seconds_of_day: local time.
        """
        self._meter = meter
        self._in_flight = in_flight
        self._factor = latency_factor
        self._max_rate = max_rate
        self._window = parse_window(window)
        self._pulse = pulse
        self._seconds_of_day = seconds_of_day
        self._ranks: dict[Rank, _Budget] = {}
        self._paid_until_s = float("-inf")
        self._trace: deque[Step] = deque(maxlen=THROTTLE_TRACE)

    @property
    def trace(self) -> Sequence[Step]:
        """The last decisions, the oldest first."""
        return tuple(self._trace)

    @property
    def is_closed(self) -> bool:
        """True outside of the window."""
        return self._closed_s() > 0

    def limit(self, rank: Rank) -> float:
        """Return how many batches may be under way on a rank; below 1 there are pauses."""
        return self._budget(rank).limit

    @contextlib.asynccontextmanager
    async def slot(self, owner: int, rank: Rank) -> AsyncIterator[Slot]:
        """Wait until a batch may begin, and lend leave for it.

        Args:
            owner: whose tree it is; owners take turns.

        Checkpoints: always. May be cancelled while it waits.
        """
        budget = self._budget(rank)
        await budget.enter(owner)
        try:
            await self._wait_until_open(budget)
            slot = Slot()
            slot.begun_s = trio.current_time()
            yield slot
            if slot.entries:
                self._learn(budget, slot)
        finally:
            budget.leave()

    def _budget(self, rank: Rank) -> _Budget:
        if rank not in self._ranks:
            self._ranks[rank] = _Budget(rank, 1.0 if self._factor else float(self._in_flight))
        return self._ranks[rank]

    async def _wait_until_open(self, budget: _Budget) -> None:
        await self._look_at_load(budget)
        while True:
            if (wait_s := self._closed_s()) > 0:
                self._meter.count("purge_held_back_total", reason="window")
                await trio.sleep(min(wait_s, _LOOK_S))
            elif (wait_s := self._paid_until_s - trio.current_time()) > 0:
                self._meter.count("purge_held_back_total", reason="rate")
                await trio.sleep(wait_s)
            elif (wait_s := budget.rest_until_s - trio.current_time()) > 0:
                await trio.sleep(wait_s)
            else:
                return

    def _closed_s(self) -> float:
        """Return in how many seconds the window opens; 0 if it is open."""
        if self._window is None:
            return 0.0
        begin_s, end_s = self._window
        now_s = self._seconds_of_day()
        is_open = begin_s <= now_s < end_s
        if begin_s > end_s:
            is_open = now_s >= begin_s or now_s < end_s
        return 0.0 if is_open else (begin_s - now_s) % 86400.0

    async def _look_at_load(self, budget: _Budget) -> None:
        now_s = trio.current_time()
        if self._pulse is None or now_s - budget.asked_s < _PULSE_S:
            return
        budget.asked_s = now_s
        with trio.move_on_after(_ANSWER_S):
            budget.load = await self._pulse.load(budget.rank)

    def _learn(self, budget: _Budget, slot: Slot) -> None:
        now_s = trio.current_time()
        took_s = now_s - slot.begun_s
        if self._max_rate:
            paid_s = max(self._paid_until_s, now_s - took_s)
            self._paid_until_s = paid_s + slot.entries / self._max_rate
        if budget.limit < 1:
            rest_s = took_s * (1 / budget.limit - 1)
            budget.rest_until_s = now_s + min(rest_s, _LONGEST_REST_S)
        gauge = budget.gauges[slot.entries >= _FEW]
        gauge.latencies.append(took_s / slot.entries)
        if self._factor and gauge.has_seen_enough(now_s):
            self._decide(budget, gauge, now_s)

    def _decide(self, budget: _Budget, gauge: _Gauge, now_s: float) -> None:
        latency_s = statistics.median(gauge.latencies)
        baseline_s = gauge.baseline(now_s, latency_s)
        reason = self._reason(budget, latency_s, baseline_s)
        if reason == "calm":
            more = budget.limit + 1 if budget.limit >= 1 else budget.limit / _SHRINK
            budget.limit = min(float(self._in_flight), more)
        elif reason != "idle":
            budget.limit = max(_LEAST, budget.limit * _SHRINK)
            self._meter.count("purge_held_back_total", reason=reason)
        self._trace.append(Step(now_s, budget.rank, budget.limit, latency_s, baseline_s, reason))
        gauge.begin_step(now_s)
        budget.was_full = False
        self._meter.set("purge_batches_allowed", sum(one.limit for one in self._ranks.values()))

    def _reason(self, budget: _Budget, latency_s: float, baseline_s: float) -> str:
        load = budget.load
        if latency_s > self._factor * baseline_s:
            return "latency"
        if load is not None and load.strays > STRAYS:
            return "strays"
        if load is not None and load.purging > PURGE_QUEUE:
            return "purge_queue"
        return "calm" if budget.was_full else "idle"


class _Budget:
    """What one rank is given, and who waits for it."""

    def __init__(self, rank: Rank, limit: float) -> None:
        self.rank = rank
        self.limit = limit
        self.rest_until_s = float("-inf")
        self.asked_s = float("-inf")
        self.load: Load | None = None
        self.gauges = (_Gauge(), _Gauge())
        """Of small batches, and of large ones."""
        self.was_full = False
        """Whether all of the budget was in use during this step."""
        self._busy = 0
        self._waiting: OrderedDict[int, deque[_Waiter]] = OrderedDict()
        """By owner; the first owner is the next. As many as there are batches of all walks."""

    async def enter(self, owner: int) -> None:
        """Wait for a place."""
        waiter = _Waiter()
        self._waiting.setdefault(owner, deque()).append(waiter)
        self._let_in()
        try:
            await waiter.event.wait()
        except BaseException:
            if waiter.is_in:
                self.leave()
            else:
                self._waiting[owner].remove(waiter)
                if not self._waiting[owner]:
                    del self._waiting[owner]
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._busy -= 1
        self._let_in()

    def _let_in(self) -> None:
        room = max(1, int(self.limit))
        while self._waiting and self._busy < room:
            owner, waiters = next(iter(self._waiting.items()))
            waiter = waiters.popleft()
            if waiters:
                self._waiting.move_to_end(owner)
            else:
                del self._waiting[owner]
            waiter.is_in = True
            waiter.event.set()
            self._busy += 1
        self.was_full = self.was_full or self._busy >= room


class _Gauge:
    """What an entry takes, now and at best."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        """Of each batch of this step."""
        self._step_began_s = float("-inf")
        self._bases: deque[tuple[float, float]] = deque(maxlen=_BASES)
        """Beginning of a span, and the least that was seen in it."""

    def has_seen_enough(self, now_s: float) -> bool:
        """Tell whether there is enough to decide something."""
        return len(self.latencies) >= _STEP_BATCHES and now_s - self._step_began_s >= _STEP_S

    def begin_step(self, now_s: float) -> None:
        """Forget what has been decided upon."""
        self.latencies.clear()
        self._step_began_s = now_s

    def baseline(self, now_s: float, latency_s: float) -> float:
        """Take a latency into account, and return the least of late."""
        if not self._bases or now_s - self._bases[-1][0] >= _BASE_S:
            self._bases.append((now_s, latency_s))
        else:
            began_s, least_s = self._bases[-1]
            self._bases[-1] = (began_s, min(least_s, latency_s))
        return min(least_s for _, least_s in self._bases)


class _Waiter:
    __slots__ = ("event", "is_in")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.is_in = False
