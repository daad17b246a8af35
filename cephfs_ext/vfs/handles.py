"""Open files and directories, by the number that the kernel knows them under.

Concurrency: `DirStream` belongs to one open directory; the kernel serialises reads of one. Nothing
of `HandleTable` has a checkpoint, and of `OpenFiles` what is asynchronous.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Generic, NewType, TypeVar

import trio

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.limits import READDIR_PAGE
from cephfs_ext.core.ports import OPEN_IN_LANE, DirHandle, Handle, Lane, Listed, Storage
from cephfs_ext.vfs.nodes import NodeId, NodeTable
from cephfs_ext.vfs.requests import Stamp

_AHEAD_S = 0.1
"""How long entries are kept for the next reply, which comes at once unless a program dawdles."""

_SETTLE_S = 1.0
"""How long a file that is being closed is waited for."""

_LANE_LOOKS, _LANE_LOOK_S = 10, 0.001
"""How often, and how long, one is waited for that the lane has open: it may be closing it now."""

FileHandle = NewType("FileHandle", int)

T = TypeVar("T")


class HandleTable(Generic[T]):
    """Numbers for open things."""

    def __init__(self) -> None:
        self._next = itertools.count(1)
        self._open: dict[FileHandle, T] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, thing: T) -> FileHandle:
        """Give a thing a number."""
        return self.add_with(lambda _: thing)

    def add_with(self, make: Callable[[FileHandle], T]) -> FileHandle:
        """Give a thing a number that it knows."""
        fh = FileHandle(next(self._next))
        self._open[fh] = make(fh)
        return fh

    def put(self, fh: FileHandle, thing: T) -> None:
        """Note a thing that has a number already, which none of ours can be."""
        self._open[fh] = thing

    def __contains__(self, fh: FileHandle) -> bool:
        return fh in self._open

    def __getitem__(self, fh: FileHandle) -> T:
        """Return the thing of a number.

        Raises:
            FSError: EBADF; there is none.
        """
        thing = self._open.get(fh)
        if thing is None:
            raise FSError(errno.EBADF)
        return thing

    def pop(self, fh: FileHandle) -> T:
        """Take a number back.

        Raises:
            FSError: EBADF; there is none.
        """
        thing = self[fh]
        del self._open[fh]
        return thing

    def drain(self) -> list[T]:
        """Take all numbers back."""
        things = list(self._open.values())
        self._open.clear()
        return things


@dataclasses.dataclass(slots=True)
class OpenFile:
    """An open regular file."""

    node_id: NodeId
    handle: Handle
    fh: FileHandle
    former: list[tuple[Stamp, Handle]] = dataclasses.field(default_factory=list)
    """Handles of inodes that the file led to before, which requests may still be using."""


class OpenFiles:
    """The open regular files, also counted by inode.

    A file counts from before its handle is opened until after it has been closed. A lane is told of
    the handle that reads and writes go to.
    """

    def __init__(self, lane: Lane | None = None) -> None:
        self._lane = lane
        self._table: HandleTable[OpenFile] = HandleTable()
        self._counts: Counter[NodeId] = Counter()
        self._closing: Counter[NodeId] = Counter()
        self._closed = trio.Event()
        """Set, and replaced, whenever a file has been closed."""
        self._alone: dict[NodeId, trio.Event] = {}

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, fh: FileHandle) -> OpenFile:
        return self._table[fh]

    def is_open(self, node_id: NodeId) -> bool:
        """Tell whether an inode is open, or about to be."""
        return node_id in self._counts or node_id in self._alone or self._in_lane(node_id) > 0

    def _in_lane(self, node_id: NodeId) -> int:
        return 0 if self._lane is None else self._lane.opens(node_id)

    def _count(self, node_id: NodeId) -> None:
        self._counts[node_id] += 1
        if self._lane is not None and self._counts[node_id] == 1:
            self._lane.open_outside(node_id, on=True)

    def _uncount(self, node_id: NodeId) -> None:
        if _is_last(self._counts, node_id) and self._lane is not None:
            self._lane.open_outside(node_id, on=False)

    def add(self, node_id: NodeId, handle: Handle) -> FileHandle:
        """Note an open file."""
        self._count(node_id)
        fh = self._table.add_with(lambda fh: OpenFile(node_id, handle, fh))
        self.used(fh)
        return fh

    def adopt(self, fh: FileHandle, nodes: NodeTable) -> OpenFile:
        """Return an open file, which may be the lane's still: then it is ours from now on.

        Raises:
            FSError: EBADF; none has that number.
        """
        if fh & OPEN_IN_LANE and fh not in self._table and self._lane is not None:
            node_id = NodeId(self._lane.file_at(fh))
            if node_id:
                handle = self._lane.take_file(fh, nodes[node_id].node)
                self._count(node_id)
                self._table.put(fh, OpenFile(node_id, handle, fh))
        return self._table[fh]

    def used(self, fh: FileHandle) -> None:
        """Note that a file was read or written here: the lane may do that, if it can."""
        if self._lane is not None:
            self._lane.opened(fh, self._table[fh].handle)

    def exchange(self, file: OpenFile, handle: Handle, now: Stamp) -> None:
        """Have an open file go on with another handle; the former one is kept."""
        file.former.append((now, file.handle))
        file.handle = handle
        self.used(file.fh)

    def is_idle(self, file: OpenFile) -> bool:
        """Tell whether the lane uses no former handle of a file."""
        return self._lane is None or self._lane.is_idle(file.fh)

    @contextlib.asynccontextmanager
    async def opening(self, node_id: NodeId) -> AsyncIterator[None]:
        """Count an inode as open in the body, which opens it; wait for one that wants it alone."""
        while node_id in self._alone:
            await self._alone[node_id].wait()
        self._count(node_id)
        try:
            yield
        finally:
            self._uncount(node_id)

    @contextlib.asynccontextmanager
    async def alone(self, node_id: NodeId, *, but: int) -> AsyncIterator[bool]:
        """Keep an inode from being opened in the body.

        Yields:
            True if it is open at most `but` times; what is about to be closed is waited for.
        """
        while node_id in self._alone:
            await self._alone[node_id].wait()
        self._alone[node_id] = trio.Event()
        self._hold(node_id, on=True)
        try:
            with trio.move_on_after(_SETTLE_S):
                while self._closing[node_id]:
                    await self._closed.wait()
            for _ in range(_LANE_LOOKS):
                if not self._in_lane(node_id):
                    break
                await trio.sleep(_LANE_LOOK_S)
            yield self._counts[node_id] + self._in_lane(node_id) <= but
        finally:
            self._hold(node_id, on=False)
            self._alone.pop(node_id).set()

    def _hold(self, node_id: NodeId, *, on: bool) -> None:
        if self._lane is not None:
            self._lane.hold(node_id, on=on)

    @contextlib.contextmanager
    def closing(self, fh: FileHandle) -> Iterator[OpenFile]:
        """Take an open file back; its handle is closed in the body."""
        file = self._table.pop(fh)
        if self._lane is not None:
            self._lane.closing(fh)
        self._closing[file.node_id] += 1
        try:
            yield file
        finally:
            _is_last(self._closing, file.node_id)
            self._uncount(file.node_id)
            self._closed.set()
            self._closed = trio.Event()

    def drain(self) -> list[OpenFile]:
        """Take all open files back."""
        self._counts.clear()
        return self._table.drain()


def _is_last(counter: Counter[NodeId], node_id: NodeId) -> bool:
    """Count one less; tell whether it was the last."""
    counter[node_id] -= 1
    if counter[node_id] > 0:
        return False
    del counter[node_id]
    return True


class DirStream:
    """An open directory, with the part of a page that didn't fit into the last reply.

    What the kernel is told of an entry it takes for true, sizes among them, which decide where an
    append goes. So nothing is kept of a page that was read before the last change.
    """

    def __init__(self, storage: Storage, node_id: NodeId, handle: DirHandle | None) -> None:
        self.node_id = node_id
        self.handle = handle
        """None for a directory without entries of its own."""
        self.names_changed = False
        """True once a name in it was changed: what libcephfs has read before may have gone."""
        self.is_seen_whole = True
        """False if others than we change what is in it: then nothing is kept of a page."""
        self._storage = storage
        self._ahead: Sequence[Listed] = ()
        self._ahead_cookie = 0
        self._is_ahead_true = True
        self._read_s = 0.0

    async def page(self, cookie: int) -> Sequence[Listed]:
        """Return entries after `cookie`, with references that the caller gives back or keeps.

        What the caller doesn't use it hands to `put_back`.
        """
        ahead, self._ahead = self._ahead, ()
        if ahead and cookie == self._ahead_cookie and time.monotonic() - self._read_s < _AHEAD_S:
            return ahead
        self._forget(ahead)
        if self.handle is None:
            return ()
        self._is_ahead_true = self.is_seen_whole
        self._read_s = time.monotonic()
        return await self._storage.readdir(self.handle, cookie, limit=READDIR_PAGE, plus=True)

    def put_back(self, cookie: int, rest: Sequence[Listed]) -> None:
        """Keep the entries after `cookie` that didn't fit, for the next call."""
        if self._is_ahead_true:
            self._ahead, self._ahead_cookie = rest, cookie
        else:
            self._forget(rest)

    def changed(self) -> None:
        """Something in the directory was changed: forget what was read before."""
        self._is_ahead_true = False
        ahead, self._ahead = self._ahead, ()
        self._forget(ahead)

    def _forget(self, entries: Sequence[Listed]) -> None:
        for entry in entries:
            if entry.found is not None:
                self._storage.forget(entry.found.node)

    async def close(self) -> None:
        """Close the directory."""
        self._forget(self._ahead)
        self._ahead = ()
        if self.handle is not None:
            await self._storage.releasedir(self.handle)


class DirStreams:
    """The directories that are being listed, by id."""

    def __init__(self, lane: Lane | None = None) -> None:
        self._lane = lane
        self._open: dict[NodeId, set[DirStream]] = {}

    def add(self, stream: DirStream) -> None:
        """Note a directory that was opened."""
        if self._lane is not None:
            stream.is_seen_whole, stream.names_changed = False, True
        self._open.setdefault(stream.node_id, set()).add(stream)

    def discard(self, stream: DirStream) -> None:
        """Note that it was closed."""
        same = self._open.get(stream.node_id, set())
        same.discard(stream)
        if not same:
            self._open.pop(stream.node_id, None)

    def changed(self, directory: NodeId, *, names: bool) -> None:
        """Tell all listings of a directory that something in it was changed."""
        for stream in self._open.get(directory, ()):
            stream.changed()
            stream.names_changed |= names
        if names and self._lane is not None:
            self._lane.names_changed(directory)
