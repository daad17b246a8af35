"""A lease is held only as long as the cluster has confirmed it."""

from __future__ import annotations

import errno
import threading
from typing import cast

import pytest
import trio

from cephfs_ext.core.errors import FSError
from cephfs_ext.storage.ceph_leases import Leases
from cephfs_ext.storage.ceph_locks import ClusterLocks
from cephfs_ext.storage.gate import Gate

_LEASE_S = 1
_WAIT_S = 30.0


class _Locks:
    """A lock service of which each call can be made to hang."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.is_lost = False
        self.renewals = 0
        self.calls: list[str] = []

    def take(self, lock: str, cookie: str, lease_s: int) -> bool:
        self.calls.append("take")
        return True

    def renew(self, lock: str, cookie: str, lease_s: int) -> bool:
        assert self.answers.wait(_WAIT_S)
        self.renewals += 1
        return not self.is_lost

    def give_back(self, lock: str, cookie: str) -> None:
        self.calls.append("give back")

    def remove(self, lock: str) -> None:
        self.calls.append("remove")


@pytest.fixture
def locks() -> _Locks:
    return _Locks()


@pytest.fixture
def leases(locks: _Locks) -> Leases:
    return Leases(cast(ClusterLocks, locks), Gate())


def test_is_held_for_as_long_as_it_is_renewed(leases: Leases, locks: _Locks) -> None:
    async def hold() -> None:
        async with await leases.take("lock", _LEASE_S) as lease:
            with trio.fail_after(_WAIT_S):
                while locks.renewals < 5:
                    assert lease.scope.deadline <= trio.current_time() + _LEASE_S
                    await trio.sleep(0.01)

    trio.run(hold)
    assert locks.calls == ["take", "give back"]


def test_body_is_told_when_a_renewal_is_not_answered_in_time(leases: Leases, locks: _Locks) -> None:
    """While the renewal still hangs, and not when it is answered."""
    told: list[bool] = []

    async def hold() -> None:
        async with await leases.take("lock", _LEASE_S):
            locks.answers.clear()
            try:
                with trio.fail_after(_WAIT_S):
                    await trio.sleep_forever()
            finally:
                told.append(locks.answers.is_set())
                locks.answers.set()

    with pytest.raises(FSError) as caught:
        trio.run(hold)
    assert caught.value.errno == errno.EIO
    assert told == [False]


def test_body_is_told_when_the_lock_is_lost(leases: Leases, locks: _Locks) -> None:
    async def hold() -> None:
        async with await leases.take("lock", _LEASE_S):
            locks.is_lost = True
            with trio.fail_after(_WAIT_S):
                await trio.sleep_forever()

    with pytest.raises(FSError) as caught:
        trio.run(hold)
    assert caught.value.errno == errno.EIO


def test_errors_of_the_body_come_out_alone(leases: Leases) -> None:
    async def hold() -> None:
        async with await leases.take("lock", _LEASE_S):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trio.run(hold)


def test_an_error_of_the_body_beside_a_lost_lock_comes_out_alone(
    leases: Leases, locks: _Locks
) -> None:
    """As where a cluster answers nobody."""

    async def hold() -> None:
        async with await leases.take("lock", _LEASE_S):
            locks.is_lost = True
            with trio.CancelScope(shield=True), trio.fail_after(_WAIT_S):
                while not locks.renewals:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                await trio.sleep(0.1)
                raise FSError(errno.ETIMEDOUT)

    with pytest.raises(FSError):
        trio.run(hold)
    assert locks.calls == ["take", "give back"]


def test_last_holder_removes_the_object(leases: Leases, locks: _Locks) -> None:
    async def hold() -> None:
        async with await leases.take("lock", _LEASE_S) as lease:
            lease.is_last = True

    trio.run(hold)
    assert locks.calls == ["take", "remove"]


def test_object_stays_where_the_lock_is_somebody_elses(leases: Leases, locks: _Locks) -> None:
    async def hold() -> None:
        async with await leases.take("lock", _LEASE_S) as lease:
            lease.is_last = True
            locks.is_lost = True
            await trio.sleep_forever()

    with pytest.raises(FSError):
        trio.run(hold)
    assert locks.calls == ["take", "give back"]
