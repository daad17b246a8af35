"""Several names of one inode: when the trash may really remove one of them.

**A link is really removed only under the lock of its inode, and only if another was seen under
it.** Two gateways that each saw another name left, and removed theirs, would have lost the data.

The lock is taken on a directory of the trash that every gateway chooses alike. It is held for a
few calls, never while a user's rename is under way.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable

import trio

from cephfs_ext.core.errors import ExistsError, FSError, NotFoundError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY, Ino
from trashbin import layout, tombs
from trashbin.catalog import Item, names_of_hour, scan_some
from trashbin.domain import Domain, lying_in
from trashbin.layout import EntryName, Term

_log = logging.getLogger(__name__)

_SAME_DELETE_NS = 60_000_000_000
"""What is deleted from one place within this time is taken for deleted once: longer than a delete
takes, and than clocks of gateways differ."""


async def has_name(storage: Storage, parent: Node, name: bytes, ino: Ino) -> bool:
    """Tell whether a name in a directory is that of an inode."""
    try:
        found = await storage.resolve(parent, name)
    except NotFoundError:
        return False
    storage.forget(found.node)
    return found.attr.ino == ino


async def remove_other_link(domain: Domain, at: Node, name: bytes, ino: Ino) -> bool:
    """Really remove a name of an inode that has another one.

    Returns:
        False if it was the last one, or not the inode's: then nothing has changed.
    """
    async with domain.storage.exclusive(domain.lock_of(ino)):
        return await _remove(domain.storage, at, name, ino)


async def beside_other_link(
    domain: Domain, at: Node, name: bytes, ino: Ino, step: Callable[[], Awaitable[None]]
) -> bool:
    """Carry out a step that takes a name from an inode, under its lock while it has another one.

    Returns:
        False if it was the last one, or not the inode's: then the step was not carried out.
    """
    async with domain.storage.exclusive(domain.lock_of(ino)):
        has_other = await _is_one_of_several(domain.storage, at, name, ino)
        if has_other:
            await step()
        return has_other


async def _is_one_of_several(storage: Storage, at: Node, name: bytes, ino: Ino) -> bool:
    try:
        found = await storage.lookup(at, name)
    except NotFoundError:
        return False
    storage.forget(found.node)
    return found.attr.ino == ino and not found.attr.is_dir and found.attr.nlink > 1


async def _remove(storage: Storage, at: Node, name: bytes, ino: Ino) -> bool:
    """Remove a name of an inode that has another one; the caller holds the lock."""
    is_spare = await _is_one_of_several(storage, at, name, ino)
    if is_spare:
        await storage.unlink(at, name, GATEWAY)
    return is_spare


async def take_back(
    domain: Domain, shard: bytes, entry: EntryName, ino: Ino, parent: Node, *, alone: bool = False
) -> bool:
    """Drop an entry whose inode still has its name in `parent`: it was never deleted.

    Nor is the entry needed where somebody else has deleted the name meanwhile: who saw the entry's
    link for another name has left a tombstone, which the link replaces then.

    Args:
        alone: the inode had no other name. Then any other link will do: somebody has moved the
            name away, and if into the trash it is kept there.

    Returns:
        False if the name is gone, or another inode's: then the entry is the trash's.
    """
    storage = domain.storage
    async with lying_in(domain, shard, entry.hour, entry.path) as (above, leaf):
        if not await _is_needed_elsewhere(storage, above, leaf):
            return False
        async with storage.exclusive(domain.lock_of(ino)):
            dropped = False
            if alone or await has_name(storage, parent, entry.name, ino):
                dropped = await _remove(storage, above, leaf, ino)
            if not dropped:
                dropped = await _take_place_of_twin(domain, above, leaf, entry, ino)
    if dropped:
        await drop_long_name_dir(domain, shard, entry)
    return dropped


async def _is_needed_elsewhere(storage: Storage, parent: Node, name: bytes) -> bool:
    found = await storage.lookup(parent, name)
    try:
        return found.attr.nlink > 1 or await is_promised(storage, found.node)
    finally:
        storage.forget(found.node)


async def _take_place_of_twin(
    domain: Domain, above: Node, leaf: bytes, entry: EntryName, ino: Ino
) -> bool:
    """Let the last link of an inode replace a tombstone of the same delete; False if none is."""
    found = await domain.storage.lookup(above, leaf)
    domain.storage.forget(found.node)
    if found.attr.nlink > 1:
        return False
    twin = await _twin(domain, entry, ino)
    if twin is not None:
        await take_place(domain, above, leaf, twin)
    return twin is not None


async def _twin(domain: Domain, entry: EntryName, ino: Ino) -> Item | None:
    """Find the tombstone of an inode that was deleted from the same place at the same time."""
    for hour in (layout.hour_plus(entry.hour, hours) for hours in (-1, 0, 1)):
        for above in filter(layout.is_tombs, tuple(domain.directories)):
            names = [
                name
                for name in await names_of_hour(domain, above, hour)
                if (tomb := layout.parse_tomb(name.name)) is not None
                and (tomb[0].parent, tomb[1]) == (entry.parent, ino)
                and abs(tomb[0].deleted_ns - entry.deleted_ns) < _SAME_DELETE_NS
            ]
            for item in await scan_some(domain, above, hour, names):
                if item.entry.name == entry.name and item.kind == "link":
                    return item
    return None


async def take_place(domain: Domain, above: Node, leaf: bytes, item: Item) -> None:
    """Let the last link of an inode become the entry that a tombstone of it stands for.

    It is kept for as long as the tombstone was to be. The caller holds the lock of the inode.
    """
    term = layout.term_of(item.above)
    shard = domain.shard_of(item.entry.parent, term=term)
    await domain.move_in(shard, item.entry, above, leaf)
    await tombs.exhume(domain, item.entry, item.ino, term)


async def bury_link(domain: Domain, shard: bytes, entry: EntryName) -> bool:
    """Let a tombstone stand for an entry whose inode has other names, so that they count right.

    The entry is in the trash already. Whatever fails, it stays there, which costs one link in the
    count that users see. Is not cancelled.

    Returns:
        False if the entry stays.
    """
    buried = False
    try:
        with trio.CancelScope(shield=True):
            async with lying_in(domain, shard, entry.hour, entry.path) as (above, leaf):
                buried = await _bury_link(domain, entry, layout.term_of(shard), above, leaf)
            if buried:
                await drop_long_name_dir(domain, shard, entry)
    except NotFoundError:
        pass  # it has left the trash
    except FSError as exc:
        _log.warning("link %s stays in the trash: %s", entry.id, exc)
    return buried


async def _bury_link(
    domain: Domain, entry: EntryName, term: Term, above: Node, leaf: bytes
) -> bool:
    storage = domain.storage
    found = await storage.lookup(above, leaf)
    try:
        if found.attr.is_dir or found.attr.nlink < 2:
            return False
        async with storage.exclusive(domain.lock_of(found.attr.ino)):
            tomb = await tombs.describe(storage, "link", entry.name, found)
            removed = False
            try:
                with contextlib.suppress(ExistsError):
                    await tombs.bury(domain, entry, tomb, term)
                await _note_promise(storage, found.node)
                removed = await _remove(storage, above, leaf, found.attr.ino)
            finally:
                if not removed and await has_name(storage, above, leaf, found.attr.ino):
                    await tombs.exhume(domain, entry, found.attr.ino, term)
            return removed
    finally:
        storage.forget(found.node)


async def _note_promise(storage: Storage, node: Node) -> None:
    """Have an inode say that there is, or was, a tombstone for a name of it."""
    try:
        await storage.setxattr(node, layout.PROMISED, b"1", GATEWAY)
    except FSError as exc:
        _log.debug("inode %x can't say that a tombstone needs it: %s", node.ino, exc)


async def forget_promise(storage: Storage, node: Node) -> None:
    """Take back what `_note_promise` has noted."""
    with contextlib.suppress(FSError):
        await storage.removexattr(node, layout.PROMISED, GATEWAY)


async def is_promised(storage: Storage, node: Node) -> bool:
    """Tell whether a tombstone may need an inode, which must not really be removed then."""
    try:
        await storage.getxattr(node, layout.PROMISED)
    except FSError:
        return False
    return True


async def drop_long_name_dir(domain: Domain, shard: bytes, entry: EntryName) -> None:
    """Remove the directory that a long name needed; one left behind does no harm."""
    if len(entry.path) == 1:
        return
    with contextlib.suppress(FSError):
        async with lying_in(domain, shard, entry.hour, entry.path[:1]) as (above, leaf):
            await domain.storage.rmdir(above, leaf, GATEWAY)
