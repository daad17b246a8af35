"""Put: how a name goes into the trash.

**One rename is the commit point of a delete.** Before it nothing has changed; after it the entry
is in the trash even if the gateway dies at once, and a delete does not fail any more. What is
replaced by a rename is linked into the trash before, so that the rename stays atomic.

An inode that has other names needs no link in the trash, and users would count it: a tombstone
takes its place, which is a matter of `trashbin.links`.

Each function takes the place of one storage call and keeps its POSIX meaning; the caller has
checked the deleter's rights. Concurrency: any number of tasks and gateways; names in the trash
never collide, because the clock never repeats within an instance.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence

import trio

from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.errors import (
    ExchangedError,
    ExistsError,
    FSError,
    FullError,
    NotEmptyError,
    NotFoundError,
)
from cephfs_ext.core.ports import Found, Meter, Move, Node, Storage
from cephfs_ext.core.types import GATEWAY, Attr, Ino, Rank
from trashbin import layout, links, tombs
from trashbin.audit import Audit, Deleter, Was
from trashbin.domain import Domain, lying_in
from trashbin.files import RENAME_NOREPLACE, exists, is_empty, make_like, remove_quietly
from trashbin.layout import USUAL, EntryName, Term

__all__ = ["Deleter", "Place", "Put"]

_log = logging.getLogger(__name__)

_FIRST = Rank(0)

_ATTEMPTS = 3
"""How often a put begins anew: an hour directory vanished, or the victim was exchanged."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A name that is about to go."""

    parent: Node
    name: bytes
    path: bytes
    """Relative to the domain's root."""
    rank: Rank = _FIRST
    """Metadata server that has the parent's content."""
    term: Term = USUAL
    """How long it is to be kept."""
    chain: Sequence[Node] = ()
    """The parent, what it is in, and so on, without the domain's root; nothing if that isn't
    known."""
    ino: Ino | None = None
    """Which inode has the name; None for whatever has it when it goes."""
    deleted_ns: int | None = None
    """When it was deleted, by `Put.stamp`; None if it is at this moment."""


_Step = Callable[[Node, bytes], Awaitable[None]]
_Replace = Callable[[], Awaitable[None]]
_Before = Callable[[Found], Awaitable[None]]


class Put:
    """Moves names into the trash, for one running gateway."""

    def __init__(
        self,
        storage: Storage,
        audit: Audit,
        meter: Meter,
        *,
        instance: str,
        clock: MonotonicNs,
    ) -> None:
        self._storage = storage
        self._audit = audit
        self._meter = meter
        self._instance = instance
        self._clock = clock

    def stamp(self, who: Deleter) -> int:
        """Return the time of a delete that is carried out later; no other has the same."""
        self._audit.begin(who)  # no entry is older than its event
        return self._clock()

    async def file(self, domain: Domain, at: Place, victim: Found, who: Deleter) -> EntryName:
        """Move a file or symlink with one name into the trash.

        Raises:
            NotFoundError: the name is gone; nothing has changed.
            ExchangedError: another inode than `at` says has it; nothing has changed, or, if it was
                given back and its place was taken once more, it is in the trash.
            FullError: the trash has no room, not even without quota; nothing has changed.
        """
        entry = await self._move(domain, at, who)
        self._done(domain, entry, at, victim.attr, who, _kind(victim.attr))
        return entry

    async def files(
        self, domain: Domain, places: Sequence[Place], attrs: Sequence[Attr], who: Deleter
    ) -> Sequence[bool]:
        """Do what `file` does for many names of one directory, by a single call to the storage.

        Args:
            places: alike but for name, inode and time.
            attrs: of what has the names.

        Returns:
            For each whether that is done; the others are to be deleted one by one.

        Raises:
            FSError: nothing has changed.
        """
        first, entries = places[0], [self._entry(at, who) for at in places]
        shard = domain.shard_of(first.parent.ino, first.rank, first.term)
        hour, done = entries[0].hour, [False] * len(places)
        some = [i for i, one in enumerate(entries) if one.hour == hour and len(one.path) == 1]
        moves = [Move(places[i].name, entries[i].path[0], attrs[i].ino) for i in some]
        with trio.CancelScope(shield=True):
            async with domain.lent_hour(shard.node, hour) as above:
                outcomes = await self._storage.move_many(first.parent, above, moves)
            for i, outcome in zip(some, outcomes, strict=True):
                done[i] = isinstance(outcome, bool)
                if outcome is True:
                    self._done(domain, entries[i], places[i], attrs[i], who, _kind(attrs[i]))
                elif outcome is False:
                    await self._undo_move(domain, places[i], entries[i], who)
        return done

    async def linked_file(self, domain: Domain, at: Place, victim: Found, who: Deleter) -> bool:
        """Move one of several names of an inode into the trash.

        Returns:
            True if the trash holds a link of the inode now, False if a tombstone stands for it.

        Raises:
            NotFoundError: the name is gone; nothing has changed.
            FullError: as in `file`.
        """
        entry = await self._move(domain, at, who)
        self._done(domain, entry, at, victim.attr, who, "link")
        return await self._keeps_link(domain, at, entry)

    async def directory(self, domain: Domain, at: Place, victim: Found, who: Deleter) -> None:
        """Move an empty directory into the trash.

        Raises:
            NotEmptyError: it is not empty, or something was made in it at this very moment; the
                directory is in its place, or, if that was taken at once, whole in the trash.
            FSError: nothing has changed.
        """
        if not await is_empty(self._storage, victim.node, but=layout.TRASH_NAME):
            raise NotEmptyError()
        with trio.CancelScope(shield=True):
            entry = await self._move(domain, at, who)
            try:
                stayed_empty = await is_empty(self._storage, victim.node, but=layout.TRASH_NAME)
            except FSError as exc:
                _log.warning("directory %s can't be read: %s", entry.id, exc)
                stayed_empty = False
            if stayed_empty or not await self._take_back(domain, at, entry):
                self._done(domain, entry, at, victim.attr, who, "dir")
        if not stayed_empty:
            raise NotEmptyError()

    async def tree(self, domain: Domain, at: Place, victim: Found, who: Deleter) -> EntryName:
        """Move a directory into the trash with everything below it."""
        entry = await self._move(domain, at, who)
        self._done(domain, entry, at, victim.attr, who, "tree")
        return entry

    async def truncated(
        self, domain: Domain, at: Place, victim: Found, who: Deleter, before: _Before
    ) -> Found:
        """Keep the content of a file that is about to be truncated to nothing.

        An empty file like it is made aside, and replaces it.

        Args:
            victim: has one name, and nobody has it open.
            before: called with the empty file before it appears.

        Returns:
            The fresh inode; the reference is the caller's.

        Raises:
            NotFoundError: the name is gone, or another inode's by now; nothing has changed.
            FSError: nothing has changed.
        """
        shard = domain.shard_of(at.parent.ino, at.rank, at.term)
        aside = await domain.hour_in(shard.node, layout.FRESH)
        name = self._entry(at, who).id.encode()
        fresh = await make_like(self._storage, aside, name, victim)

        async def replace() -> None:
            if not await links.has_name(self._storage, at.parent, at.name, victim.attr.ino):
                raise NotFoundError(what="another file has taken the name")
            await self._storage.rename(aside, name, at.parent, at.name, GATEWAY)

        try:
            await before(fresh)
            await self._replaced(domain, at, victim, who, replace, kind="truncated")
        except BaseException:
            self._storage.forget(fresh.node)
            with trio.CancelScope(shield=True), contextlib.suppress(FSError):
                await remove_quietly(self._storage, aside, name)
            raise
        return fresh

    async def replaced_file(
        self, domain: Domain, at: Place, victim: Found, who: Deleter, replace: _Replace
    ) -> bool:
        """Keep a file over which something is renamed; the replacement stays atomic.

        What has the name is linked into the trash, then `replace` does the rename. When that fails
        the link is taken back; when the gateway dies in between, recovery finds the entry's inode
        live at its place and drops the entry. Somebody who replaces the file by another in the
        moment between the last look at it and the rename gets the other really replaced.

        Returns:
            True if the trash holds a link of the victim now, False if a tombstone stands for it.

        Raises:
            FSError: what `replace` raised; nothing has changed.
        """
        return await self._replaced(domain, at, victim, who, replace, kind="replaced")

    async def _replaced(
        self,
        domain: Domain,
        at: Place,
        victim: Found,
        who: Deleter,
        replace: _Replace,
        *,
        kind: str,
    ) -> bool:
        kept = await self._keep(domain, at, victim, who)
        if kept is None:
            await replace()
            return False
        entry, attr = kept
        try:
            await replace()
        except BaseException:
            await self._unlink_unless_replaced(domain, at, entry, attr)
            raise
        if attr.nlink == 1 and await self._unlink_unless_replaced(domain, at, entry, attr):
            return False  # at the last moment somebody has moved it away, maybe into the trash
        self._done(domain, entry, at, attr, who, kind)
        if attr.nlink > 1:
            return await self._keeps_link(domain, at, entry)
        return True

    async def replaced_dir(
        self, domain: Domain, at: Place, victim: Found, who: Deleter, replace: _Replace
    ) -> bool:
        """Keep a tombstone of an empty directory over which another is renamed.

        Returns:
            False: the trash holds no link of it.

        Raises:
            FSError: what `replace` raised, ENOTEMPTY among them; nothing has changed.
        """
        if not await is_empty(self._storage, victim.node):
            raise NotEmptyError()
        entry = self._entry(at, who)
        tomb = await tombs.describe(self._storage, "dir", at.name, victim)
        try:
            await tombs.bury(domain, entry, tomb, at.term)
            await replace()
        except BaseException:
            await self._exhume_unless_gone(domain, at, entry, victim)
            raise
        if await self._exhume_unless_gone(domain, at, entry, victim):
            return False  # at the last moment somebody has moved it away, maybe into the trash
        self._done(domain, entry, at, victim.attr, who, "replaced")
        return False

    def _entry(self, at: Place, who: Deleter) -> EntryName:
        deleted_ns = self._clock() if at.deleted_ns is None else at.deleted_ns
        return EntryName(deleted_ns, self._instance, who.cred.uid, at.parent.ino, at.name)

    async def _move(self, domain: Domain, at: Place, who: Deleter) -> EntryName:
        """Rename a name into the trash; whatever it names by now, unless `at` says what."""
        entry = self._entry(at, who)

        async def rename(above: Node, leaf: bytes) -> None:
            names = (at.parent, at.name, above, leaf)
            if not await self._storage.rename(*names, GATEWAY, 0, None, at.ino):
                await self._undo_move(domain, at, entry, who)
                raise ExchangedError()

        await self._into(domain, at, entry, rename)
        return entry

    async def _undo_move(self, domain: Domain, at: Place, entry: EntryName, who: Deleter) -> None:
        with trio.CancelScope(shield=True), contextlib.suppress(NotFoundError):
            await self._give_back(domain, at, entry, who)

    async def _give_back(self, domain: Domain, at: Place, entry: EntryName, who: Deleter) -> None:
        """Undo the move of what somebody else has put in the victim's place meanwhile.

        If that place is taken again, or can't be had, it stays in the trash and is recorded there.
        """
        shard = self._shard(domain, at, entry)
        async with lying_in(domain, shard, entry.hour, entry.path) as (above, leaf):
            found = await self._storage.lookup(above, leaf)
            try:
                if found.attr.is_dir:
                    is_back = await self._take_back(domain, at, entry)
                else:
                    await self._storage.link(found.node, at.parent, at.name, GATEWAY)
                    is_back = await self._unlink_unless_replaced(domain, at, entry, found.attr)
            except FSError as exc:
                _log.warning("%s, which somebody else has made, is in the trash: %s", entry.id, exc)
                is_back = False
            finally:
                self._storage.forget(found.node)
        if not is_back:
            self._done(domain, entry, at, found.attr, who, "replaced")

    async def _into(self, domain: Domain, at: Place, entry: EntryName, step: _Step) -> None:
        """Carry out `step` in the directory that an entry belongs into, made if it is missing."""
        shard = domain.shard_of(entry.parent, at.rank, at.term)
        for attempt in range(_ATTEMPTS):
            try:
                async with domain.entry_dir(shard, entry) as above:
                    await step(above, entry.path[-1])
                return
            except NotFoundError:
                domain.drop_hour(shard.node, entry.hour)
                if attempt + 1 == _ATTEMPTS or not await self._is_taken(at):
                    raise

    async def _is_taken(self, at: Place) -> bool:
        return await exists(self._storage, at.parent, at.name)

    async def _keep(
        self, domain: Domain, at: Place, victim: Found, who: Deleter
    ) -> tuple[EntryName, Attr] | None:
        """Link what has a name into the trash, and look whether it still has it then.

        A link of what somebody else has replaced meanwhile stays if it is the last one.

        Returns:
            The last entry, and attributes of before; the name may be gone by now. None if there
            is nothing to keep.
        """
        held: list[Node] = []
        left = _ATTEMPTS
        try:
            while True:
                entry, attr, left = self._entry(at, who), victim.attr, left - 1
                linked = await self._link_victim(domain, at, entry, victim)
                there = await self._look(domain, at, entry, attr)
                if linked and (there is None or there.attr.ino != attr.ino):
                    # who took the name has kept the file, if it went through a gateway
                    linked = not await self._unlink_unless_replaced(domain, at, entry, attr)
                if there is None:
                    return (entry, attr) if linked else None
                held.append(there.node)
                if not left or there.attr.is_dir or there.attr.ino == attr.ino:
                    if not linked:
                        raise NotFoundError()
                    return entry, attr
                if linked:
                    self._done(domain, entry, at, attr, who, "replaced")
                victim = there
        finally:
            for node in held:
                self._storage.forget(node)

    async def _link_victim(
        self, domain: Domain, at: Place, entry: EntryName, victim: Found
    ) -> bool:
        """Link an inode into the trash; False if it is gone."""

        async def link(above: Node, leaf: bytes) -> None:
            try:
                await self._storage.link(victim.node, above, leaf, GATEWAY)
            except FullError:
                await domain.link_without_quota(victim.node, above, leaf)

        try:
            await self._into(domain, at, entry, link)
        except NotFoundError:
            return False
        except BaseException:
            await self._unlink_unless_replaced(domain, at, entry, victim.attr)
            raise
        return True

    async def _look(self, domain: Domain, at: Place, entry: EntryName, attr: Attr) -> Found | None:
        """Look at what has the name now, after the victim was linked."""
        try:
            return await self._storage.lookup(at.parent, at.name)
        except NotFoundError:
            return None
        except BaseException:
            await self._unlink_unless_replaced(domain, at, entry, attr)
            raise

    async def _keeps_link(self, domain: Domain, at: Place, entry: EntryName) -> bool:
        """Let a tombstone stand for an entry, if it can; True if the link stays in the trash."""
        return not await links.bury_link(domain, self._shard(domain, at, entry), entry)

    def _shard(self, domain: Domain, at: Place, entry: EntryName) -> bytes:
        return domain.shard_of(entry.parent, at.rank, at.term).name

    async def _unlink_unless_replaced(
        self, domain: Domain, at: Place, entry: EntryName, attr: Attr
    ) -> bool:
        """Take the link back, unless it is the last one: then the victim was replaced after all.

        Returns:
            False if the link stays.
        """
        shard, alone, dropped = self._shard(domain, at, entry), attr.nlink == 1, False
        try:
            with trio.CancelScope(shield=True):
                dropped = await links.take_back(
                    domain, shard, entry, attr.ino, at.parent, alone=alone
                )
        except NotFoundError:
            return True  # there is no link yet
        except FSError as exc:
            _log.warning("a second link of %s stays in the trash: %s", entry.id, exc)
        return dropped

    async def _exhume_unless_gone(
        self, domain: Domain, at: Place, entry: EntryName, victim: Found
    ) -> bool:
        """Remove the tombstone of a directory that is still somewhere; False if it stays."""
        try:
            with trio.CancelScope(shield=True):
                if (await self._storage.getattr(victim.node)).nlink == 0:
                    return False
                await tombs.exhume(domain, entry, victim.attr.ino, at.term)
        except FSError as exc:
            _log.warning("tombstone %s stays in the trash: %s", entry.id, exc)
            return False
        return True

    async def _take_back(self, domain: Domain, at: Place, entry: EntryName) -> bool:
        """Undo the move of a directory into which somebody created something meanwhile.

        Returns:
            False if it can't be: the name is taken again, or the parent is gone. The directory
            stays in the trash, whole, and can be restored from there.
        """
        flags = RENAME_NOREPLACE if self._storage.rename_noreplace else 0
        shard = self._shard(domain, at, entry)
        try:
            if await self._is_taken(at):
                raise ExistsError()
            async with lying_in(domain, shard, entry.hour, entry.path) as (above, leaf):
                await self._storage.rename(above, leaf, at.parent, at.name, GATEWAY, flags)
        except FSError as exc:
            _log.warning("directory %s stays in the trash: %s", entry.id, exc)
            return False
        await links.drop_long_name_dir(domain, shard, entry)
        return True

    def _done(
        self, domain: Domain, entry: EntryName, at: Place, attr: Attr, who: Deleter, kind: str
    ) -> None:
        self._meter.count("trash_moves_total", kind=kind)
        was = Was(at.path, at.parent.ino, self._storage.token(at.parent), attr, kind)
        self._audit.kept(domain.root.ino, entry, was, who, at.chain)


def _kind(attr: Attr) -> str:
    return "symlink" if attr.is_symlink else "file"
