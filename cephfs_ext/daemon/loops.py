"""Background loops that never die.

A round that fails, for whatever reason, is counted, logged, and tried again later; a success is
stamped, so that a loop that stalls can be seen.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable

import trio

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Meter

_log = logging.getLogger(__name__)

_BACKOFF_S = (1.0, 60.0)
"""First and longest pause after a failed round."""

_JITTER = 0.1


async def repeat(
    name: str, step: Callable[[], Awaitable[None]], meter: Meter, *, interval_s: float
) -> None:
    """Carry out `step` for ever, `interval_s` apart, with some jitter between gateways."""
    pause_s = _BACKOFF_S[0]
    while True:
        if await _round(name, step, meter):
            pause_s = _BACKOFF_S[0]
            await trio.sleep(interval_s * random.uniform(1 - _JITTER, 1 + _JITTER))
        else:
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _BACKOFF_S[1])


async def until_done(name: str, step: Callable[[], Awaitable[None]], meter: Meter) -> None:
    """Carry out `step` until it has succeeded once."""
    pause_s = _BACKOFF_S[0]
    while not await _round(name, step, meter):
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, _BACKOFF_S[1])


async def _round(name: str, step: Callable[[], Awaitable[None]], meter: Meter) -> bool:
    try:
        await step()
    except FSError as exc:
        _log.warning("%s failed: %s", name, exc)
    except Exception:
        _log.exception("a bug in %s", name)
    else:
        meter.set("background_last_success_timestamp_seconds", time.time(), loop=name)
        return True
    meter.count("background_failures_total", loop=name)
    return False
