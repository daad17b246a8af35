"""Discard: removing something without keeping it, whatever its size, at the cost of a rename.

It is renamed into `purging/`, where what has been claimed lies: from then on it is gone for users,
and any gateway removes it. A loop of this one does so at once.
"""

from __future__ import annotations

import trio

from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.ports import Storage
from cephfs_ext.core.types import GATEWAY, Ino
from trashbin import layout
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.expire import Expiry
from trashbin.put import Place

_IDLE_S = 60.0
"""How long a round waits for something to remove."""


class Discard:
    """Takes what is not to be kept, and has it removed."""

    def __init__(
        self,
        storage: Storage,
        domains: Domains,
        expiry: Expiry,
        *,
        instance: str,
        clock: MonotonicNs,
    ) -> None:
        """Keep what is needed.

        Args:
            storage: the session of users, which renames.
            domains: those of the background session, which removes.
        """
        self._storage = storage
        self._domains = domains
        self._expiry = expiry
        self._instance = instance
        self._clock = clock
        self._waiting: set[Ino] = set()
        self._arrived = trio.Event()

    async def name(self, domain: Domain, at: Place) -> None:
        """Take a name away with everything below it. The rename is the commit point.

        The caller has checked the right to remove it.

        Raises:
            FSError: nothing has changed.
        """
        claim = f"purge.{self._clock():016x}.{self._instance}".encode()
        purging = domain.service(layout.PURGING)
        await self._storage.rename(at.parent, at.name, purging, claim, GATEWAY)
        self._waiting.add(domain.root.ino)
        self._arrived.set()

    async def once(self) -> None:
        """Wait for something, or some time for nothing, and remove it.

        Raises:
            FSError: it could not be removed; expiry tries again.
        """
        with trio.move_on_after(_IDLE_S):
            await self._arrived.wait()
        self._arrived = trio.Event()
        while self._waiting:
            await self._expiry.remove_claimed(await self._domains.at(self._waiting.pop()))
