"""Where something is to appear: found with the caller's rights.

Walks from the served root and asks for search permission on the way. Missing directories are made
again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from typing import NamedTuple

import trio

from cephfs_ext.core.errors import DeniedError, ExistsError, FSError, NotFoundError
from cephfs_ext.core.permissions import SEARCH, WRITE, permits, sticky_forbids
from cephfs_ext.core.ports import Found, Node, Storage
from cephfs_ext.core.types import GATEWAY, AttrChange, Credentials, Ino
from trashbin.ancestors import Ancestor, Ancestors, acls_of
from trashbin.domain import Domain
from trashbin.files import make_dir, read_acl
from trashbin.journal import Record
from trashbin.layout import TRASH_NAME
from trashbin.names import free_name
from trashbin.runs import Target
from trashbin.trees import Tree

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

    @property
    def is_held(self) -> bool:
        """True if somebody holds it, or a part of it."""
        return self.held_entries > 0

    @property
    def held_entries(self) -> int:
        """How many of its entries somebody holds."""
        return sum(part.top.is_held for part, _ in self.tree.walk())


class Made(NamedTuple):
    """A directory that a restore made on its way, or would make."""

    path: bytes
    """Relative to the served root."""
    mode: int
    uid: int
    gid: int
    acls: tuple[tuple[bytes, bytes], ...] = ()


def as_allowed(was: Ancestor, caller: Caller) -> Ancestor:
    """Return how a directory is made again for somebody.

    As it was for its owner, and for operators. For others it is their own: of its group if they
    are in it, and never more open than it was.
    """
    cred = caller.cred
    if caller.everything or cred.uid == was.uid:
        return was
    if was.gid in (cred.gid, *cred.groups):
        mode, gid = was.mode & 0o2775 | 0o700, was.gid
    else:
        mode, gid = was.mode & 0o755 | 0o700, cred.gid
    return dataclasses.replace(was, mode=mode, uid=cred.uid, gid=gid, acls=())


class Placing:
    """Finds the directory that something is to appear in, with the caller's rights.

    Walks from the served root and asks for search permission on the way. Missing parents are made
    again, as they were: see `as_allowed`. Of what nothing is known is the caller's own, 0755.
    """

    def __init__(
        self,
        storage: Storage,
        caller: Caller,
        listed: Listed,
        to: bytes | None,
        ancestors: Ancestors,
        *,
        domain_path: bytes = b"",
        dry_run: bool,
    ) -> None:
        """Keep what is needed.

        Args:
            to: where to, relative to the served root; None for where it was.
            domain_path: where its domain starts, as `Domains.path_of` has it.
        """
        self.listed = listed
        self.made: list[Made] = []
        """Missing parents, the topmost first."""
        self._ancestors = ancestors
        self._domain_path = domain_path
        self._known: list[Ancestor] | None = None
        """How parents were, the nearest first, once it is asked for."""
        self._storage = storage
        self._caller = caller
        self._dry_run = dry_run
        self._was_there = to is None
        whole = listed.path if to is None else to + b"/" + listed.tree.top.entry.name
        assert whole is not None
        parts = [part for part in whole.split(b"/") if part]
        self._directory, self._name = parts[:-1], parts[-1]
        self._held: list[Node] = []
        self._to_take_back: list[tuple[Node, bytes]] = []

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
        for depth, name in enumerate(self._directory, 1):
            if self.made and self._dry_run:
                await self._note(depth)
                continue
            if not self.made:
                await self._need(node, SEARCH)
            try:
                found = await self._storage.resolve(node, name)
            except NotFoundError:
                if not self.made:
                    await self._need(node, WRITE | SEARCH)
                was = await self._note(depth)
                if self._dry_run:
                    continue
                found = await self._make(node, name, was)
            self._held.append(found.node)
            node = found.node
            if not found.attr.is_dir:
                raise FSError(errno.ENOTDIR, name.decode(errors="replace"))
        if not self.made:
            await self._need(node, WRITE | SEARCH)
        return Target(node, self._name)

    async def _need(self, node: Node, want: int) -> None:
        if self._caller.everything:
            return
        attr = await self._storage.getattr(node)
        acl = await read_acl(self._storage, node)
        if not permits(attr, self._caller.cred, want, acl):
            raise DeniedError(
                errno.EACCES, "you may not write where it was; name a directory with --to"
            )

    async def _note(self, depth: int) -> Made:
        """Note that a directory of the way is missing, and how it is made again."""
        own = Ancestor(Ino(0), b"", 0o755, self._caller.cred.uid, self._caller.cred.gid, Ino(0))
        was = await self._before(depth) if self._was_there else None
        was = own if was is None else as_allowed(was, self._caller)
        path = b"/".join(self._directory[:depth])
        self.made.append(Made(path, was.mode, was.uid, was.gid, was.acls))
        return self.made[-1]

    async def _before(self, depth: int) -> Ancestor | None:
        """Return how a directory was, by its inode if that is still somewhere; None: not known."""
        if self._known is None:
            self._known = await self._look_back()
        nearest = len(self._directory) - depth
        if nearest >= len(self._known):
            return None
        was = self._known[nearest]
        if not was.token and not self._storage.finds_by_number:
            return was if was.path else None
        try:
            found = await self._storage.find(was.dir, was.token)
        except NotFoundError:
            return was if was.path else None
        try:
            attr, acls = found.attr, await acls_of(self._storage, found.node)
        finally:
            self._storage.forget(found.node)
        return dataclasses.replace(
            was, mode=attr.mode & 0o7777, uid=attr.uid, gid=attr.gid, acls=tuple(acls.items())
        )

    async def _look_back(self) -> list[Ancestor]:
        """Return what is known of the parents; of the nearest at least which inode it was."""
        entry, record = self.listed.tree.top.entry, self.listed.record
        path = b"/".join(self._directory).removeprefix(self._domain_path)
        known = await self._ancestors.of(self.listed.domain, entry, path)
        if known:
            return known
        token = b"" if record is None else record.parent_token
        return [Ancestor(entry.parent, b"", 0, 0, 0, Ino(0), token)]

    async def _make(self, above: Node, name: bytes, made: Made) -> Found:
        found = await make_dir(self._storage, above, name, 0o700)
        self._to_take_back.append((above, name))
        try:
            await self._storage.setattr(found.node, AttrChange(uid=made.uid, gid=made.gid), GATEWAY)
            await self._storage.setattr(found.node, AttrChange(mode=made.mode), GATEWAY)
            for key, acl in made.acls:
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
            while self._to_take_back:
                above, name = self._to_take_back.pop()
                await self._storage.rmdir(above, name, GATEWAY)

    async def taken(self, name: bytes) -> Found | None:
        """Return what has a name at the target; the caller owns the reference."""
        if self.made and self._dry_run:
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
