"""The trash as its users see it: list, show, restore, purge, each with the caller's rights.

Everybody sees and restores what they own or deleted, in places where they could have made it
themselves. `everything` lifts that, for operators. Reads the trash anew for each request; the
directory is the truth.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import trio

from cephfs_ext.core.errors import (
    CrossDomainError,
    DeniedError,
    ExistsError,
    FSError,
    NotFoundError,
)
from cephfs_ext.core.limits import VIEW_RESTORED
from cephfs_ext.core.ports import Found, Meter, Node, Storage
from cephfs_ext.core.types import Ino
from trashbin import hold, strays
from trashbin.ancestors import Ancestors
from trashbin.audit import Audit, Gone
from trashbin.bundles import Part
from trashbin.catalog import Damaged, Item
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.events import gather
from trashbin.expire import Expiry, Removed, total
from trashbin.hold import Moved, Note
from trashbin.journal import Journal, Record, read_records
from trashbin.latest import latest
from trashbin.paths import below, open_parents
from trashbin.placing import Caller, Listed, Made, Placing
from trashbin.progress import Progress
from trashbin.put import Deleter, Place, Put
from trashbin.restore import Outcome, Restore, Restored
from trashbin.runs import Target
from trashbin.stream import (
    Sighting,
    Stream,
    Wanted,
    held_entries,
    places_of,
    seen_parts,
    totals_of,
    tree_of,
)
from trashbin.totals import Totals, totals
from trashbin.trees import Tree, group

__all__ = ["Caller", "Listed"]

_log = logging.getLogger(__name__)

_AS_BEFORE = "it is in the trash, and can be restored from there"

_BACK = (Outcome.RESTORED, Outcome.PARTLY, Outcome.WOULD_RESTORE)
"""What became of a tree that brings its parts back."""

_SETTLED_NS = 60_000_000_000
"""How long after a delete began its record may still be missing."""


class Conflict(enum.Enum):
    """What a restore does where its name is taken."""

    FAIL = "fail"
    SKIP = "skip"
    KEEP_BOTH = "keep-both"
    REPLACE = "replace"


class Contents(NamedTuple):
    """What is in the trash."""

    trees: list[Listed]
    damaged: list[Damaged]


class Shown(NamedTuple):
    """What a listing says of a tree."""

    top: Item
    path: bytes | None
    """Relative to the served root; None if it isn't known."""
    record: Record | None
    totals: Totals
    expires_s: float | None
    """When it begins to leave the trash, seconds since the epoch; None while all of it is held."""
    held_entries: int
    note: Note | None
    """Who holds it; None if nobody does, or nothing says who."""


class Answer(NamedTuple):
    """What became of one restore."""

    listed: Listed | None
    asked: str
    target: bytes | None
    outcome: Outcome
    message: str
    made: Sequence[Made] = ()
    """Parents that were made for it, or would be."""


class Forget(Protocol):
    """Tells the mount that names and inodes have changed behind the kernel's back."""

    def __call__(self, parent: Ino, name: bytes, inos: Sequence[Ino]) -> None:
        """Take note; never blocks."""
        ...


class TrashService:
    """Answers requests about the trash."""

    def __init__(
        self,
        storage: Storage,
        domains: Domains,
        restore: Restore,
        expiry: Expiry,
        put: Put,
        journal: Journal,
        ancestors: Ancestors,
        audit: Audit,
        meter: Meter,
        forget: Forget,
        *,
        event_gap_s: float,
        held_max: int,
    ) -> None:
        self._storage = storage
        self._domains = domains
        self._restore = restore
        self._expiry = expiry
        self._put = put
        self._journal = journal
        self._ancestors = ancestors
        self._audit = audit
        self._meter = meter
        self._forget = forget
        self._gap_ns = int(event_gap_s * 1e9)
        self._held_max = held_max

    async def contents(self, caller: Caller) -> Contents:
        """Return all that the caller may see, newest first: what is deleted by now has its path."""
        damaged: list[Damaged] = []
        trees = await self.chosen(caller, Wanted(), damaged=damaged)
        return Contents(trees, damaged if caller.everything else [])

    async def sightings(
        self, caller: Caller, wanted: Wanted, damaged: list[Damaged]
    ) -> AsyncGenerator[Sighting]:
        """Yield what the caller may see of what fits, newest first, as it is read.

        Args:
            damaged: takes what can't be read, of what was looked at.
        """
        found: list[Damaged] = []
        stream = Stream(
            self._domains, self._journal, caller, wanted, gap_ns=self._gap_ns, damaged=found
        )
        async with contextlib.aclosing(stream.sightings()) as sightings:
            async for sighting in sightings:
                yield sighting
        if wanted.since_ns is None:
            self._meter.set("trash_damaged_entries", len(found))
        damaged += found if caller.everything else []

    async def chosen(
        self,
        caller: Caller,
        wanted: Wanted,
        limit: int | None = None,
        damaged: list[Damaged] | None = None,
    ) -> list[Listed]:
        """Return what fits, the newest `limit`, with all that is in it.

        Args:
            damaged: as for `sightings`.
        """
        result: list[Listed] = []
        damaged = [] if damaged is None else damaged
        async with contextlib.aclosing(self.sightings(caller, wanted, damaged)) as sightings:
            async for sighting in sightings:
                listed = await self._listed_at(sighting)
                result += [] if listed is None else [listed]
                if limit is not None and len(result) >= limit:
                    break
        return result

    async def at_path(self, caller: Caller, path: bytes) -> list[Listed]:
        """Return the newest tree that was at a path or held it, else all that were below it."""
        below_it: list[Listed] = []
        async with contextlib.aclosing(self.sightings(caller, Wanted(), [])) as sightings:
            async for sighting in sightings:
                there = _part_at(sighting, path)
                if there is None and not (sighting.path or b"").startswith(path + b"/"):
                    continue
                listed = await self._listed_at(sighting)
                if listed is not None and there is None:
                    below_it.append(listed)
                part = None if listed is None or there is None else _part_of(listed, there)
                if part is not None:
                    return [await self._with_strays(part)]
        return below_it

    async def _listed_at(self, sighting: Sighting) -> Listed | None:
        """Return a tree with all that is in it, wherever it lies by now; None if it is gone."""
        tree = await tree_of(sighting)
        domain, bundle, path, record = sighting
        if tree is not None:
            return Listed(domain, tree, path, record)
        with contextlib.suppress(NotFoundError):
            return await self._find(bundle.top.rows.entry(bundle.top.row).id)
        return None

    async def _with_strays(self, listed: Listed) -> Listed:
        """Return a tree with what a restore that was cut off had not put back into it yet."""
        top = listed.tree.top
        if not top.is_dir:
            return listed
        with contextlib.suppress(NotFoundError):
            return await self._find(top.entry.id)
        return listed

    async def last(self, caller: Caller) -> Listed | None:
        """Return what the caller, for operators anybody, deleted last; None if nothing is left.

        As the journal has it, whose end is enough for what was deleted as one entry.
        """
        uid = None if caller.everything else caller.cred.uid
        found = []
        for domain in await self._domains.all():
            newest = await latest(domain, self._journal.waiting(domain.root.ino), uid)
            found += [] if newest is None else [newest]
        if not found:
            some = await self.chosen(caller, Wanted(deleter_uid=uid), 1)
            return some[0] if some else None
        domain, item, record = max(found, key=lambda one: one.item.entry.deleted_ns)
        if item.is_dir:
            return await self.find(caller, item.entry.id)
        return Listed(domain, Tree(item), self._domains.path_of(domain) + record.path, record)

    async def shown(self, sightings: Sequence[Sighting]) -> list[Shown]:
        """Return what a listing says of trees; those that are gone by now are left out."""
        tops: dict[Domain, list[Part]] = defaultdict(list)
        for sighting in sightings:
            tops[sighting.domain].append(sighting.bundle.top)
        items: dict[Part, Item] = {}
        for domain, parts in tops.items():
            items |= await seen_parts(domain, parts)
        there = [one for one in sightings if one.bundle.top in items]
        return [await self._shown(one, items[one.bundle.top]) for one in there]

    async def _shown(self, sighting: Sighting, top: Item) -> Shown:
        domain, bundle, path, record = sighting
        held = held_entries(bundle)
        return Shown(
            top,
            path,
            record,
            await totals_of(sighting, top),
            self._earliest(places_of(bundle)),
            held,
            await hold.read_note(domain, top) if held else None,
        )

    async def shown_tree(self, listed: Listed) -> Shown:
        """Return the same of a tree that has been read already."""
        top = listed.tree.top
        parts = [part.top for part, _ in listed.tree.walk()]
        return Shown(
            top,
            listed.path,
            listed.record,
            await totals(listed.domain, listed.tree),
            self._earliest({(part.above, part.entry.hour) for part in parts}),
            listed.held_entries,
            await hold.read_note(listed.domain, top) if listed.is_held else None,
        )

    def _earliest(self, places: Iterable[tuple[bytes, bytes]]) -> float | None:
        """Return when a tree begins to leave the trash, seconds since the epoch; None: never."""
        times = [self._expiry.leaves_s(above, hour) for above, hour in places]
        return min((time_s for time_s in times if time_s is not None), default=None)

    async def _listed(
        self,
        domain: Domain,
        items: Sequence[Item],
        records: Mapping[str, Record],
        *,
        searches: int,
    ) -> list[Listed]:
        """Put trees together; where they were is looked up if the journal doesn't say it."""
        prefix = self._domains.path_of(domain)
        result = []
        async with open_parents(domain, items, records, searches=searches) as parents:
            trees = group(items, records, self._gap_ns)
            for tree in await strays.adopt(domain, trees, items, records):
                entry = tree.top.entry
                record = records.get(entry.id)
                if record is not None:
                    path: bytes | None = prefix + record.path
                else:
                    above = await parents.path(entry.parent)
                    path = None if above is None else prefix + below(above, entry.name)
                result.append(Listed(domain, tree, path, record))
        return result

    async def find(self, caller: Caller, entry_id: str) -> Listed:
        """Return the tree that an id names, which may be a part of what was deleted with it.

        Reads the hour that the id names, and those before it for as long as the delete took.

        Raises:
            NotFoundError: there is no such entry.
            DeniedError: it is somebody else's.
        """
        found = await self._find(entry_id)
        if not caller.everything and not found.tree.top.belongs_to(caller.cred):
            raise DeniedError(what=f"entry {entry_id} is somebody else's")
        return found

    async def _find(self, entry_id: str) -> Listed:
        for domain in await self._domains.all():
            try:
                event = await gather(domain, entry_id)
            except NotFoundError:
                continue
            records = self._journal.waiting(domain.root.ino)
            instance = event.items[0].entry.instance
            records.update(await read_records(domain, hours=event.hours, instance=instance))
            within = strays.inside(event.items, records)
            if within:
                event = await gather(domain, entry_id, within)
            items = [item for item in event.items if _is_settled(item, records)]
            for listed in await self._listed(domain, items, records, searches=1):
                if listed.tree.top.entry.id == entry_id:
                    return listed
        raise NotFoundError(what=f"no entry {entry_id} in the trash")

    async def restore(
        self,
        caller: Caller,
        asked: Sequence[tuple[str, Listed]],
        *,
        to: bytes | None,
        on_conflict: Conflict,
        dry_run: bool,
        progress: Progress | None = None,
    ) -> list[Answer]:
        """Bring trees back; goes on after an error and answers for each, in the same order.

        What is a part of another one that is asked for comes back with that, wherever in the order
        it is, and by itself only where that doesn't.

        Args:
            progress: counts entries. If it is stopped, the tree that is being restored is undone
                or finished, and the rest stays in the trash.
        """
        progress = progress or Progress()
        sizes = [sum(1 for _ in listed.tree.walk()) for _, listed in asked]
        progress.expect(sum(sizes))
        within = _within([listed.tree for _, listed in asked])
        answers: dict[int, Answer] = {}
        for number in sorted(range(len(asked)), key=lambda one: len(within[one])):
            label, listed = asked[number]
            before = progress.done
            answer = Answer(listed, label, listed.path, Outcome.STOPPED, _AS_BEFORE)
            with progress.step():
                try:
                    wholes = [(answers[one], inner) for one, inner in within[number].items()]
                    with_whole = await self._restored_within(label, listed, wholes)
                    answer = with_whole or await self._restore_one(
                        caller,
                        label,
                        listed,
                        to=to,
                        on_conflict=on_conflict,
                        dry_run=dry_run,
                        progress=progress,
                    )
                except FSError as exc:
                    answer = Answer(listed, label, listed.path, _outcome(exc), _why(exc))
            progress.done = before + sizes[number]
            self._count(answer)
            answers[number] = answer
        return [answers[number] for number in range(len(asked))]

    async def _restored_within(
        self, label: str, listed: Listed, wholes: Sequence[tuple[Answer, bytes]]
    ) -> Answer | None:
        """Answer for a tree that has come back, or would, with one that it is a part of.

        Args:
            wholes: what became of the trees that it is a part of, and where in them it is.

        Returns:
            None if it has not, and may be restored by itself.
        """
        for whole, inner in wholes:
            if whole.target is None or whole.outcome not in _BACK:
                continue
            if whole.outcome is not Outcome.WOULD_RESTORE and await self._is_in_trash(listed):
                continue
            path = b"/".join(filter(None, (whole.target, inner)))
            return Answer(listed, label, path, whole.outcome, whole.message)
        return None

    async def _is_in_trash(self, listed: Listed) -> bool:
        with contextlib.suppress(NotFoundError):
            await self._find(listed.tree.top.entry.id)
            return True
        return False

    async def _restore_one(
        self,
        caller: Caller,
        label: str,
        listed: Listed,
        *,
        to: bytes | None,
        on_conflict: Conflict,
        dry_run: bool,
        progress: Progress,
    ) -> Answer:
        if to is None and listed.path is None:
            raise NotFoundError(what="where it was is not known; name a directory with --to")
        prefix = self._domains.path_of(listed.domain)
        place = Placing(
            self._storage,
            caller,
            listed,
            to,
            self._ancestors,
            domain_path=prefix,
            dry_run=dry_run,
        )
        try:
            target = await place.find()
            # once something is replaced, what was deleted has to take its place
            with trio.CancelScope(shield=on_conflict is Conflict.REPLACE):
                name, verdict = await self._settle(caller, place, target, on_conflict, dry_run)
                path = place.path(name)
                if verdict is not None:
                    return Answer(listed, label, path, verdict, "the name is taken")
                if dry_run:
                    return Answer(listed, label, path, Outcome.WOULD_RESTORE, "", place.made)
                to_take = Target(target.parent, name)
                listed, done = await self._bring_back(listed, to_take, progress)
            self._forget(target.parent.ino, name, done.inos)
            self._audit.restored(listed.domain.root.ino, self._gone(listed), caller.cred.uid, path)
            return _restored(listed, label, path, done)._replace(made=place.made)
        except BaseException:
            await place.take_back()
            raise
        finally:
            place.close()

    async def _bring_back(
        self, listed: Listed, target: Target, progress: Progress | None = None
    ) -> tuple[Listed, Restored]:
        """Make a tree appear, looked for anew if its top lies elsewhere by now.

        A tombstone is made an entry when the last link of its inode leaves the trash.

        Raises:
            FSError: as `Restore.tree` has it.
        """
        while True:
            try:
                done = await self._restore.tree(listed.domain, listed.tree, target, progress)
                if listed.is_held and not done.failures and not done.older:
                    with trio.CancelScope(shield=True):
                        await hold.drop_notes(listed.domain, listed.tree)
                return listed, done
            except NotFoundError:
                before = listed.tree.top
                listed = await self._find(before.entry.id)
                if listed.tree.top == before:
                    raise

    async def restore_as(
        self, caller: Caller, entry_id: str, parent: Ino, token: bytes, name: bytes
    ) -> None:
        """Bring one tree back under a name in a directory that the caller may write to.

        Args:
            entry_id: of its top, which may be a part of what was deleted with it.
            parent: inode of the directory; `token` finds it.

        Raises:
            NotFoundError: it has left the trash.
            DeniedError: it is somebody else's.
            ExistsError: the name is taken; nothing has changed.
            FSError: EFBIG; more was taken out of it than one request may put back: nothing has
                changed. EIO; it is back, but for parts that stay in the trash.
        """
        listed = await self.find(caller, entry_id)
        if len(list(itertools.islice(listed.tree.walk(), VIEW_RESTORED + 1))) > VIEW_RESTORED:
            self._meter.count("view_limit_reached_total", kind="restored")
            raise FSError(errno.EFBIG, f"{entry_id} has more than {VIEW_RESTORED} entries")
        found = await self._storage.find(parent, token)
        try:
            listed, done = await self._bring_back(listed, Target(found.node, name))
            path = below(await self._path_of(found.node), name)
        finally:
            self._storage.forget(found.node)
        self._forget(parent, name, done.inos)
        self._audit.restored(listed.domain.root.ino, self._gone(listed), caller.cred.uid, path)
        answer = _restored(listed, entry_id, name, done)
        self._count(answer)
        if done.failures:
            _log.warning("restore of %s: %s", entry_id, answer.message)
            raise FSError(errno.EIO, answer.message)

    async def _path_of(self, directory: Node) -> bytes:
        """Return where a directory is now; nothing if it is gone."""
        try:
            return await self._storage.path(directory)
        except FSError:
            return b""

    def _gone(self, listed: Listed) -> Gone:
        """Return what the audit says of a tree that has left the trash."""
        prefix = self._domains.path_of(listed.domain)
        path = (listed.path or b"").removeprefix(prefix)
        return Gone(listed.tree.top.entry.id, listed.tree.start_ns, path)

    async def _settle(
        self,
        caller: Caller,
        place: Placing,
        target: Target,
        on_conflict: Conflict,
        dry_run: bool,
    ) -> tuple[bytes, Outcome | None]:
        """Decide on a name; the verdict is None if the restore may go on under it."""
        taken = await place.taken(target.name)
        if taken is None:
            return target.name, None
        try:
            if on_conflict is Conflict.FAIL:
                return target.name, Outcome.CONFLICT
            if on_conflict is Conflict.SKIP:
                return target.name, Outcome.SKIPPED
            if on_conflict is Conflict.KEEP_BOTH:
                return await place.free_name(target.name), None
            if not dry_run:
                await self._replace(caller, place, target, taken)
            return target.name, None
        finally:
            self._storage.forget(taken.node)

    async def _replace(self, caller: Caller, place: Placing, target: Target, taken: Found) -> None:
        """Put what has the name into the trash: the replaced can be restored in turn.

        Raises:
            DeniedError: the caller may not delete it.
        """
        await place.check_removable(taken)
        who = Deleter(caller.cred, 0, "trash restore --on-conflict replace")
        domain = place.listed.domain
        at = Place(target.parent, target.name, place.path_in_domain(target.name))
        if taken.attr.is_dir:
            await self._put.tree(domain, at, taken, who)
            return
        found = await self._storage.lookup(target.parent, target.name)
        self._storage.forget(found.node)
        if found.attr.nlink > 1:
            await self._put.linked_file(domain, at, found, who)
        else:
            await self._put.file(domain, at, found, who)

    def _count(self, answer: Answer) -> None:
        silent = dict.fromkeys((Outcome.WOULD_RESTORE, Outcome.STOPPED), "")
        results = {Outcome.NOT_FOUND: "failed", **silent}
        result = results.get(answer.outcome, answer.outcome.value)
        if result:
            self._meter.count("trash_restores_total", result=result)

    async def hold(self, caller: Caller, listed: Listed, reason: str) -> Moved:
        """Exempt a tree from expiry and pressure.

        Raises:
            DeniedError: the caller holds as much as one user may; nothing is held.
            FSError: nothing is held.
        """
        entries = sum(1 for _ in listed.tree.walk())
        if not caller.everything and not listed.is_held:
            await self._check_held(caller.cred.uid, entries)
        note = Note(caller.cred.uid, time.time_ns(), reason, entries)
        return await hold.hold(listed.domain, listed.tree, note)

    async def _check_held(self, uid: int, more: int) -> None:
        domains = await self._domains.all()
        held = sum([await hold.entries_held_by(domain, uid) for domain in domains])
        if held + more > self._held_max:
            self._meter.count("trash_holds_refused_total")
            raise DeniedError(
                what=f"that is {more} entries, you hold {held}, and a user may hold "
                f"{self._held_max} (trash.held_max)"
            )

    async def release(self, listed: Listed) -> Moved:
        """Let a tree expire as it would have."""
        return await hold.release(listed.domain, listed.tree)

    async def purge(
        self, caller: Caller, listed: Sequence[Listed], progress: Progress | None = None
    ) -> Removed:
        """Remove trees for good, at once; all are claimed before the first is removed.

        Else one that went first would be kept for the tombstone of one that goes next.

        Args:
            progress: counts entries; it can't be stopped.
        """
        progress = progress or Progress()
        items: dict[Ino, list[Item]] = defaultdict(list)
        for one in listed:
            items[one.domain.root.ino] += [tree.top for tree, _ in one.tree.walk()]
        domains = {one.domain.root.ino: one.domain for one in listed}
        try:
            progress.expect(sum(map(len, items.values())))
            removed = [
                await self._expiry.purge(domains[root], items[root], caller.cred, progress)
                for root in domains
            ]
        finally:  # some may be gone also if it fails; of what still lies there this says nothing
            for one in listed:
                self._audit.purged(one.domain.root.ino, self._gone(one), caller.cred.uid)
        return total(removed)


def _within(trees: Sequence[Tree]) -> list[dict[int, bytes]]:
    """Return for each tree which others it is a part of, by their numbers, and where in them.

    Of two that are the same, the second is a part of the first.
    """
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, tree in enumerate(trees):
        numbers[tree.top.entry.id].append(number)
    within: list[dict[int, bytes]] = [{} for _ in trees]
    for whole, tree in enumerate(trees):
        for part, inner in tree.walk():
            for number in numbers.get(part.top.entry.id, ()):
                if inner or number > whole:
                    within[number][whole] = b"/".join(inner)
    return within


def _is_settled(item: Item, records: Mapping[str, Record]) -> bool:
    """Tell whether an entry is one: a file that a rename is about to replace has both its names.

    The record comes after the rename; so does, where the gateway has died, the recovery.
    """
    if item.is_dir or item.nlink < 2 or item.entry.id in records:
        return True
    return time.time_ns() - item.entry.deleted_ns > _SETTLED_NS


def _part_at(sighting: Sighting, path: bytes) -> tuple[bytes, ...] | None:
    """Return where in a tree something was that had a path; None if it wasn't there."""
    if sighting.path is None:
        return None
    if sighting.path == path:
        return ()
    if not path.startswith(sighting.path + b"/"):
        return None
    inner = tuple(path[len(sighting.path) + 1 :].split(b"/"))
    return None if sighting.bundle.find(inner) is None else inner


def _part_of(listed: Listed, path: tuple[bytes, ...]) -> Listed | None:
    """Return a part of a tree as a tree of its own; None if it is gone."""
    if not path:
        return listed
    whole = None if listed.path is None else b"/".join((listed.path, *path))
    parts = (tree for tree, inner in listed.tree.walk() if inner == path)
    return next((Listed(listed.domain, tree, whole, None) for tree in parts), None)


def _restored(listed: Listed, label: str, path: bytes, done: Restored) -> Answer:
    if not done.failures:
        older = f"{done.older} older entries of names that it has stay in the trash"
        return Answer(listed, label, path, Outcome.RESTORED, older if done.older else "")
    first = done.failures[0]
    message = (
        f"{len(done.failures)} of {done.entries + len(done.failures)} entries could not be put "
        f"back; the first: {first.path.decode(errors='replace')}: {first.reason}"
    )
    return Answer(listed, label, path, Outcome.PARTLY, message)


def _outcome(error: FSError) -> Outcome:
    if isinstance(error, ExistsError):
        return Outcome.CONFLICT
    if isinstance(error, DeniedError):
        return Outcome.DENIED
    if isinstance(error, NotFoundError):
        return Outcome.NOT_FOUND
    return Outcome.FAILED


def _why(error: FSError) -> str:
    if isinstance(error, CrossDomainError):
        return "it can't be restored across a quota boundary; restore it in place and copy it"
    return str(error)
