"""Whoever asks is who acts: mutations have the caller's rights, and what they make is theirs."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Awaitable, Callable

import pytest
import trio

from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY, Attr, AttrChange, Credentials
from tests.contract.tree import MEMBER, OWNER, STRANGER, Tree, fails

Call = Callable[[Storage, Node, Node, Credentials], Awaitable[object]]
"""Does something to the content of a directory, or with the file `f` in it."""

_CALLS: dict[str, Call] = {
    "mkdir": lambda s, d, f, c: s.mkdir(d, b"new", 0o755, c),
    "mknod": lambda s, d, f, c: s.mknod(d, b"new", stat.S_IFIFO | 0o644, 0, c),
    "symlink": lambda s, d, f, c: s.symlink(d, b"new", b"x", c),
    "create": lambda s, d, f, c: s.create(d, b"new", 0o644, os.O_RDWR, c),
    "create exclusively": lambda s, d, f, c: s.create(d, b"new", 0o644, os.O_RDWR | os.O_EXCL, c),
    "link": lambda s, d, f, c: s.link(f, d, b"new", c),
    "unlink": lambda s, d, f, c: s.unlink(d, b"f", c),
    "rmdir": lambda s, d, f, c: s.rmdir(d, b"below", c),
    "rename within": lambda s, d, f, c: s.rename(d, b"f", d, b"new", c),
    "rename over": lambda s, d, f, c: s.rename(d, b"f", d, b"g", c),
}


async def snapshot(tree: Tree, node: Node) -> dict[bytes, Attr]:
    """Return names and attributes of a directory and its content; listing it changes atime."""
    attrs = {name: await tree.attr(name, at=node) for name in await tree.names(node)}
    attrs[b"."] = await tree.storage.getattr(node)
    return {name: dataclasses.replace(attr, atime_ns=0) for name, attr in attrs.items()}


async def fill(tree: Tree, mode: int) -> tuple[Node, Node]:
    """Make a directory of the owner's with something in it; return it and the file `f`."""
    node = await tree.dir(b"d", mode=mode, cred=OWNER)
    file = await tree.file(b"f", b"data", at=node, mode=0o666)
    await tree.file(b"g", b"other", at=node)
    await tree.dir(b"below", at=node)
    for name in (b"f", b"g", b"below"):
        await tree.chown((await tree.look(name, at=node)).node, OWNER)
    return node, file


@pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS.keys())
async def test_directory_that_may_not_be_written_stays_as_it_is(tree: Tree, call: Call) -> None:
    for mode, cred in (
        (0o755, STRANGER),
        (0o755, MEMBER),
        (0o577, OWNER),
        (0o557, MEMBER),
        (0o775, STRANGER),
        (0o776, STRANGER),
        (0o722, MEMBER),
    ):
        node, file = await fill(tree, mode)
        await tree.chmod(node, mode)
        before = await snapshot(tree, node)
        with fails(errno.EACCES):
            await call(tree.storage, node, file, cred)
        assert await snapshot(tree, node) == before
        await tree.storage.rename(
            tree.top, b"d", tree.top, b"old-%o-%d" % (mode, cred.uid), GATEWAY
        )


@pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS.keys())
async def test_directory_that_may_be_written(tree: Tree, call: Call) -> None:
    for mode, cred in ((0o700, OWNER), (0o770, MEMBER), (0o773, STRANGER), (0o000, GATEWAY)):
        node, file = await fill(tree, mode)
        await tree.chmod(node, mode)
        before = await tree.names(node)
        result = await call(tree.storage, node, file, cred)
        assert await tree.names(node) != before
        handle = getattr(result, "handle", None)
        if handle is not None:
            await tree.storage.release(handle)
        if hasattr(result, "node"):
            tree.storage.forget(result.node)
        await tree.storage.rename(
            tree.top, b"d", tree.top, b"old-%o-%d" % (mode, cred.uid), GATEWAY
        )


async def test_what_is_made_is_the_callers(tree: Tree) -> None:
    cred = Credentials(4242, 4343, (5, 6))
    storage, top = tree.storage, tree.top
    made = [
        tree.keep(await storage.mkdir(top, b"d", 0o755, cred)).attr,
        tree.keep(await storage.mknod(top, b"n", stat.S_IFIFO | 0o644, 0, cred)).attr,
        tree.keep(await storage.symlink(top, b"l", b"x", cred)).attr,
    ]
    created = await tree.create(b"f", cred=cred)
    await storage.release(created.handle)
    for attr in (*made, created.attr):
        assert (attr.uid, attr.gid) == (4242, 4343)
    for name in (b"d", b"n", b"l", b"f"):
        attr = await tree.attr(name)
        assert (attr.uid, attr.gid) == (4242, 4343)


async def test_large_ids(tree: Tree) -> None:
    cred = Credentials(4_000_000_000, 4_000_000_001, (4_000_000_002,))
    node = await tree.dir(b"d", mode=0o700, cred=cred)
    await tree.file(b"f", at=node, cred=cred)
    attr = await tree.attr(b"f", at=node)
    assert (attr.uid, attr.gid) == (cred.uid, cred.gid)


async def test_each_of_many_supplementary_groups_counts(tree: Tree) -> None:
    groups = tuple(range(50_000, 50_200))
    cred = Credentials(STRANGER.uid, STRANGER.gid, groups)
    for gid in (groups[0], groups[99], groups[-1]):
        node = await tree.dir(b"%d" % gid, mode=0o770)
        await tree.chown(node, Credentials(0, gid))
        await tree.file(b"f", at=node, cred=cred)
        with fails(errno.EACCES):
            await tree.storage.unlink(node, b"f", STRANGER)
        await tree.storage.unlink(node, b"f", cred)


async def test_both_directories_of_a_rename_count(tree: Tree) -> None:
    mine = await tree.dir(b"mine", mode=0o755, cred=OWNER)
    theirs = await tree.dir(b"theirs", mode=0o755, cred=STRANGER)
    await tree.file(b"f", at=mine, cred=OWNER)
    await tree.file(b"g", at=theirs, cred=STRANGER)
    for old, name, new in ((mine, b"f", theirs), (theirs, b"g", mine)):
        for cred in (OWNER, STRANGER):
            with fails(errno.EACCES):
                await tree.storage.rename(old, name, new, b"x", cred)
    assert await tree.names(mine) == [b"f"]
    assert await tree.names(theirs) == [b"g"]


@pytest.mark.parametrize("cred", [STRANGER, MEMBER], ids=["stranger", "member"])
async def test_sticky_directory_keeps_what_is_others(tree: Tree, cred: Credentials) -> None:
    node, _ = await fill(tree, 0o1777)
    await tree.chown(node, GATEWAY)
    await tree.chmod(node, 0o1777)
    await tree.file(b"mine", at=node, cred=cred)
    before = await snapshot(tree, node)
    storage = tree.storage
    with fails(errno.EPERM, errno.EACCES):
        await storage.unlink(node, b"f", cred)
    with fails(errno.EPERM, errno.EACCES):
        await storage.rmdir(node, b"below", cred)
    with fails(errno.EPERM, errno.EACCES):
        await storage.rename(node, b"f", node, b"x", cred)
    with fails(errno.EPERM, errno.EACCES):
        await storage.rename(node, b"mine", node, b"f", cred)
    assert await snapshot(tree, node) == before
    await storage.unlink(node, b"f", OWNER)
    await storage.rename(node, b"mine", node, b"moved", cred)
    await storage.unlink(node, b"moved", cred)


async def test_owner_of_a_sticky_directory_removes_anything(tree: Tree) -> None:
    node = await tree.dir(b"d", mode=0o777, cred=OWNER)
    await tree.chmod(node, 0o1777)
    await tree.file(b"f", at=node, cred=STRANGER)
    await tree.storage.unlink(node, b"f", OWNER)
    assert await tree.names(node) == []


async def test_directory_moves_only_if_it_may_be_written_itself(tree: Tree) -> None:
    """Its `..` changes."""
    node = await tree.dir(b"d", mode=0o555, cred=OWNER)
    other = await tree.dir(b"other", mode=0o777)
    with fails(errno.EACCES):
        await tree.storage.rename(tree.top, b"d", other, b"d", OWNER)
    await tree.chmod(node, 0o755)
    await tree.storage.rename(tree.top, b"d", other, b"d", OWNER)


async def test_roots_groups_are_not_the_users(tree: Tree) -> None:
    """What the process itself is in the group of plays no part."""
    node = await tree.dir(b"d", mode=0o770)
    with fails(errno.EACCES):
        await tree.storage.mkdir(node, b"x", 0o755, Credentials(STRANGER.uid, STRANGER.gid, (1,)))


async def test_a_write_by_another_user_takes_privileges_away(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", mode=0o777, cred=OWNER)
    await tree.chmod(node, 0o6777)
    async with tree.opened(node, os.O_WRONLY, STRANGER) as handle:
        await tree.storage.write(handle, 0, b"D")
    if tree.storage.kind == "posix":  # on ceph the gateway above does it
        assert stat.S_IMODE((await tree.storage.getattr(node)).mode) == 0o777
    assert await tree.data(node) == b"Data"


async def test_identities_do_not_mix_in_many_threads(tree: Tree) -> None:
    """200 calls at once as 20 users; the gateway's own among them, which needs all its rights."""
    private = await tree.dir(b"private", mode=0o700)
    homes: dict[Credentials, Node] = {}
    for number in range(20):
        cred = Credentials(60_000 + number, 61_000 + number, (62_000 + number,))
        homes[cred] = await tree.dir(b"home-%d" % number, mode=0o700, cred=cred)
    owners = list(homes)

    async def at_home(number: int) -> None:
        cred = owners[number % 20]
        created = await tree.create(b"%d" % number, at=homes[cred], mode=0o600, cred=cred)
        await tree.storage.write(created.handle, 0, b"x")
        await tree.storage.release(created.handle)
        assert (created.attr.uid, created.attr.gid) == (cred.uid, cred.gid)

    async def abroad(number: int) -> None:
        with fails(errno.EACCES):
            await tree.storage.mkdir(
                homes[owners[(number + 1) % 20]], b"x", 0o755, owners[number % 20]
            )

    async def by_group(number: int) -> None:
        cred = owners[number % 20]
        shared = await tree.dir(b"shared-%d" % number, mode=0o070)
        await tree.storage.setattr(shared, AttrChange(gid=cred.groups[0]), GATEWAY)
        await tree.dir(b"x", at=shared, cred=cred)
        with fails(errno.EACCES):
            await tree.storage.mkdir(shared, b"y", 0o755, owners[(number + 1) % 20])

    async def as_gateway(number: int) -> None:
        found = await tree.storage.mkdir(private, b"%d" % number, 0o700, GATEWAY)
        assert (found.attr.uid, found.attr.gid) == (0, 0)
        tree.storage.forget(found.node)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            for call in (at_home, abroad, by_group, as_gateway):
                nursery.start_soon(call, number)
    assert len(await tree.names(private)) == 50
    for cred, home in homes.items():
        names = await tree.names(home)
        for name in names:
            assert (await tree.attr(name, at=home)).uid == cred.uid
        assert b"x" not in names


async def test_a_refusal_leaves_the_threads_as_they_were(tree: Tree) -> None:
    node = await tree.dir(b"d", mode=0o700, cred=OWNER)
    for _ in range(50):
        with fails(errno.EACCES):
            await tree.storage.mkdir(node, b"x", 0o755, STRANGER)
    for number in range(50):
        found = await tree.storage.mkdir(node, b"%d" % number, 0o755, GATEWAY)
        assert (found.attr.uid, found.attr.gid) == (0, 0)
        tree.storage.forget(found.node)
