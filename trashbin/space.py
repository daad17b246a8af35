"""How much there is, and how much of it is trash.

Bytes and files side by side: a quota, a disk or a trash may be full of either. Where the storage
counts what is below a directory (CephFS: `ceph.dir.rbytes`, `ceph.dir.rentries`, which lag by some
seconds) an answer is one call; elsewhere hours are counted, and counted again when they have
changed, but never for more than a small part of the time.
"""

from __future__ import annotations

import functools
import stat
import time
from collections.abc import Iterable
from typing import NamedTuple

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import Attr, Ino, StatFs, Weight
from trashbin.catalog import directories_of_hours, hours_of
from trashbin.domain import Domain, directory_at
from trashbin.files import listing
from trashbin.layout import hour_end_s

_COUNTED_TIMES = 20
"""A count is used at least this many times as long as it took."""

_WEIGHED_S = 600.0
"""How long the weight of an hour that is over is used where the storage says it."""

_REMEMBERED = 100_000
"""Hours of shards whose weights are remembered; all are forgotten beyond it."""

NOTHING = Weight(0, 0)


class Room(NamedTuple):
    """How much of a kind is used, and how much there is; 0 where there is no limit."""

    used: int
    total: int

    @property
    def share(self) -> float:
        """Which part is used."""
        return self.used / self.total if self.total > 0 else 0.0


class Capacity(NamedTuple):
    """The room that a domain has."""

    size: Room
    files: Room
    is_quota: bool
    """True if a quota limits it; else the storage itself, whose figures lag more."""

    @property
    def share(self) -> float:
        """Which part is used, of what is scarcer."""
        return max(self.size.share, self.files.share)


class HourWeight(NamedTuple):
    """What an hour of a shard weighs, or of tombstones."""

    above: bytes
    hour: bytes
    weight: Weight
    root: Ino = Ino(0)
    """Where its domain starts."""

    @property
    def end_s(self) -> int:
        """When the hour is over, seconds since the epoch."""
        end_s = hour_end_s(self.hour)
        assert end_s is not None
        return end_s


def add(one: Weight, other: Weight) -> Weight:
    """Add up."""
    return Weight(one.size + other.size, one.files + other.files)


def minus(one: Weight, other: Weight) -> Weight:
    """Return what is left."""
    return Weight(max(0, one.size - other.size), max(0, one.files - other.files))


def sum_of(weights: Iterable[Weight]) -> Weight:
    """Add up any number."""
    return functools.reduce(add, weights, NOTHING)


async def quota_of(domain: Domain) -> Capacity | None:
    """Return the room that the quota of a domain leaves it; None if it has none.

    Raises:
        FSError: it can't be found out.
    """
    limit = await domain.storage.quota(domain.root)
    if limit == NOTHING:
        return None
    below = await domain.storage.weigh(domain.root)
    if below is None:
        return None
    return Capacity(Room(below.size, limit.size), Room(below.files, limit.files), is_quota=True)


async def storage_of(domain: Domain) -> Capacity:
    """Return the room of the storage itself: of its pool, or disk.

    Raises:
        FSError: it can't be found out.
    """
    stats = await domain.storage.statfs(domain.root)
    return Capacity(_size_of(stats), _files_of(stats), is_quota=False)


def _size_of(stats: StatFs) -> Room:
    used = stats.blocks - stats.bfree
    return Room(used * stats.frsize, (used + stats.bavail) * stats.frsize)


def _files_of(stats: StatFs) -> Room:
    """Return how many inodes there are; no limit where the figures make no sense as one."""
    used = stats.files - stats.ffree
    return Room(used, used + stats.favail) if 0 <= used < stats.files else Room(0, 0)


class _Weighed(NamedTuple):
    weight: Weight
    mtime_ns: int
    until_s: float


class Scales:
    """Weighs the trash of domains; remembers what hours weighed."""

    def __init__(self) -> None:
        self._known: dict[tuple[Ino, bytes, bytes], _Weighed] = {}

    async def hours(self, domain: Domain, *, anew: bool = False) -> list[HourWeight]:
        """Weigh every hour of every shard, oldest first.

        Args:
            anew: use no figure that may be out of date.
        """
        result = []
        for above in directories_of_hours(domain):
            for hour in await hours_of(domain, above):
                if hour_end_s(hour) is None:
                    continue
                try:
                    weight = await self._hour(domain, above, hour, anew=anew)
                except NotFoundError:
                    continue
                result.append(HourWeight(above, hour, weight, domain.root.ino))
        return sorted(result, key=lambda one: one.hour)

    async def _hour(self, domain: Domain, above: bytes, hour: bytes, *, anew: bool) -> Weight:
        key = (domain.root.ino, above, hour)
        known, now_s = self._known.get(key), time.monotonic()
        if known is not None and now_s < known.until_s and not anew:
            return known.weight
        async with directory_at(domain, above, hour) as node:
            mtime_ns = (await domain.storage.getattr(node)).mtime_ns
            if known is not None and known.mtime_ns == mtime_ns and not domain.storage.weighs:
                return known.weight  # what lies in the trash doesn't change
            weight = await weigh(domain.storage, node)
        keeps_s = (time.monotonic() - now_s) * _COUNTED_TIMES
        if domain.storage.weighs and _is_over(hour):
            keeps_s = _WEIGHED_S
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key] = _Weighed(weight, mtime_ns, now_s + keeps_s)
        return weight


def _is_over(hour: bytes) -> bool:
    end_s = hour_end_s(hour)
    return end_s is not None and end_s < time.time()


class _Level:
    """A directory that is being counted; the reference to all but the first is the count's."""

    __slots__ = ("dirs", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.dirs: list[bytes] = []


async def weigh(storage: Storage, node: Node) -> Weight:
    """Return what is below a directory: asked for where the storage knows it, else counted."""
    weight = await storage.weigh(node)
    return await _count(storage, node) if weight is None else weight


async def _count(storage: Storage, top: Node) -> Weight:
    """Count what is below a directory: what would come free, and names.

    Of a file with several names each has its part. Holds as many references as the tree is deep.
    """
    total = NOTHING
    stack = [_Level(top)]
    total = add(total, await _count_one(storage, stack[0]))
    try:
        while stack:
            if not stack[-1].dirs:
                level = stack.pop()
                if stack:
                    storage.forget(level.node)
                continue
            name = stack[-1].dirs.pop()
            try:
                found = await storage.resolve(stack[-1].node, name)
            except NotFoundError:
                continue
            stack.append(_Level(found.node))
            total = add(total, await _count_one(storage, stack[-1]))
    finally:
        for level in stack[1:]:
            storage.forget(level.node)
    return total


async def _count_one(storage: Storage, level: _Level) -> Weight:
    size = files = 0
    async with listing(storage, level.node, plus=True) as entries:
        async for entry, found in entries:
            if found is None:
                continue
            storage.forget(found.node)
            files += 1
            size += _size(found.attr)
            if stat.S_ISDIR(found.attr.mode):
                level.dirs.append(entry.name)
    return Weight(size, files)


def _size(attr: Attr) -> int:
    return attr.blocks * 512 // (1 if attr.is_dir else max(1, attr.nlink))
