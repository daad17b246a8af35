"""Members of those at work, where the file system or a lock is not to be had."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator

import pytest
import trio

from cephfs_ext.core.config import CephConfig
from cephfs_ext.core.errors import DeniedError, FSError, FullError
from cephfs_ext.storage.ceph import CephStorage
from cephfs_ext.storage.ceph_locks import lock_of_member
from tests.ceph.sessions import fresh_directory, sessions
from tests.ceph.test_full import full
from tests.cluster.ceph import CephCluster

_LEASE_S = 5
"""Longer than a loaded machine lets a process wait."""
_WAIT_S = 30.0


@contextlib.asynccontextmanager
async def _no_thread_of(limiter: trio.CapacityLimiter) -> AsyncIterator[None]:
    """Let no call begin."""
    whose = [object() for _ in range(int(limiter.total_tokens))]
    for one in whose:
        await limiter.acquire_on_behalf_of(one)
    try:
        yield
    finally:
        for one in whose:
            limiter.release_on_behalf_of(one)


def test_members_do_not_wait_for_those_who_wait_for_the_dead(cluster: CephCluster) -> None:
    """[job-4]"""

    async def run() -> None:
        async with sessions(cluster, 2) as (storage, other):
            with trio.fail_after(_WAIT_S):
                async with (
                    storage.member(storage.root, "first", b"about", lease_s=_LEASE_S),
                    _no_thread_of(storage._meta),
                    storage.member(storage.root, "second", b"about", lease_s=_LEASE_S),
                ):
                    await trio.sleep(_LEASE_S + 1)
                    assert sorted(await storage.members(storage.root)) == ["first", "second"]
                    assert await other.try_succeed(other.root, "first") is None
                    assert await storage.try_succeed(storage.root, "second") is None

    trio.run(run)


def test_member_that_was_taken_for_dead_is_told(cluster: CephCluster) -> None:
    async def run() -> None:
        async with sessions(cluster, 2) as (storage, other):
            with pytest.raises(FSError) as caught:
                await _be_succeeded(storage, other)
            assert caught.value.errno == errno.EIO
            assert list(await other.members(other.root)) == []

    trio.run(run)


async def _be_succeeded(storage: CephStorage, other: CephStorage) -> None:
    """Be a member whose lease ends while it lives."""
    with trio.fail_after(_WAIT_S):
        async with storage.member(storage.root, "slow", b"about", lease_s=_LEASE_S):
            async with _no_thread_of(storage._leases._renewing):
                other._locks.remove(lock_of_member(storage.root.ino, "slow"))
                succession = await other.try_succeed(other.root, "slow")
                assert succession is not None
                async with succession as about:
                    assert about == b"about"
            await trio.sleep_forever()


def test_lease_that_has_ended_is_lost_also_if_nobody_took_the_lock(cluster: CephCluster) -> None:
    async def run() -> None:
        async with sessions(cluster, 1) as (storage,):
            assert storage._locks.take("cephfs_ext.lock.test", "cookie", 1)
            assert storage._locks.renew("cephfs_ext.lock.test", "cookie", 1)
            with trio.fail_after(_WAIT_S):
                await _wait_until_over(storage)
            storage._locks.remove("cephfs_ext.lock.test")

    async def _wait_until_over(storage: CephStorage) -> None:
        while not storage._locks.take("cephfs_ext.lock.test", "another", 1):  # noqa: ASYNC110
            await trio.sleep(0.05)
        storage._locks.give_back("cephfs_ext.lock.test", "another")
        assert not storage._locks.renew("cephfs_ext.lock.test", "cookie", 1)

    trio.run(run)


@pytest.mark.parametrize("renewals", [0, 3])
def test_lease_lasts_as_long_as_it_is_said_to(cluster: CephCluster, renewals: int) -> None:
    """Nor longer: the dead would be missed later."""
    lock, lease_s = f"cephfs_ext.lock.test{renewals}", 2

    async def run() -> None:
        async with sessions(cluster, 2) as (storage, other):
            since_s = trio.current_time()
            assert storage._locks.take(lock, "cookie", lease_s)
            for _ in range(renewals):
                since_s = trio.current_time()
                assert storage._locks.renew(lock, "cookie", lease_s)
            answered_s = asked_s = trio.current_time()
            with trio.fail_after(_WAIT_S):
                while not other._locks.take(lock, "another", lease_s):
                    await trio.sleep(0.02)
                    asked_s, refused_s = trio.current_time(), asked_s
            assert trio.current_time() - since_s >= lease_s
            assert refused_s - answered_s < lease_s + 0.1, "it was held when it was asked for"
            other._locks.remove(lock)

    trio.run(run)


def test_nothing_is_left_of_who_has_left(cluster: CephCluster) -> None:
    async def run() -> None:
        async with sessions(cluster, 1) as (storage,):
            async with storage.member(storage.root, "one", b"about", lease_s=_LEASE_S):
                assert lock_of_member(storage.root.ino, "one") in _objects(storage)
            assert lock_of_member(storage.root.ino, "one") not in _objects(storage)

    trio.run(run)


def _objects(storage: CephStorage) -> set[str]:
    return {one.key for one in storage._locks._io().list_objects()}


def test_key_that_may_take_no_locks_is_refused_and_not_listed(cluster: CephCluster) -> None:
    """Whoever is listed without a lock would be taken for dead."""

    async def run() -> None:
        config = CephConfig(conf=str(cluster.conf), id="plain")
        storage = await CephStorage.connect(config, fresh_directory(cluster), uuid="plain-member")
        try:
            with pytest.raises(DeniedError, match="osd 'allow rwx"):
                async with storage.member(storage.root, "plain", b"about", lease_s=_LEASE_S):
                    pass
            assert list(await storage.members(storage.root)) == []
        finally:
            await storage.close()

    trio.run(run)


@contextlib.asynccontextmanager
async def _full_data_pool(cluster: CephCluster) -> AsyncIterator[None]:
    """Wait for it in a thread: leases are renewed meanwhile."""
    filling = full(cluster, "cephfs.data")
    await trio.to_thread.run_sync(filling.__enter__)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(filling.__exit__, None, None, None)


async def _come_and_go(storage: CephStorage) -> None:
    """The OSDs may not have heard yet."""
    while True:
        async with storage.member(storage.root, "new", b"about", lease_s=_LEASE_S):
            await trio.sleep(0.1)


def test_nobody_becomes_a_member_at_a_full_data_pool_and_who_is_one_stays(
    cluster: CephCluster,
) -> None:
    async def run() -> None:
        async with (
            sessions(cluster, 1) as (storage,),
            storage.member(storage.root, "first", b"about", lease_s=_LEASE_S),
            _full_data_pool(cluster),
        ):
            with pytest.raises(FullError), trio.fail_after(_WAIT_S):
                await _come_and_go(storage)
            await trio.sleep(_LEASE_S + 1)
            assert list(await storage.members(storage.root)) == ["first"]

    trio.run(run)
