"""Workers: they carry out the jobs that there are, on any number of nodes.

Every worker looks through the ledgers and takes what nobody is at, one job of each owner in turn;
where nothing is left it helps with a job that others are at, since several who remove one tree do
no harm: what is gone already counts as success, and each goes through the directories in an order
of its own.

Concurrency: an event loop has one worker; its jobs are tasks. A bug in one job makes that job
stuck, and ends nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter

import msgspec
import trio

from asyncdelete import jobs, ledger
from asyncdelete.jobs import Failure, Job, State
from asyncdelete.ledger import Known
from asyncdelete.task import WATCH_S, Task, Tools
from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.errors import FSError, FullError
from cephfs_ext.core.types import Credentials, Ino
from trashbin import layout
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.expire import Removed
from trashbin.files import exists

_log = logging.getLogger(__name__)

JOBS_AT_ONCE = 8
"""Jobs that one worker carries out at the same time."""

_IDLE_S = 5.0
"""How often a worker looks for jobs that others have made."""

_HELP_S = 5.0
"""After which a job that others are at is worth helping with."""

_AGAIN_S = 3600.0
"""When a job that got stuck is tried again; each time after as much longer as it has tries."""


_GOING_ON = frozenset((State.QUEUED, State.RUNNING, State.CANCELLING))


class Worker:
    """Carries out jobs; a `trashbin.expire.Remover`."""

    def __init__(
        self,
        domains: Domains,
        tools: Tools,
        *,
        instance: str,
        clock: MonotonicNs,
        kept_s: float,
    ) -> None:
        """Keep what is needed.

        Args:
            instance: 4 hex digits, in the ids of jobs.
            kept_s: how long it is remembered of a job that it is over.
        """
        self._domains = domains
        self._tools = tools
        self._instance = instance
        self._clock = clock
        self._kept_s = kept_s
        self._running: dict[str, Known] = {}
        self._over: dict[Ino, dict[str, int]] = {}
        """When jobs ended that are over, by domain and id: as many as its ledger has."""
        self._woken = trio.Event()
        self._ended = trio.Event()
        self.left = 0
        """Jobs that somebody is at, or has to be, when this worker looked last."""

    def wake(self) -> None:
        """Look for jobs now: there may be a new one."""
        self._woken.set()

    async def once(self) -> None:
        """Wait for jobs, or some time for none, and carry out all that there are.

        Raises:
            FSError: the trash of the root can't be used; what was under way is left to others.
        """
        with trio.move_on_after(_IDLE_S):
            await self._woken.wait()
        while not self._tools.peers.is_registered:
            await self._tools.peers.changed.wait()
        failure: FSError | None = None
        async with trio.open_nursery() as nursery:
            while True:
                self._woken = trio.Event()
                try:
                    for known in await self._choose():
                        self._running[known.job.id] = known
                        nursery.start_soon(self._work, known)
                except FSError as exc:  # those that are running go on
                    failure = exc
                if not self._running:
                    break
                with trio.move_on_after(_IDLE_S):
                    await self._woken.wait()
        if failure is not None:
            raise failure

    async def _choose(self) -> list[Known]:
        """Return what to begin: of the owners those first who have the least under way here."""
        if not self._tools.peers.is_registered:
            return []
        found = await self._all()
        self._tools.meter.set("jobs", sum(known.state not in jobs.OVER for known in found))
        self.left = sum(known.state in _GOING_ON for known in found)
        waiting = [known for known in found if await self._is_for_us(known)]
        mine = Counter(known.job.uid for known in self._running.values())
        chosen: list[Known] = []
        while waiting and len(self._running) + len(chosen) < JOBS_AT_ONCE:
            best = min(waiting, key=lambda known: (mine[known.job.uid], known.job.id))
            waiting.remove(best)
            mine[best.job.uid] += 1
            chosen.append(best)
        return chosen

    async def _all(self) -> list[Known]:
        """Read all ledgers; what one domain can't do is logged, and doesn't stop the others."""
        found: list[Known] = []
        for domain in await self._domains.all():
            try:
                for claim in await ledger.adopt(domain):
                    await self._remove_without_job(domain, claim)
                found += await self._read(domain)
            except FSError as exc:
                _log.warning("jobs of domain %x: %s", domain.root.ino, exc)
        return found

    async def _read(self, domain: Domain) -> list[Known]:
        """Read a ledger, but for what is known to be over, and is remembered: that stays so."""
        there, root = await ledger.ids(domain), domain.root.ino
        over = self._over.setdefault(root, {})
        self._over[root] = {job_id: over[job_id] for job_id in there if job_id in over}
        found: list[Known] = []
        for job_id in there:
            ended_ns = self._over[root].get(job_id)
            if ended_ns is not None and time.time_ns() - ended_ns < self._kept_s * 1e9:
                continue
            known = await ledger.read(domain, job_id)
            if known is None:
                continue
            found.append(known)
            if known.result is not None and known.state in jobs.OVER:
                self._over[root][job_id] = known.result.ended_ns
        return found

    async def _remove_without_job(self, domain: Domain, claim: bytes) -> None:
        """Remove what isn't worth a job, or for which there is no room for one."""
        walk = self._tools.new_walk(domain, Job(id="", claim=claim, kind="purged"))
        removed = await walk.remove(domain.service(layout.PURGING), claim)
        self._tools.meter.count("purge_removed_total", removed.files, kind="file")
        self._tools.meter.count("purge_removed_total", removed.dirs, kind="dir")

    async def _is_for_us(self, known: Known) -> bool:
        """Tell whether there is something to do; forgets what has been over for long."""
        state, now_ns = known.state, time.time_ns()
        if known.job.id in self._running or state is State.PAUSED:
            return False
        if state is State.RUNNING:
            began_ns = min(one.began_ns for one in known.progress.values() if not one.has_ended)
            return not self._running and now_ns - began_ns > _HELP_S * 1e9
        if known.result is None or state not in (*jobs.OVER, State.STUCK):
            return True
        since_s = (now_ns - known.result.ended_ns) / 1e9
        if state in jobs.OVER:
            if since_s > self._kept_s:
                await ledger.drop(known.domain, known.job.id)
            return False
        return since_s > _AGAIN_S * known.result.tries

    async def _work(self, known: Known) -> None:
        """Carry out one job; whatever happens, others go on."""
        try:
            await Task(self._tools, known).run()
        except FSError as exc:
            _log.warning("job %s: %s", known.job.id, exc)
            await trio.sleep(WATCH_S)
        except Exception:
            _log.exception("a bug in job %s", known.job.id)
            self._tools.meter.count("background_failures_total", loop="jobs")
            await _give_up(known)
        finally:
            del self._running[known.job.id]
            self._ended.set()
            self._ended = trio.Event()
            self.wake()

    async def plan_purge(self, domain: Domain, cred: Credentials) -> bytes:
        """Note that entries are about to be claimed, together; as `Remover` has it."""
        job_id = layout.make_id(self._clock(), self._instance)
        claim = ledger.PURGED + job_id.encode()
        job = Job(
            id=job_id, claim=claim, kind="purged", uid=cred.uid, gid=cred.gid, groups=cred.groups
        )
        with contextlib.suppress(FullError):
            await ledger.plan(domain, job)
        return claim

    async def hand_over(self, _: Domain) -> None:
        """See to it that all that lies in `purging` is removed; as `Remover` has it."""
        self.wake()
        await trio.lowlevel.checkpoint()

    async def removed(self, domain: Domain, claim: bytes) -> Removed:
        """Wait until a claim is removed, or stuck, or somebody pauses it; as `Remover` has it."""
        job_id = layout.claim_id(claim)
        assert job_id is not None, "a claim has an id"
        purging = domain.service(layout.PURGING)
        self.wake()
        while True:
            ended = self._ended
            known = await ledger.read(domain, job_id)
            if known is None and not await exists(domain.storage, purging, claim):
                return Removed(0, 0, 0)  # there was no room for a job
            if known is not None and known.state in (*jobs.OVER, State.STUCK, State.PAUSED):
                result = jobs.result_of(known.progress.values(), known.state, known.result, "")
                return Removed(result.files, result.dirs, result.failed)
            with trio.move_on_after(WATCH_S):
                await ended.wait()


async def _give_up(known: Known) -> None:
    """Leave a job alone for a while: there is a bug."""
    failure = Failure(b"", "a bug in the gateway; see its log")
    result = jobs.result_of(known.progress.values(), State.STUCK, known.result, "")
    result = msgspec.structs.replace(result, failed=1, failures=(failure,))
    try:
        await ledger.end(known, result)
    except FSError as exc:
        _log.warning("job %s: %s", known.job.id, exc)
