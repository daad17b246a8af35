"""exclusive and try_exclusive: one holder, among all sessions, until it lets go or dies."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
import trio

from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY
from tests.contract.conftest import Place
from tests.contract.mortal import holding
from tests.contract.tree import Tree

FREE_S = 30.0
"""The port's promise on when the lock of a dead holder comes free."""


async def test_excludes_within_a_session(tree: Tree) -> None:
    inside = 0
    entered = 0

    async def enter() -> None:
        nonlocal inside, entered
        async with tree.storage.exclusive(tree.top):
            assert inside == 0
            inside += 1
            await trio.sleep(0.002)
            inside -= 1
            entered += 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(enter)
    assert entered == 10


async def test_excludes_another_session(tree: Tree, peer: Storage) -> None:
    theirs = await tree.through(peer)
    async with tree.storage.exclusive(tree.top):
        assert await peer.try_exclusive(theirs) is None
        with trio.move_on_after(0.2) as waiting:
            async with peer.exclusive(theirs):
                raise AssertionError("two holders")
        assert waiting.cancelled_caught
    lock = await peer.try_exclusive(theirs)
    assert lock is not None
    async with lock:
        assert await tree.storage.try_exclusive(tree.top) is None
    peer.forget(theirs)


async def test_waiter_gets_it_next(tree: Tree, peer: Storage) -> None:
    theirs = await tree.through(peer)
    order: list[str] = []

    async def wait() -> None:
        async with peer.exclusive(theirs):
            order.append("peer")

    async with trio.open_nursery() as nursery, tree.storage.exclusive(tree.top):
        nursery.start_soon(wait)
        await trio.sleep(0.1)
        order.append("first")
    assert order == ["first", "peer"]
    peer.forget(theirs)


async def test_directories_have_locks_of_their_own(tree: Tree) -> None:
    one, other = await tree.dir(b"one"), await tree.dir(b"other")
    async with tree.storage.exclusive(one), tree.storage.exclusive(other):
        assert await tree.storage.try_exclusive(one) is None
        lock = await tree.storage.try_exclusive(tree.top)
        assert lock is not None
        async with lock:
            pass


async def test_let_go_on_an_error_and_on_cancellation(tree: Tree) -> None:
    with pytest.raises(ZeroDivisionError):
        async with tree.storage.exclusive(tree.top):
            raise ZeroDivisionError
    with trio.move_on_after(0.05):
        async with tree.storage.exclusive(tree.top):
            await trio.sleep_forever()
    lock = await tree.storage.try_exclusive(tree.top)
    assert lock is not None
    async with lock:
        pass


async def test_survives_a_rename_of_the_directory(tree: Tree) -> None:
    node = await tree.dir(b"d")
    async with tree.storage.exclusive(node):
        await tree.storage.rename(tree.top, b"d", tree.top, b"e", GATEWAY)
        found = await tree.look(b"e")
        assert await tree.storage.try_exclusive(found.node) is None


async def test_one_session_replaces_a_name_at_a_time(tree: Tree, peer: Storage) -> None:
    theirs = await tree.through(peer)
    entered: list[str] = []

    async def replace(storage: Storage, node: Node, name: bytes) -> None:
        async with storage.replacing(node, name):
            entered.append(storage.kind)

    async with tree.storage.replacing(tree.top, b"x"):
        with trio.move_on_after(0.3):
            await replace(peer, theirs, b"x")
        assert bool(entered) == (tree.storage.kind == "posix")  # one gateway: nothing to keep away
        with trio.fail_after(10):
            await replace(peer, theirs, b"y")
    with trio.fail_after(10):
        await replace(peer, theirs, b"x")
    peer.forget(theirs)


async def test_settling_a_directory_changes_nothing_in_it(tree: Tree) -> None:
    await tree.file(b"f", b"data")
    await tree.storage.settle(tree.top)
    assert await tree.names() == [b"f"]


@pytest.fixture
def holder(tree: Tree, place: Place) -> Iterator[subprocess.Popen[str]]:
    """Return a process that holds the lock of the top directory."""
    with holding("storage.exclusive(node)", tree, place) as process:
        yield process


async def test_comes_free_when_its_holder_dies(tree: Tree, holder: subprocess.Popen[str]) -> None:
    assert await tree.storage.try_exclusive(tree.top) is None
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with trio.fail_after(FREE_S):
        async with tree.storage.exclusive(tree.top):
            pass
