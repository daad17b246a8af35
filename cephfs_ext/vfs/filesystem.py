"""What each file operation means, on inode numbers; knows no FUSE.

Owns the node table and the open handles. Permissions of reads are the kernel's business (the mount
has `default_permissions`); every mutation is carried out with the caller's credentials.

A virtual `.trashbin` resolves in every directory: what is renamed into it is deleted. It is never
listed, its own entries are never cached, and nothing can be made in it. What is seen in it is
`cephfs_ext.vfs.view`'s: requests are routed by the node's id.

Concurrency: any number of requests at once. The kernel serialises changes of one directory within
a mount; between mounts the storage does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from cephfs_ext.core.errors import (
    DeniedError,
    ExchangedError,
    FSError,
    NotFoundError,
    TryAgainError,
)
from cephfs_ext.core.limits import NODES, NODES_TAKEN_BACK, OPEN_DIRECTORIES_PART, OPEN_FILES
from cephfs_ext.core.permissions import without_privileges
from cephfs_ext.core.ports import (
    OPEN_IN_LANE,
    Created,
    Found,
    Handle,
    Lane,
    Listed,
    Meter,
    Node,
    Storage,
)
from cephfs_ext.core.types import GATEWAY, Attr, AttrChange, Credentials, Ino, StatFs
from cephfs_ext.vfs.bulk import BulkDeletes
from cephfs_ext.vfs.deletes import Deletes
from cephfs_ext.vfs.discards import Discards
from cephfs_ext.vfs.handles import (
    DirStream,
    DirStreams,
    FileHandle,
    HandleTable,
    OpenFile,
    OpenFiles,
)
from cephfs_ext.vfs.intents import Intents
from cephfs_ext.vfs.marks import Marks
from cephfs_ext.vfs.nodes import (
    NodeId,
    NodeTable,
    directory_of,
    is_view,
    is_virtual,
    trash_of,
)
from cephfs_ext.vfs.truncations import Truncations
from cephfs_ext.vfs.view import View
from cephfs_ext.vfs.viewstream import ViewStream
from trashbin.files import exists
from trashbin.hours import Viewer
from trashbin.layout import PROMISED, TRASH_NAME
from trashbin.links import has_name
from trashbin.put import Deleter

_log = logging.getLogger(__name__)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_TRASH_MODE = stat.S_IFDIR | stat.S_ISVTX | 0o777
_WRITING = os.O_WRONLY | os.O_RDWR
_NOTHING = Ino(0)
_RENAME_ATTEMPTS = 10
"""How often a rename begins anew because another gateway put something else at its end."""


class Entry(NamedTuple):
    """What a lookup answers."""

    node_id: NodeId
    attr: Attr
    generation: int = 0


class Opened(NamedTuple):
    """What a create answers."""

    entry: Entry
    fh: FileHandle


class FileSystem:
    """The served tree."""

    def __init__(
        self,
        storage: Storage,
        nodes: NodeTable,
        files: OpenFiles,
        listed: DirStreams,
        deletes: Deletes,
        bulk: BulkDeletes,
        intents: Intents,
        truncations: Truncations,
        marks: Marks,
        view: View,
        discards: Discards,
        meter: Meter,
        forget_entry: Callable[[NodeId, bytes], None],
        *,
        second: Storage | None = None,
        lane: Lane | None = None,
        read_only: bool = False,
    ) -> None:
        self._second = second
        """Another session of the storage, for what loses names in the one that does it."""
        self._lane = lane
        self._forget_entry = forget_entry
        self._storage = storage
        self._meter = meter
        self._deletes = deletes
        self._bulk = bulk
        self._intents = intents
        self._truncations = truncations
        self._marks = marks
        self._view = view
        self._discards = discards
        self._read_only = read_only
        self.nodes = nodes
        self._files = files
        self._dirs: HandleTable[DirStream | ViewStream] = HandleTable()
        self._listed = listed
        self._born_ns = time.time_ns()
        self._node_limit = min(NODES, storage.node_limit)
        self._file_limit = min(OPEN_FILES, storage.open_limit)
        self._learned_beyond = 0

    # names

    async def lookup(self, parent: NodeId, name: bytes, viewer: Viewer) -> Entry:
        """Resolve a name; counts one lookup."""
        if is_virtual(parent):
            await self._bulk.settle()
            return Entry(*await self._view.lookup(parent, name, viewer))
        if name == TRASH_NAME:
            return self._virtual(self._directory_checked(parent))
        if self._bulk.is_hidden(parent, name):
            raise NotFoundError()
        found = await self._storage.lookup(self.nodes[parent].node, name)
        return self._learned(parent, name, found)

    def _directory_checked(self, node_id: NodeId) -> NodeId:
        if not self.nodes[node_id].is_dir:
            raise FSError(errno.ENOTDIR)
        return node_id

    def _virtual(self, directory: NodeId) -> Entry:
        node_id = trash_of(directory)
        now = self._born_ns
        return Entry(
            node_id, Attr(Ino(node_id), _TRASH_MODE, 2, 0, 0, 0, 0, 0, 4096, now, now, now)
        )

    def _learned(self, parent: NodeId, name: bytes, found: Found) -> Entry:
        node_id = self.nodes.learn(parent, name, found)
        self._bulk.learned(parent, name, found.attr)
        self._take_back_some()
        return self._entry(node_id, found.attr)

    def _entry(self, node_id: NodeId, attr: Attr) -> Entry:
        generation = self.nodes.generation_of(attr.ino)
        return Entry(node_id, self._as_users_see(node_id, attr), generation)

    def _as_users_see(self, node_id: NodeId, attr: Attr) -> Attr:
        return self._bulk.as_users_see(node_id, self.nodes.as_users_see(attr))

    def _take_back_some(self) -> None:
        if len(self.nodes) <= self._node_limit:
            return
        self._learned_beyond += 1
        if self._learned_beyond % (NODES_TAKEN_BACK // 4) == 1:
            self.limit_nodes()

    def limit_nodes(self) -> None:
        """Have the kernel forget inodes when it keeps too many: each costs the storage something.

        What is open or otherwise in use stays.
        """
        if len(self.nodes) <= self._node_limit:
            return
        self._meter.count("node_limit_reached_total")
        for parent, name in self.nodes.oldest(NODES_TAKEN_BACK):
            self._forget_entry(parent, name)

    async def mkdir(
        self, parent: NodeId, name: bytes, mode: int, umask: int, cred: Credentials
    ) -> Entry:
        """Make a directory; counts one lookup."""
        above = self._changeable(parent, name)
        await self._bulk.before_change(parent, name)
        found = await self._storage.mkdir(above, name, mode, cred, umask=umask)
        return self._learned(parent, name, found)

    async def mknod(
        self, parent: NodeId, name: bytes, mode: int, umask: int, rdev: int, cred: Credentials
    ) -> Entry:
        """Make a regular or special file; counts one lookup."""
        above = self._changeable(parent, name)
        await self._bulk.before_change(parent, name)
        found = await self._storage.mknod(above, name, mode, rdev, cred, umask=umask)
        return self._learned(parent, name, found)

    async def symlink(self, parent: NodeId, name: bytes, target: bytes, cred: Credentials) -> Entry:
        """Make a symbolic link; counts one lookup."""
        above = self._changeable(parent, name)
        await self._bulk.before_change(parent, name)
        found = await self._storage.symlink(above, name, target, cred)
        return self._learned(parent, name, found)

    async def link(self, node_id: NodeId, parent: NodeId, name: bytes, cred: Credentials) -> Entry:
        """Give an inode another name; counts one lookup."""
        above = self._changeable(parent, name)
        await self._bulk.before_change(parent, name)
        attr = await self._storage.link(self._real(node_id), above, name, cred)
        self.nodes.count_again(node_id)
        self._touched(node_id)
        return Entry(node_id, self.nodes.as_users_see(attr))

    async def unlink(self, parent: NodeId, name: bytes, who: Deleter) -> None:
        """Remove a name that is no directory; it goes into the trash."""
        if await self._intents.take(parent, who):
            return
        self._changeable(parent, name)
        if not await self._bulk.unlink(parent, name, who):
            await self._deletes.unlink(parent, name, who)

    async def rmdir(self, parent: NodeId, name: bytes, who: Deleter) -> None:
        """Remove an empty directory; it goes into the trash."""
        if await self._intents.take(parent, who):
            return
        self._changeable(parent, name)
        if not await self._bulk.rmdir(parent, name, who):
            await self._deletes.rmdir(parent, name, who)

    async def rename(
        self,
        parent: NodeId,
        name: bytes,
        new_parent: NodeId,
        new_name: bytes,
        flags: int,
        who: Deleter,
        viewer: Viewer,
    ) -> None:
        """Rename. Into a virtual trash: delete, with everything below; what is replaced is kept.

        Out of one: bring back.

        Args:
            flags: RENAME_NOREPLACE and RENAME_EXCHANGE where the storage has them, else EINVAL.
        """
        if is_virtual(parent):
            await self._rename_out(parent, name, new_parent, new_name, flags, who, viewer)
            return
        above = self._changeable(parent, name)
        await self._bulk.before_move(parent, name)
        await self._deletes.check_protection(parent)
        if is_virtual(new_parent) and not flags & ~RENAME_NOREPLACE:
            if is_view(new_parent) and not self._view.is_now(new_parent):
                raise FSError(errno.EROFS)
            delete = self._discards.name if is_view(new_parent) else self._deletes.tree
            await delete(parent, name, who)
            self._forget_entry(new_parent, new_name)  # the kernel believes that it is there now
            return
        below = self._changeable(new_parent, new_name)
        await self._bulk.before_move(new_parent, new_name)
        if flags:
            await self._storage.rename(above, name, below, new_name, who.cred, flags)
        else:
            await self._rename_replacing(parent, name, new_parent, new_name, who)
        if flags & RENAME_EXCHANGE:
            await self._look_again(new_parent, new_name)
            await self._look_again(parent, name)
        else:
            if self.nodes.directory_at(parent, name) is not None:
                self._marks.moved()
            self.nodes.moved(parent, name, new_parent, new_name)

    async def _rename_out(
        self,
        parent: NodeId,
        name: bytes,
        new_parent: NodeId,
        new_name: bytes,
        flags: int,
        who: Deleter,
        viewer: Viewer,
    ) -> None:
        """Bring back what is seen in a virtual trash; it replaces nothing."""
        if is_virtual(new_parent):
            raise FSError(errno.EROFS)
        self._changeable(new_parent, new_name)
        if flags & ~RENAME_NOREPLACE:
            raise FSError(errno.EINVAL)
        await self._bulk.before_change(new_parent, new_name)
        await self._view.restore(parent, name, new_parent, new_name, viewer, who.cred)

    async def _look_again(self, parent: NodeId, name: bytes) -> None:
        """Note the place of what has a name now, if the kernel knows it."""
        found = await self._storage.lookup(self.nodes[parent].node, name)
        self.nodes.forget(self.nodes.learn(parent, name, found), 1)

    async def _rename_replacing(
        self, parent: NodeId, name: bytes, new_parent: NodeId, new_name: bytes, who: Deleter
    ) -> None:
        """Rename; what is replaced is kept, also if another gateway puts it there meanwhile."""
        above, below = self.nodes[parent].node, self.nodes[new_parent].node

        async def rename(expected: Ino) -> None:
            names = (above, name, below, new_name)
            await self._storage.rename(*names, who.cred, expected=expected)

        for _ in range(_RENAME_ATTEMPTS):
            with contextlib.suppress(ExchangedError):
                if not await exists(self._storage, below, new_name):
                    await rename(_NOTHING)
                    return
                async with self._storage.replacing(below, new_name):
                    await self._rename_onto(parent, name, new_parent, new_name, who, rename)
                return
        raise TryAgainError(errno.EBUSY, "others rename onto this name all the time")

    async def _rename_onto(
        self,
        parent: NodeId,
        name: bytes,
        new_parent: NodeId,
        new_name: bytes,
        who: Deleter,
        rename: Callable[[Ino], Awaitable[None]],
    ) -> None:
        """Rename onto a name that something had a moment ago.

        Two names of one inode: rename(2) does nothing. A directory and something else: it fails.
        """
        try:
            victim = await self._storage.lookup(self.nodes[new_parent].node, new_name)
        except NotFoundError:
            await rename(_NOTHING)
            return
        ino = victim.attr.ino
        try:
            source = await self._storage.lookup(self.nodes[parent].node, name)
            self._storage.forget(source.node)
            if source.attr.ino == ino:
                await self._check_two_names(new_parent, new_name, source.attr)
                return
            if source.attr.is_dir == victim.attr.is_dir:
                step: Callable[[], Awaitable[None]] = functools.partial(rename, ino)
                if self._second is not None and victim.attr.nlink > 1 and not victim.attr.is_dir:
                    places = (parent, name, new_parent, new_name)
                    step = functools.partial(self._rename_through, self._second, *places, ino, who)
                await self._deletes.replace(new_parent, new_name, victim, who, step)
            else:
                await rename(ino)
        finally:
            self._storage.forget(victim.node)

    async def _check_two_names(self, parent: NodeId, name: bytes, attr: Attr) -> None:
        """Check that what was found under two names has both, and wasn't moved in between.

        Raises:
            ExchangedError: it was.
        """
        both = await has_name(self._storage, self.nodes[parent].node, name, attr.ino)
        if attr.nlink < 2 or not both:
            raise ExchangedError()

    async def _rename_through(
        self,
        second: Storage,
        parent: NodeId,
        name: bytes,
        new_parent: NodeId,
        new_name: bytes,
        expected: Ino,
        who: Deleter,
    ) -> None:
        """Rename onto one of several names of a file, through another session.

        The session that does it takes the other names for gone, too (decision 14).
        """
        await self._deletes.check_same_domain(parent, new_parent)
        held: list[Node] = []
        try:
            for node_id in (parent, new_parent):
                node = self.nodes[node_id].node
                held.append((await second.find(node.ino, self._storage.token(node))).node)
            names = (held[0], name, held[1], new_name)
            await second.rename(*names, who.cred, expected=expected)
        finally:
            for node in held:
                second.forget(node)

    # inodes

    async def getattr(self, node_id: NodeId, viewer: Viewer) -> Attr:
        """Read attributes."""
        if is_view(node_id):
            return await self._view.getattr(node_id, viewer)
        if is_virtual(node_id):
            return self._virtual(directory_of(node_id)).attr
        attr = self._bulk.attr_of(node_id)
        if attr is None:
            attr = await self._storage.getattr(self.nodes[node_id].node)
        return self._as_users_see(node_id, attr)

    async def setattr(
        self, node_id: NodeId, change: AttrChange, who: Deleter, fh: FileHandle | None
    ) -> Attr:
        """Change attributes; the content of a file that is truncated to nothing is kept."""
        self._real(node_id)
        await self._bulk.before_use(node_id)
        if change.size is not None:
            await self._deletes.check_protection(self.nodes[node_id].parent)
        file = None if fh is None else self._file(fh)
        if change.size == 0:
            await self._truncations.keep(node_id, who, file)
        node, cred = self._real(node_id), who.cred
        handle = None if file is None else file.handle
        try:
            attr = await self._setattr(node, change, cred, handle)
        finally:
            self._touched(node_id)
        return self._as_users_see(node_id, attr)

    async def _setattr(
        self,
        node: Node,
        change: AttrChange,
        cred: Credentials,
        handle: Handle | None,
    ) -> Attr:
        try:
            return await self._storage.setattr(node, change, cred, handle)
        except DeniedError:
            if not await self._takes_privileges(node, change, cred):
                raise
            rest = dataclasses.replace(change, mode=None)
            if rest != AttrChange():
                await self._storage.setattr(node, rest, cred, handle)
            return await self._storage.setattr(node, AttrChange(mode=change.mode), GATEWAY)

    async def _takes_privileges(self, node: Node, change: AttrChange, cred: Credentials) -> bool:
        """Tell whether a refused change of mode is the kernel's, for somebody who writes.

        Who changes the content of a file takes its setuid and setgid bits away, and need not own
        it. The kernel asks for that with the writer's credentials; it looks at ownership itself
        before it passes on a chmod of theirs.
        """
        if change.mode is None:
            return False
        attr = await self._storage.getattr(node)
        return cred.uid != attr.uid and change.mode == without_privileges(attr.mode)

    async def readlink(self, node_id: NodeId, viewer: Viewer) -> bytes:
        """Read the target of a symbolic link."""
        if is_view(node_id):
            return await self._view.readlink(node_id, viewer)
        return await self._storage.readlink(self.nodes[node_id].node)

    async def getxattr(self, node_id: NodeId, name: bytes, viewer: Viewer) -> bytes:
        """Read an extended attribute."""
        if is_view(node_id):
            return await self._view.getxattr(node_id, name, viewer)
        if is_virtual(node_id):
            raise FSError(errno.ENODATA)
        return await self._storage.getxattr(self.nodes[node_id].node, name)

    async def setxattr(self, node_id: NodeId, name: bytes, value: bytes, cred: Credentials) -> None:
        """Set an extended attribute."""
        await self._storage.setxattr(self._real(node_id), name, value, cred)
        self._marks.changed(node_id, name)
        self._touched(node_id)

    async def listxattr(self, node_id: NodeId, viewer: Viewer) -> Sequence[bytes]:
        """List the names of extended attributes, but not the trash's own."""
        if is_view(node_id):
            names = await self._view.listxattr(node_id, viewer)
        elif is_virtual(node_id):
            names = ()
        else:
            names = await self._storage.listxattr(self.nodes[node_id].node)
        return [name for name in names if name != PROMISED]

    async def removexattr(self, node_id: NodeId, name: bytes, cred: Credentials) -> None:
        """Remove an extended attribute."""
        await self._storage.removexattr(self._real(node_id), name, cred)
        self._marks.changed(node_id, name)
        self._touched(node_id)

    async def statfs(self) -> StatFs:
        """Read space and names left."""
        return await self._storage.statfs(self._storage.root)

    def forget(self, node_id: NodeId, lookups: int) -> None:
        """The kernel takes lookups back."""
        if is_view(node_id):
            self._view.forget(node_id, lookups)
        elif not is_virtual(node_id):
            self.nodes.forget(node_id, lookups)

    # files

    async def open(self, node_id: NodeId, flags: int, who: Deleter, viewer: Viewer) -> FileHandle:
        """Open a regular file; with O_TRUNC, what was in it is kept."""
        self._check_open_files()
        if is_view(node_id):
            handle = await self._view.open(node_id, flags, viewer, who.cred)
            return self._files.add(node_id, handle)
        await self._bulk.before_use(node_id)
        if flags & _WRITING:
            self._real(node_id)
            await self._deletes.check_protection(self.nodes[node_id].parent)
        truncates = flags & os.O_TRUNC
        if truncates and await self._truncations.keep(node_id, who):
            flags &= ~os.O_TRUNC
        async with self._files.opening(node_id):
            node = self.nodes[node_id].node
            handle = await self._storage.open(node, flags, who.cred)
            fh = self._files.add(node_id, handle)
        if flags & _WRITING or truncates:
            self._touched(node_id)
        if truncates and who.cred.uid != 0:
            await self._drop_privileges(node)
        return fh

    async def _drop_privileges(self, node: Node) -> None:
        """Take setuid and setgid away, which neither libcephfs nor a kept truncation does."""
        mode = stat.S_IMODE((await self._storage.getattr(node)).mode)
        if mode != without_privileges(mode):
            change = AttrChange(mode=without_privileges(mode))
            await self._storage.setattr(node, change, GATEWAY)

    async def create(
        self, parent: NodeId, name: bytes, mode: int, umask: int, flags: int, who: Deleter
    ) -> Opened:
        """Make and open a regular file; counts one lookup.

        If another client was faster, it opens that file; with O_TRUNC, what was in it is kept.
        """
        above = self._changeable(parent, name)
        self._check_open_files()
        await self._bulk.before_change(parent, name)
        created: Created = await self._storage.create(
            above, name, mode, flags & ~os.O_TRUNC, who.cred, umask=umask
        )
        entry = self._learned(parent, name, Found(created.node, created.attr))
        fh = self._files.add(entry.node_id, created.handle)
        if flags & os.O_TRUNC and created.attr.size:
            attr = await self.setattr(entry.node_id, AttrChange(size=0), who, fh)
            entry = Entry(entry.node_id, attr)
        return Opened(entry, fh)

    def _file(self, fh: FileHandle) -> OpenFile:
        return self._files.adopt(fh, self.nodes)

    async def read(self, fh: FileHandle, off: int, size: int) -> bytes:
        """Read up to `size` bytes."""
        data = await self._storage.read(self._file(fh).handle, off, size)
        self._files.used(fh)
        self._meter.count("io_bytes_total", len(data), direction="read")
        return data

    async def write(self, fh: FileHandle, off: int, data: bytes) -> int:
        """Write."""
        file = self._file(fh)
        written = await self._storage.write(file.handle, off, data)
        self._files.used(fh)
        self._touched(file.node_id)
        self._meter.count("io_bytes_total", written, direction="write")
        return written

    async def flush(self, fh: FileHandle) -> None:
        """A descriptor was closed.

        Raises:
            FSError: ENOSYS; there is nothing to do, and the kernel needn't ask again.
        """
        if not self._storage.flushes:
            raise FSError(errno.ENOSYS)
        await self._storage.flush(self._file(fh).handle)

    async def fsync(self, fh: FileHandle, *, datasync: bool) -> None:
        """Make what was written durable."""
        await self._storage.fsync(self._file(fh).handle, datasync=datasync)

    async def release(self, fh: FileHandle) -> None:
        """Close the last descriptor of an open file."""
        with self._files.closing(fh) as file:
            for _, former in file.former:
                await _closing(self._storage.release(former))
            self._touched(file.node_id)  # the lane may have written to it
            await self._storage.release(file.handle)

    # directories

    async def opendir(self, node_id: NodeId, viewer: Viewer) -> FileHandle:
        """Open a directory for listing."""
        if len(self._dirs) >= self._file_limit // OPEN_DIRECTORIES_PART:
            raise self._too_many_open("dir")
        if is_virtual(node_id):
            await self._bulk.settle()
            return self._dirs.add(await self._view.opendir(node_id, viewer))
        handle = None
        if not self._intents.is_emptied(node_id):
            handle = await self._storage.opendir(self.nodes[node_id].node)
        stream = DirStream(self._storage, node_id, handle)
        self._listed.add(stream)
        return self._dirs.add(stream)

    def stream_ids(self, fh: FileHandle) -> tuple[NodeId, NodeId]:
        """Return an open directory and its parent."""
        stream = self._dirs[fh]
        if isinstance(stream, ViewStream):
            return stream.node_id, stream.parent
        return stream.node_id, self.nodes[stream.node_id].parent

    async def readdir(self, fh: FileHandle, cookie: int) -> Sequence[Listed]:
        """Return some entries after `cookie`; an empty page is the end.

        The caller says of each what became of it: `listed`, `unlisted`, or `readdir_rest`. The
        real trash of a domain is among them and is not for users.
        """
        stream = self._dirs[fh]
        hidden = self._bulk.hidden(stream.node_id)  # of before: what is gone by now isn't listed
        while page := await stream.page(cookie):
            shown = self._bulk.shown(page, hidden) if hidden else page
            if shown:
                return shown
            cookie = page[-1].entry.cookie
        return ()

    def readdir_rest(self, fh: FileHandle, cookie: int, rest: Sequence[Listed]) -> None:
        """Take back the entries after `cookie` for which there was no room."""
        self._dirs[fh].put_back(cookie, rest)

    def entry_of(self, found: Found) -> Entry:
        """Return what a lookup would answer, without counting one."""
        if is_view(NodeId(found.attr.ino)):
            return Entry(NodeId(found.attr.ino), found.attr)
        return self._entry(self.nodes.id_of(found.attr.ino), found.attr)

    def listed(self, fh: FileHandle, name: bytes, found: Found) -> None:
        """Count the lookup of an entry that a reply holds."""
        if is_view(NodeId(found.attr.ino)):
            self._view.listed(found)
            return
        self._learned(self._dirs[fh].node_id, name, found)

    def unlisted(self, found: Found) -> None:
        """Give back an entry that no reply will hold."""
        self._storage.forget(found.node)

    async def fsyncdir(self, fh: FileHandle) -> None:
        """Make the names of a directory durable."""
        if fh & OPEN_IN_LANE:
            await self._sync_directory(NodeId(fh & ~OPEN_IN_LANE))
            return
        stream = self._dirs[fh]
        await self._bulk.synced(stream.node_id)
        handle = stream.handle
        if handle is not None:
            await self._storage.fsyncdir(handle)

    async def _sync_directory(self, node_id: NodeId) -> None:
        await self._bulk.synced(node_id)
        handle = await self._storage.opendir(self.nodes[node_id].node)
        try:
            await self._storage.fsyncdir(handle)
        finally:
            await self._storage.releasedir(handle)

    async def releasedir(self, fh: FileHandle) -> None:
        """Close a directory."""
        stream = self._dirs.pop(fh)
        if isinstance(stream, DirStream):
            self._listed.discard(stream)
        await stream.close()

    @property
    def may_be_remembered(self) -> bool:
        """False while the kernel has to ask for names, and attributes, again: something is locked.

        The lane knows in which directories; of what is answered here that is not worth asking.
        """
        return self._lane is None or not self._lane.is_unsure

    def are_names_sure(self, fh: FileHandle) -> bool:
        """Tell whether what a listing returns has its name for certain."""
        stream = self._dirs[fh]
        return isinstance(stream, ViewStream) or not stream.names_changed

    def _touched(self, node_id: NodeId) -> None:
        """Note that attributes of an inode were changed."""
        with contextlib.suppress(FSError):  # the kernel knows it, so that it is there
            self._bulk.touched(node_id)
            self._listed.changed(self.nodes[node_id].parent, names=False)

    async def take_over(self) -> None:
        """Wait for deletes that the lane has answered, and take them over."""
        await self._bulk.take_over()

    @property
    def pending(self) -> int:
        """How many deletes have been answered, and aren't carried out yet."""
        return len(self._bulk)

    # the end

    async def settle(self) -> None:
        """Wait until all that has been deleted by now is in the trash."""
        await self._bulk.settle()

    async def close(self) -> None:
        """Carry out what is pending, and close what the kernel left open.

        Errors are logged, nothing that was written is lost.
        """
        await self._bulk.drain()
        for stream in self._dirs.drain():
            await _closing(stream.close())
        for file in self._files.drain():
            for handle in (*(former for _, former in file.former), file.handle):
                await _closing(self._storage.release(handle))
        self._view.close()

    @property
    def open_handles(self) -> int:
        """How many files and directories are open."""
        in_lane = 0 if self._lane is None else self._lane.open_handles
        return len(self._files) + len(self._dirs) + in_lane

    def _check_open_files(self) -> None:
        """Leave what the storage needs for deletes, lookups and background work.

        Raises:
            FSError: ENFILE; as many files are open as may be.
        """
        if len(self._files) >= self._file_limit:
            raise self._too_many_open("file")

    def _too_many_open(self, kind: str) -> FSError:
        self._meter.count("open_limit_reached_total", kind=kind)
        return FSError(errno.ENFILE)

    # rights

    def _real(self, node_id: NodeId) -> Node:
        """Return the inode behind an id that is about to be changed.

        Raises:
            FSError: EROFS, also for what is seen in a virtual trash; EPERM for that itself, and for
                what lies in a directory that has been moved into the trash.
        """
        if self._read_only or is_view(node_id):
            raise FSError(errno.EROFS)
        if is_virtual(node_id) or self.nodes.lies_in_trash(node_id):
            raise DeniedError()
        return self.nodes[node_id].node

    def _changeable(self, parent: NodeId, name: bytes) -> Node:
        """Return the directory in which a name is about to be made, changed or removed.

        Raises:
            FSError: EROFS; EPERM for the virtual trash and for anything in it.
        """
        if is_virtual(parent):
            return self._real(parent)
        if name == TRASH_NAME or self.nodes.is_in_trash(parent):
            raise DeniedError()
        self._listed.changed(parent, names=True)  # the kernel lists nothing until this is over
        return self._real(parent)


async def _closing(step: Awaitable[None]) -> None:
    try:
        await step
    except FSError as exc:
        _log.warning("closing what was left open: %s", exc)
