"""The ledger: jobs as they lie in a trash, see `asyncdelete.jobs`.

No database, and nobody who owns it: any gateway or worker reads all of it and writes its own part.
A job is written before its tree is claimed, so that a tree never lies in `purging/` without those
who know what it was; what does, gets a job that knows less (`adopt`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from asyncdelete import jobs
from asyncdelete.jobs import Job, Kind, Progress, Result, State, T
from cephfs_ext.core.errors import DeniedError, ExistsError, FSError, FullError, NotFoundError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY
from trashbin import layout
from trashbin.domain import Domain
from trashbin.files import (
    directory_in,
    exists,
    listing,
    make_dir,
    names_in,
    read_record,
    remove_dir,
    remove_quietly,
    write_record,
)

_log = logging.getLogger(__name__)

_FILE_LIMIT = 1 << 20
_FILE_MODE = 0o100600
_PROGRESS = b".json"

_UNCLAIMED_NS = 600_000_000_000
"""A job whose tree has not been claimed by then was given up before that."""

TREE = b"tree."
PURGED = b"purge."
"""How names in `purging/` begin; those of hours begin with the directory that the hour was in."""


class Known(NamedTuple):
    """A job, and what is known of it."""

    domain: Domain
    job: Job
    marks: frozenset[bytes]
    progress: dict[str, Progress]
    """By worker."""
    result: Result | None

    @property
    def state(self) -> State:
        """Where it stands."""
        return jobs.state_of(self.marks, self.result, self.progress, time.time_ns())


async def plan(domain: Domain, job: Job) -> None:
    """Write a job down, before its tree is claimed.

    Raises:
        FSError: nothing has changed.
    """
    storage, above = domain.storage, domain.service(layout.JOBS)
    name = job.id.encode()
    made = await make_dir(storage, above, name, 0o700)
    try:
        await write_record(storage, made.node, jobs.ABOUT, jobs.encode(job))
    except BaseException:
        with contextlib.suppress(FSError):
            await storage.rmdir(above, name, GATEWAY)
        raise
    finally:
        storage.forget(made.node)


async def drop(domain: Domain, job_id: str) -> None:
    """Remove all that is known of a job; of one that is gone there is nothing."""
    storage, above = domain.storage, domain.service(layout.JOBS)
    with contextlib.suppress(NotFoundError):
        async with _opened(domain, job_id) as node:
            await remove_dir(storage, above, job_id.encode(), node)


async def ids(domain: Domain) -> list[str]:
    """Return the ids of all jobs, oldest first."""
    names = await names_in(domain.storage, domain.service(layout.JOBS))
    texts = (name.decode(errors="replace") for name in names)
    return sorted(text for text in texts if layout.parse_id(text) is not None)


async def read(domain: Domain, job_id: str) -> Known | None:
    """Read what is known of a job; None if there is none, or not yet."""
    try:
        async with _opened(domain, job_id) as node:
            return await _read(domain, node)
    except NotFoundError:
        return None


async def _read(domain: Domain, node: Node) -> Known | None:
    names = await names_in(domain.storage, node)
    job = await _load(domain.storage, node, jobs.ABOUT, Job)
    if job is None:
        return None
    progress: dict[str, Progress] = {}
    for name in names:
        if name.endswith(_PROGRESS) and name not in (jobs.ABOUT, jobs.RESULT):
            one = await _load(domain.storage, node, name, Progress)
            if one is not None:
                progress[name.removesuffix(_PROGRESS).decode(errors="replace")] = one
    result = None
    if jobs.RESULT in names:
        result = await _load(domain.storage, node, jobs.RESULT, Result)
    return Known(domain, job, frozenset(names), progress, result)


async def _load(storage: Storage, node: Node, name: bytes, kind: type[T]) -> T | None:
    try:
        return jobs.decode(await read_record(storage, node, name, limit=_FILE_LIMIT), kind)
    except NotFoundError:
        return None


async def marks(domain: Domain, job_id: str) -> frozenset[bytes]:
    """Return the names of the files of a job; nothing if it is gone."""
    with contextlib.suppress(NotFoundError):
        async with _opened(domain, job_id) as node:
            return frozenset(await names_in(domain.storage, node))
    return frozenset()


async def read_all(domain: Domain) -> list[Known]:
    """Read all jobs, oldest first."""
    found = [await read(domain, job_id) for job_id in await ids(domain)]
    return [known for known in found if known is not None]


async def adopt(domain: Domain) -> list[bytes]:
    """Give those directories in `purging/` a job that have none.

    Returns:
        What lies there and is no directory: not worth a job. Nor is anything while there is no
        room for one.
    """
    storage, purging = domain.storage, domain.service(layout.PURGING)
    known = set(await ids(domain))
    small: list[bytes] = []
    async with listing(storage, purging) as entries:
        claims = [listed.entry.name async for listed in entries]
    for claim in claims:
        job_id = layout.claim_id(claim)
        if job_id is not None and job_id in known and await read(domain, job_id) is not None:
            continue
        try:
            storage.forget((await directory_in(storage, purging, claim)).node)
        except (NotFoundError, ExistsError) as exc:
            small += [claim] if isinstance(exc, ExistsError) else []
            continue
        try:
            await _adopt_one(domain, claim, job_id)
        except FullError:
            small.append(claim)
    return small


async def _adopt_one(domain: Domain, claim: bytes, job_id: str | None) -> None:
    """Write down a job for a claim; another worker may do the same.

    Who wrote one down and died before it was whole has not claimed the tree.
    """
    if job_id is None:  # somebody else's name: nothing says when
        job_id = f"{time.time_ns():016x}.0000"
        renamed = b"%s.%s" % (claim, job_id.encode())
        purging = domain.service(layout.PURGING)
        await domain.storage.rename(purging, claim, purging, renamed, GATEWAY)
        claim = renamed
    kind: Kind = "expired"
    if claim.startswith((TREE, PURGED)):
        kind = "tree" if claim.startswith(TREE) else "purged"
    await plan(domain, Job(id=job_id, claim=claim, kind=kind))


async def is_claimed(known: Known) -> bool:
    """Tell whether there is still something to remove."""
    purging = known.domain.service(layout.PURGING)
    return await exists(known.domain.storage, purging, known.job.claim)


def was_never_claimed(known: Known) -> bool:
    """Tell of a job whose tree isn't there whether it never was: who planned it has died."""
    is_old = time.time_ns() - known.job.made_ns > _UNCLAIMED_NS
    return is_old and not known.progress and known.result is None


async def set_mark(known: Known, mark: bytes) -> None:
    """Ask something of a job; durable, and seen by every worker within a second."""
    storage = known.domain.storage
    async with _opened(known.domain, known.job.id) as node:
        with contextlib.suppress(ExistsError):
            found = await storage.mknod(node, mark, _FILE_MODE, 0, GATEWAY)
            storage.forget(found.node)


async def clear(known: Known, names: Iterable[bytes]) -> None:
    """Take back marks, or a result."""
    async with _opened(known.domain, known.job.id) as node:
        for name in names:
            await remove_quietly(known.domain.storage, node, name)


async def report(known: Known, worker: str, progress: Progress) -> None:
    """Write what a worker has done so far."""
    async with _opened(known.domain, known.job.id) as node:
        name = worker.encode() + _PROGRESS
        await write_record(known.domain.storage, node, name, jobs.encode(progress))


async def end(known: Known, result: Result) -> None:
    """Write how a job ended."""
    async with _opened(known.domain, known.job.id) as node:
        await write_record(known.domain.storage, node, jobs.RESULT, jobs.encode(result))


@contextlib.asynccontextmanager
async def locked(known: Known) -> AsyncIterator[None]:
    """Keep others from bringing a job to its end; without a lock where there can't be one."""
    storage = known.domain.storage
    async with _opened(known.domain, known.job.id) as node, contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(storage.exclusive(node))
        except (DeniedError, FullError) as exc:
            _log.warning("job %s: %s", known.job.id, exc)
        yield


@contextlib.asynccontextmanager
async def _opened(domain: Domain, job_id: str) -> AsyncIterator[Node]:
    above = domain.service(layout.JOBS)
    found = await directory_in(domain.storage, above, job_id.encode())
    try:
        yield found.node
    finally:
        domain.storage.forget(found.node)
