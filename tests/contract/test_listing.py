"""opendir and readdir: every entry once, in pages that can be resumed, while others change it."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio

from cephfs_ext.core.ports import Found, Listed, Node, Storage
from cephfs_ext.core.types import GATEWAY
from tests.contract.test_lookup import KINDS, make
from tests.contract.tree import Tree, fails, names_of, pages

MANY = 700
"""More than one page of the storages below has."""


async def fill(tree: Tree, count: int, *, at: Node | None = None) -> set[bytes]:
    """Make many entries; return their names."""
    names = [b"%04d-%s" % (number, b"n" * (number % 200)) for number in range(count)]

    async def make(name: bytes) -> None:
        found = await tree.storage.mknod(at or tree.top, name, stat.S_IFREG | 0o644, 0, GATEWAY)
        tree.storage.forget(found.node)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(make, name)
    return set(names)


def forget(storage: Storage, listed: list[Listed]) -> None:
    """Give the references of a listing back."""
    for one in listed:
        assert one.found is not None
        storage.forget(one.found.node)


async def test_empty_directory(tree: Tree) -> None:
    async with tree.listing(tree.top) as handle:
        for plus in (False, True):
            assert list(await tree.storage.readdir(handle, 0, limit=10, plus=plus)) == []


async def test_entries_have_number_kind_and_position(tree: Tree) -> None:
    made = {b"%o" % kind: await make(tree, kind, b"%o" % kind) for kind in KINDS}
    listed = await tree.list()
    assert set(names_of(listed)) == set(made)
    for one in listed:
        assert one.entry.ino == made[one.entry.name].ino
        assert one.entry.kind in (0, int(one.entry.name, 8))
        assert one.entry.cookie != 0
        assert one.found is None


async def test_neither_dot_nor_dotdot(tree: Tree) -> None:
    await tree.dir(b"...")
    await tree.file(b".hidden")
    assert await tree.names() == [b"...", b".hidden"]
    async with tree.listing(tree.top) as handle:
        listed = await pages(tree.storage, handle, plus=True)
        assert sorted(names_of(listed)) == [b"...", b".hidden"]
        forget(tree.storage, listed)


async def test_plus_has_what_a_lookup_has(tree: Tree) -> None:
    for kind in KINDS:
        await make(tree, kind, b"%o" % kind)
    async with tree.listing(tree.top) as handle:
        listed = await pages(tree.storage, handle, plus=True)
    assert len(listed) == len(KINDS)
    for one in listed:
        assert one.found is not None
        looked = await tree.look(one.entry.name)
        assert one.found.attr == looked.attr
        assert one.found.node.ino == one.entry.ino == looked.node.ino
        assert (await tree.storage.getattr(one.found.node)).ino == looked.node.ino
    forget(tree.storage, listed)


@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
@pytest.mark.parametrize("limit", [1, 7, 512, 100_000])
async def test_every_entry_comes_once(tree: Tree, limit: int, plus: bool) -> None:
    names = await fill(tree, MANY if limit > 1 else 50)
    async with tree.listing(tree.top) as handle:
        listed = await pages(tree.storage, handle, limit=limit, plus=plus)
    assert len(listed) == len(names)
    assert set(names_of(listed)) == names
    assert len({one.entry.cookie for one in listed}) == len(names)
    if plus:
        forget(tree.storage, listed)


@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
async def test_a_listing_goes_on_behind_any_cookie(tree: Tree, plus: bool) -> None:
    names = await fill(tree, 120)
    async with tree.listing(tree.top) as handle:
        whole = await pages(tree.storage, handle, limit=50)
        for place in (0, 1, 49, 50, 51, 118, 119):
            rest = await pages(
                tree.storage, handle, cookie=whole[place].entry.cookie, limit=33, plus=plus
            )
            assert names_of(rest) == names_of(whole)[place + 1 :]
            if plus:
                forget(tree.storage, rest)
        assert set(names_of(await pages(tree.storage, handle))) == names


async def test_a_cookie_is_good_in_another_handle(tree: Tree) -> None:
    await fill(tree, 100)
    whole = await tree.list()
    async with tree.listing(tree.top) as handle:
        rest = await pages(tree.storage, handle, cookie=whole[60].entry.cookie)
    assert names_of(rest) == names_of(whole)[61:]


async def test_the_end_stays_the_end(tree: Tree) -> None:
    await fill(tree, 3)
    async with tree.listing(tree.top) as handle:
        listed = await pages(tree.storage, handle)
        for _ in range(2):
            assert not await tree.storage.readdir(handle, listed[-1].entry.cookie, limit=10)


async def test_from_the_start_again_sees_what_is_new(tree: Tree) -> None:
    await tree.file(b"old")
    async with tree.listing(tree.top) as handle:
        assert names_of(await pages(tree.storage, handle)) == [b"old"]
        await tree.file(b"new")
        assert sorted(names_of(await pages(tree.storage, handle))) == [b"new", b"old"]
        await tree.storage.unlink(tree.top, b"old", GATEWAY)
        assert names_of(await pages(tree.storage, handle)) == [b"new"]


@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
async def test_what_stays_is_listed_once_while_the_rest_comes_and_goes(
    tree: Tree, plus: bool
) -> None:
    names = sorted(await fill(tree, MANY))
    goes, stays = set(names[::2]), set(names[1::2])
    seen: list[Listed] = []
    async with tree.listing(tree.top) as handle:
        cookie = 0
        while page := await tree.storage.readdir(handle, cookie, limit=40, plus=plus):
            seen += page
            cookie = page[-1].entry.cookie
            for name in [goes.pop() for _ in range(min(30, len(goes)))]:
                await tree.storage.unlink(tree.top, name, GATEWAY)
            await tree.file(b"new-%d" % len(seen))
    found = [name for name in names_of(seen) if name in stays]
    assert len(found) == len(set(found))
    assert set(found) == stays
    for one in seen:
        if one.found is not None:
            tree.storage.forget(one.found.node)


async def test_removing_what_each_page_shows_empties_a_directory(tree: Tree) -> None:
    """As `rm -r` does, and the walk of asyncdelete: cookies of entries that are gone."""
    await fill(tree, MANY)
    async with tree.listing(tree.top) as handle:
        cookie = 0
        while page := await tree.storage.readdir(handle, cookie, limit=64):
            for one in page:
                await tree.storage.unlink(tree.top, one.entry.name, GATEWAY)
            cookie = page[-1].entry.cookie
    assert await tree.names() == []


async def test_an_entry_that_vanishes_has_no_node(tree: Tree) -> None:
    await fill(tree, 300)
    async with tree.listing(tree.top) as handle, trio.open_nursery() as nursery:

        async def remove() -> None:
            for number in range(300):
                name = b"%04d-%s" % (number, b"n" * (number % 200))
                await tree.storage.unlink(tree.top, name, GATEWAY)

        nursery.start_soon(remove)
        for _ in range(5):
            for one in await pages(tree.storage, handle, limit=20, plus=True):
                if one.found is not None:
                    assert one.found.node.ino == one.found.attr.ino
                    tree.storage.forget(one.found.node)


async def test_two_tasks_read_one_handle(tree: Tree) -> None:
    names = await fill(tree, 300)
    results: list[set[bytes]] = []
    async with tree.listing(tree.top) as handle, trio.open_nursery() as nursery:

        async def read(limit: int) -> None:
            results.append(set(names_of(await pages(tree.storage, handle, limit=limit))))

        for limit in (3, 5, 70, 1000):
            nursery.start_soon(read, limit)
    assert results == [names] * 4


async def test_several_handles_of_one_directory(tree: Tree) -> None:
    names = await fill(tree, 100)
    async with tree.listing(tree.top) as one, tree.listing(tree.top) as other:
        first = await tree.storage.readdir(one, 0, limit=30)
        assert set(names_of(await pages(tree.storage, other, limit=9))) == names
        rest = await pages(tree.storage, one, cookie=first[-1].entry.cookie)
    assert set(names_of(first)) | set(names_of(rest)) == names
    assert len(first) + len(rest) == len(names)


async def test_only_directories_are_listed(tree: Tree) -> None:
    with fails(errno.ENOTDIR):
        await tree.storage.opendir(await tree.file(b"f"))


async def test_gateway_lists_what_nobody_may(tree: Tree) -> None:
    """The kernel has checked: it knows the user."""
    node = await tree.dir(b"d", mode=0o000)
    await tree.file(b"f", at=node)
    assert await tree.names(node) == [b"f"]


async def test_names_are_durable_on_demand(tree: Tree) -> None:
    await tree.file(b"f")
    async with tree.listing(tree.top) as handle:
        await tree.storage.fsyncdir(handle)
        assert names_of(await pages(tree.storage, handle)) == [b"f"]


async def test_listing_of_a_removed_directory_ends(tree: Tree) -> None:
    node = await tree.dir(b"d")
    async with tree.listing(node) as handle:
        await tree.storage.rmdir(tree.top, b"d", GATEWAY)
        for plus in (False, True):
            assert not await tree.storage.readdir(handle, 0, limit=10, plus=plus)
        await tree.storage.fsyncdir(handle)


async def test_a_directory_renamed_while_it_is_listed(tree: Tree) -> None:
    node = await tree.dir(b"d")
    names = await fill(tree, 100, at=node)
    async with tree.listing(node) as handle:
        first = await tree.storage.readdir(handle, 0, limit=40)
        await tree.storage.rename(tree.top, b"d", tree.top, b"e", GATEWAY)
        rest = await pages(tree.storage, handle, cookie=first[-1].entry.cookie, plus=True)
    assert set(names_of(first)) | set(names_of(rest)) == names
    forget(tree.storage, rest)


async def test_nodes_of_a_listing_are_good_for_everything(tree: Tree) -> None:
    await tree.file(b"f", b"data")
    below = await tree.dir(b"d")
    await tree.file(b"g", at=below)
    async with tree.listing(tree.top) as handle:
        listed = await pages(tree.storage, handle, plus=True)
    found: dict[bytes, Found] = {one.entry.name: one.found for one in listed if one.found}
    assert await tree.data(found[b"f"].node) == b"data"
    assert await tree.names(found[b"d"].node) == [b"g"]
    async with tree.opened(found[b"f"].node, os.O_WRONLY) as opened:
        await tree.storage.write(opened, 0, b"D")
    forget(tree.storage, listed)
