"""What somebody deleted last, from the ends of the journals, however much there is.

The journal says what may be the newest, the directory whether it is still there.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import NamedTuple

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.types import Ino
from trashbin import layout
from trashbin.catalog import Item, NameOfHour, directories_of_hours, scan_some
from trashbin.domain import Domain
from trashbin.journal import Record, journals_of, parse_line, parts_backwards
from trashbin.layout import EntryName, JournalName
from trashbin.settle import settling

_AT_ONCE = 64
"""Records that are taken from each journal at a time; they aren't quite in the order of deletes."""

_LOOKED_FOR = 512
"""Entries that are looked for at most; if all are gone, the trash itself has to be read."""


class Latest(NamedTuple):
    """What was deleted last."""

    domain: Domain
    item: Item
    record: Record


async def latest(domain: Domain, waiting: Mapping[str, Record], uid: int | None) -> Latest | None:
    """Return the newest that a user (None: anybody) deleted from a domain and that is still there.

    None if the journal doesn't say.
    """
    looked_for = 0
    async with (
        settling(domain),
        contextlib.aclosing(_newest_first(domain, waiting, uid)) as records,
    ):
        async for record in records:
            item = await _item_of(domain, record)
            if item is not None:
                return Latest(domain, item, record)
            looked_for += 1
            if looked_for == _LOOKED_FOR:
                break
    return None


async def _newest_first(
    domain: Domain, waiting: Mapping[str, Record], uid: int | None
) -> AsyncGenerator[Record]:
    """Yield the records of a user, nearly in the order of their deletes."""
    journals: dict[bytes, list[JournalName]] = {}
    for journal in await journals_of(domain):
        journals.setdefault(journal.hour, []).append(journal)
    early: dict[bytes, list[Record]] = {}
    for record in waiting.values():
        if uid in (None, record.uid):
            early.setdefault(_hour_of(record), []).append(record)
    for hour in sorted({*journals, *early}, reverse=True):
        async with contextlib.AsyncExitStack() as stack:
            sources = [
                await stack.enter_async_context(contextlib.aclosing(_backwards(domain, one, uid)))
                for one in _last_parts(journals.get(hour, []))
            ]
            mixed = _mixed(sources, early.get(hour, []))
            async for record in await stack.enter_async_context(contextlib.aclosing(mixed)):
                yield record


async def _mixed(
    sources: list[AsyncGenerator[Record]], gathered: list[Record]
) -> AsyncGenerator[Record]:
    while sources or gathered:
        for source in list(sources):
            some = await _some(source)
            gathered += some
            if len(some) < _AT_ONCE:
                sources.remove(source)
        for record in sorted(gathered, key=lambda one: one.id, reverse=True):
            yield record
        gathered = []


def _last_parts(journals: list[JournalName]) -> list[list[JournalName]]:
    """Return the journals of each instance, the last part of each first."""
    of_instance: dict[str, list[JournalName]] = {}
    for journal in reversed(journals):
        of_instance.setdefault(journal.instance, []).append(journal)
    return list(of_instance.values())


async def _backwards(
    domain: Domain, journals: list[JournalName], uid: int | None
) -> AsyncGenerator[Record]:
    sign = b"" if uid is None else b'"uid":%d,' % uid
    for journal in journals:
        async with contextlib.aclosing(parts_backwards(domain, journal)) as parts:
            async for lines in parts:
                for line in reversed(lines):
                    record = parse_line(line) if sign in line else None
                    if record is not None and not record.why and uid in (None, record.uid):
                        yield record


async def _some(source: AsyncGenerator[Record]) -> list[Record]:
    """Take the next of a source; fewer than `_AT_ONCE` at its end."""
    taken: list[Record] = []
    async for record in source:
        taken.append(record)
        if len(taken) == _AT_ONCE:
            break
    return taken


def _hour_of(record: Record) -> bytes:
    parsed = layout.parse_id(record.id)
    assert parsed is not None, "a record has an id"
    return layout.hour_name(parsed[0])


async def _item_of(domain: Domain, record: Record) -> Item | None:
    """Look for what a record is of, in all places where it may lie."""
    parsed = layout.parse_id(record.id)
    assert parsed is not None, "a record has an id"
    name = record.path.rpartition(b"/")[2]
    entry = EntryName(*parsed, record.uid, Ino(record.parent), name)
    there: list[Item] = []
    for above in directories_of_hours(domain):
        is_tomb = layout.is_tombs(above)
        raw = layout.tomb_name(entry, Ino(record.ino)) if is_tomb else entry.path[0]
        is_dir = not is_tomb and (record.kind in ("dir", "tree") or len(entry.path) > 1)
        with contextlib.suppress(NotFoundError):
            there += await scan_some(domain, above, entry.hour, [NameOfHour(raw, is_dir)])
    entries = [item for item in there if item.tomb is None]
    return next(iter(entries or there), None)
