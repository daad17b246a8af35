"""Reads an hour of a trash into rows: names, records, and where those aren't enough, inodes.

What belongs to nobody that asks, and what isn't settled yet, is left out before trees are made.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import trio

from cephfs_ext.core.errors import ExistsError, NotFoundError
from trashbin import layout
from trashbin.catalog import (
    Damaged,
    Item,
    directories_of_hours,
    find_again,
    for_each_directory,
    scan_some,
)
from trashbin.domain import Domain, directory_at
from trashbin.files import directory_in, listing
from trashbin.journal import Record, each_line, journals_of, parse_line
from trashbin.layout import JournalName
from trashbin.placing import Caller
from trashbin.rows import BREATH, NOWHERE, Rows, Spot
from trashbin.settle import settling
from trashbin.tasks import for_each

_AT_ONCE = 8
"""Directories that are listed, or looked into, at the same time."""

_LOOKED_AT = 256
"""Entries that are looked at in one go."""

_LOOKED_FOR = 64
"""How many of them are looked for elsewhere, if they aren't where they were seen."""

_ATTEMPTS = 2
"""How often an hour is read, where something in it turns out to be no longer where it was."""

_SETTLED_NS = 60_000_000_000
"""How long after a delete began its record may still be missing."""


class Hour(NamedTuple):
    """One hour of a trash."""

    rows: Rows
    journals: list[JournalName]
    """By the numbers that the rows have of them."""
    waiting: Mapping[str, Record]
    """Records that were not on disk yet, by the ids of entries."""

    def waiting_for(self, row: int) -> Record | None:
        """Return the record of a row, if it was not on disk yet."""
        return self.waiting.get(self.rows.entry(row).id) if self.waiting else None


async def load(
    domain: Domain,
    hour: bytes,
    caller: Caller,
    waiting: Callable[[], Mapping[str, Record]],
    event: str | None,
    damaged: list[Damaged],
) -> Hour:
    """Read what the caller may see of an hour, anew if something in it has moved meanwhile.

    Args:
        waiting: returns records of the domain that may not be on disk yet.
        event: the delete event whose entries are wanted.
        damaged: takes what can't be read.
    """
    async with settling(domain):
        for _ in range(_ATTEMPTS):
            found = set[Damaged]()
            rows = await _names_of(domain, hour, found)
            journals = await journals_of(domain, hours=(hour,))
            loaded, is_stale = Hour(rows, journals, dict(_of(hour, waiting()))), False
            if len(rows):
                await _read_records(domain, loaded, event)
                is_stale = await _look_at_some(domain, loaded, caller, found)
                await rows.leave_out_twins()
            if not is_stale:
                break
    damaged += sorted(found)
    return loaded


async def _names_of(domain: Domain, hour: bytes, damaged: set[Damaged]) -> Rows:
    rows = Rows(hour, directories_of_hours(domain))

    async def one(number: int, above: bytes) -> None:
        await _read_names(domain, rows, number, above, damaged)

    await for_each_directory(rows.aboves, one)
    await rows.sort()
    return rows


def _of(hour: bytes, waiting: Mapping[str, Record]) -> Iterable[tuple[str, Record]]:
    for entry_id, record in waiting.items():
        parsed = layout.parse_id(entry_id)
        if parsed is not None and layout.hour_name(parsed[0]) == hour:
            yield entry_id, record


async def _read_names(
    domain: Domain, rows: Rows, number: int, above: bytes, damaged: set[Damaged]
) -> None:
    storage, hour = domain.storage, rows.hour
    with contextlib.suppress(NotFoundError):
        try:
            async with directory_at(domain, above) as node:
                found = await directory_in(storage, node, hour)
        except ExistsError:
            damaged.add(Damaged(above + b"/" + hour, "no directory"))
            return
        try:
            async with listing(storage, found.node, plus=storage.lists_attributes) as entries:
                async for entry, there in entries:
                    attr = None
                    if there is not None:
                        storage.forget(there.node)
                        attr = there.attr
                    is_known = rows.add(number, entry.name, entry.ino, entry.kind, attr)
                    if not is_known and not _is_ours(above, entry.name):
                        path = b"/".join((above, hour, entry.name))
                        damaged.add(Damaged(path, _why(above)))
        finally:
            storage.forget(found.node)


def _is_ours(above: bytes, name: bytes) -> bool:
    """Tell whether a name is no entry's, but has its place there."""
    is_note = above == layout.NOTES and layout.parse_note(name) is not None
    return name.startswith(layout.STAGED) or is_note


def _why(above: bytes) -> str:
    return f"no name of {'a tombstone' if layout.is_tombs(above) else 'an entry'}"


async def _read_records(domain: Domain, hour: Hour, event: str | None) -> None:
    rows = hour.rows
    for record in hour.waiting.values():
        _note(rows, record, Spot(NOWHERE, 1), event)
    for number, journal in enumerate(hour.journals):
        offset = 0

        def take(line: bytes, number: int = number) -> None:
            nonlocal offset
            record = parse_line(line)
            if record is not None and not record.why:
                _note(rows, record, Spot(number, offset), event)
            offset += len(line) + 1

        await each_line(domain, journal, take)


def _note(rows: Rows, record: Record, spot: Spot, event: str | None) -> None:
    parsed = layout.parse_id(record.id)
    assert parsed is not None, "a record has an id"
    for row in rows.find(*parsed):
        rows.note(row, spot, record.pid, is_wanted=event is not None and record.event == event)


async def _look_at_some(domain: Domain, hour: Hour, caller: Caller, damaged: set[Damaged]) -> bool:
    """Look at what can't be told from names: what it is, whose it is, whether it is settled.

    Returns:
        True if something was gone: it has left the trash, or is elsewhere in it.
    """
    rows, some, is_stale = hour.rows, list[int](), False
    since_ns = time.time_ns() - _SETTLED_NS
    for row in range(len(rows)):
        if row % BREATH == 0:
            await trio.lowlevel.checkpoint()
        if not rows.is_left_out(row):
            belongs = _belongs(rows, row, caller)
            if belongs is False:
                rows.leave_out(row)
            elif not belongs or rows.is_unclear(row) or _may_be_unsettled(rows, row, since_ns):
                some.append(row)
        if len(some) == _LOOKED_AT or (some and row == len(rows) - 1):
            unreadable: list[Damaged] = []
            items = await look_at(domain, rows, some, unreadable)
            for one in some:
                _take(rows, one, items.get(one), caller, since_ns)
            found = {item.entry.id for item in items.values()}
            gone = {rows.entry(row).id for row in some} - found
            is_stale |= len(gone) > len(unreadable)
            damaged.update(unreadable)
            some = []
    return is_stale


def _belongs(rows: Rows, row: int, caller: Caller) -> bool | None:
    """Tell whether somebody may see an entry; None if it has to be looked at to know."""
    if caller.everything or rows.uid(row) == caller.cred.uid:
        return True
    item = rows.item(row)
    return None if item is None else item.belongs_to(caller.cred)


def _may_be_unsettled(rows: Rows, row: int, since_ns: int) -> bool:
    """Tell whether a rename may be about to replace the file, which then has both its names.

    The record comes after the rename; so does, where the gateway has died, the recovery.
    """
    recent = rows.time_ns(row) >= since_ns and rows.spot(row) is None
    return recent and not rows.is_dir(row) and not rows.is_tomb(row)


def _take(rows: Rows, row: int, item: Item | None, caller: Caller, since_ns: int) -> None:
    if item is None or not _may_be_shown(rows, row, item, caller, since_ns):
        rows.leave_out(row)
    elif rows.is_unclear(row):
        rows.complete(row, item)


def _may_be_shown(rows: Rows, row: int, item: Item, caller: Caller, since_ns: int) -> bool:
    has_both_names = item.nlink > 1 and _may_be_unsettled(rows, row, since_ns)
    return (caller.everything or item.belongs_to(caller.cred)) and not has_both_names


async def look_at(
    domain: Domain, rows: Rows, some: Iterable[int], damaged: list[Damaged] | None = None
) -> dict[int, Item]:
    """Read the entries of some rows, wherever in the trash they are by now.

    One that isn't there any more is left out; of very many, without looking for it elsewhere.
    """
    wanted: dict[bytes, dict[tuple[str, bool], int]] = defaultdict(dict)
    for row in some:
        wanted[rows.above(row)][rows.entry(row).id, rows.is_tomb(row)] = row
    found: dict[int, Item] = {}

    async def one(above: bytes) -> None:
        rows_of = wanted[above]
        names = [rows.named(row) for row in rows_of.values()]
        for item in await scan_some(domain, above, rows.hour, names, damaged):
            row = rows_of.get((item.entry.id, item.tomb is not None))
            if row is not None:
                found[row] = item

    await for_each(list(wanted), one, at_once=_AT_ONCE)
    gone = [row for rows_of in wanted.values() for row in rows_of.values() if row not in found]
    for row in gone[:_LOOKED_FOR]:
        item = await find_again(domain, rows.entry(row), rows.ino(row), is_dir=rows.is_dir(row))
        if item is not None:
            found[row] = item
    return found
