"""Pressure: letting go before its time, where the storage runs full.

Above a high watermark the hours that would expire next are claimed, the next ones first, until
what they weigh brings the storage below a low one. Nothing goes that is younger than a guaranteed
time: if that isn't enough, the log and a metric say so, and nothing else happens.

What a quota bounds lies in the trash of its directory, and in those of directories below that have
quotas of their own; the pool or disk has all of them. So the oldest goes of all these, and a domain
below another is judged by its own quota only.

Space comes free some time after it was claimed: an hour has to be removed, and figures lag. So
what was claimed counts as free at once, by its weight, and goes on counting, as far as it doesn't
show, until everything is removed and the figures have had their time. What was claimed is noted
in the trash, for other gateways; only one of them decides at a time.

The prediction is by the same figures: how long what is deleted stays if as much is deleted every
hour as in the last day.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cephfs_ext.core.errors import FSError, FullError, NotFoundError
from cephfs_ext.core.ports import Meter, Node, Storage
from cephfs_ext.core.types import Ino, Weight
from trashbin import layout
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.expire import SLACK_S, Expiry
from trashbin.files import read_record, write_record
from trashbin.space import (
    NOTHING,
    Capacity,
    HourWeight,
    Room,
    Scales,
    add,
    minus,
    quota_of,
    storage_of,
    sum_of,
    weigh,
)

_log = logging.getLogger(__name__)

_NOTE = b"pressure"
_NOTE_LIMIT = 4096

_QUOTA_LAG_S = 60.0
"""How long a quota may take to show what was removed."""

_STORAGE_LAG_S = 600.0
"""How long pools may take: the MDS removes the data of what is gone in the background."""

_STUCK_S = 600.0
"""What waits for its removal this long, and gets no less, isn't about to come free."""

_BELIEVED_S = 3600.0
"""How long a claim counts at most, whatever is being removed meanwhile."""

_DAY = 24
"""Hours that the rate is taken from."""


class Watermarks(NamedTuple):
    """When pressure begins and ends, and what it leaves."""

    high: float
    """Part of the room; 0 turns pressure off."""
    low: float
    guaranteed_s: float
    """Nothing goes that is younger, from the end of its hour."""


class Claimed(NamedTuple):
    """What pressure has claimed last."""

    at_s: float
    """When something was last seen to be waiting for its removal; seconds since the epoch."""
    size: int
    files: int
    used_size: int
    """How much was used then."""
    used_files: int
    claimed_s: float = 0.0
    """When it was claimed; however long it takes, it isn't believed for ever."""


class Survey(NamedTuple):
    """What is known of a domain."""

    capacity: Capacity
    """Its quota, else the storage."""
    share: float
    """Which part is used of what it is judged by; 0 for what is below another's quota only."""
    trash: Weight
    held: Weight
    rate: Weight | None
    """What was deleted in an hour of the last day; None while that isn't known."""
    guaranteed_s: float | None
    is_helpless: bool
    """True if the room is scarce and nothing may go."""
    measured_s: float
    """When; monotonic."""


# decisions; pure


def shortage(capacity: Capacity, mark: float) -> Weight:
    """Return how much has to go for the rest to be at a mark."""
    return Weight(_over(capacity.size, mark), _over(capacity.files, mark))


def _over(room: Room, mark: float) -> int:
    return max(0, room.used - int(mark * room.total)) if room.total > 0 else 0


def unseen(claimed: Claimed, capacity: Capacity) -> Weight:
    """Return how much of what was claimed doesn't show yet in what is used."""
    shown = Weight(claimed.used_size - capacity.size.used, claimed.used_files - capacity.files.used)
    return Weight(
        max(0, claimed.size - max(0, shown.size)), max(0, claimed.files - max(0, shown.files))
    )


def to_claim(
    hours: Iterable[HourWeight], needed: Weight, *, now_s: float, guaranteed_s: float
) -> list[HourWeight]:
    """Choose what goes: the next to expire, until it is enough.

    An hour of a domain goes with all its shards.

    Args:
        hours: those that expire, the next ones first.
    """
    chosen: list[HourWeight] = []
    got = NOTHING
    for one in hours:
        if one.end_s + guaranteed_s + SLACK_S > now_s:
            continue
        enough = got.size >= needed.size and got.files >= needed.files
        if enough and (not chosen or (chosen[-1].hour, chosen[-1].root) != (one.hour, one.root)):
            break
        chosen.append(one)
        got = add(got, one.weight)
    return chosen


def weight_of(hours: Iterable[HourWeight]) -> Weight:
    """Add up."""
    return sum_of(one.weight for one in hours)


def rate(hours: Sequence[HourWeight], *, now_s: float) -> Weight | None:
    """Return what an hour of the last day weighs, by what is left of it.

    Returns:
        None before an hour is over in which something was deleted.
    """
    over = [one for one in hours if one.end_s <= now_s]
    if not over:
        return None
    last_s = now_s - now_s % layout.HOUR_S
    oldest_s = min(one.end_s for one in over) - layout.HOUR_S
    span = min(_DAY, int(last_s - oldest_s) // layout.HOUR_S)
    total = weight_of(one for one in over if one.end_s > last_s - span * layout.HOUR_S)
    return Weight(total.size // span, total.files // span)


def guaranteed_s(
    capacity: Capacity, expiring: Weight, hourly: Weight, marks: Watermarks, retention_s: float
) -> float:
    """Predict how long what is deleted stays, if as much goes on being deleted.

    Args:
        expiring: what of the trash isn't held.
        hourly: what is deleted in an hour.
    """
    if not marks.high:
        return retention_s
    rooms = (
        (capacity.size, expiring.size, hourly.size),
        (capacity.files, expiring.files, hourly.files),
    )
    lasts_s = [
        max(0.0, marks.high * room.total - (room.used - mine)) / each * layout.HOUR_S
        for room, mine, each in rooms
        if room.total > 0 and each > 0
    ]
    return min(retention_s, max(marks.guaranteed_s, min(lasts_s, default=retention_s)))


class _Measured(NamedTuple):
    """What the trash of a domain weighs."""

    domain: Domain
    hours: list[HourWeight]
    trash: Weight
    held: Weight


class _Realm(NamedTuple):
    """A domain, and what else counts against its room: the domains below it."""

    top: _Measured
    members: list[_Measured]
    """That of the top itself among them."""

    def domain_of(self, root: Ino) -> Domain:
        """Return the one that starts at an inode."""
        return next(one.domain for one in self.members if one.domain.root.ino == root)


class Pressure:
    """Surveys the domains, and lets go where they run full."""

    def __init__(
        self,
        domains: Domains,
        expiry: Expiry,
        meter: Meter,
        watermarks: Watermarks,
        *,
        retention_s: float,
    ) -> None:
        self._domains = domains
        self._expiry = expiry
        self._meter = meter
        self._watermarks = watermarks
        self._retention_s = retention_s
        self._scales = Scales()
        self._surveys: dict[Ino, Survey] = {}
        self._purging: dict[Ino, tuple[Weight, float]] = {}
        """What was seen waiting for its removal, and since when it is that much."""

    @property
    def surveys(self) -> list[Survey]:
        """What is known, that of the served root first; nothing before the first round."""
        return list(self._surveys.values())

    async def once(self) -> None:
        """Survey every domain, and let go where it is needed.

        What one domain can't do is logged, and doesn't stop the others.

        Raises:
            FSError: the trash of the root can't be used.
        """
        measured: list[_Measured] = []
        for domain in await self._domains.all():
            with _telling(domain):
                measured.append(await self._measure(domain))
        surveys: dict[Ino, Survey] = {}
        for one in measured:
            with _telling(one.domain):
                surveys[one.domain.root.ino] = await self._round(self._realm(one, measured))
        self._surveys = surveys
        self._expose()

    def _realm(self, top: _Measured, measured: Sequence[_Measured]) -> _Realm:
        path = self._domains.path_of(top.domain)
        below = [one for one in measured if self._domains.path_of(one.domain).startswith(path)]
        return _Realm(top, below)

    def _expose(self) -> None:
        surveys = self.surveys
        trash = sum_of(survey.trash for survey in surveys)
        known = [one.guaranteed_s for one in surveys if one.guaranteed_s is not None]
        self._meter.set("trash_bytes", trash.size)
        self._meter.set("trash_entries", trash.files)
        self._meter.set("trash_guaranteed_seconds", min(known, default=-1.0))
        self._meter.set("trash_pressure_helpless", any(one.is_helpless for one in surveys))
        self._meter.set("storage_used_ratio", max((one.share for one in surveys), default=0.0))

    async def _measure(self, domain: Domain) -> _Measured:
        hours = await self._scales.hours(domain)
        trash = await domain.storage.weigh(domain.trash)
        held = weight_of(one for one in hours if self._leaves_s(one) is None)
        return _Measured(domain, hours, weight_of(hours) if trash is None else trash, held)

    async def _round(self, realm: _Realm) -> Survey:
        domain, is_helpless = realm.top.domain, False
        rooms = await self._rooms(domain)
        for room in rooms:
            if self._watermarks.high and room.share > self._watermarks.high:
                is_helpless |= await self._is_helpless(realm, is_quota=room.is_quota)
        hourly = rate(realm.top.hours, now_s=time.time())
        return Survey(
            capacity=_sized(rooms) or await storage_of(domain),
            share=max((room.share for room in rooms), default=0.0),
            trash=realm.top.trash,
            held=realm.top.held,
            rate=hourly,
            guaranteed_s=None if hourly is None else self._lasts_s(realm, rooms),
            is_helpless=is_helpless,
            measured_s=time.monotonic(),
        )

    async def _rooms(self, domain: Domain) -> list[Capacity]:
        """Return by what a domain is judged: its quota, and if it is the root's the storage."""
        quota = await quota_of(domain)
        rooms = [] if quota is None else [quota]
        if domain.root.ino == domain.storage.root.ino:
            rooms.append(await storage_of(domain))
        return rooms

    def _lasts_s(self, realm: _Realm, rooms: Sequence[Capacity]) -> float:
        """Predict how long what is deleted stays, in the room that gets scarce first."""
        hours = [hour for one in realm.members for hour in one.hours]
        hourly = rate(hours, now_s=time.time())
        assert hourly is not None
        expiring = sum_of(minus(one.trash, one.held) for one in realm.members)
        lasts_s = [
            guaranteed_s(room, expiring, hourly, self._watermarks, self._retention_s)
            for room in rooms
        ]
        return min(lasts_s, default=self._retention_s)

    async def _is_helpless(self, realm: _Realm, *, is_quota: bool) -> bool:
        """Let go what is needed; True if that isn't enough. The log has that once."""
        root = realm.top.domain.root.ino
        known = self._surveys.get(root)
        try:
            left = await self._relieve(realm, is_quota=is_quota)
        except FSError as exc:
            _log.warning("the trash of domain %x can't be let go: %s", root, exc)
            return True
        if left != NOTHING and (known is None or not known.is_helpless):
            _log.warning(
                "domain %x is too full, and what of its trash is older than %.0f s isn't enough: "
                "%d bytes, %d files are left to go; purge, or add room",
                root, self._watermarks.guaranteed_s, *left,
            )  # fmt: skip
        return left != NOTHING

    async def _relieve(self, realm: _Realm, *, is_quota: bool) -> Weight:
        """Let go what is needed, if no other gateway is about to; return what is left to go."""
        domain = realm.top.domain
        try:
            lock = await domain.storage.try_exclusive(domain.trash)
        except FullError:  # a pool without room has none for a new lock either
            lock = contextlib.nullcontext()
        if lock is None:
            return NOTHING
        async with lock:
            capacity = await (quota_of if is_quota else storage_of)(domain)
            if capacity is None or capacity.share <= self._watermarks.high:
                return NOTHING
            under_way = await self._under_way(realm, capacity)
            needed = minus(shortage(capacity, self._watermarks.low), under_way)
            if needed == NOTHING:
                return NOTHING
            chosen = to_claim(
                await self._in_order(realm),
                needed,
                now_s=time.time(),
                guaranteed_s=self._watermarks.guaranteed_s,
            )
            claimed = await self._claim(realm, chosen, capacity)
        for root in {one.root for one in claimed}:
            await self._expiry.remover.hand_over(realm.domain_of(root))
        return minus(needed, weight_of(claimed))

    async def _in_order(self, realm: _Realm) -> list[HourWeight]:
        """Return the hours of a realm that expire, the next ones first."""
        hours: list[HourWeight] = []
        for one in realm.members:
            hours += await self._scales.hours(one.domain, anew=True)
        leaving = [(self._leaves_s(one), one.hour, one.root, one) for one in hours]
        return [one for when_s, _, _, one in sorted(leaving, key=_when) if when_s is not None]

    def _leaves_s(self, one: HourWeight) -> float | None:
        return self._expiry.leaves_s(one.above, one.hour)

    async def _claim(
        self, realm: _Realm, chosen: Sequence[HourWeight], capacity: Capacity
    ) -> list[HourWeight]:
        claimed = []
        for one in chosen:
            if await self._expiry.claim_hour(realm.domain_of(one.root), one.above, one.hour):
                claimed.append(one)
        if claimed:
            domain, total, now_s = realm.top.domain, weight_of(claimed), time.time()
            used = Weight(capacity.size.used, capacity.files.used)
            note = Claimed(now_s, *total, *used, claimed_s=now_s)
            await _write_note(domain, note, is_quota=capacity.is_quota)
            self._meter.count("trash_pressure_hours_total", len(claimed))
            _log.info(
                "domain %x is %.0f%% full: let %d hours of its trash go before their time, up to "
                "%s; %d bytes, %d files", domain.root.ino, 100 * capacity.share, len(claimed),
                claimed[-1].hour.decode(), *total,
            )  # fmt: skip
        return claimed

    async def _under_way(self, realm: _Realm, capacity: Capacity) -> Weight:
        """Return what has been claimed already, by whomever, and is still used."""
        purging = sum_of([await self._waiting(one.domain) for one in realm.members])
        lag_s = _QUOTA_LAG_S if capacity.is_quota else _STORAGE_LAG_S
        left = add(
            await self._unseen(realm.top.domain, capacity, lag_s, is_removing=purging.files > 0),
            await self._claimed_below(realm, lag_s),
        )
        return Weight(max(purging.size, left.size), max(purging.files, left.files))

    async def _waiting(self, domain: Domain) -> Weight:
        """Return what waits for its removal; nothing of what can't be removed, as it seems."""
        purging = await weigh(domain.storage, domain.service(layout.PURGING))
        before, since_s = self._purging.get(domain.root.ino, (purging, time.monotonic()))
        if before != purging:
            since_s = time.monotonic()
        self._purging[domain.root.ino] = (purging, since_s)
        return NOTHING if time.monotonic() - since_s > _STUCK_S else purging

    async def _unseen(
        self, domain: Domain, capacity: Capacity, lag_s: float, *, is_removing: bool
    ) -> Weight:
        """Return what of the last claim isn't free yet, as far as the figures say."""
        claimed = await _read_note(domain, is_quota=capacity.is_quota)
        now_s = time.time()
        if claimed is None or now_s - claimed.claimed_s > _BELIEVED_S:
            return NOTHING
        if is_removing:
            note = claimed._replace(at_s=now_s)
            await _write_note(domain, note, is_quota=capacity.is_quota)
        elif now_s - claimed.at_s > lag_s:
            return NOTHING
        return unseen(claimed, capacity)

    async def _claimed_below(self, realm: _Realm, lag_s: float) -> Weight:
        """Return what domains below have let go a moment ago for quotas of their own."""
        below = [one.domain for one in realm.members if one.domain is not realm.top.domain]
        notes = [await _read_note(domain, is_quota=True) for domain in below]
        now_s = time.time()
        recent = [note for note in notes if note is not None and now_s - note.at_s <= lag_s]
        return sum_of(Weight(note.size, note.files) for note in recent)


def _sized(rooms: Iterable[Capacity]) -> Capacity | None:
    """Return the first that says how many bytes there are."""
    return next((room for room in rooms if room.size.total), None)


def _when(leaving: tuple[float | None, bytes, Ino, HourWeight]) -> tuple[float, bytes, Ino]:
    when_s, hour, root, _ = leaving
    return (math.inf if when_s is None else when_s), hour, root


@contextlib.contextmanager
def _telling(domain: Domain) -> Iterator[None]:
    """Log what a domain can't do, and go on."""
    try:
        yield
    except FSError as exc:
        _log.warning("the space of domain %x: %s", domain.root.ino, exc)


def _note_of(*, is_quota: bool) -> bytes:
    return _NOTE if is_quota else _NOTE + b".storage"


async def _write_note(domain: Domain, claimed: Claimed, *, is_quota: bool) -> None:
    text, name = json.dumps(claimed._asdict()).encode(), _note_of(is_quota=is_quota)

    async def write(storage: Storage, jobs: Node) -> None:
        await write_record(storage, jobs, name, text)

    await domain.in_spite_of_quota(domain.service(layout.JOBS), write)


async def _read_note(domain: Domain, *, is_quota: bool) -> Claimed | None:
    jobs, name = domain.service(layout.JOBS), _note_of(is_quota=is_quota)
    try:
        fields = json.loads(await read_record(domain.storage, jobs, name, limit=_NOTE_LIMIT))
        fields.setdefault("claimed_s", fields["at_s"])  # older gateways write none
        return Claimed(*(int(fields[name]) for name in Claimed._fields))
    except (NotFoundError, ValueError, KeyError, TypeError):
        return None
