"""Where something is to appear: found with the caller's rights.

Walks from the served root and asks for search permission on the way. A missing directory is made
again: as it was if it lies in the trash itself, else as the caller's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from typing import NamedTuple

import trio

from cephfs_ext.core.errors import DeniedError, ExistsError, FSError, NotFoundError
from cephfs_ext.core.permissions import ACL_XATTR, SEARCH, WRITE, permits, sticky_forbids
from cephfs_ext.core.ports import Found, Node, Storage
from cephfs_ext.core.types import GATEWAY, AttrChange, Credentials
from trashbin.domain import Domain
from trashbin.files import make_dir
from trashbin.journal import Record
from trashbin.layout import TRASH_NAME
from trashbin.names import free_name
from trashbin.runs import Target
from trashbin.trees import Tree

_ACL_XATTRS = (ACL_XATTR, b"system.posix_acl_default")

_FREE_NAMES = 1000
"""How many other names keep-both tries."""


class Caller(NamedTuple):
    """Who asks."""

    cred: Credentials
    everything: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """One tree in the trash, and where it came from."""

    domain: Domain
    tree: Tree
    path: bytes | None
    """Relative to the served root; None if it isn't known."""
    record: Record | None
    events: frozenset[str] = frozenset()
    """The delete events that took its parts away."""

    @property
    def is_held(self) -> bool:
        """True if somebody holds it, or a part of it."""
        return self.held_entries > 0

    @property
    def held_entries(self) -> int:
        """How many of its entries somebody holds."""
        return sum(part.top.is_held for part, _ in self.tree.walk())


class _Was(NamedTuple):
    """How a directory is made again."""

    mode: int
    uid: int
    gid: int
    acls: dict[bytes, bytes]


class Placing:
    """Finds the directory that something is to appear in, with the caller's rights.

    Walks from the served root and asks for search permission on the way. A missing parent is made
    again: as it was if it lies in the trash itself, else as the caller's own.
    """

    def __init__(
        self, storage: Storage, caller: Caller, listed: Listed, to: bytes | None, *, dry_run: bool
    ) -> None:
        self.listed = listed
        self._storage = storage
        self._caller = caller
        self._dry_run = dry_run
        self._was_there = to is None
        whole = listed.path if to is None else to + b"/" + listed.tree.top.entry.name
        assert whole is not None
        parts = [part for part in whole.split(b"/") if part]
        self._directory, self._name = parts[:-1], parts[-1]
        self._held: list[Node] = []
        self._made: list[tuple[Node, bytes]] = []
        self._missing = False

    async def find(self) -> Target:
        """Return the target.

        Raises:
            DeniedError: EACCES; the caller may not search the way, or not write at its end; EPERM
                for places in the trash.
            FSError: ENOTDIR; something on the way is no directory.
        """
        if TRASH_NAME in (*self._directory, self._name):
            raise DeniedError(what="nothing can be restored into the trash")
        node = self._storage.root
        for depth, name in enumerate(self._directory):
            await self._need(node, SEARCH)
            try:
                found = await self._storage.resolve(node, name)
            except NotFoundError:
                if self._dry_run:
                    await self._need(node, WRITE | SEARCH)
                    self._missing = True
                    break
                last = depth + 1 == len(self._directory)
                found = await self._make(node, name, await self._before(last=last))
            self._held.append(found.node)
            node = found.node
            if not found.attr.is_dir:
                raise FSError(errno.ENOTDIR, name.decode(errors="replace"))
        if not self._missing:
            await self._need(node, WRITE | SEARCH)
        return Target(node, self._name)

    async def _need(self, node: Node, want: int) -> None:
        if self._caller.everything:
            return
        attr = await self._storage.getattr(node)
        acl = (await self._acls(node)).get(ACL_XATTR, b"")
        if not permits(attr, self._caller.cred, want, acl):
            raise DeniedError(
                errno.EACCES, "you may not write where it was; name a directory with --to"
            )

    async def _acls(self, node: Node) -> dict[bytes, bytes]:
        acls = {}
        for key in _ACL_XATTRS:
            try:
                acls[key] = await self._storage.getxattr(node, key)
            except FSError as exc:
                if exc.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                    raise
        return acls

    async def _before(self, *, last: bool) -> _Was:
        """Return how a directory that is missing was, if the caller could write in it."""
        own = _Was(0o755, self._caller.cred.uid, self._caller.cred.gid, {})
        if not last or not self._was_there:
            return own
        entry, record = self.listed.tree.top.entry, self.listed.record
        token = b"" if record is None else record.parent_token
        if not token and not self._storage.finds_by_number:
            return own
        try:
            found = await self._storage.find(entry.parent, token)
        except NotFoundError:
            return own
        try:
            await self._need(found.node, WRITE | SEARCH)
            attr = found.attr
            return _Was(attr.mode & 0o7777, attr.uid, attr.gid, await self._acls(found.node))
        except DeniedError:
            return own
        finally:
            self._storage.forget(found.node)

    async def _make(self, above: Node, name: bytes, was: _Was) -> Found:
        await self._need(above, WRITE | SEARCH)
        found = await make_dir(self._storage, above, name, 0o700)
        self._made.append((above, name))
        try:
            await self._storage.setattr(found.node, AttrChange(uid=was.uid, gid=was.gid), GATEWAY)
            await self._storage.setattr(found.node, AttrChange(mode=was.mode), GATEWAY)
            for key, acl in was.acls.items():
                await self._storage.setxattr(found.node, key, acl, GATEWAY)
        except BaseException:
            self._storage.forget(found.node)
            raise
        return found

    async def check_removable(self, taken: Found) -> None:
        """Check that the caller may delete what has the name.

        Raises:
            DeniedError: EPERM for the sticky bit; EACCES for a directory that is not writable.
        """
        if self._caller.everything:
            return
        if sticky_forbids(await self._storage.getattr(self._parent), taken.attr, self._caller.cred):
            raise DeniedError(what="what has its name is somebody else's")
        if taken.attr.is_dir:
            await self._need(taken.node, WRITE)

    async def take_back(self) -> None:
        """Remove the directories that were made for nothing, if nobody has used them."""
        with trio.CancelScope(shield=True), contextlib.suppress(FSError):
            while self._made:
                above, name = self._made.pop()
                await self._storage.rmdir(above, name, GATEWAY)

    async def taken(self, name: bytes) -> Found | None:
        """Return what has a name at the target; the caller owns the reference."""
        if self._missing:
            return None
        try:
            return await self._storage.resolve(self._parent, name)
        except NotFoundError:
            return None

    async def free_name(self, name: bytes) -> bytes:
        """Return a name near `name` that nothing has."""
        for number in range(1, _FREE_NAMES):
            candidate = free_name(name, number)
            found = await self.taken(candidate)
            if found is None:
                return candidate
            self._storage.forget(found.node)
        raise ExistsError(what="no free name")

    @property
    def _parent(self) -> Node:
        return self._held[-1] if self._held else self._storage.root

    def path(self, name: bytes) -> bytes:
        """Return where something of that name appears, relative to the served root."""
        return b"/".join((*self._directory, name))

    def path_in_domain(self, name: bytes) -> bytes:
        """Return the same, relative to the root of the trash's domain."""
        path, whole = self.path(name), self.listed.path
        record = self.listed.record
        if record is None or whole is None or not whole.endswith(record.path):
            return path
        return path.removeprefix(whole[: len(whole) - len(record.path)])

    def close(self) -> None:
        """Give references back."""
        for node in self._held:
            self._storage.forget(node)
