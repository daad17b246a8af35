"""The trees that users deleted, newest first, without having all of the trash in memory.

What `trashbin.trees.group` decides, with the same answer, from rows: hours are read from the newest
back, and before a tree is given out as far back as it may reach. An hour is given up once all
trees whose top is in it have been given out.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import NamedTuple

import trio

from trashbin import layout
from trashbin.rows import BREATH, Rows
from trashbin.trees import LONGEST_PAUSE_NS

Load = Callable[[bytes], Awaitable[Rows]]
"""Reads an hour, sorted; without rows if there is none of that name."""


class Part(NamedTuple):
    """One entry of a tree."""

    rows: Rows
    row: int
    above: int
    """Number of the part that it was in; of the top, its own."""


class Bundle:
    """One tree, as rows: 10 bytes an entry."""

    def __init__(self, rows: Rows, row: int) -> None:
        self.start_ns = rows.time_ns(row)
        self._hours = [rows]
        self._which, self._rows, self._aboves = array("H", [0]), array("I", [row]), array("I", [0])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def top(self) -> Part:
        """What was deleted last."""
        return self.part(0)

    def part(self, number: int) -> Part:
        """Return a part by its number."""
        rows = self._hours[self._which[number]]
        return Part(rows, self._rows[number], self._aboves[number])

    def parts(self) -> Iterator[Part]:
        """Yield all parts by their numbers, directories before what was in them."""
        return map(self.part, range(len(self)))

    def find(self, path: tuple[bytes, ...]) -> int | None:
        """Return the number of the part that had a path below the top."""
        number = 0
        for name in path:
            numbers = [at for at in self._below(number) if _called(self.part(at)) == name]
            if not numbers:
                return None
            number = numbers[0]
        return number

    def _below(self, number: int) -> Iterator[int]:
        return (at for at in range(1, len(self)) if self._aboves[at] == number)

    def below(self, number: int) -> Iterator[Part]:
        """Yield what was directly in a part."""
        return map(self.part, self._below(number))

    def add(self, rows: Rows, row: int, above: int) -> int:
        """Take a part; returns its number."""
        if rows not in self._hours:
            self._hours.append(rows)
        self._which.append(self._hours.index(rows))
        self._rows.append(row)
        self._aboves.append(above)
        return len(self) - 1


def _called(part: Part) -> bytes:
    return part.rows.name(part.row)


class _Directory:
    """A directory of which is being found out what went with it."""

    def __init__(self, rows: Rows, row: int, number: int) -> None:
        self.rows, self.row, self.number = rows, row, number
        self.ino = rows.ino(row)
        self.start_ns = rows.time_ns(row)
        self.taken: set[bytes] = set()
        """Names that it has; in its own hour only those that might come twice."""
        self.candidates: Iterator[int] = iter(())
        self.hour, self.is_last = rows, False
        self._begin(rows, row)

    def _begin(self, hour: Rows, before: int) -> None:
        """Go on with what was deleted from it in an hour, before a row.

        What was deleted before the last time that it went itself belongs to that.
        """
        self.hour = hour
        former = hour.directory(self.ino, before)
        self.is_last = former is not None
        self.candidates = _newer(hour.children(self.ino, before), former)

    def begin_earlier(self, hour: Rows, bundle: Bundle) -> None:
        """Go on with an earlier hour."""
        if self.hour is self.rows:
            self.taken = {_called(one) for one in bundle.below(self.number)}
        self._begin(hour, len(hour))

    def takes(self, row: int, gap_ns: int) -> bool:
        """Tell whether something went with it."""
        mine, hour = self.rows, self.hour
        name = hour.name(row)
        if name in self.taken:
            return False
        if (mine.run(self.row), mine.uid(self.row)) != (hour.run(row), hour.uid(row)):
            return False
        pause_ns = self.start_ns - hour.time_ns(row)
        my_pid, its_pid = mine.pid(self.row), hour.pid(row)
        both = my_pid and its_pid
        if my_pid != its_pid if both else pause_ns > gap_ns:
            return False
        if pause_ns > LONGEST_PAUSE_NS and both:
            return False
        if hour is not mine or hour.may_be_twin(row):
            self.taken.add(name)
        return True


def _newer(rows: Iterator[int], former: int | None) -> Iterator[int]:
    for row in rows:
        if former is not None and row < former:
            return
        yield row


class Window:
    """The hours of one trash that are being looked at."""

    def __init__(self, load: Load, gap_ns: int) -> None:
        """Keep what is needed.

        Args:
            load: reads an hour.
            gap_ns: longest pause of one delete, where the process isn't known.
        """
        self._load = load
        self._gap_ns = gap_ns
        self._reach_ns = max(gap_ns, LONGEST_PAUSE_NS)
        self.hours: dict[bytes, Rows] = {}
        """What is in memory, newest first."""
        self._steps = 0

    async def bundles(self, hour: bytes) -> AsyncGenerator[Bundle]:
        """Yield the trees whose tops are in an hour, newest first; then give the hour up.

        To be asked for hours from the newest on, none left out in which there is something.
        """
        for later in [name for name in self.hours if name > hour]:
            del self.hours[later]
        rows = await self._rows(hour)
        for row in reversed(range(len(rows))):
            await self._breathe()
            if rows.is_free(row):
                bundle = Bundle(rows, row)
                if rows.is_dir(row):
                    await self._complete(bundle)
                yield bundle
        del self.hours[hour]

    async def _rows(self, hour: bytes) -> Rows:
        if hour not in self.hours:
            rows = await self._load(hour)
            await rows.link(self.hours.values())
            self.hours[hour] = rows
        return self.hours[hour]

    async def _breathe(self) -> None:
        self._steps += 1
        if self._steps % BREATH == 0:
            await trio.lowlevel.checkpoint()

    async def _complete(self, bundle: Bundle) -> None:
        """Find out what went with a directory, and with the directories in it."""
        rows, row, _ = bundle.top
        stack = [_Directory(rows, row, 0)]
        while stack:
            current = stack[-1]
            adopted = await self._next(current, bundle)
            if adopted is None:
                stack.pop()
                above = stack[-1] if stack else bundle
                above.start_ns = min(above.start_ns, current.start_ns)
                continue
            number = bundle.add(current.hour, adopted, current.number)
            current.hour.adopt(adopted)
            if current.hour.is_dir(adopted):
                stack.append(_Directory(current.hour, adopted, number))
            else:
                current.start_ns = min(current.start_ns, current.hour.time_ns(adopted))

    async def _next(self, one: _Directory, bundle: Bundle) -> int | None:
        """Return the row, in the hour that is looked at, of what went with a directory next."""
        while True:
            for row in one.candidates:
                await self._breathe()
                if one.takes(row, self._gap_ns):
                    return row
            reaches_back = one.start_ns - self._reach_ns < one.hour.begin_ns
            if one.is_last or not reaches_back:
                return None
            earlier = await self._rows(layout.hour_plus(one.hour.hour, -1))
            one.begin_earlier(earlier, bundle)
