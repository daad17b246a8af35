"""statfs: space that makes sense, from wherever it is asked."""

from __future__ import annotations

import os

import trio

from cephfs_ext.core.ports import Node
from cephfs_ext.core.types import GATEWAY, StatFs, Weight
from tests.contract.tree import Tree


def check(stats: StatFs) -> None:
    """Check what must hold of any file system."""
    assert stats.bsize > 0
    assert stats.frsize > 0
    assert stats.blocks >= stats.bfree >= stats.bavail >= 0
    assert stats.blocks > 0
    assert stats.namemax == 255


async def test_numbers_make_sense(tree: Tree) -> None:
    check(await tree.storage.statfs(tree.storage.root))


async def test_every_inode_answers(tree: Tree) -> None:
    nodes: list[Node] = [
        await tree.file(b"f"),
        await tree.dir(b"d"),
        await tree.symlink(b"l", b"nowhere"),
    ]
    for node in nodes:
        check(await tree.storage.statfs(node))


async def test_weight_is_what_is_below_or_nothing_where_nobody_counts(tree: Tree) -> None:
    """[space-1]"""
    storage = tree.storage
    top = await tree.dir(b"d")
    if not storage.weighs:
        assert await storage.weigh(top) is None
        return
    assert await storage.weigh(top) == Weight(0, 0)
    for name in (b"f", b"g"):
        created = await storage.create(top, name, 0o600, os.O_WRONLY, GATEWAY)
        await storage.write(created.handle, 0, b"x" * 1000)
        await storage.fsync(created.handle)
        await storage.release(created.handle)
        storage.forget(created.node)
    with trio.fail_after(30):
        weight = await storage.weigh(top)
        while weight != Weight(2000, 2):
            await trio.sleep(0.05)
            weight = await storage.weigh(top)


async def test_quota_is_that_of_the_directory_itself(tree: Tree) -> None:
    storage = tree.storage
    top = await tree.dir(b"d")
    assert await storage.quota(top) == Weight(0, 0)
    if storage.kind == "ceph":
        await storage.setxattr(top, b"ceph.quota.max_bytes", b"4096", GATEWAY)
        assert await storage.quota(top) == Weight(4096, 0)
        await storage.setxattr(top, b"ceph.quota.max_files", b"7", GATEWAY)
        assert await storage.quota(top) == Weight(4096, 7)
        assert await storage.is_domain_root(top)
