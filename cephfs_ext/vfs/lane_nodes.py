"""The node table of a mount with a lane: what the lane has learned is known here on demand.

The lane has every inode that the kernel knows, and counts its lookups. What Python asks for is
adopted: known here, too, with a reference of its own, until the kernel forgets it. What the lane
can't know of an inode forces it to have Python asked about it.

Inodes of snapshots are never the lane's: they are counted here, as without a lane.

Concurrency: as `cephfs_ext.vfs.nodes`. The lane's threads learn and forget at any time; an inode
that was adopted ends by a message from the lane, which comes in the order of requests.
"""

from __future__ import annotations

from cephfs_ext.core.ports import ALL_LOOKUPS, Found, Lane, Node, Storage
from cephfs_ext.core.types import Attr, Ino, Reason
from cephfs_ext.vfs.nodes import Known, NodeId, NodeTable

_SNAPSHOTS = 1 << 48
"""Where the numbers of inodes in snapshots begin."""


class LaneNodes(NodeTable):
    """All inodes that the kernel has a reference to, most of them known to the lane only."""

    def __init__(self, storage: Storage, lane: Lane) -> None:
        super().__init__(storage)
        self._lane = lane
        self._special: set[Ino] = set()
        self._deleted: set[Ino] = set()
        """Directories that were deleted: nothing is changed in them, nor below."""

    def __len__(self) -> int:
        return len(self._lane)

    def _get(self, node_id: NodeId) -> Known | None:
        known = super()._get(node_id)
        return known if known is not None else self._adopt(node_id)

    def _adopt(self, node_id: NodeId) -> Known | None:
        adopted = self._lane.adopt(node_id)
        if adopted is None:
            return None
        known = Known(
            adopted.node,
            NodeId(adopted.parent),
            adopted.name,
            is_dir=adopted.is_dir,
            nlink=adopted.nlink,
        )
        self._known[node_id] = known
        return known

    def learn(self, parent: NodeId, name: bytes, found: Found) -> NodeId:
        """Count one lookup of an inode; takes over the reference in `found`."""
        if found.attr.ino >= _SNAPSHOTS:
            return super().learn(parent, name, found)
        node_id = self.id_of(found.attr.ino)
        self._lane.teach(node_id, found, parent, name)
        has_number = Ino(node_id) == found.attr.ino
        known = self._known.get(node_id) if has_number else self._get(node_id)
        if known is not None:
            self._note(node_id, known, parent, name, found.attr)
            self._tell(known)
        return node_id

    def count_again(self, node_id: NodeId) -> None:
        """Count one more lookup of an inode that the kernel knows."""
        if self[node_id].node.ino >= _SNAPSHOTS:
            super().count_again(node_id)
        else:
            self._lane.count_again(node_id)

    def forget(self, node_id: NodeId, lookups: int) -> None:
        """Take lookups back; the last one ends the inode's place here.

        So does the lane's word that it has ended there, unless the kernel has it again by now.
        """
        known = self._known.get(node_id)
        if known is not None and known.node.ino >= _SNAPSHOTS:
            super().forget(node_id, lookups)
        elif lookups >= ALL_LOOKUPS:
            if known is not None and not self._lane.has(node_id):
                self._drop(node_id, known)
        elif self._lane.forget(node_id, lookups) and known is not None:
            self._drop(node_id, known)

    def _drop(self, node_id: NodeId, known: Known) -> None:
        super()._drop(node_id, known)
        self._set_special(known.node.ino, on=False)
        self._set_deleted(known.node.ino, on=False)

    def _tell(self, known: Known) -> None:
        """Have the lane ask about an inode of which it can't know everything, or no longer."""
        ino = known.node.ino
        is_special = known.hidden_links or known.generation or known.is_dead or ino in self._ids
        self._set_special(ino, on=bool(is_special))
        self._set_deleted(ino, on=known.is_dir and known.hidden_links > 0)

    def _set_special(self, ino: Ino, *, on: bool) -> None:
        if on != (ino in self._special):
            (self._special.add if on else self._special.discard)(ino)
            self._lane.force(ino, Reason.SPECIAL, on=on)

    def _set_deleted(self, ino: Ino, *, on: bool) -> None:
        """Have nothing changed without Python as long as it has to ask whether it may be."""
        were_some = bool(self._deleted)
        (self._deleted.add if on else self._deleted.discard)(ino)
        if bool(self._deleted) != were_some:
            self._lane.pass_changes(on=on)

    def remap(self, node_id: NodeId, found: Found) -> Node:
        """Have an id lead to another inode; see `NodeTable.remap`."""
        former = super().remap(node_id, found)
        self._set_special(former.ino, on=False)
        self._lane.retarget(node_id, found.attr.ino)
        self._tell(self[node_id])
        return former

    def oldest(self, count: int) -> list[tuple[NodeId, bytes]]:
        """Return the names under which the kernel may be asked to forget some inodes."""
        return [(NodeId(parent), name) for parent, name in self._lane.oldest(count)]

    def moved(
        self, old_parent: NodeId, old_name: bytes, new_parent: NodeId, new_name: bytes
    ) -> None:
        """Note that a directory has another name now."""
        node_id = self.directory_at(old_parent, old_name)
        if node_id is not None:
            self._lane.place(node_id, new_parent, new_name)
            known = self._known.get(node_id)
            if known is not None:
                known.parent, known.name = new_parent, new_name

    def directory_at(self, parent: NodeId, name: bytes) -> NodeId | None:
        """Return the directory that was seen last under a name."""
        return NodeId(self._lane.directory_at(parent, name)) or None

    def gone(self, parent: NodeId, name: bytes) -> None:
        """Note that a directory has lost its name."""
        self._lane.unplace(parent, name)

    def dead(self, ino: Ino) -> None:
        """Note that the kernel believes a directory to be removed."""
        super().dead(ino)
        self._tell_of(ino)

    def hide_link(self, ino: Ino) -> None:
        """Note that one link of an inode is the trash's from now on."""
        super().hide_link(ino)
        self._tell_of(ino)

    def show_link(self, ino: Ino) -> None:
        """Note that a link of an inode stays with the users after all."""
        super().show_link(ino)
        self._tell_of(ino)

    def unhide_links(self, ino: Ino) -> NodeId | None:
        """Note that an inode has left the trash; None if the kernel doesn't know it."""
        node_id = super().unhide_links(ino)
        self._tell_of(ino)
        return node_id

    def generation_of(self, ino: Ino) -> int:
        """Return the generation that an inode has, or gets when it is looked up next."""
        return super().generation_of(ino) if ino in self._special else 0

    def as_users_see(self, attr: Attr) -> Attr:
        """Return attributes without the links that only the trash has."""
        return super().as_users_see(attr) if attr.ino in self._special else attr

    def _tell_of(self, ino: Ino) -> None:
        known = self._find(ino)
        if known is not None:
            self._tell(known)

    def hide_name(self, parent: NodeId, name: bytes) -> None:
        """Have the lane hide a name, too."""
        self._lane.hide(parent, name)

    def show_name(self, parent: NodeId, name: bytes) -> None:
        """Have the lane look in the storage again."""
        self._lane.show(parent, name)

    def touches(self, directory: NodeId) -> int:
        """Return how often the lane has changed something of a directory, or in it."""
        return self._lane.touches(directory)

    def deletes_inside(self, directory: Ino, answered_ns: int, directories: int) -> None:
        """Have the lane show attributes of a directory in which names are hidden."""
        self._lane.deletes_inside(directory, answered_ns, directories)
