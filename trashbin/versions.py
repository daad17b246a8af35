"""Versions: how many of one name in one directory are kept, where a policy limits it.

Of what lies in a shard with such a term the newest versions of each file stay. A version is told
by the names of the entries alone: parent inode and name. Directories, and names so long that they
lie in a directory of their own, aren't counted; nor is what a rename is about to replace, which
lies here beside its own place until it is replaced, or taken back. Of a group of shards with more
names than are counted the rest keeps all versions.

Concurrency: reads only; two gateways that find the same surplus do no harm, a claim is a rename.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import NamedTuple

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.limits import VERSIONS_COUNTED
from cephfs_ext.core.ports import Meter
from cephfs_ext.core.types import Ino
from trashbin import layout
from trashbin.catalog import directories_of_hours, hours_of, names_of_hour
from trashbin.domain import Domain, lying_in
from trashbin.layout import EntryName, Term

_SHARE = 0.05
"""How much of the time is spent on reading names, at most."""


_SETTLED_NS = 60_000_000_000
"""How long a rename that replaces something may take."""


class Surplus(NamedTuple):
    """One version that is more than is to be kept."""

    above: bytes
    hour: bytes
    name: bytes


class Versions:
    """Finds what is surplus in the trash of each domain."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._due_s: dict[Ino, float] = {}
        """When a domain is read again, by the inode of its root."""

    async def surplus(self, domain: Domain) -> AsyncIterator[Surplus]:
        """Yield the versions that are surplus; nothing if that was worked out a moment ago."""
        begun_s = time.monotonic()
        if begun_s < self._due_s.get(domain.root.ino, 0.0):
            return
        for (_, term), aboves in _groups(domain).items():
            assert term.versions is not None
            newest: Counter[tuple[Ino, bytes]] = Counter()
            async for above, hour, entry in _newest_first(domain, aboves):
                key = (entry.parent, entry.name)
                if key not in newest and len(newest) >= VERSIONS_COUNTED:
                    self._meter.count("versions_limit_reached_total")
                    continue
                if await _is_settled(domain, above, entry):
                    newest[key] += 1
                    if newest[key] > term.versions:
                        yield Surplus(above, hour, entry.path[0])
        now_s = time.monotonic()
        self._due_s[domain.root.ino] = now_s + (now_s - begun_s) / _SHARE


def _groups(domain: Domain) -> dict[tuple[int, Term], list[bytes]]:
    """Return the shards that have a limit, those of one number and term together.

    What was deleted from one directory lies in shards of one number, on whatever rank.
    """
    groups = defaultdict(list)
    for above in directories_of_hours(domain):
        shard = layout.parse_shard(above)
        if shard is not None and shard.term.versions is not None:
            groups[shard.number, shard.term].append(above)
    return groups


async def _newest_first(
    domain: Domain, aboves: list[bytes]
) -> AsyncIterator[tuple[bytes, bytes, EntryName]]:
    """Yield the files in some shards, the newest first."""
    hours = defaultdict(list)
    for above in aboves:
        for hour in await hours_of(domain, above):
            if layout.hour_end_s(hour) is not None:
                hours[hour].append(above)
    for hour in sorted(hours, reverse=True):
        found = []
        for above in hours[hour]:
            for name, is_dir in await names_of_hour(domain, above, hour):
                entry = layout.parse_entry(name)
                if entry is not None and entry.name and not is_dir:
                    found.append((entry.deleted_ns, above, entry))
        for _, above, entry in sorted(found, reverse=True):
            yield above, hour, entry


async def _is_settled(domain: Domain, above: bytes, entry: EntryName) -> bool:
    """Tell whether an entry is a version: it isn't while its inode may still be at its place."""
    if time.time_ns() - entry.deleted_ns > _SETTLED_NS:
        return True
    try:
        async with lying_in(domain, above, entry.hour, entry.path) as (hour, leaf):
            found = await domain.storage.lookup(hour, leaf)
    except NotFoundError:
        return False
    domain.storage.forget(found.node)
    return found.attr.nlink < 2
