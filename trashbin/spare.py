"""What tombstones promise: a link that must not be removed although its own time is over.

A tombstone stands for a name whose inode had others. Those may have been in the trash as well, in
a tree that was deleted whole, and leave it earlier. When the last link of a promised inode is
about to be removed, it takes the tombstone's place instead, and keeps its time.

The promises are the names of the tombstones, and are read again while a removal goes on. What was
promised within the last seconds may be missed: a name deleted while the last other link of its
inode is being removed.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from bisect import bisect_left

import trio

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.ports import Node
from cephfs_ext.core.types import GATEWAY, Ino
from trashbin import layout, links
from trashbin.catalog import Item, NameOfHour, hours_of, names_of_hour, scan_some
from trashbin.domain import Domain
from trashbin.tombs import Tomb

_FRESH_S = 2.0
"""How long promises are believed to be all."""


class Spare:
    """The promises of one domain."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._hours: dict[tuple[bytes, bytes], array[int]] = {}
        """Promised inodes, sorted, by hour of the tombstone and the directory that holds it: eight
        bytes for each."""
        self._read_s = float("-inf")
        self._reading = trio.Lock()

    async def look_again(self) -> None:
        """Read the promises, those that may have changed if they have been read before.

        Who comes while somebody reads them waits for that.
        """
        async with self._reading:
            await self._look_again()

    async def _look_again(self) -> None:
        if time.monotonic() - self._read_s < _FRESH_S:
            return
        begun_s = time.monotonic()
        await self._domain.look_again()
        aboves = list(filter(layout.is_tombs, self._domain.directories))
        held = [above for above in aboves if layout.term_of(above).is_held]
        expiring = [above for above in aboves if above not in held]
        # what is released meanwhile is in the first or the second, what is held in the last
        for above in (*held, *expiring, *held):
            await self._read(above)
        self._read_s = begun_s

    async def _read(self, above: bytes) -> None:
        """Read the promises of a directory; one that has moved to another is still known."""
        hours = await hours_of(self._domain, above)
        recent = sorted(hours)[-2:]  # older hours only shrink, but for what is held or released
        for hour in hours:
            known = self._hours.get((hour, above))
            if known is None or hour in recent or layout.term_of(above).is_held:
                inos = {ino for _, ino in await self._tombs_of(hour, above)}
                self._hours[hour, above] = array("Q", sorted(inos.union(known or ())))

    async def _tombs_of(self, hour: bytes, above: bytes) -> list[tuple[NameOfHour, Ino]]:
        listed = await names_of_hour(self._domain, above, hour)
        parsed = [(name, layout.parse_tomb(name.name)) for name in listed]
        return [(name, tomb[1]) for name, tomb in parsed if tomb is not None]

    def promised(self, ino: Ino) -> bool:
        """Tell whether a tombstone may need an inode."""
        for inos in self._hours.values():
            index = bisect_left(inos, ino)
            if index < len(inos) and inos[index] == ino:
                return True
        return False

    async def release(self, tomb: Tomb) -> None:
        """Let an inode forget that a tombstone needed it, if none does any more.

        What another gateway promises at this moment may be forgotten with it.
        """
        storage = self._domain.storage
        await self.look_again()
        if self.promised(tomb.ino):
            return
        with contextlib.suppress(NotFoundError):
            found = await storage.find(tomb.ino, tomb.token)
            try:
                async with storage.exclusive(self._domain.lock_of(tomb.ino)):
                    await links.forget_promise(storage, found.node)
            finally:
                storage.forget(found.node)

    async def remove(self, above: Node, name: bytes, ino: Ino) -> bool:
        """Remove a link of a promised inode; the last one becomes the tombstone's entry.

        Returns:
            False if it was kept.

        Raises:
            NotFoundError: it is gone.
        """
        storage = self._domain.storage
        async with storage.exclusive(self._domain.lock_of(ino)):
            found = await storage.lookup(above, name)
            storage.forget(found.node)
            item = None
            if found.attr.ino == ino and found.attr.nlink < 2:
                item = await self._newest_tomb(ino)
            if item is None:
                await storage.unlink(above, name, GATEWAY)
                return True
            await links.take_place(self._domain, above, name, item)
            return False

    async def _newest_tomb(self, ino: Ino) -> Item | None:
        for hour, above in sorted(self._hours, reverse=True):
            names = [name for name, of in await self._tombs_of(hour, above) if of == ino]
            items = await scan_some(self._domain, above, hour, names)
            links = [item for item in items if item.tomb is not None and item.tomb.kind == "link"]
            if links:
                return max(links, key=lambda item: item.entry.deleted_ns)
        return None
