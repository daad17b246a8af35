"""The inodes that the kernel knows: node id, storage reference, lookup count, last known name.

Owns one storage reference per inode, however often the kernel looked it up. A node id is the
inode's number, except for

* the root, which is 1;
* virtual trash directories, whose id is that of the directory they appear in with the top bit set
  (they are never stored here), and what is seen in them, which has the next two bits set too
  (`cephfs_ext.vfs.viewnodes`);
* a file whose content went into the trash when it was truncated: its id stays, and leads to the
  fresh inode from then on (`remap`). Until the kernel forgets it, the old inode, should it come
  back, has an id of its own from a range that no storage uses.

Concurrency: no method has a checkpoint, so each is atomic. The kernel does not forget an inode, or
a directory above it, while a request on it is under way.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
from typing import NewType

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Found, Node, Storage
from cephfs_ext.core.types import Attr, Ino

NodeId = NewType("NodeId", int)

ROOT = NodeId(1)
_VIRTUAL = 1 << 63
_SPARE = 1 << 62
"""Where ids begin that are no inode's number."""


VIEW = NodeId(_VIRTUAL | 3 << 61)
"""Where the ids begin of what is seen in virtual trashes."""


def trash_of(directory: NodeId) -> NodeId:
    """Return the id of the virtual trash in a directory."""
    return NodeId(directory | _VIRTUAL)


def is_virtual(node_id: NodeId) -> bool:
    """Tell whether an id is that of a virtual trash, or of something in one."""
    return bool(node_id & _VIRTUAL)


def is_view(node_id: NodeId) -> bool:
    """Tell whether an id is that of something in a virtual trash."""
    return node_id & VIEW == VIEW


def directory_of(trash: NodeId) -> NodeId:
    """Return the directory that a virtual trash appears in."""
    return NodeId(trash & ~_VIRTUAL)


@dataclasses.dataclass(slots=True)
class Known:
    """What is kept of one inode."""

    node: Node
    parent: NodeId
    name: bytes
    """Where it was seen last; another client may have moved it since."""
    is_dir: bool
    lookups: int = 0
    nlink: int = 1
    """When it was seen last."""
    hidden_links: int = 0
    """Links that only the trash has: they don't count for users."""
    generation: int = 0
    is_dead: bool = False
    """True for a directory that the kernel has seen removed: for it that is for ever."""


def _most_hidden(attr: Attr) -> int:
    """Return how many links of an inode can be the trash's, given that a name of it was found.

    Fewer than were noted: somebody else has given names back meanwhile.
    """
    return 0 if attr.is_dir else attr.nlink - 1


class NodeTable:
    """All inodes that the kernel has a reference to."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[NodeId, Known] = {
            ROOT: Known(storage.root, ROOT, b"", is_dir=True, lookups=1)
        }
        self._dirs: dict[tuple[NodeId, bytes], NodeId] = {}
        self._ids: dict[Ino, NodeId] = {}
        """Those that differ from the inode's number."""
        self._spare = itertools.count(_SPARE)

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, node_id: NodeId) -> Known:
        """Return what is known of an inode.

        Raises:
            FSError: ESTALE; the kernel has forgotten it, or never knew it.
        """
        known = self._get(node_id)
        if known is None:
            raise FSError(errno.ESTALE)
        return known

    def _get(self, node_id: NodeId) -> Known | None:
        return self._known.get(node_id)

    def id_of(self, ino: Ino) -> NodeId:
        """Return the node id that an inode has, or would get."""
        if ino == self._storage.root.ino:
            return ROOT
        node_id = self._ids.get(ino, NodeId(ino))
        known = self._known.get(node_id)
        if known is None or known.node.ino == ino:
            return node_id
        self._ids[ino] = NodeId(next(self._spare))  # its number is taken by a remapped file
        return self._ids[ino]

    def _find(self, ino: Ino) -> Known | None:
        """Return what is known of an inode."""
        node_id = ROOT if ino == self._storage.root.ino else self._ids.get(ino, NodeId(ino))
        known = self._get(node_id)
        return known if known is not None and known.node.ino == ino else None

    def remap(self, node_id: NodeId, found: Found) -> Node:
        """Have an id lead to another inode; takes over the reference in `found`.

        Returns:
            The node that the id led to; its reference is the caller's, who gives it back when no
            request uses it any more.
        """
        known = self[node_id]
        former = known.node
        self._ids.pop(former.ino, None)
        known.node, known.hidden_links = found.node, 0
        if NodeId(found.attr.ino) != node_id:
            self._ids[found.attr.ino] = node_id
        return former

    def learn(self, parent: NodeId, name: bytes, found: Found) -> NodeId:
        """Count one lookup of an inode; takes over the reference in `found`."""
        node_id = self.id_of(found.attr.ino)
        known = self._known.get(node_id)
        if known is None:
            known = Known(found.node, parent, name, is_dir=found.attr.is_dir)
            self._known[node_id] = known
        else:
            self._storage.forget(found.node)
        known.lookups += 1
        self._note(node_id, known, parent, name, found.attr)
        return node_id

    def _note(self, node_id: NodeId, known: Known, parent: NodeId, name: bytes, attr: Attr) -> None:
        """Note what a lookup has found."""
        known.nlink = attr.nlink
        known.generation, known.is_dead = known.generation + known.is_dead, False
        known.hidden_links = min(known.hidden_links, _most_hidden(attr))
        if node_id != ROOT:
            self._place(node_id, known, parent, name)

    def oldest(self, count: int) -> list[tuple[NodeId, bytes]]:
        """Return the names under which the kernel may be asked to forget some inodes.

        Those that were learned longest ago; the next call returns others.
        """
        names = []
        for node_id in list(itertools.islice(self._known, 1, count + 1)):  # the root comes first
            known = self._known.pop(node_id)
            self._known[node_id] = known
            names.append((known.parent, known.name))
        return names

    def count_again(self, node_id: NodeId) -> None:
        """Count one more lookup of an inode that the kernel knows."""
        self[node_id].lookups += 1

    def forget(self, node_id: NodeId, lookups: int) -> None:
        """Take lookups back; the last one ends the inode's place here."""
        known = self._known.get(node_id)
        if known is None or node_id == ROOT:
            return
        known.lookups -= lookups
        if known.lookups <= 0:
            self._drop(node_id, known)

    def _drop(self, node_id: NodeId, known: Known) -> None:
        del self._known[node_id]
        self._ids.pop(known.node.ino, None)
        self._unplace(node_id, known)
        self._storage.forget(known.node)

    def hide_name(self, parent: NodeId, name: bytes) -> None:
        """Note that a name has been deleted, and is in the storage still."""

    def show_name(self, parent: NodeId, name: bytes) -> None:
        """Note that the storage is right again about a name."""

    def touches(self, directory: NodeId) -> int:
        """Return how often something of a directory, or in it, was changed without our knowing."""
        del directory
        return 0

    def deletes_inside(self, directory: Ino, answered_ns: int, directories: int) -> None:
        """Note that names in a directory are hidden; see `cephfs_ext.core.ports.Lane`."""

    def moved(
        self, old_parent: NodeId, old_name: bytes, new_parent: NodeId, new_name: bytes
    ) -> None:
        """Note that a directory has another name now; other inodes' names are not kept true."""
        node_id = self._dirs.pop((old_parent, old_name), None)
        if node_id is not None:
            self._place(node_id, self._known[node_id], new_parent, new_name)

    def directory_at(self, parent: NodeId, name: bytes) -> NodeId | None:
        """Return the directory that was seen last under a name."""
        return self._dirs.get((parent, name))

    def gone(self, parent: NodeId, name: bytes) -> None:
        """Note that a directory has lost its name."""
        self._dirs.pop((parent, name), None)

    def dead(self, ino: Ino) -> None:
        """Note that the kernel believes a directory to be removed.

        Should it come back, another generation makes the kernel forget the dead inode, which it
        would use again otherwise, empty, while something is open in it.
        """
        known = self._find(ino)
        if known is not None:
            known.is_dead = True

    def generation_of(self, ino: Ino) -> int:
        """Return the generation that an inode has, or gets when it is looked up next."""
        known = self._find(ino)
        return 0 if known is None else known.generation + known.is_dead

    def _place(self, node_id: NodeId, known: Known, parent: NodeId, name: bytes) -> None:
        if known.is_dir and (known.parent, known.name) != (parent, name):
            self._unplace(node_id, known)
        known.parent, known.name = parent, name
        if known.is_dir:
            self._dirs[parent, name] = node_id

    def _unplace(self, node_id: NodeId, known: Known) -> None:
        key = (known.parent, known.name)
        if self._dirs.get(key) == node_id:
            del self._dirs[key]

    def hide_link(self, ino: Ino) -> None:
        """Note that one link of an inode is the trash's from now on."""
        known = self._find(ino)
        if known is not None:
            known.hidden_links += 1

    def hidden_at(self, node_id: NodeId) -> tuple[NodeId, bytes] | None:
        """Return where an inode was seen last of which the trash has a link."""
        known = self._known.get(node_id)
        return (known.parent, known.name) if known is not None and known.hidden_links else None

    def show_link(self, ino: Ino) -> None:
        """Note that a link of an inode stays with the users after all."""
        known = self._find(ino)
        if known is not None and known.hidden_links:
            known.hidden_links -= 1

    def unhide_links(self, ino: Ino) -> NodeId | None:
        """Note that an inode has left the trash; None if the kernel doesn't know it."""
        known = self._find(ino)
        if known is None:
            return None
        known.hidden_links = 0
        return self.id_of(ino)

    def is_in_trash(self, directory: NodeId) -> bool:
        """Tell whether a directory, or one above it, has been deleted and not come back."""
        return any(known.hidden_links for _, known in self._upwards(directory) if known.is_dir)

    def lies_in_trash(self, node_id: NodeId) -> bool:
        """Tell whether an inode lies in a directory that has been moved into the trash.

        What was deleted by itself doesn't: a program that has it open goes on with it. Nor does a
        file with other names: the kernel may have come to it by one of those.
        """
        known = self._get(node_id)
        if known is None or known.hidden_links or node_id == ROOT:
            return False
        if known.nlink > 1 and not known.is_dir:
            return False
        return self.is_in_trash(known.parent)

    def as_users_see(self, attr: Attr) -> Attr:
        """Return attributes without the links that only the trash has."""
        known = self._find(attr.ino)
        if known is None or not known.hidden_links:
            return attr
        nlink = 0 if attr.is_dir else max(0, attr.nlink - known.hidden_links)
        return dataclasses.replace(attr, nlink=nlink)

    def above(self, directory: NodeId) -> list[tuple[NodeId, Node]]:
        """Return a directory, its parent, and so on up to the root, with their ids."""
        return [(node_id, known.node) for node_id, known in self._upwards(directory)]

    def chain(self, directory: NodeId) -> list[Node]:
        """Return the same without ids."""
        return [node for _, node in self.above(directory)]

    def path(self, directory: NodeId, below: Ino) -> bytes:
        """Return the last known path of a directory, relative to the one of number `below`."""
        names = []
        for node_id, known in self._upwards(directory):
            if known.node.ino == below or node_id == ROOT:
                break
            names.append(known.name)
        return b"/".join(reversed(names))

    def _upwards(self, directory: NodeId) -> list[tuple[NodeId, Known]]:
        passed: dict[NodeId, Known] = {}
        node_id = directory
        while node_id not in passed and (known := self._get(node_id)) is not None:
            passed[node_id] = known
            node_id = known.parent
        passed[ROOT] = self._known[ROOT]  # also where the chain was broken by another client
        return list(passed.items())
