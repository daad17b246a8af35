"""Answers the control server: from wire types to the trash service and back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec
import psutil

from cephfs_ext.control.service import (
    Allowed,
    AllowRequest,
    AuditEvent,
    AuditEventReport,
    AuditItem,
    AuditQuery,
    AuditReport,
    Caller,
    Check,
    DamagedItem,
    ExplainRequest,
    Explanation,
    HeldBy,
    HeldItem,
    HoldReport,
    HoldRequest,
    ListingEnd,
    MadeDirectory,
    PurgeReport,
    PurgeRequest,
    RestoredItem,
    RestoreReport,
    RestoreRequest,
    Status,
    TrashDetail,
    TrashItem,
    TrashQuery,
    TrashSpace,
    from_base64,
    rfc3339,
    to_text,
)
from cephfs_ext.core.errors import DeniedError, ExitCode, FSError, NotFoundError, UserError
from cephfs_ext.core.ports import Storage
from cephfs_ext.daemon.health import Health
from cephfs_ext.vfs.brake import Brake
from cephfs_ext.vfs.explain import Explanations
from cephfs_ext.vfs.filesystem import FileSystem
from trashbin import service as trash
from trashbin.catalog import Damaged
from trashbin.expire import total
from trashbin.fates import Became
from trashbin.hold import REASON_LIMIT, Moved, Note
from trashbin.layout import parse_id
from trashbin.placing import Made
from trashbin.pressure import Pressure, Survey
from trashbin.progress import Progress
from trashbin.questions import Question
from trashbin.restore import Outcome
from trashbin.service import Answer, Conflict, Listed, Shown, TrashService
from trashbin.stream import Sighting, Wanted
from trashbin.trail import Deed, Event, Trail

_CHILDREN_SHOWN = 1000
_SHOWN_TOGETHER = 256


class Answers:
    """Implements `cephfs_ext.control.service.Service`."""

    def __init__(
        self,
        service: TrashService,
        pressure: Pressure,
        trail: Trail,
        filesystem: FileSystem,
        explanations: Explanations,
        brake: Brake,
        storage: Storage,
        background: Storage,
        health: Health,
        metrics: Callable[[], tuple[bytes, str]],
        stop: Callable[[], None],
        about: Status,
    ) -> None:
        self._trash = service
        self._pressure = pressure
        self._trail = trail
        self._fs = filesystem
        self._explanations = explanations
        self._brake = brake
        self._storage = storage
        self._background = background
        self._health = health
        self.metrics = metrics
        self.stop = stop
        self._about = about
        self._begun = time.monotonic()
        self._process = psutil.Process()

    async def live(self) -> list[Check]:
        """The event loop turns, or nobody would read this."""
        return [Check("loop", ok=True)]

    async def ready(self) -> list[Check]:
        """Say whether the storage answers through both sessions."""
        return self._health.checks()

    async def status(self) -> Status:
        """Say what is running."""
        with self._process.oneshot():
            memory, threads = self._process.memory_info(), self._process.num_threads()
        return msgspec.structs.replace(
            self._about,
            rss_bytes=memory.rss,
            threads=threads,
            uptime_s=time.monotonic() - self._begun,
            storage=self._storage.describe(),
            background_storage=self._background.describe(),
            nodes=len(self._fs.nodes),
            handles=self._fs.open_handles,
            trash=_space(self._pressure.surveys),
        )

    async def _asks(self, caller: Caller) -> trash.Caller:
        """Return who asks for something of the trash, when all is there that has been deleted.

        Raises:
            UserError: the mount is read-only; even a listing may have to make directories.
        """
        if self._about.read_only:
            raise UserError(
                "the mount is read-only; mount it read-write to use its trash", ExitCode.DENIED
            )
        await self._fs.settle()
        return trash.Caller(caller.cred, caller.everything)

    async def trash_list(
        self, caller: Caller, query: TrashQuery
    ) -> AsyncGenerator[TrashItem | ListingEnd]:
        """List what the caller may see, as it is found."""
        who = await self._asks(caller)
        if query.last:
            last = await self._trash.last(who)
            if last is not None:
                yield _item(await self._trash.shown_tree(last))
            yield ListingEnd(damaged=[], more=False)
            return
        damaged: list[Damaged] = []
        left, more = query.limit, False
        batch: list[Sighting] = []
        size = 1  # the first is shown at once
        found = self._trash.sightings(who, _fitting(query), damaged)
        async with contextlib.aclosing(found) as sightings:
            async for sighting in sightings:
                more = left == 0
                if more:
                    break
                batch.append(sighting)
                if len(batch) == (size if left is None else min(size, left)):
                    shown = await self._trash.shown(batch)
                    left = None if left is None else left - len(shown)
                    batch, size = [], min(2 * size, _SHOWN_TOGETHER)
                    for one in shown:
                        yield _item(one)
        for one in await self._trash.shown(batch):
            yield _item(one)
        yield ListingEnd(
            damaged=[DamagedItem(to_text(path).text, why) for path, why in damaged], more=more
        )

    async def trash_show(self, caller: Caller, entry_id: str) -> TrashDetail:
        """Show one tree."""
        listed = await self._trash.find(await self._asks(caller), _checked_id(entry_id))
        paths = [b"/".join(path) for _, path in listed.tree.walk() if path]
        return TrashDetail(
            item=_item(await self._trash.shown_tree(listed)),
            mode=listed.tree.top.mode,
            children=[to_text(path) for path in sorted(paths)[:_CHILDREN_SHOWN]],
            more=max(0, len(paths) - _CHILDREN_SHOWN),
        )

    async def trash_restore(
        self, caller: Caller, request: RestoreRequest, progress: Progress
    ) -> RestoreReport:
        """Bring trees back; what can't be found is answered, too."""
        who = await self._asks(caller)
        with progress.step() as looking:
            asked, answers = await self._asked(who, request)
        if looking.cancelled_caught:
            raise UserError("stopped before anything was restored")
        answers += await self._trash.restore(
            who,
            asked,
            to=None if request.to is None else from_base64(request.to),
            on_conflict=Conflict(request.on_conflict),
            dry_run=request.dry_run,
            progress=progress,
        )
        return RestoreReport(items=[_restored_item(answer) for answer in answers])

    async def _asked(
        self, who: trash.Caller, request: RestoreRequest
    ) -> tuple[list[tuple[str, Listed]], list[Answer]]:
        """Find what a request names; what isn't there is answered at once."""
        asked: list[tuple[str, Listed]] = []
        answers: list[Answer] = []
        for entry_id in request.ids:
            try:
                asked.append((entry_id, await self._trash.find(who, _checked_id(entry_id))))
            except FSError as exc:
                missing = isinstance(exc, NotFoundError)
                outcome = Outcome.NOT_FOUND if missing else Outcome.DENIED
                answers.append(Answer(None, entry_id, None, outcome, exc.what))
        for raw in request.paths:
            await self._ask_for_path(who, from_base64(raw), asked, answers)
        if request.last:
            last = await self._trash.last(who)
            if last is None:
                raise NotFoundError(what="you have deleted nothing that is still in the trash")
            asked.append(("--last", last))
        if request.query:
            wanted = _fitting(request.query)
            fitting = await self._trash.chosen(who, wanted, request.query.limit)
            asked += [(listed.tree.top.entry.id, listed) for listed in fitting]
        if not asked and not answers:
            if request.query:
                raise NotFoundError(what="nothing that fits is in the trash and yours to restore")
            raise UserError("nothing was named to restore", ExitCode.USAGE)
        return asked, answers

    async def _ask_for_path(
        self,
        who: trash.Caller,
        path: bytes,
        asked: list[tuple[str, Listed]],
        answers: list[Answer],
    ) -> None:
        label = to_text(path).text or "."
        found = await self._trash.at_path(who, path)
        asked += [(label, listed) for listed in found]
        if not found:
            message = "nothing that was deleted there is yours to restore"
            answers.append(Answer(None, label, None, Outcome.NOT_FOUND, message))

    async def trash_purge(
        self, caller: Caller, request: PurgeRequest, progress: Progress
    ) -> PurgeReport:
        """Remove trees for good: one's own, unless one is an operator."""
        who = await self._asks(caller)
        named, missing = await self._to_purge(who, request)
        trees = [listed for listed in named if not listed.is_held]
        ids = [listed.tree.top.entry.id for listed in named if listed.is_held]
        held = [entry_id for entry_id in ids if entry_id in request.ids]
        items = [_item(await self._trash.shown_tree(listed)) for listed in trees]
        removed = total(())
        if not request.dry_run:
            removed = await self._trash.purge(who, trees, progress)
        return PurgeReport(
            dry_run=request.dry_run,
            trees=items,
            not_found=missing,
            files=removed.files,
            dirs=removed.dirs,
            failures=removed.failures,
            held=held,
        )

    async def _to_purge(
        self, who: trash.Caller, request: PurgeRequest
    ) -> tuple[list[Listed], list[str]]:
        trees: list[Listed] = []
        missing: list[str] = []
        for entry_id in request.ids:
            try:
                trees.append(await self._trash.find(who, _checked_id(entry_id)))
            except NotFoundError:
                missing.append(entry_id)
        if request.all or request.older_than_s is not None:
            age_ns = int((request.older_than_s or 0) * 1e9)
            horizon_ns = time.time_ns() - age_ns
            trees += await self._trash.chosen(who, Wanted(until_ns=horizon_ns))
        return trees, missing

    async def trash_allow(self, caller: Caller, request: AllowRequest) -> Allowed:
        """Lift the brake on deletes for a user."""
        if not caller.everything:
            raise DeniedError(what="only the operators' socket may lift a limit")
        self._brake.lift(request.uid, request.duration_s)
        return Allowed(until=rfc3339(time.time() + request.duration_s))

    async def trash_explain(self, caller: Caller, request: ExplainRequest) -> Explanation:
        """Say what a delete would do."""
        await self._fs.settle()
        verdict, is_protected = await self._explanations.path(
            from_base64(request.path), caller.cred, everything=caller.everything
        )
        retention_s, term = self._about.retention_s, verdict.term
        if term.retention_s is not None:
            retention_s = float(term.retention_s)
        return Explanation(
            kept=not verdict.bypass,
            reason=verdict.bypass,
            rule=verdict.rule,
            why=verdict.why,
            retention_s=None if verdict.bypass else retention_s,
            versions=None if verdict.bypass else term.versions,
            protected=is_protected,
        )

    async def trash_hold(self, caller: Caller, request: HoldRequest) -> HoldReport:
        """Exempt trees from expiry and pressure; goes on after an error and answers for each."""
        if len(request.reason) > REASON_LIMIT:
            raise UserError(f"a reason has at most {REASON_LIMIT} characters", ExitCode.USAGE)
        who = await self._asks(caller)

        async def hold(listed: Listed) -> Moved:
            return await self._trash.hold(who, listed, request.reason)

        return await self._for_each_id(who, request.ids, hold, "held")

    async def trash_release(self, caller: Caller, request: HoldRequest) -> HoldReport:
        """Let trees expire as they would have; goes on after an error and answers for each."""
        who = await self._asks(caller)
        return await self._for_each_id(who, request.ids, self._trash.release, "released")

    async def _for_each_id(
        self,
        who: trash.Caller,
        ids: Sequence[str],
        step: Callable[[Listed], Awaitable[Moved]],
        done: str,
    ) -> HoldReport:
        if not ids:
            raise UserError("nothing was named", ExitCode.USAGE)
        items = []
        for entry_id in ids:
            try:
                moved = await step(await self._trash.find(who, _checked_id(entry_id)))
            except FSError as exc:
                items.append(HeldItem(id=entry_id, outcome=_why_not(exc), message=str(exc)))
                continue
            message = "; ".join(moved.failures[:1])
            outcome = "partly" if moved.failures else done
            items.append(
                HeldItem(id=entry_id, outcome=outcome, entries=moved.entries, message=message)
            )
        return HoldReport(items=items)

    async def audit(self, caller: Caller, query: AuditQuery) -> AuditReport:
        """Say who deleted what, as far as the caller may know of it."""
        found = await self._trail.ask(await self._asks(caller), _question(query))
        return AuditReport(items=[_audit_item(deed) for deed in found.deeds], more=found.more)

    async def audit_events(self, caller: Caller, query: AuditQuery) -> AuditEventReport:
        """Say in which delete events, and how much each took away."""
        found = await self._trail.events(await self._asks(caller), _question(query))
        return AuditEventReport(events=[_audit_event(e) for e in found.events], more=found.more)


def _item(shown: Shown) -> TrashItem:
    top, record, expires_s = shown.top, shown.record, shown.expires_s
    path = None if shown.path is None else to_text(shown.path)
    return TrashItem(
        id=top.entry.id,
        path=None if path is None else path.text,
        path_raw=None if path is None else path.raw,
        kind=top.kind,
        deleted_at=rfc3339(top.entry.deleted_ns / 1e9),
        deleted_ns=top.entry.deleted_ns,
        deleter_uid=top.entry.deleter_uid,
        owner_uid=top.owner_uid,
        entries=shown.totals.entries,
        size_bytes=shown.totals.size,
        expires_at=None if expires_s is None else rfc3339(expires_s),
        held=shown.held_entries > 0,
        held_entries=shown.held_entries,
        held_by=None if shown.note is None else _held_by(shown.note),
        pid=None if record is None else record.pid,
        command=None if record is None else record.command,
        event=None if record is None else record.event or None,
    )


def _space(surveys: Sequence[Survey]) -> TrashSpace | None:
    """Put the figures of all domains together; the first is that of the served root."""
    if not surveys:
        return None
    rates = [one.rate for one in surveys if one.rate is not None]
    lasts_s = [one.guaranteed_s for one in surveys if one.guaranteed_s is not None]
    return TrashSpace(
        size_bytes=sum(one.trash.size for one in surveys),
        entries=sum(one.trash.files for one in surveys),
        held_bytes=sum(one.held.size for one in surveys),
        used_bytes=surveys[0].capacity.size.used,
        total_bytes=surveys[0].capacity.size.total,
        used_ratio=max(one.share for one in surveys),
        hourly_bytes=sum(one.size for one in rates) if rates else None,
        guaranteed_s=min(lasts_s, default=None),
        is_helpless=any(one.is_helpless for one in surveys),
        age_s=time.monotonic() - min(one.measured_s for one in surveys),
    )


def _checked_id(entry_id: str) -> str:
    if parse_id(entry_id) is None:
        raise NotFoundError(what=f"{entry_id!r} is no id of an entry; see cephfs-ext trash ls")
    return entry_id


def _held_by(note: Note) -> HeldBy:
    return HeldBy(uid=note.uid, at=rfc3339(note.held_ns / 1e9), reason=note.reason)


def _why_not(error: FSError) -> str:
    if isinstance(error, NotFoundError):
        return "not_found"
    return "denied" if isinstance(error, DeniedError) else "failed"


def _fitting(query: TrashQuery) -> Wanted:
    return Wanted(
        below=b"" if query.below is None else from_base64(query.below),
        since_ns=query.since_ns,
        deleter_uid=query.deleter_uid,
        glob=query.glob,
        event=query.event,
        held=query.held,
    )


def _restored_item(answer: Answer) -> RestoredItem:
    target = None if answer.target is None else to_text(answer.target)
    return RestoredItem(
        id=None if answer.listed is None else answer.listed.tree.top.entry.id,
        asked=answer.asked,
        target=None if target is None else target.text,
        target_raw=None if target is None else target.raw,
        outcome=answer.outcome.value,
        message=answer.message,
        made=[_made(directory) for directory in answer.made],
    )


def _made(directory: Made) -> MadeDirectory:
    path, (_, mode, uid, gid, _) = to_text(directory.path), directory
    return MadeDirectory(path=path.text, path_raw=path.raw, mode=mode, uid=uid, gid=gid)


def _question(query: AuditQuery) -> Question:
    return Question(
        path=b"" if query.path is None else from_base64(query.path),
        since_ns=query.since_ns or 0,
        uid=query.uid,
        event=query.event or "",
        limit=query.limit,
    )


def _audit_event(event: Event) -> AuditEvent:
    newest, path = event.newest, to_text(event.path)
    return AuditEvent(
        event=newest.event,
        first_at=rfc3339(event.first_ns / 1e9),
        last_at=rfc3339(event.last_ns / 1e9),
        uid=newest.uid,
        gid=newest.gid,
        pid=newest.pid or None,
        command=newest.command or None,
        host=newest.host or None,
        pod=newest.pod or None,
        container=newest.container or None,
        names=event.names,
        size_bytes=event.size,
        not_kept=event.not_kept,
        path=path.text,
        path_raw=path.raw,
    )


def _audit_item(deed: Deed) -> AuditItem:
    record, fate = deed.record, deed.fate
    path = to_text(deed.path)
    by_somebody = deed.became in (Became.RESTORED, Became.PURGED)
    target = to_text(fate.to) if fate is not None and fate.to else None
    deleted_ns = _deleted_ns(record.id)
    return AuditItem(
        id=record.id,
        event=record.event or None,
        path=path.text,
        path_raw=path.raw,
        kind=record.kind,
        deleted_at=rfc3339(deleted_ns / 1e9),
        deleted_ns=deleted_ns,
        uid=record.uid,
        gid=record.gid,
        pid=record.pid or None,
        command=record.command or None,
        host=record.host or None,
        pod=record.pod or None,
        container=record.container or None,
        owner_uid=record.owner,
        size_bytes=record.size,
        became=deed.became.value,
        expires_at=None if deed.expires_s is None else rfc3339(deed.expires_s),
        why=record.why or None,
        rule=record.rule or None,
        became_at=None if fate is None else rfc3339(fate.at_ns / 1e9),
        became_by=fate.uid if fate is not None and by_somebody else None,
        became_on=None if fate is None else fate.host or None,
        target=None if target is None else target.text,
        target_raw=None if target is None else target.raw,
    )


def _deleted_ns(entry_id: str) -> int:
    parsed = parse_id(entry_id)
    assert parsed is not None, "a record has an id"
    return parsed[0]
