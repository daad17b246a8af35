"""Time of day that never repeats: what makes trash entries unique."""

from __future__ import annotations

import threading
import time


class MonotonicNs:
    """Nanoseconds since the epoch, UTC, strictly growing within one process.

    Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self) -> int:
        """Return the time of day, at least 1 ns after the last answer."""
        with self._lock:
            self._last = max(self._last + 1, time.time_ns())
            return self._last
