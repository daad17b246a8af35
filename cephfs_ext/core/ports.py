"""What the layers ask of each other: Protocols, no code.

`Storage` is implemented twice, by `cephfs_ext.storage.posix` and `cephfs_ext.storage.ceph`; one
contract suite (tests/contract) runs on both. It is inode based: a `Node` is a counted reference to
an inode, and a name is always one component below a node, never a path.

Reference counting: every call that returns a `Node` hands one reference to the caller, who gives
it back with `forget`. A node may be used until its last reference is gone.

Every method raises `cephfs_ext.core.errors.FSError`; unless a docstring says otherwise nothing has
changed by then. Every async method has a checkpoint, and once its blocking call has begun it is
not cancelled: the result is never lost.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import NamedTuple, Protocol

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.types import (
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


class Node(Protocol):
    """A counted reference to an inode of a storage."""

    @property
    def ino(self) -> Ino:
        """Number of the inode."""
        ...


class Handle(Protocol):
    """An open regular file. It knows the credentials that it was opened with."""

    @property
    def node(self) -> Node:
        """The inode; not a reference of its own, valid while the handle is open."""
        ...


class DirHandle(Protocol):
    """An open directory."""


class Found(NamedTuple):
    """An inode that a call looked up or made, with its attributes."""

    node: Node
    attr: Attr


class Created(NamedTuple):
    """A file that `create` made or opened."""

    node: Node
    attr: Attr
    handle: Handle


class Move(NamedTuple):
    """A name that is to become another, in another directory."""

    name: bytes
    new_name: bytes
    ino: Ino
    """Which inode is believed to have it."""


class Listed(NamedTuple):
    """One entry of a `readdir` page; `found` is None unless `plus` was asked for."""

    entry: DirEntry
    found: Found | None


class Load(NamedTuple):
    """What a metadata server has still to do for names that are gone."""

    strays: int
    """Inodes that have no name any more, and are still there."""
    purging: int
    """Items in its purge queue."""


OPEN_IN_LANE = 1 << 63
"""The bit of the number of what a lane has opened.

In an fsyncdir that it passes on, the rest is the id of the directory.
"""

ALL_LOOKUPS = 1 << 62
"""So many lookups are taken back when a lane tells of the end of an inode."""


class Adopted(NamedTuple):
    """What a lane knows of an inode that it has looked up by itself."""

    node: Node
    """With a reference of its own."""
    parent: int
    name: bytes
    """Where it was seen last."""
    is_dir: bool
    nlink: int


LANE_OPERATIONS = [
    "lookup", "getattr", "readlink", "getxattr", "read", "write", "open", "release", "opendir",
    "readdir", "releasedir", "forget", "create", "mkdir", "mknod", "symlink", "setattr",
    "rename", "unlink", "flush", "getlk", "setlk", "statfs", "listxattr", "fallocate",
    "copy_file_range",
]  # fmt: skip
"""The kinds of requests that a lane knows."""


class Grant(NamedTuple):
    """That a process may unlink in a directory without our being asked."""

    number: int
    directory: int
    """Its id."""
    pid: int
    uid: int
    gid: int
    touches: int
    """Of the directory, when it was looked at (`Lane.touches`)."""
    owned_only: bool
    """Only what belongs to the caller."""


class Removed(NamedTuple):
    """What the lane has answered to be deleted."""

    grant: int
    parent: int
    name: bytes
    attr: Attr


class LaneCost(NamedTuple):
    """What requests have cost since it was asked last."""

    op: str
    answered: int
    passed: int
    seconds: float
    """That the answers took."""


class Lane(Protocol):
    """What answers the kernel without Python, as far as the layers above have to do with it.

    It counts the lookups of all inodes that it has, whoever answered, and gives each one an id:
    see `cephfs_ext.vfs.lane_nodes`. Nothing here blocks, but `stop`.
    """

    def __len__(self) -> int:
        """Return how many inodes it has."""
        ...

    def teach(self, node_id: int, found: Found, parent: int, name: bytes) -> None:
        """Count one lookup; takes over the reference in `found`."""
        ...

    def count_again(self, node_id: int) -> None:
        """Count one more lookup of an inode that it has."""
        ...

    def forget(self, node_id: int, lookups: int) -> bool | None:
        """Take lookups back.

        Returns:
            True if it was the last one and the inode had been adopted, False if not; None if it
            doesn't have the inode.
        """
        ...

    def adopt(self, node_id: int) -> Adopted | None:
        """Return what it knows of an inode, and tell of its end from now on."""
        ...

    def has(self, node_id: int) -> bool:
        """Tell whether it has an inode; if so, its end is told of from now on."""
        ...

    def retarget(self, node_id: int, ino: Ino) -> None:
        """Have an id lead to another inode."""
        ...

    def force(self, ino: Ino, reason: Reason, *, on: bool) -> None:
        """Have all that an inode is asked for answered in Python, or no longer."""
        ...

    def place(self, node_id: int, parent: int, name: bytes) -> None:
        """Note where a directory is now."""
        ...

    def unplace(self, parent: int, name: bytes) -> None:
        """Note that a directory has lost its name."""
        ...

    def directory_at(self, parent: int, name: bytes) -> int:
        """Return the id of the directory that was seen last under a name; 0 if none was."""
        ...

    def oldest(self, count: int) -> list[tuple[int, bytes]]:
        """Return names of inodes that were learned longest ago; the next call returns others."""
        ...

    def names_changed(self, directory: int) -> None:
        """Note that a name in a directory was changed."""
        ...

    def touches(self, directory: int) -> int:
        """Return how often it has changed something of a directory, or names in it."""
        ...

    def allow(self, directory: int, seconds: float) -> None:
        """Have it rename in a directory, and open what is there for writing, for some time."""
        ...

    def allow_nowhere(self) -> None:
        """Have that done in Python everywhere, until it is allowed again."""
        ...

    def looked(self, parent: int, name: bytes) -> Attr | None:
        """Return what a name had when we were asked to unlink it; None if that isn't known."""
        ...

    def exempt(self, patterns: Sequence[str]) -> None:
        """Say once, before it starts, which names are never unlinked without our being asked."""
        ...

    def grant(self, grant: Grant, seconds: float) -> None:
        """Have a process' unlinks in a directory answered, and names hidden, for some time.

        Only what may go before that has been carried out ([pending-4]). The last grant for a
        directory counts.
        """
        ...

    def revoke(self, directory: int | None = None) -> None:
        """Take the grant for a directory back, or all; what was answered stays so."""
        ...

    async def removed_some(self) -> None:
        """Wait until something was answered that `removed` hasn't returned."""
        ...

    def removed(self) -> Sequence[Removed]:
        """Take over some of what was answered, the oldest first; nothing if that was all."""
        ...

    def deletes_inside(self, ino: Ino, answered_ns: int, directories: int) -> None:
        """Say that names in a directory are hidden: its attributes are others for users.

        Args:
            answered_ns: when the last was deleted; 0 if none is hidden any more.
            directories: how many of them are directories.
        """
        ...

    def open_outside(self, node_id: int, *, on: bool) -> None:
        """Note that a file is open here, or no longer."""
        ...

    def pass_changes(self, *, on: bool) -> None:
        """Have all changes made in Python, or no longer: as often as it was said that they be."""
        ...

    def hide(self, parent: int, name: bytes) -> None:
        """Answer that a name isn't there."""
        ...

    def show(self, parent: int, name: bytes) -> None:
        """End that."""
        ...

    def opened(self, fh: int, handle: Handle) -> None:
        """Read and write an open file from now on; with this handle, if it had another."""
        ...

    def file_at(self, fh: int) -> int:
        """Return the id of the inode that it has open under a number; 0 if none."""
        ...

    def take_file(self, fh: int, node: Node) -> Handle:
        """Hand a file over that it has open, to be closed by who gets it.

        It goes on to read and write it, as if `opened` had been called.

        Args:
            node: the inode of `file_at`.

        Raises:
            FSError: EBADF; it has none of that number.
        """
        ...

    def closing(self, fh: int) -> None:
        """Don't use a file any more, that is about to be closed."""
        ...

    def is_idle(self, fh: int) -> bool:
        """Tell whether no call is under way with a handle that a file had."""
        ...

    @property
    def open_handles(self) -> int:
        """How many files and directories it has opened."""
        ...

    def opens(self, node_id: int) -> int:
        """Return how often it has a file open."""
        ...

    def hold(self, node_id: int, *, on: bool) -> None:
        """Keep a file from being opened by it, or no longer."""
        ...

    def pass_opendir(self) -> None:
        """Have all directories opened in Python."""
        ...

    def start(self, device: int, pair: int) -> None:
        """Begin to answer; takes over the descriptors.

        Raises:
            FSError: nothing runs.
        """
        ...

    async def ended(self) -> None:
        """Wait until the kernel has ended the session."""
        ...

    def forget_name(self, parent: int, name: bytes) -> None:
        """Have the kernel forget a name. Blocks.

        Raises:
            OSError: the kernel doesn't know it, or the mount is gone.
        """
        ...

    def forget_inode(self, node_id: int) -> None:
        """Have the kernel forget attributes and pages of an inode. Blocks.

        Raises:
            OSError: as `forget_name`.
        """
        ...

    def costs(self) -> Sequence[LaneCost]:
        """Return what each kind of request that it knows has cost since the last call."""
        ...

    def data(self) -> tuple[int, int]:
        """Return how many bytes were read and written since the last call."""
        ...

    @property
    def is_unsure(self) -> bool:
        """Whether there are directories of which the kernel is to remember nothing."""
        ...

    def is_unsure_in(self, directory: int) -> bool:
        """Tell whether a directory is one of them: others rely on what is in it."""
        ...

    def locks(self) -> tuple[int, int]:
        """Return how many requests for locks wait, and how many more were refused by now."""
        ...

    @property
    def error(self) -> int:
        """The errno for which it has stopped to answer; 0 unless something went wrong."""
        ...

    async def stop(self) -> None:
        """Answer nothing any more; what is under way is waited for."""
        ...


class Storage(Protocol):
    """A tree of inodes below one root."""

    @property
    def kind(self) -> str:
        """`posix` or `ceph`."""
        ...

    @property
    def flushes(self) -> bool:
        """Whether `flush` ever does anything."""
        ...

    @property
    def root(self) -> Node:
        """The directory that is served; owned by the storage, never forgotten."""
        ...

    @property
    def node_limit(self) -> int:
        """How many inodes may be referenced at once before calls fail or get slow."""
        ...

    @property
    def open_limit(self) -> int:
        """How many files users may have open at once, with room left for all other calls."""
        ...

    # names

    async def lookup(self, parent: Node, name: bytes) -> Found:
        """Resolve one name, as the gateway (the kernel has checked search permission).

        `.` and `..` are refused with EINVAL. Never follows a symlink.
        """
        ...

    async def resolve(self, parent: Node, name: bytes) -> Found:
        """Resolve one name; of the attributes only mode, uid, gid and ino are true.

        For directories of the gateway's own: the size and times of a directory whose content
        another metadata server has may take seconds to gather.
        """
        ...

    def forget(self, node: Node, count: int = 1) -> None:
        """Give back `count` references. Never blocks."""
        ...

    async def mkdir(
        self, parent: Node, name: bytes, mode: int, cred: Credentials, *, umask: int = 0
    ) -> Found:
        """Make a directory.

        Args:
            mode: as it was asked for, here and in `mknod` and `create`.
            umask: takes bits away, unless `parent` has a default access control list.
        """
        ...

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
        """Make a regular file, FIFO, socket or device node."""
        ...

    async def symlink(self, parent: Node, name: bytes, target: bytes, cred: Credentials) -> Found:
        """Make a symbolic link."""
        ...

    async def link(self, node: Node, parent: Node, name: bytes, cred: Credentials) -> Attr:
        """Give an inode another name; EEXIST if the name is taken. Takes no reference."""
        ...

    async def unlink(self, parent: Node, name: bytes, cred: Credentials) -> None:
        """Really remove a name that is not a directory."""
        ...

    async def unlink_many(self, parent: Node, names: Sequence[bytes]) -> Sequence[int]:
        """Really remove names that are no directories, one after the other, as the gateway.

        One call in one thread, whatever their number; it is not cancelled once it has begun.

        Returns:
            For each name 0 if it has been removed, else the errno of unlink(2).

        Raises:
            FSError: none has been removed.
        """
        ...

    async def rmdir(self, parent: Node, name: bytes, cred: Credentials) -> None:
        """Really remove an empty directory."""
        ...

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
        """Rename, replacing what has the new name, as rename(2).

        Args:
            flags: renameat2(2) flags; EINVAL for those the storage can't honour atomically.
            expected: inode that the new name is believed to have, 0 for none. A storage that
                several gateways share looks once more, in the last moment.
            moved: inode that the old name is believed to have; looked at in the last moment, and
                again at the new name, since somebody else may still have been faster.

        Returns:
            False if it has moved another inode than `moved`.

        Raises:
            ExchangedError: another inode has one of the names than was expected; nothing has
                changed.
        """
        ...

    async def move_many(
        self, parent: Node, new_parent: Node, moves: Sequence[Move]
    ) -> Sequence[bool | FSError]:
        """Rename one after the other, as the gateway, to names that nothing has.

        One call in one thread, whatever their number; it is not cancelled once it has begun.

        Returns:
            For each what `rename` returns, or raises, if it is told which inode to move.

        Raises:
            FSError: nothing has changed.
        """
        ...

    @property
    def rename_noreplace(self) -> bool:
        """True if `rename` honours RENAME_NOREPLACE (flag 1)."""
        ...

    # inodes

    async def getattr(self, node: Node) -> Attr:
        """Read attributes, as the gateway."""
        ...

    async def setattr(
        self, node: Node, change: AttrChange, cred: Credentials, handle: Handle | None = None
    ) -> Attr:
        """Change attributes; of several fields some may have changed when one fails.

        Args:
            handle: an open file of the node: a truncation through it needs no permission.
        """
        ...

    async def readlink(self, node: Node) -> bytes:
        """Read the target of a symbolic link."""
        ...

    async def getxattr(self, node: Node, name: bytes) -> bytes:
        """Read an extended attribute, as the gateway; ENODATA if there is none."""
        ...

    async def setxattr(
        self, node: Node, name: bytes, value: bytes, cred: Credentials, flags: int = 0
    ) -> None:
        """Set an extended attribute; `flags` as setxattr(2): XATTR_CREATE 1, XATTR_REPLACE 2."""
        ...

    async def listxattr(self, node: Node) -> Sequence[bytes]:
        """List the names of extended attributes (virtual ones of the storage may be missing)."""
        ...

    async def removexattr(self, node: Node, name: bytes, cred: Credentials) -> None:
        """Remove an extended attribute; ENODATA if there is none."""
        ...

    async def statfs(self, node: Node) -> StatFs:
        """Read space and names left; on CephFS a quota above the root is respected."""
        ...

    @property
    def weighs(self) -> bool:
        """True if the storage knows what is below a directory without looking at all of it."""
        ...

    async def weigh(self, node: Node) -> Weight | None:
        """Return what is below a directory, itself not counted; None where nothing knows it.

        One call, whatever there is. The figures lag by some seconds, and names of hard links but
        the first don't count.
        """
        ...

    async def quota(self, node: Node) -> Weight:
        """Return the quota that a directory itself has; 0 for what it doesn't limit."""
        ...

    def token(self, node: Node) -> bytes:
        """Return bytes (at most 128) from which `find` gets at the inode again, also later.

        Empty where the storage can't; never blocks for long.
        """
        ...

    async def path(self, node: Node) -> bytes:
        """Return where a directory is now, relative to the root; may take a call for each level.

        Raises:
            NotFoundError: it is gone, or not below the root.
        """
        ...

    @property
    def lists_attributes(self) -> bool:
        """True if a listing knows attributes anyway, so that `plus` costs it hardly more.

        There a look at each name later may cost a request each: the storage forgets them.
        """
        ...

    @property
    def finds_by_number(self) -> bool:
        """True if `find` needs no token; else it looks through the whole tree without one."""
        ...

    async def find(self, ino: Ino, token: bytes) -> Found:
        """Open an inode by number, wherever its names are.

        Raises:
            NotFoundError: there is no such inode (ESTALE is turned into this).
        """
        ...

    # files

    async def open(self, node: Node, flags: int, cred: Credentials) -> Handle:
        """Open a regular file; `flags` as open(2), without O_CREAT and O_EXCL.

        For reading only, the gateway's identity is used: the kernel has checked, and an
        executable file need not be readable.
        """
        ...

    async def open_passing(self, node: Node) -> Handle:
        """Open a regular file as the gateway, to read it once: no cache is filled with it."""
        ...

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
        """Make and open a regular file in one step; opens an existing one unless O_EXCL."""
        ...

    async def reopen(self, handle: Handle, node: Node) -> Handle:
        """Open another inode as `handle` was opened: same flags, same identity, no questions."""
        ...

    async def opened_elsewhere(self, handle: Handle) -> bool:
        """Tell whether anybody but the holder of `handle` has the file open, on any client.

        Args:
            handle: open for writing, and the only one of this storage session.

        Returns:
            True also where the storage can't tell.
        """
        ...

    async def read(self, handle: Handle, off: int, size: int) -> bytes:
        """Read up to `size` bytes; shorter only at the end of the file."""
        ...

    async def write(self, handle: Handle, off: int, data: bytes) -> int:
        """Write all of `data` at `off` (at the end with O_APPEND); return how many bytes."""
        ...

    async def flush(self, handle: Handle) -> None:
        """A descriptor was closed: report errors of earlier writes where that is cheap."""
        ...

    async def fsync(self, handle: Handle, *, datasync: bool = False) -> None:
        """Make what was written durable."""
        ...

    async def release(self, handle: Handle) -> None:
        """Close. The handle is gone also when this raises."""
        ...

    # directories

    def passing(self) -> AbstractContextManager[None]:
        """Have caches not filled by listings while the body runs; what they have may go, too."""
        ...

    async def opendir(self, node: Node) -> DirHandle:
        """Open a directory for listing."""
        ...

    async def readdir(
        self, handle: DirHandle, cookie: int, *, limit: int, plus: bool = False
    ) -> Sequence[Listed]:
        """Return the next page: up to `limit` entries after `cookie` (0: from the start).

        An empty page is the end. With `plus` each entry has its node (one reference each) and
        attributes, unless the entry vanished meanwhile: then `found` is None.
        """
        ...

    async def fsyncdir(self, handle: DirHandle) -> None:
        """Make the names of a directory durable."""
        ...

    async def releasedir(self, handle: DirHandle) -> None:
        """Close a directory."""
        ...

    # the cluster

    async def settle(self, node: Node) -> None:
        """Have the metadata server of a directory write its journal.

        Others who wait for what has been done there go on. Does nothing where there is no such
        thing.

        Args:
            node: a directory of the gateway's own, of which an extended attribute changes.
        """
        ...

    def exclusive(self, node: Node) -> AbstractAsyncContextManager[None]:
        """Hold a lock on a directory of the gateway's own, against every gateway there is.

        Waits for it. The lock of a dead holder comes free by itself (posix: at once; ceph: after a
        lease of 10 s). Who doesn't get to renew it within the lease has lost it: the body is
        cancelled, and EIO raised.
        """
        ...

    def replacing(self, parent: Node, name: bytes) -> AbstractAsyncContextManager[None]:
        """Keep others from replacing what has a name while it is being looked at and replaced.

        Holds against every gateway, but not against those who only remove the name or make it
        anew. Does nothing where one gateway serves the tree, or the key may take no locks.
        """
        ...

    async def try_exclusive(self, node: Node) -> AbstractAsyncContextManager[object] | None:
        """Take the lock of `exclusive` if it is free now; None if somebody holds it."""
        ...

    def member(
        self, above: Node, name: str, about: bytes, *, lease_s: int
    ) -> AbstractAsyncContextManager[None]:
        """Be a member of those at work below a directory, for all to see, while the body runs.

        Whoever is listed without living is dead. Neither this nor the next two methods ever wait
        for what a dead client holds; on ceph they don't touch the file system.

        Args:
            above: a directory of the gateway's own.
            name: letters and digits, which nobody else has.
            about: what a successor has to know, at most 64 KiB, not empty.
            lease_s: how long a member may stall before it is taken for dead (posix: as long as it
                likes). The body is cancelled then, and EIO raised.

        Raises:
            DeniedError: the key may take no locks; the body has not run, and nobody is listed.
            FullError: there is no room for a lock; the same.
        """
        ...

    async def members(self, above: Node) -> Collection[str]:
        """Return the names of all members that live, and of those that nobody has succeeded."""
        ...

    async def try_succeed(
        self, above: Node, name: str
    ) -> AbstractAsyncContextManager[bytes] | None:
        """Succeed a member that has died; None if it lives, or isn't listed any more.

        Returns:
            A body in which nobody else is the successor; it gets the `about` of the member, empty
            if that died before it could say anything. The member is not listed any more when the
            body has ended without an error.
        """
        ...

    @property
    def sessions(self) -> Sequence[str]:
        """Names of the sessions that others have to end when this process has died."""
        ...

    async def end_sessions(self, sessions: Sequence[str]) -> None:
        """End sessions of a process that has died, or is taken for dead.

        What they hold comes free, and nothing that they still do takes effect. Several at a time,
        and without waiting for what they hold. One that can't be ended is logged; it ends by itself
        after a minute.
        """
        ...

    @property
    def ranks(self) -> int:
        """How many metadata servers share the tree; 1 where there is no such thing."""
        ...

    async def rank_of(self, path: bytes) -> Rank:
        """Return which metadata server has the content of a directory.

        Args:
            path: of the directory, relative to the root. The answer may be out of date.
        """
        ...

    async def load(self, rank: Rank) -> Load | None:
        """Return what a metadata server has still to do; None where nothing, or nobody, says it.

        May be cancelled at any time.
        """
        ...

    async def pin(self, node: Node, rank: Rank) -> None:
        """Place a directory on a metadata server; does nothing where there is one only."""
        ...

    async def is_domain_root(self, node: Node) -> bool:
        """Tell whether a directory starts a rename domain (a CephFS quota root)."""
        ...

    def lane(self, *, entry_timeout_s: float, attr_timeout_s: float) -> Lane | None:
        """Make what answers the kernel without Python; None if there is no such thing.

        Stopped and given back by `close`, if it wasn't before.
        """
        ...

    def describe(self) -> dict[str, str | int | bool]:
        """Say what is in use (versions, features), for `status`."""
        ...

    async def close(self) -> None:
        """End all sessions, flushing what is buffered. Nothing may be used afterwards."""
        ...


class Meter(Protocol):
    """Where metrics go; names and labels are those of the table in `cephfs_ext.observe.metrics`.

    Never blocks, never raises for a metric of the table.
    """

    def count(self, metric: str, n: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        ...

    def observe(self, metric: str, seconds: float, /, **labels: str) -> None:
        """Add an observation to a histogram."""
        ...

    def set(self, metric: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        ...
