"""Trees put together again, against a model that knows who deleted what in which go.

The model deletes a tree bottom up, as `rm -rf` does, while somebody else deletes from it and
makes names anew, so that directories have to be read again until they are empty.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from cephfs_ext.core.types import Ino
from tests.property.profiles import pure
from tests.property.values import inos, instances
from trashbin.catalog import Item, without_stand_ins
from trashbin.journal import Record
from trashbin.layout import EntryName
from trashbin.tombs import Tomb
from trashbin.trees import LONGEST_PAUSE_NS, Tree, group

GAP_NS = 10_000_000_000
_DIR, _FILE = 0o040755, 0o100644
_ROOT = Ino(1)


@dataclasses.dataclass(frozen=True)
class Go:
    """One process that deletes."""

    instance: str
    uid: int
    pid: int
    pause_ns: int
    """Longest time between two of its deletes."""


class World:
    """Directories, and what has been deleted from them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now_ns = 1_800_000_000_000_000_000
        self.directories: dict[Ino, dict[bytes, Ino]] = {_ROOT: {}}
        self.items: list[Item] = []
        self.gone_in: dict[str, Go] = {}
        self._next_ino = 2

    def make(self, above: Ino, name: bytes, *, is_dir: bool) -> Ino:
        ino = Ino(self._next_ino)
        self._next_ino += 1
        self.directories[above][name] = ino
        if is_dir:
            self.directories[ino] = {}
        return ino

    def plant(self, above: Ino, depth: int) -> None:
        """Make some names below a directory."""
        for name in self.chance.sample((b"a", b"b", b"c", b"d"), self.chance.randint(0, 3)):
            is_dir = depth > 0 and self.chance.random() < 0.5
            ino = self.make(above, name, is_dir=is_dir)
            if is_dir:
                self.plant(ino, depth - 1)

    def delete(self, above: Ino, name: bytes, go: Go) -> None:
        self.now_ns += self.chance.randint(1, go.pause_ns)
        ino = self.directories[above].pop(name)
        is_dir = self.directories.pop(ino, None) is not None
        entry = EntryName(self.now_ns, go.instance, go.uid, above, name)
        mode = _DIR if is_dir else _FILE
        self.items.append(Item(entry, ino, mode, go.uid, 0, 1, b"r0.00"))
        self.gone_in[entry.id] = go

    def removal(self, above: Ino, name: bytes, go: Go) -> Iterator[None]:
        """Delete something with all that is below it; the others act at each `yield`."""
        ino = self.directories[above].get(name)
        while ino is not None and self.directories.get(ino):
            for inner in list(self.directories[ino]):
                yield
                if inner in self.directories.get(ino, ()):
                    yield from self.removal(ino, inner, go)
        if ino is not None and self.directories[above].get(name) == ino:
            self.delete(above, name, go)

    def meddle(self, go: Go) -> None:
        """Somebody else deletes a file, or makes something anew, or does nothing."""
        above = self.chance.choice(list(self.directories))
        if above == _ROOT:
            return
        names = self.directories[above]
        files = [name for name, ino in names.items() if ino not in self.directories]
        action = self.chance.random()
        if files and action < 0.3:
            self.delete(above, self.chance.choice(files), go)
        elif action < 0.45:
            name = self.chance.choice((b"a", b"b", b"e"))
            if name not in names:
                self.make(above, name, is_dir=self.chance.random() < 0.3)

    def records(self, gos: list[Go]) -> dict[str, Record]:
        """Return what the journal has: all deletes of those whose process it knows."""
        return {
            item.entry.id: Record(
                item.entry.id,
                b"",
                go.uid,
                0,
                go.pid,
                "rm",
                "file",
                item.ino,
                b"",
                item.entry.parent,
            )
            for item in self.items
            if (go := self.gone_in[item.entry.id]) in gos
        }


def expected(world: World) -> dict[str, set[str]]:
    """Return what belongs to what, by the id of the top, as the documents say it."""
    above: dict[str, str] = {}
    directories = [item for item in world.items if item.is_dir]
    for item in reversed(world.items):
        later = [one for one in directories if one.ino == item.entry.parent]
        later = [one for one in later if one.entry.deleted_ns > item.entry.deleted_ns]
        if not later:
            continue
        directory = min(later, key=lambda one: one.entry.deleted_ns).entry
        go = world.gone_in[item.entry.id]
        taken = [
            one
            for one in world.items
            if above.get(one.entry.id) == directory.id and one.entry.name == item.entry.name
        ]
        if world.gone_in[directory.id] == go and not taken:
            above[item.entry.id] = directory.id
    trees: dict[str, set[str]] = {}
    for item in world.items:
        top = item.entry.id
        while top in above:
            top = above[top]
        trees.setdefault(top, set()).add(item.entry.id)
    return trees


def found(trees: list[Tree]) -> dict[str, set[str]]:
    return {tree.top.entry.id: {inner.top.entry.id for inner, _ in tree.walk()} for tree in trees}


FAST = 1_000_000
RM = Go("000a", 1000, 17, FAST)
OTHERS = {
    "another gateway": Go("000b", 1000, 17, FAST),
    "another user": Go("000a", 1001, 17, FAST),
    "another process": Go("000a", 1000, 18, FAST),
}


@pure
@given(st.integers(0, 2**32), st.sampled_from(sorted(OTHERS)), st.booleans(), st.integers(0, 2))
def test_removed_tree_is_one_tree_and_what_others_deleted_is_not_in_it(
    seed: int, other: str, journal: bool, before: int
) -> None:
    world = World(seed)
    top = world.make(_ROOT, b"top", is_dir=True)
    world.plant(top, depth=3)
    other_go = OTHERS[other]
    for _ in range(before):
        world.meddle(other_go)
    for _ in world.removal(_ROOT, b"top", RM):
        if len(world.items) < 60:
            world.meddle(other_go)
    gos = [RM, other_go] if journal or other == "another process" else []
    trees = group(world.items, world.records(gos), GAP_NS)
    assert found(trees) == expected(world)


@pure
@given(st.integers(0, 2**32), st.booleans())
def test_what_went_long_before_is_not_in_the_tree(seed: int, journal: bool) -> None:
    """Without the journal a longer pause tells; with it, the process."""
    world = World(seed)
    top = world.make(_ROOT, b"top", is_dir=True)
    world.plant(top, depth=2)
    world.make(top, b"old", is_dir=False)
    world.delete(top, b"old", Go("000a", 1000, 12 if journal else 17, FAST))
    old = world.items[-1].entry.id
    world.now_ns += FAST if journal else GAP_NS + 1
    for _ in world.removal(_ROOT, b"top", RM):
        pass
    records = world.records([RM, *world.gone_in.values()]) if journal else {}
    trees = found(group(world.items, records, GAP_NS))
    assert trees.pop(old) == {old}
    assert len(trees) == 1


@pure
@given(st.integers(0, 2**32), st.integers(FAST, 2 * LONGEST_PAUSE_NS))
def test_slow_process_is_one_go_until_it_pauses_for_an_hour(seed: int, pause_ns: int) -> None:
    world = World(seed)
    top = world.make(_ROOT, b"top", is_dir=True)
    world.make(top, b"file", is_dir=False)
    world.delete(top, b"file", RM)
    world.now_ns += pause_ns - FAST
    world.delete(_ROOT, b"top", RM)
    trees = group(world.items, world.records([RM]), GAP_NS)
    actual_ns = world.items[1].entry.deleted_ns - world.items[0].entry.deleted_ns
    assert (len(trees) == 1) == (actual_ns <= LONGEST_PAUSE_NS)


few = st.integers(1, 6)
any_items = st.lists(
    st.builds(
        lambda ns, instance, uid, parent, name, ino, mode: Item(
            EntryName(ns, instance, uid, Ino(parent), name), Ino(ino), mode, 0, 0, 1, b"r0.00"
        ),
        few,
        st.sampled_from(("000a", "000b")),
        st.integers(0, 1),
        few,
        st.sampled_from((b"a", b"b")),
        few,
        st.sampled_from((_DIR, _DIR, _FILE)),
    ),
    max_size=12,
)


@pure
@given(any_items)
def test_every_item_is_in_exactly_one_tree_whatever_they_are(items: list[Item]) -> None:
    """Circles, equal times, an inode that is in the trash more than once."""
    trees = group(items, {}, GAP_NS)
    walked = [id(inner.top) for tree in trees for inner, _ in tree.walk()]
    assert Counter(walked) == Counter(id(item) for item in items)


@pure
@given(any_items)
def test_newest_tree_comes_first(items: list[Item]) -> None:
    times = [tree.top.entry.deleted_ns for tree in group(items, {}, GAP_NS)]
    assert times == sorted(times, reverse=True)


@pure
@given(instances, inos, st.lists(st.tuples(few, st.booleans()), max_size=10))
def test_entry_counts_where_a_tombstone_has_its_id(
    instance: str, ino: Ino, both: list[tuple[int, bool]]
) -> None:
    tomb = Tomb("link", b"a", ino, b"", _FILE, 0, 0, 0, 0)
    items = [
        Item(
            EntryName(ns, instance, 0, Ino(9), b"a"), ino, _FILE, 0, 0, 1, b"",
            tomb if is_tomb else None,
        )
        for ns, is_tomb in both
    ]  # fmt: skip
    left = without_stand_ins(items)
    assert {item.entry.id for item in left} == {item.entry.id for item in items}
    entries = {item.entry.id for item in items if item.tomb is None}
    assert not [item for item in left if item.tomb is not None and item.entry.id in entries]
