"""Deletes of a process that deletes in bulk: answered before they have been carried out.

All that unlink(2) and rmdir(2) check is checked before the answer, by what the kernel and this
gateway know of the name and its directory within the times of [cache-1]; and so is decided that it
will be kept. Then the name is hidden, here, and `asyncdelete.pending` carries the delete out.
Whatever makes, moves or shows a name comes through here first.

Not answered early is what must be seen by others at once, or can't be checked so cheaply: names
that look like locks, what is below a mark `strict`, open files, inodes with several names, and
what isn't kept.

Where a lane answers the kernel, a process that has just been answered is granted to go on in the
same directory for a moment without our being asked: the lane checks what is different from name to
name, hides it, and we take it over. Whatever changes what a directory says takes its grant back.

Source: docs/semantics.md [pending-1] to [pending-6].

Concurrency: between the last look at the table and `Pending.add` there is no checkpoint. Changes of
one directory don't meet, since the kernel has a lock for that. What the lane has answered is taken
over whenever the table is looked at.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio

from asyncdelete.bulk import Bulk
from asyncdelete.pending import Pending, Pins
from cephfs_ext.core.errors import FSError, NotEmptyError, NotFoundError
from cephfs_ext.core.ports import Found, Grant, Lane, Listed, Meter, Removed, Storage
from cephfs_ext.core.types import Attr, Ino
from cephfs_ext.vfs.deletes import Deletes, Goner, Site, Verdict
from cephfs_ext.vfs.handles import DirStreams, OpenFiles
from cephfs_ext.vfs.nodes import NodeId, NodeTable
from cephfs_ext.vfs.seen import Seen
from trashbin.files import names_in
from trashbin.layout import TRASH_NAME, Term
from trashbin.put import Deleter

_log = logging.getLogger(__name__)

_CAREFUL_S = 10.0
"""How long after a failure no delete is answered early: the next ones may fail as well."""

_GRANT_S = 1.0
"""The longest time for which the lane may go on: who pauses so long doesn't delete in bulk."""

_GATHER_S = 0.05
"""How long what the lane answers is gathered."""

_GRANT_MARGIN_S = 0.1
"""How much later the lane may have been given a grant than we believe."""

_IDLE_S = 60.0
"""How long is waited for what the lane answers, where it may answer nothing yet."""

_KEPT_AFTER_ALL = Verdict("", "it had been answered already")
"""What of an exempt name whose pattern the lane understands otherwise."""

_SITES = 1_024
"""Directories of which is remembered what they say; all are forgotten beyond it."""


class BulkDeletes:
    """Decides which deletes are answered at once, and hides them."""

    def __init__(
        self,
        storage: Storage,
        nodes: NodeTable,
        files: OpenFiles,
        listed: DirStreams,
        seen: Seen,
        deletes: Deletes,
        pending: Pending,
        bulk: Bulk,
        pins: Pins,
        lane: Lane | None,
        meter: Meter,
        forget_entry: Callable[[NodeId, bytes], None],
        *,
        is_on: bool,
        fresh_s: float,
    ) -> None:
        """Keep what is needed.

        Args:
            forget_entry: has the kernel look a name up again.
            fresh_s: for how long the kernel believes attributes.
        """
        self._storage = storage
        self._nodes = nodes
        self._files = files
        self._listed = listed
        self._seen = seen
        self._deletes = deletes
        self._table = pending
        self._bulk = bulk
        self._pins = pins
        self._lane = lane
        self._granted: dict[int, _Granted] = {}
        self._grants = 0
        self._meter = meter
        self._forget_entry = forget_entry
        self._is_on = is_on
        self._fresh_s = fresh_s
        self._careful_until_s = float("-inf")
        self._sites: dict[NodeId, tuple[float, int, Site]] = {}
        """Until when each is believed, and as long as the lane has changed nothing of it."""

    def __len__(self) -> int:
        """Return how many deletes are pending."""
        return len(self._pending)

    # deletes

    async def unlink(self, parent: NodeId, name: bytes, who: Deleter) -> bool:
        """Answer an unlink, if it can be answered before it has been carried out.

        Returns:
            False if the caller has to carry it out.

        Raises:
            FSError: what unlink(2) has; nothing has changed.
        """
        if self._pending.has(parent, name):
            raise NotFoundError()
        if not self._is_in_bulk(parent, name, who):
            return False
        attr = self._seen.get(parent, name) or await self._look(parent, name)
        if attr.is_dir:
            raise FSError(errno.EISDIR)
        await self._pending.room()
        site = await self._site(parent)
        verdict = self._deletes.verdict_at(site, name, attr)
        if verdict is None or site.is_strict or attr.nlink != 1 or self._is_open(attr):
            return False
        self._deletes.check_at(site, attr, who.cred)
        found = Found(self._nodes[parent].node, attr)
        self._hide(self._delete(parent, name, found, who, site, verdict))
        self._grant(parent, site, who)
        return True

    async def rmdir(self, parent: NodeId, name: bytes, who: Deleter) -> bool:
        """Answer an rmdir, if it can be; what is pending in the directory goes before it.

        Returns:
            False if the caller has to carry it out; then nothing is pending in the directory.

        Raises:
            FSError: what rmdir(2) has; nothing has changed.
        """
        if self._pending.has(parent, name):
            raise NotFoundError()
        victim = self._nodes.directory_at(parent, name)
        if victim is None:
            return False
        if not self._is_in_bulk(parent, name, who):
            await self._pending.settle_below(victim)
            return False
        found = await self._storage.lookup(self._nodes[parent].node, name)
        try:
            answered = await self._rmdir(parent, name, victim, found, who)
        except BaseException:
            self._storage.forget(found.node)
            raise
        if not answered:
            self._storage.forget(found.node)
            await self._pending.settle_below(victim)
        return answered

    async def _rmdir(
        self, parent: NodeId, name: bytes, victim: NodeId, found: Found, who: Deleter
    ) -> bool:
        attr, site = found.attr, await self._site(parent)
        verdict = self._deletes.verdict_at(site, name, attr)
        if self._nodes.id_of(attr.ino) != victim or verdict is None or site.is_strict:
            return False
        hidden = self._pending.names(victim)
        left = set(await names_in(self._storage, found.node)) - hidden - {TRASH_NAME}
        await self._pending.room()
        self._deletes.check_at(site, attr, who.cred)
        if left:
            raise NotEmptyError()
        self._hide(self._delete(parent, name, found, who, site, verdict, victim))
        self._nodes.gone(parent, name)
        self._nodes.dead(attr.ino)
        return True

    def _is_in_bulk(self, parent: NodeId, name: bytes, who: Deleter) -> bool:
        """Tell whether a process deletes in bulk, and nobody may mean anything by the name."""
        if not self._is_on or time.monotonic() < self._careful_until_s:
            return False
        if not self._bulk.count(who.pid, who.started) or is_like_lock(name):
            return False
        return self._lane is None or not self._lane.is_unsure_in(parent)

    def _is_open(self, attr: Attr) -> bool:
        return self._files.is_open(self._nodes.id_of(attr.ino))

    async def _look(self, parent: NodeId, name: bytes) -> Attr:
        found = await self._storage.lookup(self._nodes[parent].node, name)
        self._storage.forget(found.node)
        return found.attr

    async def _site(self, directory: NodeId) -> Site:
        """Return what a directory says; not older than what the kernel knows of it."""
        known = self._known_site(directory)
        if known is not None:
            return known
        until_s, touches = time.monotonic() + self._fresh_s, self._nodes.touches(directory)
        site = await self._deletes.survey(directory)
        if len(self._sites) >= _SITES:
            self._sites.clear()
        self._sites[directory] = (until_s, touches, site)
        return site

    def _known_site(self, directory: NodeId) -> Site | None:
        until_s, touches, site = self._sites.get(directory, (0.0, 0, None))
        is_true = time.monotonic() < until_s and touches == self._nodes.touches(directory)
        return site if is_true else None

    def _forget_site(self, directory: NodeId) -> None:
        self._sites.pop(directory, None)
        if self._lane is not None:
            self._lane.revoke(directory)

    def _forget_sites(self) -> None:
        self._sites.clear()
        if self._lane is not None:
            self._lane.revoke()

    def _delete(
        self,
        parent: NodeId,
        name: bytes,
        found: Found,
        who: Deleter,
        site: Site,
        verdict: Verdict | None,
        victim: NodeId | None = None,
    ) -> _Delete:
        above, stamp = self._nodes[parent].node.ino, self._deletes.put.stamp(who)
        return _Delete(self, parent, above, name, found, who, site, verdict, stamp, victim)

    def _hide(self, delete: _Delete) -> None:
        self._seen.forget(delete.directory, delete.name)
        self._nodes.hide_name(delete.directory, delete.name)
        self._add(delete)
        self._tell_inside(delete)
        self._meter.count("pending_answered_total")

    def _add(self, delete: _Delete) -> None:
        self._table.add(delete)
        self._nodes.hide_link(delete.found.attr.ino)

    def _tell_inside(self, delete: _Delete) -> None:
        answered_ns = self._table.answered_ns(delete.directory) or 0
        directories = self._table.directories(delete.directory)
        self._nodes.deletes_inside(delete.above, answered_ns, directories)

    # what the lane answers

    def _grant(self, directory: NodeId, site: Site, who: Deleter) -> None:
        """Have the lane answer a process that goes on in a directory."""
        if self._lane is None or self._known_site(directory) is not site:
            return
        if not (self._table.has_room and self._deletes.keeps_at(site)):
            return
        until_s, touches, _ = self._sites[directory]
        now_s, cred = time.monotonic(), who.cred
        until_s = min(until_s, now_s + _GRANT_S)
        owned_only = self._deletes.counts_foreign(site, cred)
        self._grants += 1
        number, chain = self._grants, self._pins.pin(directory)
        self._granted[number] = _Granted(site, who, until_s, chain)
        grant = Grant(number, directory, who.pid, cred.uid, cred.gid, touches, owned_only)
        self._lane.grant(grant, until_s - now_s)

    async def take_over(self) -> None:
        """Wait for what the lane answers, or some time for nothing, and take it over.

        It is gathered for a moment: by then the kernel has forgotten most of the files, and who
        deletes isn't kept from their work by ours.
        """
        if self._lane is None:
            await trio.sleep_forever()
        with trio.move_on_after(_GRANT_S if self._granted else _IDLE_S):
            await self._lane.removed_some()
            await trio.sleep(_GATHER_S)
        while self._take_some():
            await trio.lowlevel.checkpoint()

    @property
    def _pending(self) -> Pending:
        """The table, with all that has been answered by now."""
        self._take_over()
        return self._table

    def _take_over(self) -> None:
        while self._take_some():
            pass

    def _take_some(self) -> bool:
        """Take over some of what the lane has answered; False once that is all of it.

        Of an inode that the kernel doesn't know any more nothing is noted.
        """
        if self._lane is None or not self._granted:
            return False
        now_s, some = time.monotonic(), self._lane.removed()
        taken = [delete for delete in map(self._take, some) if delete is not None]
        for delete in {delete.directory: delete for delete in taken}.values():
            self._tell_inside(delete)
        self._meter.count("pending_answered_total", len(taken))
        if not self._table.has_room:
            self._lane.revoke()
        if not some:
            self._drop_old(now_s)
        return bool(some)

    def _drop_old(self, now_s: float) -> None:
        """Forget what was granted and is over, of which nothing waits since `now_s`."""
        for number, granted in list(self._granted.items()):
            if now_s > granted.until_s + _GRANT_MARGIN_S:
                del self._granted[number]
                self._pins.unpin(granted.chain)

    def _take(self, removed: Removed) -> _Delete | None:
        directory, name = NodeId(removed.parent), removed.name
        try:
            granted = self._granted[removed.grant]
            site, who = granted.site, granted.who
            self._bulk.count(who.pid, who.started)
            found = Found(self._nodes[directory].node, removed.attr)
            delete = self._delete(directory, name, found, who, site, None)
            self._add(delete)
            return delete
        except Exception:  # the edge: it has been answered, and all others wait behind it
            _log.exception("%r is there again: a bug in a delete of the lane's", name)
            self._nodes.show_name(directory, name)
            self._forget_entry(directory, name)
            return None

    # what a delete does later

    async def carry_out(self, delete: _Delete) -> None:
        """Carry a delete out.

        Raises:
            FSError: nothing has changed.
        """
        self._listed.changed(delete.directory, names=True)
        await self._deletes.carry_out(
            delete.directory,
            delete.name,
            delete.found,
            delete.who,
            self._verdict(delete),
            delete.deleted_ns,
        )

    async def carry_out_many(self, deletes: Sequence[_Delete]) -> Sequence[bool]:
        """Carry deletes of one batch out, as far as that can be done with all of them at once.

        Returns:
            For each whether it has been.

        Raises:
            FSError: nothing has changed.
        """
        first, terms = deletes[0], [self._term(delete) for delete in deletes]
        term = terms[0]
        if term is None:
            return [False] * len(deletes)
        alike = [delete for delete, one in zip(deletes, terms, strict=True) if one == term]
        goners = [Goner(one.name, one.found.attr, one.deleted_ns) for one in alike]
        self._listed.changed(first.directory, names=True)
        done = await self._deletes.carry_out_files(first.directory, goners, first.who, term)
        carried = {one.name for one, is_done in zip(alike, done, strict=True) if is_done}
        return [delete.name in carried for delete in deletes]

    def _verdict(self, delete: _Delete) -> Verdict:
        site, attr = delete.site, delete.found.attr
        verdict = delete.verdict or self._deletes.verdict_at(site, delete.name, attr)
        return verdict or _KEPT_AFTER_ALL

    def _term(self, delete: _Delete) -> Term | None:
        """Return how long something is kept; None if it is removed really."""
        verdict = self._verdict(delete)
        return None if verdict.bypass else verdict.term

    def undo(self, delete: _Delete) -> None:
        """Show a name again whose delete has failed; who deletes next is told at once."""
        self._careful_until_s = time.monotonic() + _CAREFUL_S
        self._forget_sites()
        self._nodes.show_link(delete.found.attr.ino)
        self._forget_entry(delete.directory, delete.name)

    def release(self, delete: _Delete) -> None:
        """Give back what a delete holds.

        Listings that have read the name while it was hidden look again.
        """
        self._tell_inside(delete)
        self._listed.changed(delete.directory, names=True)
        self._nodes.show_name(delete.directory, delete.name)
        if delete.victim is not None:
            self._forget_site(delete.directory)  # it has a link less
            self._storage.forget(delete.found.node)

    async def drain(self) -> None:
        """Carry out all that is pending, at the end."""
        await self._pending.drain()

    # barriers

    async def before_change(self, parent: NodeId, name: bytes) -> None:
        """Wait for the delete of a name that is about to be made, moved or replaced.

        Checkpoints: only if it has to wait, as in all that follow.
        """
        self._seen.forget(parent, name)
        self._forget_site(parent)
        await self._pending.settle_name(parent, name)

    async def before_move(self, parent: NodeId, name: bytes) -> None:
        """Do the same, and wait for all deletes below, if it is a directory."""
        await self.before_change(parent, name)
        directory = self._nodes.directory_at(parent, name)
        if directory is not None:
            self._forget_sites()
            await self._pending.settle_below(directory)

    async def before_use(self, node_id: NodeId) -> None:
        """Wait for the delete of a file that somebody got hold of, to change it or to open it."""
        where = self._nodes.hidden_at(node_id)
        if where is not None:
            await self._pending.settle_name(*where)

    async def synced(self, directory: NodeId) -> None:
        """Wait for all deletes in a directory.

        Raises:
            FSError: one of them has failed; its name is there again.
        """
        error = await self._pending.settle_below(directory)
        if error is not None:
            raise error

    async def settle(self) -> None:
        """Wait for all that is pending at this moment."""
        await self._pending.settle()

    # what is seen

    def learned(self, parent: NodeId, name: bytes, attr: Attr) -> None:
        """Note what the kernel is told of a name."""
        if self._is_on:
            self._seen.learned(parent, name, attr)

    def touched(self, node_id: NodeId) -> None:
        """Note that attributes of an inode have changed."""
        known = self._nodes[node_id]
        self._seen.forget(known.parent, known.name)
        if known.is_dir:
            self._forget_sites()

    def is_hidden(self, parent: NodeId, name: bytes) -> bool:
        """Tell whether a name has been deleted."""
        return self._pending.has(parent, name)

    def hidden(self, directory: NodeId) -> frozenset[bytes]:
        """Return the names in a directory that have been deleted."""
        return self._pending.names(directory)

    def shown(self, page: Sequence[Listed], hidden: frozenset[bytes]) -> list[Listed]:
        """Return what of a page isn't hidden, and give the rest back."""
        shown = []
        for listed in page:
            if listed.entry.name not in hidden:
                shown.append(listed)
            elif listed.found is not None:
                self._storage.forget(listed.found.node)
        return shown

    def attr_of(self, directory: NodeId) -> Attr | None:
        """Return attributes of a directory in which deletes are pending, if they are known."""
        if self._pending.answered_ns(directory) is None:
            return None
        site = self._known_site(directory)
        return None if site is None else site.attr

    def as_users_see(self, node_id: NodeId, attr: Attr) -> Attr:
        """Return attributes as if all that is pending had been carried out."""
        if not len(self._pending):
            return attr
        where = self._nodes.hidden_at(node_id)
        if where is not None and self._pending.has(*where):
            answered_ns = self._pending.answered_ns(where[0]) or 0
            attr = dataclasses.replace(attr, ctime_ns=max(attr.ctime_ns, answered_ns))
        inside_ns = self._pending.answered_ns(node_id)
        if inside_ns is None:
            return attr
        return dataclasses.replace(
            attr,
            nlink=max(0, attr.nlink - self._pending.directories(node_id)),
            mtime_ns=max(attr.mtime_ns, inside_ns),
            ctime_ns=max(attr.ctime_ns, inside_ns),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Delete:
    """A delete that has been answered (`asyncdelete.pending.Delete`)."""

    deletes: BulkDeletes
    directory: NodeId
    above: Ino
    """The number of the directory."""
    name: bytes
    found: Found
    """Of a directory, with a reference of its own; of a file, its attributes only."""
    who: Deleter
    site: Site
    verdict: Verdict | None
    """None where the lane has answered: it hides nothing that isn't kept."""
    deleted_ns: int
    """When it was answered; later than any delete before it."""
    victim: NodeId | None = None

    @property
    def batch(self) -> tuple[NodeId, Deleter] | None:
        return (self.directory, self.who) if self.victim is None else None

    async def carry_out(self) -> None:
        await self.deletes.carry_out(self)

    async def carry_out_many(self, deletes: Sequence[_Delete]) -> Sequence[bool]:
        return await self.deletes.carry_out_many(deletes)

    def undo(self) -> None:
        self.deletes.undo(self)

    def release(self) -> None:
        self.deletes.release(self)


class _Granted(NamedTuple):
    """What the lane was granted."""

    site: Site
    who: Deleter
    until_s: float
    chain: tuple[int, ...]
    """What is kept known for it."""


class KnownDirectories:
    """Has the node table keep directories (`asyncdelete.pending.Pins`)."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes

    def pin(self, directory: int) -> tuple[NodeId, ...]:
        """Count a lookup of a directory and of each above it."""
        chain = tuple(node_id for node_id, _ in self._nodes.above(NodeId(directory)))
        for node_id in chain:
            self._nodes.count_again(node_id)
        return chain

    def unpin(self, chain: tuple[int, ...]) -> None:
        """Take the lookups back."""
        for node_id in chain:
            self._nodes.forget(NodeId(node_id), 1)


def is_like_lock(name: bytes) -> bool:
    """Tell whether programs may mean something by it that a name is gone."""
    lower = name.lower()
    return b"lock" in lower or b"lck" in lower or lower.endswith(b".pid")
