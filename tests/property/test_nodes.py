"""The table of inodes that the kernel knows, against a model of the kernel and of the storage.

The model counts the references that were handed out, and knows what each id has to lead to.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Found
from cephfs_ext.core.types import Attr, Ino
from cephfs_ext.vfs.nodes import (
    ROOT,
    NodeId,
    NodeTable,
    directory_of,
    is_view,
    is_virtual,
    trash_of,
)
from tests.property.profiles import EXAMPLES, pure

_ROOT_INO = Ino(4096)
_DIRS = tuple(Ino(number) for number in range(1, 12, 2))
_FILES = tuple(Ino(number) for number in range(2, 10, 2))
_FRESH = 1_000
NAMES = (b"a", b"b")


@dataclasses.dataclass(frozen=True)
class FakeNode:
    """A reference to an inode, of which there are as many as `Storage.references` says."""

    ino: Ino


class Storage:
    """Counts references."""

    def __init__(self) -> None:
        self.root = FakeNode(_ROOT_INO)
        self.references: Counter[Ino] = Counter()

    def found(self, ino: Ino, nlink: int = 1) -> Found:
        """Hand out a reference."""
        self.references[ino] += 1
        return Found(FakeNode(ino), attr_of(ino, nlink))

    def forget(self, node: FakeNode, count: int = 1) -> None:
        assert node.ino != _ROOT_INO, "the root's reference is the storage's own"
        assert self.references[node.ino] >= count, "given back twice"
        self.references[node.ino] -= count


def is_dir(ino: Ino) -> bool:
    return ino in _DIRS or ino == _ROOT_INO


def attr_of(ino: Ino, nlink: int = 1) -> Attr:
    mode = 0o040755 if is_dir(ino) else 0o100644
    return Attr(ino, mode, nlink, 0, 0, 0, 0, 0, 4096, 0, 0, 0)


@dataclasses.dataclass
class Seen:
    """What the kernel knows of an id."""

    ino: Ino
    lookups: int
    place: tuple[NodeId, bytes]
    hidden: int = 0


class Machine(RuleBasedStateMachine):
    """The kernel and the storage; what they do is told to the table."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = Storage()
        storage: Any = self.storage
        self.table = NodeTable(storage)
        self.known: dict[NodeId, Seen] = {ROOT: Seen(_ROOT_INO, 1, (ROOT, b""))}
        self.names: dict[tuple[NodeId, bytes], NodeId] = {}
        """Where directories were seen last."""
        self.held: Counter[Ino] = Counter()
        """References that a remap has handed back, for requests under way."""
        self.fresh = _FRESH

    def directory(self, data: st.DataObject) -> NodeId:
        known = sorted(node_id for node_id, seen in self.known.items() if is_dir(seen.ino))
        return data.draw(st.sampled_from(known), label="directory")

    def file(self, data: st.DataObject) -> NodeId:
        known = sorted(node_id for node_id, seen in self.known.items() if not is_dir(seen.ino))
        return data.draw(st.sampled_from(known), label="file")

    def any(self, data: st.DataObject) -> NodeId:
        return data.draw(st.sampled_from(sorted(self.known)), label="id")

    def place(self, node_id: NodeId, where: tuple[NodeId, bytes]) -> None:
        seen = self.known[node_id]
        if is_dir(seen.ino):
            if seen.place != where and self.names.get(seen.place) == node_id:
                del self.names[seen.place]
            self.names[where] = node_id
        seen.place = where

    @rule(
        data=st.data(),
        name=st.sampled_from(NAMES),
        ino=st.sampled_from((*_DIRS, *_FILES)),
        nlink=st.integers(1, 3),
    )
    def look_up(self, data: st.DataObject, name: bytes, ino: Ino, nlink: int) -> None:
        """The kernel asks for a name, and learns what it leads to."""
        parent = self.directory(data)
        expected = self.table.id_of(ino)
        node_id = self.table.learn(parent, name, self.storage.found(ino, nlink))
        assert node_id == expected
        seen = self.known.setdefault(node_id, Seen(ino, 0, (parent, name)))
        assert seen.ino == ino, "an id leads to another inode"
        seen.lookups += 1
        seen.hidden = min(seen.hidden, 0 if is_dir(ino) else nlink - 1)
        self.place(node_id, (parent, name))

    @rule(data=st.data())
    def look_up_again(self, data: st.DataObject) -> None:
        """A link was made: the kernel has counted one more."""
        node_id = self.any(data)
        self.table.count_again(node_id)
        self.known[node_id].lookups += 1

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """The kernel takes some lookups back, or all."""
        node_id = self.any(data)
        seen = self.known[node_id]
        lookups = data.draw(st.integers(1, seen.lookups), label="lookups")
        self.table.forget(node_id, lookups)
        if node_id == ROOT:
            return
        seen.lookups -= lookups
        if not seen.lookups:
            del self.known[node_id]
            if self.names.get(seen.place) == node_id:
                del self.names[seen.place]

    @rule(data=st.data(), names=st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)))
    def rename(self, data: st.DataObject, names: tuple[bytes, bytes]) -> None:
        """A name was moved."""
        old, new = (self.directory(data), names[0]), (self.directory(data), names[1])
        self.table.moved(*old, *new)
        moved = self.names.pop(old, None)
        if moved is not None:
            self.place(moved, new)

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def remove(self, data: st.DataObject, name: bytes) -> None:
        """A directory was removed."""
        where = (self.directory(data), name)
        self.table.gone(*where)
        self.names.pop(where, None)

    @precondition(lambda self: any(not is_dir(seen.ino) for seen in self.known.values()))
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        """The content of a file went into the trash; its id leads to a fresh inode."""
        node_id = self.file(data)
        self.fresh += 1
        fresh = Ino(self.fresh)
        former: Any = self.table.remap(node_id, self.storage.found(fresh))
        assert former.ino == self.known[node_id].ino
        self.held[former.ino] += 1
        self.known[node_id].ino = fresh
        self.known[node_id].hidden = 0

    @precondition(lambda self: self.held.total())
    @rule()
    def end_requests(self) -> None:
        """No request uses an inode of before any more."""
        for ino, count in self.held.items():
            for _ in range(count):
                self.storage.forget(FakeNode(ino))
        self.held.clear()

    @rule(data=st.data(), hide=st.booleans())
    def delete_or_restore(self, data: st.DataObject, hide: bool) -> None:
        """A link goes into the trash, or all come back."""
        node_id = self.any(data)
        seen = self.known[node_id]
        if hide:
            self.table.hide_link(seen.ino)
            seen.hidden += 1
        else:
            assert self.table.unhide_links(seen.ino) == node_id
            seen.hidden = 0

    @rule(count=st.integers(1, 5))
    def ask_for_oldest(self, count: int) -> None:
        """Names that the kernel may be asked to forget are those of inodes that it knows."""
        places = [seen.place for node_id, seen in self.known.items() if node_id != ROOT]
        names = self.table.oldest(count)
        assert len(names) == min(count, len(places))
        assert not Counter(names) - Counter(places)

    @invariant()
    def every_id_leads_to_its_inode(self) -> None:
        assert len(self.table) == len(self.known)
        for node_id, seen in self.known.items():
            known = self.table[node_id]
            assert (known.node.ino, known.lookups) == (seen.ino, seen.lookups)
            assert self.table.id_of(seen.ino) == node_id
            assert not is_virtual(node_id)

    @invariant()
    def one_reference_is_held_for_each_inode(self) -> None:
        expected = Counter(seen.ino for node_id, seen in self.known.items() if node_id != ROOT)
        assert +self.storage.references == expected + self.held

    @invariant()
    def paths_are_those_of_the_last_names(self) -> None:
        for node_id, seen in self.known.items():
            if is_dir(seen.ino):
                assert self.table.path(node_id, _ROOT_INO) == self.path(node_id)

    def path(self, node_id: NodeId) -> bytes:
        names: list[bytes] = []
        passed = set()
        while node_id in self.known and node_id != ROOT and node_id not in passed:
            passed.add(node_id)
            node_id, name = self.known[node_id].place
            names.append(name)
        return b"/".join(reversed(names))

    @invariant()
    def users_see_the_links_that_are_theirs(self) -> None:
        for seen in self.known.values():
            shown = self.table.as_users_see(attr_of(seen.ino, 3)).nlink
            if is_dir(seen.ino) and seen.hidden:
                assert shown == 0
            else:
                assert shown == max(0, 3 - seen.hidden)

    def teardown(self) -> None:
        """When the kernel has forgotten everything, every reference has been given back."""
        self.end_requests()
        for node_id, seen in list(self.known.items()):
            self.table.forget(node_id, seen.lookups)
        assert not +self.storage.references
        assert len(self.table) == 1


TestNodeTable = Machine.TestCase
TestNodeTable.settings = settings(pure, max_examples=max(20, EXAMPLES // 5), stateful_step_count=50)


def test_unknown_id_is_stale() -> None:
    storage: Any = Storage()
    with pytest.raises(FSError, match="Stale file handle"):
        NodeTable(storage)[NodeId(7)]


def test_virtual_trash_leads_back_to_its_directory() -> None:
    for node_id in (ROOT, NodeId(2**61), NodeId(2**62), NodeId(2**62 + 5)):
        assert is_virtual(trash_of(node_id))
        assert not is_view(trash_of(node_id))
        assert not is_virtual(node_id)
        assert directory_of(trash_of(node_id)) == node_id
