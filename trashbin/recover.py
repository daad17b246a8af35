"""Recovery: what a gateway that died left half done.

Each of these shows in the trash itself:

* a restore: its run is still in `restoring/`. It is finished or undone, unless its gateway lives,
  which then holds the run's lock;
* a rename-over: the entry was linked, the rename never came. Its inode still has its name, and the
  entry is dropped. The same for the tombstone of a directory. Only what a dead instance left is
  looked at, since a living one may be between the two steps;
* an entry of an inode with other names, for which a tombstone should stand;
* entries without a record in the journal, which is written a moment later: where they were is
  found out from the inode of their directory;
* small files that were being written, and empty ones that were to replace a truncated file.

Running it again, or on two gateways at once, does no harm.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence

from cephfs_ext.core.errors import FSError, NotFoundError
from cephfs_ext.core.ports import Node, Storage
from trashbin import layout, links, tombs
from trashbin.catalog import (
    Item,
    NameOfHour,
    directories_of_hours,
    is_there,
    names_of_hour,
    scan_some,
    without_stand_ins,
)
from trashbin.domain import Domain, directory_at
from trashbin.files import names_in, read_record, remove_old_staged, remove_quietly
from trashbin.journal import Record, read_records
from trashbin.layout import EntryName
from trashbin.paths import Parents, open_parents, write_lost_records
from trashbin.runs import PLAN, Plan, decode_plan, remove_run, undo
from trashbin.settle import settling

_log = logging.getLogger(__name__)

_HOURS_BACK = 2
"""How many past hours are searched for what an instance left that never wrote a journal."""

_FINISHED_LATER = ("link", "replaced")
"""Kinds of deletes that may have something to do after their record was taken."""

_BUSY_NS = 60_000_000_000
"""How long that may take."""


async def recover(domain: Domain, dead_instances: Collection[str]) -> None:
    """Finish or undo what dead gateways left in one domain."""
    async with settling(domain):
        await recover_restores(domain, dead_instances)
        for instance in dead_instances:
            await _recover_instance(domain, instance)
    await _drop_fresh_files(domain, dead_instances)
    for staging in (domain.trash, domain.service(layout.JOBS)):
        await remove_old_staged(domain.storage, staging)


def _instance_of(made: bytes) -> str:
    """Return which instance made something whose name is an id."""
    return made.rpartition(b".")[2].decode(errors="replace")


async def _drop_fresh_files(domain: Domain, dead_instances: Collection[str]) -> None:
    """Remove the empty files that dead gateways had made for truncated ones, and not used."""
    for above in directories_of_hours(domain):
        with contextlib.suppress(NotFoundError):
            async with directory_at(domain, above, layout.FRESH) as node:
                for name in await names_in(domain.storage, node):
                    if _instance_of(name) in dead_instances:
                        await remove_quietly(domain.storage, node, name)


async def recover_restores(domain: Domain, dead_instances: Collection[str] = ()) -> None:
    """Finish or undo the restores whose gateways have died.

    Args:
        dead_instances: known to be dead: their locks are waited for, if they are still held (on
            ceph until their lease is over). What else is locked belongs to a gateway that lives.
    """
    restoring = domain.service(layout.RESTORING)
    for run in await names_in(domain.storage, restoring):
        try:
            is_dead = _instance_of(run) in dead_instances
            await _recover_run(domain, restoring, run, is_dead=is_dead)
        except NotFoundError:
            continue  # it has just ended
        except FSError as exc:
            _log.warning("restore %r could not be brought to its end: %s", run, exc)


async def _recover_run(domain: Domain, restoring: Node, run: bytes, *, is_dead: bool) -> None:
    storage = domain.storage
    aside = (await storage.resolve(restoring, run)).node
    try:
        lock = storage.exclusive(aside) if is_dead else await storage.try_exclusive(aside)
        if lock is None:
            return  # its gateway lives
        async with lock:
            await undo(domain, await _plan_of(storage, aside), aside)
        await remove_run(storage, restoring, run)
        _log.info("restore %r of a dead gateway was brought to its end", run)
    finally:
        storage.forget(aside)


async def _plan_of(storage: Storage, aside: Node) -> Plan | None:
    """Return the plan of a run; None if it died before it had one.

    Raises:
        FSError: it can't be read.
    """
    try:
        raw = await read_record(storage, aside, PLAN, limit=1 << 16)
    except NotFoundError:
        return None
    plan = decode_plan(raw)
    if plan is None:
        raise FSError(what="its plan can't be read")
    return plan


async def _recover_instance(domain: Domain, instance: str) -> None:
    """Bring to an end what one instance was doing when it died."""
    hours = await _last_hours(domain, instance)
    records = await read_records(domain, hours=hours, instance=instance)
    unsettled = await _unsettled(domain, hours, instance, records)
    items = without_stand_ins(unsettled)
    async with open_parents(domain, items, records) as parents:
        lost: list[Item] = []
        for item in items:
            recorded = item.entry.id in records
            if not recorded and await _was_never_deleted(domain, item, parents):
                _log.info("%s was never deleted; the trash has no part in it now", item.entry.id)
                continue
            if not item.is_dir and item.nlink > 1:
                await links.bury_link(domain, item.above, item.entry)
            if not recorded:
                lost.append(item)
        await write_lost_records(domain, instance, lost, parents)
    await _drop_stand_ins(domain, unsettled)


async def _last_hours(domain: Domain, instance: str) -> list[bytes]:
    """Return the hours in which an instance deleted last."""
    hours = []
    for name in await names_in(domain.storage, domain.service(layout.JOURNAL)):
        journal = layout.parse_journal(name)
        if journal is not None and journal.instance == instance:
            hours.append(journal.hour)
    last = max(hours, default=layout.hour_name(time.time_ns()))
    return [layout.hour_plus(last, hours) for hours in range(-_HOURS_BACK, 2)]


async def _unsettled(
    domain: Domain, hours: Sequence[bytes], instance: str, records: Mapping[str, Record]
) -> list[Item]:
    """Read those entries of an instance that it may not have been done with."""
    found: list[tuple[bytes, bytes, list[tuple[EntryName, NameOfHour]]]] = []
    newest_ns = 0
    for hour in hours:
        for above in directories_of_hours(domain):
            mine = []
            for name in await names_of_hour(domain, above, hour):
                entry = layout.parse_entry(name.name)
                if entry is not None and entry.instance == instance:
                    mine.append((entry, name))
                    newest_ns = max(newest_ns, entry.deleted_ns)
            found.append((above, hour, mine))

    def is_settled(entry: EntryName) -> bool:
        record = records.get(entry.id)
        unfinished = record is None or record.kind in _FINISHED_LATER
        return not unfinished or (record is not None and newest_ns - entry.deleted_ns > _BUSY_NS)

    items: list[Item] = []
    for above, hour, mine in found:
        names = [name for entry, name in mine if not is_settled(entry)]
        items += await scan_some(domain, above, hour, names)
    return items


async def _was_never_deleted(domain: Domain, item: Item, parents: Parents) -> bool:
    """Take out of the trash what still has its name, if the gateway died before the rename."""
    is_dir_tomb = item.tomb is not None and item.tomb.kind == "dir"
    if not is_dir_tomb and (item.is_dir or item.nlink < 2):
        return False  # it can have no other name
    parent = await parents.node(item.entry.parent)
    if parent is None:
        return False
    if not is_dir_tomb:
        return await links.take_back(domain, item.above, item.entry, item.ino, parent)
    if not await links.has_name(domain.storage, parent, item.entry.name, item.ino):
        return False
    await tombs.exhume(domain, item.entry, item.ino, layout.term_of(item.above))
    return True


async def _drop_stand_ins(domain: Domain, items: Sequence[Item]) -> None:
    """Remove tombstones beside the entries that they were to take the place of."""
    entries = {item.entry.id: item for item in items if item.tomb is None}
    for tomb in items:
        item = entries.get(tomb.entry.id)
        if tomb.tomb is not None and item is not None and await is_there(domain, item):
            await tombs.exhume(domain, tomb.entry, tomb.ino, layout.term_of(tomb.above))
