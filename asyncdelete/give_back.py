"""Giving back: what is left of a tree that was to be removed becomes an entry of the trash again.

A tree that a user deleted without keeping is one entry then, deleted at this moment. Entries that
were purged are in their hours again, as they were.
"""

from __future__ import annotations

import contextlib
import logging

from asyncdelete.jobs import Job
from asyncdelete.ledger import Known
from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.errors import FSError, NotFoundError
from cephfs_ext.core.ports import Found, Node
from cephfs_ext.core.types import GATEWAY, Ino
from trashbin import layout
from trashbin.audit import Audit, Deleter, Was
from trashbin.domain import Domain
from trashbin.files import names_in
from trashbin.layout import EntryName

_log = logging.getLogger(__name__)


class Giving:
    """Gives back what was claimed, for one running gateway or worker."""

    def __init__(self, audit: Audit, *, instance: str, clock: MonotonicNs) -> None:
        self._audit = audit
        self._instance = instance
        self._clock = clock

    async def back(self, known: Known) -> str:
        """Make what is left of a job's tree a part of the trash again.

        Nobody may be removing it any more.

        Returns:
            The id of the entry that it is now; nothing if it is several.

        Raises:
            NotFoundError: nothing is left.
            FSError: some of it may be back; it can be tried again.
        """
        domain, job = known.domain, known.job
        storage = domain.storage
        found = await storage.lookup(domain.service(layout.PURGING), job.claim)
        try:
            if job.kind == "tree":
                return await self._tree(domain, job, found)
            await self._entries(domain, job, found.node)
            return ""
        finally:
            storage.forget(found.node)

    async def _tree(self, domain: Domain, job: Job, found: Found) -> str:
        parent = Ino(job.parent or domain.root.ino)
        name = job.name or job.claim
        entry = EntryName(self._clock(), self._instance, job.uid, parent, name)
        purging = domain.service(layout.PURGING)
        await domain.move_in(domain.shard_of(parent), entry, purging, job.claim)
        was = Was(job.path or name, parent, job.parent_token, found.attr, "tree")
        self._audit.kept(domain.root.ino, entry, was, Deleter(job.cred, 0, job.command))
        return entry.id

    async def _entries(self, domain: Domain, job: Job, claim: Node) -> None:
        storage = domain.storage
        for name in await names_in(storage, claim):
            with contextlib.suppress(NotFoundError):
                await self._entry(domain, claim, name)
        await storage.rmdir(domain.service(layout.PURGING), job.claim, GATEWAY)

    async def _entry(self, domain: Domain, claim: Node, name: bytes) -> None:
        """Put one entry, or a tombstone, into the hour that its name says."""
        entry = layout.parse_entry(name)
        if entry is None:
            raise FSError(what=f"{name!r} is no entry of the trash")
        above = domain.shard_of(entry.parent).node
        if layout.parse_tomb(name) is not None and not await _is_dir(domain, claim, name):
            above = domain.directories[layout.TOMBS]

        async def rename() -> None:
            async with domain.lent_hour(above, entry.hour) as hour:
                await domain.storage.rename(claim, name, hour, name, GATEWAY)

        await domain.in_hour(above, entry.hour, rename)


async def _is_dir(domain: Domain, above: Node, name: bytes) -> bool:
    found = await domain.storage.resolve(above, name)
    domain.storage.forget(found.node)
    return found.attr.is_dir
