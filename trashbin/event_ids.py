"""Which deletes are one event: what a process deletes without a pause.

Where the process isn't known, what a user deletes is told by the pauses alone. A number of a
process that is used again is another process, told by when it was started.

Concurrency: no method has a checkpoint, so each is atomic.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from cephfs_ext.core.limits import DELETE_EVENTS
from cephfs_ext.core.ports import Meter
from trashbin.layout import make_id


class _Source(NamedTuple):
    """Where deletes come from."""

    uid: int
    pid: int
    """0 if it isn't known."""
    started: int


class _Event(NamedTuple):
    id: str
    until_s: float
    """When it is over, unless something more is deleted."""


class EventIds:
    """Names the events of one running gateway."""

    def __init__(
        self,
        meter: Meter,
        *,
        instance: str,
        clock: Callable[[], int],
        gap_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep what is needed.

        Args:
            clock: that of the entries, so that no event has the id of one.
            gap_s: the longest pause within an event.
            now_s: a clock for pauses.
        """
        self._meter = meter
        self._instance = instance
        self._clock = clock
        self._gap_s = gap_s
        self._now_s = now_s
        self._going_on: OrderedDict[_Source, _Event] = OrderedDict()
        """That which has rested longest comes first."""

    def of(self, uid: int, pid: int, started: int) -> str:
        """Return the event that a delete of this moment belongs to."""
        now_s, source = self._now_s(), _Source(uid, pid, started)
        known = self._going_on.pop(source, None)
        if known is None or known.until_s < now_s:
            event_id = make_id(self._clock(), self._instance)
            self._make_room(now_s)
        else:
            event_id = known.id
        self._going_on[source] = _Event(event_id, now_s + self._gap_s)
        return event_id

    def _make_room(self, now_s: float) -> None:
        """Forget what is over, and what has rested longest where too much goes on."""
        while self._going_on:
            source, event = next(iter(self._going_on.items()))
            if event.until_s >= now_s:
                if len(self._going_on) < DELETE_EVENTS:
                    return
                self._meter.count("event_limit_reached_total")
            del self._going_on[source]
