"""token and find: an inode is found by its number wherever its names are, and no other."""

from __future__ import annotations

import errno

from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY, Ino
from tests.contract.conftest import Place
from tests.contract.test_lookup import KINDS, make
from tests.contract.tree import Tree, fails


async def find(storage: Storage, node: Node, token: bytes) -> Ino:
    """Find an inode and give it back; return the number that its attributes have."""
    found = await storage.find(node.ino, token)
    storage.forget(found.node)
    assert found.node.ino == found.attr.ino
    return found.attr.ino


async def test_inodes_of_every_kind(tree: Tree) -> None:
    for kind in KINDS:
        node = await make(tree, kind, b"%o" % kind)
        token = tree.storage.token(node)
        assert len(token) <= 128
        assert await find(tree.storage, node, token) == node.ino


async def test_the_root(storage: Storage) -> None:
    root = storage.root
    assert await find(storage, root, storage.token(root)) == root.ino
    assert (await storage.getattr(root)).is_dir


async def test_after_a_rename(tree: Tree) -> None:
    below = await tree.dir(b"d")
    node = await tree.file(b"f", b"data", at=below)
    token, above = tree.storage.token(node), tree.storage.token(below)
    await tree.storage.rename(below, b"f", tree.top, b"g", GATEWAY)
    await tree.storage.rename(tree.top, b"d", tree.top, b"e", GATEWAY)
    assert await find(tree.storage, node, token) == node.ino
    assert await find(tree.storage, below, above) == below.ino


async def test_through_another_session_and_after_the_last_reference(
    tree: Tree, peer: Storage
) -> None:
    node = await tree.storage.mkdir(tree.top, b"d", 0o755, GATEWAY)
    token = tree.storage.token(node.node)
    await tree.storage.settle(node.node)
    tree.storage.forget(node.node)
    assert await find(peer, node.node, token) == node.attr.ino
    assert await find(tree.storage, node.node, token) == node.attr.ino


async def test_without_a_token(tree: Tree) -> None:
    node = await tree.file(b"f")
    below = await tree.dir(b"d")
    inside = await tree.file(b"g", at=below)
    for one in (node, below, inside):
        assert await find(tree.storage, one, b"") == one.ino


async def test_one_of_several_names_is_enough(tree: Tree) -> None:
    node = await tree.file(b"f")
    token = tree.storage.token(node)
    await tree.storage.link(node, tree.top, b"g", GATEWAY)
    await tree.storage.unlink(tree.top, b"f", GATEWAY)
    assert await find(tree.storage, node, token) == node.ino


async def test_what_has_no_name_is_not_found(tree: Tree) -> None:
    """Whether somebody still has a reference, or has it open, or not."""
    for referenced in (True, False):
        for is_dir in (True, False):
            make = tree.dir if is_dir else tree.file
            node = await make(b"x")
            token = tree.storage.token(node)
            if is_dir:
                await tree.storage.rmdir(tree.top, b"x", GATEWAY)
            else:
                await tree.storage.unlink(tree.top, b"x", GATEWAY)
            if not referenced:
                tree.give_back_one(node)
            for text in (token, b""):
                with fails(errno.ENOENT):
                    await tree.storage.find(node.ino, text)


async def test_open_file_without_a_name_is_not_found(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    token = tree.storage.token(node)
    async with tree.opened(node) as handle:
        await tree.storage.unlink(tree.top, b"f", GATEWAY)
        with fails(errno.ENOENT):
            await tree.storage.find(node.ino, token)
        assert await tree.storage.read(handle, 0, 10) == b"data"


async def test_number_that_there_never_was(tree: Tree) -> None:
    with fails(errno.ENOENT):
        await tree.storage.find(Ino(0x100_0FFF_FFFF), b"")


async def test_token_of_another_inode(tree: Tree) -> None:
    node, other = await tree.file(b"f"), await tree.file(b"g")
    token = tree.storage.token(other)
    if token:
        with fails(errno.ENOENT):
            await tree.storage.find(node.ino, token)
    else:  # the number alone counts
        assert await find(tree.storage, node, token) == node.ino


async def test_directory_outside_of_the_served_tree(tree: Tree, place: Place) -> None:
    """Moved out by somebody who serves more; what is restored into it must not leave the tree."""
    served = await tree.dir(b"served")
    inner = await tree.dir(b"inner", at=served)
    await tree.storage.settle(inner)
    narrow = await place.connect(place.below(f"{tree.name}/served"))
    try:
        assert await find(narrow, inner, tree.storage.token(inner)) == inner.ino
        await tree.storage.rename(served, b"inner", tree.top, b"x", GATEWAY)
        with fails(errno.ENOENT):
            await narrow.find(inner.ino, tree.storage.token(inner))
        with fails(errno.ENOENT):
            await narrow.find(tree.top.ino, tree.storage.token(tree.top))
    finally:
        await narrow.close()


async def test_path_of_a_directory(tree: Tree) -> None:
    top = tree.name.encode()
    assert await tree.storage.path(tree.storage.root) == b""
    assert await tree.storage.path(tree.top) == top
    node = await tree.dir(b"d")
    below = await tree.dir(b"\xff (deleted)", at=node)
    assert await tree.storage.path(below) == top + b"/d/\xff (deleted)"
    await tree.storage.rename(tree.top, b"d", tree.top, b"e", GATEWAY)
    assert await tree.storage.path(below) == top + b"/e/\xff (deleted)"


async def test_path_that_is_longer_than_a_path_may_be(tree: Tree) -> None:
    node, names = tree.top, [tree.name.encode()]
    for number in range(30):
        names.append(b"%03d" % number + b"n" * 200)
        node = await tree.dir(names[-1], at=node)
    assert await tree.storage.path(node) == b"/".join(names)


async def test_path_of_what_is_gone(tree: Tree) -> None:
    node = await tree.dir(b"d")
    await tree.storage.rmdir(tree.top, b"d", GATEWAY)
    with fails(errno.ENOENT):
        await tree.storage.path(node)


async def test_number_alone_is_enough_where_the_storage_says_so(tree: Tree) -> None:
    node = await tree.file(b"f")
    if tree.storage.finds_by_number:
        assert tree.storage.token(node) == b""
    assert await find(tree.storage, node, tree.storage.token(node)) == node.ino
