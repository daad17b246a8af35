"""Which processes delete in bulk: one delete after another, without a pause.

Concurrency: no method has a checkpoint, so each is atomic.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cephfs_ext.core.limits import BULK_PROCESSES

_GAP_S = 1.0
"""The longest pause between two deletes of one bulk."""


class Bulk:
    """Counts deletes by process."""

    def __init__(self, *, after: int, now_s: Callable[[], float] = time.monotonic) -> None:
        """Set from which delete on a process deletes in bulk."""
        self._after = after
        self._now_s = now_s
        self._counted: dict[tuple[int, int], tuple[int, float]] = {}

    def count(self, pid: int, started: int) -> bool:
        """Count a delete, and tell whether it is one of many.

        Args:
            pid: process, 0 if it isn't known: what such a one does is never bulk.
            started: when the process was started.
        """
        if not pid:
            return False
        now_s, source = self._now_s(), (pid, started)
        number, last_s = self._counted.get(source, (0, now_s))
        number = 1 if now_s - last_s > _GAP_S else number + 1
        if source not in self._counted and len(self._counted) >= BULK_PROCESSES:
            self._counted.clear()
        self._counted[source] = (number, now_s)
        return number >= self._after
