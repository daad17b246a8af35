"""Pressure: letting go before its time, where the storage runs full.

Above a high watermark the hours that would expire next are claimed, the next ones first, until
what they weigh brings the storage below a low one. Nothing goes that is younger than a guaranteed
time: if that isn't enough, the log and a metric say so, and nothing else happens.

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
import time
from collections.abc import Iterable, Sequence
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
    capacity_of,
    minus,
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


class Survey(NamedTuple):
    """What is known of a domain."""

    capacity: Capacity
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

    An hour goes with all its shards.

    Args:
        hours: those that expire, the next ones first.
    """
    chosen: list[HourWeight] = []
    got = NOTHING
    for one in hours:
        if one.end_s + guaranteed_s + SLACK_S > now_s:
            continue
        enough = got.size >= needed.size and got.files >= needed.files
        if enough and (not chosen or chosen[-1].hour != one.hour):
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
        surveys: dict[Ino, Survey] = {}
        for domain in await self._domains.all():
            try:
                surveys[domain.root.ino] = await self._round(domain)
            except FSError as exc:
                _log.warning("the space of domain %x: %s", domain.root.ino, exc)
        self._surveys = surveys
        self._expose()

    def _expose(self) -> None:
        surveys = self.surveys
        trash = sum_of(survey.trash for survey in surveys)
        known = [one.guaranteed_s for one in surveys if one.guaranteed_s is not None]
        self._meter.set("trash_bytes", trash.size)
        self._meter.set("trash_entries", trash.files)
        self._meter.set("trash_guaranteed_seconds", min(known, default=-1.0))
        self._meter.set("trash_pressure_helpless", any(one.is_helpless for one in surveys))
        fullest = max((one.capacity.share for one in surveys), default=0.0)
        self._meter.set("storage_used_ratio", fullest)

    async def _round(self, domain: Domain) -> Survey:
        capacity = await capacity_of(domain)
        hours = await self._scales.hours(domain)
        is_helpless = False
        if self._watermarks.high and capacity.share > self._watermarks.high:
            is_helpless = await self._is_helpless(domain)
        return await self._survey(domain, capacity, hours, is_helpless=is_helpless)

    async def _survey(
        self,
        domain: Domain,
        capacity: Capacity,
        hours: Sequence[HourWeight],
        *,
        is_helpless: bool,
    ) -> Survey:
        trash = await domain.storage.weigh(domain.trash)
        held = weight_of(one for one in hours if self._leaves_s(one) is None)
        if trash is None:
            trash = weight_of(hours)
        hourly = rate(hours, now_s=time.time())
        lasts_s = None
        if hourly is not None:
            expiring = minus(trash, held)
            lasts_s = guaranteed_s(capacity, expiring, hourly, self._watermarks, self._retention_s)
        return Survey(capacity, trash, held, hourly, lasts_s, is_helpless, time.monotonic())

    async def _is_helpless(self, domain: Domain) -> bool:
        """Let go what is needed; True if that isn't enough. The log has that once."""
        known = self._surveys.get(domain.root.ino)
        try:
            left = await self._relieve(domain)
        except FSError as exc:
            _log.warning("the trash of domain %x can't be let go: %s", domain.root.ino, exc)
            return True
        if left != NOTHING and (known is None or not known.is_helpless):
            _log.warning(
                "domain %x is too full, and what of its trash is older than %.0f s isn't enough: "
                "%d bytes, %d files are left to go; purge, or add room",
                domain.root.ino, self._watermarks.guaranteed_s, *left,
            )  # fmt: skip
        return left != NOTHING

    async def _relieve(self, domain: Domain) -> Weight:
        """Let go what is needed, if no other gateway is about to; return what is left to go."""
        try:
            lock = await domain.storage.try_exclusive(domain.trash)
        except FullError:  # a pool without room has none for a new lock either
            lock = contextlib.nullcontext()
        if lock is None:
            return NOTHING
        async with lock:
            capacity = await capacity_of(domain)
            needed = minus(
                shortage(capacity, self._watermarks.low), await self._under_way(domain, capacity)
            )
            if capacity.share <= self._watermarks.high or needed == NOTHING:
                return NOTHING
            chosen = to_claim(
                self._in_order(await self._scales.hours(domain, anew=True)),
                needed,
                now_s=time.time(),
                guaranteed_s=self._watermarks.guaranteed_s,
            )
            claimed = await self._claim(domain, chosen, capacity)
        if claimed:
            await self._expiry.remover.hand_over(domain)
        return minus(needed, weight_of(claimed))

    def _in_order(self, hours: Sequence[HourWeight]) -> list[HourWeight]:
        leaving = [(self._leaves_s(one), one.hour, one) for one in hours]
        expiring = [(when_s, hour, one) for when_s, hour, one in leaving if when_s is not None]
        return [one for _, _, one in sorted(expiring)]

    def _leaves_s(self, one: HourWeight) -> float | None:
        return self._expiry.leaves_s(one.above, one.hour)

    async def _claim(
        self, domain: Domain, chosen: Sequence[HourWeight], capacity: Capacity
    ) -> list[HourWeight]:
        claimed = []
        for one in chosen:
            if await self._expiry.claim_hour(domain, one.above, one.hour):
                claimed.append(one)
        if claimed:
            total = weight_of(claimed)
            note = Claimed(time.time(), *total, capacity.size.used, capacity.files.used)
            await _write_note(domain, note)
            self._meter.count("trash_pressure_hours_total", len(claimed))
            _log.info(
                "domain %x is %.0f%% full: let %d hours of its trash go before their time, up to "
                "%s; %d bytes, %d files", domain.root.ino, 100 * capacity.share, len(claimed),
                claimed[-1].hour.decode(), *total,
            )  # fmt: skip
        return claimed

    async def _under_way(self, domain: Domain, capacity: Capacity) -> Weight:
        """Return what has been claimed already, by whomever, and is still used."""
        purging = await weigh(domain.storage, domain.service(layout.PURGING))
        claimed = await _read_note(domain)
        if claimed is None:
            return purging
        lag_s = _QUOTA_LAG_S if capacity.is_quota else _STORAGE_LAG_S
        if purging.files:
            await _write_note(domain, claimed._replace(at_s=time.time()))
        elif time.time() - claimed.at_s > lag_s:
            return NOTHING
        left = unseen(claimed, capacity)
        return Weight(max(purging.size, left.size), max(purging.files, left.files))


async def _write_note(domain: Domain, claimed: Claimed) -> None:
    text = json.dumps(claimed._asdict()).encode()

    async def write(storage: Storage, jobs: Node) -> None:
        await write_record(storage, jobs, _NOTE, text)

    await domain.in_spite_of_quota(domain.service(layout.JOBS), write)


async def _read_note(domain: Domain) -> Claimed | None:
    jobs = domain.service(layout.JOBS)
    try:
        fields = json.loads(await read_record(domain.storage, jobs, _NOTE, limit=_NOTE_LIMIT))
        return Claimed(*(int(fields[name]) for name in Claimed._fields))
    except (NotFoundError, ValueError, KeyError, TypeError):
        return None
