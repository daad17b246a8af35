"""Locks of the cluster, held for as long as a body runs.

A lock has a lease, which is renewed. Whoever is late with that has lost the lock, even if nobody
else has taken it since, and is told: the body is cancelled, and EIO raised.

Concurrency: the threads are not those of calls to the file system, which may all be waiting for
what a dead client holds; and those that renew aren't those that take. A renewal that hangs is
waited for when the body has ended, so that nothing overtakes it.
"""

from __future__ import annotations

import contextlib
import errno
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import trio

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.limits import LOCK_THREADS
from cephfs_ext.storage.ceph_locks import ClusterLocks
from cephfs_ext.storage.gate import Gate

LEASE_S = 10

_RENEWALS = 3.3
"""How often a lock is renewed within its lease."""

_POLL_S = (0.002, 0.1)
"""First and longest pause between two tries for a lock."""

T = TypeVar("T")


class Lease:
    """A lock that is held."""

    def __init__(self, lock: str, cookie: str, lasts_s: int, taken_s: float) -> None:
        """Note the lock.

        Args:
            taken_s: a time of trio's clock, before the cluster was asked for the lock.
        """
        self.lock = lock
        self.cookie = cookie
        self.lasts_s = lasts_s
        self.scope = trio.CancelScope(deadline=taken_s + lasts_s)
        """Cancels the body when the lease ends."""
        self.is_last = False
        """Whether nobody will need the lock again: its object goes with it."""
        self.is_lost = False
        """Whether the cluster has said so."""

    @property
    def is_held(self) -> bool:
        """Whether nobody else can have the lock at this moment."""
        return not self.is_lost and trio.current_time() < self.scope.deadline


class Leases:
    """Takes locks, renews them and gives them back."""

    def __init__(self, locks: ClusterLocks, gate: Gate) -> None:
        self._locks = locks
        self._gate = gate
        self._taking = trio.CapacityLimiter(LOCK_THREADS)
        self._renewing = trio.CapacityLimiter(LOCK_THREADS)

    async def call(self, call: Callable[[], T]) -> T:
        """Run what blocks, of `ClusterLocks`, in a thread; once begun it is waited for."""
        return await self._call(call, self._taking)

    async def _call(self, call: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
        with self._gate.passed():
            return await trio.to_thread.run_sync(call, limiter=limiter)

    async def take(self, lock: str, lease_s: int = LEASE_S) -> AbstractAsyncContextManager[Lease]:
        """Wait for a lock."""
        pause_s, longest_s = _POLL_S
        while (held := await self.try_take(lock, lease_s)) is None:
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)
        return held

    async def try_take(
        self, lock: str, lease_s: int = LEASE_S
    ) -> AbstractAsyncContextManager[Lease] | None:
        """Take a lock if it is free now."""
        lease = Lease(lock, uuid.uuid4().hex, lease_s, trio.current_time())
        is_taken = await self.call(lambda: self._locks.take(lock, lease.cookie, lease_s))
        return self._held(lease) if is_taken else None

    @contextlib.asynccontextmanager
    async def _held(self, lease: Lease) -> AsyncIterator[Lease]:
        """Renew a lock while the body runs, and give it back."""
        alone: BaseException | None = None
        try:
            with lease.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._renew, lease)
                    yield lease
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # the body knows of no nursery
            are_all = all(isinstance(one, FSError) for one in group.exceptions)
            if len(group.exceptions) != 1 and not are_all:
                raise
            alone = group.exceptions[0]  # where the cluster doesn't answer, all say the same
        finally:
            with trio.CancelScope(shield=True):
                await self._give_back(lease)
        if alone is None and lease.scope.cancelled_caught:
            alone = FSError(errno.EIO, "a lock was not renewed within its lease")
        if alone is not None:
            raise alone

    async def _renew(self, lease: Lease) -> None:
        while True:
            await trio.sleep(lease.lasts_s / _RENEWALS)
            asked_s = trio.current_time()
            if not await self._call(
                lambda: self._locks.renew(lease.lock, lease.cookie, lease.lasts_s), self._renewing
            ):
                lease.is_lost = True
                raise FSError(errno.EIO, "a lock was lost")
            lease.scope.deadline = asked_s + lease.lasts_s

    async def _give_back(self, lease: Lease) -> None:
        """Give a lock back; its object stays where the lock may be another's by now."""
        if lease.is_last and lease.is_held:
            await self.call(lambda: self._locks.remove(lease.lock))
        else:
            await self.call(lambda: self._locks.give_back(lease.lock, lease.cookie))
