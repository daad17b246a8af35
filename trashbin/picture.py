"""What an hour of the trash looks like, by the paths that things had.

A directory of it is a `Place`. What it holds comes from three sides: what lies in it (it was moved
into the trash whole; that is the storage's to list), what had been taken out of it by inode (an
`rm -rf`), and what was deleted separately below its path. The first names what is there as it was;
of the others the newest has its plain name, if that is free, and older ones `name~HHMMSS`.

**Everything is asked for by somebody, and answered with what they deleted or own.**

Concurrency: hours are read by one task at a time each; a picture doesn't change, names that were
worked out are remembered in it.
"""

from __future__ import annotations

import errno
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

import trio

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.limits import VIEW_LISTED, VIEW_NAMES
from cephfs_ext.core.ports import Meter
from cephfs_ext.core.types import NAME_MAX, Ino
from trashbin import layout
from trashbin.catalog import directories_of_hours, hours_of
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.hours import Hour, Ref, TooManyError, Viewer, read_hour
from trashbin.journal import Journal
from trashbin.names import shortened
from trashbin.paths import below

_FRESH_S = 1.0
"""How long what was read is used, as the kernel uses what it remembers."""

_SLOW_S = 0.25
"""An hour that takes this long to read isn't read anew for all that is deleted meanwhile, but
used for `_SLOW_TIMES` as long as reading it took."""

_SLOW_TIMES = 2

_OLD_S = 2 * layout.HOUR_S
"""After this time nothing new comes into an hour."""

_OLD_FRESH_S = 600.0
"""How long it is remembered whether there is something in an old hour."""

_ANSWERS = 10_000
"""How many such answers are remembered; all are forgotten beyond it."""

_HOURS = 1_024
"""Hours, of one domain each, that are kept at a time."""

_PICTURES = 64
"""Pictures that are kept at a time; all are made anew beyond it."""

_BREATH = 256
"""Names after which others get their turn."""

Taken = Callable[[bytes], Awaitable[bool]]
"""Tells whether what lies in a directory has a name."""


class Place(NamedTuple):
    """A directory of a picture."""

    path: bytes | None
    """Relative to the served root; None where nothing that was deleted separately is shown."""
    ino: Ino
    """Inode of the directory; 0 if it has none."""


class Seen(NamedTuple):
    """What has a name in a picture."""

    ref: Ref | None
    """None for a directory that is only on the way to what was deleted below it."""
    hour: Hour | None
    is_merged: bool
    """True if what was deleted separately below its path is shown in it."""


class _Spot:
    """A path that something was deleted from, or above one."""

    __slots__ = ("below", "parents")

    def __init__(self) -> None:
        self.below: dict[bytes, _Spot] = {}
        self.parents: list[tuple[Hour, Ino]] = []


class Picture:
    """One hour of all domains; build it with `Pictures.of`."""

    def __init__(self, hours: Sequence[tuple[bytes, Hour]]) -> None:
        self._hours = [hour for _, hour in hours]
        self._root = _Spot()
        self._shows: dict[tuple[int, Viewer], bool] = {}
        self._names: dict[tuple[Place, object, Viewer], dict[bytes, Seen]] = {}
        for prefix, hour in hours:
            for ino in hour.parents():
                if ino in hour.paths:
                    self._add(prefix + hour.paths[ino], hour, ino)

    def _add(self, path: bytes, hour: Hour, ino: Ino) -> None:
        spot = self._root
        for name in filter(None, path.split(b"/")):
            spot = spot.below.setdefault(name, _Spot())
        spot.parents.append((hour, ino))

    @property
    def hours(self) -> list[Hour]:
        """What it is made of."""
        return self._hours

    def _spot(self, path: bytes | None) -> _Spot:
        spot = _NOWHERE if path is None else self._root
        for name in filter(None, (path or b"").split(b"/")):
            spot = spot.below.get(name, _NOWHERE)
        return spot

    def count(self, place: Place) -> int:
        """Return how many names were deleted from a directory, whoever sees them."""
        spot = self._spot(place.path)
        by_path = sum(hour.count(ino) for hour, ino in spot.parents if ino != place.ino)
        return by_path + sum(hour.count(place.ino) for hour in self._hours)

    async def is_empty(self, place: Place, viewer: Viewer) -> bool:
        """Tell whether somebody sees nothing there."""
        for hour in self._hours:
            if await hour.shows(place.ino, viewer):
                return False
        return not await self._has_something(self._spot(place.path), viewer)

    async def _has_something(self, top: _Spot, viewer: Viewer) -> bool:
        """Tell whether somebody sees something at a path or below it."""
        key = (id(top), viewer)
        if key not in self._shows:
            self._shows[key] = await self._look_for_something(top, viewer)
        return self._shows[key]

    async def _look_for_something(self, top: _Spot, viewer: Viewer) -> bool:
        stack = [top]
        while stack:
            spot = stack.pop()
            for hour, ino in spot.parents:
                reached = await self._is_reached_by_path(hour, ino, viewer)
                if reached and await hour.shows(ino, viewer):
                    return True
            stack += spot.below.values()
        return False

    async def _is_reached_by_path(self, hour: Hour, ino: Ino, viewer: Viewer) -> bool:
        """Tell whether what was in a directory has to be shown at its path.

        Not where the directory is itself an entry that the viewer sees: then it is in that.
        """
        entry = hour.directory(ino)
        return entry is None or not await hour.shown([entry], viewer)

    async def names(
        self,
        place: Place,
        viewer: Viewer,
        refs: Sequence[tuple[Hour, Ref]],
        lying: object,
        taken: Taken,
    ) -> dict[bytes, Seen]:
        """Return what a directory holds beside what lies in it, by the names shown.

        Args:
            refs: what was taken out of it by inode.
            lying: what tells apart directories of one place; for remembering.
            taken: tells what lies in it.
        """
        key = (place, lying, viewer)
        if key not in self._names:
            spot = self._spot(place.path)
            gathered = list(refs)
            for hour, ino in spot.parents:
                if ino != place.ino and await self._is_reached_by_path(hour, ino, viewer):
                    gathered += [(hour, ref) for ref in await hour.shown(hour.refs(ino), viewer)]
            ways = {
                name
                for name, lower in spot.below.items()
                if await self._has_something(lower, viewer)
            }
            self._names[key] = await _named(gathered, ways, taken)
        return self._names[key]


_NOWHERE = _Spot()


async def _named(
    gathered: Iterable[tuple[Hour, Ref]], ways: set[bytes], taken: Taken
) -> dict[bytes, Seen]:
    """Give each of what a directory holds a name of its own."""
    same: dict[bytes, list[tuple[Hour, Ref]]] = defaultdict(list)
    for hour, ref in gathered:
        same[ref.entry.name].append((hour, ref))
    result: dict[bytes, Seen] = {}
    older: list[tuple[Hour, Ref]] = []
    for number, (name, found) in enumerate(same.items()):
        if number % _BREATH == 0:
            await trio.lowlevel.checkpoint()
        found.sort(key=lambda one: (one[1].entry.deleted_ns, one[1].entry.instance))
        newest_hour, newest = found[-1]
        if await taken(name):
            ways.discard(name)
        elif newest.is_dir or name not in ways:
            result[name] = Seen(newest, newest_hour, is_merged=newest.is_dir)
            ways.discard(name)
            found.pop()
        older += found
    for name in ways:
        if not await taken(name):
            result[name] = Seen(None, None, is_merged=True)
    for hour, ref in older:
        other = await _other_name(ref, result, taken)
        result[other] = Seen(ref, hour, is_merged=False)
    return result


async def _other_name(ref: Ref, result: dict[bytes, Seen], taken: Taken) -> bytes:
    """Return `name~HHMMSS`, and where that is taken `name~HHMMSS.2` and so on."""
    when = time.strftime("%H%M%S", time.gmtime(ref.entry.deleted_ns // 1_000_000_000))
    number = 1
    while True:
        suffix = f"~{when}" if number == 1 else f"~{when}.{number}"
        name = shortened(ref.entry.name, NAME_MAX - len(suffix)) + suffix.encode()
        if name not in result and not await taken(name):
            return name
        number += 1


class _Read(NamedTuple):
    hour: Hour
    until_s: float
    surely_until_s: float
    """Until then it is used also if something has been deleted since."""
    taken: int


class Pictures:
    """The pictures of all hours, read when they are asked for and used for a moment."""

    def __init__(
        self, domains: Domains, background: Domains, journal: Journal, meter: Meter
    ) -> None:
        """Keep what is needed.

        Args:
            domains: those of the session of users.
            background: those of the session that writes the journal.
        """
        self._domains = domains
        self._background = background
        self._journal = journal
        self._meter = meter
        self._read: dict[tuple[Ino, bytes], _Read] = {}
        self._locks: dict[tuple[Ino, bytes], trio.Lock] = {}
        self._pictures: dict[tuple[bytes, bytes], Picture] = {}
        self._answers: dict[tuple[Place, bytes, Viewer], tuple[float, bool]] = {}
        self._all: tuple[float, int, list[Domain]] = (0.0, 0, [])

    async def of(self, hour: bytes, under: bytes) -> Picture:
        """Return what an hour looks like.

        Args:
            under: path of the directory from which it is looked at; other domains than its own,
                those above it and those below it aren't read.

        Raises:
            TooManyError: EFBIG; more was deleted in it than may be kept in memory.
        """
        parts = []
        for prefix, domain in await self._domains_around(under):
            parts.append((prefix, await self._hour(domain, hour)))
        picture = self._pictures.get((hour, under))
        if picture is None or picture.hours != [one for _, one in parts]:
            picture = self._pictures[hour, under] = Picture(parts)
        return picture

    async def names(
        self,
        hour: bytes,
        under: bytes,
        place: Place,
        viewer: Viewer,
        top: Ref | None,
        taken: Taken,
    ) -> dict[bytes, Seen]:
        """Return what a directory holds beside what lies in it, by the names shown.

        Args:
            under: as in `of`.
            top: the deleted directory that it is, or that it lies in; None if it is neither.
        """
        picture = await self.of(hour, under)
        names = await self._names_in(picture, hour, under, place, viewer, top, taken)
        if any(one.is_stale for one in picture.hours):  # what was not found may be elsewhere
            picture = await self.of(hour, under)
            names = await self._names_in(picture, hour, under, place, viewer, top, taken)
        return names

    async def _names_in(
        self,
        picture: Picture,
        hour: bytes,
        under: bytes,
        place: Place,
        viewer: Viewer,
        top: Ref | None,
        taken: Taken,
    ) -> dict[bytes, Seen]:
        if picture.count(place) > VIEW_LISTED:
            self._meter.count("view_limit_reached_total", kind="names")
            raise TooManyError(errno.EFBIG, f"more than {VIEW_LISTED} names from one directory")
        refs = []
        for one in picture.hours:
            refs += [(one, ref) for ref in await one.shown(one.refs(place.ino), viewer)]
        if top is not None:
            refs += await self._taken_out_before(hour, under, place.ino, viewer, top)
        lying = None if top is None else (top.above, top.raw)
        return await picture.names(place, viewer, refs, lying, taken)

    async def _taken_out_before(
        self, hour: bytes, under: bytes, ino: Ino, viewer: Viewer, top: Ref
    ) -> list[tuple[Hour, Ref]]:
        """Return what the same user took out of a directory in the hours right before it went."""
        refs: list[tuple[Hour, Ref]] = []
        while True:
            hour, before = layout.hour_plus(hour, -1), len(refs)
            for one in (await self.of(hour, under)).hours:
                some = [ref for ref in one.refs(ino) if _went_with(ref, top)]
                refs += [(one, ref) for ref in await one.shown(some, viewer)]
            if len(refs) == before:
                return refs

    async def hours(self, under: bytes, place: Place, viewer: Viewer) -> list[bytes]:
        """Return the hours in which something was deleted at or below a place."""
        there: set[bytes] = set()
        for _, domain in await self._domains_around(under):
            for above in directories_of_hours(domain):
                there.update(await hours_of(domain, above))
        return [name for name in sorted(there) if await self.has(name, under, place, viewer)]

    async def has(self, hour: bytes, under: bytes, place: Place, viewer: Viewer) -> bool:
        """Tell whether somebody sees something at or below a place in an hour."""
        end_s = layout.hour_end_s(hour)
        if end_s is None:
            return False
        key, now_s = (place, hour, viewer), time.monotonic()
        until_s, answer = self._answers.get(key, (0.0, False))
        if now_s < until_s:
            return answer
        try:
            answer = not await (await self.of(hour, under)).is_empty(place, viewer)
        except TooManyError:
            return True  # who asks for it learns why it isn't shown
        if time.time() > end_s + _OLD_S:
            if len(self._answers) >= _ANSWERS:
                self._answers.clear()
            self._answers[key] = (now_s + _OLD_FRESH_S, answer)
        return answer

    def vanished(self, domain: Domain, hour: bytes) -> None:
        """Read an hour anew: something in it has left the trash."""
        read = self._read.get((domain.root.ino, hour))
        if read is not None:
            read.hour.is_stale = True

    def forget(self) -> None:
        """Read everything anew: something has left the trash, and parts of it from other hours."""
        self._read.clear()
        self._pictures.clear()
        self._answers.clear()

    async def _domains_now(self) -> list[Domain]:
        until_s, opened, domains = self._all
        if time.monotonic() >= until_s or opened != self._domains.opened:
            domains = await self._domains.all()
            self._all = (time.monotonic() + _FRESH_S, self._domains.opened, domains)
        return domains

    async def _domains_around(self, path: bytes) -> list[tuple[bytes, Domain]]:
        """Return the domains above and below a directory, with where they start."""
        domains = [(self._domains.path_of(one), one) for one in await self._domains_now()]
        inside = below(path, b"")
        return [
            (prefix, domain)
            for prefix, domain in domains
            if inside.startswith(prefix) or prefix.startswith(inside)
        ]

    async def _hour(self, domain: Domain, name: bytes) -> Hour:
        key = (domain.root.ino, name)
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                read = self._read.get(key)
                if read is None or not self._is_fresh(read):
                    read = await self._read_anew(domain, name, read)
                    self._read.pop(key, None)
                    self._read[key] = read
                    self._make_room()
                return read.hour
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(key, None)

    def _is_fresh(self, read: _Read) -> bool:
        now_s = time.monotonic()
        nothing_new = read.taken == self._journal.taken and not read.hour.is_stale
        return now_s < (read.until_s if nothing_new else read.surely_until_s)

    async def _read_anew(self, domain: Domain, name: bytes, before: _Read | None) -> _Read:
        begun_s, taken = time.monotonic(), self._journal.taken
        waiting = self._journal.waiting(domain.root.ino)
        journals = await self._background.at(domain.root.ino)
        paths = {} if before is None else before.hour.paths
        try:
            hour = await read_hour(domain, name, journals, waiting, paths, limit=VIEW_NAMES)
        except FSError as exc:
            if isinstance(exc, TooManyError):
                self._meter.count("view_limit_reached_total", kind="names")
            raise
        now_s = time.monotonic()
        took_s = now_s - begun_s
        surely_s = _SLOW_TIMES * took_s if took_s >= _SLOW_S else 0.0
        return _Read(hour, now_s + max(_FRESH_S, surely_s), now_s + surely_s, taken)

    def _make_room(self) -> None:
        """Forget the hours that were read longest ago where there are too many names."""
        names = sum(read.hour.weight for read in self._read.values())
        while (names > VIEW_NAMES or len(self._read) > _HOURS) and len(self._read) > 1:
            oldest = next(iter(self._read))
            names -= self._read.pop(oldest).hour.weight
        kept = {name for _, name in self._read}
        if len(self._pictures) > _PICTURES:
            self._pictures.clear()
        for key in [key for key in self._pictures if key[0] not in kept]:
            del self._pictures[key]


def _went_with(ref: Ref, top: Ref) -> bool:
    mine, its = top.entry, ref.entry
    return (mine.instance, mine.deleter_uid) == (its.instance, its.deleter_uid)
