"""CephFS as a storage, through the low-level API of libcephfs.

Two sessions in a daemon: that of users, and one for background work that has threads of its own
and no quota, so that neither can starve the other and giving back works where a quota is full.
Mutations are carried out under the caller's `UserPerm`; what is read, as the gateway.

Inodes of snapshots have numbers of their own here: those of libcephfs are the same as those of
the living files.

Concurrency: any number of calls at once; libcephfs has one lock per session. One open directory is
read by one task at a time, because libcephfs keeps the position in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar, cast

import trio

from c_ext._libcephfs import ffi, lib
from cephfs_ext.core.config import CephConfig
from cephfs_ext.core.errors import (
    DeniedError,
    ExchangedError,
    ExistsError,
    FSError,
    FullError,
    NotFoundError,
    check,
    fs_error,
)
from cephfs_ext.core.limits import (
    BACKGROUND_THREADS,
    DATA_THREADS,
    META_THREADS,
    READDIR_PAGE,
    REMOVAL_THREADS,
)
from cephfs_ext.core.permissions import ACL_XATTR, WRITE, permits
from cephfs_ext.core.ports import Created, DirHandle, Found, Handle, Listed, Load, Move, Node
from cephfs_ext.core.types import (
    GATEWAY,
    Attr,
    AttrChange,
    Credentials,
    DirEntry,
    Ino,
    Rank,
    Reason,
    StatFs,
    Weight,
)
from cephfs_ext.storage.ceph_admission import Admission
from cephfs_ext.storage.ceph_cache import CacheSize
from cephfs_ext.storage.ceph_lane import CephLane
from cephfs_ext.storage.ceph_leases import Leases
from cephfs_ext.storage.ceph_locks import ClusterLocks, lock_of_dir, lock_of_name
from cephfs_ext.storage.ceph_members import Members, end_sessions
from cephfs_ext.storage.ceph_ranks import RankMap
from cephfs_ext.storage.ceph_session import Identities, connect, timeouts
from cephfs_ext.storage.ceph_stuck import StuckNames
from cephfs_ext.storage.gate import Gate
from cephfs_ext.storage.name_locks import NameLocks
from cephfs_ext.storage.names import (
    check_name,
    check_node,
    check_regular,
    check_sizeable,
    check_target,
    pack_names,
)

_log = logging.getLogger(__name__)

_FULL_FRESH_S = 2.0
"""How long it is believed whether the metadata pool is full."""

T = TypeVar("T")

_NS = 1_000_000_000
_WANT = lib.CEPH_STATX_BASIC_STATS
_IDENTITY = lib.CEPH_STATX_MODE | lib.CEPH_STATX_UID | lib.CEPH_STATX_GID
_BEHIND_DOTDOT = 2
"""Where the entries begin behind `.` and `..`, for each of which libcephfs asks the MDS."""
_DROPPED = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_DIRECT | os.O_CLOEXEC
"""Not O_APPEND: libcephfs knows where the end is, also when another client has just written."""
_WRITING = os.O_WRONLY | os.O_RDWR
_CHANGING = _WRITING | os.O_TRUNC
_MAKING = os.O_CREAT | os.O_EXCL
_PASSING_INODES = 512
"""What is kept while very many names are listed that nobody will ask for again."""

_CREATE_ATTEMPTS = 5
"""How often `create` looks again at a name that comes and goes."""
_AT_THE_END = -1
"""Offset of a write with O_APPEND; libcephfs takes any other for what is meant."""
_XATTR_BYTES = 65_536
_ROOTS_XATTRS = (b"trusted.", b"security.")
_DEFAULT_ACL = b"system.posix_acl_default"
_ENTRIES = b"ceph.dir.entries"
_LEFT_LIMIT = 100_000
_TARGET_BYTES = 4_096
_POOL_NAME_BYTES = 256
_SETTLED_XATTR = b"user.cephfs_ext.settled"
_CLOSE_S = 20.0
"""How long closing may take before the connection is cut."""

_NO_GENERATION = -1
"""Of a file that was opened before the session was shut out, at whatever time."""

_SNAPSHOT_BITS = 48
"""Inode numbers of CephFS stay below this; above it is what tells snapshots apart."""


class CephNode:
    """A counted reference to an inode."""

    __slots__ = ("ino", "raw")

    def __init__(self, raw: Any, ino: Ino) -> None:
        self.raw = raw
        """`struct Inode *`; libcephfs counts the references."""
        self.ino = ino


class CephHandle:
    """An open regular file."""

    __slots__ = ("flags", "former", "generation", "node", "raw")

    def __init__(self, node: CephNode, raw: Any, flags: int, generation: int) -> None:
        self.node = node
        self.raw = raw
        self.flags = flags
        self.generation = generation
        """Of the session that it was opened in (`Admission.generation`)."""
        self.former: list[Any] = []
        """What it was before the session came back; calls may still be using it."""


class CephDirHandle:
    """An open directory."""

    __slots__ = ("cookie", "lock", "node", "raw")

    def __init__(self, node: CephNode, raw: Any) -> None:
        self.node = node
        self.raw = raw
        self.cookie = 0
        """Where libcephfs stands in it."""
        self.lock = trio.Lock()


def _nobody_cares(ino: Ino, is_noted: bool) -> None:
    del ino, is_noted


class _LeftDirectories:
    """Directories that a name was moved out of, and whose attributes libcephfs has not read since.

    The answer to a rename brings the attributes of the new directory only, and libcephfs keeps
    what it knew of the old one: times and link count stay what they were. Reading a virtual
    attribute of a directory asks the MDS, and brings the others along.
    """

    def __init__(self) -> None:
        self._inos: dict[Ino, None] = {}
        self._lock = threading.RLock()
        self.changed: Callable[[Ino, bool], object] = _nobody_cares
        """Called, in any thread, when a directory was noted, or isn't any more."""

    def __contains__(self, ino: Ino) -> bool:
        return ino in self._inos

    def add(self, ino: Ino) -> None:
        """Note a directory; the one that was noted first goes when there are too many."""
        with self._lock:
            self._inos.pop(ino, None)
            self._inos[ino] = None
            self.changed(ino, True)
            if len(self._inos) > _LEFT_LIMIT:
                self.take(next(iter(self._inos)))

    def take(self, ino: Ino) -> bool:
        """Tell whether a directory has been noted, and forget that: who asks reads it now."""
        with self._lock:
            if self._inos.pop(ino, self) is not None:
                return False
            self.changed(ino, False)
            return True


class CephStorage:
    """A directory of a CephFS; build it with `connect`."""

    kind = "ceph"
    weighs = True
    flushes = False
    rename_noreplace = False
    lists_attributes = True
    finds_by_number = True

    def __init__(
        self, config: CephConfig, subdir: str, mount: Any, uuid: str, *, background: bool
    ) -> None:
        self._config = config
        self.sessions: Sequence[str] = (uuid,)
        self._full, self._asked_s = False, float("-inf")
        self._subdir = subdir
        self._mount = mount
        self._identities = Identities()
        meta, data = (BACKGROUND_THREADS,) * 2 if background else (META_THREADS, DATA_THREADS)
        self._meta = trio.CapacityLimiter(meta)
        self._data = trio.CapacityLimiter(data)
        self._removal = trio.CapacityLimiter(REMOVAL_THREADS)
        self._settling = trio.CapacityLimiter(1)
        self._left = _LeftDirectories()
        self._gate = Gate()
        self._names = NameLocks()
        self._closed = False
        self._locks = ClusterLocks(config, self._default_pool())
        self._leases = Leases(self._locks, self._gate)
        self._members = Members(self._leases, self._locks)
        self._told_of_pins = False
        self.root: Node = self._lookup_root()
        perms = self._identities.of(GATEWAY)
        self._cache = CacheSize(mount, config.cache_size)
        self._stuck = StuckNames(mount, _raw(self.root), perms, self._cache)
        whom = "background work" if background else "users"
        self._admission = Admission(mount, _raw(self.root), perms, whom)
        self._reviving = trio.Lock()
        self._lane: CephLane | None = None
        self.ranks = 1
        self._rank_map = RankMap(mount, 1)

    @property
    def node_limit(self) -> int:
        """What libcephfs keeps; beyond it, what is referenced pushes all else out."""
        return self._config.cache_size

    @property
    def open_limit(self) -> int:
        """As many as there are inodes: an open file needs no descriptor."""
        return self._config.cache_size

    @classmethod
    async def connect(
        cls,
        config: CephConfig,
        subdir: str,
        *,
        uuid: str,
        predecessors: Sequence[str] = (),
        background: bool = False,
    ) -> CephStorage:
        """Connect to a cluster and mount a directory of it.

        Args:
            uuid: name of the session, recorded by the caller.
            predecessors: names of sessions of dead daemons; they are ended first.
            background: a session without quota, to which `statfs` tells the pool, and with few
                threads.

        Raises:
            UserError: it can't be done; with the fix in it, and never after a hang.
        """
        options = {
            "client_acl_type": "posix_acl",
            "client_quota": "false" if background else "true",
            "client_quota_df": "false" if background else "true",
            "client_cache_size": str(config.cache_size),
            **timeouts(config),
        }

        def open_session() -> CephStorage:
            mount = connect(config, subdir, uuid=uuid, predecessors=predecessors, options=options)
            return cls(config, subdir, mount, uuid, background=background)

        storage = await trio.to_thread.run_sync(open_session)
        storage.ranks = await storage._count_ranks()
        storage._rank_map = RankMap(storage._mount, storage.ranks)
        if not background:
            await storage._check_locks()
        return storage

    async def _check_locks(self) -> None:
        """Say what is lost where the key may take no locks."""
        try:
            await self._leases.call(self._locks.check)
        except DeniedError as exc:
            _log.warning(
                "%s; until then nothing can be restored, deleted names of hard links count on, and "
                "renames of two gateways onto one name are not kept apart",
                exc.what,
            )
        except FullError as exc:
            _log.warning("new locks can't be taken: %s", exc)

    def _default_pool(self) -> str:
        buffer = ffi.new("char[]", _POOL_NAME_BYTES)
        length = check(lib.ceph_get_default_data_pool_name(self._mount, buffer, _POOL_NAME_BYTES))
        return bytes(ffi.unpack(buffer, length)).decode()

    def _lookup_root(self) -> CephNode:
        out = ffi.new("Inode **")
        check(lib.ceph_ll_lookup_root(self._mount, out))
        stx = ffi.new("struct ceph_statx *")
        perms = self._identities.of(GATEWAY)
        check(lib.ceph_ll_getattr(self._mount, out[0], stx, _WANT, 0, perms))
        return CephNode(out[0], _ino(stx))

    async def _count_ranks(self) -> int:
        """Count the ranks of our file system; 1 where the key may not ask."""
        try:
            dump = await self._call(self._locks.fs_dump)
        except FSError as exc:
            _log.warning("the number of MDS ranks is not known: %s", exc)
            return 1
        maps = [fs["mdsmap"] for fs in dump["filesystems"]]
        wanted = [m for m in maps if m["fs_name"] == self._config.fs_name] or maps
        return max(1, len(wanted[0]["in"]) if wanted else 1)

    async def _call(
        self, call: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None
    ) -> T:
        """Run a blocking call in a thread; once begun it is waited for."""
        with self._gate.passed():
            self._admission.look()
            try:
                return await trio.to_thread.run_sync(call, limiter=limiter or self._meta)
            except FSError as exc:
                if exc.errno != errno.ESHUTDOWN:
                    raise
                await self._admission.note_refused()
                raise FSError(
                    exc.errno, "the cluster has shut the session out; see the log"
                ) from exc

    async def _call_on(self, parent: Node, name: bytes, call: Callable[[], T]) -> T:
        """Run a call that looks a name up, which may hang for a defect of libcephfs."""

        def watched() -> T:
            with self._stuck.watched(parent.ino, name):
                return call()

        try:
            return await self._call(watched)
        except DeniedError as exc:
            if exc.errno == errno.EACCES and await self._is_full():
                what = "the metadata pool is full, and the key lacks mds 'allow rwf'"
                raise FullError(what=what) from exc
            raise

    async def _is_full(self) -> bool:
        """Tell whether the metadata pool is full.

        Then a metadata server refuses with EACCES whatever would fill it (ceph 16; ENOSPC was
        meant) to a client whose key lacks `f`.
        """
        if time.monotonic() - self._asked_s > _FULL_FRESH_S:
            self._asked_s = time.monotonic()
            try:
                self._full = await self._call(lambda: self._locks.is_full(self._config.fs_name))
            except FSError as exc:
                _log.warning("whether the metadata pool is full isn't known: %s", exc)
                self._full = False
        return self._full

    # names

    def _found(self, raw: Any, stx: Any) -> Found:
        node = CephNode(raw, _ino(stx))
        try:
            attr = self._getattr(node) if node.ino in self._left else _attr(stx)
        except BaseException:
            self.forget(node)
            raise
        return Found(node, attr)

    async def _resolve(
        self,
        function: Callable[..., int],
        parent: Node,
        name: bytes,
        *arguments: Any,
        cred: Credentials,
        want: int = _WANT,
    ) -> Found:
        """Call what takes a name, and returns an inode and its attributes."""
        raw, perms = _raw(parent), self._identities.of(cred)

        def resolve() -> Found:
            out, stx = ffi.new("Inode **"), ffi.new("struct ceph_statx *")
            check(function(self._mount, raw, name, *arguments, out, stx, want, 0, perms))
            return self._found(out[0], stx)

        return await self._call_on(parent, name, resolve)

    async def _remove(
        self, function: Callable[..., int], parent: Node, name: bytes, cred: Credentials
    ) -> None:
        raw, perms = _raw(parent), self._identities.of(cred)

        def remove() -> None:
            check(function(self._mount, raw, name, perms))

        async with self._names.held((parent.ino, name)):
            await self._call_on(parent, name, remove)

    async def _do(self, function: Callable[..., int], *arguments: Any, cred: Credentials) -> int:
        """Call what returns an error or nothing."""
        perms = self._identities.of(cred)
        return await self._call(lambda: check(function(self._mount, *arguments, perms)))

    def _masked(self, parent: Node, mode: int, umask: int) -> int:
        """Apply a umask, which plays no part where a directory has a default list; blocks.

        libcephfs could do it, but knows one umask for a whole session.
        """
        if not mode & umask:
            return mode
        perms = self._identities.of(GATEWAY)
        listed = lib.ceph_ll_getxattr(self._mount, _raw(parent), _DEFAULT_ACL, ffi.NULL, 0, perms)
        return mode if listed > 0 else mode & ~umask

    async def lookup(self, parent: Node, name: bytes) -> Found:
        """Resolve one name."""
        check_name(name)
        return await self._resolve(lib.ceph_ll_lookup, parent, name, cred=GATEWAY)

    async def resolve(self, parent: Node, name: bytes) -> Found:
        """Resolve one name, asking for nothing that ranks would have to gather.

        Size and times of a directory at a subtree boundary waited up to 5 s (the interval of the
        MDS for such things) when the other rank had changed it.
        """
        check_name(name)
        arguments = (lib.ceph_ll_lookup, parent, name)
        return await self._resolve(*arguments, cred=GATEWAY, want=_IDENTITY)

    def forget(self, node: Node, count: int = 1) -> None:
        """Give back references; after `close` there are none."""
        if node is not self.root and not self._closed:
            lib.ceph_ll_forget(self._mount, _raw(node), count)

    async def mkdir(
        self, parent: Node, name: bytes, mode: int, cred: Credentials, *, umask: int = 0
    ) -> Found:
        """Make a directory."""
        check_name(name)

        def make(mount: Any, raw: Any, name: bytes, *arguments: Any) -> int:
            wanted = self._masked(parent, mode & 0o7777, umask)
            return int(lib.ceph_ll_mkdir(mount, raw, name, wanted, *arguments))

        async with self._names.held((parent.ino, name)):
            return await self._resolve(make, parent, name, cred=cred)

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
        """Make a regular or special file; libcephfs would let everybody make devices."""
        check_node(mode)
        check_name(name)
        if cred.uid != 0 and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            raise DeniedError(errno.EPERM)

        def make(mount: Any, raw: Any, name: bytes, *arguments: Any) -> int:
            wanted = self._masked(parent, mode, umask)
            return int(lib.ceph_ll_mknod(mount, raw, name, wanted, rdev, *arguments))

        async with self._names.held((parent.ino, name)):
            return await self._resolve(make, parent, name, cred=cred)

    async def symlink(self, parent: Node, name: bytes, target: bytes, cred: Credentials) -> Found:
        """Make a symbolic link."""
        check_name(name)
        check_target(target)
        async with self._names.held((parent.ino, name)):
            return await self._resolve(lib.ceph_ll_symlink, parent, name, target, cred=cred)

    async def link(self, node: Node, parent: Node, name: bytes, cred: Credentials) -> Attr:
        """Give an inode another name."""
        check_name(name)
        perms = self._identities.of(cred)

        def link() -> Attr:
            check(lib.ceph_ll_link(self._mount, _raw(node), _raw(parent), name, perms))
            return self._getattr(node)

        async with self._names.held((parent.ino, name)):
            return await self._call_on(parent, name, link)

    async def unlink(self, parent: Node, name: bytes, cred: Credentials) -> None:
        """Really remove a name that is no directory."""
        check_name(name)
        await self._remove(lib.ceph_ll_unlink, parent, name, cred)

    async def unlink_many(self, parent: Node, names: Sequence[bytes]) -> Sequence[int]:
        """Really remove names that are no directories.

        libcephfs looks each up, which asks nobody if the directory has just been read.
        """
        raw, perms, packed = _raw(parent), self._identities.of(GATEWAY), pack_names(names)
        errors, done = ffi.new("int[]", len(names)), ffi.new("size_t *")

        def unlink() -> list[int]:
            arguments = (raw, ffi.from_buffer(packed), len(names), perms, errors, done)
            with self._stuck.watched_in_turn(parent.ino, names, lambda: int(done[0])):
                lib.cx_unlink_many(self._mount, *arguments)
            return list(ffi.unpack(errors, len(names)))

        async with self._names.held(*((parent.ino, name) for name in names)):
            numbers = await self._call(unlink, limiter=self._removal)
        await self._note_refused(numbers)
        return numbers

    async def rmdir(self, parent: Node, name: bytes, cred: Credentials) -> None:
        """Really remove an empty directory."""
        check_name(name)
        await self._remove(lib.ceph_ll_rmdir, parent, name, cred)

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
        """Rename; CephFS has no flags."""
        check_name(name)
        check_name(new_name)
        if flags:
            raise FSError(errno.EINVAL)
        above, below = _raw(parent), _raw(new_parent)
        perms, how_far = self._identities.of(cred), ffi.new("int *")
        here = ffi.NULL if moved is None else ffi.new("uint64_t *", moved)
        there = ffi.NULL if expected is None else ffi.new("uint64_t *", expected)

        def rename() -> bool:
            if cred.uid != 0 and parent.ino != new_parent.ino:
                self._check_movable(parent, name, cred)
            names = (above, name, below, new_name)
            with self._stuck.taking_away(parent.ino, name):
                rc = lib.cx_rename(self._mount, *names, perms, here, there, how_far)
            return self._check_renamed(rc, how_far[0], new_parent, new_name)

        async with self._names.held((parent.ino, name), (new_parent.ino, new_name)):
            try:
                with self._stuck.watched(parent.ino, name):
                    return await self._call_on(new_parent, new_name, rename)
            finally:
                if parent.ino != new_parent.ino:
                    self._left.add(parent.ino)

    def _check_renamed(self, rc: int, how_far: int, new_parent: Node, new_name: bytes) -> bool:
        """Return, or raise, what `rename` does, by what `cx_rename` says; blocks."""
        if how_far == lib.CX_EXCHANGED:
            raise ExchangedError()
        if rc == -errno.ENOENT and how_far == lib.CX_BEGUN:
            self._stuck.free(_raw(new_parent), new_parent.ino, new_name)
        check(rc)
        return bool(how_far != lib.CX_OTHER)

    async def move_many(
        self, parent: Node, new_parent: Node, moves: Sequence[Move]
    ) -> Sequence[bool | FSError]:
        """Rename one after the other, as the gateway, to names that nothing has."""
        names, new_names = [move.name for move in moves], [move.new_name for move in moves]
        packed, new_packed = pack_names(names), pack_names(new_names)
        number, done = len(moves), ffi.new("size_t *")
        errors, how_far = ffi.new("int[]", number), ffi.new("int[]", number)
        inos = ffi.new("uint64_t[]", [move.ino for move in moves])
        above, below, perms = _raw(parent), _raw(new_parent), self._identities.of(GATEWAY)

        def over() -> int:
            return int(done[0])

        def outcome(index: int) -> bool | FSError:
            try:
                rc, name = -errors[index], new_names[index]
                return self._check_renamed(rc, how_far[index], new_parent, name)
            except FSError as exc:
                return exc

        def move() -> list[bool | FSError]:
            places = (above, ffi.from_buffer(packed), below, ffi.from_buffer(new_packed))
            with (
                self._stuck.taking_away(parent.ino, *names),
                self._stuck.watched_in_turn(parent.ino, names, over),
                self._stuck.watched_in_turn(new_parent.ino, new_names, over),
            ):
                lib.cx_move_many(self._mount, *places, inos, number, perms, errors, how_far, done)
            return [outcome(index) for index in range(number)]

        mine = [(parent.ino, name) for name in names]
        mine += [(new_parent.ino, name) for name in new_names]
        async with self._names.held(*mine):
            try:
                outcomes = await self._call(move)
            finally:
                self._left.add(parent.ino)
        await self._note_refused(errors)
        return outcomes

    async def _note_refused(self, errors: Iterable[int]) -> None:
        """Note it if one of many calls was refused; what the others did is told all the same."""
        if errno.ESHUTDOWN in errors:
            with trio.CancelScope(shield=True):
                await self._admission.note_refused()

    def _check_movable(self, parent: Node, name: bytes, cred: Credentials) -> None:
        """Check what libcephfs doesn't: a directory that gets another `..` is written to."""
        out, stx = ffi.new("Inode **"), ffi.new("struct ceph_statx *")
        arguments = (_raw(parent), name, out, stx, _IDENTITY, 0, self._identities.of(GATEWAY))
        check(lib.ceph_ll_lookup(self._mount, *arguments))
        node = CephNode(out[0], _ino(stx))
        try:
            if stat.S_ISDIR(stx.stx_mode):
                self._check_writable(node, cred)
        finally:
            self.forget(node)

    # inodes

    def _getattr(self, node: Node) -> Attr:
        raw, stx = _raw(node), ffi.new("struct ceph_statx *")
        perms = self._identities.of(GATEWAY)
        if self._left.take(node.ino):
            lib.ceph_ll_getxattr(self._mount, raw, _ENTRIES, ffi.NULL, 0, perms)
        check(lib.ceph_ll_getattr(self._mount, raw, stx, _WANT, 0, perms))
        return _attr(stx)

    async def getattr(self, node: Node) -> Attr:
        """Read attributes."""
        return await self._call(lambda: self._getattr(node))

    async def setattr(
        self, node: Node, change: AttrChange, cred: Credentials, handle: Handle | None = None
    ) -> Attr:
        """Change attributes, each with the rights that it needs.

        A truncation through a file that is open for writing needs none. Times may be set to the
        present by who may write, which libcephfs doesn't know.
        """
        open_to_write = handle is not None and _handle(handle).flags & _WRITING

        def set_them() -> Attr:
            rest = change
            if change.size is not None:  # on its own: libcephfs sets mtime with it
                check_sizeable(self._getattr(node).mode)
                who = GATEWAY if open_to_write else cred
                self._setattr(node, AttrChange(size=change.size), who)
                rest = dataclasses.replace(rest, size=None)
            if (change.atime_now or change.mtime_now) and not self._owns(node, cred):
                self._check_writable(node, cred)
                now = AttrChange(atime_now=change.atime_now, mtime_now=change.mtime_now)
                self._setattr(node, now, GATEWAY)
                rest = dataclasses.replace(rest, atime_now=False, mtime_now=False)
            self._setattr(node, rest, cred)
            return self._getattr(node)

        return await self._call(set_them)

    def _setattr(self, node: Node, change: AttrChange, cred: Credentials) -> None:
        stx, mask = _wanted(change)
        if mask:
            perms = self._identities.of(cred)
            check(lib.ceph_ll_setattr(self._mount, _raw(node), stx, mask, perms))

    def _owns(self, node: Node, cred: Credentials) -> bool:
        return cred.uid in (0, self._getattr(node).uid)

    def _check_writable(self, node: Node, cred: Credentials) -> None:
        if not permits(self._getattr(node), cred, WRITE, self._acl(node)):
            raise DeniedError(errno.EACCES)

    def _acl(self, node: Node) -> bytes:
        """Return the access control list of an inode, empty if it has none."""
        buffer, perms = ffi.new("char[]", _XATTR_BYTES), self._identities.of(GATEWAY)
        arguments = (_raw(node), ACL_XATTR, buffer, _XATTR_BYTES, perms)
        length = lib.ceph_ll_getxattr(self._mount, *arguments)
        return bytes(ffi.unpack(buffer, length)) if length > 0 else b""

    async def readlink(self, node: Node) -> bytes:
        """Read the target of a symbolic link."""
        perms = self._identities.of(GATEWAY)

        def read() -> bytes:
            buffer = ffi.new("char[]", _TARGET_BYTES)
            length = check(
                lib.ceph_ll_readlink(self._mount, _raw(node), buffer, _TARGET_BYTES, perms)
            )
            return bytes(ffi.unpack(buffer, length))

        return await self._call(read)

    async def getxattr(self, node: Node, name: bytes) -> bytes:
        """Read an extended attribute."""
        perms = self._identities.of(GATEWAY)

        def get() -> bytes:
            buffer = ffi.new("char[]", _XATTR_BYTES)
            length = check(
                lib.ceph_ll_getxattr(self._mount, _raw(node), name, buffer, _XATTR_BYTES, perms)
            )
            return bytes(ffi.unpack(buffer, length))

        return await self._call(get)

    async def setxattr(
        self, node: Node, name: bytes, value: bytes, cred: Credentials, flags: int = 0
    ) -> None:
        """Set an extended attribute."""
        _check_xattr(name, cred)
        arguments = (_raw(node), name, ffi.from_buffer(value), len(value), flags)
        await self._do(lib.ceph_ll_setxattr, *arguments, cred=cred)

    async def listxattr(self, node: Node) -> Sequence[bytes]:
        """List the names of extended attributes, the virtual ones of CephFS not included."""
        perms = self._identities.of(GATEWAY)

        def get() -> list[bytes]:
            buffer, size = ffi.new("char[]", _XATTR_BYTES), ffi.new("size_t *")
            check(lib.ceph_ll_listxattr(self._mount, _raw(node), buffer, _XATTR_BYTES, size, perms))
            names = bytes(ffi.unpack(buffer, size[0])).split(b"\0")
            return [name for name in names if name and not name.startswith(b"ceph.")]

        return await self._call(get)

    async def removexattr(self, node: Node, name: bytes, cred: Credentials) -> None:
        """Remove an extended attribute."""
        _check_xattr(name, cred)
        await self._do(lib.ceph_ll_removexattr, _raw(node), name, cred=cred)

    async def statfs(self, node: Node) -> StatFs:
        """Read space and names left; a quota above the root counts."""

        def read() -> StatFs:
            out = ffi.new("struct statvfs *")
            check(lib.ceph_ll_statfs(self._mount, _raw(node), out))
            return StatFs(
                out.f_bsize,
                out.f_frsize,
                out.f_blocks,
                out.f_bfree,
                out.f_bavail,
                out.f_files,
                out.f_ffree,
                out.f_favail,
                out.f_namemax,
            )

        return await self._call(read)

    async def weigh(self, node: Node) -> Weight:
        """Return what the metadata servers count; a directory itself is one of its entries."""
        entries = int(await self.getxattr(node, b"ceph.dir.rentries"))
        return Weight(int(await self.getxattr(node, b"ceph.dir.rbytes")), max(0, entries - 1))

    def token(self, node: Node) -> bytes:
        """Return nothing: the number alone finds an inode."""
        return b""

    async def path(self, node: Node) -> bytes:
        """Return where a directory is now: asks for `..`, and reads each directory on the way."""
        names: list[bytes] = []
        here, held = node, []
        try:
            while here.ino != self.root.ino:
                above = await self._resolve(
                    lib.ceph_ll_lookup, here, b"..", cred=GATEWAY, want=_IDENTITY
                )
                held.append(above.node)
                if above.node.ino == here.ino:
                    raise NotFoundError()  # the top of the file system: not below our root
                names.append(await self._name_in(above.node, here.ino))
                here = above.node
        finally:
            for above_node in held:
                self.forget(above_node)
        return b"/".join(reversed(names))

    async def _name_in(self, parent: Node, ino: Ino) -> bytes:
        handle = await self.opendir(parent)
        try:
            cookie = 0
            while page := await self.readdir(handle, cookie, limit=READDIR_PAGE):
                for listed in page:
                    if listed.entry.ino == ino:
                        return listed.entry.name
                cookie = page[-1].entry.cookie
        finally:
            with trio.CancelScope(shield=True):
                await self.releasedir(handle)
        raise NotFoundError()

    async def find(self, ino: Ino, token: bytes) -> Found:
        """Open an inode by number; a directory outside of the served tree is not found."""

        def find() -> Found:
            out, number = ffi.new("Inode **"), ffi.new("inodeno_t *", {"val": ino})
            rc = lib.ceph_ll_lookup_inode(self._mount, number[0], out)
            if rc == -errno.ESTALE:
                raise NotFoundError()
            check(rc)
            node = CephNode(out[0], ino)
            try:
                attr = self._getattr(node)
                if attr.nlink == 0 or (attr.is_dir and not self._lies_below(node)):
                    raise NotFoundError()
            except BaseException:
                self.forget(node)
                raise
            return Found(node, attr)

        return await self._call(find)

    def _lies_below(self, node: CephNode) -> bool:
        """Tell whether a directory is, at this moment, in the served tree."""
        perms = self._identities.of(GATEWAY)
        here, passed = node, []
        try:
            while here.ino != self.root.ino:
                out, stx = ffi.new("Inode **"), ffi.new("struct ceph_statx *")
                arguments = (here.raw, b"..", out, stx, _IDENTITY, 0, perms)
                check(lib.ceph_ll_lookup(self._mount, *arguments))
                above = CephNode(out[0], _ino(stx))
                passed.append(above)
                if above.ino == here.ino:
                    return False
                here = above
        finally:
            for one in passed:
                self.forget(one)
        return True

    # files

    async def open(self, node: Node, flags: int, cred: Credentials) -> Handle:
        """Open a regular file; for reading only as the gateway."""
        who = cred if flags & _CHANGING else GATEWAY
        return await self._call(lambda: self._open(_node(node), flags & ~_DROPPED, who))

    async def open_passing(self, node: Node) -> Handle:
        """Open for reading past the cache of data."""
        return await self._call(lambda: self._open(_node(node), os.O_DIRECT, GATEWAY))

    def _open(self, node: CephNode, flags: int, cred: Credentials) -> CephHandle:
        out, perms = ffi.new("Fh **"), self._identities.of(cred)
        check(lib.ceph_ll_open(self._mount, node.raw, flags, out, perms))
        return CephHandle(node, out[0], flags, self._admission.generation)

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
        perms, opening = self._identities.of(cred), flags & ~_DROPPED

        def make() -> Created:
            out, fh, stx = ffi.new("Inode **"), ffi.new("Fh **"), ffi.new("struct ceph_statx *")
            wanted, making = self._masked(parent, mode & 0o7777, umask), opening | _MAKING
            arguments = (_raw(parent), name, wanted, making, out, fh, stx, _WANT, 0, perms)
            check(lib.ceph_ll_create(self._mount, *arguments))
            try:
                found = self._found(out[0], stx)
            except BaseException:
                lib.ceph_ll_close(self._mount, fh[0])
                raise
            generation = self._admission.generation
            return Created(*found, CephHandle(_node(found.node), fh[0], opening, generation))

        def create() -> Created:
            for _ in range(1 if flags & os.O_EXCL else _CREATE_ATTEMPTS):
                try:
                    return make()
                except ExistsError:
                    if flags & os.O_EXCL:
                        raise
                with contextlib.suppress(NotFoundError):  # it has gone: make it after all
                    return self._open_existing(_raw(parent), name, opening, cred)
            raise FSError(errno.ESTALE, "the name comes and goes")

        async with self._names.held((parent.ino, name)):
            return await self._call_on(parent, name, create)

    def _open_existing(self, above: Any, name: bytes, flags: int, cred: Credentials) -> Created:
        """Open a file for `create`; a FIFO would wait for capabilities that there aren't."""
        out, stx = ffi.new("Inode **"), ffi.new("struct ceph_statx *")
        perms = self._identities.of(GATEWAY)
        check(lib.ceph_ll_lookup(self._mount, above, name, out, stx, _WANT, 0, perms))
        node, _ = self._found(out[0], stx)
        try:
            check_regular(stx.stx_mode)
            handle = self._open(_node(node), flags, cred)
            return Created(node, self._getattr(node), handle)
        except BaseException:
            self.forget(node)
            raise

    async def reopen(self, handle: Handle, node: Node) -> Handle:
        """Open another inode in the same way."""
        opened = _handle(handle)
        flags = opened.flags & ~os.O_TRUNC
        return await self._call(lambda: self._open(_node(node), flags, GATEWAY))

    async def _revive(self, handle: CephHandle) -> None:
        """Reopen a file that was open when the session was shut out.

        Raises:
            FSError: EIO, once: it was open for writing, and what was not synced may be lost.
        """
        if handle.generation == self._admission.generation:
            return
        async with self._reviving:
            if handle.generation == self._admission.generation:
                return  # another task was faster
            fresh = _handle(await self.reopen(handle, handle.node))
            handle.former.append(handle.raw)
            handle.raw, handle.generation = fresh.raw, fresh.generation
        if handle.flags & _WRITING:
            raise _lost()

    async def _with_file(self, handle: Handle, call: Callable[[Any], T]) -> T:
        """Carry out a call with an open file."""
        opened = _handle(handle)
        self._admission.look()
        await self._revive(opened)
        return await self._call(lambda: call(opened.raw), limiter=self._data)

    async def opened_elsewhere(self, handle: Handle) -> bool:
        """Try to get a write delegation, which is given to a sole opener only.

        It is returned at once: what a rename of ours breaks would wait for us.
        """
        fh = _handle(handle).raw

        def is_opened() -> bool:
            ignored = lib.cx_recall_ignored
            if lib.ceph_ll_delegation(self._mount, fh, lib.CEPH_DELEGATION_WR, ignored, ffi.NULL):
                return True
            none = lib.CEPH_DELEGATION_NONE
            check(lib.ceph_ll_delegation(self._mount, fh, none, ignored, ffi.NULL))
            return False

        return await self._call(is_opened)

    async def read(self, handle: Handle, off: int, size: int) -> bytes:
        """Read."""

        def read(fh: Any) -> bytes:
            buffer, got = ffi.new("char[]", size), 0
            while got < size:
                step = check(lib.ceph_ll_read(self._mount, fh, off + got, size - got, buffer + got))
                if step == 0:
                    break
                got += step
            return bytes(ffi.buffer(buffer, got))

        return await self._with_file(handle, read)

    async def write(self, handle: Handle, off: int, data: bytes) -> int:
        """Write; libcephfs does it as the opener and strips setuid bits.

        Without an offset it asks for the end of the file, if it may have moved, and writes there.
        Two clients that append at the very same moment may still write over each other.
        """
        append = _handle(handle).flags & os.O_APPEND

        def write(fh: Any) -> int:
            buffer, done = ffi.from_buffer(data), 0
            while done < len(data):
                at = _AT_THE_END if append else off + done
                rc = lib.ceph_ll_write(self._mount, fh, at, len(data) - done, buffer + done)
                if rc <= 0:
                    if done == 0:
                        check(rc)
                    break
                done += rc
            return done

        return await self._with_file(handle, write)

    async def flush(self, handle: Handle) -> None:
        """Do nothing: what was written is in libcephfs, and fsync tells of errors."""
        await trio.lowlevel.checkpoint()

    async def fsync(self, handle: Handle, *, datasync: bool = False) -> None:
        """Make what was written durable.

        libcephfs answers that it is also when it has just dropped what it couldn't write. So it is
        asked for something of the inode afterwards: it then has no capabilities left to answer.
        """
        opened, perms = _handle(handle), self._identities.of(GATEWAY)

        def sync(fh: Any) -> None:
            check(lib.ceph_ll_fsync(self._mount, fh, int(datasync)))
            stx = ffi.new("struct ceph_statx *")
            check(lib.ceph_ll_getattr(self._mount, opened.node.raw, stx, _IDENTITY, 0, perms))

        self._admission.look()
        await self._revive(opened)
        begun = self._admission.generation
        await self._with_file(handle, sync)
        self._admission.look()
        if self._admission.generation != begun:
            raise _lost()

    async def release(self, handle: Handle) -> None:
        """Close."""
        opened = _handle(handle)

        def close() -> None:
            for fh in opened.former:
                lib.ceph_ll_close(self._mount, fh)
            check(lib.ceph_ll_close(self._mount, opened.raw))

        with trio.CancelScope(shield=True):
            await self._call(close, limiter=self._data)

    # directories

    def passing(self) -> AbstractContextManager[None]:
        """Keep few inodes while very many names are listed."""
        return self._cache.limited(_PASSING_INODES)

    async def opendir(self, node: Node) -> DirHandle:
        """Open a directory."""
        perms = self._identities.of(GATEWAY)

        def open_it() -> CephDirHandle:
            out = ffi.new("struct ceph_dir_result **")
            check(lib.ceph_ll_opendir(self._mount, _raw(node), out, perms))
            return CephDirHandle(_node(node), out[0])

        return await self._call(open_it)

    async def readdir(
        self, handle: DirHandle, cookie: int, *, limit: int, plus: bool = False
    ) -> Sequence[Listed]:
        """Return the next page.

        With `plus` a listing begins at `.`, so that libcephfs notes that it has seen the whole
        directory; without, it begins behind `..`, so that nothing is asked about the directory.
        """
        stream = _dir_handle(handle)
        start = cookie or (0 if plus else _BEHIND_DOTDOT)

        def page() -> list[Listed]:
            if start != stream.cookie or cookie == 0:
                lib.ceph_seekdir(self._mount, stream.raw, start)
            stream.cookie = -1  # until we know better
            listed: list[Listed] = []
            try:
                while len(listed) < limit and (entry := self._next(stream, plus=plus)) is not None:
                    if entry.entry.name not in (b".", b".."):
                        listed.append(entry)
            except BaseException:
                for one in listed:
                    if one.found is not None:
                        self.forget(one.found.node)
                raise
            if listed:
                stream.cookie = listed[-1].entry.cookie
            return listed

        async with stream.lock:
            return await self._call(page)

    def _next(self, stream: CephDirHandle, *, plus: bool) -> Listed | None:
        """Read one entry; None at the end."""
        de, stx, out = ffi.new("struct dirent *"), ffi.new("struct ceph_statx *"), ffi.NULL
        if plus:
            out = ffi.new("Inode **")
            rc = lib.ceph_readdirplus_r(
                self._mount, stream.raw, de, stx, _WANT, lib.AT_SYMLINK_NOFOLLOW, out
            )
        else:
            rc = lib.ceph_readdir_r(self._mount, stream.raw, de)
        if check(rc) == 0:
            return None
        name = bytes(ffi.string(de.d_name))
        cookie = lib.ceph_telldir(self._mount, stream.raw)
        entry = DirEntry(name, Ino(de.d_ino), de.d_type << 12, cookie)
        if not plus:
            return Listed(entry, None)
        if name in (b".", b".."):
            lib.ceph_ll_forget(self._mount, out[0], 1)
            return Listed(entry, None)
        return Listed(entry, self._found(out[0], stx))

    async def fsyncdir(self, handle: DirHandle) -> None:
        """Make the names of a directory durable."""
        raw = _dir_handle(handle).node.raw
        await self._call(lambda: check(lib.ceph_ll_sync_inode(self._mount, raw, 0)))

    async def releasedir(self, handle: DirHandle) -> None:
        """Close a directory."""
        raw = _dir_handle(handle).raw
        with trio.CancelScope(shield=True):
            await self._call(lambda: check(lib.ceph_ll_releasedir(self._mount, raw)))

    # the cluster

    async def settle(self, node: Node) -> None:
        """Have the metadata server of a directory write its journal.

        It does so for who syncs a directory that they have just changed. Has a thread of its own:
        the others may be those that wait.
        """
        perms = self._identities.of(GATEWAY)
        value = b"%x" % time.time_ns()
        arguments = (_raw(node), _SETTLED_XATTR, ffi.from_buffer(value), len(value), 0, perms)

        def settle() -> None:
            check(lib.ceph_ll_setxattr(self._mount, *arguments))
            check(lib.ceph_ll_sync_inode(self._mount, _raw(node), 0))

        await self._call(settle, limiter=self._settling)

    @contextlib.asynccontextmanager
    async def exclusive(self, node: Node) -> AsyncIterator[None]:
        """Hold a lock on a directory against every gateway of the cluster."""
        async with await self._leases.take(lock_of_dir(node.ino)):
            yield

    @contextlib.asynccontextmanager
    async def replacing(self, parent: Node, name: bytes) -> AsyncIterator[None]:
        """Hold the lock of a name; without it where the key may take none."""
        held: AbstractAsyncContextManager[object] = contextlib.nullcontext()
        with contextlib.suppress(DeniedError):  # `connect` has said so
            held = await self._leases.take(lock_of_name(parent.ino, name))
        async with held:
            yield

    async def try_exclusive(self, node: Node) -> AbstractAsyncContextManager[object] | None:
        """Take the lock of `exclusive` if it is free now."""
        return await self._leases.try_take(lock_of_dir(node.ino))

    def member(
        self, above: Node, name: str, about: bytes, *, lease_s: int
    ) -> AbstractAsyncContextManager[None]:
        """Be a member: a lock, and an attribute of an object."""
        return self._members.member(above.ino, name, about, lease_s)

    async def members(self, above: Node) -> Collection[str]:
        """Return the names of all members."""
        return await self._members.names(above.ino)

    async def try_succeed(
        self, above: Node, name: str
    ) -> AbstractAsyncContextManager[bytes] | None:
        """Take the lock of a member that has died."""
        return await self._members.try_succeed(above.ino, name)

    async def end_sessions(self, sessions: Sequence[str]) -> None:
        """End sessions of dead processes, in some tenths of a second."""
        await end_sessions(self._config, sessions)

    async def rank_of(self, path: bytes) -> Rank:
        """Return which rank has the content of a directory."""
        whole = self._subdir.rstrip("/").encode() + b"/" + path
        return await self._rank_map.rank_of(whole)

    async def load(self, rank: Rank) -> Load | None:
        """Return what a rank has still to do, if the key may ask."""
        return await self._rank_map.load(rank)

    async def pin(self, node: Node, rank: Rank) -> None:
        """Place a directory on a rank, if the key may."""
        try:
            await self.setxattr(node, b"ceph.dir.pin", b"%d" % rank, GATEWAY)
        except DeniedError as exc:
            if not self._told_of_pins:
                _log.warning(
                    "client.%s may place no directories, it needs mds 'allow rwp' (%s); until then "
                    "deletes may have to wait for two metadata servers",
                    self._config.id,
                    exc,
                )
            self._told_of_pins = True

    async def is_domain_root(self, node: Node) -> bool:
        """Tell whether a directory has a quota: renames don't cross it."""
        return any(await self.quota(node))

    async def quota(self, node: Node) -> Weight:
        """Return the quota that a directory itself has."""
        try:
            raw = await self.getxattr(node, b"ceph.quota")
        except FSError as exc:
            if exc.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return Weight(0, 0)
            raise
        limits = dict(field.split(b"=", 1) for field in raw.split())
        return Weight(int(limits[b"max_bytes"]), int(limits[b"max_files"]))

    def lane(self, *, entry_timeout_s: float, attr_timeout_s: float) -> CephLane:
        """Make what answers the kernel without Python; the caller may stop it before `close`."""
        lane = CephLane(
            _address(self._mount),
            _address(self._identities.of(GATEWAY)),
            lambda node: _address(_raw(node)),
            self._refer,
            self._data_of,
            self._handle_of,
            entry_timeout_s=entry_timeout_s,
            attr_timeout_s=attr_timeout_s,
        )
        self._left.changed = lambda ino, is_noted: lane.force(ino, Reason.LEFT, on=is_noted)
        self._admission.lane = lane
        self._stuck.others = lane
        self._names.others = lane
        self._lane = lane
        return lane

    def _refer(self, ino: Ino) -> CephNode | None:
        """Return another reference to an inode that is in use."""
        number = ffi.new("vinodeno_t *", {"ino": {"val": ino}, "snapid": {"val": _LIVE_DEVICE}})
        raw = lib.ceph_ll_get_inode(self._mount, number[0])
        return None if raw == ffi.NULL else CephNode(raw, ino)

    def _data_of(self, handle: Handle) -> tuple[int, bool] | None:
        """Return the open file of a handle, and whether it appends; None if it must be revived."""
        opened = _handle(handle)
        if not self._admission.is_in or opened.generation != self._admission.generation:
            return None
        return _address(opened.raw), bool(opened.flags & os.O_APPEND)

    def _handle_of(self, node: Node, raw: int, flags: int, is_current: bool) -> CephHandle:
        """Make a handle of what the lane has opened; one of a session that is over is revived."""
        generation = self._admission.generation if is_current else _NO_GENERATION
        return CephHandle(_node(node), ffi.cast("Fh *", raw), flags & ~_DROPPED, generation)

    def describe(self) -> dict[str, str | int | bool]:
        """Say what is in use."""
        parts = [ffi.new("int *") for _ in range(3)]
        lib.ceph_version(*parts)
        return {
            "kind": self.kind,
            "conf": self._config.conf,
            "id": self._config.id,
            "subdir": self._subdir,
            "libcephfs": ".".join(str(part[0]) for part in parts),
            "ranks": self.ranks,
            "lane": self._lane is not None,
            "rename_noreplace": self.rename_noreplace,
        }

    async def close(self) -> None:
        """Write everything and end the session; cut the connection if that takes too long."""
        self._gate.shut()
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._abort_later)
                await self._gate.wait_empty()
                self._closed = True
                if self._lane is not None:
                    await self._lane.stop()
                    await trio.to_thread.run_sync(self._lane.free)
                await trio.to_thread.run_sync(self._stuck.close)
                lib.ceph_ll_forget(self._mount, _raw(self.root), 1)
                rc = await trio.to_thread.run_sync(lib.ceph_unmount, self._mount)
                nursery.cancel_scope.cancel()
            if rc < 0:
                _log.error("unmounting: %s", fs_error(-rc))
            await trio.to_thread.run_sync(lib.ceph_release, self._mount)
            await trio.to_thread.run_sync(self._locks.close)

    async def _abort_later(self) -> None:
        await trio.sleep(_CLOSE_S)
        _log.error("unmounting takes more than %.0f s; the connection is cut", _CLOSE_S)
        await trio.to_thread.run_sync(lib.ceph_abort_conn, self._mount)


def _lost() -> FSError:
    return FSError(errno.EIO, "what was not synced before the session was shut out is lost")


def _check_xattr(name: bytes, cred: Credentials) -> None:
    """Check what libcephfs doesn't: that root's own attributes are changed by root."""
    if cred.uid != 0 and name.startswith(_ROOTS_XATTRS):
        raise DeniedError(errno.EPERM)


def _node(node: Node) -> CephNode:
    return cast(CephNode, node)


def _raw(node: Node) -> Any:
    return cast(CephNode, node).raw


def _handle(handle: Handle) -> CephHandle:
    return cast(CephHandle, handle)


def _dir_handle(handle: DirHandle) -> CephDirHandle:
    return cast(CephDirHandle, handle)


def _ino(stx: Any) -> Ino:
    """Return the number of an inode; one in a snapshot has the snapshot's device mixed in."""
    if stx.stx_dev in (0, _LIVE_DEVICE):
        return Ino(stx.stx_ino)
    return Ino((stx.stx_dev & 0x3FFF) << _SNAPSHOT_BITS | stx.stx_ino)


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


_LIVE_DEVICE = 0xFFFF_FFFF_FFFF_FFFE
"""`CEPH_NOSNAP`: what stx_dev says of a living inode."""


def _attr(stx: Any) -> Attr:
    mode = stx.stx_mode
    return Attr(
        _ino(stx),
        mode,
        stx.stx_nlink,
        stx.stx_uid,
        stx.stx_gid,
        stx.stx_rdev,
        stx.stx_size,
        stx.stx_blocks,
        stx.stx_blksize,
        _ns(stx.stx_atime),
        _ns(stx.stx_mtime),
        _ns(stx.stx_ctime),
    )


def _ns(spec: Any) -> int:
    return int(spec.tv_sec) * _NS + int(spec.tv_nsec)


def _wanted(change: AttrChange) -> tuple[Any, int]:
    """Build the arguments of ceph_ll_setattr."""
    stx, mask = ffi.new("struct ceph_statx *"), 0
    if change.mode is not None:
        stx.stx_mode, mask = stat.S_IMODE(change.mode), mask | lib.CEPH_SETATTR_MODE
    if change.uid is not None:
        stx.stx_uid, mask = change.uid, mask | lib.CEPH_SETATTR_UID
    if change.gid is not None:
        stx.stx_gid, mask = change.gid, mask | lib.CEPH_SETATTR_GID
    if change.size is not None:
        stx.stx_size, mask = change.size, mask | lib.CEPH_SETATTR_SIZE
    now_ns = time.time_ns()
    if change.size is not None:  # libcephfs sets it with the size, from here, unasked
        stx.stx_mtime.tv_sec, stx.stx_mtime.tv_nsec = divmod(now_ns, _NS)
    atime_ns = now_ns if change.atime_now else change.atime_ns
    mtime_ns = now_ns if change.mtime_now else change.mtime_ns
    if atime_ns is not None:
        stx.stx_atime.tv_sec, stx.stx_atime.tv_nsec = divmod(atime_ns, _NS)
        mask |= lib.CEPH_SETATTR_ATIME
    if mtime_ns is not None:
        stx.stx_mtime.tv_sec, stx.stx_mtime.tv_nsec = divmod(mtime_ns, _NS)
        mask |= lib.CEPH_SETATTR_MTIME
    return stx, mask
