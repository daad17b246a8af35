"""One trash: the `.trashbin` of a rename domain, its shards and hours.

Owns the directories of one trash as seen through one storage session, and the references to them.
Doesn't own what lies in the hours. Concurrency: any number of tasks; making a directory that
exists is not an error, so two gateways may set one domain up at the same time.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

from cephfs_ext.core.errors import (
    ExistsError,
    ExitCode,
    FSError,
    FullError,
    NotFoundError,
    UserError,
)
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY, Attr, Ino, Rank
from trashbin import layout
from trashbin.files import directory_in, make_dir, names_in, read_file, write_file
from trashbin.layout import USUAL, EntryName, ShardName, Term

_SPREAD = 0x9E3779B97F4A7C15
"""Fibonacci hashing: neighbouring inode numbers go to different shards."""

_HOUR_KEPT_S = 2 * layout.HOUR_S
"""How long after its end an hour's reference is kept: longer than any delete takes."""

_FORMAT_LIMIT = 4096

_ANY_RANK = Rank(-1)

_PIN_XATTR = b"ceph.dir.pin"


Step = Callable[[Storage, Node], Awaitable[None]]
"""Something to do in a directory, through a session."""


class TrashUnusableError(FSError):
    """The trash is not ours to use: a symlink, foreign-owned, of a newer format."""


class Shard(NamedTuple):
    """A directory that bounds the size of hours, placed on a rank."""

    key: ShardName
    node: Node

    @property
    def name(self) -> bytes:
        """Name of the directory."""
        return self.key.raw


class _Hour:
    """An hour whose reference the domain has, and how many use it at this moment."""

    __slots__ = ("is_dropped", "node", "users")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.users = 0
        self.is_dropped = False
        """True if the last user is to give the reference back."""


class Domain:
    """The trash of one rename domain; build it with `open_domain`."""

    def __init__(
        self,
        storage: Storage,
        root: Node,
        trash: Node,
        directories: dict[bytes, Node],
        relief: Storage | None,
        *,
        shards_per_rank: int,
    ) -> None:
        self.storage = storage
        self.root = root
        self.trash = trash
        self.directories = directories
        """What is known directly below `.trashbin`, by name; the references are the domain's."""
        self._shards_per_rank = shards_per_rank
        self._relief = relief
        self._shards: dict[Term, list[Shard]] = {}
        self._adding = trio.Lock()
        self._hours: dict[tuple[Ino, bytes], _Hour] = {}

    def service(self, name: bytes) -> Node:
        """Return one of the service directories (`layout.SERVICE_DIRS`)."""
        return self.directories[name]

    def lock_of(self, ino: Ino) -> Node:
        """Choose the directory whose lock guards an inode.

        Every gateway has to choose the same one, so it can't be a shard: how many of them there
        are depends on settings, and on the ranks that there were when a gateway started.
        """
        return self.directories[layout.SERVICE_DIRS[_spread(ino) % len(layout.SERVICE_DIRS)]]

    def shards(self, term: Term = USUAL) -> list[Shard]:
        """Return the shards of a term that puts go to; there may be others of a larger setting."""
        if term not in self._shards:
            wanted = _wanted_shards(self.storage, self._shards_per_rank, term)
            there = [Shard(key, self.directories[key.raw]) for key in wanted if key.raw in self]
            self._shards[term] = there
        return self._shards[term]

    def __contains__(self, name: bytes) -> bool:
        """Tell whether a directory of the trash is known."""
        return name in self.directories

    def shard_of(self, ino: Ino, rank: Rank = _ANY_RANK, term: Term = USUAL) -> Shard:
        """Choose the shard for what is deleted from a directory.

        Args:
            rank: of the directory, so that the rename stays within it; a rank without shards
                (there are more of them now than when the domain was set up) gets any.
            term: as usual where the domain has no shards of it.
        """
        shards = self.shards(term) or self.shards()
        shards = [shard for shard in shards if shard.key.rank == rank] or shards
        return shards[_spread(ino) % len(shards)]

    def tombs(self, term: Term = USUAL) -> bytes:
        """Return the name of the directory of tombstones of a term, where the domain has it."""
        name = layout.tombs_name(term)
        return name if name in self else layout.TOMBS

    async def counterpart(self, above: bytes, term: Term) -> bytes:
        """Return the directory for things of `above` that are to be kept for another term.

        Of the same rank, so that a rename stays within it; made if it was missing.
        """
        await self.add_term(term)
        shard = layout.parse_shard(above)
        if shard is None:
            return self.tombs(term)
        name = shard._replace(term=term).raw
        return name if name in self else self.shard_of(Ino(shard.number), shard.rank, term).name

    async def add_term(self, term: Term) -> None:
        """Make what things need that are kept for a term; a full quota doesn't stop it."""
        wanted = [key.raw for key in _wanted_shards(self.storage, self._shards_per_rank, term)]
        async with self._adding:
            for name in (*wanted, layout.tombs_name(term)):
                if name not in self:
                    await self._add(name, await self.make(self.trash, name))

    async def look_again(self) -> None:
        """Take note of directories that other gateways have made since."""
        for name in await names_in(self.storage, self.trash):
            if layout.has_hours(name) and name not in self:
                with contextlib.suppress(NotFoundError, ExistsError):
                    found = await directory_in(self.storage, self.trash, name)
                    await self._add(name, found.node)

    async def _add(self, name: bytes, node: Node) -> None:
        """Take a directory with its reference, and place it on its rank."""
        if name in self:  # another task was faster
            self.storage.forget(node)
            return
        self.directories[name] = node
        self._shards.clear()
        shard = layout.parse_shard(name)
        if shard is not None:
            await _place(self.storage, node, shard.rank)

    async def hour_in(self, above: Node, hour: bytes) -> Node:
        """Return the directory of an hour in a shard (or in `tombs`), made if it was missing.

        The reference stays the domain's, and may go at any time if `above` is a shard, or one of
        tombstones (`lent_hour`).

        Raises:
            FullError: it could not be made, not even without quota.
        """
        return (await self._hour_in(above, hour)).node

    async def _hour_in(self, above: Node, hour: bytes) -> _Hour:
        key = (above.ino, hour)
        if key not in self._hours:
            node = await self.make(above, hour)
            if key in self._hours:  # another task was faster
                self.storage.forget(node)
            else:
                self._forget_old_hours()
                self._hours[key] = _Hour(node)
        return self._hours[key]

    @asynccontextmanager
    async def entry_dir(self, shard: Shard, entry: EntryName) -> AsyncIterator[Node]:
        """Lend the directory that an entry goes to, made if it was missing."""
        async with self.lent_hour(shard.node, entry.hour) as above:
            if len(entry.path) == 1:
                yield above
                return
            long_name_dir = await self.make(above, entry.path[0])
            try:
                yield long_name_dir
            except BaseException:
                with trio.CancelScope(shield=True), contextlib.suppress(FSError):
                    await self.storage.rmdir(above, entry.path[0], GATEWAY)
                raise
            finally:
                self.storage.forget(long_name_dir)

    @asynccontextmanager
    async def lent_hour(self, above: Node, hour: bytes) -> AsyncIterator[Node]:
        """Lend the directory of an hour, made if it was missing, of an old one too."""
        if not _is_old(hour):
            lent = await self._hour_in(above, hour)
            lent.users += 1
            try:
                yield lent.node
            finally:
                lent.users -= 1
                if lent.is_dropped and not lent.users:
                    self.storage.forget(lent.node)
            return
        node = await self.make(above, hour)
        try:
            yield node
        finally:
            self.storage.forget(node)

    async def in_hour(self, above: Node, hour: bytes, step: Callable[[], Awaitable[None]]) -> None:
        """Carry out a step that lends an hour, anew if the hour has been removed meanwhile.

        Raises:
            NotFoundError: what else the step needs is gone.
        """
        try:
            await step()
        except NotFoundError:
            self.drop_hour(above, hour)
            await step()

    async def move_in(self, shard: Shard, entry: EntryName, above: Node, name: bytes) -> None:
        """Rename something of the gateway's own to where an entry lies in a shard."""

        async def rename() -> None:
            async with self.entry_dir(shard, entry) as directory:
                await self.storage.rename(above, name, directory, entry.path[-1], GATEWAY)

        await self.in_hour(shard.node, entry.hour, rename)

    def drop_hour(self, above: Node, hour: bytes) -> None:
        """Forget a directory that turned out to be gone, or may be: others may be using it."""
        self._drop((above.ino, hour))

    def _drop(self, key: tuple[Ino, bytes]) -> None:
        hour = self._hours.pop(key, None)
        if hour is not None and hour.users:
            hour.is_dropped = True
        elif hour is not None:
            self.storage.forget(hour.node)

    async def make(self, above: Node, name: bytes) -> Node:
        """Make (or find) a directory of the trash; the caller owns the reference.

        A full quota does not stop it: what is deleted needs a place to go.
        """
        try:
            found = await directory_in(self.storage, above, name)
        except NotFoundError:
            try:
                found = await make_dir(self.storage, above, name, layout.TRASH_MODE)
            except FullError:
                await self._without_quota(above, _making(name))
                found = await directory_in(self.storage, above, name)
        return found.node

    async def in_spite_of_quota(self, above: Node, step: Step) -> None:
        """Carry out a step in a directory of the trash, which a full quota does not stop.

        Args:
            step: is given a session, and the directory as that session knows it; it may be
                carried out twice, the second time after it has failed without changing anything.

        Raises:
            FullError: there is no session without quota, or the storage itself is full.
        """
        try:
            await step(self.storage, above)
        except FullError:
            await self._without_quota(above, step)

    async def _without_quota(self, above: Node, step: Step) -> None:
        relief = self._relief
        if relief is None:
            raise FullError(what="the quota is full")
        there = await self._found_by(relief, above)
        try:
            await step(relief, there)
        finally:
            relief.forget(there)

    async def _found_by(self, relief: Storage, node: Node) -> Node:
        """Return what the session without quota calls a node; the caller owns the reference.

        Raises:
            FullError: it isn't found: ceph doesn't find all that there is while a pool is full.
        """
        try:
            return (await relief.find(node.ino, self.storage.token(node))).node
        except NotFoundError as exc:
            raise FullError(what="it can't be done without quota either") from exc

    async def link_without_quota(self, node: Node, above: Node, name: bytes) -> None:
        """Link an inode into the trash where a full quota forbids it to the user's session.

        Raises:
            FullError: there is no session without quota, or the storage itself is full.
        """

        async def link(relief: Storage, there: Node) -> None:
            source = await self._found_by(relief, node)
            try:
                await relief.link(source, there, name, GATEWAY)
            finally:
                relief.forget(source)

        await self._without_quota(above, link)

    def _forget_old_hours(self) -> None:
        for key in list(self._hours):
            if _is_old(key[1]):
                self._drop(key)

    async def is_whole(self) -> bool:
        """Tell whether everything is in its place; other clients may remove what they like."""
        if not await self._lies(self.root, layout.TRASH_NAME, self.trash):
            return False
        for name, node in list(self.directories.items()):
            if not await self._lies(self.trash, name, node):
                return False
        return True

    async def _lies(self, above: Node, name: bytes, node: Node) -> bool:
        try:
            found = await self.storage.resolve(above, name)
        except NotFoundError:
            return False
        self.storage.forget(found.node)
        return found.node.ino == node.ino

    def close(self) -> None:
        """Give all references back, but not that to the domain's root, which is the opener's."""
        for node in (self.trash, *self.directories.values()):
            self.storage.forget(node)
        for key in list(self._hours):
            self._drop(key)


def _is_old(hour: bytes) -> bool:
    end_s = layout.hour_end_s(hour)
    return end_s is not None and end_s < time.time() - _HOUR_KEPT_S


def _spread(ino: Ino) -> int:
    return ((ino * _SPREAD) & 0xFFFF_FFFF_FFFF_FFFF) >> 32


def _making(name: bytes) -> Step:
    async def make(storage: Storage, above: Node) -> None:
        storage.forget((await make_dir(storage, above, name, layout.TRASH_MODE)).node)

    return make


async def open_domain(
    storage: Storage,
    root: Node,
    *,
    owner_uid: int,
    shards_per_rank: int,
    terms: Collection[Term] = (),
    relief: Storage | None = None,
) -> Domain:
    """Open the trash of the domain that starts at `root`, set up if there is none.

    Args:
        owner_uid: who the gateway is on the storage; the trash of anybody else is refused.
        terms: others than the usual one, for which things will be kept.
        relief: a session of the same storage without quota, for what must not fail at quota.

    Raises:
        TrashUnusableError: EPERM; `.trashbin` is a symlink, foreign-owned or of a newer format.
    """
    trash = await _open_trash(storage, root, owner_uid)
    held = [trash]
    try:
        await _pin(storage, trash, Rank(0))
        await _check_format(storage, trash)
        directories: dict[bytes, Node] = {}
        async for name, node in _open_directories(storage, trash, shards_per_rank):
            directories[name] = node
            held.append(node)
    except BaseException:
        for node in held:
            storage.forget(node)
        raise
    domain = Domain(storage, root, trash, directories, relief, shards_per_rank=shards_per_rank)
    try:
        for term in terms:
            await domain.add_term(term)
    except BaseException:
        domain.close()
        raise
    return domain


def _wanted_shards(storage: Storage, per_rank: int, term: Term) -> list[ShardName]:
    return [
        ShardName(Rank(rank), number, term)
        for number in range(per_rank)
        for rank in range(storage.ranks)
    ]


async def _open_directories(
    storage: Storage, trash: Node, shards_per_rank: int
) -> AsyncIterator[tuple[bytes, Node]]:
    """Open what is there, and make what is missing; the consumer owns the references."""
    there = [
        name
        for name in await names_in(storage, trash)
        if name in layout.SERVICE_DIRS or layout.has_hours(name)
    ]
    wanted = [key.raw for key in _wanted_shards(storage, shards_per_rank, USUAL)]
    for name in dict.fromkeys((*layout.SERVICE_DIRS, *there, *wanted)):
        node = await _make_dir(storage, trash, name)
        yield name, node
        shard = layout.parse_shard(name)
        if shard is not None:
            await _place(storage, node, shard.rank)


async def _place(storage: Storage, shard: Node, rank: Rank) -> None:
    """Place a shard on its rank, with something in it.

    A directory that is empty isn't moved before something is made in it: the first delete of a
    gateway had to wait for that.
    """
    if storage.ranks > 1:
        found = await make_dir(storage, shard, layout.FRESH, layout.TRASH_MODE)
        storage.forget(found.node)
    await _pin(storage, shard, rank)


async def _pin(storage: Storage, node: Node, rank: Rank) -> None:
    """Place a directory on a rank, once: doing that again could stall who uses it."""
    if rank >= storage.ranks or storage.ranks == 1:
        return
    with contextlib.suppress(FSError):
        if await storage.getxattr(node, _PIN_XATTR) == b"%d" % rank:
            return
    await storage.pin(node, rank)


async def _make_dir(storage: Storage, above: Node, name: bytes) -> Node:
    try:
        return (await make_dir(storage, above, name, layout.TRASH_MODE)).node
    except ExistsError as exc:
        raise TrashUnusableError(
            1, f".trashbin: {name.decode()} is no directory; move it away"
        ) from exc


async def _open_trash(storage: Storage, root: Node, owner_uid: int) -> Node:
    try:
        found = await storage.resolve(root, layout.TRASH_NAME)
    except NotFoundError:
        try:
            found = await make_dir(storage, root, layout.TRASH_NAME, layout.TRASH_MODE)
        except ExistsError:  # somebody has just made something else
            found = await storage.resolve(root, layout.TRASH_NAME)
    problem = _foreign(found.attr, owner_uid)
    if problem:
        storage.forget(found.node)
        raise TrashUnusableError(1, f".trashbin {problem}")
    return found.node


def _foreign(attr: Attr, owner_uid: int) -> str:
    if attr.is_symlink:
        return "is a symbolic link; remove it"
    if not attr.is_dir:
        return "is no directory; move it away"
    if attr.uid != owner_uid:
        return f"belongs to uid {attr.uid}, not to the gateway (uid {owner_uid}); move it away"
    return ""


async def _check_format(storage: Storage, trash: Node) -> None:
    try:
        raw = await read_file(storage, trash, layout.FORMAT_NAME, limit=_FORMAT_LIMIT)
    except NotFoundError:
        text = json.dumps({"version": layout.FORMAT_VERSION}) + "\n"
        await write_file(storage, trash, layout.FORMAT_NAME, text.encode())
        return
    try:
        version = json.loads(raw)["version"]
    except (ValueError, KeyError, TypeError) as exc:
        raise TrashUnusableError(
            1, '.trashbin/format.json can\'t be read; restore it as {"version": 1}'
        ) from exc
    if version != layout.FORMAT_VERSION:
        raise TrashUnusableError(
            1,
            f".trashbin has format version {version}, this gateway knows "
            f"{layout.FORMAT_VERSION}; use the newer gateway",
        )


@asynccontextmanager
async def directory_at(domain: Domain, *path: bytes) -> AsyncIterator[Node]:
    """Lend a directory of the trash, by its path below `.trashbin`.

    Raises:
        NotFoundError: it is gone.
    """
    held: list[Node] = []
    first, *rest = path
    node = domain.directories.get(first)
    if node is None:
        raise NotFoundError()
    try:
        for name in rest:
            node = (await domain.storage.resolve(node, name)).node
            held.append(node)
        yield node
    finally:
        for node in held:
            domain.storage.forget(node)


@asynccontextmanager
async def lying_in(
    domain: Domain, above: bytes, hour: bytes, path: tuple[bytes, ...]
) -> AsyncIterator[tuple[Node, bytes]]:
    """Lend the directory that an entry lies in, and its name there.

    Raises:
        NotFoundError: the hour is gone: expired, or being purged.
    """
    async with directory_at(domain, above, hour, *path[:-1]) as node:
        yield node, path[-1]


def unusable(problem: TrashUnusableError, where: str) -> UserError:
    """Turn a refusal into what the command line says."""
    return UserError(f"{where}: {problem.what}", ExitCode.CONFLICT)
