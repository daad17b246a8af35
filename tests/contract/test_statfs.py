"""statfs: space that makes sense, from wherever it is asked."""

from __future__ import annotations

from cephfs_ext.core.ports import Node
from cephfs_ext.core.types import StatFs
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
