"""mkdir, mknod, symlink and link: what is made has the kind, mode and owner asked for, or isn't."""

from __future__ import annotations

import errno
import os
import stat
import struct

import pytest

from cephfs_ext.core.types import GATEWAY
from tests.contract.tree import OWNER, Tree, fails

DEFAULT_ACL = b"system.posix_acl_default"
SPECIAL = [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK]
DEVICES = [stat.S_IFCHR, stat.S_IFBLK]


async def occupy(tree: Tree) -> list[bytes]:
    """Take names with something of each kind; return the names."""
    await tree.file(b"file", b"data")
    full = await tree.dir(b"dir")
    await tree.file(b"inside", at=full)
    await tree.symlink(b"dangling", b"nowhere")
    await tree.symlink(b"link", b"dir")
    return [b"file", b"dir", b"dangling", b"link"]


@pytest.mark.parametrize("mode", [0o000, 0o700, 0o755, 0o777, 0o1777, 0o1750])
async def test_directory_has_the_mode_asked_for(tree: Tree, mode: int) -> None:
    found = tree.keep(await tree.storage.mkdir(tree.top, b"d", mode, OWNER))
    assert found.attr.mode == stat.S_IFDIR | mode
    assert (found.attr.uid, found.attr.gid) == (OWNER.uid, OWNER.gid)
    assert await tree.attr(b"d") == found.attr
    assert await tree.names(found.node) == []


@pytest.mark.parametrize("kind", SPECIAL, ids=oct)
async def test_node_has_the_mode_asked_for(tree: Tree, kind: int) -> None:
    found = tree.keep(await tree.storage.mknod(tree.top, b"n", kind | 0o604, 0, OWNER))
    assert found.attr.mode == kind | 0o604
    assert (found.attr.uid, found.attr.gid, found.attr.nlink) == (OWNER.uid, OWNER.gid, 1)
    assert await tree.attr(b"n") == found.attr


@pytest.mark.parametrize("kind", DEVICES, ids=oct)
async def test_device_has_its_number(tree: Tree, kind: int) -> None:
    for name, number in {b"null": (1, 3), b"big": (259, 70_000)}.items():
        rdev = os.makedev(*number)
        found = tree.keep(await tree.storage.mknod(tree.top, name, kind | 0o660, rdev, GATEWAY))
        assert (found.attr.mode, found.attr.rdev) == (kind | 0o660, rdev)
        assert (await tree.attr(name)).rdev == rdev


@pytest.mark.parametrize("kind", DEVICES, ids=oct)
async def test_only_root_makes_devices(tree: Tree, kind: int) -> None:
    with fails(errno.EPERM):
        await tree.storage.mknod(tree.top, b"n", kind | 0o666, os.makedev(1, 3), OWNER)
    assert await tree.names() == []


async def test_mknod_makes_no_directory(tree: Tree) -> None:
    with fails(errno.EPERM, errno.EINVAL):
        await tree.storage.mknod(tree.top, b"n", stat.S_IFDIR | 0o755, 0, GATEWAY)
    with fails(errno.EPERM, errno.EINVAL):
        await tree.storage.mknod(tree.top, b"n", stat.S_IFLNK | 0o755, 0, GATEWAY)
    assert await tree.names() == []


async def test_umask_takes_bits_away(tree: Tree) -> None:
    storage, top = tree.storage, tree.top
    made = tree.keep(await storage.mkdir(top, b"d", 0o777, OWNER, umask=0o027))
    node = tree.keep(await storage.mknod(top, b"n", stat.S_IFREG | 0o666, 0, OWNER, umask=0o137))
    created = await storage.create(top, b"f", 0o777, os.O_RDWR, OWNER, umask=0o077)
    await storage.release(created.handle)
    storage.forget(created.node)
    modes = [stat.S_IMODE(one.attr.mode) for one in (made, node, created)]
    assert modes == [0o750, 0o640, 0o700]
    assert stat.S_IMODE((await tree.attr(b"f")).mode) == 0o700


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Encode an access control list: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


async def test_umask_plays_no_part_below_a_default_list(tree: Tree) -> None:
    storage = tree.storage
    above = await tree.dir(b"d", mode=0o777)
    plain = acl((1, 7, 0xFFFFFFFF), (4, 7, 0xFFFFFFFF), (0x20, 5, 0xFFFFFFFF))
    await storage.setxattr(above, DEFAULT_ACL, plain, GATEWAY)
    made = tree.keep(await storage.mkdir(above, b"d", 0o777, OWNER, umask=0o077))
    assert stat.S_IMODE(made.attr.mode) == 0o775
    assert await storage.getxattr(made.node, DEFAULT_ACL) == plain
    created = await storage.create(above, b"f", 0o666, os.O_RDWR, OWNER, umask=0o077)
    await storage.release(created.handle)
    storage.forget(created.node)
    assert stat.S_IMODE(created.attr.mode) == 0o664


async def test_taken_names_are_not_replaced(tree: Tree) -> None:
    storage, top = tree.storage, tree.top
    source = await tree.file(b"source")
    for name in await occupy(tree):
        before = await tree.attr(name)
        with fails(errno.EEXIST):
            await storage.mkdir(top, name, 0o755, GATEWAY)
        with fails(errno.EEXIST):
            await storage.mknod(top, name, stat.S_IFIFO | 0o644, 0, GATEWAY)
        with fails(errno.EEXIST):
            await storage.symlink(top, name, b"x", GATEWAY)
        with fails(errno.EEXIST):
            await storage.link(source, top, name, GATEWAY)
        with fails(errno.EEXIST):
            await storage.create(top, name, 0o644, os.O_RDWR | os.O_EXCL, GATEWAY)
        assert await tree.attr(name) == before
    assert (await storage.getattr(source)).nlink == 1


async def test_nothing_is_made_below_a_file(tree: Tree) -> None:
    node = await tree.file(b"f", mode=0o755)
    with fails(errno.ENOTDIR):
        await tree.storage.mkdir(node, b"x", 0o755, GATEWAY)
    with fails(errno.ENOTDIR):
        await tree.storage.mknod(node, b"x", stat.S_IFIFO | 0o644, 0, GATEWAY)
    with fails(errno.ENOTDIR):
        await tree.storage.symlink(node, b"x", b"y", GATEWAY)
    with fails(errno.ENOTDIR):
        await tree.storage.link(node, node, b"x", GATEWAY)
    with fails(errno.ENOTDIR):
        await tree.storage.create(node, b"x", 0o644, os.O_RDWR, GATEWAY)


TARGETS = [b"x", b"../../..", b"/etc/passwd", b"\xff\x80", b"t" * 4095, b"a//b/./c "]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: repr(target[:12]))
async def test_symlink_keeps_its_target_byte_for_byte(tree: Tree, target: bytes) -> None:
    found = tree.keep(await tree.storage.symlink(tree.top, b"l", target, OWNER))
    assert found.attr.is_symlink
    assert found.attr.size == len(target)
    assert (found.attr.uid, found.attr.gid) == (OWNER.uid, OWNER.gid)
    assert await tree.attr(b"l") == found.attr
    assert await tree.storage.readlink(found.node) == target


async def test_symlink_target_that_cannot_be(tree: Tree) -> None:
    for target, *numbers in [
        (b"", errno.ENOENT),
        (b"t" * 4096, errno.ENAMETOOLONG),
        (b"a\0b", errno.EINVAL),
    ]:
        with fails(*numbers):
            await tree.storage.symlink(tree.top, b"l", target, GATEWAY)
    assert await tree.names() == []


async def test_only_symlinks_have_a_target(tree: Tree) -> None:
    for node in (await tree.file(b"f"), await tree.dir(b"d")):
        with fails(errno.EINVAL):
            await tree.storage.readlink(node)


async def test_link_is_another_name(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", cred=OWNER)
    below = await tree.dir(b"d")
    attr = await tree.storage.link(node, below, b"g", GATEWAY)
    assert (attr.ino, attr.nlink) == (node.ino, 2)
    assert (await tree.look(b"g", at=below)).attr == await tree.storage.getattr(node)
    await tree.storage.unlink(tree.top, b"f", GATEWAY)
    assert (await tree.storage.getattr(node)).nlink == 1
    assert await tree.data(node) == b"data"


async def test_link_names_the_symlink_itself(tree: Tree) -> None:
    await tree.file(b"target")
    node = await tree.symlink(b"l", b"target")
    await tree.storage.link(node, tree.top, b"again", GATEWAY)
    assert (await tree.attr(b"again")).is_symlink
    assert (await tree.attr(b"target")).nlink == 1


@pytest.mark.parametrize("kind", SPECIAL + DEVICES, ids=oct)
async def test_special_files_have_links_too(tree: Tree, kind: int) -> None:
    node = tree.keep(await tree.storage.mknod(tree.top, b"n", kind | 0o644, 0, GATEWAY)).node
    assert (await tree.storage.link(node, tree.top, b"again", GATEWAY)).nlink == 2


async def test_directory_has_one_name(tree: Tree) -> None:
    node = await tree.dir(b"d")
    with fails(errno.EPERM):
        await tree.storage.link(node, tree.top, b"again", GATEWAY)
    with fails(errno.EPERM):
        await tree.storage.link(node, tree.top, b"again", OWNER)
    assert await tree.names() == [b"d"]


async def test_what_has_no_name_left_gets_none(tree: Tree) -> None:
    """The inode's end may be under way already."""
    node = await tree.file(b"f", b"data")
    await tree.storage.unlink(tree.top, b"f", GATEWAY)
    with fails(errno.ENOENT):
        await tree.storage.link(node, tree.top, b"again", GATEWAY)
    assert await tree.names() == []


async def test_group_of_a_setgid_directory_is_inherited(tree: Tree) -> None:
    storage = tree.storage
    above = await tree.dir(b"d", mode=0o777)
    await tree.chown(above, OWNER)
    await tree.chmod(above, 0o2777)
    group, user = OWNER.gid, GATEWAY
    made = tree.keep(await storage.mkdir(above, b"d", 0o755, user))
    assert (made.attr.gid, made.attr.mode) == (group, stat.S_IFDIR | 0o2755)
    node = tree.keep(await storage.mknod(above, b"n", stat.S_IFREG | 0o644, 0, user))
    assert (node.attr.gid, node.attr.mode) == (group, stat.S_IFREG | 0o644)
    link = tree.keep(await storage.symlink(above, b"l", b"x", user))
    assert link.attr.gid == group
    created = await tree.create(b"f", at=above)
    assert (created.attr.gid, created.attr.uid) == (group, 0)
    await storage.release(created.handle)
    deeper = tree.keep(await storage.mkdir(made.node, b"deeper", 0o700, user))
    assert (deeper.attr.gid, deeper.attr.mode) == (group, stat.S_IFDIR | 0o2700)
