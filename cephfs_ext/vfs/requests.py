"""Which requests are under way: what one of them may still use is not taken away.

A remapped file leaves an inode behind, and perhaps an open handle of it, that requests which had
begun before may be using in a worker thread. Both are given back when those are over.

Concurrency: no method has a checkpoint, so each is atomic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NewType

Stamp = NewType("Stamp", int)


class Requests:
    """The requests that have begun and are not over."""

    def __init__(self) -> None:
        self._next = Stamp(0)
        self._begun: dict[Stamp, None] = {}
        self._waiting: deque[tuple[Stamp, Callable[[], None]]] = deque()

    def begin(self) -> Stamp:
        """Note that a request begins."""
        stamp = self._next
        self._next = Stamp(stamp + 1)
        self._begun[stamp] = None
        return stamp

    def end(self, stamp: Stamp) -> None:
        """Note that a request is over, and do what waited for it."""
        del self._begun[stamp]
        while self._waiting and self.are_over(self._waiting[0][0]):
            self._waiting.popleft()[1]()

    def now(self) -> Stamp:
        """Return a stamp for `are_over`: everything that has begun by now."""
        return self._next

    def are_over(self, stamp: Stamp) -> bool:
        """Tell whether all requests are over that had begun by `stamp`."""
        return next(iter(self._begun), self._next) >= stamp

    def when_over(self, action: Callable[[], None]) -> None:
        """Do something, which must not fail, when all that has begun by now is over."""
        self._waiting.append((self._next, action))
