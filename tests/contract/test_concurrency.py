"""Any number of calls at once, on the same things."""

from __future__ import annotations

import os
import random

import trio

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.types import GATEWAY, AttrChange
from tests.contract.references import references_of
from tests.contract.tree import Tree, pages

CALLS = 200


async def test_many_lookups_of_one_name_count_each(tree: Tree) -> None:
    node = await tree.file(b"f")
    found = []

    async def look() -> None:
        found.append(await tree.storage.lookup(tree.top, b"f"))

    async with trio.open_nursery() as nursery:
        for _ in range(CALLS):
            nursery.start_soon(look)
    assert {one.node.ino for one in found} == {node.ino}
    for one in found:
        tree.storage.forget(one.node)
    assert references_of(tree.storage, node) == 1


async def test_lookup_and_forget_side_by_side(tree: Tree) -> None:
    """A node may be on its way out while the next lookup finds it."""
    await tree.file(b"f", b"data")
    tree.give_back()
    top = await tree.storage.lookup(tree.storage.root, tree.name.encode())
    tree.keep(top)
    tree.top = top.node

    async def look() -> None:
        for _ in range(20):
            found = await tree.storage.lookup(tree.top, b"f")
            assert (await tree.storage.getattr(found.node)).size == 4
            tree.storage.forget(found.node)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(look)
    node = await tree.look(b"f")
    assert references_of(tree.storage, node.node) == 1


async def test_one_of_many_makers_of_a_name_succeeds(tree: Tree) -> None:
    made, refused = 0, 0

    async def make(number: int) -> None:
        nonlocal made, refused
        try:
            if number % 2:
                tree.keep(await tree.storage.mkdir(tree.top, b"x", 0o755, GATEWAY))
            else:
                tree.keep(await tree.storage.symlink(tree.top, b"x", b"y", GATEWAY))
            made += 1
        except FSError:
            refused += 1

    async with trio.open_nursery() as nursery:
        for number in range(CALLS):
            nursery.start_soon(make, number)
    assert (made, refused) == (1, CALLS - 1)


async def test_random_calls_at_once_leave_a_tree_that_holds_together(tree: Tree) -> None:
    """Names come and go under each other's feet; only documented errors, and no lost inode."""
    dirs = [await tree.dir(b"d%d" % number) for number in range(3)]
    names = [b"n%d" % number for number in range(6)]

    async def act(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(12):
            above, below = choose.choice(dirs), choose.choice(dirs)
            name, other = choose.choice(names), choose.choice(names)
            try:
                match choose.randrange(7):
                    case 0:
                        created = await tree.storage.create(above, name, 0o644, os.O_RDWR, GATEWAY)
                        await tree.storage.write(created.handle, 0, b"data")
                        await tree.storage.release(created.handle)
                        tree.storage.forget(created.node)
                    case 1:
                        await tree.storage.rename(above, name, below, other, GATEWAY)
                    case 2:
                        await tree.storage.unlink(above, name, GATEWAY)
                    case 3:
                        found = await tree.storage.lookup(above, name)
                        try:
                            await tree.storage.link(found.node, below, other, GATEWAY)
                        finally:
                            tree.storage.forget(found.node)
                    case 4:
                        found = await tree.storage.mkdir(above, name, 0o755, GATEWAY)
                        tree.storage.forget(found.node)
                    case 5:
                        await tree.storage.rmdir(above, name, GATEWAY)
                    case _:
                        found = await tree.storage.lookup(above, name)
                        try:
                            await tree.storage.setattr(found.node, AttrChange(mode=0o700), GATEWAY)
                        finally:
                            tree.storage.forget(found.node)
            except FSError:
                pass

    async with trio.open_nursery() as nursery:
        for seed in range(20):
            nursery.start_soon(act, seed)
    for node in dirs:
        async with tree.listing(node) as handle:
            for one in await pages(tree.storage, handle, plus=True):
                assert one.found is not None
                assert one.found.attr.nlink >= 1
                assert one.found.attr.is_dir or one.found.attr.size in (0, 4)
                tree.storage.forget(one.found.node)


async def test_data_of_many_files_at_once(tree: Tree) -> None:
    async def check(number: int) -> None:
        data = bytes([number % 256]) * (1000 + number)
        node = await tree.file(b"%d" % number, data)
        assert await tree.data(node) == data
        await tree.storage.unlink(tree.top, b"%d" % number, GATEWAY)
        assert await tree.data(node) == data

    async with trio.open_nursery() as nursery:
        for number in range(CALLS):
            nursery.start_soon(check, number)
    assert await tree.names() == []
