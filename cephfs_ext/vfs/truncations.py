"""Truncation to nothing: the old content goes into the trash, at the cost of a rename.

An empty file like the old one is made aside and renamed over it, as if the program had replaced
the file. The kernel is told nothing: the id that it knows leads to the fresh inode from then on.

Only where that can't be noticed: the file has one name, is where we saw it last, and nobody else
has it open, here or on another client. Otherwise it is truncated as ever, and counted by reason.

Source: docs/semantics.md [truncate-1] to [truncate-4].
"""

from __future__ import annotations

import os

from cephfs_ext.core.errors import FSError, FullError, NotFoundError
from cephfs_ext.core.ports import Found, Handle, Storage
from cephfs_ext.vfs.deletes import Deletes
from cephfs_ext.vfs.handles import OpenFile, OpenFiles
from cephfs_ext.vfs.nodes import NodeId, NodeTable
from cephfs_ext.vfs.requests import Requests
from trashbin.audit import Bypass
from trashbin.domain import Domain
from trashbin.put import Deleter, Place


class Truncations:
    """Decides about truncations to nothing, and carries those out that are kept."""

    def __init__(
        self,
        storage: Storage,
        nodes: NodeTable,
        files: OpenFiles,
        requests: Requests,
        deletes: Deletes,
        *,
        min_bytes: int,
    ) -> None:
        self._storage = storage
        self._nodes = nodes
        self._files = files
        self._requests = requests
        self._deletes = deletes
        self._min_bytes = min_bytes

    async def keep(self, node_id: NodeId, who: Deleter, through: OpenFile | None = None) -> bool:
        """Put the content of a file into the trash, if it is worth it and can be done unnoticed.

        Args:
            through: the open file that is truncated; None if it is done by name.

        Returns:
            True if the file is empty now; False if the caller has to truncate it.

        Raises:
            FSError: EACCES, EPERM; nothing has changed.
        """
        if not self._deletes.enabled:
            return False
        node = self._nodes[node_id].node
        victim = Found(node, await self._storage.getattr(node))
        if not victim.attr.is_regular or victim.attr.size == 0:
            return False
        self._deletes.count_foreign(victim, who.cred)
        async with self._files.alone(node_id, but=int(through is not None)) as alone:
            reason = await self._refuses(victim, who, through) if alone else "opened"
            if reason:
                self._bypassed(node_id, victim, who, Bypass(reason))
                return False
            return await self._replace(node_id, victim, who, through)

    def _bypassed(self, node_id: NodeId, victim: Found, who: Deleter, bypass: Bypass) -> None:
        known = self._nodes[node_id]
        attr = victim.attr
        self._deletes.bypassed(known.parent, known.name, attr, who, bypass, "truncated")

    async def _refuses(self, victim: Found, who: Deleter, through: OpenFile | None) -> str:
        """Return why a content isn't kept, or nothing if it can be."""
        if victim.attr.size < self._min_bytes:
            return "small"
        if victim.attr.nlink != 1:
            return "links"
        if through is not None:
            return "opened" if await self._storage.opened_elsewhere(through.handle) else ""
        probe = await self._storage.open(victim.node, os.O_WRONLY, who.cred)
        try:
            return "opened" if await self._storage.opened_elsewhere(probe) else ""
        finally:
            await self._storage.release(probe)

    async def _replace(
        self, node_id: NodeId, victim: Found, who: Deleter, through: OpenFile | None
    ) -> bool:
        """Put a fresh inode in the place of a file's; tell whether it could be done."""
        known = self._nodes[node_id]
        verdict = await self._deletes.explain(known.parent, known.name, victim)
        if verdict.bypass:
            self._bypassed(node_id, victim, who, verdict.removal)
            return False
        made: list[Found] = []
        opened: list[Handle] = []

        async def reopen(fresh: Found) -> None:
            if through is not None:
                opened.append(await self._storage.reopen(through.handle, fresh.node))

        async def step(domain: Domain, at: Place) -> None:
            made.append(await self._deletes.put.truncated(domain, at, victim, who, reopen))

        try:
            if not await self._is_at(known.parent, known.name, victim):
                raise NotFoundError()
            await self._deletes.in_domain(known.parent, known.name, step, verdict.term)
        except FSError as exc:
            for handle in opened:
                await self._storage.release(handle)
            if not isinstance(exc, NotFoundError | FullError):
                raise
            reason = "moved" if isinstance(exc, NotFoundError) else "full"
            self._bypassed(node_id, victim, who, Bypass(reason))
            return False
        self._remap(node_id, made[0])
        if through is not None:
            await self._exchange(through, opened[0])
        return True

    async def _is_at(self, parent: NodeId, name: bytes, victim: Found) -> bool:
        try:
            found = await self._storage.lookup(self._nodes[parent].node, name)
        except FSError:
            return False
        self._storage.forget(found.node)
        return found.attr.ino == victim.attr.ino

    def _remap(self, node_id: NodeId, fresh: Found) -> None:
        """Have the id that led to the old inode lead to the fresh one."""
        former = self._nodes.remap(node_id, fresh)
        self._requests.when_over(lambda: self._storage.forget(former))

    async def _exchange(self, through: OpenFile, handle: Handle) -> None:
        """Have an open file go on with another handle; close those that nobody uses any more."""
        self._files.exchange(through, handle, self._requests.now())
        while (
            through.former
            and self._requests.are_over(through.former[0][0])
            and self._files.is_idle(through)
        ):
            await self._storage.release(through.former.pop(0)[1])
