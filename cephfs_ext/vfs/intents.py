"""Serves a recognised `rm -rf` by one rename: off by default.

At the first delete below one of its operands the whole tree goes into the trash, with the checks
of any tree that does. What the process still deletes below it succeeds at once, and what is
opened below lists empty.

Source: docs/semantics.md [intent-1], [intent-2].

Concurrency: several deletes of one process may be under way, if others have its descriptors; who
comes second finds the tree in the trash.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from asyncdelete.intent import Rm, trees
from cephfs_ext.core.errors import FSError
from cephfs_ext.core.limits import BULK_PROCESSES
from cephfs_ext.core.ports import Meter, Storage
from cephfs_ext.vfs.bulk import BulkDeletes
from cephfs_ext.vfs.deletes import Deletes
from cephfs_ext.vfs.nodes import ROOT, NodeId, NodeTable
from trashbin.put import Deleter

_log = logging.getLogger(__name__)


class Intents:
    """Recognises processes, and knows which trees they have taken away."""

    def __init__(
        self,
        storage: Storage,
        nodes: NodeTable,
        deletes: Deletes,
        bulk: BulkDeletes,
        meter: Meter,
        read: Callable[[int], Awaitable[Rm | None]],
        device: Callable[[], int | None],
        forget_entry: Callable[[NodeId, bytes], None],
        *,
        is_on: bool,
    ) -> None:
        """Keep what is needed.

        Args:
            read: what /proc says of a process; None if it is no rm.
            device: of the mount; None if it isn't known.
            forget_entry: has the kernel look a name up again.
        """
        self._storage = storage
        self._nodes = nodes
        self._deletes = deletes
        self._bulk = bulk
        self._meter = meter
        self._read = read
        self._device = device
        self._forget_entry = forget_entry
        self._is_on = is_on
        self._trees: dict[tuple[int, int], set[tuple[bytes, ...]]] = {}
        """What a process is to delete, and hasn't begun with."""
        self._taken: dict[NodeId, tuple[int, int]] = {}
        """Trees that have gone, and by which process."""

    async def take(self, parent: NodeId, who: Deleter) -> bool:
        """Take the tree away that a process deletes, if that is what it is about.

        Args:
            parent: in which it deletes something.

        Returns:
            True if what it deletes has gone; False if the caller has to delete it.
        """
        if not self._is_on or not who.pid:
            return False
        process = (who.pid, who.started)
        if self._taken and self._owner(parent) == process:
            return True
        wanted = await self._wanted(process)
        path = tuple(self._nodes.path(parent, self._storage.root.ino).split(b"/"))
        for names in wanted:
            if path[: len(names)] == names:
                wanted.discard(names)
                return await self._take(parent, len(path) - len(names), names, who)
        return False

    def is_emptied(self, directory: NodeId) -> bool:
        """Tell whether a directory lies in a tree that was taken away so."""
        return bool(self._taken) and self._owner(directory) is not None

    def _owner(self, directory: NodeId) -> tuple[int, int] | None:
        if not self._nodes.is_in_trash(directory):
            return None
        above = self._nodes.above(directory)
        return next((self._taken[i] for i, _ in above if i in self._taken), None)

    async def _wanted(self, process: tuple[int, int]) -> set[tuple[bytes, ...]]:
        """Return what a process deletes of this file system, and hasn't begun with."""
        if process not in self._trees:
            rm, device = await self._read(process[0]), self._device()
            if len(self._trees) >= BULK_PROCESSES:
                self._trees.clear()
            found = () if rm is None or device is None else trees(rm, device)
            self._trees[process] = set(found)
        return self._trees[process]

    async def _take(
        self, parent: NodeId, height: int, names: tuple[bytes, ...], who: Deleter
    ) -> bool:
        """Take a tree away; its top is `height` above a directory."""
        chain = [node_id for node_id, _ in self._nodes.above(parent)]
        if len(chain) != height + len(names) + 1 or chain[-1] != ROOT:
            return False
        top, above = chain[height], chain[height + 1]
        try:
            if not await self._leads_to(names, [*reversed(chain[height:-1])]):
                return False
            await self._bulk.before_move(above, names[-1])
            await self._deletes.tree(above, names[-1], who)
        except FSError as exc:
            _log.info("an rm -rf isn't served by one rename: %s", exc)
            return False
        if len(self._taken) >= BULK_PROCESSES:
            self._taken.clear()
        self._taken[top] = (who.pid, who.started)
        self._meter.count("intents_total")
        self._forget_entry(above, names[-1])
        return True

    async def _leads_to(self, names: tuple[bytes, ...], chain: list[NodeId]) -> bool:
        """Tell whether a path leads through these directories, in the storage."""
        node = self._storage.root
        for name, node_id in zip(names, chain, strict=True):
            found = await self._storage.lookup(node, name)
            self._storage.forget(found.node)
            node = self._nodes[node_id].node
            if found.attr.ino != node.ino or not found.attr.is_dir:
                return False
        return True
