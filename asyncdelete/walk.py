"""Removes a tree for good: bounded memory, no stat of the victims.

Streams a page, removes it, and reads again from the start until the directory is empty, since a
cursor may skip entries while others vanish. Directories are entered depth first; their names wait
on a stack, never the names of files. Somebody else at the same tree does no harm: what is gone
already counts as success. An inode that a tombstone promises is kept, and becomes its entry.

An entry that can't be removed is counted and logged and doesn't stop the others.
"""

from __future__ import annotations

import errno
import logging
import stat
from collections.abc import Sequence
from typing import NamedTuple

from cephfs_ext.core.errors import FSError, NotEmptyError, NotFoundError
from cephfs_ext.core.limits import BACKGROUND_THREADS, READDIR_PAGE
from cephfs_ext.core.ports import Meter, Node, Storage
from cephfs_ext.core.types import GATEWAY, DirEntry, Ino
from trashbin.expire import Removed
from trashbin.files import listing
from trashbin.spare import Spare
from trashbin.tasks import for_each

_log = logging.getLogger(__name__)

_IDLE_PASSES = 3
"""How often a directory is read again although nothing in it was removed: names that are listed
but gone, until the storage has caught up."""


class Done(NamedTuple):
    """What a walk has done so far."""

    files: int
    dirs: int
    kept: int
    failures: int


class Failure(NamedTuple):
    """Something that could not be removed."""

    path: bytes
    reason: str


class Walk:
    """Removes one tree; counts what it removed."""

    def __init__(self, storage: Storage, meter: Meter, spare: Spare | None = None) -> None:
        self._storage = storage
        self._meter = meter
        self._spare = spare
        self._files = 0
        self._dirs = 0
        self._kept = 0
        self._failures = 0

    async def remove(self, above: Node, name: bytes) -> Removed:
        """Remove whatever has a name, with everything below it.

        Raises:
            FSError: what tombstones promise can't be read; what is left is as it was.
        """
        if self._spare is not None:
            await self._spare.look_again()
        try:
            found = await self._storage.resolve(above, name)
        except NotFoundError:
            return Removed(0, 0, 0)
        except FSError as exc:
            self._failed(name, exc)
            return Removed(0, 0, 1)
        if found.attr.is_dir:
            await self._tree(_Level(above, name, found.node))
        else:
            self._storage.forget(found.node)
            await self._file(above, name, found.attr.ino)
        return Removed(self._files, self._dirs, self._failures)

    async def _tree(self, top: _Level) -> None:
        """Empty a directory, then remove it, without recursion: depth has no limit."""
        stack = [top]
        try:
            while stack:
                below = await self._descend(stack[-1])
                if below is not None:
                    stack.append(below)
                    continue
                removed = await self._directory(stack[-1])
                level = stack.pop()
                self._storage.forget(level.node)
                if stack and not removed:
                    stack[-1].stuck.add(level.name)
        finally:
            for level in stack:
                self._storage.forget(level.node)

    async def _descend(self, level: _Level) -> _Level | None:
        """Remove the files of a directory; return the next directory in it to enter."""
        while True:
            while level.dirs:
                below = await self._enter(level, level.dirs.pop())
                if below is not None:
                    return below
            level.idle = 0 if self._progress > level.progress else level.idle + 1
            level.progress = self._progress
            page = await self._page(level)
            if not page or level.idle > _IDLE_PASSES:
                return None
            level.dirs = await self._files_of(level, page)

    @property
    def progress(self) -> Done:
        """What has been done so far."""
        return Done(self._files, self._dirs, self._kept, self._failures)

    @property
    def failures(self) -> list[Failure]:
        """Some of what could not be removed."""
        return []

    @property
    def _progress(self) -> int:
        return self._files + self._dirs + self._kept + self._failures

    async def _page(self, level: _Level) -> list[DirEntry]:
        """Read from the start the first entries that are not known to be stuck."""
        try:
            async with listing(self._storage, level.node) as entries:
                fresh: list[DirEntry] = []
                async for listed in entries:
                    if listed.entry.name not in level.stuck:
                        fresh.append(listed.entry)
                        if len(fresh) == READDIR_PAGE:
                            break
                return fresh
        except NotFoundError:
            return []
        except FSError as exc:
            self._failed(level.name, exc)
            return []

    async def _files_of(self, level: _Level, page: Sequence[DirEntry]) -> list[bytes]:
        """Remove the files of a page, several at once; return the names of its directories."""
        if self._spare is not None:
            await self._spare.look_again()
        dirs: list[bytes] = []

        async def one(entry: DirEntry) -> None:
            if await self._is_dir(level, entry):
                dirs.append(entry.name)
            elif not await self._file(level.node, entry.name, entry.ino):
                level.stuck.add(entry.name)

        await for_each(page, one, at_once=BACKGROUND_THREADS)
        return dirs

    async def _is_dir(self, level: _Level, entry: DirEntry) -> bool:
        if entry.kind:
            return entry.kind == stat.S_IFDIR
        try:
            found = await self._storage.resolve(level.node, entry.name)
        except FSError:
            return False  # removing it will tell
        self._storage.forget(found.node)
        return found.attr.is_dir

    async def _enter(self, level: _Level, name: bytes) -> _Level | None:
        try:
            found = await self._storage.resolve(level.node, name)
        except NotFoundError:
            return None
        except FSError as exc:
            self._failed(name, exc)
            level.stuck.add(name)
            return None
        return _Level(level.node, name, found.node)

    async def _file(self, above: Node, name: bytes, ino: Ino) -> bool:
        try:
            if self._spare is not None and self._spare.promised(ino):
                if not await self._spare.remove(above, name, ino):
                    self._kept += 1
                    return True
            else:
                await self._storage.unlink(above, name, GATEWAY)
        except NotFoundError:
            return True
        except FSError as exc:
            self._failed(name, exc)
            return False
        self._files += 1
        return True

    async def _directory(self, level: _Level) -> bool:
        try:
            await self._storage.rmdir(level.above, level.name, GATEWAY)
        except NotFoundError:
            return True
        except NotEmptyError:
            return False  # what is in it has been reported
        except FSError as exc:
            self._failed(level.name, exc)
            return False
        self._dirs += 1
        return True

    def _failed(self, name: bytes, error: FSError) -> None:
        self._failures += 1
        label = errno.errorcode.get(error.errno, "other")
        self._meter.count("purge_failures_total", errno=label)
        _log.warning("%r could not be removed: %s", name, error)


class _Level:
    """A directory on the way down; the reference is the walk's."""

    __slots__ = ("above", "dirs", "idle", "name", "node", "progress", "stuck")

    def __init__(self, above: Node, name: bytes, node: Node) -> None:
        self.above = above
        self.name = name
        self.node = node
        self.dirs: list[bytes] = []
        """Directories in it that are to be entered next."""
        self.idle = 0
        """How often it was read although nothing had been removed since the last time."""
        self.progress = 0
        self.stuck: set[bytes] = set()
        """Names that could not be removed: not tried again in this walk."""
