"""Pending deletes: answered already, and carried out a moment later, many at a time.

Owns the table of what has been answered and isn't carried out yet; what carrying out means, and
what is to be undone if it fails, comes with each delete. Knows neither FUSE nor storage.

* A delete is found in the table, by directory and name, from `add` until it has been carried out or
  has failed; until then its name is hidden.
* A directory waits for the deletes of what was in it.
* Nothing is carried out while a process goes on deleting, since it would only take the time that
  the answers need, but for what has waited for `_LONGEST_S`, and if the table is half full.
* Those that are alike go together, which costs a fraction of what they cost one by one.
* Who depends on a delete (`settle…`) has it carried out at once, before all others, and waits.
  There is no other limit to that wait than there is to a call to the storage.

A failure brings the name back: it is counted, logged, and told to who waits.

Concurrency: `add`, `names` and the like have no checkpoint, so each is atomic. A delete that has
begun is never cancelled. `once` is carried out by one task at a time.
"""

from __future__ import annotations

import errno
import itertools
import logging
import time
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Protocol, Self

import trio

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Meter

_log = logging.getLogger(__name__)

_QUIET_S = 0.05
"""A process that hasn't deleted anything for this long has finished, or waits for something."""

_LONGEST_S = 3.0
"""How long a delete waits while the process goes on."""

_IDLE_S = 60.0
"""How long a round waits for something to carry out."""

_TOGETHER = 32
"""How many deletes go together at most: who waits for one of them waits for all."""

_NEAR = 128
"""How far down the queue those are looked for: several processes may delete in turns."""

Directory = int
"""Number of a directory, as who adds deletes has it."""

_NONE: frozenset[bytes] = frozenset()


class Delete(Protocol):
    """One delete that has been answered."""

    @property
    def directory(self) -> Directory:
        """Where the name is."""
        ...

    @property
    def name(self) -> bytes:
        """What is hidden."""
        ...

    @property
    def victim(self) -> Directory | None:
        """The directory that is deleted; None if it is none."""
        ...

    @property
    def batch(self) -> Hashable | None:
        """What it has in common with those that can go together with it; None: it goes alone."""
        ...

    async def carry_out(self) -> None:
        """Do it.

        Raises:
            FSError: nothing has changed.
        """
        ...

    async def carry_out_many(self, deletes: Sequence[Self]) -> Sequence[bool]:
        """Do those of one batch, this one among them, at less cost than one by one.

        Returns:
            For each whether it has been done; nothing has changed of the others.

        Raises:
            FSError: nothing has changed.
        """
        ...

    def undo(self) -> None:
        """It has failed: the name is no longer hidden. Must not fail."""
        ...

    def release(self) -> None:
        """Give back what it holds. Must not fail."""
        ...


class Pins(Protocol):
    """Keeps directories known while something in them is pending."""

    def pin(self, directory: Directory) -> tuple[Directory, ...]:
        """Keep a directory and those above it known; return all of them."""
        ...

    def unpin(self, chain: tuple[Directory, ...]) -> None:
        """Give them back."""
        ...


class _Item:
    """A delete in the table."""

    __slots__ = ("added_s", "begun", "delete", "error", "finished", "urgent")

    def __init__(self, delete: Delete, added_s: float) -> None:
        self.delete = delete
        self.added_s = added_s
        self.begun = False
        self.urgent = False
        self.error: FSError | None = None
        self.finished: trio.Event | None = None
        """Set once it has been carried out or has failed; made for who waits."""


class _Inside:
    """What is pending in a directory."""

    __slots__ = ("answered_ns", "behind", "chain", "directories", "items")

    def __init__(self, chain: tuple[Directory, ...]) -> None:
        self.chain = chain
        self.items: dict[bytes, _Item] = {}
        self.answered_ns = 0
        self.directories = 0
        self.behind: _Item | None = None
        """The delete of the directory itself."""


class Pending:
    """The deletes of one gateway that have been answered and aren't carried out yet."""

    def __init__(
        self,
        pins: Pins,
        meter: Meter,
        *,
        limit: int,
        in_flight: int,
    ) -> None:
        """Set limits.

        Args:
            limit: how many may be pending; who adds more waits in `room`.
            in_flight: how many are carried out at a time, each with what goes together with it.
        """
        self._pins = pins
        self._meter = meter
        self._limit = limit
        self._inside: dict[Directory, _Inside] = {}
        self._ready: deque[_Item] = deque()
        self._urgent: deque[_Item] = deque()
        self._count = 0
        self._last_s = float("-inf")
        self._closing = False
        self._slots = trio.Semaphore(in_flight)
        self._wake = trio.Event()
        self._freed = trio.Event()
        """Set, and replaced, whenever a delete leaves the table while somebody waits for room."""
        self._waiting_for_room = 0

    def __len__(self) -> int:
        return self._count

    # the table

    def has(self, directory: Directory, name: bytes) -> bool:
        """Tell whether a name is hidden."""
        inside = self._inside.get(directory)
        return inside is not None and name in inside.items

    def names(self, directory: Directory) -> frozenset[bytes]:
        """Return the names that are hidden in a directory."""
        inside = self._inside.get(directory)
        return _NONE if inside is None else frozenset(inside.items)

    def answered_ns(self, directory: Directory) -> int | None:
        """Return when the last delete in a directory was answered; None if none is pending."""
        inside = self._inside.get(directory)
        return None if inside is None else inside.answered_ns

    def directories(self, directory: Directory) -> int:
        """Return how many of the names that are hidden in a directory are directories'."""
        inside = self._inside.get(directory)
        return 0 if inside is None else inside.directories

    @property
    def has_room(self) -> bool:
        """True if one more may be added."""
        return self._count < self._limit

    async def room(self) -> None:
        """Wait until there is room for one more. Checkpoints: only if it has to wait."""
        if self.has_room:
            return
        self._meter.count("pending_limit_reached_total")
        self._waiting_for_room += 1
        try:
            while not self.has_room:
                await self._freed.wait()
        finally:
            self._waiting_for_room -= 1

    def add(self, delete: Delete) -> None:
        """Take a delete over; its name isn't in the table, and is hidden from now on."""
        inside = self._inside.get(delete.directory)
        if inside is None:
            inside = _Inside(self._pins.pin(delete.directory))
            self._inside[delete.directory] = inside
        item = _Item(delete, trio.current_time())
        inside.items[delete.name] = item
        inside.answered_ns = time.time_ns()
        inside.directories += delete.victim is not None
        self._count += 1
        self._last_s = item.added_s
        below = None if delete.victim is None else self._inside.get(delete.victim)
        if below is None:
            self._ready.append(item)
        else:
            below.behind = item
        if self._count == 1 or self._count * 2 >= self._limit:
            self._wake.set()

    # barriers

    async def settle_name(self, directory: Directory, name: bytes) -> FSError | None:
        """Wait for the delete of a name, and of what was in it. Checkpoints: as `settle`."""
        inside = self._inside.get(directory)
        item = None if inside is None else inside.items.get(name)
        if item is None:
            return None
        items = [item]
        if item.delete.victim is not None:
            items = [*self._below(item.delete.victim), item]
        return await self._settle(items)

    async def settle_below(self, directory: Directory) -> FSError | None:
        """Wait for all deletes in a directory and below it. Checkpoints: as `settle`."""
        return await self._settle(list(self._below(directory))) if self._inside else None

    async def settle(self) -> FSError | None:
        """Wait for all that is pending at this moment.

        Returns:
            What the first of it that failed has failed with; its name is there again.

        Checkpoints: only if there is something to wait for.
        """
        return await self._settle([i for one in self._inside.values() for i in one.items.values()])

    def _below(self, directory: Directory) -> Iterator[_Item]:
        for inside in self._inside.values():
            if directory in inside.chain:
                yield from inside.items.values()

    async def _settle(self, items: list[_Item]) -> FSError | None:
        for item in items:
            item.urgent = True
            if item.finished is None:
                item.finished = trio.Event()
            if not item.begun and not self._is_behind(item):
                self._urgent.append(item)
        self._wake.set()
        for item in items:
            assert item.finished is not None
            await item.finished.wait()
        return next((item.error for item in items if item.error is not None), None)

    def _is_behind(self, item: _Item) -> bool:
        """Tell whether something in a directory is still to be deleted before it."""
        return item.delete.victim is not None and item.delete.victim in self._inside

    # carrying out

    async def once(self) -> None:
        """Wait for deletes, or some time for none, and carry them out."""
        if not self._count:
            self._wake = trio.Event()
            with trio.move_on_after(_IDLE_S):
                await self._wake.wait()
        async with trio.open_nursery() as nursery:
            while self._count:
                await self._slots.acquire()
                items = self._next(self._urgent) or self._next(self._ready)
                if items:
                    nursery.start_soon(self._carry_out, items)
                else:
                    self._slots.release()
                    await self._pause()

    async def drain(self) -> None:
        """Carry out all that is pending, at once; nothing is added any more."""
        self._closing = True
        while self._count:
            await self.once()

    def _next(self, queue: deque[_Item]) -> list[_Item]:
        """Take the next delete that is due, if one is, and those near it that go with it."""
        while queue and queue[0].begun:
            queue.popleft()
        if not queue or not self._is_due(queue[0]):
            return []
        first = queue.popleft()
        taken, batch = [first], first.delete.batch
        if batch is not None:
            near = itertools.islice(queue, _NEAR)
            alike = (i for i in near if not i.begun and i.delete.batch == batch and self._is_due(i))
            taken += itertools.islice(alike, _TOGETHER - 1)
        for item in taken:
            item.begun = True
        return taken

    def _is_due(self, item: _Item) -> bool:
        if item.urgent:
            return True
        now_s = trio.current_time()
        waited = now_s - self._last_s >= _QUIET_S or now_s - item.added_s >= _LONGEST_S
        return waited or self._closing or self._count * 2 >= self._limit

    async def _pause(self) -> None:
        """Wait until something may be due."""
        self._wake = trio.Event()
        with trio.move_on_after(_QUIET_S):
            await self._wake.wait()

    async def _carry_out(self, items: list[_Item]) -> None:
        try:
            with trio.CancelScope(shield=True):
                for item in await self._carry_out_together(items):
                    await self._carry_out_one(item)
        finally:
            self._slots.release()

    async def _carry_out_together(self, items: list[_Item]) -> list[_Item]:
        """Carry out what can be at once; return the others."""
        if len(items) == 1:
            return items
        try:
            done = await items[0].delete.carry_out_many([item.delete for item in items])
        except FSError:  # one by one each learns its own
            return items
        except Exception:  # the edge: it is tried once more before a name comes back
            _log.exception("a bug in pending deletes")
            return items
        for item, is_done in zip(items, done, strict=True):
            if is_done:
                self._leave(item)
        return [item for item, is_done in zip(items, done, strict=True) if not is_done]

    async def _carry_out_one(self, item: _Item) -> None:
        try:
            await item.delete.carry_out()
        except FSError as exc:
            self._failed(item, exc)
        except Exception:  # the edge: nobody is there to be told, and the loop must go on
            _log.exception("a bug in a pending delete")
            self._failed(item, FSError(errno.EIO))
        finally:
            self._leave(item)

    def _failed(self, item: _Item, exc: FSError) -> None:
        item.error = exc
        label = errno.errorcode.get(exc.errno, "other")
        self._meter.count("pending_failures_total", errno=label)
        name = item.delete.name.decode(errors="replace")
        _log.warning("%s is there again: its delete has failed: %s", name, exc)

    def _leave(self, item: _Item) -> None:
        """Take a delete out of the table; the directory that waits for it may go on."""
        delete = item.delete
        inside = self._inside[delete.directory]
        del inside.items[delete.name]
        inside.directories -= delete.victim is not None
        self._count -= 1
        if item.error is not None:
            delete.undo()
        if not inside.items:
            del self._inside[delete.directory]
            self._pins.unpin(inside.chain)
            if inside.behind is not None:
                (self._urgent if inside.behind.urgent else self._ready).append(inside.behind)
        delete.release()
        if item.finished is not None:
            item.finished.set()
        self._wake.set()
        if self._waiting_for_room:
            self._freed.set()
            self._freed = trio.Event()
