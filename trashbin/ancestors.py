"""Directories from which, or below which, something was deleted: what they were like.

A restore makes missing parents again, and a directory that is gone for good can't be asked. So
once an hour for each directory a line of the journal says how it was. Deletes only take note; a
task of its own looks the directories up and hands the lines to the journal. What is beyond the
limits is dropped and counted: such a parent comes back as the directory of who restores.

Concurrency: `saw` is atomic; one task looks up at a time.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import trio

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.limits import ANCESTOR_QUEUE, ANCESTORS_KNOWN
from cephfs_ext.core.permissions import ACL_XATTR
from cephfs_ext.core.ports import Meter, Node, Storage
from cephfs_ext.core.types import Ino
from trashbin import layout
from trashbin.domain import Domain
from trashbin.files import read_acl
from trashbin.journal import (
    UNREADABLE,
    Journal,
    each_line,
    encode,
    journals_of,
    path_in,
    put_path,
)
from trashbin.layout import EntryName

DEFAULT_ACL_XATTR = b"system.posix_acl_default"

_GROUP_S = 0.2
"""How long directories are gathered before they are looked up."""

_IDLE_S = 60.0
"""How long a round waits for some."""

_START = b'{"dir":'
"""How a line of an ancestor begins."""

_NUMBERS = ("mode", "uid", "gid", "parent")


@dataclasses.dataclass(frozen=True, slots=True)
class Ancestor:
    """A directory, as it was."""

    dir: Ino
    path: bytes
    """Relative to the domain's root."""
    mode: int
    """Permission bits."""
    uid: int
    gid: int
    parent: Ino
    """Directory that it was in; 0 for the domain's root."""
    token: bytes = b""
    acls: tuple[tuple[bytes, bytes], ...] = ()
    """Access control lists, by the names of their attributes."""

    def line(self) -> bytes:
        """Encode as one line of JSON."""
        fields: dict[str, Any] = {"dir": self.dir}
        put_path(fields, "path", self.path)
        fields |= {key: getattr(self, key) for key in _NUMBERS}
        fields["token"] = base64.b64encode(self.token).decode()
        if self.acls:
            fields["acls"] = [
                [key.decode(), base64.b64encode(acl).decode()] for key, acl in self.acls
            ]
        return encode(fields)


def parse_ancestor(line: bytes) -> Ancestor | None:
    """Decode one line; None if it is torn, or of something else."""
    if not line.startswith(_START):
        return None
    try:
        fields = json.loads(line)
        numbers = [fields[key] for key in ("dir", *_NUMBERS)]
        path, token = path_in(fields, "path"), base64.b64decode(fields["token"], validate=True)
        acls = tuple(
            (key.encode(), base64.b64decode(acl, validate=True))
            for key, acl in fields.get("acls", ())
        )
    except UNREADABLE:
        return None
    if not all(type(number) is int and number >= 0 for number in numbers):
        return None
    ino, mode, uid, gid, parent = numbers
    return Ancestor(Ino(ino), path, mode & 0o7777, uid, gid, Ino(parent), token, acls)


async def acls_of(storage: Storage, node: Node) -> dict[bytes, bytes]:
    """Read the access control lists of a directory, by the names of their attributes."""
    lists = {key: await read_acl(storage, node, key) for key in (ACL_XATTR, DEFAULT_ACL_XATTR)}
    return {key: acl for key, acl in lists.items() if acl}


class _Seen(NamedTuple):
    """A directory that is to be looked up."""

    root: Ino
    deleted_ns: int
    ino: Ino
    token: bytes
    path: bytes
    parent: Ino


class Ancestors:
    """Takes note of directories, for one running gateway."""

    def __init__(self, storage: Storage, journal: Journal, meter: Meter) -> None:
        """Keep what is needed.

        Args:
            storage: the session of users, which knows these directories.
        """
        self._storage = storage
        self._journal = journal
        self._meter = meter
        self._known: dict[tuple[Ino, Ino], tuple[bytes, bytes]] = {}
        """Hour and path with which a directory of a domain was taken note of last."""
        self._waiting: deque[_Seen] = deque()
        self._arrived = trio.Event()
        self._looking_up = trio.Lock()

    def saw(self, root: Ino, deleted_ns: int, chain: Sequence[Node], path: bytes) -> None:
        """Take note of the directories that a name was deleted from. Never blocks, never fails.

        Args:
            root: where the domain starts.
            chain: the directory, the one that it is in, and so on, without the domain's root.
            path: of the first, relative to the domain's root.
        """
        hour = layout.hour_name(deleted_ns)
        if len(self._waiting) + len(chain) > ANCESTOR_QUEUE:
            self._meter.count("ancestors_dropped_total")
            return
        for above, node in enumerate(chain, 1):
            if self._known.get((root, node.ino)) == (hour, path):
                return
            if len(self._known) >= ANCESTORS_KNOWN:
                self._known.clear()
            self._known[root, node.ino] = (hour, path)
            parent = chain[above].ino if above < len(chain) else Ino(0)
            token = self._storage.token(node)
            self._waiting.append(_Seen(root, deleted_ns, node.ino, token, path, parent))
            path = path.rpartition(b"/")[0]
        self._arrived.set()

    async def once(self) -> None:
        """Wait for directories, or some time for none, gather some more, and look them up."""
        with trio.move_on_after(_IDLE_S):
            await self._arrived.wait()
            await trio.sleep(_GROUP_S)
        self._arrived = trio.Event()
        await self.drain()

    async def drain(self) -> None:
        """Look up what has been seen so far; then the journal has it, if not yet on disk."""
        async with self._looking_up:
            for _ in range(len(self._waiting)):
                with trio.CancelScope(shield=True):  # what has been taken out is in no other place
                    await self._look_up(self._waiting.popleft())
                await trio.lowlevel.checkpoint_if_cancelled()

    async def _look_up(self, seen: _Seen) -> None:
        if not seen.token and not self._storage.finds_by_number:
            return
        try:
            found = await self._storage.find(seen.ino, seen.token)
        except FSError:
            return  # it has really been removed meanwhile
        try:
            acls = await acls_of(self._storage, found.node)
        except FSError:
            return
        finally:
            self._storage.forget(found.node)
        attr = found.attr
        ancestor = Ancestor(
            seen.ino, seen.path, attr.mode & 0o7777, attr.uid, attr.gid, seen.parent, seen.token,
            tuple(acls.items()),
        )  # fmt: skip
        self._journal.describe(seen.root, seen.deleted_ns, ancestor)

    async def of(self, domain: Domain, entry: EntryName, path: bytes) -> list[Ancestor]:
        """Return the directories that an entry was in, as they were, the nearest first.

        Args:
            path: of the nearest, relative to the domain's root.
        """
        await self.drain()
        found: dict[Ino, Ancestor] = {}

        def take(line: bytes) -> None:
            ancestor = parse_ancestor(line)
            if ancestor is not None and (path + b"/").startswith(ancestor.path + b"/"):
                found[ancestor.dir] = ancestor

        for line in self._journal.unwritten(domain.root.ino):
            if isinstance(line, Ancestor):
                take(line.line())
        for name in await journals_of(domain, hours=[entry.hour], instance=entry.instance):
            await each_line(domain, name, take)
        chain: list[Ancestor] = []
        ino = entry.parent
        while ino in found:
            chain.append(found.pop(ino))
            ino = chain[-1].parent
        return chain
