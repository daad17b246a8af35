"""How far a long request is, and whether it is to stop.

What works counts what it has done, and puts what may be given up into a `step`: when the request
is to stop, the step that is under way is cancelled, which undoes it, and no later one begins.

Concurrency: within one `trio.run`; nothing blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import trio


class Progress:
    """Of one request."""

    def __init__(self) -> None:
        self.done = 0
        self.total: int | None = None
        """How much there is to do; None while that isn't known."""
        self.stops = False
        """True if the request has been told to stop."""
        self.can_stop = False
        """True if that makes a difference."""
        self._steps: set[trio.CancelScope] = set()

    def expect(self, total: int) -> None:
        """Say how much there is to do."""
        self.total = total

    def add(self, done: int = 1) -> None:
        """Count something that is done."""
        self.done += done

    def stop(self) -> None:
        """Give up the step that is under way, and all later ones."""
        self.stops = True
        for scope in self._steps:
            scope.cancel()

    @contextlib.contextmanager
    def step(self) -> Iterator[trio.CancelScope]:
        """Carry out something that is given up if the request stops.

        Returns:
            A scope that has `cancelled_caught` afterwards if it was given up.
        """
        self.can_stop = True
        with trio.CancelScope() as scope:
            self._steps.add(scope)
            if self.stops:
                scope.cancel()
            try:
                yield scope
            finally:
                self._steps.discard(scope)
