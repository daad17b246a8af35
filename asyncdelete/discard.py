"""Discard: removing something without keeping it, whatever its size, at the cost of a rename.

It is renamed into `purging/`, where what has been claimed lies: from then on it is gone for users,
and workers remove it. Of a directory a job says before what it is, so that it can be followed, and
given back while there is something left of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import trio

from asyncdelete import ledger
from asyncdelete.jobs import Job
from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.errors import FSError, FullError
from cephfs_ext.core.ports import Found, Storage
from cephfs_ext.core.types import GATEWAY, Weight
from trashbin import layout
from trashbin.audit import Deleter
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.put import Place


class Discard:
    """Takes what is not to be kept, and has it removed."""

    def __init__(
        self,
        storage: Storage,
        domains: Domains,
        wake: Callable[[], None],
        *,
        instance: str,
        clock: MonotonicNs,
    ) -> None:
        """Keep what is needed.

        Args:
            storage: the session of users, which renames.
            domains: those of the background session, which removes.
            wake: tells a worker that there is something to remove.
        """
        self._storage = storage
        self._domains = domains
        self._wake = wake
        self._instance = instance
        self._clock = clock

    async def name(self, domain: Domain, at: Place, victim: Found, who: Deleter) -> None:
        """Take a name away with everything below it. The rename is the commit point.

        The caller has checked the right to remove it.

        Raises:
            FSError: nothing has changed.
        """
        job_id = layout.make_id(self._clock(), self._instance)
        claim = ledger.TREE + job_id.encode()
        background: Domain | None = None
        if victim.attr.is_dir:
            background = await self._domains.at(domain.root.ino)
            job = _job(job_id, claim, at, who, self._storage.token(at.parent))
            await self._plan(background, job, victim)
        try:
            purging = domain.service(layout.PURGING)
            await self._storage.rename(at.parent, at.name, purging, claim, GATEWAY)
        except BaseException:
            if background is not None:
                with trio.CancelScope(shield=True), contextlib.suppress(FSError):
                    await ledger.drop(background, job_id)
            raise
        self._wake()

    async def _plan(self, domain: Domain, job: Job, victim: Found) -> None:
        """Write a job down; where there is no room for it, it is removed all the same."""
        weight: Weight | None = None
        with contextlib.suppress(FSError):
            weight = await self._storage.weigh(victim.node)
        if weight is not None:
            job = msgspec.structs.replace(job, entries=weight.files, size=weight.size)
        with contextlib.suppress(FullError):
            await ledger.plan(domain, job)


def _job(job_id: str, claim: bytes, at: Place, who: Deleter, token: bytes) -> Job:
    return Job(
        id=job_id,
        claim=claim,
        kind="tree",
        path=at.path,
        parent=at.parent.ino,
        parent_token=token,
        name=at.name,
        uid=who.cred.uid,
        gid=who.cred.gid,
        groups=who.cred.groups,
        is_checked=who.cred.uid != 0,
        command=who.command,
    )
