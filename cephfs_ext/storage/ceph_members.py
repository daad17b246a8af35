"""Who is at work on a tree, in objects of the default data pool.

`cephfs_ext.members.<inode, hex>` has an extended attribute for each member, and each member holds
the lock of an object of its own, `cephfs_ext.member.<inode, hex>.<name>`. It is locked first and
listed second, and the other way round when it leaves: who is listed and not locked is dead. A
successor takes the lock, and looks once more whether the member is still listed.

Nothing here asks a metadata server, so that it never waits for what a dead client holds.

Concurrency: any number of calls at once, through `Leases`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from cephfs_ext.core.config import CephConfig
from cephfs_ext.core.errors import UserError
from cephfs_ext.core.limits import SESSIONS_ENDED_AT_ONCE
from cephfs_ext.core.types import Ino
from cephfs_ext.storage.ceph_leases import Lease, Leases
from cephfs_ext.storage.ceph_locks import ClusterLocks, lock_of_member, roll_of_dir
from cephfs_ext.storage.ceph_session import end_session

_log = logging.getLogger(__name__)

_SUCCESSION_S = 3
"""Lease of a successor, who may die as well."""


class Members:
    """Adds members, lists them and succeeds them."""

    def __init__(self, leases: Leases, locks: ClusterLocks) -> None:
        self._leases = leases
        self._locks = locks

    @contextlib.asynccontextmanager
    async def member(
        self, above: Ino, name: str, about: bytes, lease_s: int
    ) -> AsyncIterator[None]:
        """Be a member; see `cephfs_ext.core.ports.Storage.member`."""
        roll = roll_of_dir(above)
        async with await self._leases.take(lock_of_member(above, name), lease_s) as lease:
            lease.is_last = True
            try:
                await self._leases.call(lambda: self._locks.enrol(roll, name, about))
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await self._leave(lease, roll, name)

    async def _leave(self, lease: Lease, roll: str, name: str) -> None:
        """Leave the list; who has lost the lock is struck off by the successor."""
        if lease.is_held:
            await self._leases.call(lambda: self._locks.strike(roll, name))

    async def names(self, above: Ino) -> Collection[str]:
        """Return the names of all members."""
        roll = roll_of_dir(above)
        return (await self._leases.call(lambda: self._locks.members(roll))).keys()

    async def try_succeed(self, above: Ino, name: str) -> AbstractAsyncContextManager[bytes] | None:
        """Take the lock of a member that is listed; None if somebody holds it."""
        roll = roll_of_dir(above)
        held = await self._leases.try_take(lock_of_member(above, name), _SUCCESSION_S)
        if held is None:
            return None
        about = (await self._leases.call(lambda: self._locks.members(roll))).get(name)
        if about is not None:
            return self._succeeding(held, roll, name, about)
        async with held as lease:
            lease.is_last = True
        return None

    @contextlib.asynccontextmanager
    async def _succeeding(
        self, held: AbstractAsyncContextManager[Lease], roll: str, name: str, about: bytes
    ) -> AsyncIterator[bytes]:
        async with held as lease:
            yield about
            await self._leases.call(lambda: self._locks.strike(roll, name))
            lease.is_last = True


async def end_sessions(config: CephConfig, sessions: Sequence[str]) -> None:
    """End sessions of dead processes, several at a time, each in some tenths of a second."""
    threads = trio.CapacityLimiter(SESSIONS_ENDED_AT_ONCE)

    async def end(session: str) -> None:
        try:
            await trio.to_thread.run_sync(end_session, config, session, limiter=threads)
        except UserError as exc:
            _log.warning("session %s could not be ended: %s", session, exc)

    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(end, session)
