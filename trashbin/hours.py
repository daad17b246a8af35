"""One hour of a trash, by the directories that things were deleted from.

What a view of the trash needs: who deleted what from which directory, told by the names of the
entries alone. Those are kept as they lie there, some hundred bytes each, whatever is in them; an
entry is looked at only where its name doesn't say enough: who owns what somebody else deleted,
what a tombstone stands for, how a long name goes on.

Concurrency: an `Hour` doesn't change once it has been read; what was looked at is remembered in it.
"""

from __future__ import annotations

import contextlib
import errno
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import trio

from cephfs_ext.core.errors import FSError, NotFoundError
from cephfs_ext.core.limits import VIEW_ITEMS
from cephfs_ext.core.types import DirEntry, Ino
from trashbin import layout
from trashbin.catalog import (
    Item,
    NameOfHour,
    directories_of_hours,
    for_each_directory,
    is_read_twice,
    scan_some,
)
from trashbin.domain import Domain, directory_at
from trashbin.files import listing
from trashbin.journal import Record, each_line, journals_of, parse_line
from trashbin.layout import EntryName
from trashbin.paths import open_parents
from trashbin.settle import settling
from trashbin.tasks import for_each
from trashbin.tombs import Tomb

_AT_ONCE = 8
"""Directories that are listed, or entries looked at, at the same time."""

_LOOKED_AT = 256
"""Entries that are looked at in one go."""

_ITEM_WEIGHS = 5

_FEW_OWNERS = 64
"""Entries of an hour whose owners are looked up one by one; for more, the hour is listed again."""

_PARENT = re.compile(rb'"parent":(\d+)[,}]')


class Viewer(NamedTuple):
    """Who looks."""

    uid: int
    everything: bool = False
    """True for operators: all that was deleted is shown to them."""


class Ref(NamedTuple):
    """One deleted name."""

    above: bytes
    """Directory that holds the hour: a shard, or one of tombstones."""
    raw: bytes
    """Name in the hour."""
    kind: int
    """File type bits; 0 where the listing didn't say."""
    entry: EntryName
    """Of a tombstone, and of a long name, without a name until it has been looked at."""
    tomb: Tomb | None = None

    @property
    def is_dir(self) -> bool:
        """True for a directory."""
        return stat.S_ISDIR(self.kind)

    @property
    def is_tomb(self) -> bool:
        """True for a tombstone."""
        return layout.is_tombs(self.above)


class Hour:
    """What was deleted from one domain in one hour; build it with `read_hour`."""

    def __init__(self, domain: Domain, name: bytes) -> None:
        self.domain = domain
        self.name = name
        self.size = 0
        """How many names there are."""
        self.paths: dict[Ino, bytes] = {}
        """Where directories were that something was deleted from, relative to the domain's root."""
        self.is_stale = False
        """True once something has turned out to be no longer there."""
        self.instances: set[str] = set()
        """Which runs of gateways have deleted something."""
        self.aboves = directories_of_hours(domain)
        """Directories in which it is; the domain may get others later."""
        self._names: dict[Ino, list[bytes]] = {}
        self._dirs: dict[Ino, tuple[Ino, bytes]] = {}
        self._items: dict[bytes, Item | None] = {}
        self._owners: dict[bytes, int] = {}
        """Of the entries that have been asked for; once all are known, of those that somebody else
        than their owner deleted."""
        self._knows_owners = False
        self._looking = trio.Lock()

    @property
    def weight(self) -> int:
        """How much memory it takes, in names."""
        return self.size + len(self._owners) + _ITEM_WEIGHS * len(self._items)

    def parents(self) -> Iterable[Ino]:
        """Return the directories that something was deleted from."""
        return self._names

    def refs(self, parent: Ino) -> list[Ref]:
        """Return what was deleted from a directory, without tombstones beside their entries.

        Of what was held or released while the hour was read, what was seen last.
        """
        seen = [self._ref(packed) for packed in self._names.get(parent, ())]
        refs = list({(ref.entry.id, ref.is_tomb): ref for ref in seen}.values())
        there = {ref.entry.id for ref in refs if not ref.is_tomb}
        return [ref for ref in refs if not ref.is_tomb or ref.entry.id not in there]

    def directory(self, ino: Ino) -> Ref | None:
        """Return the entry that a directory is in this hour, if it is one."""
        found = self._dirs.get(ino)
        return None if found is None else self._ref(found[1])

    def count(self, parent: Ino) -> int:
        """Return how many names were deleted from a directory."""
        return len(self._names.get(parent, ()))

    async def shows(self, parent: Ino, viewer: Viewer) -> bool:
        """Tell whether somebody sees anything that was deleted from a directory."""
        packed = self._names.get(parent, [])
        if viewer.everything or not packed:
            return bool(packed)
        parts = [packed[at : at + _LOOKED_AT] for at in range(0, len(packed), _LOOKED_AT)]
        for part in parts:
            if any(self._ref(one).entry.deleter_uid == viewer.uid for one in part):
                return True
            await trio.lowlevel.checkpoint()
        for part in parts:
            if await self.shown([self._ref(one) for one in part], viewer):
                return True
        return False

    async def shown(self, refs: Sequence[Ref], viewer: Viewer) -> list[Ref]:
        """Return those that somebody deleted or owns, with their names and kinds.

        One that has left the trash meanwhile may be left out.
        """
        foreign = [ref for ref in refs if not _is_of(ref, viewer)]
        if foreign:
            await self._find_owners(foreign)
        candidates = [ref for ref in refs if _is_of(ref, viewer) or self._may_be_of(ref, viewer)]
        items = await self._look_at([ref for ref in candidates if not _is_clear(ref)])
        complete = []
        for ref in candidates:
            item = items.get(ref.raw)
            self.is_stale |= not _is_clear(ref) and item is None
            if _is_clear(ref):
                complete.append(ref)
            elif item is not None and (_is_of(ref, viewer) or item.owner_uid == viewer.uid):
                kind = stat.S_IFMT(item.mode)
                complete.append(ref._replace(entry=item.entry, kind=kind, tomb=item.tomb))
        return complete

    def _may_be_of(self, ref: Ref, viewer: Viewer) -> bool:
        """Tell whether somebody owns what somebody else deleted, as far as it is known."""
        return not _is_clear(ref) or self._owners.get(ref.raw) == viewer.uid

    async def _find_owners(self, refs: Sequence[Ref]) -> None:
        """Find out who owns things; of many, by a listing of the hour with attributes."""
        async with self._looking:
            wanted = [] if self._knows_owners else [ref for ref in refs if _is_clear(ref)]
            wanted = [ref for ref in wanted if ref.raw not in self._owners]
            if len(self._owners) + len(wanted) <= _FEW_OWNERS:
                items = await self._look_at(wanted)
                self._owners |= {raw: item.owner_uid for raw, item in items.items() if item}
            elif wanted:
                await self._list_owners()

    async def _list_owners(self) -> None:
        owners: dict[bytes, int] = {}

        async def one(above: bytes) -> None:
            storage = self.domain.storage
            with contextlib.suppress(NotFoundError):
                async with (
                    directory_at(self.domain, above, self.name) as node,
                    listing(storage, node, plus=True) as entries,
                ):
                    async for listed, found in entries:
                        if found is None:
                            continue
                        storage.forget(found.node)
                        entry = layout.parse_entry(listed.name)
                        if entry is not None and entry.deleter_uid != found.attr.uid:
                            owners[listed.name] = found.attr.uid

        shards = [above for above in self.aboves if not layout.is_tombs(above)]
        async with settling(self.domain):
            await for_each(shards, one, at_once=_AT_ONCE)
        self._owners, self._knows_owners = owners, True

    async def _look_at(self, refs: Sequence[Ref]) -> dict[bytes, Item | None]:
        """Read entries; what isn't there any more is None.

        Raises:
            TooManyError: EFBIG.
        """
        if len(refs) > VIEW_ITEMS:
            raise TooManyError(errno.EFBIG, f"more than {VIEW_ITEMS} tombstones or long names")
        result = {ref.raw: self._items[ref.raw] for ref in refs if ref.raw in self._items}
        wanted = [ref for ref in refs if ref.raw not in result]

        async def some(part: Sequence[Ref]) -> None:
            for ref in part:
                names = [NameOfHour(ref.raw, _lies_as_directory(ref))]
                items = await scan_some(self.domain, ref.above, self.name, names)
                result[ref.raw] = items[0] if items else None

        if wanted:
            parts = [wanted[at : at + _LOOKED_AT] for at in range(0, len(wanted), _LOOKED_AT)]
            async with settling(self.domain):
                await for_each(parts, some, at_once=_AT_ONCE)
            if len(self._items) + len(wanted) > VIEW_ITEMS:
                self._items.clear()
            self._items |= {ref.raw: result[ref.raw] for ref in wanted}
        return result

    # packed: number of the directory above, kind, and the name as it is

    def _ref(self, packed: bytes) -> Ref:
        above = self.aboves[int.from_bytes(packed[:2], "big")]
        raw = packed[3:]
        entry = _parse(above, raw)
        assert entry is not None
        return Ref(above, raw, packed[2] << 12, entry)

    def add(self, number: int, listed: DirEntry) -> bool:
        """Take a name that was found in the hour; False for what is none of an entry."""
        entry = _parse(self.aboves[number], listed.name)
        if entry is None:
            return False
        complete = entry.name and not layout.is_tombs(self.aboves[number])
        kind = stat.S_IFMT(listed.kind) if complete else 0
        packed = number.to_bytes(2, "big") + bytes([kind >> 12]) + listed.name
        self._names.setdefault(entry.parent, []).append(packed)
        if stat.S_ISDIR(kind):
            self._dirs[listed.ino] = (entry.parent, packed)
        self.instances.add(entry.instance)
        self.size += 1
        return True


def _parse(above: bytes, raw: bytes) -> EntryName | None:
    if not layout.is_tombs(above):
        return layout.parse_entry(raw)
    parsed = layout.parse_tomb(raw)
    return None if parsed is None else parsed[0]


def _is_clear(ref: Ref) -> bool:
    """Tell whether the names in the hour say what something was called and what it is."""
    return bool(ref.entry.name) and ref.kind != 0


def _is_of(ref: Ref, viewer: Viewer) -> bool:
    """Tell whether the name in the hour says that somebody may see it."""
    return viewer.everything or ref.entry.deleter_uid == viewer.uid


def _lies_as_directory(ref: Ref) -> bool:
    return ref.is_dir or (not ref.is_tomb and not ref.entry.name)


class TooManyError(FSError):
    """An hour holds more names than may be kept in memory."""


async def read_hour(
    domain: Domain,
    name: bytes,
    journals: Domain,
    waiting: Mapping[str, Record],
    paths: Mapping[Ino, bytes],
    *,
    limit: int,
) -> Hour:
    """Read the names of an hour, and where the directories were.

    Args:
        journals: the same domain through the session that writes the journal: another one would
            have to wait for it.
        waiting: records of the domain that may not be on disk yet.
        paths: what is known of where directories were, from an earlier reading.
        limit: how many names are read at most.

    Raises:
        TooManyError: EFBIG; there are more.
    """
    hour = Hour(domain, name)
    before = set[tuple[int, bytes]]()

    async def one(number: int, above: bytes) -> None:
        with contextlib.suppress(NotFoundError):
            async with (
                directory_at(domain, above, name) as node,
                listing(domain.storage, node) as entries,
            ):
                async for entry, _ in entries:
                    if (number, entry.name) in before:
                        continue
                    if is_read_twice(above):
                        before.add((number, entry.name))
                    if hour.add(number, entry) and hour.size > limit:
                        raise TooManyError(errno.EFBIG, f"more than {limit} names in an hour")

    await for_each_directory(hour.aboves, one)
    if hour.size:
        await _find_paths(hour, journals, waiting, paths)
    return hour


async def _find_paths(
    hour: Hour, journals: Domain, waiting: Mapping[str, Record], paths: Mapping[Ino, bytes]
) -> None:
    """Find out where directories were: from the journal, else from where they are now."""
    hour.paths.update({ino: paths[ino] for ino in hour.parents() if ino in paths})
    missing = set(hour.parents()) - set(hour.paths)

    def note(record: Record | None) -> None:
        if record is not None and record.parent in missing:
            missing.discard(Ino(record.parent))
            hour.paths[Ino(record.parent)] = record.path.rpartition(b"/")[0]

    def take(line: bytes) -> None:
        match = _PARENT.search(line)
        if match is not None and int(match[1]) in missing:
            note(parse_line(line))

    for record in waiting.values():
        note(record)
    for journal in await journals_of(journals, hours=(hour.name,)) if missing else ():
        if not missing:
            return
        if journal.instance in hour.instances:
            async with settling(journals):
                await each_line(journals, journal, take)
    if missing and hour.domain.storage.finds_by_number:
        async with open_parents(hour.domain, (), {}, searches=0) as parents:
            for ino in missing:
                path = await parents.path(ino)
                if path is not None:
                    hour.paths[ino] = path
