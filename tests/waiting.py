"""Waiting for what becomes true, and never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable

_PAUSE_S = 0.05


def wait_until(
    true: Callable[[], bool],
    what: Callable[[], object] = lambda: "it doesn't become true",
    *,
    within_s: float,
) -> None:
    """Wait for something that becomes true; fail with `what` if it doesn't in time."""
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, what()
        time.sleep(_PAUSE_S)
