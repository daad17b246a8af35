"""The trash of a gateway without its mount: what the tests of crashes drive and look at.

A `Ground` is a fresh directory to serve, on either storage; `Parts` are what a gateway is made of,
on one session of it. What is found out about the state is found out through the storage itself,
never through what is being tested.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio

from asyncdelete.walk import Walk
from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.ports import Found, Node, Storage
from cephfs_ext.core.types import GATEWAY, Credentials, DirEntry, Ino
from cephfs_ext.storage.posix import PosixStorage
from cephfs_ext.storage.posix_calls import translated
from tests.property.faulty import Faulty
from trashbin import layout
from trashbin.ancestors import Ancestors
from trashbin.audit import Audit
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.event_ids import EventIds
from trashbin.expire import Expiry, Removed
from trashbin.files import listing, names_in
from trashbin.journal import Journal
from trashbin.put import Deleter, Place, Put
from trashbin.restore import Restore
from trashbin.service import Caller, TrashService
from trashbin.settle import settling
from trashbin.spare import Spare

SHARDS = 2
RETENTION_S = 7 * 86400.0
GAP_S = 10.0
HELD_MAX = 1_000
AUDIT_S = 90 * 86400.0
WHO = Deleter(Credentials(0, 0), 4711, "rm")
SOMEBODY_ELSE = Deleter(Credentials(0, 0), 4712, "rm")
OPERATOR = Caller(Credentials(0, 0), everything=True)


class SilentMeter:
    """Counts, and shows it to nobody."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}

    def count(self, metric: str, n: int = 1, /, **labels: str) -> None:
        key = (metric, tuple(sorted(labels.items())))
        self.counts[key] = self.counts.get(key, 0) + n

    def observe(self, metric: str, seconds: float, /, **labels: str) -> None:
        pass

    def set(self, metric: str, value: float, /, **labels: str) -> None:
        pass


class _AtOnce:
    """Removes what is claimed as soon as it is asked to, without jobs."""

    def __init__(self, storage: Any, meter: SilentMeter) -> None:
        self._storage = storage
        self._meter = meter
        self._numbers = itertools.count(1)

    async def plan_purge(self, domain: Domain, cred: Credentials) -> bytes:
        return b"purge.%016x.beef" % next(self._numbers)

    async def hand_over(self, domain: Domain) -> None:
        for claim in await names_in(self._storage, domain.service(layout.PURGING)):
            await self.removed(domain, claim)

    async def removed(self, domain: Domain, claim: bytes) -> Removed:
        walk = Walk(self._storage, self._meter, Spare(domain))
        return await walk.remove(domain.service(layout.PURGING), claim)


class Parts:
    """What a gateway is made of."""

    def __init__(
        self, storage: Faulty, instance: str, clock: Callable[[], int] | None = None
    ) -> None:
        self.storage = storage
        self.instance = instance
        self.meter = SilentMeter()
        self.domains = Domains(_port(storage), owner_uid=os.geteuid(), shards_per_rank=SHARDS)
        self.journal = Journal(self.domains, _port(storage), instance, self.meter)
        ticks: Any = clock or MonotonicNs()
        self.ancestors = Ancestors(_port(storage), self.journal, self.meter)
        self.audit = Audit(
            self.journal,
            EventIds(self.meter, instance=instance, clock=MonotonicNs(), gap_s=GAP_S),
            self.ancestors,
            root=storage.root.ino,
            host="a-host",
            instance=instance,
            clock=ticks,
            wanted=True,
        )
        self.put = Put(_port(storage), self.audit, self.meter, instance=instance, clock=ticks)
        self.restore = Restore(_port(storage), instance=instance, clock=ticks)
        self.expiry = Expiry(
            self.domains,
            _AtOnce(_port(storage), self.meter),
            self.meter,
            self.audit,
            retention_s=RETENTION_S,
            audit_s=AUDIT_S,
            instance=instance,
            clock=ticks,
        )
        self.forgotten: list[tuple[Ino, bytes, Sequence[Ino]]] = []
        self.service = TrashService(
            _port(storage),
            self.domains,
            self.restore,
            self.expiry,
            self.put,
            self.journal,
            self.ancestors,
            self.audit,
            self.meter,
            lambda parent, name, inos: self.forgotten.append((parent, name, inos)),
            event_gap_s=GAP_S,
            held_max=HELD_MAX,
        )

    async def domain(self) -> Domain:
        """Return the trash of the root."""
        return await self.domains.root()


def _port(storage: Faulty) -> Any:
    return storage


class Ground(Protocol):
    """A fresh directory on a storage, and sessions that serve it."""

    kind: str

    def session(self) -> contextlib.AbstractAsyncContextManager[Faulty]:
        """Open a session that has nothing to do with those before."""
        ...


class SameThread(PosixStorage):
    """The storage without its threads, which take nine tenths of the time of short calls.

    Fit for the gateway's own identity, which no thread has to take on.
    """

    async def _call(self, call: Callable[[], Any], *, limiter: Any = None) -> Any:
        await trio.lowlevel.checkpoint()
        with translated():
            return call()


class PosixGround:
    """A directory of this machine; each session is new."""

    kind = "posix"

    def __init__(self, base: Path) -> None:
        self.directory = base / uuid.uuid4().hex[:8]
        self.directory.mkdir()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Faulty]:
        """Open a session."""
        storage = await SameThread.connect(str(self.directory), background=True)
        try:
            yield Faulty(storage)
        finally:
            await storage.close()


class CephGround:
    """A directory of a cluster; two sessions take turns, since opening one takes a while.

    It can be used again after `clear`, as setting up a trash takes its time, too.
    """

    kind = "ceph"

    def __init__(self, sessions: Sequence[Storage]) -> None:
        self._sessions = itertools.cycle(sessions)
        self._name = uuid.uuid4().hex[:8].encode()
        self._made = False

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Faulty]:
        """Take the other session; nobody waits for the ticks of the metadata servers."""
        storage = next(self._sessions)
        if self._made:
            found = await storage.lookup(storage.root, self._name)
        else:
            found = await storage.mkdir(storage.root, self._name, 0o755, GATEWAY)
            self._made = True
        domains = Domains(_port(Faulty(storage, found.node)), owner_uid=0, shards_per_rank=SHARDS)
        async with settling(await domains.root()):
            yield Faulty(storage, found.node)
        domains.close()
        storage.forget(found.node)

    async def clear(self) -> None:
        """Remove all that is in place; the trash is empty."""
        async with self.session() as storage:
            for entry in await entries_of(storage, storage.root):
                if entry.name != b".trashbin":
                    await Walk(_port(storage), SilentMeter()).remove(storage.root, entry.name)


@contextlib.asynccontextmanager
async def parts(
    ground: Ground, instance: str, clock: Callable[[], int] | None = None
) -> AsyncIterator[Parts]:
    """Open a session and put a gateway together on it; its end gives references back."""
    async with ground.session() as storage:
        gateway = Parts(storage, instance, clock)
        try:
            yield gateway
        finally:
            if not storage.dead:
                gateway.domains.close()


def hours_ago(hours: float) -> Callable[[], int]:
    """Return a clock that is late."""
    clock = MonotonicNs()
    return lambda: clock() - int(hours * 3600e9)


# what the tests do to the tree, as users do


async def walk_to(storage: Any, *path: bytes) -> Node:
    """Open a directory below the root; the caller owns the reference (not that of the root)."""
    node: Node = storage.root
    for name in path:
        found = await storage.lookup(node, name)
        if node is not storage.root:
            storage.forget(node)
        node = found.node
    return node


def let_go(storage: Any, node: Node) -> None:
    """Give back what `walk_to` returned."""
    if node is not storage.root:
        storage.forget(node)


async def make_dirs(storage: Any, *paths: bytes) -> None:
    """Make directories, parents first."""
    for path in paths:
        *above, name = path.split(b"/")
        parent = await walk_to(storage, *above)
        storage.forget((await storage.mkdir(parent, name, 0o755, GATEWAY)).node)
        let_go(storage, parent)


async def make_files(storage: Any, *paths: bytes) -> None:
    """Make files whose content is their path."""
    for path in paths:
        *above, name = path.split(b"/")
        parent = await walk_to(storage, *above)
        created = await storage.create(parent, name, 0o644, os.O_WRONLY, GATEWAY)
        await storage.write(created.handle, 0, path)
        await storage.release(created.handle)
        storage.forget(created.node)
        let_go(storage, parent)


async def make_link(storage: Any, source: bytes, path: bytes) -> None:
    """Give a file another name."""
    *above, name = path.split(b"/")
    parent = await walk_to(storage, *above)
    node = await walk_to(storage, *source.split(b"/"))
    await storage.link(node, parent, name, GATEWAY)
    let_go(storage, node)
    let_go(storage, parent)


class Victim:
    """A name that is about to go: its place and what it names."""

    def __init__(self, at: Place, found: Found) -> None:
        self.at = at
        self.found = found


@contextlib.asynccontextmanager
async def victim(storage: Any, path: bytes) -> AsyncIterator[Victim]:
    """Lend a name, as the vfs does before a delete."""
    *above, name = path.split(b"/")
    depths = range(len(above), 0, -1)
    chain = [await walk_to(storage, *above[:depth]) for depth in depths]
    parent = chain[0] if chain else storage.root
    found = await storage.lookup(parent, name)
    try:
        yield Victim(Place(parent, name, path, chain=chain), found)
    finally:
        if not storage.dead:
            storage.forget(found.node)
            for node in chain:
                let_go(storage, node)


async def delete(gateway: Parts, path: bytes, who: Deleter = WHO) -> None:
    """Delete a name, as unlink and rmdir do."""
    domain = await gateway.domain()
    async with victim(gateway.storage, path) as gone:
        if gone.found.attr.is_dir:
            await gateway.put.directory(domain, gone.at, gone.found, who)
        elif gone.found.attr.nlink > 1:
            await gateway.put.linked_file(domain, gone.at, gone.found, who)
        else:
            await gateway.put.file(domain, gone.at, gone.found, who)


async def entries_of(storage: Any, node: Node) -> list[DirEntry]:
    """List a directory."""
    async with listing(storage, node) as entries:
        return [listed.entry async for listed in entries]


async def delete_tree(gateway: Parts, path: bytes, who: Deleter = WHO) -> None:
    """Delete a directory with everything below it, bottom up, as `rm -rf` does."""
    storage = gateway.storage
    node = await walk_to(storage, *path.split(b"/"))
    entries = await entries_of(storage, node)
    let_go(storage, node)
    for entry in entries:
        below = path + b"/" + entry.name
        if entry.kind == stat.S_IFDIR:
            await delete_tree(gateway, below, who)
        else:
            await delete(gateway, below, who)
    await delete(gateway, path, who)


async def replace(gateway: Parts, source: bytes, path: bytes) -> None:
    """Rename over something that is kept."""
    domain, storage = await gateway.domain(), gateway.storage
    *above, name = source.split(b"/")
    parent = await walk_to(storage, *above)
    try:
        async with victim(storage, path) as gone:

            async def rename() -> None:
                await storage.rename(parent, name, gone.at.parent, gone.at.name, GATEWAY)

            put = gateway.put.replaced_file
            if gone.found.attr.is_dir:
                put = gateway.put.replaced_dir
            await put(domain, gone.at, gone.found, WHO, rename)
    finally:
        if not storage.dead:
            let_go(storage, parent)


# what the tests find


async def names_below(storage: Any, node: Node, path: bytes = b"") -> dict[bytes, bytes]:
    """Return every name below a directory, and its content (`dir` for a directory)."""
    names: dict[bytes, bytes] = {}
    for entry in await entries_of(storage, node):
        if entry.name == b".trashbin":
            continue
        is_dir = entry.kind == stat.S_IFDIR
        found = await (storage.resolve if is_dir else storage.lookup)(node, entry.name)
        here = path + b"/" + entry.name if path else entry.name
        names[here] = await content_of(storage, found)
        if found.attr.is_dir:
            names |= await names_below(storage, found.node, here)
        storage.forget(found.node)
    return names


async def content_of(storage: Any, found: Found) -> bytes:
    """Return what tells an inode apart from all others of a test."""
    if found.attr.is_dir:
        return b"dir"
    if found.attr.is_symlink:
        return b"-> " + await storage.readlink(found.node)
    handle = await storage.open(found.node, os.O_RDONLY, GATEWAY)
    content: bytes = await storage.read(handle, 0, 1 << 16)
    await storage.release(handle)
    return content
