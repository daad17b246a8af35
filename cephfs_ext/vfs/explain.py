"""What would become of a path, if it were deleted now: the policy, asked by its name.

Walks from the served root with the caller's right to search. Changes nothing.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from cephfs_ext.core.errors import DeniedError, FSError
from cephfs_ext.core.permissions import SEARCH, permits
from cephfs_ext.core.ports import Storage
from cephfs_ext.core.types import Credentials
from cephfs_ext.vfs.deletes import Deletes, Verdict
from cephfs_ext.vfs.marks import Marks
from cephfs_ext.vfs.nodes import ROOT, NodeId, NodeTable
from trashbin.layout import TRASH_NAME


class Explained(NamedTuple):
    """What would become of something."""

    verdict: Verdict
    is_protected: bool


class Explanations:
    """Answers by path."""

    def __init__(self, storage: Storage, nodes: NodeTable, deletes: Deletes, marks: Marks) -> None:
        self._storage = storage
        self._nodes = nodes
        self._deletes = deletes
        self._marks = marks

    async def path(self, path: bytes, cred: Credentials, *, everything: bool) -> Explained:
        """Say what a delete would do.

        Args:
            path: relative to the served root.
            everything: True for operators, who need no right to search.

        Raises:
            NotFoundError: there is no such thing.
            DeniedError: EACCES; the caller may not search the way. EPERM; it is the root, or in the
                trash.
        """
        *directories, name = path.split(b"/")
        if not name or TRASH_NAME in (*directories, name):
            raise DeniedError(what="the served directory and the trash can't be deleted")
        held: list[NodeId] = []
        try:
            parent = ROOT
            for directory in directories:
                parent = await self._enter(parent, directory, None if everything else cred)
                held.append(parent)
            await self._check(parent, None if everything else cred)
            found = await self._storage.lookup(self._nodes[parent].node, name)
            try:
                verdict = await self._deletes.explain(parent, name, found)
            finally:
                self._storage.forget(found.node)
            return Explained(verdict, await self._marks.protected(parent))
        finally:
            for node_id in reversed(held):
                self._nodes.forget(node_id, 1)

    async def _enter(self, parent: NodeId, name: bytes, cred: Credentials | None) -> NodeId:
        await self._check(parent, cred)
        found = await self._storage.lookup(self._nodes[parent].node, name)
        if not found.attr.is_dir:
            self._storage.forget(found.node)
            raise FSError(errno.ENOTDIR, name.decode(errors="replace"))
        return self._nodes.learn(parent, name, found)

    async def _check(self, directory: NodeId, cred: Credentials | None) -> None:
        node = self._nodes[directory].node
        if cred is None or permits(
            await self._storage.getattr(node), cred, SEARCH, await self._deletes.acl(node)
        ):
            return
        raise DeniedError(errno.EACCES, "you may not look into a directory on the way")
