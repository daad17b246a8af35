"""Names lead to inodes, and an inode stays usable until its last reference is gone."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable

import pytest

from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY
from tests.contract.references import references_of
from tests.contract.tree import Tree, fails

KINDS = [
    stat.S_IFREG,
    stat.S_IFIFO,
    stat.S_IFSOCK,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFDIR,
    stat.S_IFLNK,
]


async def make(tree: Tree, kind: int, name: bytes) -> Node:
    """Make something of any kind."""
    if kind == stat.S_IFDIR:
        return await tree.dir(name)
    if kind == stat.S_IFLNK:
        return await tree.symlink(name, b"nowhere")
    rdev = os.makedev(1, 3) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    return tree.keep(await tree.storage.mknod(tree.top, name, kind | 0o640, rdev, GATEWAY)).node


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind:o}")
async def test_a_name_leads_to_its_inode(tree: Tree, kind: int) -> None:
    made = await make(tree, kind, b"x")
    for found in (
        await tree.look(b"x"),
        tree.keep(await tree.storage.resolve(tree.top, b"x")),
    ):
        assert found.node.ino == found.attr.ino == made.ino
        assert stat.S_IFMT(found.attr.mode) == kind
    assert (await tree.storage.getattr(made)).ino == made.ino


async def test_lookup_has_the_attributes_that_getattr_has(tree: Tree) -> None:
    node = await tree.file(b"f", b"12345", mode=0o604)
    assert (await tree.look(b"f")).attr == await tree.storage.getattr(node)


async def test_resolve_has_mode_and_owner(tree: Tree) -> None:
    node = await tree.dir(b"d", mode=0o2751)
    await tree.chmod(node, 0o2751)
    attr = tree.keep(await tree.storage.resolve(tree.top, b"d")).attr
    assert (attr.mode, attr.uid, attr.gid) == (stat.S_IFDIR | 0o2751, 0, 0)


async def test_missing_name(tree: Tree) -> None:
    with fails(errno.ENOENT):
        await tree.storage.lookup(tree.top, b"x")
    with fails(errno.ENOENT):
        await tree.storage.resolve(tree.top, b"x")


async def test_name_below_a_file(tree: Tree) -> None:
    node = await tree.file(b"f")
    with fails(errno.ENOTDIR, errno.EACCES):  # libcephfs asks for the right to search first
        await tree.storage.lookup(node, b"x")


async def test_symlinks_are_not_followed(tree: Tree) -> None:
    target = await tree.dir(b"target")
    await tree.file(b"inside", at=target)
    for name, text in {b"dir": b"target", b"up": b"../..", b"root": b"/", b"self": b"self"}.items():
        await tree.symlink(name, text)
        link = await tree.look(name)
        assert link.attr.is_symlink
        with fails(errno.ENOTDIR, errno.ELOOP):
            await tree.storage.lookup(link.node, b"inside")
        with fails(errno.ENOTDIR, errno.ELOOP):
            await tree.storage.mkdir(link.node, b"new", 0o755, GATEWAY)
        with fails(errno.ENOTDIR, errno.ELOOP):
            await tree.storage.opendir(link.node)
    assert await tree.names(target) == [b"inside"]


Returning = Callable[[Tree, Node], Awaitable[Node]]


async def _create(tree: Tree, file: Node) -> Node:
    created = await tree.storage.create(tree.top, b"new", 0o644, os.O_RDWR, GATEWAY)
    await tree.storage.release(created.handle)
    return created.node


async def _create_existing(tree: Tree, file: Node) -> Node:
    created = await tree.storage.create(tree.top, b"other", 0o644, os.O_RDWR, GATEWAY)
    await tree.storage.release(created.handle)
    return created.node


async def _list(tree: Tree, file: Node) -> Node:
    only = await tree.dir(b"only")
    await tree.storage.link(file, only, b"f", GATEWAY)
    tree.storage.forget(file)
    async with tree.listing(only) as handle:
        ((_, found),) = await tree.storage.readdir(handle, 0, limit=10, plus=True)
    assert found is not None
    return found.node


async def _find(tree: Tree, file: Node) -> Node:
    token = tree.storage.token(file)
    tree.storage.forget(file)
    return (await tree.storage.find(file.ino, token)).node


async def _look(tree: Tree, file: Node) -> Node:
    tree.storage.forget(file)
    return (await tree.storage.lookup(tree.top, b"f")).node


async def _resolve(tree: Tree, file: Node) -> Node:
    tree.storage.forget(file)
    return (await tree.storage.resolve(tree.top, b"f")).node


async def _link(tree: Tree, file: Node) -> Node:
    await tree.storage.link(file, tree.top, b"again", GATEWAY)
    return file


async def _open(tree: Tree, file: Node) -> Node:
    async with tree.opened(file):
        return file


async def _mkdir(tree: Tree, file: Node) -> Node:
    return (await tree.storage.mkdir(tree.top, b"new", 0o755, GATEWAY)).node


async def _mknod(tree: Tree, file: Node) -> Node:
    return (await tree.storage.mknod(tree.top, b"new", stat.S_IFIFO | 0o644, 0, GATEWAY)).node


async def _symlink(tree: Tree, file: Node) -> Node:
    return (await tree.storage.symlink(tree.top, b"new", b"x", GATEWAY)).node


RETURNING = [
    _create,
    _create_existing,
    _list,
    _find,
    _look,
    _resolve,
    _link,
    _open,
    _mkdir,
    _mknod,
    _symlink,
]


@pytest.mark.parametrize("call", RETURNING, ids=lambda call: call.__name__.strip("_"))
async def test_each_call_hands_out_one_reference(tree: Tree, call: Returning) -> None:
    """Most calls here give the first reference back before they ask for one."""
    file = (await tree.storage.mknod(tree.top, b"f", stat.S_IFREG | 0o644, 0, GATEWAY)).node
    other = (await tree.storage.mknod(tree.top, b"other", stat.S_IFREG | 0o644, 0, GATEWAY)).node
    tree.storage.forget(other)
    node = await call(tree, file)
    if node is not file and call in (_create, _create_existing, _mkdir, _mknod, _symlink):
        tree.storage.forget(file)
    assert references_of(tree.storage, node) == 1
    tree.storage.forget(node)


async def test_every_lookup_counts(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    for _ in range(3):
        await tree.storage.lookup(tree.top, b"f")
    tree.storage.forget(node, 2)
    tree.storage.forget(node)
    assert references_of(tree.storage, node) == 1
    assert await tree.data(node) == b"data"


async def test_the_root_is_never_forgotten(storage: Storage) -> None:
    storage.forget(storage.root, 1000)
    assert (await storage.getattr(storage.root)).is_dir


async def test_an_unlinked_inode_stays_usable(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    async with tree.opened(node, os.O_RDWR) as handle:
        await tree.storage.unlink(tree.top, b"f", GATEWAY)
        assert (await tree.storage.getattr(node)).nlink == 0
        assert await tree.storage.read(handle, 0, 10) == b"data"
        await tree.storage.write(handle, 4, b"more")
        assert await tree.storage.read(handle, 0, 10) == b"datamore"
    with fails(errno.ENOENT):
        await tree.storage.lookup(tree.top, b"f")


async def test_a_renamed_inode_stays_the_same(tree: Tree) -> None:
    below = await tree.dir(b"d")
    inside = await tree.file(b"f", b"data", at=below)
    await tree.storage.rename(tree.top, b"d", tree.top, b"e", GATEWAY)
    assert (await tree.look(b"e")).node.ino == below.ino
    assert (await tree.look(b"f", at=below)).node.ino == inside.ino
    assert await tree.data(inside) == b"data"
    await tree.file(b"g", at=below)
    assert await tree.names((await tree.look(b"e")).node) == [b"f", b"g"]


async def test_a_removed_directory_takes_nothing_in(tree: Tree) -> None:
    node = await tree.dir(b"d")
    await tree.storage.rmdir(tree.top, b"d", GATEWAY)
    with fails(errno.ENOENT):
        await tree.storage.mkdir(node, b"x", 0o755, GATEWAY)
    with fails(errno.ENOENT):
        await tree.storage.create(node, b"x", 0o644, os.O_RDWR, GATEWAY)
    with fails(errno.ENOENT):
        await tree.storage.lookup(node, b"x")


async def test_a_number_is_not_used_again_while_it_is_referenced(tree: Tree) -> None:
    """The kernel, too, knows an inode by its number alone."""
    old = await tree.file(b"old", b"old")
    await tree.storage.unlink(tree.top, b"old", GATEWAY)
    for number in range(100):
        node = await tree.file(b"%d" % number)
        assert node.ino != old.ino
    assert (await tree.storage.getattr(old)).nlink == 0
    assert (await tree.storage.getattr(old)).size == 3
