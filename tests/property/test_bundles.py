"""Trees from rows are those that `trashbin.trees.group` makes of objects."""

from __future__ import annotations

import dataclasses
import random

import trio
from hypothesis import given
from hypothesis import strategies as st

from cephfs_ext.core.types import Attr, Ino
from tests.property.profiles import pure
from trashbin import layout
from trashbin.bundles import Bundle, Window
from trashbin.catalog import Item, without_stand_ins
from trashbin.journal import Record
from trashbin.layout import EntryName
from trashbin.rows import NOWHERE, Rows, Spot
from trashbin.tombs import Tomb
from trashbin.trees import Tree, group

_ABOVES = (b"r0.00", b"r0.01.held", b"tombs")
_DIR, _FILE = 0o040755, 0o100644
_START_NS = 1_800_000_000_000_000_000 // 3_600_000_000_000 * 3_600_000_000_000
_S = 1_000_000_000


def random_items(chance: random.Random) -> list[Item]:
    """Return entries of some hours in which a few directories went again and again."""
    count = chance.randint(0, 60)
    spread_s = chance.choice((5, 60, 3_000, 9_000, 30_000))
    items = []
    for _ in range(count):
        at_ns = _START_NS + chance.randint(0, spread_s * _S)
        if chance.random() < 0.1:
            at_ns = _START_NS + chance.randint(0, 5) * 3_600 * _S
        instance, uid = chance.choice(("000a", "000b")), chance.choice((0, 0, 0, 7))
        entry = EntryName(at_ns, instance, uid, Ino(chance.randint(1, 9)), chance.choice(_NAMES))
        is_dir = chance.random() < 0.5
        ino = Ino(chance.randint(1, 9) if is_dir else chance.randint(100, 10_000))
        above = chance.choice(_ABOVES[:2])
        items.append(Item(entry, ino, _DIR if is_dir else _FILE, uid, 0, 1, above))
        if chance.random() < 0.1:
            items.append(_tombstone(entry, ino))
    by_id: dict[tuple[str, bool], Item] = {(i.entry.id, i.tomb is None): i for i in items}
    return list(by_id.values())


_NAMES = (b"a", b"b", b"c", b"d", b"e")


def _tombstone(entry: EntryName, ino: Ino) -> Item:
    tomb = Tomb("dir", entry.name, ino, b"", _DIR, 0, 0, 0, 0)
    return Item(entry, ino, _DIR, 0, 0, 0, b"tombs", tomb)


def random_pids(chance: random.Random, items: list[Item]) -> dict[str, Record]:
    """Return records of some of them."""
    known = chance.random()
    return {
        item.entry.id: _record(item, chance.choice((0, 5, 5, 5, 6)))
        for item in items
        if chance.random() < known
    }


def _record(item: Item, pid: int) -> Record:
    parent = item.entry.parent
    return Record(item.entry.id, b"", 0, 0, pid, "rm", "file", item.ino, b"", parent)


def rows_of(hour: bytes, items: list[Item], records: dict[str, Record]) -> Rows:
    """Return an hour with all that is known of its entries."""
    rows = Rows(hour, _ABOVES)
    for item in items:
        above, kind = _ABOVES.index(item.above), item.mode & 0o170000
        assert rows.add(above, item.leaf, item.ino, kind)
    trio.run(rows.sort)
    by_name = {(item.entry.id, item.tomb is not None): item for item in items}
    for row in range(len(rows)):
        entry = rows.entry(row)
        if rows.is_unclear(row):
            rows.complete(row, by_name[entry.id, rows.is_tomb(row)])
        if entry.id in records:
            rows.note(row, Spot(NOWHERE, 1), records[entry.id].pid, is_wanted=False)
    trio.run(rows.leave_out_twins)
    return rows


def outlines(
    items: list[Item], records: dict[str, Record], gap_ns: int
) -> list[list[tuple[str, tuple[bytes, ...]]]]:
    """Return trees by the ids and paths of their entries, from rows."""
    names = sorted({item.entry.hour for item in items}, reverse=True)

    async def load(hour: bytes) -> Rows:
        return hours[hour] if hour in hours else Rows(hour, ())

    hours = {
        name: rows_of(name, [item for item in items if item.entry.hour == name], records)
        for name in names
    }

    async def run() -> list[Bundle]:
        window = Window(load, gap_ns)
        return [bundle for name in names async for bundle in window.bundles(name)]

    return [_outline(bundle) for bundle in trio.run(run)]


def _outline(bundle: Bundle) -> list[tuple[str, tuple[bytes, ...]]]:
    paths: list[tuple[bytes, ...]] = []
    result = []
    for number, (rows, row, above) in enumerate(bundle.parts()):
        entry = rows.entry(row)
        paths.append((*paths[above], entry.name) if number else ())
        assert bundle.find(paths[-1]) is not None
        result.append((entry.id, paths[-1]))
    return sorted(result)


def _outline_of(tree: Tree) -> list[tuple[str, tuple[bytes, ...]]]:
    return sorted((part.top.entry.id, path) for part, path in tree.walk())


@pure
@given(st.integers())
def test_what_a_listing_said_of_an_inode_is_kept(seed: int) -> None:
    """[trash-17]: a look at each of very many would take hours."""
    chance = random.Random(seed)
    items = [_with_attributes(chance, item) for item in random_items(chance)]
    hour_ns = _START_NS + 3_600 * _S
    items = [item for item in items if item.tomb is None and item.entry.deleted_ns < hour_ns]
    rows, said = Rows(layout.hour_name(_START_NS), _ABOVES), dict[str, Item]()
    for item in items:
        attr = Attr(item.ino, item.mode, item.nlink, item.owner_uid, 0, 0, 999, 0, 0, 0, 0, 0)
        if not item.is_dir:
            attr = dataclasses.replace(attr, size=item.size)
        is_said = chance.random() < 0.8
        above, kind = _ABOVES.index(item.above), item.mode & 0o170000
        assert rows.add(above, item.leaf, item.ino, kind, attr if is_said else None)
        if is_said:
            said[item.entry.id] = item
    trio.run(rows.sort)
    assert len(rows) == len(items)
    for row in range(len(rows)):
        assert rows.item(row) == said.get(rows.entry(row).id)


def _with_attributes(chance: random.Random, item: Item) -> Item:
    size = 0 if item.is_dir else chance.choice((0, 1, 2**40))
    owner, nlink = chance.choice((0, 7, 2**32 - 2)), chance.choice((1, 2, 65_535))
    return dataclasses.replace(item, size=size, owner_uid=owner, nlink=nlink)


@pure
@given(st.integers(), st.sampled_from((0, 1, 10, 600, 5_000, 20_000)))
def test_trees_from_rows_are_those_from_objects(seed: int, gap_s: int) -> None:
    """[trash-2]."""
    chance = random.Random(seed)
    items = random_items(chance)
    records = random_pids(chance, items)
    wanted = group(without_stand_ins(items), records, gap_s * _S)
    assert outlines(items, records, gap_s * _S) == [_outline_of(tree) for tree in wanted]
