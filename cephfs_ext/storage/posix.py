"""Any directory as a storage: a local disk, or a kernel mount of CephFS, NFS, Lustre.

Works on `O_PATH` descriptors and single names, never on paths from users, and never follows a
symlink. Every mutation runs in a worker thread that has taken the caller's identity, so that the
kernel below checks rights once more. A daemon that isn't root acts as itself alone.

`create`, `mkdir` and `mknod` obey the umask that they are told and no other, so the process must
have umask 0; `connect` sets it.

Concurrency: any number of calls at once; one open directory is read by one task at a time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TypeVar, cast

import trio

from cephfs_ext.core.errors import ExitCode, FSError, NotFoundError, UserError
from cephfs_ext.core.limits import (
    BACKGROUND_THREADS,
    DATA_THREADS,
    META_THREADS,
    REMOVAL_THREADS,
)
from cephfs_ext.core.ports import Created, DirHandle, Found, Handle, Listed, Load, Move, Node
from cephfs_ext.core.types import (
    Attr,
    AttrChange,
    Credentials,
    DirEntry,
    Ino,
    Rank,
    StatFs,
    Weight,
)
from cephfs_ext.storage import posix_calls as calls
from cephfs_ext.storage import posix_members as members
from cephfs_ext.storage.gate import Gate
from cephfs_ext.storage.names import check_name, check_node, check_regular, check_target
from cephfs_ext.storage.posix_find import find_below, path_of
from cephfs_ext.storage.posix_handles import PosixDirHandle, PosixHandle
from cephfs_ext.storage.posix_nodes import PosixNode, PosixNodes
from cephfs_ext.storage.umask import with_umask

_log = logging.getLogger(__name__)

T = TypeVar("T")

_LOCK_POLL_S = (0.001, 0.05)
"""First and longest pause between two tries for a lock."""

_OPEN_DROPPED = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_DIRECT
"""Flags that are the kernel's business above us. O_APPEND isn't: the offset that comes with a
write is where the kernel believes the end to be, and somebody else may have written there."""

_WRITING = os.O_WRONLY | os.O_RDWR
_CHANGING = _WRITING | os.O_TRUNC

_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What is the matter with us, not with an entry of a listing."""

_CREATE_ATTEMPTS = 5
"""How often `create` looks again at a name that comes and goes."""

_CLOSE_S = 20.0
"""How long the end waits for calls that are under way; one may hang in a network file system."""


class PosixStorage:
    """A directory of this machine; build it with `connect`."""

    kind = "posix"
    flushes = True
    ranks = 1
    lists_attributes = False
    finds_by_number = False
    weighs = False

    def __init__(self, directory: str, root_fd: int, *, background: bool) -> None:
        self._directory = directory
        self._own = calls.own_identity()
        self._mount_fd = os.open(calls.magic(root_fd), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._nodes = PosixNodes(root_fd)
        self._gate = Gate()
        meta, data = (BACKGROUND_THREADS,) * 2 if background else (META_THREADS, DATA_THREADS)
        self._meta = trio.CapacityLimiter(meta)
        self._data = trio.CapacityLimiter(data)
        self._removal = trio.CapacityLimiter(REMOVAL_THREADS)
        self.rename_noreplace = calls.supports_noreplace(root_fd)

    @classmethod
    async def connect(cls, directory: str, *, background: bool = False) -> PosixStorage:
        """Open a directory.

        Sets the process's umask to 0, has it ignore SIGIO, and raises its limit of descriptors.

        Args:
            background: a second session of the same process, with few threads of its own.

        Raises:
            UserError: it is missing, no directory, or can't be entered.
        """
        os.umask(0)
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # that somebody waits for a lease to end
        _raise_descriptor_limit()

        def open_root() -> PosixStorage:
            root_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return cls(directory, root_fd, background=background)
            except BaseException:
                os.close(root_fd)
                raise

        try:
            return await trio.to_thread.run_sync(open_root)
        except FileNotFoundError as exc:
            raise UserError(
                f"{directory}: no such directory; create it first", ExitCode.NOT_FOUND
            ) from exc
        except NotADirectoryError as exc:
            raise UserError(f"{directory} is not a directory", ExitCode.USAGE) from exc
        except PermissionError as exc:
            raise UserError(
                f"{directory}: permission denied; run as a user who may read and search it",
                ExitCode.DENIED,
            ) from exc

    @property
    def node_limit(self) -> int:
        """Half of the descriptors: the others are for what is open, or listed at the moment."""
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2

    @property
    def open_limit(self) -> int:
        """Three eighths of the descriptors: with those of inodes, an eighth is left."""
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 8

    @property
    def root(self) -> Node:
        """The directory that is served."""
        return self._nodes.root

    async def _call(
        self, call: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None
    ) -> T:
        """Run a blocking call in a thread; once begun it is waited for."""

        def translated() -> T:
            with calls.translated():
                return call()

        with self._gate.passed():
            return await trio.to_thread.run_sync(translated, limiter=limiter or self._meta)

    async def _as(self, cred: Credentials, call: Callable[[], T]) -> T:
        """Run a blocking call in a thread with somebody's identity."""

        def acting() -> T:
            with calls.acting_as(cred, self._own):
                return call()

        return await self._call(acting)

    # names

    def _open(self, parent: PosixNode, name: bytes) -> Found:
        return Found(*self._nodes.adopt(calls.open_path(parent.fd, name)))

    async def lookup(self, parent: Node, name: bytes) -> Found:
        """Resolve one name."""
        check_name(name)
        return await self._call(lambda: self._open(_node(parent), name))

    async def resolve(self, parent: Node, name: bytes) -> Found:
        """Resolve one name: attributes cost nothing here."""
        return await self.lookup(parent, name)

    def forget(self, node: Node, count: int = 1) -> None:
        """Give back references."""
        self._nodes.forget(_node(node), count)

    async def _make(
        self, parent: Node, name: bytes, cred: Credentials, call: Callable[[int], None]
    ) -> Found:
        """Make a name as somebody, then open it as ourselves."""
        check_name(name)
        above = _node(parent)

        def make() -> Found:
            with calls.spare_descriptor(), calls.acting_as(cred, self._own):
                call(above.fd)
            return self._open(above, name)

        return await self._call(make)

    async def mkdir(
        self, parent: Node, name: bytes, mode: int, cred: Credentials, *, umask: int = 0
    ) -> Found:
        """Make a directory."""

        def make(above: int) -> None:
            with with_umask(mode & 0o7777, umask) as wanted:
                os.mkdir(name, wanted, dir_fd=above)
            if mode & 0o6000:  # mkdir(2) drops them
                calls.add_mode(above, name, mode & 0o6000)

        return await self._make(parent, name, cred, make)

    async def mknod(
        self,
        parent: Node,
        name: bytes,
        mode: int,
        rdev: int,
        cred: Credentials,
        *,
        umask: int = 0,
    ) -> Found:
        """Make a regular or special file."""
        check_node(mode)

        def make(above: int) -> None:
            with with_umask(mode, umask) as wanted:
                os.mknod(name, wanted, rdev, dir_fd=above)

        return await self._make(parent, name, cred, make)

    async def symlink(self, parent: Node, name: bytes, target: bytes, cred: Credentials) -> Found:
        """Make a symbolic link."""
        check_target(target)
        return await self._make(
            parent, name, cred, lambda above: os.symlink(target, name, dir_fd=above)
        )

    async def link(self, node: Node, parent: Node, name: bytes, cred: Credentials) -> Attr:
        """Give an inode another name."""
        check_name(name)
        source, above = _node(node), _node(parent)

        def make() -> Attr:
            calls.link(source.fd, above.fd, name)
            return calls.attr_of(os.fstat(source.fd))

        return await self._as(cred, make)

    async def unlink(self, parent: Node, name: bytes, cred: Credentials) -> None:
        """Really remove a name that is no directory."""
        check_name(name)
        await self._as(cred, lambda: os.unlink(name, dir_fd=_node(parent).fd))

    async def unlink_many(self, parent: Node, names: Sequence[bytes]) -> Sequence[int]:
        """Really remove names that are no directories."""
        fd = _node(parent).fd
        return await self._call(lambda: calls.unlink_many(fd, names), limiter=self._removal)

    async def rmdir(self, parent: Node, name: bytes, cred: Credentials) -> None:
        """Really remove an empty directory."""
        check_name(name)
        await self._as(cred, lambda: os.rmdir(name, dir_fd=_node(parent).fd))

    async def rename(
        self,
        parent: Node,
        name: bytes,
        new_parent: Node,
        new_name: bytes,
        cred: Credentials,
        flags: int = 0,
        expected: Ino | None = None,
        moved: Ino | None = None,
    ) -> bool:
        """Rename; nobody else is expected to use the directory."""
        check_name(name)
        check_name(new_name)
        names = (_node(parent).fd, name, _node(new_parent).fd, new_name)

        def rename() -> bool:
            if moved is not None:
                return calls.move(*names, moved, flags)
            calls.rename(*names, flags)
            return True

        return await self._as(cred, rename)

    async def move_many(
        self, parent: Node, new_parent: Node, moves: Sequence[Move]
    ) -> Sequence[bool | FSError]:
        """Rename one after the other, as the gateway, to names that nothing has."""
        for name, new_name, _ in moves:
            check_name(name)
            check_name(new_name)
        above, below = _node(parent).fd, _node(new_parent).fd

        def outcome(move: Move) -> bool | FSError:
            try:
                with calls.translated():
                    return calls.move(above, move.name, below, move.new_name, move.ino)
            except FSError as exc:
                return exc

        return await self._call(lambda: [outcome(move) for move in moves])

    # inodes

    async def getattr(self, node: Node) -> Attr:
        """Read attributes."""
        return await self._call(lambda: calls.attr_of(os.fstat(_node(node).fd)))

    async def setattr(
        self, node: Node, change: AttrChange, cred: Credentials, handle: Handle | None = None
    ) -> Attr:
        """Change attributes."""
        fd = _node(node).fd
        opened = None if handle is None else _handle(handle)
        writable = None
        if opened is not None and fcntl.fcntl(opened.fd, fcntl.F_GETFL) & _WRITING:
            writable = opened.fd

        def set_them() -> Attr:
            calls.change(fd, change, writable)
            return calls.attr_of(os.fstat(fd))

        return await self._as(cred, set_them)

    async def readlink(self, node: Node) -> bytes:
        """Read the target of a symbolic link."""
        return await self._call(lambda: calls.read_link(_node(node).fd))

    async def getxattr(self, node: Node, name: bytes) -> bytes:
        """Read an extended attribute."""
        return await self._call(lambda: os.getxattr(calls.magic(_node(node).fd), name))

    async def setxattr(
        self, node: Node, name: bytes, value: bytes, cred: Credentials, flags: int = 0
    ) -> None:
        """Set an extended attribute."""
        path = calls.magic(_node(node).fd)
        await self._as(cred, lambda: os.setxattr(path, name, value, flags))

    async def listxattr(self, node: Node) -> Sequence[bytes]:
        """List the names of extended attributes."""
        path = calls.magic(_node(node).fd)
        return [os.fsencode(name) for name in await self._call(lambda: os.listxattr(path))]

    async def removexattr(self, node: Node, name: bytes, cred: Credentials) -> None:
        """Remove an extended attribute."""
        await self._as(cred, lambda: os.removexattr(calls.magic(_node(node).fd), name))

    async def statfs(self, node: Node) -> StatFs:
        """Read space and names left."""
        stats = await self._call(lambda: os.fstatvfs(_node(node).fd))
        return StatFs(
            stats.f_bsize,
            stats.f_frsize,
            stats.f_blocks,
            stats.f_bfree,
            stats.f_bavail,
            stats.f_files,
            stats.f_ffree,
            stats.f_favail,
            stats.f_namemax,
        )

    async def weigh(self, node: Node) -> Weight | None:
        """Return nothing: a local file system would have to look at everything."""
        await trio.lowlevel.checkpoint()
        return None

    async def quota(self, node: Node) -> Weight:
        """Return no limit: statfs has those that there are."""
        await trio.lowlevel.checkpoint()
        return Weight(0, 0)

    def token(self, node: Node) -> bytes:
        """Return the file handle of an inode."""
        return calls.token_of(_node(node).fd)

    async def path(self, node: Node) -> bytes:
        """Return where a directory is now."""
        fds = (self._nodes.root.fd, _node(node).fd)

        def look() -> bytes:
            top, path = (path_of(fd) for fd in fds)
            below = path == top or path.startswith(top.rstrip(b"/") + b"/")
            if not below or not os.fstat(fds[1]).st_nlink:
                raise NotFoundError()
            return path[len(top) :].lstrip(b"/")

        return await self._call(look)

    async def find(self, ino: Ino, token: bytes) -> Found:
        """Open an inode by its file handle, or else by looking through the whole tree.

        A directory that has been moved out of the tree is not found. Of other inodes the file
        system doesn't say where their names are.
        """

        def find() -> Found:
            node, attr = self._nodes.adopt(self._open_inode(ino, token))
            try:
                if attr.ino != ino or attr.nlink == 0:
                    raise NotFoundError()
                if attr.is_dir and not calls.lies_below(node.fd, self._mount_fd):
                    raise NotFoundError()
            except BaseException:
                self.forget(node)
                raise
            return Found(node, attr)

        return await self._call(find)

    def _open_inode(self, ino: Ino, token: bytes) -> int:
        try:
            return calls.open_token(self._mount_fd, token)
        except FSError as exc:
            if exc.errno == errno.ESTALE:
                raise NotFoundError() from exc
            return find_below(self._mount_fd, ino)

    # files

    async def open(self, node: Node, flags: int, cred: Credentials) -> Handle:
        """Open a regular file; for reading only as ourselves."""
        inode = _node(node)
        who = cred if flags & _CHANGING else self._own
        fd = await self._as(
            who, lambda: os.open(calls.magic(inode.fd), flags & ~_OPEN_DROPPED | os.O_CLOEXEC)
        )
        return PosixHandle(inode, fd, who)

    async def open_passing(self, node: Node) -> Handle:
        """Open for reading; the kernel knows best what it keeps."""
        return await self.open(node, os.O_RDONLY, self._own)

    async def create(
        self,
        parent: Node,
        name: bytes,
        mode: int,
        flags: int,
        cred: Credentials,
        *,
        umask: int = 0,
    ) -> Created:
        """Make and open a regular file."""
        check_name(name)
        above = _node(parent).fd
        opening = flags & ~_OPEN_DROPPED | os.O_CLOEXEC
        making = opening | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW

        def make() -> int:
            with calls.acting_as(cred, self._own), with_umask(mode & 0o7777, umask) as wanted:
                return os.open(name, making, wanted, dir_fd=above)

        def make_or_open() -> int:
            for _ in range(1 if flags & os.O_EXCL else _CREATE_ATTEMPTS):
                try:
                    return make()
                except FileExistsError:
                    if flags & os.O_EXCL:
                        raise
                with contextlib.suppress(FileNotFoundError):  # it has gone: make it after all
                    return self._open_existing(above, name, opening, cred)
            raise FSError(errno.ESTALE, "the name comes and goes")

        def create() -> Created:
            with calls.spare_descriptor():
                fd = make_or_open()
            try:
                path_fd = os.open(calls.magic(fd), os.O_PATH | os.O_CLOEXEC)
                node, attr = self._nodes.adopt(path_fd)
            except BaseException:
                os.close(fd)
                raise
            return Created(node, attr, PosixHandle(node, fd, cred))

        return await self._call(create)

    def _open_existing(self, above: int, name: bytes, flags: int, cred: Credentials) -> int:
        """Open a file for `create`; never a FIFO, which would wait for its other end."""
        path_fd = calls.open_path(above, name)
        try:
            check_regular(os.fstat(path_fd).st_mode)
            with calls.acting_as(cred, self._own):
                return os.open(calls.magic(path_fd), flags)
        finally:
            os.close(path_fd)

    async def reopen(self, handle: Handle, node: Node) -> Handle:
        """Open another inode in the same way."""
        opened, inode = _handle(handle), _node(node)

        def reopen() -> PosixHandle:
            flags = fcntl.fcntl(opened.fd, fcntl.F_GETFL) & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
            return PosixHandle(
                inode, os.open(calls.magic(inode.fd), flags | os.O_CLOEXEC), opened.cred
            )

        return await self._call(reopen)

    async def opened_elsewhere(self, handle: Handle) -> bool:
        """Try to get a write lease, which the kernel gives to a sole opener only."""
        fd = _handle(handle).fd

        def is_opened() -> bool:
            try:
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            except OSError:
                return True
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            return False

        return await self._call(is_opened)

    async def read(self, handle: Handle, off: int, size: int) -> bytes:
        """Read."""
        fd = _handle(handle).fd
        return await self._call(lambda: calls.read_all(fd, off, size), limiter=self._data)

    async def write(self, handle: Handle, off: int, data: bytes) -> int:
        """Write as the opener, so that the kernel strips setuid bits when it must."""
        opened = _handle(handle)

        def write() -> int:
            with calls.acting_as(opened.cred, self._own):
                return calls.write_all(opened.fd, off, data)

        return await self._call(write, limiter=self._data)

    async def flush(self, handle: Handle) -> None:
        """Close a duplicate: that is when network file systems report errors of writes."""
        fd = _handle(handle).fd
        await self._call(lambda: os.close(os.dup(fd)), limiter=self._data)

    async def fsync(self, handle: Handle, *, datasync: bool = False) -> None:
        """Make what was written durable."""
        sync = os.fdatasync if datasync else os.fsync
        await self._call(lambda: sync(_handle(handle).fd), limiter=self._data)

    async def release(self, handle: Handle) -> None:
        """Close."""
        with trio.CancelScope(shield=True):
            await self._call(lambda: os.close(_handle(handle).fd), limiter=self._data)

    # directories

    def passing(self) -> AbstractContextManager[None]:
        """Do nothing: nothing is kept of what is listed."""
        return contextlib.nullcontext()

    async def opendir(self, node: Node) -> DirHandle:
        """Open a directory."""
        inode = _node(node)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = await self._call(lambda: os.open(calls.magic(inode.fd), flags))
        return PosixDirHandle(inode, fd)

    async def readdir(
        self, handle: DirHandle, cookie: int, *, limit: int, plus: bool = False
    ) -> Sequence[Listed]:
        """Return the next page."""
        stream = _dir_handle(handle)

        def page() -> list[Listed]:
            entries = stream.page(cookie, limit)
            if not plus:
                return [Listed(entry, None) for entry in entries]
            return self._opened(stream.node, entries)

        async with stream.lock:
            return await self._call(page)

    def _opened(self, parent: PosixNode, entries: Sequence[DirEntry]) -> list[Listed]:
        """Open the entries of a page; on failure none stays open."""
        listed: list[Listed] = []
        try:
            for entry in entries:
                listed.append(Listed(entry, self._found(parent, entry.name)))
        except BaseException:
            for one in listed:
                if one.found is not None:
                    self.forget(one.found.node)
            raise
        return listed

    def _found(self, parent: PosixNode, name: bytes) -> Found | None:
        """Open an entry of a page; None if it vanished, or can't be had, on its own account."""
        try:
            return self._open(parent, name)
        except (OSError, FSError) as exc:
            if exc.errno in _OUT_OF:
                raise
            return None

    async def fsyncdir(self, handle: DirHandle) -> None:
        """Make the names of a directory durable."""
        await self._call(lambda: os.fsync(_dir_handle(handle).fd))

    async def releasedir(self, handle: DirHandle) -> None:
        """Close a directory."""
        with trio.CancelScope(shield=True):
            await self._call(lambda: os.close(_dir_handle(handle).fd))

    # the cluster

    async def settle(self, node: Node) -> None:
        """Do nothing: everybody sees everything at once."""
        await trio.lowlevel.checkpoint()

    async def _lock(self, node: Node) -> int | None:
        """Return a descriptor that holds the lock; None if somebody else has it."""
        path = calls.magic(_node(node).fd)
        return await self._call(lambda: calls.try_lock(path))

    @contextlib.asynccontextmanager
    async def exclusive(self, node: Node) -> AsyncIterator[None]:
        """Hold a lock on a directory against every gateway on the same file system."""
        async with self._held(await _until_got(lambda: self._lock(node))):
            yield

    @contextlib.asynccontextmanager
    async def replacing(self, parent: Node, name: bytes) -> AsyncIterator[None]:
        """Do nothing: the kernel of one gateway keeps renames in a directory apart."""
        await trio.lowlevel.checkpoint()
        yield

    async def try_exclusive(self, node: Node) -> AbstractAsyncContextManager[object] | None:
        """Take the lock of `exclusive` if it is free now."""
        fd = await self._lock(node)
        return None if fd is None else self._held(fd)

    @contextlib.asynccontextmanager
    async def _held(self, fd: int) -> AsyncIterator[None]:
        try:
            yield
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def member(
        self, above: Node, name: str, about: bytes, *, lease_s: int
    ) -> AsyncIterator[None]:
        """Be a member: a file that we have locked; it lives as long as this process."""
        directory = _node(above).fd

        async def enter() -> int | None:
            return await self._call(lambda: members.try_enter(directory, name, about))

        fd = await _until_got(enter)
        try:
            yield
        finally:
            await self._leave(directory, name, fd)

    async def _leave(self, directory: int, name: str, fd: int) -> None:
        with trio.CancelScope(shield=True):
            await self._call(lambda: members.leave(directory, name, fd))

    async def members(self, above: Node) -> Collection[str]:
        """Return the names of all members."""
        return await self._call(lambda: members.names(_node(above).fd))

    async def try_succeed(
        self, above: Node, name: str
    ) -> AbstractAsyncContextManager[bytes] | None:
        """Take the lock of a member that has died."""
        directory = _node(above).fd
        taken = await self._call(lambda: members.try_succeed(directory, name))
        return None if taken is None else self._succeeding(directory, name, *taken)

    @contextlib.asynccontextmanager
    async def _succeeding(
        self, directory: int, name: str, fd: int, about: bytes
    ) -> AsyncIterator[bytes]:
        try:
            yield about
        except BaseException:
            os.close(fd)
            raise
        await self._leave(directory, name, fd)

    sessions: Sequence[str] = ()

    async def end_sessions(self, sessions: Sequence[str]) -> None:
        """Do nothing: with a process all that it held is gone."""
        await trio.lowlevel.checkpoint()

    async def rank_of(self, path: bytes) -> Rank:
        """Return the only rank."""
        await trio.lowlevel.checkpoint()
        return Rank(0)

    async def load(self, rank: Rank) -> Load | None:
        """Say nothing: there is no metadata server."""
        return None

    async def pin(self, node: Node, rank: Rank) -> None:
        """Do nothing: there is one rank."""
        await trio.lowlevel.checkpoint()

    async def is_domain_root(self, node: Node) -> bool:
        """Tell that the served directory is the only domain."""
        await trio.lowlevel.checkpoint()
        return False

    def lane(self, *, entry_timeout_s: float, attr_timeout_s: float) -> None:
        """Return nothing: all requests are answered in Python."""

    def describe(self) -> dict[str, str | int | bool]:
        """Say what is in use."""
        return {
            "kind": self.kind,
            "directory": self._directory,
            "nodes": len(self._nodes),
            "descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "acts_for_users": self._own.uid == 0,
            "rename_noreplace": self.rename_noreplace,
            "file_handles": bool(calls.token_of(self._nodes.root.fd)),
        }

    async def close(self) -> None:
        """Close all descriptors, once the calls that are under way have ended."""
        self._gate.shut()
        with trio.move_on_after(_CLOSE_S, shield=True) as waiting:
            await self._gate.wait_empty()
        if waiting.cancelled_caught:
            _log.error("calls are under way for more than %.0f s; they keep descriptors", _CLOSE_S)
            return
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._nodes.close)
        os.close(self._mount_fd)


async def _until_got(attempt: Callable[[], Awaitable[int | None]]) -> int:
    """Try again and again to get a descriptor that holds a lock."""
    pause_s, longest_s = _LOCK_POLL_S
    while (fd := await attempt()) is None:
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s)
    return fd


def _node(node: Node) -> PosixNode:
    return cast(PosixNode, node)


def _handle(handle: Handle) -> PosixHandle:
    return cast(PosixHandle, handle)


def _dir_handle(handle: DirHandle) -> PosixDirHandle:
    return cast(PosixDirHandle, handle)


def _raise_descriptor_limit() -> None:
    """Allow as many descriptors as this process may have: each known inode needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/proc/sys/fs/nr_open", encoding="ascii") as nr_open:
        ceiling = int(nr_open.read())
    for wanted in (ceiling, hard):  # only a privileged process may go beyond its hard limit
        if soft < wanted:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
                return
