"""What is in the trash: entries and tombstones as they lie there.

The directory is the truth. Nothing here changes anything; what can't be read is reported as
damaged and never stops the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import stat
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.ports import Found, Node, Storage
from cephfs_ext.core.types import Attr, Credentials, Ino
from trashbin import layout, tombs
from trashbin.domain import Domain, directory_at, lying_in
from trashbin.files import listing, names_in
from trashbin.layout import EntryName
from trashbin.tasks import for_each
from trashbin.tombs import Tomb

_AT_ONCE = 4
"""Shards that are read at the same time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One deleted name."""

    entry: EntryName
    ino: Ino
    mode: int
    owner_uid: int
    size: int
    """Bytes; 0 for a directory."""
    nlink: int
    above: bytes
    """Directory that holds the hour: a shard, or one of tombstones."""
    tomb: Tomb | None = None

    @property
    def is_held(self) -> bool:
        """True for what doesn't expire, because somebody holds it."""
        return layout.term_of(self.above).is_held

    @property
    def leaf(self) -> bytes:
        """Name of what lies in the hour: of a long name, that of its directory."""
        if self.tomb is not None:
            return layout.tomb_name(self.entry, self.ino)
        return self.entry.path[0]

    @property
    def is_dir(self) -> bool:
        """True for a directory, also for one of which there is only a tombstone."""
        return stat.S_ISDIR(self.mode)

    @property
    def kind(self) -> str:
        """What users call it: file, dir, symlink, link or other."""
        if self.tomb is not None and self.tomb.kind == "link":
            return "link"
        kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}
        return kinds.get(stat.S_IFMT(self.mode), "other")

    def belongs_to(self, cred: Credentials) -> bool:
        """Tell whether somebody deleted it or owns it: then it is theirs to see and restore."""
        return cred.uid in (self.entry.deleter_uid, self.owner_uid)


class Damaged(NamedTuple):
    """Something in the trash that can't be read; it is never deleted."""

    path: bytes
    """Relative to `.trashbin`."""
    reason: str


class Scan(NamedTuple):
    """Everything in one domain's trash."""

    items: list[Item]
    damaged: list[Damaged]


async def damaged_of(domain: Domain) -> list[Damaged]:
    """Return what is in a trash and in no hour of it, and no part of the format."""
    result = Scan([], [])
    for name in await names_in(domain.storage, domain.trash):
        known = name in domain.directories or name == layout.FORMAT_NAME
        if not known and not name.startswith(layout.STAGED):
            result.damaged.append(Damaged(name, "not of this format"))
    for name in await names_in(domain.storage, domain.service(layout.HELD)):
        result.damaged.append(Damaged(layout.HELD + b"/" + name, "set aside when its time came"))

    for above in directories_of_hours(domain):
        for hour in await hours_of(domain, above):
            if hour != layout.FRESH and layout.hour_end_s(hour) is None:
                result.damaged.append(Damaged(above + b"/" + hour, "no hour"))
    return result.damaged


def directories_of_hours(domain: Domain) -> list[bytes]:
    """Return the names of the shards, and of the directories of tombstones."""
    return [name for name in domain.directories if layout.has_hours(name)]


async def for_each_directory(
    aboves: Sequence[bytes], work: Callable[[int, bytes], Awaitable[None]]
) -> None:
    """Have directories of hours read, some of them twice, so that nothing is missed.

    A link takes the place of its tombstone, a tombstone that of an entry, and what is held or
    released goes from one directory to another. Tombstones and what is held are read first, and
    once more after all others: what moves once meanwhile is seen in one place at least. Where it
    was seen it may be no more.

    Args:
        aboves: all that the domain has (`directories_of_hours`).
        work: is given the number of a directory, and its name. What it finds at the second time it
            may have found before.
    """
    numbered = list(enumerate(aboves))
    moving = [one for one in numbered if is_read_twice(one[1])]
    others = [one for one in numbered if not is_read_twice(one[1])]

    async def one(number_above: tuple[int, bytes]) -> None:
        await work(*number_above)

    for some in (moving, others, moving):
        await for_each(some, one, at_once=_AT_ONCE)


def is_read_twice(above: bytes) -> bool:
    """Tell whether `for_each_directory` gives out a directory twice."""
    return layout.is_tombs(above) or layout.term_of(above).is_held


def without_stand_ins(items: Iterable[Item]) -> list[Item]:
    """Leave out tombstones that stand beside the entry that they are for.

    And what was seen twice, since it was held or released in that moment, but for the last time.
    """
    items = list({(item.entry.id, item.tomb is None): item for item in items}.values())
    there = {item.entry.id for item in items if item.tomb is None}
    return [item for item in items if item.tomb is None or item.entry.id not in there]


async def hours_of(domain: Domain, above: bytes) -> list[bytes]:
    """List a directory of hours; nothing if it is gone."""
    with contextlib.suppress(NotFoundError):
        async with directory_at(domain, above) as node:
            return await names_in(domain.storage, node)
    return []


class NameOfHour(NamedTuple):
    """What a listing says of something in an hour."""

    name: bytes
    is_dir: bool


async def names_of_hour(domain: Domain, above: bytes, hour: bytes) -> list[NameOfHour]:
    """List one hour of a directory of hours; nothing if there is no such hour."""
    with contextlib.suppress(NotFoundError):
        async with (
            directory_at(domain, above, hour) as node,
            listing(domain.storage, node) as entries,
        ):
            return [NameOfHour(entry.name, stat.S_ISDIR(entry.kind)) async for entry, _ in entries]
    return []


async def scan_some(
    domain: Domain,
    above: bytes,
    hour: bytes,
    names: Sequence[NameOfHour],
    damaged: list[Damaged] | None = None,
) -> list[Item]:
    """Read some of the entries of an hour.

    Args:
        damaged: takes those that can't be read.
    """
    result = Scan([], [] if damaged is None else damaged)
    if names:
        with contextlib.suppress(NotFoundError):
            async with directory_at(domain, above, hour) as node:
                where = _Where(domain.storage, above, above + b"/" + hour)
                for name, is_dir in names:
                    await _scan_entry(where, node, name, result, is_dir=is_dir)
    return result.items


async def find_again(domain: Domain, entry: EntryName, ino: Ino, *, is_dir: bool) -> Item | None:
    """Look for an entry or a tombstone that is no longer where it was seen; None if it is gone.

    Reads no hour: what it would be called is known.
    """
    in_directory, found = is_dir or len(entry.path) > 1, list[Item]()

    async def look(_: int, above: bytes) -> None:
        if layout.is_tombs(above):
            named = NameOfHour(layout.tomb_name(entry, ino), is_dir=False)
        else:
            named = NameOfHour(entry.path[0], in_directory)
        found.extend(await scan_some(domain, above, entry.hour, [named]))

    await for_each_directory(directories_of_hours(domain), look)
    return next(iter(without_stand_ins(found)), None)


async def is_there(domain: Domain, item: Item) -> bool:
    """Tell whether an entry is still where it was seen."""
    with contextlib.suppress(NotFoundError):
        path = item.entry.path
        async with lying_in(domain, item.above, item.entry.hour, path) as (above, leaf):
            domain.storage.forget((await domain.storage.resolve(above, leaf)).node)
            return True
    return False


async def damaged_names(storage: Storage, above: bytes, hour: Node) -> list[bytes]:
    """Return the names in an hour of what can't be read; entries are told by their names alone."""
    result = Scan([], [])
    where = _Where(storage, above, b"")
    async with listing(storage, hour) as entries:
        async for listed in entries:
            name, is_dir = listed.entry.name, stat.S_ISDIR(listed.entry.kind)
            entry = layout.parse_entry(name)
            if layout.is_tombs(above) or entry is None or not entry.name:
                await _scan_entry(where, hour, name, result, is_dir=is_dir)
    return [damaged.path.removeprefix(b"/") for damaged in result.damaged]


async def _look_at(storage: Storage, above: Node, name: bytes, *, is_dir: bool) -> Found:
    """Look at an entry; the size and times of a directory are not worth waiting for.

    Those of one that has just been emptied took the MDS up to 5 s each to gather.
    """
    return await (storage.resolve if is_dir else storage.lookup)(above, name)


class _Where(NamedTuple):
    storage: Storage
    above: bytes
    path: bytes


async def _scan_entry(
    where: _Where, hour: Node, name: bytes, result: Scan, *, is_dir: bool
) -> None:
    """Read one entry; one that is restored or purged at this moment is left out."""
    if name.startswith(layout.STAGED) or _is_note(where, name):
        return
    try:
        found = await _look_at(where.storage, hour, name, is_dir=is_dir)
    except NotFoundError:
        return
    try:
        item = await _item_at(where, name, found)
    except NotFoundError:
        return
    finally:
        where.storage.forget(found.node)
    if isinstance(item, Item):
        result.items.append(item)
    elif item:
        result.damaged.append(Damaged(where.path + b"/" + name, item))


def _is_note(where: _Where, name: bytes) -> bool:
    return where.above == layout.NOTES and layout.parse_note(name) is not None


async def _item_at(where: _Where, name: bytes, found: Found) -> Item | str:
    """Return an item, or what is wrong with it, or nothing where there is nothing."""
    if layout.is_tombs(where.above):
        return await _tomb_at(where, name, found)
    entry = layout.parse_entry(name)
    if entry is None:
        return "no name of an entry"
    if entry.name:
        return _item(entry, found.attr, where.above)
    if not found.attr.is_dir:
        return "no directory"
    return await _long_name_at(where, entry, found.node)


async def _tomb_at(where: _Where, name: bytes, found: Found) -> Item | str:
    parsed = layout.parse_tomb(name)
    if parsed is None:
        return "no name of a tombstone"
    entry, ino = parsed
    tomb = await tombs.read(where.storage, found)
    if tomb is None or tomb.ino != ino:
        return "no readable tombstone"
    entry = entry._replace(name=tomb.name)
    return Item(entry, ino, tomb.mode, tomb.uid, tomb.size, 0, where.above, tomb)


async def _long_name_at(where: _Where, entry: EntryName, node: Node) -> Item | str:
    """Read the directory of a long name; an empty one is what a crash before the rename left."""
    names = await names_in(where.storage, node)
    if not names:
        return ""
    entry = entry._replace(name=names[0])
    if len(names) > 1 or len(entry.path) == 1:
        return "not the directory of one long name"
    inner = await where.storage.lookup(node, names[0])
    where.storage.forget(inner.node)
    return _item(entry, inner.attr, where.above)


def _item(entry: EntryName, attr: Attr, above: bytes) -> Item:
    size = 0 if attr.is_dir else attr.size
    return Item(entry, attr.ino, attr.mode, attr.uid, size, attr.nlink, above)
