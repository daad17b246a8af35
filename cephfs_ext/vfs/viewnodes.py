"""The inodes of views that the kernel knows: ids, lookup counts, references to the storage.

An id is drawn when something is first seen and stays while the kernel knows it. What is seen under
one path by several users, and is not the same thing, has several ids. The same directory below two
`.trashbin`s has two ids, since a directory has one parent.

Concurrency: no method has a checkpoint, so each is atomic.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import stat
from typing import NamedTuple

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import Ino
from cephfs_ext.vfs.nodes import VIEW, NodeId
from trashbin.domain import Domain
from trashbin.hours import Ref
from trashbin.picture import Place

_NO_INODE = Ino(0)


@dataclasses.dataclass(frozen=True, slots=True)
class Lying:
    """Where in a trash something lies."""

    domain: Domain
    top: Ref
    """The entry, or tombstone."""
    inner: tuple[bytes, ...] = ()
    """Path below it, in what was moved into the trash whole."""


class Identity(NamedTuple):
    """What makes something in a view the same as what was seen before."""

    directory: NodeId
    """The one that it is seen from."""
    hour: bytes
    """Nothing for `now`."""
    path: bytes | None
    entry: str
    inner: tuple[bytes, ...]


@dataclasses.dataclass(slots=True, eq=False)
class ViewNode:
    """Something that is seen in a view."""

    identity: Identity
    node_id: NodeId
    parent: NodeId
    name: bytes
    kind: int
    """File type bits."""
    lying: Lying | None
    """None for a directory that is only on the way to what was deleted below it."""
    node: Node | None = None
    """Reference to the inode, once it has been needed."""
    ino: Ino = _NO_INODE
    """Its number, as far as it is known; of an hour, that of the live directory."""
    owner_uid: int | None = None
    """Owner of the entry, once it has been needed."""
    lookups: int = 0
    pins: int = 0
    """How many listings hold it for a reply to come, and requests are using it."""

    @property
    def hour(self) -> bytes:
        """Hour whose picture it is in."""
        return self.identity.hour

    @property
    def place(self) -> Place:
        """Where in the picture it is, for a directory."""
        return Place(self.identity.path, self.ino)

    @property
    def is_dir(self) -> bool:
        """True for a directory."""
        return stat.S_ISDIR(self.kind)


class ViewNodes:
    """All of them; each has one reference to its inode at most."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[NodeId, ViewNode] = {}
        self._ids: dict[Identity, NodeId] = {}
        self._next = itertools.count(VIEW)

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, node_id: NodeId) -> ViewNode:
        """Return what has an id.

        Raises:
            FSError: ESTALE; the kernel has forgotten it, or never knew it.
        """
        known = self._known.get(node_id)
        if known is None:
            raise FSError(errno.ESTALE)
        return known

    def pinned(
        self,
        identity: Identity,
        parent: NodeId,
        name: bytes,
        kind: int,
        lying: Lying | None,
    ) -> ViewNode:
        """Return what has an identity, made if it isn't known; `unpin` gives it back."""
        node_id = self._ids.get(identity)
        if node_id is None:
            node_id = NodeId(next(self._next))
            self._ids[identity] = node_id
            self._known[node_id] = ViewNode(identity, node_id, parent, name, kind, lying)
        view = self._known[node_id]
        view.parent, view.name, view.lying = parent, name, lying
        view.pins += 1
        return view

    def set_node(self, view: ViewNode, node: Node) -> None:
        """Take over a reference to the inode, if there is none yet."""
        if view.node is None:
            view.node, view.ino = node, node.ino
        else:
            self._storage.forget(node)

    def count(self, view: ViewNode) -> None:
        """Count one lookup of the kernel."""
        view.lookups += 1

    def unpin(self, view: ViewNode) -> None:
        """Take back what `pinned` gave."""
        view.pins -= 1
        self._drop_unused(view)

    def forget(self, node_id: NodeId, lookups: int) -> None:
        """The kernel takes lookups back."""
        view = self._known.get(node_id)
        if view is not None:
            view.lookups -= lookups
            self._drop_unused(view)

    def _drop_unused(self, view: ViewNode) -> None:
        if view.lookups > 0 or view.pins > 0 or view.node_id not in self._known:
            return
        del self._known[view.node_id]
        del self._ids[view.identity]
        if view.node is not None:
            self._storage.forget(view.node)
            view.node = None

    def oldest(self, count: int) -> list[tuple[NodeId, bytes]]:
        """Return names under which the kernel may be asked to forget some; others next time."""
        names = []
        for node_id in list(itertools.islice(self._known, count)):
            known = self._known.pop(node_id)
            self._known[node_id] = known
            names.append((known.parent, known.name))
        return names

    def close(self) -> None:
        """Give all references back."""
        for view in self._known.values():
            if view.node is not None:
                self._storage.forget(view.node)
        self._known.clear()
        self._ids.clear()
