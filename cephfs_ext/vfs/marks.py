"""Marks that users set on directories, and that hold for everything below.

Three extended attributes: `user.cephfs_ext.trash` (`on` or `off`: keep what is deleted, or don't)
of the nearest directory that has one; `user.cephfs_ext.protect` (`1`): nothing below can be
deleted, replaced or overwritten; and `user.cephfs_ext.strict` (`1`): no delete below is answered
before it has been carried out.

What a directory says is remembered for `_FRESH_S`, so that a delete doesn't ask for each directory
above it; a mark that is set through this gateway counts at once, one from elsewhere after that.
"""

from __future__ import annotations

import errno
import time
from typing import NamedTuple

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Lane, Node, Storage
from cephfs_ext.vfs.nodes import NodeId, NodeTable
from trashbin.policy import MARK

PROTECT = b"user.cephfs_ext.protect"
STRICT = b"user.cephfs_ext.strict"
_FRESH_S = 2.0
_KEPT = 100_000
"""Directories that are remembered; all are forgotten beyond it."""

_ALL = (MARK, PROTECT, STRICT)

_NONE = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT, errno.ESTALE)


class _Said(NamedTuple):
    until_s: float
    trash: bytes
    protect: bytes
    strict: bytes


class Marks:
    """What the directories above a thing say about it."""

    def __init__(self, storage: Storage, nodes: NodeTable, lane: Lane | None = None) -> None:
        """Keep what is needed.

        Args:
            lane: is told of directories that aren't protected.
        """
        self._storage = storage
        self._nodes = nodes
        self._lane = lane
        self._said: dict[NodeId, _Said] = {}
        self._changes = 0
        """How often it may have become untrue that a directory isn't protected."""

    async def trash(self, directory: NodeId) -> str:
        """Return the nearest mark about the trash: `on`, `off`, or nothing."""
        for node_id, node in self._nodes.above(directory):
            said = await self._ask(node_id, node)
            if said.trash in (b"on", b"off"):
                return said.trash.decode()
        return ""

    async def protected(self, directory: NodeId) -> bool:
        """Tell whether a directory, or one above it, is protected."""
        until_s, changes = float("inf"), self._changes
        for node_id, node in self._nodes.above(directory):
            said = await self._ask(node_id, node)
            if said.protect == b"1":
                return True
            until_s = min(until_s, said.until_s)
        if self._lane is not None and self._changes == changes:
            self._lane.allow(directory, until_s - time.monotonic())
        return False

    async def strict(self, directory: NodeId) -> bool:
        """Tell whether deletes in a directory are to be carried out before they are answered."""
        for node_id, node in self._nodes.above(directory):
            if (await self._ask(node_id, node)).strict == b"1":
                return True
        return False

    async def _ask(self, node_id: NodeId, node: Node) -> _Said:
        said = self._said.get(node_id)
        if said is None or said.until_s < time.monotonic():
            values = await self._read(node)
            said = _Said(time.monotonic() + _FRESH_S, *values)
            if len(self._said) > _KEPT:
                self._said.clear()
            self._said[node_id] = said
        return said

    async def _read(self, node: Node) -> tuple[bytes, bytes, bytes]:
        try:
            names = await self._storage.listxattr(node)
            trash, protect, strict = [
                (await self._storage.getxattr(node, name)).strip() if name in names else b""
                for name in _ALL
            ]
        except FSError as exc:
            if exc.errno not in _NONE:
                raise
            return b"", b"", b""
        return trash, protect, strict

    def changed(self, node_id: NodeId, name: bytes) -> None:
        """Note that an extended attribute has been set or removed."""
        if name in _ALL:
            self._said.pop(node_id, None)
            self.moved()

    def moved(self) -> None:
        """Note that other directories may be above some than were."""
        self._changes += 1
        if self._lane is not None:
            self._lane.allow_nowhere()
