"""What keeps the end of a session from overtaking the calls that are under way in it.

A call that goes on after the end would use a descriptor number that means something else by then,
or memory that has been freed.

Concurrency: used in the event loop only.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import trio

from cephfs_ext.core.errors import FSError


class Gate:
    """Every call passes it; once it is shut nothing more gets in."""

    def __init__(self) -> None:
        self._inside = 0
        self._empty = trio.Event()
        self.is_shut = False

    @contextlib.contextmanager
    def passed(self) -> Iterator[None]:
        """Count a call while the body runs.

        Raises:
            FSError: ESHUTDOWN; the session has ended.
        """
        if self.is_shut:
            raise FSError(errno.ESHUTDOWN, "the storage is closed")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._look()

    def shut(self) -> None:
        """Let nothing more in."""
        self.is_shut = True
        self._look()

    async def wait_empty(self) -> None:
        """Wait until the calls that were inside when it was shut have ended."""
        await self._empty.wait()

    def _look(self) -> None:
        if self.is_shut and not self._inside:
            self._empty.set()
