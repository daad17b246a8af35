"""Extended attributes: whole values, the flags of setxattr(2), and whose right it is."""

from __future__ import annotations

import errno

import pytest

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.types import GATEWAY
from tests.contract.test_making import acl
from tests.contract.tree import MEMBER, OWNER, STRANGER, Tree, fails

CREATE = 1
REPLACE = 2
NAME = b"user.test"
NO_ID = 0xFFFFFFFF


@pytest.mark.parametrize("value", [b"", b"x", b"a\0b\0", b"\xff" * 255, bytes(range(256)) * 12])
async def test_value_comes_back_byte_for_byte(tree: Tree, value: bytes) -> None:
    for node in (await tree.file(b"f"), await tree.dir(b"d")):
        await tree.storage.setxattr(node, NAME, value, GATEWAY)
        assert await tree.storage.getxattr(node, NAME) == value
        assert list(await tree.storage.listxattr(node)) == [NAME]


async def test_value_is_replaced_whole(tree: Tree) -> None:
    node = await tree.file(b"f")
    for value in (b"long" * 100, b"short", b"", b"longer"):
        await tree.storage.setxattr(node, NAME, value, GATEWAY)
        assert await tree.storage.getxattr(node, NAME) == value


async def test_missing(tree: Tree) -> None:
    node = await tree.file(b"f")
    await tree.storage.setxattr(node, b"user.other", b"x", GATEWAY)
    with fails(errno.ENODATA):
        await tree.storage.getxattr(node, NAME)
    with fails(errno.ENODATA):
        await tree.storage.removexattr(node, NAME, GATEWAY)
    with fails(errno.ENODATA):
        await tree.storage.setxattr(node, NAME, b"x", GATEWAY, REPLACE)
    assert list(await tree.storage.listxattr(node)) == [b"user.other"]


async def test_create_replaces_nothing(tree: Tree) -> None:
    node = await tree.file(b"f")
    await tree.storage.setxattr(node, NAME, b"first", GATEWAY, CREATE)
    with fails(errno.EEXIST):
        await tree.storage.setxattr(node, NAME, b"second", GATEWAY, CREATE)
    assert await tree.storage.getxattr(node, NAME) == b"first"
    await tree.storage.setxattr(node, NAME, b"third", GATEWAY, REPLACE)
    assert await tree.storage.getxattr(node, NAME) == b"third"


async def test_removed_is_gone(tree: Tree) -> None:
    node = await tree.file(b"f")
    names = [b"user.a", b"user.b", b"user.c"]
    for name in names:
        await tree.storage.setxattr(node, name, name, GATEWAY)
    assert sorted(await tree.storage.listxattr(node)) == names
    await tree.storage.removexattr(node, b"user.b", GATEWAY)
    assert sorted(await tree.storage.listxattr(node)) == [b"user.a", b"user.c"]
    with fails(errno.ENODATA):
        await tree.storage.getxattr(node, b"user.b")


async def test_there_are_none_at_first(tree: Tree) -> None:
    assert list(await tree.storage.listxattr(await tree.file(b"f"))) == []
    assert list(await tree.storage.listxattr(await tree.dir(b"d"))) == []
    assert list(await tree.storage.listxattr(await tree.symlink(b"l", b"f"))) == []


async def test_names_of_any_bytes(tree: Tree) -> None:
    node = await tree.file(b"f")
    names = [b"user." + rest for rest in (b"\xff\xfe", b"a b", b"n" * 250, b".", b"A", b"a")]
    for name in names:
        await tree.storage.setxattr(node, name, name, GATEWAY)
    assert sorted(await tree.storage.listxattr(node)) == sorted(names)
    for name in names:
        assert await tree.storage.getxattr(node, name) == name


async def test_many(tree: Tree) -> None:
    node = await tree.file(b"f")
    names = [b"user.%03d" % number for number in range(100)]
    for name in names:
        await tree.storage.setxattr(node, name, b"v", GATEWAY)
    assert sorted(await tree.storage.listxattr(node)) == names


async def test_value_that_is_too_long_changes_nothing(tree: Tree) -> None:
    node = await tree.file(b"f")
    await tree.storage.setxattr(node, NAME, b"old", GATEWAY)
    for size in (65_536, 65_537, 200_000):
        number, kept = 0, b"v" * size
        try:
            await tree.storage.setxattr(node, NAME, b"v" * size, GATEWAY)
        except FSError as exc:
            number, kept = exc.errno, b"old"
        assert number in (0, errno.E2BIG, errno.ENOSPC, errno.ERANGE)
        assert await tree.storage.getxattr(node, NAME) == kept
        await tree.storage.setxattr(node, NAME, b"old", GATEWAY)


async def test_namespace_that_there_is_not(tree: Tree) -> None:
    node = await tree.file(b"f")
    with fails(errno.EOPNOTSUPP):
        await tree.storage.setxattr(node, b"nosuch.name", b"x", GATEWAY)
    with fails(errno.EOPNOTSUPP, errno.ENODATA):
        await tree.storage.getxattr(node, b"nosuch.name")
    assert list(await tree.storage.listxattr(node)) == []


async def test_who_may_not_write_sets_and_removes_none(tree: Tree) -> None:
    node = await tree.file(b"f", mode=0o664, cred=OWNER)
    await tree.storage.setxattr(node, NAME, b"old", OWNER)
    for call in (
        lambda: tree.storage.setxattr(node, NAME, b"new", STRANGER),
        lambda: tree.storage.setxattr(node, b"user.new", b"new", STRANGER),
        lambda: tree.storage.removexattr(node, NAME, STRANGER),
    ):
        with fails(errno.EACCES):
            await call()
    assert list(await tree.storage.listxattr(node)) == [NAME]
    assert await tree.storage.getxattr(node, NAME) == b"old"
    await tree.storage.setxattr(node, NAME, b"new", MEMBER)
    assert await tree.storage.getxattr(node, NAME) == b"new"


@pytest.mark.parametrize("name", [b"trusted.test", b"security.test"])
async def test_roots_own_are_set_by_root_alone(tree: Tree, name: bytes) -> None:
    node = await tree.file(b"f", mode=0o666, cred=OWNER)
    with fails(errno.EPERM, errno.EACCES):
        await tree.storage.setxattr(node, name, b"x", OWNER)
    await tree.storage.setxattr(node, name, b"x", GATEWAY)
    assert await tree.storage.getxattr(node, name) == b"x"
    with fails(errno.EPERM, errno.EACCES):
        await tree.storage.removexattr(node, name, OWNER)
    assert await tree.storage.getxattr(node, name) == b"x"


async def test_access_list_counts(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", mode=0o600, cred=OWNER)
    with fails(errno.EACCES):
        await tree.storage.open(node, 2, STRANGER)
    entries = acl(
        (1, 6, NO_ID), (2, 6, STRANGER.uid), (4, 0, NO_ID), (16, 6, NO_ID), (32, 0, NO_ID)
    )
    with fails(errno.EPERM):
        await tree.storage.setxattr(node, b"system.posix_acl_access", entries, STRANGER)
    await tree.storage.setxattr(node, b"system.posix_acl_access", entries, OWNER)
    assert await tree.storage.getxattr(node, b"system.posix_acl_access") == entries
    assert (await tree.storage.getattr(node)).mode & 0o777 == 0o660
    async with tree.opened(node, 2, STRANGER) as handle:
        await tree.storage.write(handle, 0, b"DATA")
    assert await tree.data(node) == b"DATA"
