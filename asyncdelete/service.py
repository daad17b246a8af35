"""Jobs as their owners and operators see them: list, show, and what may be asked of them.

Everybody sees what they asked for themselves; operators see everything, what the trash lets go of
among it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import trio

from asyncdelete import jobs, ledger
from asyncdelete.jobs import Verb
from asyncdelete.ledger import Known
from asyncdelete.worker import Worker
from cephfs_ext.core.errors import DeniedError, ExistsError, FSError, NotFoundError
from cephfs_ext.core.types import Weight
from trashbin import layout
from trashbin.domains import Domains
from trashbin.files import directory_in
from trashbin.placing import Caller

_CANCEL_S = 20.0
"""How long a request waits until what is left has been given back."""


class View(NamedTuple):
    """A job, and how far it is."""

    known: Known
    path: bytes
    """Where the tree was, relative to the served root; nothing if that isn't known."""
    left: Weight | None
    """What is still there; None where nothing knows it without looking at all of it."""

    @property
    def files_per_s(self) -> float:
        """Names that all who are at it remove in a second."""
        now_ns = time.time_ns()
        running = [one for one in self.known.progress.values() if jobs.is_at_it(one, now_ns)]
        if not running:
            return 0.0
        began_ns = min(one.began_ns for one in running)
        done = sum(one.files + one.dirs for one in running)
        return done / max((now_ns - began_ns) / 1e9, 0.001)

    @property
    def eta_s(self) -> float | None:
        """How long it takes from now on; None if there is no way to know."""
        if self.left is None or not self.files_per_s:
            return None
        return self.left.files / self.files_per_s


class Jobs:
    """Answers requests about jobs."""

    def __init__(self, domains: Domains, worker: Worker) -> None:
        self._domains = domains
        self._worker = worker

    async def all(self, caller: Caller) -> list[View]:
        """Return what the caller may see, oldest first."""
        views = []
        for domain in await self._domains.all():
            for known in await ledger.read_all(domain):
                if _is_theirs(known, caller):
                    views.append(await self._view(known))
        return sorted(views, key=lambda view: view.known.job.id)

    async def one(self, caller: Caller, job_id: str) -> View:
        """Return one job.

        Raises:
            NotFoundError: there is none of that id, or it has been over for long.
            DeniedError: it is somebody else's.
        """
        return await self._view(await self._find(caller, job_id))

    async def _find(self, caller: Caller, job_id: str) -> Known:
        known: Known | None = None
        for domain in await self._domains.all() if layout.parse_id(job_id) else ():
            known = known or await ledger.read(domain, job_id)
        if known is None:
            raise NotFoundError(what=f"no job {job_id}")
        if not _is_theirs(known, caller):
            raise DeniedError(what=f"job {job_id} is somebody else's")
        return known

    async def _view(self, known: Known) -> View:
        domain, job = known.domain, known.job
        path = self._domains.path_of(domain) + job.path if job.path else b""
        left = None
        if known.state in jobs.OVER:
            left = Weight(0, 0)
        elif domain.storage.weighs:
            left = await _weight(known)
        return View(known, path, left)

    async def ask(self, caller: Caller, job_id: str, verb: Verb) -> View:
        """Ask something of a job. A cancelled one is waited for until what is left is given back.

        Raises:
            NotFoundError: there is none of that id.
            DeniedError: it is somebody else's.
            ExistsError: as it stands, that can't be asked of it.
        """
        known = await self._find(caller, job_id)
        if (known.state, verb) not in jobs.TRANSITIONS:
            raise ExistsError(what=f"job {job_id} is {known.state.value}: no {verb.value} any more")
        if verb is Verb.CANCEL and known.job.kind == "expired":
            raise ExistsError(
                what=f"job {job_id} removes what has expired: hold what is to stay longer"
            )
        await _carry_out(known, verb)
        self._worker.wake()
        if verb is Verb.CANCEL:
            with trio.move_on_after(_CANCEL_S):
                await self._worker.removed(known.domain, known.job.claim)
        return await self.one(caller, job_id)


def _is_theirs(known: Known, caller: Caller) -> bool:
    return caller.everything or (known.job.kind != "expired" and known.job.uid == caller.cred.uid)


async def _weight(known: Known) -> Weight | None:
    storage = known.domain.storage
    try:
        purging = known.domain.service(layout.PURGING)
        found = await directory_in(storage, purging, known.job.claim)
    except NotFoundError:
        return Weight(0, 0)
    except FSError:
        return None
    try:
        return await storage.weigh(found.node)
    finally:
        storage.forget(found.node)


async def _carry_out(known: Known, verb: Verb) -> None:
    if verb is Verb.PAUSE:
        await ledger.set_mark(known, jobs.PAUSED)
    elif verb is Verb.CANCEL:
        await ledger.set_mark(known, jobs.CANCELLED)
    else:
        await ledger.clear(known, [jobs.PAUSED if verb is Verb.RESUME else jobs.RESULT])
