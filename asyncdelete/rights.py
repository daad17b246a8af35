"""Whether somebody could have deleted what is in a directory themselves, as `rm -rf` would have.

Decided from mode bits, supplementary groups and access control lists, as the kernel does.
"""

from __future__ import annotations

import enum
import stat
from typing import Protocol

from cephfs_ext.core.permissions import READ, SEARCH, WRITE, permits, sticky_forbids
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import Attr, Credentials
from trashbin.files import read_acl


class Verdict(enum.Enum):
    """What somebody may delete in a directory."""

    ALL = "all"
    OWN = "own"
    """What belongs to them: the directory is sticky."""
    NOTHING = "nothing"
    HIDDEN = "hidden"
    """Nothing, and they may not know what is there either."""


class Rights(Protocol):
    """What a walk asks before it removes anything."""

    async def may_empty(self, node: Node, attr: Attr) -> Verdict:
        """Say what may be deleted of what is in a directory.

        Args:
            attr: of it; only mode, uid, gid and ino need be true.

        Raises:
            FSError: it can't be found out.
        """
        ...

    def may_remove(self, above: Attr, entry: Attr) -> bool:
        """Tell whether an entry may be deleted from a directory of which they may delete some."""
        ...


class RightsOf:
    """The rights of one user."""

    def __init__(self, storage: Storage, cred: Credentials) -> None:
        self._storage = storage
        self._cred = cred

    async def may_empty(self, node: Node, attr: Attr) -> Verdict:
        """Say what the user may delete; `rm -rf` has to list a directory, too."""
        if self._cred.uid == 0:
            return Verdict.ALL
        acl = await read_acl(self._storage, node)
        if not permits(attr, self._cred, READ, acl):
            return Verdict.HIDDEN
        if not permits(attr, self._cred, READ | WRITE | SEARCH, acl):
            return Verdict.NOTHING
        is_sticky = attr.mode & stat.S_ISVTX and attr.uid != self._cred.uid
        return Verdict.OWN if is_sticky else Verdict.ALL

    def may_remove(self, above: Attr, entry: Attr) -> bool:
        """Apply the sticky bit."""
        return not sticky_forbids(above, entry, self._cred)
