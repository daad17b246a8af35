"""The trees that users deleted: what an `rm -rf` took apart, put together again.

Pure. The parent inodes in the names say what was in which directory; the journal adds processes
where it has them.

A child belongs to a directory's tree if it was deleted before it, by the same user through the
same gateway, in the same go: by the same process where the journal knows both, without a pause of
an hour; otherwise without one longer than the event gap. What was deleted earlier, from a directory
that went later, is a tree of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from cephfs_ext.core.types import Ino
from trashbin import layout
from trashbin.catalog import Item
from trashbin.journal import Record

LONGEST_PAUSE_NS = layout.HOUR_S * 1_000_000_000
"""A process that paused this long has begun something else."""


class Tree:
    """What one delete took away, from its top."""

    __slots__ = ("children", "inner", "start_ns", "top")

    def __init__(self, top: Item) -> None:
        self.top = top
        self.children: list[Tree] = []
        self.inner: tuple[bytes, ...] = ()
        """Directories on the way to it that lie within what it is a child of (`strays`)."""
        self.start_ns = top.entry.deleted_ns

    def walk(self) -> Iterator[tuple[Tree, tuple[bytes, ...]]]:
        """Yield every subtree, parents first, with its path below the top."""
        stack: list[tuple[Tree, tuple[bytes, ...]]] = [(self, ())]
        while stack:
            tree, path = stack.pop()
            yield tree, path
            stack += [(one, (*path, *one.inner, one.top.entry.name)) for one in tree.children]


def group(items: Iterable[Item], records: Mapping[str, Record], gap_ns: int) -> list[Tree]:
    """Put trees together again.

    Returns:
        Every item is in exactly one tree; newest tree first.
    """
    trees = sorted((Tree(item) for item in items), key=_age)
    children = _by_directory(trees)
    adopted: set[int] = set()
    for tree in trees:  # oldest first: a directory goes after what was in it
        for child in _adoptable(tree, children.get(id(tree), ()), records, gap_ns):
            tree.children.append(child)
            tree.start_ns = min(tree.start_ns, child.start_ns)
            adopted.add(id(child))
    return [tree for tree in reversed(trees) if id(tree) not in adopted]


def _age(tree: Tree) -> tuple[int, str]:
    return tree.top.entry.deleted_ns, tree.top.entry.instance


def _by_directory(trees: list[Tree]) -> dict[int, list[Tree]]:
    """Return, by the `id` of a directory, what was in it, oldest first.

    An inode can be in the trash several times, if it was restored and deleted again: what was in
    it belongs to the next time that it went.
    """
    children: dict[int, list[Tree]] = defaultdict(list)
    next_time: dict[Ino, Tree] = {}
    for tree in reversed(trees):
        above = next_time.get(tree.top.entry.parent)
        if above is not None:
            children[id(above)].append(tree)
        if tree.top.is_dir:
            next_time[tree.top.ino] = tree
    return {above: below[::-1] for above, below in children.items()}


def _adoptable(
    tree: Tree, children: Iterable[Tree], records: Mapping[str, Record], gap_ns: int
) -> Iterator[Tree]:
    """Yield those children that went with a directory, newest first, one of each name."""
    taken = set()
    for child in reversed(list(children)):
        name = child.top.entry.name
        if name not in taken and _same_event(tree, child, records, gap_ns):
            taken.add(name)
            yield child


def _same_event(tree: Tree, child: Tree, records: Mapping[str, Record], gap_ns: int) -> bool:
    mine, its = tree.top.entry, child.top.entry
    if (mine.instance, mine.deleter_uid) != (its.instance, its.deleter_uid):
        return False
    pause_ns = tree.start_ns - its.deleted_ns
    my_record, its_record = records.get(mine.id), records.get(its.id)
    if my_record is not None and its_record is not None and my_record.pid and its_record.pid:
        return my_record.pid == its_record.pid and pause_ns <= LONGEST_PAUSE_NS
    return pause_ns <= gap_ns
