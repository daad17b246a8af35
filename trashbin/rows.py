"""One hour of a trash as arrays: some 90 bytes an entry beside its name, oldest first.

For what looks at everything that was deleted, where an object for each would not fit into memory.
A row says what the name of an entry says, and who deleted it as the journal has it; the record
itself is read again for what is shown. So is what the inode is like, unless the listing of the
hour said it.

Concurrency: built by one task (`add`, then `sort`); what takes long gives others their turn.
"""

from __future__ import annotations

import stat
from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import trio

from cephfs_ext.core.types import Attr, Ino
from trashbin import layout
from trashbin.catalog import Item, NameOfHour
from trashbin.layout import EntryName

_IS_DIR, _IS_TOMB, _IS_UNCLEAR, _IS_LEFT_OUT, _IS_ADOPTED, _IS_WANTED = 1, 2, 4, 8, 16, 32
_HOUR_NS = layout.HOUR_S * 1_000_000_000
_BUCKETS = 512
"""Parts of an hour that are sorted one by one: sorting needs more memory than what it sorts."""

BREATH = 4_096
"""Rows after which others get their turn: some milliseconds."""

_HASHES_EACH = 16
"""Bits that a name has in what finds names that come twice."""

_COLUMNS = (
    "_times", "_runs", "_uids", "_parents", "_inos", "_aboves", "_flags", "_starts", "_lengths",
    "_modes", "_links", "_owners", "_sizes",
)  # fmt: skip
"""What a listing of the hour fills, and what is sorted."""

_MANY_LINKS = 0xFFFF
"""Names of an inode that aren't told from more."""

_NONE = 0xFFFF_FFFF
NOWHERE = 0xFFFF
"""Number of the journal for an entry without a record in one."""


class Spot(NamedTuple):
    """Where a record is."""

    journal: int
    """Number of the journal; `NOWHERE` for one that isn't on disk yet."""
    offset: int


class Rows:
    """The entries of one hour; which row one has is its place by time."""

    def __init__(self, hour: bytes, aboves: Sequence[bytes]) -> None:
        end_s = layout.hour_end_s(hour)
        assert end_s is not None
        self.hour = hour
        self.begin_ns = end_s * 1_000_000_000 - _HOUR_NS
        self.aboves = aboves
        """Directories that hold the hour."""
        self._times, self._runs, self._uids = array("Q"), array("H"), array("I")
        self._parents, self._inos = array("Q"), array("Q")
        self._aboves, self._flags = array("H"), array("B")
        self._modes, self._links = array("H"), array("H")
        self._owners, self._sizes = array("I"), array("Q")
        self._starts, self._lengths, self._names = array("Q"), array("B"), bytearray()
        self._pids, self._journals, self._offsets = array("I"), array("H"), array("I")
        self._dirs = array("I")
        self._keys, self._heads, self._nexts = array("Q"), array("I"), array("I")
        self._twins: set[int] = set()
        """Hashes that several names of one directory have: the names themselves would take a
        hundred megabytes."""

    def __len__(self) -> int:
        return len(self._times)

    # building

    def add(self, above: int, raw: bytes, ino: Ino, kind: int, attr: Attr | None = None) -> bool:
        """Take a name that was found in the hour; False for what is none of an entry.

        Args:
            above: which of the directories that hold the hour.
            kind: file type bits; 0 where the listing didn't say.
            attr: attributes, where the listing said them.
        """
        is_tomb = layout.is_tombs(self.aboves[above])
        if is_tomb:
            parsed = layout.parse_tomb(raw)
            entry, ino = (None, ino) if parsed is None else parsed
        else:
            entry = layout.parse_entry(raw)
        if entry is None or not 0 <= entry.deleted_ns - self.begin_ns < _HOUR_NS:
            return False
        is_clear = bool(entry.name) and not is_tomb and kind
        flags = (is_tomb * _IS_TOMB) | (stat.S_ISDIR(kind) * _IS_DIR)
        self._times.append(entry.deleted_ns)
        self._runs.append(int(entry.instance, 16))
        self._uids.append(entry.deleter_uid)
        self._parents.append(entry.parent)
        self._inos.append(ino)
        self._aboves.append(above)
        self._flags.append(flags if is_clear else flags | _IS_UNCLEAR)
        self._starts.append(len(self._names))
        self._lengths.append(len(entry.name))
        self._names += entry.name
        self._keep(attr if is_clear else None)
        return True

    def _keep(self, attr: Attr | None) -> None:
        """Take attributes; a mode of 0 stands for none."""
        self._modes.append(0 if attr is None else attr.mode)
        self._links.append(0 if attr is None else min(attr.nlink, _MANY_LINKS))
        self._owners.append(0 if attr is None else attr.uid)
        self._sizes.append(0 if attr is None or attr.is_dir else attr.size)

    async def sort(self) -> None:
        """Put them into their order."""
        order = array("I")
        for bucket in await self._buckets():
            order.extend(sorted(bucket, key=self._age))
            await trio.lowlevel.checkpoint()
        for name in _COLUMNS:
            setattr(self, name, await _permuted(getattr(self, name), order))
        count = len(self)
        self._pids = array("I", bytes(4 * count))
        self._journals = array("H", [NOWHERE]) * count
        self._offsets = array("I", bytes(4 * count))

    async def _buckets(self) -> list[array[int]]:
        buckets = [array("I") for _ in range(_BUCKETS)]
        async for row in self._each():
            share = (self._times[row] - self.begin_ns) * _BUCKETS // _HOUR_NS
            buckets[share].append(row)
        return buckets

    async def _each(self) -> AsyncIterator[int]:
        for row in range(len(self)):
            if row % BREATH == 0:
                await trio.lowlevel.checkpoint()
            yield row

    def _age(self, row: int) -> tuple[int, int, int, int]:
        return self._times[row], self._runs[row], self._flags[row] & _IS_TOMB, -row

    def _id(self, row: int) -> tuple[int, int]:
        return self._times[row], self._runs[row]

    async def leave_out_twins(self) -> None:
        """Leave out tombstones beside the entries that they are for, once all has been looked at.

        And what was seen twice, since it was held or released at that moment: what was seen last
        counts.
        """
        there: tuple[int, int] | None = None
        async for row in self._each():
            if self.is_left_out(row):
                continue
            if self._id(row) == there:
                self.leave_out(row)
            there = self._id(row)

    def find(self, deleted_ns: int, instance: str) -> Iterator[int]:
        """Yield the rows of an id: of an entry, and of a tombstone beside it."""
        run = int(instance, 16)
        row = bisect_left(self._times, deleted_ns)
        while row < len(self) and self._times[row] == deleted_ns:
            if self._runs[row] == run:
                yield row
            row += 1

    def note(self, row: int, spot: Spot, pid: int, *, is_wanted: bool) -> None:
        """Take what a record says of an entry.

        Args:
            is_wanted: whether it is of the delete event that is asked for.
        """
        self._journals[row], self._offsets[row] = spot
        self._pids[row] = pid & 0xFFFF_FFFF
        self._flags[row] = self._flags[row] & ~_IS_WANTED | (is_wanted * _IS_WANTED)

    def complete(self, row: int, item: Item) -> None:
        """Take what isn't in the name of an entry, which had to be looked at."""
        name = item.entry.name
        self._starts[row], self._lengths[row] = len(self._names), len(name)
        self._names += name
        self._inos[row] = item.ino
        flags = self._flags[row] & ~(_IS_UNCLEAR | _IS_DIR)
        self._flags[row] = flags | (item.is_dir * _IS_DIR)

    def leave_out(self, row: int) -> None:
        """Have an entry be no part of anything."""
        self._flags[row] |= _IS_LEFT_OUT

    async def link(self, others: Iterable[Rows]) -> None:
        """Make it known what was deleted from which directory: of this hour, and of later ones."""
        dirs = array("I")
        async for row in self._each():
            if self._flags[row] & (_IS_DIR | _IS_LEFT_OUT) == _IS_DIR:
                dirs.append(row)
        self._dirs = array("I", sorted(dirs, key=self._inos.__getitem__))
        inos = {self._inos[row] for row in dirs}
        for one in others:
            inos.update(one._inos[row] for row in one._dirs)
        self._keys = array("Q", sorted(inos))
        if not inos:
            return
        self._heads = array("I", [_NONE]) * len(inos)
        self._nexts = array("I", [_NONE]) * len(self)
        seen = bytearray(len(self) * _HASHES_EACH // 8 + 1)
        async for row in self._each():
            slot = self._slot(self._parents[row])
            if slot is not None and not self._flags[row] & _IS_LEFT_OUT:
                self._nexts[row] = self._heads[slot]
                self._heads[slot] = row
                at = self._hash(row)
                if seen[at >> 3] & 1 << (at & 7):
                    self._twins.add(at)
                seen[at >> 3] |= 1 << (at & 7)

    def _hash(self, row: int) -> int:
        return hash((self._parents[row], self.name(row))) % (len(self) * _HASHES_EACH)

    def may_be_twin(self, row: int) -> bool:
        """Tell whether the hour may have another entry of that name from that directory."""
        return self._hash(row) in self._twins

    def _slot(self, ino: int) -> int | None:
        slot = bisect_left(self._keys, ino)
        return slot if slot < len(self._keys) and self._keys[slot] == ino else None

    # reading

    async def recorded_below(self, inos: Collection[Ino]) -> list[int]:
        """Return, for each of some directories, a row of what was in it that has a record."""
        found: dict[int, int] = {}
        async for row in self._each():
            parent = self._parents[row]
            if parent in inos and parent not in found and self.spot(row) is not None:
                found[parent] = row
        return list(found.values())

    def children(self, ino: Ino, before: int) -> Iterator[int]:
        """Yield what was deleted from a directory earlier than a row, newest first."""
        slot = self._slot(ino)
        row = _NONE if slot is None else self._heads[slot]
        while row != _NONE:
            if row < before:
                yield row
            row = self._nexts[row]

    def directory(self, ino: Ino, before: int) -> int | None:
        """Return the newest row, earlier than one, of a directory with that inode."""
        at = bisect_left(self._dirs, ino, key=self.ino)
        found = None
        while at < len(self._dirs) and self._inos[self._dirs[at]] == ino:
            if self._dirs[at] < before:
                found = self._dirs[at]
            at += 1
        return found

    def entry(self, row: int) -> EntryName:
        """Return what the name of an entry says."""
        return EntryName(
            self._times[row],
            f"{self._runs[row]:04x}",
            self._uids[row],
            Ino(self._parents[row]),
            self.name(row),
        )

    def name(self, row: int) -> bytes:
        """Return what it was called; nothing if that isn't known yet."""
        start = self._starts[row]
        return bytes(self._names[start : start + self._lengths[row]])

    def named(self, row: int) -> NameOfHour:
        """Return how it lies in the hour."""
        entry = self.entry(row)
        if self.is_tomb(row):
            return NameOfHour(layout.tomb_name(entry, self.ino(row)), is_dir=False)
        if not entry.name:  # a long one
            return NameOfHour(entry.prefix, is_dir=True)
        return NameOfHour(entry.path[0], self.is_dir(row) or len(entry.path) > 1)

    def item(self, row: int) -> Item | None:
        """Return an entry as the listing of the hour had it; None if it has to be looked at."""
        mode = self._modes[row]
        if not mode:
            return None
        owner, size, nlink = self._owners[row], self._sizes[row], self._links[row]
        return Item(self.entry(row), self.ino(row), mode, owner, size, nlink, self.above(row))

    def ino(self, row: int) -> Ino:
        """Return its inode."""
        return Ino(self._inos[row])

    def parent(self, row: int) -> Ino:
        """Return the directory that it was deleted from."""
        return Ino(self._parents[row])

    def time_ns(self, row: int) -> int:
        """Return when it was deleted."""
        return self._times[row]

    def uid(self, row: int) -> int:
        """Return who deleted it."""
        return self._uids[row]

    def run(self, row: int) -> int:
        """Return which instance deleted it."""
        return self._runs[row]

    def pid(self, row: int) -> int:
        """Return which process deleted it; 0 if that isn't known."""
        return self._pids[row]

    def above(self, row: int) -> bytes:
        """Return the directory that holds the hour that it is in."""
        return self.aboves[self._aboves[row]]

    def spot(self, row: int) -> Spot | None:
        """Return where its record is; None if no journal has one."""
        if self._journals[row] == NOWHERE and not self._offsets[row]:
            return None
        return Spot(self._journals[row], self._offsets[row])

    def is_dir(self, row: int) -> bool:
        """Tell whether it is a directory."""
        return bool(self._flags[row] & _IS_DIR)

    def is_tomb(self, row: int) -> bool:
        """Tell whether there is a tombstone in its place."""
        return bool(self._flags[row] & _IS_TOMB)

    def is_unclear(self, row: int) -> bool:
        """Tell whether it has to be looked at to know what it was called, or what it is."""
        return bool(self._flags[row] & _IS_UNCLEAR)

    def is_wanted(self, row: int) -> bool:
        """Tell whether it is of the delete event that is asked for."""
        return bool(self._flags[row] & _IS_WANTED)

    def is_free(self, row: int) -> bool:
        """Tell whether it is no part of a tree yet, and may be one."""
        return not self._flags[row] & (_IS_LEFT_OUT | _IS_ADOPTED)

    def is_left_out(self, row: int) -> bool:
        """Tell whether it is no part of anything."""
        return bool(self._flags[row] & _IS_LEFT_OUT)

    def adopt(self, row: int) -> None:
        """Have it be a part of a tree."""
        self._flags[row] |= _IS_ADOPTED


async def _permuted(column: array[int], order: array[int]) -> array[int]:
    result = array(column.typecode)
    for at in range(0, len(order), BREATH * 4):
        result.extend(map(column.__getitem__, order[at : at + BREATH * 4]))
        await trio.lowlevel.checkpoint()
    return result
