"""One change of a name at a time, within a session of libcephfs.

libcephfs 16 keeps what it believes of both names of a rename until the answer comes. If another
answer has taken one of them from its directory by then, it follows a null pointer and the process
dies, mount and all. Two tasks that renamed, made and removed the same few names did that within a
second. The kernel keeps changes of one directory apart, but the control socket and the trash don't
come through the kernel. Nor does what a lane changes come here: it and we exclude each other name
by name.

Concurrency: used in the event loop only.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

import trio

from cephfs_ext.core.types import Ino

Name = tuple[Ino, bytes]
"""A directory's inode, and a name in it."""


_LOOK_S = 0.001
"""How often is looked whether somebody else is through with a name: one call to the storage."""


class Others(Protocol):
    """Who changes names of the session in threads of their own."""

    def take_name(self, parent: Ino, name: bytes) -> bool:
        """Keep them from changing a name; False if they are just doing that."""
        ...

    def leave_name(self, parent: Ino, name: bytes) -> None:
        """Let them change it again."""
        ...


class NameLocks:
    """The names that are being changed; no longer than the calls that are under way."""

    def __init__(self) -> None:
        self._taken: dict[Name, trio.lowlevel.ParkingLot] = {}
        self.others: Others | None = None

    def __len__(self) -> int:
        return len(self._taken)

    @contextlib.asynccontextmanager
    async def held(self, *names: Name) -> AsyncIterator[None]:
        """Keep other changes of these names away while the body runs.

        Checkpoints: only if somebody else changes one of them.
        """
        mine: list[Name] = []
        try:
            for name in sorted(set(names)):  # in one order, so that nobody waits in a circle
                await self._take(name)
                mine.append(name)
            yield
        finally:
            for name in mine:
                if self.others is not None:
                    self.others.leave_name(*name)
                self._taken.pop(name).unpark_all()

    async def _take(self, name: Name) -> None:
        while True:
            while (lot := self._taken.get(name)) is not None:
                await lot.park()
            if self.others is None or self.others.take_name(*name):
                break
            await trio.sleep(_LOOK_S)
        self._taken[name] = trio.lowlevel.ParkingLot()
