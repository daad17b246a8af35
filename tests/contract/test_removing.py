"""unlink and rmdir: one name goes, and only of the kind that was meant."""

from __future__ import annotations

import errno
import stat

import pytest
import trio

from cephfs_ext.core.ports import Storage
from cephfs_ext.core.types import GATEWAY
from tests.contract.test_lookup import KINDS, make
from tests.contract.tree import Tree, fails


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != stat.S_IFDIR], ids=oct)
async def test_unlink_removes_a_name(tree: Tree, kind: int) -> None:
    node = await make(tree, kind, b"x")
    await tree.file(b"stays")
    await tree.storage.unlink(tree.top, b"x", GATEWAY)
    assert await tree.names() == [b"stays"]
    assert (await tree.storage.getattr(node)).nlink == 0
    with fails(errno.ENOENT):
        await tree.storage.unlink(tree.top, b"x", GATEWAY)


async def test_unlink_leaves_other_names(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    await tree.storage.link(node, tree.top, b"g", GATEWAY)
    await tree.storage.unlink(tree.top, b"f", GATEWAY)
    assert (await tree.storage.getattr(node)).nlink == 1
    assert await tree.data((await tree.look(b"g")).node) == b"data"


async def test_unlink_removes_the_symlink_and_not_its_target(tree: Tree) -> None:
    await tree.file(b"target", b"data")
    await tree.symlink(b"l", b"target")
    await tree.storage.unlink(tree.top, b"l", GATEWAY)
    assert await tree.names() == [b"target"]


async def test_unlink_removes_no_directory(tree: Tree) -> None:
    await tree.dir(b"d")
    with fails(errno.EISDIR):
        await tree.storage.unlink(tree.top, b"d", GATEWAY)
    assert await tree.names() == [b"d"]


async def test_rmdir_removes_an_empty_directory(tree: Tree) -> None:
    node = await tree.dir(b"d")
    await tree.file(b"f", at=node)
    await tree.storage.unlink(node, b"f", GATEWAY)
    await tree.storage.rmdir(tree.top, b"d", GATEWAY)
    assert await tree.names() == []
    with fails(errno.ENOENT):
        await tree.storage.rmdir(tree.top, b"d", GATEWAY)


async def test_rmdir_removes_nothing_that_is_not_empty(tree: Tree) -> None:
    for name in (b"file", b"dir", b"link"):
        node = await tree.dir(name)
        if name == b"file":
            await tree.file(b"x", b"data", at=node)
        elif name == b"dir":
            await tree.dir(b"x", at=node)
        else:
            tree.keep(await tree.storage.symlink(node, b"x", b"nowhere", GATEWAY))
        with fails(errno.ENOTEMPTY):
            await tree.storage.rmdir(tree.top, name, GATEWAY)
        assert await tree.names(node) == [b"x"]


async def test_rmdir_removes_nothing_but_directories(tree: Tree) -> None:
    await tree.file(b"f")
    await tree.dir(b"d")
    await tree.symlink(b"l", b"d")
    for name in (b"f", b"l"):
        with fails(errno.ENOTDIR):
            await tree.storage.rmdir(tree.top, name, GATEWAY)
    assert await tree.names() == [b"d", b"f", b"l"]


async def test_directory_that_is_listed_can_be_removed(tree: Tree) -> None:
    node = await tree.dir(b"d")
    async with tree.listing(node) as handle:
        await tree.storage.rmdir(tree.top, b"d", GATEWAY)
        assert await tree.storage.readdir(handle, 0, limit=10) == []


async def test_a_name_can_be_used_again(tree: Tree) -> None:
    for number in range(3):
        node = await tree.file(b"x", b"%d" % number)
        assert await tree.data(node) == b"%d" % number
        await tree.storage.unlink(tree.top, b"x", GATEWAY)
        await tree.dir(b"x")
        await tree.storage.rmdir(tree.top, b"x", GATEWAY)


async def test_another_session_sees_a_removal(tree: Tree, peer: Storage) -> None:
    await tree.file(b"f", b"data")
    top = await tree.through(peer)
    theirs = await peer.lookup(top, b"f")
    await tree.storage.unlink(tree.top, b"f", GATEWAY)
    with fails(errno.ENOENT):
        await peer.lookup(top, b"f")
    assert (await peer.getattr(theirs.node)).nlink == 0
    peer.forget(theirs.node)
    peer.forget(top)


async def test_many_names_go_with_one_call_and_each_has_its_errno(tree: Tree) -> None:
    await tree.dir(b"d")
    names = [b"f%d" % number for number in range(5)]
    for name in names:
        await tree.file(name)
    await tree.symlink(b"l", b"f0")
    await tree.file(b"stays")
    wanted = [*names, b"missing", b"d", b"l"]
    errors = await tree.storage.unlink_many(tree.top, wanted)
    assert list(errors) == [0, 0, 0, 0, 0, errno.ENOENT, errno.EISDIR, 0]
    assert await tree.names() == [b"d", b"stays"]


async def test_many_names_with_a_wrong_one_among_them_are_left_alone(tree: Tree) -> None:
    await tree.file(b"f")
    with fails(errno.EINVAL):
        await tree.storage.unlink_many(tree.top, [b"f", b"a/b"])
    with fails(errno.EINVAL):
        await tree.storage.unlink_many(tree.top, [b"f", b"a\0b"])
    assert await tree.names() == [b"f"]


async def test_several_batches_of_one_directory_at_once(tree: Tree) -> None:
    names = [b"f%d" % number for number in range(60)]
    for name in names:
        await tree.file(name)
    errors: list[int] = []

    async def remove(first: int) -> None:
        errors.extend(await tree.storage.unlink_many(tree.top, names[first : first + 30]))

    async with trio.open_nursery() as nursery:
        for first in (0, 15, 30):  # they overlap: somebody else may be at the same tree
            nursery.start_soon(remove, first)
    assert errors.count(0) == 60
    assert errors.count(errno.ENOENT) == 30
    assert await tree.names() == []
