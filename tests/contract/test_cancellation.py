"""A call that has begun is not cancelled: what it made is not lost, and nothing stays open."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from cephfs_ext.core.ports import Storage
from cephfs_ext.core.types import GATEWAY
from tests.contract.brake import Brake
from tests.contract.tree import Tree

NEW = os.O_RDWR | os.O_EXCL


async def cancelled_within(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], Awaitable[object]]
) -> object:
    """Cancel a call once it has begun; return its result."""
    results: list[object] = []
    with monkeypatch.context() as patch:
        brake = Brake(patch)
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def carry_out() -> None:
                with scope:
                    results.append(await call())

            nursery.start_soon(carry_out)
            await brake.wait_inside()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert not results
            brake.let_go()
    assert len(results) == 1, "the result of a call was lost"
    return results[0]


Make = Callable[[Tree], Awaitable[object]]
MAKING: dict[str, Make] = {
    "lookup": lambda tree: tree.storage.lookup(tree.top, b"f"),
    "resolve": lambda tree: tree.storage.resolve(tree.top, b"f"),
    "mkdir": lambda tree: tree.storage.mkdir(tree.top, b"new", 0o755, GATEWAY),
    "mknod": lambda tree: tree.storage.mknod(tree.top, b"new", stat.S_IFREG, 0, GATEWAY),
    "symlink": lambda tree: tree.storage.symlink(tree.top, b"new", b"x", GATEWAY),
    "create": lambda tree: tree.storage.create(tree.top, b"new", 0o644, NEW, GATEWAY),
    "find": lambda tree: tree.storage.find(tree.top.ino, tree.storage.token(tree.top)),
}


@pytest.mark.parametrize("make", MAKING.values(), ids=MAKING.keys())
async def test_what_was_made_is_returned(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    await tree.file(b"f")
    result = await cancelled_within(monkeypatch, lambda: make(tree))
    node, attr = result[0], result[1]  # type: ignore[index]
    assert (await tree.storage.getattr(node)).ino == attr.ino
    if hasattr(result, "handle"):
        await tree.storage.release(result.handle)
    tree.storage.forget(node)


async def test_a_link_that_was_made_is_reported(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await tree.file(b"f")
    attr = await cancelled_within(
        monkeypatch, lambda: tree.storage.link(node, tree.top, b"g", GATEWAY)
    )
    assert attr == await tree.storage.getattr(node)


async def test_an_opened_file_is_returned(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await tree.file(b"f", b"data")
    handle = await cancelled_within(
        monkeypatch, lambda: tree.storage.open(node, os.O_RDONLY, GATEWAY)
    )
    assert await tree.storage.read(handle, 0, 10) == b"data"  # type: ignore[arg-type]
    await tree.storage.release(handle)  # type: ignore[arg-type]


async def test_a_page_that_was_read_is_returned(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tree.file(b"f")
    async with tree.listing(tree.top) as handle:
        page = await cancelled_within(
            monkeypatch, lambda: tree.storage.readdir(handle, 0, limit=10, plus=True)
        )
        (one,) = page  # type: ignore[misc]
        tree.storage.forget(one.found.node)


async def test_a_write_is_carried_out(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await tree.file(b"f")
    async with tree.opened(node, os.O_RDWR) as handle:
        written = await cancelled_within(
            monkeypatch, lambda: tree.storage.write(handle, 0, b"data")
        )
        assert written == 4
    assert await tree.data(node) == b"data"


async def test_releasing_can_not_be_cancelled(tree: Tree) -> None:
    """What is left open by a cancelled task stays open for good."""
    created = await tree.create(b"f")
    listing = await tree.storage.opendir(tree.top)
    with trio.CancelScope() as scope:
        scope.cancel()
        await tree.storage.release(created.handle)
    with trio.CancelScope() as scope:
        scope.cancel()
        await tree.storage.releasedir(listing)


async def test_a_call_that_has_not_begun_changes_nothing(tree: Tree) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await tree.storage.mkdir(tree.top, b"new", 0o755, GATEWAY)
    assert scope.cancelled_caught
    assert await tree.names() == []


async def test_cancelling_many_calls_leaves_nothing_open(tree: Tree) -> None:
    """The fixture counts nodes and descriptors."""
    node = await tree.file(b"f", b"data")

    async def work(number: int) -> None:
        found = await tree.storage.lookup(tree.top, b"f")
        tree.storage.forget(found.node)
        handle = await tree.storage.open(node, os.O_RDONLY, GATEWAY)
        try:
            await tree.storage.read(handle, 0, 4)
        finally:
            await tree.storage.release(handle)
        created = await tree.storage.create(tree.top, b"%d" % number, 0o644, NEW, GATEWAY)
        try:
            await tree.storage.write(created.handle, 0, b"x")
        finally:
            await tree.storage.release(created.handle)
            tree.storage.forget(created.node)

    for milliseconds in range(1, 12):
        with trio.move_on_after(milliseconds / 1000):
            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(work, milliseconds * 100 + number)


@pytest.mark.parametrize("name", ["getattr", "statfs"])
async def test_every_call_has_a_checkpoint(storage: Storage, name: str) -> None:
    call = getattr(storage, name)
    with trio.testing.assert_checkpoints():
        await call(storage.root)
