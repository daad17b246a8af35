"""What is moved into `.trashbin/now`: deleted with the checks of any delete, and not kept."""

from __future__ import annotations

from asyncdelete.discard import Discard
from cephfs_ext.core.errors import DeniedError
from cephfs_ext.core.ports import Storage
from cephfs_ext.vfs.deletes import Deletes
from cephfs_ext.vfs.nodes import NodeId, NodeTable
from trashbin.audit import Bypass, kind_of
from trashbin.domain import Domain
from trashbin.put import Deleter, Place


class Discards:
    """Carries out deletes without retention."""

    def __init__(
        self, storage: Storage, nodes: NodeTable, deletes: Deletes, discard: Discard
    ) -> None:
        self._storage = storage
        self._nodes = nodes
        self._deletes = deletes
        self._discard = discard

    async def name(self, parent: NodeId, name: bytes, who: Deleter) -> None:
        """Remove whatever has a name, with all that is below it, by one rename; keep nothing.

        Raises:
            FSError: EACCES or EPERM, or ENOENT; nothing has changed.
        """
        above = self._nodes[parent].node
        victim = await self._storage.lookup(above, name)
        try:
            if not self._deletes.enabled:
                raise DeniedError(what="the trash is disabled")
            is_tree = victim.attr.is_dir
            await self._deletes.check_allowed(parent, victim, who.cred, is_tree=is_tree)

            async def step(domain: Domain, at: Place) -> None:
                await self._discard.name(domain, at, victim, who)

            await self._deletes.in_domain(parent, name, step)
            kind = "tree" if victim.attr.is_dir else kind_of(victim.attr)
            self._deletes.bypassed(parent, name, victim.attr, who, Bypass("now"), kind)
            if victim.attr.is_dir:
                self._nodes.gone(parent, name)
            if victim.attr.is_dir or victim.attr.nlink == 1:
                self._nodes.hide_link(victim.attr.ino)
        finally:
            self._storage.forget(victim.node)
