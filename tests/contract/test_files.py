"""open, create, read, write and what ends them: data comes back as it was written."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio

from cephfs_ext.core.errors import ExistsError
from cephfs_ext.core.ports import Storage
from cephfs_ext.core.types import GATEWAY
from tests.contract.tree import MEMBER, OWNER, STRANGER, Tree, fails

MIB = 1 << 20
GIB = 1 << 30
NEW = os.O_RDWR | os.O_EXCL


# create


async def test_created_file_is_open_and_has_its_attributes(tree: Tree) -> None:
    created = await tree.create(b"f", mode=0o604, cred=OWNER)
    assert created.attr.mode == stat.S_IFREG | 0o604
    assert (created.attr.uid, created.attr.gid, created.attr.size) == (OWNER.uid, OWNER.gid, 0)
    assert created.node.ino == created.attr.ino == created.handle.node.ino
    assert await tree.storage.write(created.handle, 0, b"data") == 4
    assert await tree.storage.read(created.handle, 0, 10) == b"data"
    await tree.storage.release(created.handle)
    assert (await tree.look(b"f")).node.ino == created.node.ino


async def test_exclusive_create_opens_nothing_that_exists(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    with fails(errno.EEXIST):
        await tree.storage.create(tree.top, b"f", 0o644, NEW, GATEWAY)
    with fails(errno.EEXIST):
        await tree.storage.create(tree.top, b"f", 0o644, NEW | os.O_TRUNC, GATEWAY)
    assert await tree.data(node) == b"data"


async def test_create_opens_an_existing_file(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", mode=0o640)
    created = await tree.create(b"f", mode=0o777, flags=os.O_RDWR)
    assert (created.node.ino, created.attr.size) == (node.ino, 4)
    assert created.attr.mode == stat.S_IFREG | 0o640
    assert await tree.storage.read(created.handle, 0, 10) == b"data"
    await tree.storage.release(created.handle)


async def test_what_is_read_past_caches_is_what_was_just_written(tree: Tree) -> None:
    node = await tree.file(b"f", b"before")
    async with tree.opened(node, os.O_WRONLY) as writer:
        passing = await tree.storage.open_passing(node)
        try:
            for data in (b"behind", b"afterwards" * 10_000):
                await tree.storage.write(writer, 0, data)
                assert await tree.storage.read(passing, 0, 200_000) == data
        finally:
            await tree.storage.release(passing)


async def test_create_may_cut_an_existing_file_off(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    created = await tree.create(b"f", flags=os.O_RDWR | os.O_TRUNC)
    assert (created.node.ino, created.attr.size) == (node.ino, 0)
    await tree.storage.release(created.handle)
    assert await tree.data(node) == b""


async def test_create_opens_an_existing_file_with_the_callers_rights(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", mode=0o640, cred=OWNER)
    for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
        with fails(errno.EACCES):
            await tree.storage.create(tree.top, b"f", 0o644, flags, STRANGER)
        with fails(errno.EACCES):
            await tree.storage.create(tree.top, b"f", 0o644, flags, MEMBER)
    assert await tree.data(node) == b"data"


async def test_create_opens_only_files(tree: Tree) -> None:
    """And never waits for the other end of a FIFO. ESTALE has the kernel look again."""
    await tree.dir(b"dir")
    await tree.file(b"target", b"data")
    await tree.symlink(b"link", b"target")
    await tree.symlink(b"dangling", b"nowhere")
    fifo = await tree.storage.mknod(tree.top, b"fifo", stat.S_IFIFO | 0o666, 0, GATEWAY)
    tree.keep(fifo)
    for flags in (os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_TRUNC):
        with fails(errno.EISDIR):
            await tree.storage.create(tree.top, b"dir", 0o644, flags, GATEWAY)
        for name in (b"link", b"dangling", b"fifo"):
            with fails(errno.ESTALE):
                await tree.storage.create(tree.top, name, 0o644, flags, GATEWAY)
    assert await tree.data((await tree.look(b"target")).node) == b"data"
    assert await tree.names() == [b"dangling", b"dir", b"fifo", b"link", b"target"]


async def test_mode_of_a_new_file_does_not_bind_its_opener(tree: Tree) -> None:
    created = await tree.create(b"f", mode=0o000, cred=OWNER)
    await tree.storage.write(created.handle, 0, b"data")
    assert await tree.storage.read(created.handle, 0, 4) == b"data"
    await tree.storage.release(created.handle)


async def test_many_creators_of_one_name_get_one_file(tree: Tree) -> None:
    inos: list[int] = []
    refused = 0

    async def create(flags: int) -> None:
        nonlocal refused
        try:
            created = await tree.create(b"f", flags=flags)
        except ExistsError:
            refused += 1
        else:
            inos.append(created.node.ino)
            await tree.storage.release(created.handle)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(create, NEW if number % 2 else os.O_RDWR)
    assert len(set(inos)) == 1
    assert len(inos) + refused == 20
    assert refused >= 9


# open


async def test_open_needs_the_right_to_write_for_writing(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", mode=0o464, cred=OWNER)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDONLY | os.O_TRUNC):
        for cred in (OWNER, STRANGER):
            with fails(errno.EACCES):
                await tree.storage.open(node, flags, cred)
    assert await tree.data(node) == b"data"
    async with tree.opened(node, os.O_RDWR, MEMBER) as handle:
        await tree.storage.write(handle, 0, b"D")
    assert await tree.data(node) == b"Data"


async def test_open_for_reading_asks_nobody(tree: Tree) -> None:
    """The kernel has; and an executable file need not be readable."""
    node = await tree.file(b"f", b"data", mode=0o111, cred=OWNER)
    async with tree.opened(node, os.O_RDONLY, STRANGER) as handle:
        assert await tree.storage.read(handle, 0, 10) == b"data"


async def test_open_may_cut_off(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", cred=OWNER)
    async with tree.opened(node, os.O_WRONLY | os.O_TRUNC, OWNER):
        assert (await tree.storage.getattr(node)).size == 0


async def test_handle_for_one_way_does_not_go_the_other(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    async with tree.opened(node, os.O_RDONLY) as handle:
        with fails(errno.EBADF):
            await tree.storage.write(handle, 0, b"x")
    async with tree.opened(node, os.O_WRONLY) as handle:
        with fails(errno.EBADF):
            await tree.storage.read(handle, 0, 1)
    assert await tree.data(node) == b"data"


async def test_handles_are_independent(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    async with tree.opened(node, os.O_RDWR) as one:
        async with tree.opened(node, os.O_RDWR) as other:
            await tree.storage.write(one, 0, b"DATA")
            assert await tree.storage.read(other, 0, 4) == b"DATA"
        await tree.storage.write(one, 4, b"more")
        assert await tree.storage.read(one, 0, 8) == b"DATAmore"


async def test_reopened_handle_is_opened_as_the_first(tree: Tree) -> None:
    node = await tree.file(b"f", b"data", mode=0o600, cred=OWNER)
    other = await tree.file(b"g", b"other", mode=0o000)
    async with tree.opened(node, os.O_WRONLY | os.O_APPEND | os.O_TRUNC, OWNER) as handle:
        again = await tree.storage.reopen(handle, other)
        assert again.node.ino == other.ino
        await tree.storage.write(again, 0, b"!")
        with fails(errno.EBADF):
            await tree.storage.read(again, 0, 1)
        await tree.storage.release(again)
    assert await tree.data(other) == b"other!"


async def test_opened_elsewhere_sees_every_session(tree: Tree, peer: Storage) -> None:
    node = await tree.file(b"f", b"data")
    above = await tree.through(peer)
    theirs = await peer.resolve(above, b"f")
    async with tree.opened(node, os.O_RDWR) as handle:
        assert not await tree.storage.opened_elsewhere(handle)
        for flags in (os.O_RDONLY, os.O_RDWR):
            other = await peer.open(theirs.node, flags, GATEWAY)
            assert await tree.storage.opened_elsewhere(handle)
            await peer.release(other)
        assert await tree.storage.read(handle, 0, 4) == b"data"
    peer.forget(theirs.node)
    peer.forget(above)


# data


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 3 * MIB + 17])
async def test_data_comes_back(tree: Tree, size: int) -> None:
    data = os.urandom(size)
    node = await tree.file(b"f", data)
    assert (await tree.storage.getattr(node)).size == size
    assert await tree.data(node) == data


async def test_reads_end_at_the_end(tree: Tree) -> None:
    node = await tree.file(b"f", b"0123456789")
    async with tree.opened(node) as handle:
        read = tree.storage.read
        assert await read(handle, 0, 5) == b"01234"
        assert await read(handle, 5, 100) == b"56789"
        assert await read(handle, 9, 1) == b"9"
        assert await read(handle, 10, 10) == b""
        assert await read(handle, 5 * GIB, 10) == b""
        assert await read(handle, 3, 0) == b""


async def test_nothing_is_written_of_nothing(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    async with tree.opened(node, os.O_RDWR) as handle:
        assert await tree.storage.write(handle, 100, b"") == 0
    assert await tree.data(node) == b"data"


@pytest.mark.parametrize("off", [4 * GIB - 2, 4 * GIB, 5 * GIB + 1, 900 * GIB + 12345])
async def test_far_offsets(tree: Tree, off: int) -> None:
    node = await tree.file(b"f")
    async with tree.opened(node, os.O_RDWR) as handle:
        assert await tree.storage.write(handle, off, b"far away") == 8
        assert await tree.storage.read(handle, off - 2, 100) == b"\0\0far away"
        await tree.storage.fsync(handle)
    attr = await tree.storage.getattr(node)
    assert attr.size == off + 8
    async with tree.opened(node) as handle:
        assert await tree.storage.read(handle, off - 4, 8) == b"\0\0\0\0far "


async def test_holes_read_as_zeros(tree: Tree) -> None:
    node = await tree.file(b"f")
    async with tree.opened(node, os.O_RDWR) as handle:
        await tree.storage.write(handle, 0, b"begin")
        await tree.storage.write(handle, 10 * MIB, b"end")
        assert await tree.storage.read(handle, 0, 10) == b"begin\0\0\0\0\0"
        assert await tree.storage.read(handle, 5 * MIB, MIB) == bytes(MIB)
        whole = await tree.storage.read(handle, 0, 11 * MIB)
    assert whole == b"begin" + bytes(10 * MIB - 5) + b"end"


async def test_size_beyond_the_largest_file(tree: Tree) -> None:
    node = await tree.file(b"f", b"data")
    async with tree.opened(node, os.O_RDWR) as handle:
        with fails(errno.EFBIG, errno.EINVAL):
            await tree.storage.write(handle, (1 << 62), b"x")
    assert await tree.data(node) == b"data"


async def test_appending_goes_to_the_end_wherever_it_is(tree: Tree, peer: Storage) -> None:
    """The offset that comes with it is where the kernel believes the end to be."""
    node = await tree.file(b"f", b"0")
    above = await tree.through(peer)
    theirs = await peer.resolve(above, b"f")
    other = await peer.open(theirs.node, os.O_WRONLY | os.O_APPEND, GATEWAY)
    async with tree.opened(node, os.O_WRONLY | os.O_APPEND) as handle:
        for number in range(1, 8, 2):
            assert await tree.storage.write(handle, number, b"%d" % number) == 1
            assert await peer.write(other, 1, b"%d" % (number + 1)) == 1
    await peer.release(other)
    peer.forget(theirs.node)
    peer.forget(above)
    assert await tree.data(node) == b"012345678"


async def test_created_for_appending_appends(tree: Tree) -> None:
    await tree.file(b"f", b"data")
    created = await tree.create(b"f", flags=os.O_WRONLY | os.O_APPEND)
    await tree.storage.write(created.handle, 0, b"more")
    await tree.storage.release(created.handle)
    assert await tree.data(created.node) == b"datamore"


async def test_writes_from_many_tasks_land_where_they_should(tree: Tree) -> None:
    node = await tree.file(b"f")
    block = 10_000
    async with tree.opened(node, os.O_RDWR) as handle, trio.open_nursery() as nursery:
        for number in range(50):
            data = bytes([number]) * block
            nursery.start_soon(tree.storage.write, handle, number * block, data)
    assert await tree.data(node) == b"".join(bytes([number]) * block for number in range(50))


async def test_another_session_reads_what_was_synced(tree: Tree, peer: Storage) -> None:
    created = await tree.create(b"f")
    await tree.storage.write(created.handle, 0, b"data")
    await tree.storage.fsync(created.handle, datasync=True)
    await tree.storage.write(created.handle, 4, b"more")
    await tree.storage.fsync(created.handle)
    above = await tree.through(peer)
    theirs = await peer.resolve(above, b"f")
    handle = await peer.open(theirs.node, os.O_RDONLY, GATEWAY)
    assert await peer.read(handle, 0, 100) == b"datamore"
    await peer.release(handle)
    peer.forget(theirs.node)
    peer.forget(above)
    await tree.storage.release(created.handle)


async def test_flush_may_come_often(tree: Tree) -> None:
    created = await tree.create(b"f")
    for _ in range(3):
        await tree.storage.write(created.handle, 0, b"data")
        await tree.storage.flush(created.handle)
    assert await tree.storage.read(created.handle, 0, 10) == b"data"
    await tree.storage.release(created.handle)
