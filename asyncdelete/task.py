"""One job in the hands of one worker.

**Nothing is given back while a worker may still remove.** Who wants to give back what is left of a
tree leaves a mark first and looks for workers then; a worker announces itself first and looks for
marks then: one of them sees the other. A worker that has died, or has stalled, is gone once its
sessions have been ended (`asyncdelete.peers`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable

import msgspec
import trio

from asyncdelete import jobs, ledger
from asyncdelete.give_back import Giving
from asyncdelete.jobs import Failure, Job, Progress, State
from asyncdelete.ledger import Known
from asyncdelete.peers import Peers
from asyncdelete.walk import Walk
from cephfs_ext.core.errors import FSError, NotFoundError
from cephfs_ext.core.ports import Meter
from trashbin import layout
from trashbin.domain import Domain
from trashbin.tasks import beside

_log = logging.getLogger(__name__)

WATCH_S = 0.5
"""How often it is looked whether a job is still wanted."""

_REPORT_S = 1.0

_LOOKS = 40
"""How often it is looked whether others have stopped, before they are left to give back."""

NewWalk = Callable[[Domain, Job], Walk]
"""Makes what removes a tree, with the rights of the one who asked for it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """What a worker works with."""

    peers: Peers
    new_walk: NewWalk
    giving: Giving
    meter: Meter
    name: str
    """Of the worker, which no other has."""
    host: str


class Task:
    """Carries out a job until it is over, stuck or not wanted any more."""

    def __init__(self, tools: Tools, known: Known) -> None:
        self._tools = tools
        self._known = known
        self._walk = tools.new_walk(known.domain, known.job)
        now_ns = time.time_ns()
        before = known.progress.get(tools.name)
        self._before = Progress(
            host=tools.host,
            pid=os.getpid(),
            began_ns=now_ns,
            updated_ns=now_ns,
            files=0 if before is None else before.files,
            dirs=0 if before is None else before.dirs,
            kept=0 if before is None else before.kept,
        )
        self._counted = (0, 0)
        self._reported_s = float("-inf")

    async def run(self) -> None:
        """Carry it out.

        Raises:
            FSError: what has been removed is removed; another time will do.
        """
        if not await ledger.is_claimed(self._known):
            await self._settle_what_is_gone()
            return
        await self._report(has_ended=False)
        try:
            is_through = await self._remove_while_wanted()
        finally:
            with trio.CancelScope(shield=True), contextlib.suppress(FSError):
                await self._report(has_ended=True)
        await self._settle(is_through=is_through)

    async def _settle_what_is_gone(self) -> None:
        known = self._known
        if ledger.was_never_claimed(known):
            await ledger.drop(known.domain, known.job.id)
        elif known.progress or known.marks & jobs.STOPPING:
            async with ledger.locked(known):
                await self._end(State.DONE)

    async def _remove_while_wanted(self) -> bool:
        """Remove what can be removed; False if somebody has stopped it."""
        domain, job = self._known.domain, self._known.job
        if not await self._is_wanted():
            return False
        is_through = False
        with trio.CancelScope() as scope:
            async with beside(lambda: self._watch(scope)):
                await self._walk.remove(domain.service(layout.PURGING), job.claim)
                is_through = True
        return is_through

    async def _is_wanted(self) -> bool:
        marks = await ledger.marks(self._known.domain, self._known.job.id)
        return self._tools.peers.is_registered and bool(marks) and not marks & jobs.STOPPING

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Stop when somebody wants it, and say now and then what has been done."""
        while True:
            await trio.sleep(WATCH_S)
            try:
                if not await self._is_wanted():
                    scope.cancel()
                if time.monotonic() - self._reported_s > _REPORT_S:
                    await self._report(has_ended=False)
            except FSError as exc:
                _log.warning("job %s can't be watched: %s", self._known.job.id, exc)

    async def _report(self, *, has_ended: bool) -> None:
        done, before = self._walk.progress, self._before
        files, dirs = self._counted
        self._tools.meter.count("purge_removed_total", done.files - files, kind="file")
        self._tools.meter.count("purge_removed_total", done.dirs - dirs, kind="dir")
        self._counted = (done.files, done.dirs)
        self._reported_s = time.monotonic()
        progress = msgspec.structs.replace(
            before,
            updated_ns=time.time_ns(),
            files=before.files + done.files,
            dirs=before.dirs + done.dirs,
            kept=before.kept + done.kept,
            failed=done.failures,
            failures=tuple(Failure(one.path, one.reason) for one in self._walk.failures),
            has_ended=has_ended,
        )
        await ledger.report(self._known, self._tools.name, progress)

    async def _settle(self, *, is_through: bool) -> None:
        """Bring a job to its end, if it has one, or leave it to others."""
        known = await ledger.read(self._known.domain, self._known.job.id)
        if known is None:
            return
        self._known = known
        if not known.marks & {jobs.CANCELLED, jobs.CLOSING}:
            if not is_through and await ledger.is_claimed(known):
                return  # paused, or taken for dead
            if is_through and known.job.is_checked and await ledger.is_claimed(known):
                await ledger.set_mark(known, jobs.CLOSING)
        for _ in range(_LOOKS):
            if not await self._others():
                break
            await trio.sleep(WATCH_S)
        else:
            return  # who is still at it will see to it
        async with ledger.locked(known):
            await self._settle_alone()

    async def _others(self) -> bool:
        """Tell whether other workers may still be removing something."""
        known = await ledger.read(self._known.domain, self._known.job.id)
        if known is None:
            return False
        self._known = known
        busy = {name for name, one in known.progress.items() if not one.has_ended}
        busy.discard(self._tools.name)
        return bool(busy and await self._tools.peers.living(frozenset(busy)))

    async def _settle_alone(self) -> None:
        known = await ledger.read(self._known.domain, self._known.job.id)
        if known is None or (known.result is not None and known.result.state in jobs.OVER):
            return
        self._known = known
        if not known.marks & {jobs.CANCELLED, jobs.CLOSING}:
            is_left = await ledger.is_claimed(known)
            await self._end(State.STUCK if is_left else State.DONE)
            return
        try:
            entry = await self._tools.giving.back(known)
        except NotFoundError:
            await self._end(State.DONE)
        else:
            is_cancelled = jobs.CANCELLED in known.marks
            await self._end(State.CANCELLED if is_cancelled else State.KEPT, entry)

    async def _end(self, state: State, entry: str = "") -> None:
        known = self._known
        result = jobs.result_of(known.progress.values(), state, known.result, entry)
        await ledger.end(known, result)
        self._tools.meter.count("jobs_ended_total", state=state.value)
        _log.info(
            "job %s is %s: %d files and directories removed, %d could not be",
            known.job.id,
            state.value,
            result.files + result.dirs,
            result.failed,
        )
