"""Restore: how what was deleted comes back.

What is to come back is first assembled aside, in the directory of the run: the top of the tree,
then what an `rm -rf` had taken out of it, each by a rename. Then one step makes it appear.

A tombstone is made an entry first, which takes its place in the trash at every moment; from then
on both are the same.

The plan, written before anything moves, lets recovery finish or undo a run whose gateway died. A
run holds the lock of its directory, so that no other gateway takes it for dead.

States of a run: planned, assembling, appearing, done. Undoing renames the top back to where it
lay: whatever had been put into it stays in it, and the rest still finds it by its inode. A run
that is cancelled while it assembles is undone; one that appears is finished. Of two gateways that
restore the same entry one wins, since taking it is a rename; the other finds nothing.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import secrets
from collections.abc import AsyncIterator
from typing import NamedTuple

import trio

from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.errors import ExistsError, FSError, NotFoundError, TryAgainError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY, AttrChange, Ino
from trashbin import layout, links, tombs
from trashbin.catalog import Item, find_again
from trashbin.domain import Domain, Shard, lying_in
from trashbin.files import RENAME_NOREPLACE
from trashbin.progress import Progress
from trashbin.runs import MADE, PLAN, TREE, Plan, Target, appear, remove_run, undo
from trashbin.settle import settling
from trashbin.spare import Spare
from trashbin.strays import walk
from trashbin.tasks import for_each
from trashbin.tombs import Tomb
from trashbin.trees import Tree

_log = logging.getLogger(__name__)

_AT_ONCE = 8
"""Entries of one directory that are moved at the same time."""


class Outcome(enum.Enum):
    """What became of a restore."""

    RESTORED = "restored"
    PARTLY = "partly_restored"
    WOULD_RESTORE = "would_restore"
    SKIPPED = "skipped"
    CONFLICT = "conflict"
    DENIED = "denied"
    STOPPED = "stopped"
    NOT_FOUND = "not_found"
    FAILED = "failed"


class Failure(NamedTuple):
    """Something in a tree that could not be put back: it is in the trash, or gone."""

    path: bytes
    reason: str


class Restored(NamedTuple):
    """What a run brought back."""

    entries: int
    failures: list[Failure]
    ino: Ino
    """Inode that appeared."""
    inos: list[Ino]
    """Inodes that left the trash, that of the top among them."""
    older: int
    """Entries that stay in the trash: the tree had their names anew when it was deleted."""


class Restore:
    """Brings trees back, through the background session."""

    def __init__(self, storage: Storage, *, instance: str, clock: MonotonicNs) -> None:
        self._storage = storage
        self._instance = instance
        self._clock = clock

    async def tree(
        self, domain: Domain, tree: Tree, target: Target, progress: Progress | None = None
    ) -> Restored:
        """Make a tree appear at a place where nothing is. Once it has appeared, it returns.

        Args:
            progress: counts entries.

        Raises:
            ExistsError: something is there; the tree is in the trash as before.
            NotFoundError: the top is no longer in the trash.
            TryAgainError: EAGAIN; nothing has changed.
            FSError: anything else; what had been put together stays together in the trash.
        """
        progress = progress or Progress()
        with trio.CancelScope() as scope:
            async with settling(domain), self._run(domain) as aside:
                plan = _plan(domain, tree.top, target)
                try:
                    found = await self._storage.symlink(aside, PLAN, plan.encode(), GATEWAY)
                    self._storage.forget(found.node)
                    await self._take(domain, tree.top, aside, Target(aside, TREE))
                    restored = await self._assemble(domain, tree, aside, progress)
                    scope.shield = True
                    clean = await appear(domain, aside, target)
                except BaseException:
                    await _undo(domain, plan, aside)
                    raise
                progress.add()
                if clean:
                    await self._forget_plan(aside)
                await self._release(domain, tree)
        return restored

    async def _release(self, domain: Domain, tree: Tree) -> None:
        """Let the inodes that came back by a name of several forget the tombstones."""
        spare = Spare(domain)
        try:
            for part, _ in tree.walk():
                tomb = part.top.tomb
                if tomb is not None and tomb.kind == "link":
                    await spare.release(tomb)
        except FSError as exc:
            _log.warning("what tombstones have noted stays: %s", exc)

    @contextlib.asynccontextmanager
    async def _run(self, domain: Domain) -> AsyncIterator[Node]:
        """Lend a directory to assemble in, locked; it goes in the end if it is empty."""
        run = layout.make_id(self._clock(), self._instance).encode()
        restoring = domain.service(layout.RESTORING)
        aside = (await self._storage.mkdir(restoring, run, 0o700, GATEWAY)).node
        try:
            async with self._storage.exclusive(aside):
                if not await links.has_name(self._storage, restoring, run, aside.ino):
                    raise TryAgainError(what="a recovery has just removed the empty run")
                yield aside
        finally:
            await remove_run(self._storage, restoring, run)
            self._storage.forget(aside)

    async def _forget_plan(self, aside: Node) -> None:
        try:
            with trio.CancelScope(shield=True):
                await self._storage.unlink(aside, PLAN, GATEWAY)
        except FSError as exc:
            _log.warning("the plan of a restore is left to recovery: %s", exc)

    async def _take(self, domain: Domain, item: Item, aside: Node, to: Target) -> None:
        """Move one deleted name out of the trash, replacing nothing.

        Raises:
            NotFoundError: it is no longer in the trash.
            ExistsError: its directory has something of that name.
        """
        if item.tomb is None:
            await self._move(domain, item, item.above, to)
            return
        with trio.CancelScope(shield=True):  # else both would be left
            await self._make_entry(domain, item, item.tomb, aside)
        shard = _shard_of(domain, item).name
        try:
            await self._move(domain, item, shard, to)
        except BaseException:
            await links.bury_link(domain, shard, item.entry)
            raise

    async def _move(self, domain: Domain, item: Item, shard: bytes, to: Target) -> None:
        flags = RENAME_NOREPLACE
        if not self._storage.rename_noreplace:
            flags = 0
            await self._check_free(to)  # nobody else makes names aside
        async with lying_in(domain, shard, item.entry.hour, item.entry.path) as (above, leaf):
            await self._storage.rename(above, leaf, *to, GATEWAY, flags)
        await links.drop_long_name_dir(domain, shard, item.entry)

    async def _check_free(self, to: Target) -> None:
        with contextlib.suppress(NotFoundError):
            found = await self._storage.resolve(*to)
            self._storage.forget(found.node)
            raise ExistsError()

    async def _make_entry(self, domain: Domain, item: Item, tomb: Tomb, aside: Node) -> None:
        """Let an entry take the place of a tombstone, under the lock of its inode.

        Raises:
            NotFoundError: the tombstone is gone, or the inode.
        """
        path = (layout.tomb_name(item.entry, tomb.ino),)
        async with self._storage.exclusive(domain.lock_of(tomb.ino)):
            async with lying_in(domain, item.above, item.entry.hour, path) as (above, name):
                self._storage.forget((await self._storage.resolve(above, name)).node)
            if tomb.kind == "link":
                await self._link_again(domain, item, tomb)
            else:
                await self._make_dir_again(domain, item, tomb, aside)
            await tombs.exhume(domain, item.entry, tomb.ino, layout.term_of(item.above))

    async def _link_again(self, domain: Domain, item: Item, tomb: Tomb) -> None:
        found = await self._storage.find(tomb.ino, tomb.token)
        try:
            shard = _shard_of(domain, item)
            async with domain.entry_dir(shard, item.entry) as above:
                with contextlib.suppress(ExistsError):
                    await self._storage.link(found.node, above, item.entry.path[-1], GATEWAY)
        finally:
            self._storage.forget(found.node)

    async def _make_dir_again(self, domain: Domain, item: Item, tomb: Tomb, aside: Node) -> None:
        """Make a directory, with all that is known of it before it becomes an entry."""
        name = MADE + secrets.token_hex(8).encode()
        made = await self._storage.mkdir(aside, name, tomb.mode & 0o7777, GATEWAY)
        try:
            await self._set_attributes(made.node, tomb)
            shard = _shard_of(domain, item)
            async with domain.entry_dir(shard, item.entry) as above:
                leaf = item.entry.path[-1]
                await self._storage.rename(aside, name, above, leaf, GATEWAY)
        except BaseException:
            with trio.CancelScope(shield=True), contextlib.suppress(FSError):
                await self._storage.rmdir(aside, name, GATEWAY)
            raise
        finally:
            self._storage.forget(made.node)

    async def _set_attributes(self, node: Node, tomb: Tomb) -> None:
        change = AttrChange(uid=tomb.uid, gid=tomb.gid)
        await self._storage.setattr(node, change, GATEWAY)
        for key, value in tomb.xattrs:
            await self._storage.setxattr(node, key, value, GATEWAY)
        change = AttrChange(mode=tomb.mode & 0o7777, mtime_ns=tomb.mtime_ns)
        await self._storage.setattr(node, change, GATEWAY)

    async def _assemble(
        self, domain: Domain, tree: Tree, aside: Node, progress: Progress
    ) -> Restored:
        """Put what was taken out of the tree back into it, parents first."""
        top = await self._storage.resolve(aside, TREE)
        work = _Assembly(self, domain, aside, progress)
        try:
            work.inos.append(top.attr.ino)
            await work.fill(tree, top.node)
        finally:
            self._storage.forget(top.node)
        return Restored(1 + work.entries, work.failures, top.attr.ino, work.inos, work.older)

    async def put_back(self, domain: Domain, item: Item, aside: Node, above: Node) -> None:
        """Put one deleted name back into its directory, which lies aside.

        Wherever in the trash it is by now: the last link of an inode takes the place of its
        tombstone, and what is held or released lies elsewhere.

        Raises:
            NotFoundError: it is no longer in the trash.
            ExistsError: its directory has something of that name.
        """
        to = Target(above, item.entry.name)
        try:
            await self._take(domain, item, aside, to)
        except NotFoundError:
            moved = await find_again(domain, item.entry, item.ino, is_dir=item.is_dir)
            if moved is None or (moved.above, moved.tomb) == (item.above, item.tomb):
                raise
            await self._take(domain, moved, aside, to)

    @property
    def storage(self) -> Storage:
        """The session that restores use."""
        return self._storage


async def _undo(domain: Domain, plan: Plan, aside: Node) -> None:
    """Undo a run that failed; what can't be undone at the second try is left to recovery."""
    for last in (False, True):
        try:
            with trio.CancelScope(shield=True):
                await undo(domain, plan, aside)
            return
        except FSError as exc:
            if last:
                _log.warning("a restore that failed is left to recovery: %s", exc)


def _shard_of(domain: Domain, item: Item) -> Shard:
    """Choose the shard in which an entry takes the place of a tombstone."""
    return domain.shard_of(item.entry.parent, term=layout.term_of(item.above))


def _plan(domain: Domain, top: Item, target: Target) -> Plan:
    above = top.above if top.tomb is None else _shard_of(domain, top).name
    token = domain.storage.token(target.parent)
    return Plan(above, top.entry.hour, top.entry.path, target.parent.ino, token, target.name)


class _Assembly:
    """Puts a tree together; collects what could not be put back."""

    def __init__(self, restore: Restore, domain: Domain, aside: Node, progress: Progress) -> None:
        self._progress = progress
        self._restore = restore
        self._domain = domain
        self._aside = aside
        self._storage = restore.storage
        self.entries = 0
        self.failures: list[Failure] = []
        self.inos: list[Ino] = []
        self.older = 0

    async def fill(self, tree: Tree, node: Node) -> None:
        """Fill a directory and all below it."""
        stack: list[tuple[Tree, Node, bytes]] = []
        await self._fill_one(tree, node, b"", stack)
        try:
            while stack:
                tree, node, path = stack.pop()
                try:
                    await self._fill_one(tree, node, path, stack)
                finally:
                    self._storage.forget(node)
        finally:
            for _, node, _ in stack:
                self._storage.forget(node)

    async def _fill_one(
        self, tree: Tree, node: Node, path: bytes, stack: list[tuple[Tree, Node, bytes]]
    ) -> None:
        """Fill one directory; those in it that have to be filled go onto the stack."""
        back: list[Tree] = []

        async def one(child: Tree) -> None:
            if await self._put_back(child, node, path):
                back.append(child)

        await for_each(tree.children, one, at_once=_AT_ONCE)
        for child in back:
            if child.children:
                names = (*child.inner, child.top.entry.name)
                below = await walk(self._storage, node, names)
                stack.append((child, below, b"/".join((path, *names))))

    async def _put_back(self, child: Tree, node: Node, path: bytes) -> bool:
        """Put one entry back; where that fails, what was in it can't be put back either.

        Nor is it where the directory got another of that name before it went itself.
        """
        try:
            if child.inner:
                await self._put_back_within(child, node)
            else:
                await self._restore.put_back(self._domain, child.top, self._aside, node)
        except ExistsError:
            self.older += sum(1 for _ in child.walk())
            return False
        except FSError as exc:
            path = b"/".join((path, *child.inner, child.top.entry.name))
            for _, below in child.walk():
                self.failures.append(Failure(b"/".join((path, *below)).lstrip(b"/"), str(exc)))
            return False
        self._progress.add()
        self.entries += 1
        self.inos.append(child.top.ino)
        return True

    async def _put_back_within(self, child: Tree, node: Node) -> None:
        """Put an entry back into a directory that is in the tree already."""
        within = await walk(self._storage, node, child.inner)
        try:
            await self._restore.put_back(self._domain, child.top, self._aside, within)
        finally:
            self._storage.forget(within)
