"""Removes a tree for good: bounded memory, no stat of the victims.

Several directories are read at once, and their files removed by batches; who is read is decided by
a stack, so that the walk goes deep first and few directories wait. A directory is removed when all
that was seen in it is over. A cursor may skip entries while others vanish, so a directory that
isn't empty then is read again, until a pass removes nothing, or what was left is all there is.

Somebody else at the same tree does no harm, and shares the work: each walk takes what it has read
in an order of its own, and what is gone counts as success. An inode that a tombstone promises is
kept, and becomes its entry.

An entry that can't be removed stops no other, and is counted once, however often it was tried.

Concurrency: one task calls `remove`, once; it may be cancelled at any time. A batch that has begun
is over before that ends, and is counted. Code between two checkpoints is atomic, which the counters
of directories rely on.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import stat
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import trio

from asyncdelete.directory import Directory, Names
from asyncdelete.rights import Rights, Verdict
from asyncdelete.throttle import Slot, Throttle
from cephfs_ext.core.errors import FSError, NotEmptyError, NotFoundError
from cephfs_ext.core.limits import (
    REMOVAL_BATCH,
    WALK_BATCHES,
    WALK_DIRECTORIES,
    WALK_FAILURES,
    WALK_OPEN,
    WALK_PAGE,
    WALK_WAITING,
)
from cephfs_ext.core.ports import DirHandle, Meter, Node, Storage
from cephfs_ext.core.types import GATEWAY, DirEntry, Ino, Rank
from trashbin.expire import Removed
from trashbin.files import open_dir
from trashbin.spare import Spare

_log = logging.getLogger(__name__)

_IDLE_PASSES = 3
"""How often a directory is read again although nothing in it was removed: names that are listed
but gone, until the storage has caught up."""

_PASSES = 1000
"""How often a directory is read in which others make new names all the time."""

_STRIDE = 64
"""Far above where a walk is, each so manyth directory stays open, for the others to be found."""

_TOLD = 10
"""Of how many failures the log tells."""

_DENIED = "denied"


class Done(NamedTuple):
    """What a walk has done so far."""

    files: int
    dirs: int
    kept: int
    """Links that became entries again, since a tombstone needs their inode."""
    failures: int
    """Entries that could not be removed, and those that rights have kept."""


class Failure(NamedTuple):
    """Something that could not be removed."""

    path: bytes
    """Relative to the top; of the top itself nothing."""
    reason: str


class _Failed(NamedTuple):
    directory: Directory
    name: bytes
    reason: str


class Walk:
    """Removes one tree; counts what it removed."""

    def __init__(
        self,
        storage: Storage,
        meter: Meter,
        spare: Spare | None = None,
        *,
        throttle: Throttle | None = None,
        owner: int = 0,
        rights: Rights | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            throttle: None: as fast as it goes.
            owner: whose tree it is, for the throttle.
            rights: of who wants it removed; None: everything may be.
        """
        self._storage = storage
        self._meter = meter
        self._spare = spare
        self._throttle = throttle
        self._owner = owner
        self._rights = rights
        self._rank = Rank(0)
        self._above = storage.root
        """The directory of the top."""
        self._random = random.Random(os.urandom(8))
        self._ready: list[Directory] = []
        """Directories that something can be done for now; the last one is next."""
        self._idle = trio.lowlevel.ParkingLot()
        self._gate = trio.Semaphore(WALK_BATCHES)
        self._open: set[Directory] = set()
        self._files = 0
        self._dirs = 0
        self._kept = 0
        self._failed = 0
        self._sample: list[_Failed] = []
        self._stopped: FSError | None = None

    @property
    def progress(self) -> Done:
        """What has been done so far; failures may become fewer while they are tried again."""
        return Done(self._files, self._dirs, self._kept, self._failed)

    @property
    def failures(self) -> list[Failure]:
        """Some of what could not be removed; `progress` counts all."""
        return [Failure(one.directory.path(one.name), one.reason) for one in self._sample]

    async def remove(self, above: Node, name: bytes) -> Removed:
        """Remove whatever has a name, with everything below it.

        Raises:
            FSError: what tombstones promise can't be read; what is left is as it was.
        """
        if self._spare is not None:
            await self._spare.look_again()
        self._rank = await self._rank_of(above, name)
        self._above = above
        around, top = Directory(None, b""), Directory(None, name)
        around.node = above
        try:
            found = await self._storage.resolve(above, name)
        except NotFoundError:
            return self._removed(top)
        except FSError as exc:
            self._fail(top, b"", exc)
            return self._removed(top)
        self._storage.forget(found.node)
        if found.attr.is_dir:
            await self._tree(top)
        else:
            await self._batch(around, [DirEntry(name, found.attr.ino, 0, 0)])
            top.failed += around.failed
        return self._removed(top)

    def _removed(self, top: Directory) -> Removed:
        for label, count in top.failed.items():
            if label != _DENIED:
                self._meter.count("purge_failures_total", count, errno=label)
        failures = top.failed.total() - top.failed[_DENIED]
        return Removed(self._files, self._dirs, failures)

    async def _rank_of(self, above: Node, name: bytes) -> Rank:
        """Return which metadata server has the tree, for its budget; all of it, for most trees."""
        if self._storage.ranks < 2:
            return Rank(0)
        try:
            return await self._storage.rank_of(await self._storage.path(above) + b"/" + name)
        except FSError:
            return Rank(0)

    # directories

    async def _tree(self, top: Directory) -> None:
        self._push(top)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(WALK_DIRECTORIES):
                    nursery.start_soon(self._work, nursery, top)
        finally:
            for directory in list(self._open):
                self._close_node(directory)
        if self._stopped is not None:
            raise self._stopped

    async def _work(self, nursery: trio.Nursery, top: Directory) -> None:
        """Do what can be done for one directory after the other."""
        while True:
            while not self._ready:
                await self._idle.park()
            directory = self._ready.pop()
            if directory.attr is None and not await self._enter(directory):
                pass
            elif not directory.is_read:
                await self._read(nursery, directory)
            else:
                await self._end_pass(directory)
            if directory is top and top.passes < 0:
                nursery.cancel_scope.cancel()
                return

    def _push(self, *directories: Directory) -> None:
        self._ready += directories
        self._idle.unpark(count=len(directories))

    async def _enter(self, directory: Directory) -> bool:
        """Open a directory that has been seen; False if there is nothing to be done in it."""
        try:
            async with self._using(directory) as node:
                attr = directory.attr
                assert attr is not None, "what is open has been looked at"
                if self._rights is not None:
                    directory.verdict = await self._rights.may_empty(node, attr)
        except NotFoundError:
            self._settle(directory, is_there=False)
            return False
        except FSError as exc:
            self._fail(directory, b"", exc)
            self._settle(directory, is_there=True)
            return False
        if directory.verdict is Verdict.HIDDEN:
            directory.is_read = True  # if there is nothing in it, it can go all the same
        return True

    @contextlib.asynccontextmanager
    async def _using(self, directory: Directory) -> AsyncIterator[Node]:
        """Lend the node of a directory, opened again where it was given back.

        Raises:
            NotFoundError: it is gone, or something else has its name.
        """
        directory.users += 1
        try:
            if directory.node is None:
                await self._open_node(directory)
            assert directory.node is not None
            yield directory.node
        finally:
            directory.users -= 1

    async def _open_node(self, directory: Directory) -> None:
        chain: list[Directory] = []
        for one in directory.and_above():
            if one.node is not None:
                break
            one.users += 1
            chain.append(one)
        around = chain[-1].above
        if around is not None:
            around.users += 1
        try:
            for one in reversed(chain):
                await self._open_one(one)
        finally:
            for one in chain:
                one.users -= 1
            if around is not None:
                around.users -= 1
        self._let_go_above(directory)

    async def _open_one(self, directory: Directory) -> None:
        around = self._above if directory.above is None else directory.above.node
        assert around is not None, "opened from the top down, and in use"
        found = await self._storage.resolve(around, directory.name)
        is_same = directory.attr is None or directory.attr.ino == found.attr.ino
        if not found.attr.is_dir or not is_same or directory.node is not None:
            self._storage.forget(found.node)
            if directory.node is None:
                raise NotFoundError()
            return
        directory.node, directory.attr = found.node, found.attr
        self._open.add(directory)

    def _let_go_above(self, directory: Directory) -> None:
        """Close a directory far above, so that depth takes no nodes."""
        if directory.depth <= WALK_OPEN:
            return
        for one in directory.and_above():
            if one.depth == directory.depth - WALK_OPEN:
                if one.depth % _STRIDE and not one.users and one.node is not None:
                    self._close_node(one)
                return

    def _close_node(self, directory: Directory) -> None:
        if directory.node is not None:
            self._storage.forget(directory.node)
            directory.node = None
            self._open.discard(directory)

    # passes

    async def _read(self, nursery: trio.Nursery, directory: Directory) -> None:
        """Read on, until there is enough to do in directories below, or nothing more."""
        directory.waiting += 1
        below: list[Directory] = []
        most = min(WALK_PAGE, max(1, WALK_WAITING - len(self._ready)))
        try:
            async with self._using(directory) as node, open_dir(self._storage, node) as handle:
                while not directory.is_read and len(below) < most:
                    page = await self._page(directory, node, handle, most - len(below))
                    if directory.verdict is Verdict.NOTHING:
                        for entry in page:
                            self._deny(directory, entry.name)
                        continue
                    dirs = [entry for entry in page if entry.kind == stat.S_IFDIR]
                    below += [Directory(directory, entry.name) for entry in dirs]
                    await self._begin_batches(nursery, directory, page)
        except NotFoundError:
            directory.is_read = True
        except FSError as exc:
            self._fail(directory, b"", exc)
            directory.is_read = True
        self._random.shuffle(below)
        directory.waiting += len(below)
        if not directory.is_read:
            self._push(directory)
        self._push(*below)
        self._over(directory)

    async def _page(
        self, directory: Directory, node: Node, handle: DirHandle, most: int
    ) -> Sequence[DirEntry]:
        """Return the next entries, `most` directories among them at most."""
        listed = await self._storage.readdir(handle, directory.cookie, limit=WALK_PAGE)
        page = [await self._with_kind(node, one.entry) for one in listed]
        places = [number for number, entry in enumerate(page) if entry.kind == stat.S_IFDIR]
        if len(places) > most:
            page = page[: places[most - 1] + 1]
        if page:
            directory.cookie = page[-1].cookie
        else:
            directory.is_read = True
        return page

    async def _with_kind(self, node: Node, entry: DirEntry) -> DirEntry:
        """Look at an entry where listings don't say what is a directory."""
        if entry.kind:
            return entry
        try:
            found = await self._storage.resolve(node, entry.name)
        except FSError:
            return entry  # removing it will tell
        self._storage.forget(found.node)
        return entry._replace(kind=stat.S_IFMT(found.attr.mode))

    def _over(self, directory: Directory) -> None:
        """Count that something of a pass is over, and go on if it was the last."""
        directory.waiting -= 1
        if not directory.waiting and directory.is_read:
            self._push(directory)

    async def _end_pass(self, directory: Directory) -> None:
        """Remove a directory, give it up, or begin another pass."""
        directory.passes += 1
        if not directory.left.count and not directory.failed:
            if await self._rmdir(directory):
                self._settle(directory, is_there=False)
                return
            if directory.failed:
                self._settle(directory, is_there=True)
                return
        elif await self._is_all(directory):
            self._settle(directory, is_there=True)
            return
        directory.idle = 0 if directory.removed else directory.idle + 1
        if directory.idle > _IDLE_PASSES or directory.passes > _PASSES:
            if not directory.failed:
                self._fail(directory, b"", NotEmptyError())
            self._settle(directory, is_there=True)
            return
        self._take_back(directory)
        directory.begin_pass()
        self._push(directory)

    async def _rmdir(self, directory: Directory) -> bool:
        """Remove a directory; False if it is not empty, or it failed."""
        if not self._may_rmdir(directory):
            self._deny(directory, b"")
            return False
        above = directory.above
        try:
            async with self._leave() as slot:
                if above is None:
                    await self._storage.rmdir(self._above, directory.name, GATEWAY)
                else:
                    async with self._using(above) as node:
                        await self._storage.rmdir(node, directory.name, GATEWAY)
                self._dirs += 1
                slot.removed(1)
        except NotFoundError:
            pass
        except NotEmptyError:
            if directory.verdict is Verdict.HIDDEN:
                self._deny(directory, b"")
            return False
        except FSError as exc:
            self._fail(directory, b"", exc)
            return False
        if above is not None:
            above.removed = True
        return True

    def _may_rmdir(self, directory: Directory) -> bool:
        above = directory.above
        if above is None or above.verdict is not Verdict.OWN or self._rights is None:
            return True
        assert above.attr is not None
        assert directory.attr is not None
        return self._rights.may_remove(above.attr, directory.attr)

    async def _is_all(self, directory: Directory) -> bool:
        """Tell whether what the pass has left is all that there is.

        Yes, too, if that can't be found out: that has been counted.
        """
        there = Names()
        try:
            async with self._using(directory) as node, open_dir(self._storage, node) as handle:
                cookie = 0
                while page := await self._storage.readdir(handle, cookie, limit=WALK_PAGE):
                    for listed in page:
                        there.add(listed.entry.name)
                    cookie = page[-1].entry.cookie
        except NotFoundError:
            return False
        except FSError:
            return True
        return there == directory.left

    def _settle(self, directory: Directory, *, is_there: bool) -> None:
        """Have done with a directory."""
        directory.passes = -1
        self._close_node(directory)
        above = directory.above
        if above is None:
            return
        if is_there:
            above.left.add(directory.name)
            above.failed += directory.failed
        else:
            self._take_back(directory)
        self._over(above)

    # entries

    async def _begin_batches(
        self, nursery: trio.Nursery, directory: Directory, page: Sequence[DirEntry]
    ) -> None:
        files = [entry for entry in page if entry.kind != stat.S_IFDIR]
        batches = [files[at : at + REMOVAL_BATCH] for at in range(0, len(files), REMOVAL_BATCH)]
        self._random.shuffle(batches)
        for batch in batches:
            await self._gate.acquire()
            directory.waiting += 1
            nursery.start_soon(self._batch_of, nursery, directory, batch)

    async def _batch_of(
        self, nursery: trio.Nursery, directory: Directory, entries: Sequence[DirEntry]
    ) -> None:
        try:
            await self._batch(directory, entries)
        except FSError as exc:
            self._stopped = exc
            nursery.cancel_scope.cancel()
        finally:
            self._gate.release()
        self._over(directory)

    async def _batch(self, directory: Directory, entries: Sequence[DirEntry]) -> None:
        """Remove some names of a directory.

        Raises:
            FSError: what tombstones promise can't be read.
        """
        if directory.verdict is Verdict.OWN:
            entries = await self._allowed(directory, entries)
        async with self._leave() as slot:
            if self._spare is not None:
                await self._spare.look_again()
            promised = self._promised(entries)
            for entry in entries:
                if entry.ino in promised:
                    await self._spared(directory, entry)
            names = [entry.name for entry in entries if entry.ino not in promised]
            if names:
                await self._unlink(directory, names)
                slot.removed(len(names))

    @contextlib.asynccontextmanager
    async def _leave(self) -> AsyncIterator[Slot]:
        """Wait for the throttle."""
        if self._throttle is None:
            yield Slot()
            return
        async with self._throttle.slot(self._owner, self._rank) as slot:
            yield slot

    def _promised(self, entries: Sequence[DirEntry]) -> set[Ino]:
        if self._spare is None:
            return set()
        return {entry.ino for entry in entries if self._spare.promised(entry.ino)}

    async def _unlink(self, directory: Directory, names: Sequence[bytes]) -> None:
        try:
            async with self._using(directory) as node:
                errors = await self._storage.unlink_many(node, names)
        except NotFoundError:
            return
        except FSError as exc:
            for name in names:
                self._fail(directory, name, exc)
            return
        for name, number in zip(names, errors, strict=True):
            if number == 0:
                self._files += 1
                directory.removed = True
            elif number not in (errno.ENOENT, errno.EISDIR):  # a directory is met in another pass
                self._fail(directory, name, FSError(number))

    async def _spared(self, directory: Directory, entry: DirEntry) -> None:
        """Remove a link of a promised inode, or have it become an entry."""
        assert self._spare is not None
        try:
            async with self._using(directory) as node:
                if await self._spare.remove(node, entry.name, entry.ino):
                    self._files += 1
                else:
                    self._kept += 1
                directory.removed = True
        except NotFoundError:
            pass
        except FSError as exc:
            self._fail(directory, entry.name, exc)

    async def _allowed(self, directory: Directory, entries: Sequence[DirEntry]) -> list[DirEntry]:
        """Return the entries of a sticky directory that may be removed; the others are noted."""
        assert self._rights is not None
        assert directory.attr is not None
        allowed = []
        for entry in entries:
            try:
                async with self._using(directory) as node:
                    found = await self._storage.resolve(node, entry.name)
            except NotFoundError:
                continue
            except FSError as exc:
                self._fail(directory, entry.name, exc)
                continue
            self._storage.forget(found.node)
            if self._rights.may_remove(directory.attr, found.attr):
                allowed.append(entry)
            else:
                self._deny(directory, entry.name)
        return allowed

    # failures

    def _deny(self, directory: Directory, name: bytes) -> None:
        self._note(directory, name, _DENIED, os.strerror(errno.EACCES))

    def _fail(self, directory: Directory, name: bytes, error: FSError) -> None:
        reason = str(error)
        if isinstance(error, NotEmptyError):
            reason += ", though nothing is listed in it: snapshots may need it"
        self._note(directory, name, errno.errorcode.get(error.errno, "other"), reason)

    def _note(self, directory: Directory, name: bytes, label: str, reason: str) -> None:
        """Count something that stays."""
        directory.failed[label] += 1
        if name:
            directory.left.add(name)
        self._failed += 1
        if len(self._sample) < WALK_FAILURES:
            self._sample.append(_Failed(directory, name, reason))
        if self._failed <= _TOLD:
            _log.warning("%r could not be removed: %s", name or directory.name, reason)

    def _take_back(self, directory: Directory) -> None:
        """Forget the failures of a pass, since another one follows."""
        if not directory.failed:
            return
        self._failed -= directory.failed.total()
        directory.failed.clear()
        self._sample = [one for one in self._sample if directory not in one.directory.and_above()]
