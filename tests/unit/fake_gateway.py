"""The control server over real sockets, with a service that only remembers and answers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import trio

from cephfs_ext.control.jobs import (
    JobItem,
    JobListing,
    JobOutcome,
    JobQuery,
    JobReport,
    JobRequest,
)
from cephfs_ext.control.server import ControlServer
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
    ExplainRequest,
    Explanation,
    HeldItem,
    HoldReport,
    HoldRequest,
    ListingEnd,
    PurgeReport,
    PurgeRequest,
    RestoredItem,
    RestoreReport,
    RestoreRequest,
    Status,
    Text,
    TrashDetail,
    TrashItem,
    TrashQuery,
    TrashSpace,
)
from trashbin.progress import Progress

METRICS = b"# HELP cephfs_ext_nodes Inodes.\ncephfs_ext_nodes 1.0\n"


def item(entry_id: str = "18eaf1b2aec46709.a7f8", path: str | None = "home/report") -> TrashItem:
    """Return one tree as a daemon lists it."""
    return TrashItem(
        id=entry_id,
        path=path,
        kind="file",
        deleted_at="2026-11-24T09:39:11Z",
        deleted_ns=1_795_513_151_000_000_000,
        deleter_uid=1000,
        owner_uid=1000,
        entries=1,
        size_bytes=2048,
        expires_at="2026-12-01T09:39:11Z",
        pid=42,
        command="rm",
    )


def deed(became: str = "in_trash", **more: Any) -> AuditItem:
    """Return one delete as a daemon tells of it."""
    fields: dict[str, Any] = {
        "id": "18eaf1b2aec46709.a7f8",
        "event": "18eaf1b2aec46709.a7f8",
        "path": "home/report",
        "kind": "file",
        "deleted_at": "2026-11-24T09:39:11Z",
        "deleted_ns": 1_795_513_151_000_000_000,
        "uid": 0,
        "gid": 0,
        "pid": 42,
        "command": "rm report",
        "host": "node-7",
        "pod": None,
        "container": None,
        "owner_uid": 1000,
        "size_bytes": 2048,
        "became": became,
    }
    return AuditItem(**{**fields, **more})


def event(**more: Any) -> AuditEvent:
    """Return one delete event as a daemon tells of it."""
    fields: dict[str, Any] = {
        "event": "18eaf1b2aec46709.a7f8",
        "first_at": "2026-11-24T09:39:11Z",
        "last_at": "2026-11-24T09:41:11Z",
        "uid": 0,
        "gid": 0,
        "pid": 42,
        "command": "rm -r home",
        "host": "node-7",
        "pod": None,
        "container": None,
        "names": 7000,
        "size_bytes": 2048,
        "not_kept": 3,
        "path": "home",
    }
    return AuditEvent(**{**fields, **more})


def restored(outcome: str, message: str = "") -> RestoredItem:
    """Return what became of one restore."""
    return RestoredItem(
        id=None, asked="home/report", target="home/report", outcome=outcome, message=message
    )


def job(state: str = "running", **more: object) -> JobItem:
    """Return one job as a daemon lists it."""
    fields: dict[str, Any] = {
        "id": "18eaf1b2aec46709.a7f8",
        "kind": "tree",
        "state": state,
        "path": "home/old",
        "uid": 1000,
        "made_at": "2026-11-24T09:39:11Z",
        "ended_at": None,
        "workers": ["node-1:42"],
        "files": 1000,
        "dirs": 10,
        "entries_total": 5000,
        "size_total_bytes": 1 << 30,
        "entries_left": 3990,
        "size_left_bytes": 1 << 29,
        "rate": 500.0,
        "eta_s": 8.0,
        "failed": 0,
        "failures": [],
        "entry": None,
    }
    return JobItem(**{**fields, **more})


class FakeService:
    """Implements `cephfs_ext.control.service.Service`; every call is kept in `calls`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Caller, object]] = []
        self.failure: Exception | None = None
        self.checks = [Check("storage", ok=True)]
        self.items = [item()]
        self.more = False
        self.outcomes = [restored("restored")]
        self.not_found: list[str] = []
        self.held = [HeldItem(id=item().id, outcome="held", entries=3)]
        self.deeds = [deed()]
        self.deeds_left_out = False
        self.events = [event()]
        self.failures = 0
        self.jobs = [job()]
        self.job_outcomes = [JobOutcome(id=item().id, outcome="paused")]
        self.explanation = Explanation(
            kept=True,
            reason="",
            rule="logs",
            why="the path matches logs/**",
            retention_s=7200.0,
            versions=3,
            protected=False,
        )
        self.stopped = False
        self.lasts = False
        """True while a restore isn't done."""
        self.can_stop = True
        self.is_working = threading.Event()
        self.space: TrashSpace | None = None

    def _called(self, name: str, caller: Caller, argument: object) -> None:
        self.calls.append((name, caller, argument))
        if self.failure is not None:
            raise self.failure

    @property
    def last(self) -> tuple[str, Caller, object]:
        """The newest call."""
        return self.calls[-1]

    async def live(self) -> list[Check]:
        return [Check("loop", ok=True)]

    async def ready(self) -> list[Check]:
        return self.checks

    async def status(self) -> Status:
        if self.failure is not None:
            raise self.failure
        return Status(
            version="0.1.0",
            source="posix:/data",
            mountpoint="/mnt/data",
            pid=42,
            instance="a7f8",
            uptime_s=12.0,
            read_only=False,
            trash_enabled=True,
            retention_s=604800.0,
            storage={"kind": "posix"},
            background_storage={"kind": "posix"},
            nodes=3,
            handles=1,
            trash=self.space,
        )

    def metrics(self) -> tuple[bytes, str]:
        return METRICS, "text/plain; version=0.0.4; charset=utf-8"

    async def trash_list(
        self, caller: Caller, query: TrashQuery
    ) -> AsyncGenerator[TrashItem | ListingEnd]:
        self._called("list", caller, query)
        for one in self.items:
            yield one
        yield ListingEnd(damaged=[], more=self.more)

    async def trash_show(self, caller: Caller, entry_id: str) -> TrashDetail:
        self._called("show", caller, entry_id)
        return TrashDetail(item=item(entry_id), mode=0o100640, children=[Text("a/b")], more=2)

    async def trash_restore(
        self, caller: Caller, request: RestoreRequest, progress: Progress
    ) -> RestoreReport:
        self._called("restore", caller, request)
        if self.lasts:
            await self._work(progress)
        return RestoreReport(items=self.outcomes)

    async def _work(self, progress: Progress) -> None:
        """Be at three of seven until somebody stops it, or lets it go on."""
        progress.expect(7)
        progress.add(3)
        with progress.step() if self.can_stop else contextlib.nullcontext():
            self.is_working.set()
            while self.lasts:  # noqa: ASYNC110 (another thread ends it)
                await trio.sleep(0.01)
        if progress.stops and self.can_stop:
            self.outcomes = [restored("stopped")]

    async def jobs_list(self, caller: Caller, query: JobQuery) -> JobListing:
        self._called("jobs", caller, query)
        return JobListing(items=self.jobs)

    async def jobs_ask(self, caller: Caller, request: JobRequest) -> JobReport:
        self._called("ask", caller, request)
        return JobReport(items=self.job_outcomes)

    async def trash_purge(
        self, caller: Caller, request: PurgeRequest, progress: Progress
    ) -> PurgeReport:
        self._called("purge", caller, request)
        done = not request.dry_run
        return PurgeReport(
            dry_run=request.dry_run,
            trees=self.items,
            not_found=self.not_found,
            files=len(self.items) * done,
            dirs=0,
            failures=self.failures * done,
        )

    async def trash_explain(self, caller: Caller, request: ExplainRequest) -> Explanation:
        self._called("explain", caller, request)
        return self.explanation

    async def trash_allow(self, caller: Caller, request: AllowRequest) -> Allowed:
        self._called("allow", caller, request)
        return Allowed(until="2026-11-24T09:49:11Z")

    async def trash_hold(self, caller: Caller, request: HoldRequest) -> HoldReport:
        self._called("hold", caller, request)
        return HoldReport(items=self.held)

    async def trash_release(self, caller: Caller, request: HoldRequest) -> HoldReport:
        self._called("release", caller, request)
        return HoldReport(items=self.held)

    async def audit(self, caller: Caller, query: AuditQuery) -> AuditReport:
        self._called("audit", caller, query)
        return AuditReport(items=self.deeds, more=self.deeds_left_out)

    async def audit_events(self, caller: Caller, query: AuditQuery) -> AuditEventReport:
        self._called("audit events", caller, query)
        return AuditEventReport(events=self.events, more=self.deeds_left_out)

    def stop(self) -> None:
        self.stopped = True


class _Running:
    """A trio loop in a thread of its own."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None
        self._token: trio.lowlevel.TrioToken
        self._scope: trio.CancelScope

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as exc:
            self._failure = exc
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            await nursery.start(self._server.run)
            self._started.set()

    def start(self) -> None:
        """Return when the sockets answer; raise what the start raised."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self, end_s: float) -> None:
        """End the server; fail if that takes longer."""
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(end_s)
        assert not self._thread.is_alive(), "the server doesn't end"
        if self._failure is not None:
            raise self._failure


@contextlib.contextmanager
def serving(
    service: FakeService,
    directory: Path,
    *,
    metrics_listen: str = "",
    patience_s: float = 5.0,
    end_s: float = 20.0,
) -> Iterator[None]:
    """Serve while the body runs."""
    server = ControlServer(
        service, service, str(directory), metrics_listen=metrics_listen, patience_s=patience_s
    )
    running = _Running(server)
    running.start()
    try:
        yield
    finally:
        running.stop(end_s)
