"""A brake for mass deletes: how much of what isn't theirs users may delete in a minute.

Beyond the limit deletes of foreign things are refused, until the minute has passed or an operator
lifts the brake for a while. What somebody owns never counts. Root has no exception: in a container
it is anybody.

Each gateway counts for itself, in memory. Concurrency: no checkpoints; one task at a time.
"""

from __future__ import annotations

import errno
import logging
import time
from typing import NamedTuple

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Meter

_log = logging.getLogger(__name__)

_WINDOW_S = 60.0

_USERS = 10_000
"""Users that are counted; those of past minutes are forgotten beyond it, then all."""


class _Counted(NamedTuple):
    """Deletes of one user, in a window that began at some time and in the one before it."""

    window: int
    now: int = 0
    before: int = 0
    is_told: bool = False


class Brake:
    """Counts deletes of foreign things by user, and refuses those beyond a limit."""

    def __init__(self, meter: Meter, *, per_minute: int) -> None:
        """Set the limit; 0 for none."""
        self._meter = meter
        self._per_minute = per_minute
        self._counted: dict[int, _Counted] = {}
        self._lifted: dict[int, float] = {}

    @property
    def is_on(self) -> bool:
        """True if there is a limit."""
        return self._per_minute > 0

    def lift(self, uid: int, duration_s: float) -> None:
        """Let a user delete what isn't theirs without a limit, for some time."""
        now_s = time.monotonic()
        self._lifted = {who: end_s for who, end_s in self._lifted.items() if end_s > now_s}
        self._lifted[uid] = now_s + duration_s

    def check(self, uid: int, owner_uid: int, weight: int = 1) -> None:
        """Count a delete, or refuse it.

        Args:
            weight: how many things go with it.

        Raises:
            FSError: EDQUOT; it is beyond the limit, and not counted.
        """
        now_s = time.monotonic()
        if not self.is_on or uid == owner_uid or self._lifted.get(uid, 0.0) > now_s:
            return
        window, passed = int(now_s // _WINDOW_S), now_s % _WINDOW_S / _WINDOW_S
        counted = self._in(window, uid)
        recent = counted.before * (1 - passed) + counted.now
        if recent + weight > self._per_minute:
            self._refuse(uid, counted)
        self._counted[uid] = counted._replace(now=counted.now + weight)

    def _in(self, window: int, uid: int) -> _Counted:
        counted = self._counted.get(uid)
        if counted is None:
            self._make_room(window)
            return _Counted(window)
        if counted.window == window:
            return counted
        return _Counted(window, 0, counted.now if counted.window == window - 1 else 0)

    def _make_room(self, window: int) -> None:
        if len(self._counted) < _USERS:
            return
        recent = {who: one for who, one in self._counted.items() if one.window >= window - 1}
        self._counted = recent if len(recent) < _USERS else {}

    def _refuse(self, uid: int, counted: _Counted) -> None:
        self._meter.count("trash_refusals_total")
        self._counted[uid] = counted._replace(is_told=True)
        if not counted.is_told:
            _log.warning(
                "uid %d deletes more of what isn't theirs than %d a minute; "
                "`cephfs-ext trash allow %d` lets them go on",
                uid,
                self._per_minute,
                uid,
            )
        raise FSError(errno.EDQUOT, "more deletes of others' files than an operator allows")
