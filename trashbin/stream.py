"""What is in all trashes, newest tree first, read as far as somebody asks for.

Only the hours that are being looked at are in memory, as rows. Where a tree was is read for those
that fit what names say; what its inodes are like for those that are shown or brought back.

Concurrency: a stream is one task's.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from cephfs_ext.core.types import Ino
from trashbin import layout
from trashbin.bundles import Bundle, Part, Window
from trashbin.catalog import Damaged, Item, damaged_of, directories_of_hours, hours_of
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.journal import Journal, Record, records_at
from trashbin.loading import Hour, load, look_at
from trashbin.paths import below, open_parents
from trashbin.placing import Caller
from trashbin.rows import NOWHERE, Rows
from trashbin.settle import settling
from trashbin.totals import Totals, in_directory
from trashbin.trees import Tree

_Items = dict[Part, Item]

_BATCH = 256
"""Trees that are read up together."""

_LOOKED_AT = 1_024
"""Parts of a tree that are looked at in one go."""


class Wanted(NamedTuple):
    """Which trees are asked for."""

    below: bytes = b""
    since_ns: int | None = None
    until_ns: int | None = None
    deleter_uid: int | None = None
    glob: str | None = None
    event: str | None = None
    held: bool = False
    """Only what somebody holds."""

    def may_fit(self, bundle: Bundle) -> bool:
        """Tell whether a tree fits, as far as rows know."""
        rows, row, _ = bundle.top
        deleted_ns = rows.time_ns(row)
        return (
            (self.since_ns is None or deleted_ns >= self.since_ns)
            and (self.until_ns is None or deleted_ns <= self.until_ns)
            and (self.deleter_uid is None or rows.uid(row) == self.deleter_uid)
            and (self.glob is None or fnmatch.fnmatch(rows.name(row), self.glob.encode()))
            and (self.event is None or any(r.is_wanted(n) for r, n, _ in bundle.parts()))
            and (not self.held or held_entries(bundle) > 0)
        )

    def fits(self, path: bytes | None) -> bool:
        """Tell whether a tree that was at a path fits."""
        path = path or b""
        return not self.below or path == self.below or path.startswith(self.below + b"/")


class Sighting(NamedTuple):
    """A tree that was seen in the trash."""

    domain: Domain
    bundle: Bundle
    path: bytes | None
    """Relative to the served root; None if it isn't known."""
    record: Record | None


class Stream:
    """One reading of the trash."""

    def __init__(
        self,
        domains: Domains,
        journal: Journal,
        caller: Caller,
        wanted: Wanted,
        *,
        gap_ns: int,
        damaged: list[Damaged],
    ) -> None:
        """Keep what is needed.

        Args:
            damaged: takes what can't be read, of the hours that are looked at.
        """
        self._domains = domains
        self._journal = journal
        self._caller = caller
        self._wanted = wanted
        self._gap_ns = gap_ns
        self._damaged = damaged

    async def sightings(self) -> AsyncGenerator[Sighting]:
        """Yield the trees that fit, newest first."""
        readers = []
        for domain in await self._domains.all():
            self._damaged += await damaged_of(domain)
            readers.append(_Reader(self, domain, await _hours_of(domain)))
        for hour in sorted({hour for one in readers for hour in one.hours}, reverse=True):
            if self._wanted.since_ns is not None and _end_ns(hour) <= self._wanted.since_ns:
                return
            async with contextlib.aclosing(_merged(readers, hour)) as sightings:
                async for sighting in sightings:
                    yield sighting

    async def load(self, domain: Domain, hour: bytes) -> Hour:
        """Read an hour."""
        root = domain.root.ino
        return await load(
            domain,
            hour,
            self._caller,
            lambda: self._journal.waiting(root),
            self._wanted.event,
            self._damaged,
        )

    @property
    def gap_ns(self) -> int:
        """Longest pause of one delete, where the process isn't known."""
        return self._gap_ns

    @property
    def wanted(self) -> Wanted:
        """Which trees are asked for."""
        return self._wanted

    def prefix(self, domain: Domain) -> bytes:
        """Return where a domain starts."""
        return self._domains.path_of(domain)


def _end_ns(hour: bytes) -> int:
    end_s = layout.hour_end_s(hour)
    assert end_s is not None
    return end_s * 1_000_000_000


async def _hours_of(domain: Domain) -> set[bytes]:
    """Return the hours in which something of a domain may lie."""
    hours: set[bytes] = set()
    for above in directories_of_hours(domain):
        hours.update(await hours_of(domain, above))
    return {hour for hour in hours if layout.hour_end_s(hour) is not None}


async def _merged(readers: Sequence[_Reader], hour: bytes) -> AsyncGenerator[Sighting]:
    """Yield what all domains have of an hour, newest first."""
    async with contextlib.AsyncExitStack() as stack:
        heads: list[tuple[Sighting, AsyncGenerator[Sighting]]] = []
        for reader in readers:
            if hour in reader.hours:
                source = await stack.enter_async_context(
                    contextlib.aclosing(reader.sightings(hour))
                )
                head = await anext(source, None)
                heads += [] if head is None else [(head, source)]
        while heads:
            at = max(range(len(heads)), key=lambda number: _time_ns(heads[number][0]))
            sighting, source = heads[at]
            yield sighting
            head = await anext(source, None)
            heads[at : at + 1] = [] if head is None else [(head, source)]


def _time_ns(sighting: Sighting) -> int:
    rows, row, _ = sighting.bundle.top
    return rows.time_ns(row)


class _Reader:
    """Reads one domain."""

    def __init__(self, stream: Stream, domain: Domain, hours: set[bytes]) -> None:
        self._stream = stream
        self._domain = domain
        self.hours = hours
        self._loaded: dict[bytes, Hour] = {}
        self._window = Window(self._load, stream.gap_ns)

    async def _load(self, name: bytes) -> Rows:
        if name not in self.hours:
            return Rows(name, ())
        self._loaded[name] = await self._stream.load(self._domain, name)
        return self._loaded[name].rows

    async def sightings(self, hour: bytes) -> AsyncGenerator[Sighting]:
        """Yield what is in an hour and fits, newest first."""
        batch: list[Bundle] = []
        size = 1  # the newest is what most ask for
        async with contextlib.aclosing(self._window.bundles(hour)) as bundles:
            async for bundle in bundles:
                if self._stream.wanted.may_fit(bundle):
                    batch.append(bundle)
                if len(batch) >= size:
                    for sighting in await self._seen(batch):
                        yield sighting
                    batch, size = [], min(2 * size, _BATCH)
        for sighting in await self._seen(batch):
            yield sighting
        self._loaded = {name: one for name, one in self._loaded.items() if name < hour}

    async def _seen(self, bundles: Sequence[Bundle]) -> list[Sighting]:
        """Find out where trees were, and return those that fit."""
        prefix = self._stream.prefix(self._domain)
        tops = [bundle.top for bundle in bundles]
        records = await self._records(tops)
        paths = await self._paths([top for top, one in zip(tops, records, strict=True) if not one])
        result = []
        for bundle, record in zip(bundles, records, strict=True):
            path = record.path if record else paths.get(bundle.top)
            path = None if path is None else prefix + path
            if self._stream.wanted.fits(path):
                result.append(Sighting(self._domain, bundle, path, record))
        return result

    async def _records(self, parts: Sequence[Part]) -> list[Record | None]:
        """Return the records of entries."""
        spots: dict[tuple[bytes, int], set[int]] = defaultdict(set)
        for rows, row, _ in parts:
            spot = rows.spot(row)
            if spot is not None and spot.journal != NOWHERE:
                spots[rows.hour, spot.journal].add(spot.offset)
        found = {}
        for (name, number), offsets in spots.items():
            journal = self._loaded[name].journals[number]
            found[name, number] = await records_at(self._domain, journal, offsets)
        return [self._record(rows, row, found) for rows, row, _ in parts]

    def _record(
        self, rows: Rows, row: int, found: dict[tuple[bytes, int], dict[int, Record]]
    ) -> Record | None:
        spot = rows.spot(row)
        if spot is None:
            return None
        if spot.journal == NOWHERE:
            return self._loaded[rows.hour].waiting_for(row)
        return found[rows.hour, spot.journal].get(spot.offset)

    async def _paths(self, parts: Sequence[Part]) -> dict[Part, bytes]:
        """Find out where entries were whose records are lost: from what is known of others."""
        if not parts:
            return {}
        known = await self._known_of({rows.parent(row) for rows, row, _ in parts})
        items = (await look_at_parts(self._domain, known)).values()
        records = {one.id: one for one in await self._records(known) if one is not None}
        paths = {}
        async with open_parents(self._domain, items, records, searches=0) as parents:
            for part in parts:
                entry = part.rows.entry(part.row)
                above = await parents.path(entry.parent)
                if above is not None:
                    paths[part] = below(above, entry.name)
        return paths

    async def _known_of(self, inos: set[Ino]) -> list[Part]:
        """Return entries that say where directories were: those, and what else was in them."""
        known, wanted = [], set(inos)
        while wanted:
            above: set[Ino] = set()
            for hour in self._loaded.values():
                rows = hour.rows
                for ino in wanted:
                    row = rows.directory(ino, len(rows))
                    if row is not None:
                        known.append(Part(rows, row, 0))
                        above.add(rows.parent(row))
                some = await rows.recorded_below(wanted)
                known += [Part(rows, row, 0) for row in some]
            inos |= wanted
            wanted = above - inos
        return known


async def seen_parts(domain: Domain, parts: Iterable[Part]) -> dict[Part, Item]:
    """Return entries as the listing of their hour had them, and look at the others."""
    seen = {part: part.rows.item(part.row) for part in parts}
    result = {part: item for part, item in seen.items() if item is not None}
    return result | await look_at_parts(domain, seen.keys() - result.keys())


async def look_at_parts(domain: Domain, parts: Iterable[Part]) -> dict[Part, Item]:
    """Read entries; one that isn't there any more is left out."""
    wanted: dict[bytes, dict[int, Part]] = defaultdict(dict)
    for part in parts:
        wanted[part.rows.hour][part.row] = part
    result = {}
    for rows_of in wanted.values():
        rows = next(iter(rows_of.values())).rows
        async with settling(domain):
            items = await look_at(domain, rows, rows_of)
        result.update({rows_of[row]: item for row, item in items.items()})
    return result


async def _each_item(
    domain: Domain, bundle: Bundle, look: Callable[[Domain, Iterable[Part]], Awaitable[_Items]]
) -> AsyncGenerator[tuple[int, Item]]:
    """Yield the parts of a tree that are still there, as `look` has them, by their numbers."""
    for begin in range(0, len(bundle), _LOOKED_AT):
        numbers = range(begin, min(begin + _LOOKED_AT, len(bundle)))
        parts = {bundle.part(number): number for number in numbers}
        items = await look(domain, parts)
        for part, number in parts.items():
            if part in items:
                yield number, items[part]


async def tree_of(sighting: Sighting) -> Tree | None:
    """Return a tree with all that is in it; None if its top is gone."""
    trees: dict[int, Tree] = {}
    async for number, item in _each_item(sighting.domain, sighting.bundle, look_at_parts):
        above = sighting.bundle.part(number).above
        if number and above not in trees:
            continue
        trees[number] = Tree(item)
        if number:
            trees[above].children.append(trees[number])
    for number in sorted(trees, reverse=True):  # what was in a directory comes behind it
        container = trees[sighting.bundle.part(number).above]
        container.start_ns = min(container.start_ns, trees[number].start_ns)
    return trees.get(0)


async def totals_of(sighting: Sighting, top: Item) -> Totals:
    """Count a tree as `trashbin.totals.totals` does, a part of it at a time."""
    bundle = sighting.bundle
    if len(bundle) == 1:
        return await in_directory(sighting.domain, top)
    entries, size, several = 0, 0, {}
    stood_for = {rows.ino(row) for rows, row, _ in bundle.parts() if rows.is_tomb(row)}
    async for _, item in _each_item(sighting.domain, bundle, seen_parts):
        entries += 1
        if item.is_dir:
            continue
        if item.nlink > 1 or item.ino in stood_for:
            several[item.ino] = item.size
        else:
            size += item.size
    return Totals(entries, size + sum(several.values()))


def places_of(bundle: Bundle) -> set[tuple[bytes, bytes]]:
    """Return where the parts of a tree lie: a directory of hours, and an hour."""
    return {(rows.above(row), rows.hour) for rows, row, _ in bundle.parts()}


def held_entries(bundle: Bundle) -> int:
    """Return how many entries of a tree somebody holds."""
    return sum(layout.term_of(rows.above(row)).is_held for rows, row, _ in bundle.parts())
