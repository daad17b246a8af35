"""One delete, read without the rest of the trash.

An id says when something was deleted and by which run of which gateway, so it says where it lies.
What an `rm -rf` took out of a directory went a moment before it, in the same run: the hours are
read backwards from there, by their names alone, for as long as what was found lets the event have
begun earlier. Only what belongs to the event is looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.types import Ino
from trashbin import layout
from trashbin.catalog import (
    Damaged,
    Item,
    NameOfHour,
    directories_of_hours,
    for_each_directory,
    names_of_hour,
    scan_some,
    without_stand_ins,
)
from trashbin.domain import Domain
from trashbin.layout import EntryName
from trashbin.settle import settling
from trashbin.trees import LONGEST_PAUSE_NS

_ATTEMPTS = 3
"""How often an event is read anew, since parts of it have moved within the trash meanwhile."""


class Event(NamedTuple):
    """What may belong to one delete, for `trees.group` to decide."""

    items: list[Item]
    hours: list[bytes]
    """Hours that were read."""


async def gather(domain: Domain, entry_id: str, within: Collection[Ino] = ()) -> Event:
    """Read an entry and all that may have gone with it.

    Args:
        within: directories that lie in it; what was in them may have gone with it, too.

    Raises:
        NotFoundError: there is no such entry in this domain, nor was there one all the time.
    """
    parsed = layout.parse_id(entry_id)
    if parsed is None:
        raise NotFoundError(what=f"{entry_id} is no id")
    async with settling(domain):
        for _ in range(_ATTEMPTS):
            gathering = _Gathering(domain, *parsed, within)
            event = await gathering.run(entry_id)
            if not gathering.is_stale:
                break
    if not event.items:
        raise NotFoundError(what=f"no entry {entry_id} in the trash")
    return event


class _Seen(NamedTuple):
    above: bytes
    hour: bytes
    listed: NameOfHour
    entry: EntryName


class _Gathering:
    """Names of one instance, hour by hour, and the items that were asked for."""

    def __init__(
        self, domain: Domain, deleted_ns: int, instance: str, within: Collection[Ino]
    ) -> None:
        self._domain = domain
        self._instance = instance
        self._hours: list[bytes] = []
        self._below: dict[Ino, list[_Seen]] = defaultdict(list)
        """What was deleted from a directory and isn't looked at yet."""
        self._replaced: dict[Ino, list[_Seen]] = defaultdict(list)
        """Tombstones by their inodes: a number may have been another directory's before."""
        self._begin_ns = self._end_ns = deleted_ns
        self._items: list[Item] = []
        self._dirs: set[Ino] = set(within)
        self.is_stale = False
        """True once something was no longer where it had been seen: it may be elsewhere by now."""

    async def run(self, entry_id: str) -> Event:
        """Read what may have gone with an entry; nothing, if that wasn't found."""
        hour = layout.hour_name(self._end_ns)
        await self._read_hour(hour)
        await self._look_at(self._taken_out(entry_id))
        if not self._items:
            return Event([], self._hours)
        await self._descend()
        while self._dirs and self._may_have_begun_before(hour):
            hour = layout.hour_plus(hour, -1)
            await self._read_hour(hour)
            await self._descend()
        return Event(without_stand_ins(self._items), self._hours)

    def _may_have_begun_before(self, hour: bytes) -> bool:
        end_s = layout.hour_end_s(hour)
        assert end_s is not None
        start_ns = (end_s - layout.HOUR_S) * 1_000_000_000
        return self._begin_ns - LONGEST_PAUSE_NS < start_ns

    async def _read_hour(self, hour: bytes) -> None:
        async def one(_: int, above: bytes) -> None:
            for listed in await names_of_hour(self._domain, above, hour):
                entry = layout.parse_entry(listed.name)
                if entry is None or entry.instance != self._instance:
                    continue
                seen = _Seen(above, hour, listed, entry)
                self._below[entry.parent].append(seen)
                tomb = layout.parse_tomb(listed.name) if layout.is_tombs(above) else None
                if tomb is not None:
                    self._replaced[tomb[1]].append(seen)

        aboves = directories_of_hours(self._domain)
        await for_each_directory(aboves, one)
        self.is_stale |= aboves != directories_of_hours(self._domain)
        self._hours.append(hour)

    def _taken_out(self, entry_id: str) -> list[_Seen]:
        """Return what has an id, and a tombstone beside it, and list it no more."""
        found = []
        for seen in [seen for some in self._below.values() for seen in some]:
            if seen.entry.id == entry_id:
                self._below[seen.entry.parent].remove(seen)
                found.append(seen)
        return found

    async def _descend(self) -> None:
        """Look at what was deleted from the directories that are known, and so on below."""
        before = -1
        while before != len(self._items):
            before = len(self._items)
            wanted = [
                seen
                for ino in self._dirs
                for seen in (*self._below.pop(ino, ()), *self._replaced.pop(ino, ()))
                if seen.entry.deleted_ns <= self._end_ns
            ]
            await self._look_at(list(dict.fromkeys(wanted)))

    async def _look_at(self, wanted: list[_Seen]) -> None:
        places: dict[tuple[bytes, bytes], list[NameOfHour]] = defaultdict(list)
        for seen in wanted:
            places[seen.above, seen.hour].append(seen.listed)
        damaged: list[Damaged] = []
        found = set[str]()
        for (above, hour), listed in places.items():
            for item in await scan_some(self._domain, above, hour, listed, damaged):
                found.add(item.entry.id)
                self._items.append(item)
                self._begin_ns = min(self._begin_ns, item.entry.deleted_ns)
                if item.is_dir:
                    self._dirs.add(item.ino)
        unreadable = {one.path.rpartition(b"/")[2] for one in damaged}
        self.is_stale |= any(
            seen.entry.id not in found and seen.listed.name not in unreadable for seen in wanted
        )
