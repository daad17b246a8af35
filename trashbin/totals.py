"""How much is in a tree: exact and cheap where the storage counts, else counted up to a limit."""

from __future__ import annotations

from typing import NamedTuple

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import Ino
from trashbin.catalog import Item
from trashbin.domain import Domain, lying_in
from trashbin.files import listing
from trashbin.trees import Tree

_COUNTED = 20_000
"""Entries that are counted one by one; a larger tree has no figure on a storage without one."""


class Totals(NamedTuple):
    """Size of a tree; None where counting would take too long."""

    entries: int | None
    size: int | None


async def totals(domain: Domain, tree: Tree) -> Totals:
    """Count a tree: what an `rm -rf` took apart, or what was moved whole.

    Entries are names; the bytes of a file with several names count once. On CephFS the figures of
    a tree that was moved whole are its own: they lag by some seconds, and hard links are no
    entries (`ceph.dir.rentries`, `ceph.dir.rbytes`).
    """
    parts = [part.top for part, _ in tree.walk()]
    sizes = {part.ino: part.size for part in parts if not part.is_dir}
    entries, size = len(parts), sum(sizes.values())
    return Totals(entries, size) if len(parts) > 1 else await in_directory(domain, tree.top)


async def in_directory(domain: Domain, top: Item) -> Totals:
    """Count what was deleted as one entry: a directory with all that lies in it."""
    if not top.is_dir or top.tomb is not None:
        return Totals(1, top.size)
    try:
        async with lying_in(domain, top.above, top.entry.hour, top.entry.path) as (above, leaf):
            found = await domain.storage.lookup(above, leaf)
    except NotFoundError:
        return Totals(1, 0)
    try:
        return await _below(domain.storage, found.node)
    finally:
        domain.storage.forget(found.node)


async def _below(storage: Storage, node: Node) -> Totals:
    weight = await storage.weigh(node)
    if weight is None:
        return await _count(storage, node)
    return Totals(1 + weight.files, weight.size)


async def _count(storage: Storage, top: Node) -> Totals:
    count = _Count(storage)
    try:
        await count.directory(top)
        while count.waiting and count.entries <= _COUNTED:
            node = count.waiting.pop()
            try:
                await count.directory(node)
            finally:
                storage.forget(node)
        if count.waiting or count.entries > _COUNTED:
            return Totals(None, None)
        return Totals(count.entries, sum(count.sizes.values()))
    finally:
        for node in count.waiting:
            storage.forget(node)


class _Count:
    """What has been counted so far, and the directories still to read, whose references it has."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.entries = 1
        self.sizes: dict[Ino, int] = {}
        self.waiting: list[Node] = []

    async def directory(self, node: Node) -> None:
        async with listing(self._storage, node, plus=True) as entries:
            async for listed in entries:
                if listed.found is None:
                    continue
                self.entries += 1
                if listed.found.attr.is_dir:
                    self.waiting.append(listed.found.node)
                else:
                    self.sizes[listed.found.attr.ino] = listed.found.attr.size
                    self._storage.forget(listed.found.node)
                if self.entries > _COUNTED:
                    return
