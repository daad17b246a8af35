"""Answers the control server about jobs: from wire types to the jobs and back."""

from __future__ import annotations

import time

from asyncdelete import jobs
from asyncdelete.jobs import Verb
from asyncdelete.service import Jobs, View
from cephfs_ext.control.jobs import (
    JobFailure,
    JobItem,
    JobListing,
    JobOutcome,
    JobQuery,
    JobReport,
    JobRequest,
)
from cephfs_ext.control.service import Caller, from_base64, rfc3339, to_text
from cephfs_ext.core.errors import (
    DeniedError,
    ExistsError,
    ExitCode,
    FSError,
    NotFoundError,
    UserError,
)
from trashbin.placing import Caller as TrashCaller


class JobAnswers:
    """Implements `cephfs_ext.control.jobs.JobService`."""

    def __init__(self, jobs: Jobs, *, read_only: bool) -> None:
        self._jobs = jobs
        self._read_only = read_only

    def _who(self, caller: Caller) -> TrashCaller:
        if self._read_only:
            raise UserError("the mount is read-only: it has no jobs", ExitCode.DENIED)
        return TrashCaller(caller.cred, caller.everything)

    async def jobs_list(self, caller: Caller, query: JobQuery) -> JobListing:
        """List what the caller may see."""
        who = self._who(caller)
        if query.ids:
            views = [await self._jobs.one(who, job_id) for job_id in query.ids]
        else:
            views = [view for view in await self._jobs.all(who) if _fits(view, query)]
        return JobListing(items=[_item(view) for view in views])

    async def jobs_ask(self, caller: Caller, request: JobRequest) -> JobReport:
        """Ask something of jobs."""
        who = self._who(caller)
        if not request.ids:
            raise UserError("no job was named", ExitCode.USAGE)
        items = []
        for job_id in request.ids:
            try:
                view = await self._jobs.ask(who, job_id, Verb(request.verb))
            except FSError as exc:
                items.append(JobOutcome(id=job_id, outcome=_why_not(exc), message=exc.what))
                continue
            entry = None if view.known.result is None else view.known.result.entry or None
            items.append(JobOutcome(id=job_id, outcome=view.known.state.value, entry=entry))
        return JobReport(items=items)


def _fits(view: View, query: JobQuery) -> bool:
    job = view.known.job
    return (
        (query.over or view.known.state not in jobs.OVER)
        and (query.below is None or _is_below(view.path, from_base64(query.below)))
        and (query.since_ns is None or job.made_ns >= query.since_ns)
    )


def _is_below(path: bytes, place: bytes) -> bool:
    return not place or path == place or path.startswith(place + b"/")


def _why_not(error: FSError) -> str:
    kinds = ((NotFoundError, "not_found"), (DeniedError, "denied"), (ExistsError, "conflict"))
    return next((why for kind, why in kinds if isinstance(error, kind)), "failed")


def _item(view: View) -> JobItem:
    known, job, result = view.known, view.known.job, view.known.result
    path = to_text(view.path) if view.path else None
    now_ns, progress = time.time_ns(), view.known.progress.values()
    outcome = result or jobs.result_of(progress, known.state, None, "")
    at_it = [one for one in progress if jobs.is_at_it(one, now_ns)]
    return JobItem(
        id=job.id,
        kind=job.kind,
        state=known.state.value,
        path=None if path is None else path.text,
        path_raw=None if path is None else path.raw,
        uid=job.uid,
        made_at=rfc3339(job.made_ns / 1e9),
        ended_at=None if result is None else rfc3339(result.ended_ns / 1e9),
        workers=sorted(f"{one.host}:{one.pid}" for one in at_it),
        files=outcome.files,
        dirs=outcome.dirs,
        entries_total=None if job.entries is None else job.entries + 1,
        size_total_bytes=job.size,
        entries_left=None if view.left is None else view.left.files,
        size_left_bytes=None if view.left is None else view.left.size,
        rate=view.files_per_s,
        eta_s=view.eta_s,
        failed=outcome.failed,
        failures=[_failure(one) for one in outcome.failures],
        entry=outcome.entry or None,
    )


def _failure(failure: jobs.Failure) -> JobFailure:
    path = to_text(failure.path)
    return JobFailure(path=path.text, path_raw=path.raw, reason=failure.reason)
