"""getattr and setattr: each field is set by itself, by who may, or stays."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
import time

import pytest

from cephfs_ext.core.ports import Node
from cephfs_ext.core.types import GATEWAY, Attr, AttrChange, Credentials
from tests.contract.tree import MEMBER, OWNER, SECOND_NS, STRANGER, Tree, fails

CLOCK_SKEW_NS = 10 * SECOND_NS
WHEN_NS = 1_234_567_890 * SECOND_NS + 123_456_789
LATER_NS = 2_500_000_000 * SECOND_NS + 1


async def change(
    tree: Tree, node: Node, cred: Credentials = GATEWAY, **fields: int | bool | None
) -> Attr:
    """Change attributes; check that getattr says the same as the answer."""
    attr = await tree.storage.setattr(node, AttrChange(**fields), cred)  # type: ignore[arg-type]
    assert await tree.storage.getattr(node) == attr
    return attr


async def test_attributes_of_a_file(tree: Tree) -> None:
    begun_ns = time.time_ns()
    node = await tree.file(b"f", b"x" * 5000, mode=0o640, cred=OWNER)
    attr = await tree.storage.getattr(node)
    assert attr.ino == node.ino
    assert attr.mode == stat.S_IFREG | 0o640
    assert (attr.nlink, attr.uid, attr.gid, attr.size) == (1, OWNER.uid, OWNER.gid, 5000)
    assert attr.blksize > 0
    for value in (attr.atime_ns, attr.mtime_ns, attr.ctime_ns):
        assert abs(value - begun_ns) < CLOCK_SKEW_NS


FIELDS: dict[str, dict[str, int]] = {
    "mode": {"mode": 0o4755},
    "uid": {"uid": STRANGER.uid},
    "gid": {"gid": STRANGER.gid},
    "owner": {"uid": 1, "gid": 2},
    "shorter": {"size": 2},
    "longer": {"size": 10_000},
    "atime": {"atime_ns": WHEN_NS},
    "mtime": {"mtime_ns": WHEN_NS},
    "times": {"atime_ns": WHEN_NS, "mtime_ns": LATER_NS},
    "all": {"mode": 0o600, "uid": 7, "gid": 8, "size": 3, "atime_ns": 1, "mtime_ns": 2},
    "nothing": {},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS.keys())
async def test_a_field_is_set_and_the_others_stay(tree: Tree, fields: dict[str, int]) -> None:
    node = await tree.file(b"f", b"data")
    before = await change(tree, node, atime_ns=WHEN_NS - 1, mtime_ns=WHEN_NS + 1)
    after = await change(tree, node, **fields)
    expected = dataclasses.asdict(before) | fields | {"ctime_ns": after.ctime_ns}
    if "mode" in fields:
        expected["mode"] = stat.S_IFREG | fields["mode"]
    if "size" in fields:
        expected["blocks"] = after.blocks
        if "mtime_ns" not in fields:
            assert after.mtime_ns > before.mtime_ns
            expected["mtime_ns"] = after.mtime_ns
    assert dataclasses.asdict(after) == expected
    if fields:
        assert after.ctime_ns > before.ctime_ns


async def test_every_permission_bit_of_a_directory(tree: Tree) -> None:
    node = await tree.dir(b"d")
    for mode in (0o7777, 0o0000, 0o1777, 0o2070, 0o4500):
        assert (await change(tree, node, mode=mode)).mode == stat.S_IFDIR | mode


async def test_the_kind_is_not_changed_with_the_mode(tree: Tree) -> None:
    node = await tree.file(b"f")
    assert (await change(tree, node, mode=stat.S_IFDIR | 0o600)).mode == stat.S_IFREG | 0o600


@pytest.mark.parametrize("which", ["atime", "mtime"])
async def test_times_are_kept_to_the_nanosecond(tree: Tree, which: str) -> None:
    node = await tree.file(b"f")
    for value in (0, 1, SECOND_NS - 1, SECOND_NS, WHEN_NS, LATER_NS, 2**32 * SECOND_NS - 1):
        after = await change(tree, node, **{f"{which}_ns": value})
        assert getattr(after, f"{which}_ns") == value


@pytest.mark.parametrize("which", ["atime", "mtime"])
async def test_now_is_the_present(tree: Tree, which: str) -> None:
    node = await tree.file(b"f")
    before = await change(tree, node, atime_ns=1, mtime_ns=2)
    after = await change(tree, node, **{f"{which}_now": True})
    assert abs(getattr(after, f"{which}_ns") - time.time_ns()) < CLOCK_SKEW_NS
    other = "mtime" if which == "atime" else "atime"
    assert getattr(after, f"{other}_ns") == getattr(before, f"{other}_ns")


async def test_symlink_itself_is_changed(tree: Tree) -> None:
    target = await tree.file(b"target")
    before = await tree.storage.getattr(target)
    node = await tree.symlink(b"l", b"target")
    after = await change(tree, node, uid=7, gid=8, mtime_ns=WHEN_NS)
    assert (after.uid, after.gid, after.mtime_ns) == (7, 8, WHEN_NS)
    assert after.is_symlink
    assert await tree.storage.getattr(target) == before


async def test_what_was_cut_off_reads_as_zeros(tree: Tree) -> None:
    node = await tree.file(b"f", b"x" * 10_000)
    await change(tree, node, size=100)
    await change(tree, node, size=10_000)
    assert await tree.data(node) == b"x" * 100 + bytes(9_900)


async def test_sizes_beyond_what_there_is(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    with fails(errno.EFBIG):
        await tree.storage.setattr(node, AttrChange(size=1 << 62), GATEWAY)
    assert await tree.data(node) == b"data"


async def test_only_files_have_a_size(tree: Tree) -> None:
    with fails(errno.EISDIR):
        await tree.storage.setattr(await tree.dir(b"d"), AttrChange(size=0), GATEWAY)
    fifo = tree.keep(
        await tree.storage.mknod(tree.top, b"p", stat.S_IFIFO | 0o666, 0, GATEWAY)
    ).node
    with fails(errno.EINVAL):
        await tree.storage.setattr(fifo, AttrChange(size=0), GATEWAY)


async def test_another_inode_is_not_touched(tree: Tree) -> None:
    node, other = await tree.file(b"f"), await tree.file(b"g")
    before = await tree.storage.getattr(other)
    await change(tree, node, mode=0o600, uid=5, size=10, mtime_ns=3)
    assert await tree.storage.getattr(other) == before


# whose right it is


@pytest.mark.parametrize("cred", [MEMBER, STRANGER], ids=["member", "stranger"])
@pytest.mark.parametrize("is_dir", [False, True], ids=["file", "directory"])
async def test_only_the_owner_changes(tree: Tree, cred: Credentials, is_dir: bool) -> None:
    if is_dir:
        node = await tree.dir(b"x", mode=0o777, cred=OWNER)
    else:
        node = await tree.file(b"x", b"data", mode=0o666, cred=OWNER)
    before = await tree.storage.getattr(node)
    for refused in (
        AttrChange(mode=0o700),
        AttrChange(uid=cred.uid),
        AttrChange(gid=cred.gid),
        AttrChange(atime_ns=1),
        AttrChange(mtime_ns=1),
        AttrChange(mtime_now=True, mode=0o700),
        AttrChange(mtime_now=True, uid=cred.uid),
        AttrChange(mtime_now=True, atime_ns=1),
    ):
        with fails(errno.EPERM):
            await tree.storage.setattr(node, refused, cred)
        after = await tree.storage.getattr(node)
        assert (after.mode, after.uid, after.gid) == (before.mode, before.uid, before.gid)
        assert after.atime_ns == before.atime_ns


async def test_owner_gives_only_to_groups_of_theirs(tree: Tree) -> None:
    owner = Credentials(OWNER.uid, OWNER.gid, (777, 888))
    node = await tree.file(b"f", cred=owner)
    for gid in (777, 888, OWNER.gid):
        assert (await change(tree, node, owner, gid=gid)).gid == gid
    with fails(errno.EPERM):
        await tree.storage.setattr(node, AttrChange(gid=999), owner)
    with fails(errno.EPERM):
        await tree.storage.setattr(node, AttrChange(uid=STRANGER.uid), owner)
    attr = await tree.storage.getattr(node)
    assert (attr.uid, attr.gid) == (OWNER.uid, OWNER.gid)


async def test_owner_changes_mode_and_times(tree: Tree) -> None:
    node = await tree.file(b"f", cred=OWNER, mode=0o400)
    after = await change(tree, node, OWNER, mode=0o4751, atime_ns=1, mtime_ns=2)
    assert (after.mode, after.atime_ns, after.mtime_ns) == (stat.S_IFREG | 0o4751, 1, 2)


async def test_size_needs_the_right_to_write(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", mode=0o464, cred=OWNER)
    for cred in (OWNER, STRANGER):
        with fails(errno.EACCES):
            await tree.storage.setattr(node, AttrChange(size=0), cred)
        assert await tree.data(node) == b"data"
    assert (await change(tree, node, MEMBER, size=1)).size == 1


KINDS = ["file", "directory", "fifo"]


async def make(tree: Tree, kind: str, mode: int) -> Node:
    """Make something of the owner's."""
    if kind == "file":
        return await tree.file(b"x", mode=mode, cred=OWNER)
    if kind == "directory":
        return await tree.dir(b"x", mode=mode, cred=OWNER)
    found = await tree.storage.mknod(tree.top, b"x", stat.S_IFIFO | mode, 0, OWNER)
    return tree.keep(found).node


@pytest.mark.parametrize("kind", KINDS)
async def test_who_may_write_touches(tree: Tree, kind: str) -> None:
    node = await make(tree, kind, 0o060)
    await change(tree, node, atime_ns=1, mtime_ns=2)
    with fails(errno.EACCES):
        await tree.storage.setattr(node, AttrChange(atime_now=True, mtime_now=True), STRANGER)
    before = await tree.storage.getattr(node)
    assert (before.atime_ns, before.mtime_ns) == (1, 2)
    after = await tree.storage.setattr(node, AttrChange(atime_now=True, mtime_now=True), MEMBER)
    for value in (after.atime_ns, after.mtime_ns):
        assert abs(value - time.time_ns()) < CLOCK_SKEW_NS
    await change(tree, node, OWNER, atime_now=True, mtime_now=True)


async def test_truncation_through_an_open_file_needs_no_permission(tree: Tree) -> None:
    created = await tree.create(b"f", mode=0o400, cred=OWNER)
    await tree.storage.write(created.handle, 0, b"data")
    with fails(errno.EACCES):
        await tree.storage.setattr(created.node, AttrChange(size=2), OWNER)
    for cred in (OWNER, STRANGER):
        attr = await tree.storage.setattr(created.node, AttrChange(size=2), cred, created.handle)
        assert attr.size == 2
    await tree.storage.release(created.handle)
    assert await tree.data(created.node) == b"da"


async def test_a_file_open_for_reading_lends_no_right(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", cred=OWNER)
    async with tree.opened(node) as handle:
        with fails(errno.EACCES, errno.EINVAL):
            await tree.storage.setattr(node, AttrChange(size=0), STRANGER, handle)
    assert await tree.data(node) == b"data"


async def test_an_open_file_lends_the_right_to_truncate_only(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", cred=OWNER)
    async with tree.opened(node, os.O_RDWR) as handle:
        for wanted in (
            AttrChange(size=4, mode=0o777),
            AttrChange(size=4, uid=STRANGER.uid),
            AttrChange(size=4, mtime_ns=1),
            AttrChange(mode=0o777),
        ):
            with fails(errno.EPERM):
                await tree.storage.setattr(node, wanted, STRANGER, handle)
    attr = await tree.storage.getattr(node)
    assert (attr.mode, attr.uid) == (stat.S_IFREG | 0o644, OWNER.uid)
    assert await tree.data(node) == b"data"


async def test_group_that_is_not_the_owners_takes_setgid_away(tree: Tree) -> None:
    node = await tree.file(b"f", mode=0o755, cred=OWNER)
    await change(tree, node, gid=STRANGER.gid)
    assert (await change(tree, node, OWNER, mode=0o2755)).mode == stat.S_IFREG | 0o755
