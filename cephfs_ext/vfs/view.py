"""What is seen in the virtual `.trashbin`s: what was deleted below a directory, by hour.

Everything is read-only. Who sees what is decided anew in each request, by who makes it: what was
deleted or is owned by them, from the top of what was deleted on; below that the modes decide,
which are the real ones, so that the kernel checks them. Directories that are only on the way are
for everybody, and hold what the viewer sees; they are writable, since otherwise the kernel would
not let anything be moved out of them.

Nothing here is cached by the kernel: its timeouts are 0 (`cephfs_ext.fuse.attrs`).

Source: docs/semantics.md, [view-1] to [view-8].
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from cephfs_ext.core.errors import DeniedError, ExchangedError, ExistsError, FSError, NotFoundError
from cephfs_ext.core.limits import READDIR_PAGE, VIEW_NODES
from cephfs_ext.core.permissions import SEARCH, WRITE, permits
from cephfs_ext.core.ports import Found, Handle, Meter, Node, Storage
from cephfs_ext.core.types import Attr, Credentials, Ino
from cephfs_ext.vfs.nodes import NodeId, NodeTable, directory_of, is_view
from cephfs_ext.vfs.viewnodes import Identity, Lying, ViewNode, ViewNodes
from cephfs_ext.vfs.viewstream import ViewStream
from trashbin import layout
from trashbin.domain import lying_in
from trashbin.files import RENAME_NOREPLACE, exists, listing
from trashbin.hours import Viewer
from trashbin.paths import below
from trashbin.picture import Pictures, Place, Seen
from trashbin.placing import Caller

NOW = b"now"
"""Directory in each virtual trash: what is moved there is removed without retention."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_DIR_MODE = stat.S_IFDIR | 0o777
_TAKEN_BACK = VIEW_NODES // 16
_NS = 1_000_000_000


class RestoreAs(Protocol):
    """Brings an entry back under a name in a directory."""

    async def __call__(
        self, caller: Caller, entry_id: str, parent: Ino, token: bytes, name: bytes
    ) -> None:
        """Do it; see `trashbin.service.TrashService.restore_as`."""
        ...


class View:
    """The read-only views of the trash."""

    def __init__(
        self,
        storage: Storage,
        nodes: NodeTable,
        pictures: Pictures,
        restore_as: RestoreAs,
        acl_of: Callable[[Node], Awaitable[bytes]],
        forget_entry: Callable[[NodeId, bytes], None],
        meter: Meter,
        *,
        is_there: bool,
    ) -> None:
        self._storage = storage
        self._nodes = nodes
        self._pictures = pictures
        self._restore_as = restore_as
        self._acl_of = acl_of
        self._forget_entry = forget_entry
        self._meter = meter
        self._is_there = is_there
        """False where no trash is served."""
        self._views = ViewNodes(storage)
        self._born_ns = time.time_ns()
        self._limit = min(VIEW_NODES, storage.node_limit // 4)
        self._seen_beyond = 0

    def __len__(self) -> int:
        return len(self._views)

    # names

    async def lookup(self, parent: NodeId, name: bytes, viewer: Viewer) -> tuple[NodeId, Attr]:
        """Resolve a name; counts one lookup.

        Raises:
            NotFoundError: there is none, or it is nothing that the viewer sees.
        """
        try:
            view, attr = await self._look_up(parent, name, viewer)
        except NotFoundError:  # or it has moved within the trash
            view, attr = await self._look_up(parent, name, viewer)
        self._take_back_some()
        return view.node_id, attr

    async def _look_up(self, parent: NodeId, name: bytes, viewer: Viewer) -> tuple[ViewNode, Attr]:
        view = await self._child(parent, name, viewer)
        try:
            attr = await self._attr(view)
            self._views.count(view)
        finally:
            self._views.unpin(view)
        return view, attr

    def _take_back_some(self) -> None:
        if len(self._views) <= self._limit:
            return
        self._seen_beyond += 1
        if self._seen_beyond % (_TAKEN_BACK // 4) == 1:
            self._meter.count("view_limit_reached_total", kind="nodes")
            for parent, name in self._views.oldest(_TAKEN_BACK):
                self._forget_entry(parent, name)

    async def _child(self, parent: NodeId, name: bytes, viewer: Viewer) -> ViewNode:
        """Return what has a name, pinned."""
        if not is_view(parent):
            return await self._child_of_trash(parent, name, viewer)
        above = self._views[parent]
        if not above.is_dir:
            raise FSError(errno.ENOTDIR)
        if not above.hour or name == layout.TRASH_NAME:
            raise NotFoundError()
        await self._check(above, viewer)
        found = await self._lying_in(above, name)
        if found is not None:
            return self._of_lying(above, name, found)
        seen = (await self._names(above, viewer)).get(name)
        if seen is None:
            raise NotFoundError()
        return self._of_seen(above, name, seen)

    async def _child_of_trash(self, trash: NodeId, name: bytes, viewer: Viewer) -> ViewNode:
        """Return `now`, or an hour."""
        top = directory_of(trash)
        if self._is_there and name == NOW:
            return self._of_trash(trash, name)
        if self._is_served(top):
            place = self._place(top)
            if await self._pictures.has(name, self._path(top), place, viewer):
                return self._of_trash(trash, name)
        raise NotFoundError()

    def _is_served(self, top: NodeId) -> bool:
        return self._is_there and not self._nodes.is_in_trash(top)

    def _path(self, top: NodeId) -> bytes:
        return self._nodes.path(top, self._storage.root.ino)

    def _place(self, top: NodeId) -> Place:
        return Place(self._path(top), self._nodes[top].node.ino)

    def _of_trash(self, trash: NodeId, name: bytes) -> ViewNode:
        top = directory_of(trash)
        place = Place(None, Ino(0)) if name == NOW else self._place(top)
        identity = Identity(top, b"" if name == NOW else name, place.path, "", ())
        view = self._views.pinned(identity, trash, name, stat.S_IFDIR, None)
        view.ino = place.ino
        return view

    async def _lying_in(self, above: ViewNode, name: bytes) -> Found | None:
        """Look a name up in what was moved into the trash whole; the reference is the caller's."""
        node = await self._node(above)
        if node is None:
            return None
        try:
            return await self._storage.lookup(node, name)
        except NotFoundError:
            return None

    def _of_lying(self, above: ViewNode, name: bytes, found: Found) -> ViewNode:
        """Return what lies in a directory, pinned; takes the reference over."""
        assert above.lying is not None
        kind = stat.S_IFMT(found.attr.mode)
        lying = dataclasses.replace(above.lying, inner=(*above.lying.inner, name))
        path = above.identity.path
        if path is not None:
            path = below(path, name) if stat.S_ISDIR(kind) else None
        identity = above.identity._replace(path=path, inner=lying.inner)
        view = self._views.pinned(identity, above.node_id, name, kind, lying)
        view.owner_uid = above.owner_uid
        self._views.set_node(view, found.node)
        return view

    def _of_seen(self, above: ViewNode, name: bytes, seen: Seen) -> ViewNode:
        """Return what was taken out of a directory or deleted below its path, pinned."""
        identity, lying, kind, ino = above.identity, None, stat.S_IFDIR, Ino(0)
        path = None
        if seen.is_merged and identity.path is not None:
            path = below(identity.path, name)
        identity = identity._replace(path=path, entry="", inner=())
        if seen.ref is not None and seen.hour is not None:
            lying, kind = Lying(seen.hour.domain, seen.ref), seen.ref.kind
            identity = identity._replace(entry=seen.ref.entry.id)
            tomb = seen.ref.tomb
            ino = tomb.ino if tomb is not None and tomb.kind == "dir" else ino
        view = self._views.pinned(identity, above.node_id, name, kind, lying)
        view.ino = view.ino or ino
        return view

    async def _names(self, above: ViewNode, viewer: Viewer) -> dict[bytes, Seen]:
        taken = _LyingIn(self._storage, await self._node(above))
        top = None if above.lying is None else above.lying.top
        under = self._path(above.identity.directory)
        return await self._pictures.names(above.hour, under, above.place, viewer, top, taken)

    # inodes

    async def _node(self, view: ViewNode) -> Node | None:
        """Return the inode; None if it has none, or if that is gone.

        Raises:
            NotFoundError: it has left the trash.
        """
        if view.node is None and view.lying is not None:
            found = await self._find(view.lying)
            if found is not None:
                self._views.set_node(view, found.node)
        return view.node

    async def _find(self, lying: Lying) -> Found | None:
        top, storage = lying.top, self._storage
        if top.tomb is None:
            if lying.inner:
                raise FSError(errno.ESTALE)
            places = (top.above, top.entry.hour, top.entry.path)
            try:
                async with lying_in(lying.domain, *places) as (above, leaf):
                    return await storage.lookup(above, leaf)
            except NotFoundError:
                self._pictures.vanished(lying.domain, top.entry.hour)
                raise
        if top.tomb.kind != "link" or not (top.tomb.token or storage.finds_by_number):
            return None
        try:
            return await storage.find(top.tomb.ino, top.tomb.token)
        except NotFoundError:
            return None

    async def _check(self, view: ViewNode, viewer: Viewer) -> None:
        """Check that somebody sees what they have got hold of.

        Raises:
            NotFoundError: they don't.
        """
        if view.lying is None or viewer.everything:
            return
        top = view.lying.top
        if viewer.uid == top.entry.deleter_uid:
            return
        if view.owner_uid is None:
            view.owner_uid = await self._owner(view.lying)
        if viewer.uid != view.owner_uid:
            raise NotFoundError()

    async def _owner(self, lying: Lying) -> int | None:
        if lying.top.tomb is not None:
            return lying.top.tomb.uid
        found = await self._find(dataclasses.replace(lying, inner=()))
        if found is None:
            return None
        self._storage.forget(found.node)
        return found.attr.uid

    async def getattr(self, node_id: NodeId, viewer: Viewer) -> Attr:
        """Read attributes."""
        view = self._views[node_id]
        await self._check(view, viewer)
        return await self._attr(view)

    async def _attr(self, view: ViewNode) -> Attr:
        node = await self._node(view)
        if node is not None:
            return shown(view.node_id, await self._storage.getattr(node))
        if view.lying is None or view.lying.top.tomb is None:
            return self._on_the_way(view)
        tomb = view.lying.top.tomb
        mode, size, ns = tomb.mode, tomb.size, tomb.mtime_ns
        attr = Attr(tomb.ino, mode, 1, tomb.uid, tomb.gid, 0, size, 0, 4096, ns, ns, ns)
        return shown(view.node_id, attr)

    def _on_the_way(self, view: ViewNode) -> Attr:
        """Return the attributes of a directory that the view makes up."""
        end_s = layout.hour_end_s(view.hour)
        ns = self._born_ns if end_s is None else (end_s - layout.HOUR_S) * _NS
        return Attr(Ino(view.node_id), _DIR_MODE, 2, 0, 0, 0, 0, 0, 4096, ns, ns, ns)

    async def readlink(self, node_id: NodeId, viewer: Viewer) -> bytes:
        """Read the target of a symbolic link."""
        return await self._storage.readlink(await self._inode(node_id, viewer))

    async def _inode(self, node_id: NodeId, viewer: Viewer) -> Node:
        """Return an inode that is about to be read.

        Raises:
            FSError: ENODATA; the inode that a tombstone stands for is gone.
        """
        view = self._views[node_id]
        await self._check(view, viewer)
        node = await self._node(view)
        if node is None:
            raise FSError(errno.ENODATA)
        return node

    async def getxattr(self, node_id: NodeId, name: bytes, viewer: Viewer) -> bytes:
        """Read an extended attribute."""
        view = self._views[node_id]
        tomb = None if view.lying is None else view.lying.top.tomb
        if tomb is not None and tomb.kind == "dir":
            await self._check(view, viewer)
            for key, value in tomb.xattrs:
                if key == name:
                    return value
        return await self._storage.getxattr(await self._inode(node_id, viewer), name)

    async def listxattr(self, node_id: NodeId, viewer: Viewer) -> Sequence[bytes]:
        """List the names of extended attributes."""
        view = self._views[node_id]
        await self._check(view, viewer)
        node = await self._node(view)
        if node is not None:
            return await self._storage.listxattr(node)
        tomb = None if view.lying is None else view.lying.top.tomb
        return [] if tomb is None else [key for key, _ in tomb.xattrs]

    def forget(self, node_id: NodeId, lookups: int) -> None:
        """The kernel takes lookups back."""
        self._views.forget(node_id, lookups)

    # content

    async def open(self, node_id: NodeId, flags: int, viewer: Viewer, cred: Credentials) -> Handle:
        """Open a regular file for reading.

        Raises:
            FSError: EROFS for anything else; ENODATA, if the inode of a hard link is gone.
        """
        if flags & _WRITES:
            raise FSError(errno.EROFS)
        return await self._storage.open(await self._inode(node_id, viewer), os.O_RDONLY, cred)

    async def opendir(self, node_id: NodeId, viewer: Viewer) -> ViewStream:
        """Open a directory for listing: what there is for the viewer at this moment."""
        if not is_view(node_id):
            return await self._open_trash(node_id, viewer)
        view = self._views[node_id]
        if not view.hour:
            return ViewStream(self._storage, self._views, node_id, view.parent)
        await self._check(view, viewer)
        names = await self._names(view, viewer)

        made = [
            (name, functools.partial(self._entry_of_seen, view, name, seen))
            for name, seen in names.items()
        ]
        node = await self._node(view)
        handle = None if node is None else await self._storage.opendir(node)
        return ViewStream(
            self._storage,
            self._views,
            node_id,
            view.parent,
            made,
            handle,
            functools.partial(self._of_lying, view),
        )

    def _entry_of_seen(self, above: ViewNode, name: bytes, seen: Seen) -> tuple[ViewNode, Attr]:
        """Return an entry of a listing, pinned; of its attributes only the type is true."""
        view = self._of_seen(above, name, seen)
        return view, dataclasses.replace(self._on_the_way(view), mode=view.kind)

    async def _open_trash(self, trash: NodeId, viewer: Viewer) -> ViewStream:
        top = directory_of(trash)
        names = [NOW] if self._is_there else []
        if self._is_served(top):
            names += await self._pictures.hours(self._path(top), self._place(top), viewer)
        made = [(name, functools.partial(self._entry_of_trash, trash, name)) for name in names]
        return ViewStream(self._storage, self._views, trash, top, made)

    def _entry_of_trash(self, trash: NodeId, name: bytes) -> tuple[ViewNode, Attr]:
        view = self._of_trash(trash, name)
        return view, self._on_the_way(view)

    def listed(self, found: Found) -> None:
        """Count the lookup of an entry that a reply holds."""
        view = self._views[NodeId(found.attr.ino)]
        self._views.count(view)
        self._views.unpin(view)
        self._take_back_some()

    # moving

    def is_now(self, node_id: NodeId) -> bool:
        """Tell whether an id is that of a `now`."""
        return is_view(node_id) and not self._views[node_id].hour

    async def restore(
        self,
        parent: NodeId,
        name: bytes,
        new_parent: NodeId,
        new_name: bytes,
        viewer: Viewer,
        cred: Credentials,
    ) -> None:
        """Bring back what has a name in a view, under a name in a live directory.

        Raises:
            FSError: EROFS for what was not deleted itself: hours, directories on the way.
            ExistsError: the name is taken; nothing has changed.
            DeniedError: EACCES; the caller may not write there.
        """
        view = await self._child(parent, name, viewer)
        try:
            if view.lying is None:
                raise FSError(errno.EROFS)
            target = self._nodes[new_parent].node
            await self._check_target(target, new_name, cred)
            try:
                if view.lying.inner:
                    await self._take_out(self._views[parent], name, target, new_name, cred)
                    self._forget_entry(new_parent, new_name)
                else:
                    caller = Caller(cred, viewer.everything)
                    token = self._storage.token(target)
                    entry_id = view.lying.top.entry.id
                    await self._restore_as(caller, entry_id, target.ino, token, new_name)
            finally:
                self._pictures.forget()
        finally:
            self._views.unpin(view)

    async def _check_target(self, target: Node, name: bytes, cred: Credentials) -> None:
        attr = await self._storage.getattr(target)
        if not permits(attr, cred, WRITE | SEARCH, await self._acl_of(target)):
            raise DeniedError(errno.EACCES)
        if await exists(self._storage, target, name):
            raise ExistsError()

    async def _take_out(
        self, above: ViewNode, name: bytes, target: Node, new_name: bytes, cred: Credentials
    ) -> None:
        """Move a part out of what was moved into the trash whole, with the caller's rights."""
        node = await self._node(above)
        assert node is not None
        flags = RENAME_NOREPLACE if self._storage.rename_noreplace else 0
        try:
            await self._storage.rename(node, name, target, new_name, cred, flags, expected=Ino(0))
        except ExchangedError as exc:
            raise ExistsError() from exc

    def close(self) -> None:
        """Give all references back."""
        self._views.close()


class _LyingIn:
    """Tells whether something of a name lies in a directory.

    What lies there is read once if it isn't much: where `rm -rf` has been, it is nothing.
    """

    def __init__(self, storage: Storage, node: Node | None) -> None:
        self._storage = storage
        self._node = node
        self._names: set[bytes] | None = set() if node is None else None

    async def __call__(self, name: bytes) -> bool:
        if self._names is None:
            self._names = await self._some_names()
        if name in self._names or len(self._names) <= READDIR_PAGE:
            return name in self._names
        return self._node is not None and await exists(self._storage, self._node, name)

    async def _some_names(self) -> set[bytes]:
        names: set[bytes] = set()
        if self._node is not None:
            async with listing(self._storage, self._node) as entries:
                async for entry, _ in entries:
                    names.add(entry.name)
                    if len(names) > READDIR_PAGE:
                        break
        return names


def shown(node_id: NodeId, attr: Attr) -> Attr:
    """Return attributes as a view shows them: setuid and setgid of files are dead in it."""
    mode = attr.mode
    if not attr.is_dir:
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    nlink = attr.nlink if attr.is_dir else max(1, attr.nlink)
    return dataclasses.replace(attr, ino=Ino(node_id), mode=mode, nlink=nlink)
