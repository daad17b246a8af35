"""What has become of what was deleted: told by the trash, else by the journals.

What lies in the trash is there, whatever the journals say. For the rest the lines of restores,
purges and expiries count that came later.
"""

from __future__ import annotations

import bisect
import enum
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.types import Ino
from trashbin import layout
from trashbin.catalog import directories_of_hours
from trashbin.domain import Domain, directory_at
from trashbin.files import exists
from trashbin.journal import Fate, Journal, Record, each_line, journals_of, parse_fate
from trashbin.layout import EntryName
from trashbin.settle import settling
from trashbin.tasks import for_each

_AT_ONCE = 8
"""Records that are looked for in the trash at the same time."""

_LINE = b'{"what":'
"""How the line of a fate begins."""


class Became(enum.Enum):
    """What has become of something that was deleted."""

    IN_TRASH = "in_trash"
    RESTORED = "restored"
    PURGED = "purged"
    EXPIRED = "expired"
    OUTDATED = "outdated"
    """There were newer versions, as many as are kept."""
    NOT_KEPT = "not_kept"
    UNKNOWN = "unknown"
    """It is no longer in the trash, and nobody has written down why."""


_FATES = {
    one.value: one for one in (Became.RESTORED, Became.PURGED, Became.EXPIRED, Became.OUTDATED)
}


class Found(NamedTuple):
    """A record that fits, in the order of time."""

    deleted_ns: int
    id: str
    domain: Domain
    record: Record

    def __lt__(self, other: tuple[object, ...]) -> bool:
        return self[:2] < other[:2]


def found_of(domain: Domain, record: Record) -> Found:
    """Return a record with its time."""
    parsed = layout.parse_id(record.id)
    assert parsed is not None, "a record has an id"
    return Found(parsed[0], record.id, domain, record)


class Fates(NamedTuple):
    """What has become of some records."""

    there: dict[str, bytes]
    """Of those that lie in the trash, by id: which directory holds their hour."""
    later: dict[str, Fate]
    """What is written of others, by id."""

    def became(self, one: Found) -> Became:
        """Say what has become of one."""
        if one.record.why:
            return Became.NOT_KEPT
        if one.id in self.there:
            return Became.IN_TRASH
        fate = self.later.get(one.id)
        return Became.UNKNOWN if fate is None else _FATES.get(fate.what, Became.UNKNOWN)


async def fates_of(domain: Domain, journal: Journal, found: Sequence[Found]) -> Fates:
    """Find out what has become of records of one domain, given newest first."""
    kept = [one for one in found if not one.record.why]
    there = await _in_trash(domain, kept)
    left = [one for one in kept if one.id not in there]
    return Fates(there, await _later(domain, journal, left) if left else {})


async def _later(domain: Domain, journal: Journal, left: Sequence[Found]) -> dict[str, Fate]:
    """Read what is written of records that are no longer in the trash, given newest first."""
    fates = _Collected(left)
    for line in journal.unwritten(domain.root.ino):
        fates.take(line if isinstance(line, Fate) else None)

    def take(line: bytes) -> None:
        if line.startswith(_LINE):
            fates.take(parse_fate(line))

    first = layout.hour_name(left[-1].deleted_ns)
    async with settling(domain):
        for name in await journals_of(domain):
            if name.hour >= first:
                await each_line(domain, name, take)
    return fates.found


class _Collected:
    """Collects what became of some records, given newest first."""

    def __init__(self, records: Sequence[Found]) -> None:
        self._records = list(reversed(records))
        self._by_hour: dict[str, list[Found]] = defaultdict(list)
        for one in self._records:
            self._by_hour[layout.hour_name(one.deleted_ns).decode()].append(one)
        self._by_id = {one.id: one for one in self._records}
        self.found: dict[str, Fate] = {}

    def take(self, fate: Fate | None) -> None:
        """Note what became of those that a line is about; what was done by somebody counts more."""
        if fate is None:
            return
        if fate.hour:
            for one in self._by_hour.get(fate.hour, ()):
                self.found.setdefault(one.id, fate)
            return
        for one in self._about(fate):
            known = self.found.get(one.id)
            if known is None or known.hour or known.at_ns < fate.at_ns:
                self.found[one.id] = fate

    def _about(self, fate: Fate) -> Iterable[Found]:
        """Return the records of what was in a tree."""
        top = self._by_id.get(fate.id)
        if top is not None:
            yield top
        parsed = layout.parse_id(fate.id)
        if parsed is None or not fate.path:
            return
        start = bisect.bisect_left(self._records, fate.began_ns, key=_deleted_ns)
        end = bisect.bisect_right(self._records, parsed[0], key=_deleted_ns)
        for one in self._records[start:end]:
            same_run = one.id.rpartition(".")[2] == parsed[1]
            if same_run and one.record.path.startswith(fate.path + b"/"):
                yield one


def _deleted_ns(one: Found) -> int:
    return one.deleted_ns


async def _in_trash(domain: Domain, records: Iterable[Found]) -> dict[str, bytes]:
    """Return where those lie that are in the trash, by id."""
    there: dict[str, bytes] = {}

    async def one(found: Found) -> None:
        above = await _holder(domain, found)
        if above is not None:
            there[found.id] = above

    async with settling(domain):
        await for_each(records, one, at_once=_AT_ONCE)
    return there


async def _holder(domain: Domain, found: Found) -> bytes | None:
    """Return which directory holds the hour that a record's entry lies in; None if it is gone."""
    entry = _entry_of(found)
    for above in directories_of_hours(domain):
        is_tombs = layout.is_tombs(above)
        tomb = (layout.tomb_name(entry, Ino(found.record.ino)),)
        *upper, leaf = tomb if is_tombs else entry.path
        try:
            async with directory_at(domain, above, entry.hour, *upper) as node:
                if await exists(domain.storage, node, leaf):
                    return above
        except NotFoundError:
            continue
    return None


def _entry_of(found: Found) -> EntryName:
    record = found.record
    instance = found.id.rpartition(".")[2]
    name = record.path.rpartition(b"/")[2]
    return EntryName(found.deleted_ns, instance, record.uid, Ino(record.parent), name)
