"""What a restore that was cut off had not yet put back, and what it belongs to.

A restore puts a tree together from its top downwards. When it is undone half-way the top goes back
to where it lay with what is in it by then, directories as well, so that what was in those and is
still by itself finds no entry of its directory any more. The records of the deletes know which
directory was in which, and a look tells that it lies in the tree: so it is a part of it again.

Concurrency: reads only.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import Ino
from trashbin import layout
from trashbin.catalog import Item
from trashbin.domain import Domain, lying_in
from trashbin.files import exists
from trashbin.journal import Record
from trashbin.trees import Tree

_T = TypeVar("_T")

_DEEPEST = 4096
"""Directories within each other that are followed: as many as fit into a path."""


class _Removed(NamedTuple):
    """A directory that was deleted by itself, and isn't in the trash by itself any more."""

    deleted_ns: int
    name: bytes
    parent: Ino
    record: Record


class _Stray(NamedTuple):
    """A tree whose top was in a directory that may lie within another tree."""

    tree: Tree
    owner: Tree
    inner: tuple[bytes, ...]


def removed_dirs(items: Iterable[Item], records: Mapping[str, Record]) -> dict[Ino, list[_Removed]]:
    """Return the directories that records name and the trash has no entry of, newest last."""
    there = {item.entry.id for item in items}
    removed: dict[Ino, list[_Removed]] = defaultdict(list)
    for record in records.values():
        parsed = layout.parse_id(record.id)
        if record.kind == "dir" and parsed is not None and record.id not in there:
            name = record.path.rpartition(b"/")[2]
            one = _Removed(parsed[0], name, Ino(record.parent), record)
            removed[Ino(record.ino)].append(one)
    for some in removed.values():
        some.sort(key=lambda one: one.deleted_ns)
    return removed


def inside(items: Sequence[Item], records: Mapping[str, Record]) -> set[Ino]:
    """Return the directories that may lie within those of the items."""
    known = {item.ino for item in items if item.is_dir}
    removed, found = removed_dirs(items, records), set[Ino]()
    for ino, some in removed.items():
        above, depth = some[-1].parent, 0
        while above not in known and above in removed and depth < _DEEPEST:
            above, depth = removed[above][-1].parent, depth + 1
        if above in known:
            found.add(ino)
    return found


async def adopt(
    domain: Domain, trees: list[Tree], items: Sequence[Item], records: Mapping[str, Record]
) -> list[Tree]:
    """Give strays to the trees that they belong to; return the trees that are left.

    Args:
        trees: newest first, made of `items`.
    """
    removed = removed_dirs(items, records)
    if not removed:
        return trees
    owners: dict[Ino, list[Tree]] = defaultdict(list)
    for top in trees:
        for tree, _ in top.walk():
            if tree.top.is_dir and tree.top.tomb is None:
                owners[tree.top.ino].append(tree)
    adopted: set[int] = set()
    taken: set[tuple[Ino, bytes]] = set()
    for tree in trees:
        name = (tree.top.entry.parent, tree.top.entry.name)
        stray = _stray(tree, removed, owners, records)
        if stray is not None and name not in taken and await _has_a_place(domain, stray):
            stray.tree.inner = stray.inner
            stray.owner.children.append(stray.tree)
            adopted.add(id(tree))
            taken.add(name)
    return [tree for tree in trees if id(tree) not in adopted]


def _stray(
    tree: Tree,
    removed: Mapping[Ino, list[_Removed]],
    owners: Mapping[Ino, list[Tree]],
    records: Mapping[str, Record],
) -> _Stray | None:
    """Follow the directories that a tree was in, as they went, up to one that is in the trash."""
    entry, record = tree.top.entry, records.get(tree.top.entry.id)
    ino, deleted_ns = entry.parent, entry.deleted_ns
    inner: tuple[bytes, ...] = ()
    while record is not None and len(inner) < _DEEPEST:
        step = _next(removed.get(ino, ()), _removed_ns, deleted_ns)
        owner = _next(owners.get(ino, ()), _deleted_ns, deleted_ns)
        if owner is not None and (step is None or _deleted_ns(owner) < step.deleted_ns):
            is_stray = inner and _same_go(record, records.get(owner.top.entry.id))
            return _Stray(tree, owner, inner) if is_stray else None
        if step is None or not _same_go(record, step.record):
            return None
        ino, deleted_ns, inner = step.parent, step.deleted_ns, (step.name, *inner)
    return None


def _next(some: Iterable[_T], when: Callable[[_T], int], after_ns: int) -> _T | None:
    """Return the first that went after a time."""
    return min((one for one in some if when(one) > after_ns), key=when, default=None)


def _removed_ns(removed: _Removed) -> int:
    return removed.deleted_ns


def _deleted_ns(tree: Tree) -> int:
    return tree.top.entry.deleted_ns


def _same_go(one: Record, other: Record | None) -> bool:
    """Tell whether two things were deleted by the same process through the same gateway."""
    if other is None:
        return False
    gateways = {record.id.rpartition(".")[2] for record in (one, other)}
    return len(gateways) == 1 and (one.uid, one.pid) == (other.uid, other.pid)


async def _has_a_place(domain: Domain, stray: _Stray) -> bool:
    """Tell whether the directory of a stray lies in the tree of its owner, and has room for it."""
    storage, entry, top = domain.storage, stray.tree.top.entry, stray.owner.top
    with contextlib.suppress(NotFoundError):
        async with lying_in(domain, top.above, top.entry.hour, top.entry.path) as (above, leaf):
            node = await walk(storage, above, (leaf, *stray.inner))
            try:
                return node.ino == entry.parent and not await exists(storage, node, entry.name)
            finally:
                storage.forget(node)
    return False


async def walk(storage: Storage, node: Node, path: Sequence[bytes]) -> Node:
    """Open what lies below a directory; the caller owns the reference.

    Raises:
        NotFoundError: it isn't there.
    """
    held: list[Node] = []
    try:
        for name in path:
            node = (await storage.resolve(node, name)).node
            held.append(node)
        return held.pop()
    finally:
        for above in held:
            storage.forget(above)
