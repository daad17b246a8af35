"""The trail: what the journals say of who deleted what.

Journals are read from the newest hour back, each line by line, and only as many records are kept
in memory as are asked for: they may have millions of lines, of which most are passed over by what
they look like. What is not on disk yet is taken before, so that nothing is missing.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from cephfs_ext.core.limits import AUDIT_ROWS
from trashbin import layout
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.expire import Expiry
from trashbin.fates import Became, Found, fates_of, found_of
from trashbin.journal import Fate, Journal, Record, each_line, journals_of
from trashbin.layout import JournalName
from trashbin.placing import Caller
from trashbin.questions import Fitting, Question
from trashbin.settle import settling

_NS = 1_000_000_000


class Deed(NamedTuple):
    """One delete, and what has become of it."""

    record: Record
    path: bytes
    """Relative to the served root."""
    became: Became
    fate: Fate | None
    """Who restored or purged it, and when; or when it expired."""
    expires_s: float | None
    """When what is in the trash leaves it; None if it is held, or isn't there."""


class Answer(NamedTuple):
    """What was found, newest first."""

    deeds: list[Deed]
    more: bool
    """True if there may be older ones, which were left out."""


class Event(NamedTuple):
    """A delete event, as far as it fits what was asked for."""

    newest: Record
    path: bytes
    """Of the newest, relative to the served root."""
    first_ns: int
    last_ns: int
    names: int
    """How many were deleted, or truncated."""
    size: int
    """Bytes of the files."""
    not_kept: int
    """How many of the names were not kept."""


class Events(NamedTuple):
    """What was found, newest first."""

    events: list[Event]
    more: bool
    """True if there may be older ones, which were left out."""


_Take = Callable[[Domain, Record], None]


class Trail:
    """Answers questions about deletes.

    Everybody may know of what they deleted or owned: docs/semantics.md [audit-4].
    """

    def __init__(self, domains: Domains, journal: Journal, expiry: Expiry) -> None:
        self._domains = domains
        self._journal = journal
        self._expiry = expiry

    async def ask(self, caller: Caller, question: Question) -> Answer:
        """Find the newest deletes that fit and that the caller may know of."""
        newest = _Newest(min(question.limit, AUDIT_ROWS))
        reading = await self._reading(caller, question)
        complete = await reading.back(newest.take, newest.has_no_room_for)
        found = newest.sorted()
        deeds: dict[str, Deed] = {}
        for domain in {one.domain for one in found}:
            deeds.update(await self._deeds(domain, [one for one in found if one.domain is domain]))
        return Answer([deeds[one.id] for one in found], newest.left_out or not complete)

    async def events(self, caller: Caller, question: Question) -> Events:
        """Find the newest delete events that have something that fits, and count that.

        What was deleted by gateways that knew no events isn't among it.
        """
        newest = _NewestEvents(min(question.limit, AUDIT_ROWS))
        reading = await self._reading(caller, question)
        complete = await reading.back(newest.take, newest.has_no_room_for)
        tally = _Tally(newest.ids())
        if newest.ids():
            again = await self._reading(caller, question)
            begun = layout.hour_plus(layout.hour_name(newest.began_ns()), -1)
            await again.back(tally.take, lambda hour: hour < begun)
        events = [self._event(counted) for counted in tally.counted.values()]
        events.sort(key=lambda event: event.last_ns, reverse=True)
        return Events(events, newest.left_out or not complete)

    def _event(self, counted: _Counted) -> Event:
        newest = counted.newest
        path = self._domains.path_of(newest.domain) + newest.record.path
        return Event(
            newest.record,
            path,
            counted.first_ns,
            newest.deleted_ns,
            counted.names,
            counted.size,
            counted.not_kept,
        )

    async def _reading(self, caller: Caller, question: Question) -> _Reading:
        reading = _Reading(self._journal, question.since_ns)
        for domain in await self._domains.all():
            fitting = Fitting.of(question, caller, self._domains.path_of(domain))
            if fitting is not None:
                await reading.add(domain, fitting)
        return reading

    async def _deeds(self, domain: Domain, found: list[Found]) -> dict[str, Deed]:
        """Find out what has become of records of one domain, given newest first."""
        fates = await fates_of(domain, self._journal, found)
        prefix = self._domains.path_of(domain)
        deeds = {}
        for one in found:
            above, expires_s = fates.there.get(one.id), None
            if above is not None:
                expires_s = self._expiry.leaves_s(above, layout.hour_name(one.deleted_ns))
            path, fate = prefix + one.record.path, fates.later.get(one.id)
            deeds[one.id] = Deed(one.record, path, fates.became(one), fate, expires_s)
        return deeds


class _Part(NamedTuple):
    """A journal, and the filter for its domain."""

    domain: Domain
    name: JournalName
    fitting: Fitting


class _Reading:
    """Reads what fits, each record once."""

    def __init__(self, journal: Journal, since_ns: int) -> None:
        self._journal = journal
        self._since_ns = since_ns
        self._unwritten: dict[str, tuple[Domain, Record]] = {}
        self._hours: dict[bytes, list[_Part]] = defaultdict(list)

    async def add(self, domain: Domain, fitting: Fitting) -> None:
        """Have a domain read, too."""
        for line in self._journal.unwritten(domain.root.ino):
            record = fitting.among(line)
            if record is not None:
                self._unwritten[record.id] = (domain, record)
        for name in await journals_of(domain):
            self._hours[name.hour].append(_Part(domain, name, fitting))

    async def back(self, take: _Take, is_enough: Callable[[bytes], bool]) -> bool:
        """Read from the newest hour back.

        Args:
            take: called with each record that fits; those of an hour come in no order.
            is_enough: tells whether an hour, and all before it, needn't be read.

        Returns:
            False if some hours weren't read.
        """
        for domain, record in self._unwritten.values():
            take(domain, record)
        for hour in sorted(self._hours, reverse=True):
            end_s = layout.hour_end_s(hour)
            assert end_s is not None, "the name of a journal has an hour"
            if end_s * _NS <= self._since_ns:
                return True
            if is_enough(hour):
                return False
            for part in self._hours[hour]:
                await self._read(part, take)
        return True

    async def _read(self, part: _Part, take: _Take) -> None:
        def take_line(line: bytes) -> None:
            record = part.fitting.read(line)
            if record is not None and record.id not in self._unwritten:
                take(part.domain, record)

        async with settling(part.domain):
            await each_line(part.domain, part.name, take_line)


class _Newest:
    """The newest records of those that are given, no more than a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[Found] = []
        self._ids: set[str] = set()
        self.left_out = False
        """True if one was given that had no room."""

    def has_no_room_for(self, hour: bytes) -> bool:
        """Tell whether all that there is room for is of later hours."""
        return len(self._heap) >= self._limit and layout.hour_name(self._heap[0].deleted_ns) > hour

    def take(self, domain: Domain, record: Record) -> None:
        """Take a record, unless all are newer, or it was written twice."""
        if record.id in self._ids:
            return
        found = found_of(domain, record)
        self._ids.add(record.id)
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, found)
        else:
            self.left_out = True
            self._ids.discard(heapq.heappushpop(self._heap, found).id)

    def sorted(self) -> list[Found]:
        """Return them, newest first."""
        return sorted(self._heap, reverse=True)


class _NewestEvents:
    """The events of the newest records of those that are given, no more than a limit.

    One that is left out comes back with a newer record of it, so that in the end all are right.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._last_ns: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        """Each event once, with a time that may have passed."""
        self.left_out = False
        """True if one was given that had no room."""

    def has_no_room_for(self, hour: bytes) -> bool:
        """Tell whether all that there is room for is of later hours."""
        if len(self._last_ns) < self._limit:
            return False
        return layout.hour_name(self._oldest()[0]) > hour

    def take(self, domain: Domain, record: Record) -> None:
        """Take a record's event, unless all are newer."""
        event, deleted_ns = record.event, found_of(domain, record).deleted_ns
        if event in self._last_ns:
            self._last_ns[event] = max(deleted_ns, self._last_ns[event])
        elif layout.parse_id(event) is not None:
            self._last_ns[event] = deleted_ns
            heapq.heappush(self._heap, (deleted_ns, event))
        if len(self._last_ns) > self._limit:
            self.left_out = True
            del self._last_ns[self._oldest()[1]]
            heapq.heappop(self._heap)

    def _oldest(self) -> tuple[int, str]:
        """Return the event that comes first, with its time, from the top of the heap."""
        while (now := (self._last_ns[self._heap[0][1]], self._heap[0][1])) != self._heap[0]:
            heapq.heapreplace(self._heap, now)
        return now

    def ids(self) -> set[str]:
        """Return the events."""
        return set(self._last_ns)

    def began_ns(self) -> int:
        """Return about when the first of them began."""
        return min(parsed[0] for parsed in map(layout.parse_id, self._last_ns) if parsed)


class _Counted:
    """What an event has taken away so far."""

    __slots__ = ("first_ns", "names", "newest", "not_kept", "size")

    def __init__(self, found: Found) -> None:
        self.newest = found
        self.first_ns = found.deleted_ns
        self.names = self.size = self.not_kept = 0

    def add(self, found: Found) -> None:
        """Count a record of it."""
        self.newest = max(self.newest, found)
        self.first_ns = min(self.first_ns, found.deleted_ns)
        self.names += 1
        self.size += found.record.size or 0
        self.not_kept += bool(found.record.why)


class _Tally:
    """Counts what some events took away."""

    def __init__(self, wanted: set[str]) -> None:
        self._wanted = wanted
        self.counted: dict[str, _Counted] = {}

    def take(self, domain: Domain, record: Record) -> None:
        """Count a record, if it is of one of them."""
        if record.event in self._wanted:
            found = found_of(domain, record)
            counted = self.counted.get(record.event)
            if counted is None:
                counted = self.counted[record.event] = _Counted(found)
            counted.add(found)
