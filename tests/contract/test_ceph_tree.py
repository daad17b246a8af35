"""What the ceph storage promises beyond the port: quotas, snapshots, and sessions without quota."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from cephfs_ext.core.config import CephConfig
from cephfs_ext.core.errors import FSError, FullError
from cephfs_ext.core.ports import Storage
from cephfs_ext.core.types import GATEWAY
from cephfs_ext.storage.ceph import CephStorage
from tests.cluster.ceph import CephCluster
from tests.contract.tree import Tree, fails, pages
from tests.gateway import file_system

MIB = 1 << 20


@asynccontextmanager
async def session(
    cluster: CephCluster, path: str, *, background: bool = False
) -> AsyncIterator[Storage]:
    """Have a session while the body runs."""
    storage = await CephStorage.connect(
        CephConfig(conf=str(cluster.conf), id="gateway"),
        path,
        uuid=f"contract-{uuid.uuid4()}",
        background=background,
    )
    try:
        yield storage
    finally:
        await storage.close()


@pytest.fixture
def subdir(cluster: CephCluster) -> Iterator[str]:
    """Return a fresh directory."""
    path = f"/q-{uuid.uuid4().hex[:12]}"
    with file_system(cluster) as fs:
        fs.mkdir(path, 0o777)
        fs.mkdir(f"{path}/limited", 0o777)
    return path


def limit(cluster: CephCluster, path: str, **quota: int) -> None:
    """Set a quota as the administrator."""
    with file_system(cluster) as fs:
        for key, value in quota.items():
            fs.setxattr(path, f"ceph.quota.{key}", b"%d" % value, 0)


@pytest.fixture
def whole_limited(cluster: CephCluster, subdir: str) -> str:
    """Return a directory with a quota of bytes and of files."""
    limit(cluster, subdir, max_bytes=64 * MIB, max_files=100)
    return subdir


async def test_statfs_respects_a_quota(cluster: CephCluster, whole_limited: str) -> None:
    async with session(cluster, whole_limited) as storage:
        stats = await storage.statfs(storage.root)
        assert stats.blocks * stats.frsize == 64 * MIB
        assert stats.bavail * stats.frsize <= 64 * MIB


async def test_quota_root_is_a_domain(cluster: CephCluster, subdir: str) -> None:
    async with session(cluster, subdir) as storage:
        found = await storage.lookup(storage.root, b"limited")
        assert not await storage.is_domain_root(found.node)
        await storage.setxattr(found.node, b"ceph.quota.max_files", b"1000", GATEWAY)
        assert await storage.is_domain_root(found.node)
        await storage.setxattr(found.node, b"ceph.quota.max_files", b"0", GATEWAY)
        assert not await storage.is_domain_root(found.node)
        storage.forget(found.node)


async def test_rename_does_not_cross_a_quota_but_that_of_background_work_does(
    cluster: CephCluster, subdir: str
) -> None:
    """Giving back has to work where a quota is in the way, or full."""
    limit(cluster, f"{subdir}/limited", max_files=1000)
    async with (
        session(cluster, subdir) as users,
        session(cluster, subdir, background=True) as background,
    ):
        for storage, crosses in ((users, False), (background, True)):
            name = b"crosses" if crosses else b"stays"
            made = await storage.mkdir(storage.root, name, 0o755, GATEWAY)
            limited = await storage.lookup(storage.root, b"limited")
            arguments = (storage.root, name, limited.node, name, GATEWAY)
            if crosses:
                await storage.rename(*arguments)
            else:
                with fails(errno.EXDEV):
                    await storage.rename(*arguments)
            storage.forget(made.node)
            storage.forget(limited.node)


async def test_full_quota_is_an_error_and_loses_nothing(
    cluster: CephCluster, whole_limited: str
) -> None:
    async with session(cluster, whole_limited) as storage:
        created = await storage.create(storage.root, b"f", 0o644, os.O_RDWR, GATEWAY)
        await storage.write(created.handle, 0, b"x" * (60 * MIB))
        with pytest.raises(FullError) as caught:
            await storage.write(created.handle, 60 * MIB, b"y" * (40 * MIB))
        assert caught.value.errno == errno.EDQUOT
        assert await storage.read(created.handle, 60 * MIB - 2, 100) == b"xx"
        await storage.release(created.handle)
        storage.forget(created.node)


async def test_inodes_of_a_snapshot_have_numbers_of_their_own(
    cluster: CephCluster, subdir: str
) -> None:
    async with session(cluster, subdir) as storage:
        tree = Tree(storage, storage.root, "")
        node = await tree.file(b"f", b"before")
        snapshots = await tree.look(b".snap")
        snapshot = tree.keep(await storage.mkdir(snapshots.node, b"s", 0o755, GATEWAY))
        async with tree.opened(node, os.O_WRONLY) as handle:
            await storage.write(handle, 0, b"after!")
            await storage.fsync(handle)
        old = await tree.look(b"f", at=snapshot.node)
        assert old.node.ino == old.attr.ino != node.ino
        assert await tree.data(old.node) == b"before"
        assert await tree.data(node) == b"after!"
        async with tree.listing(snapshot.node) as listing:
            listed = await pages(storage, listing, plus=True)
        numbers = {one.entry.name: one.found.attr.ino for one in listed if one.found}
        assert numbers[b"f"] == old.node.ino
        for one in listed:
            assert one.found is not None
            storage.forget(one.found.node)
        with fails(errno.EROFS):
            await storage.unlink(snapshot.node, b"f", GATEWAY)
        await storage.rmdir(snapshots.node, b"s", GATEWAY)
        tree.give_back()


async def test_names_that_are_being_changed_are_forgotten(
    cluster: CephCluster, subdir: str
) -> None:
    async with session(cluster, subdir) as storage:

        async def make_and_remove(number: int) -> None:
            name = b"%d" % (number % 3)
            for call in (
                lambda: storage.mkdir(storage.root, name, 0o755, GATEWAY),
                lambda: storage.rmdir(storage.root, name, GATEWAY),
            ):
                with contextlib.suppress(FSError):
                    if (found := await call()) is not None:
                        storage.forget(found.node)

        with trio.move_on_after(0.2):
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(make_and_remove, number)
        assert isinstance(storage, CephStorage)
        assert len(storage._names) == 0
