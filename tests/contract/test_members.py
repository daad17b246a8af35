"""member, members and try_succeed: who lives is left alone, who has died has one successor."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
import trio

from cephfs_ext.core.ports import Node, Storage
from tests.contract.conftest import Place
from tests.contract.mortal import holding, session_of
from tests.contract.tree import Tree

_LEASE_S = 5
"""Longer than a loaded machine lets a process wait."""
_WAIT_S = 30.0


async def test_lists_who_lives_and_nobody_who_has_left(tree: Tree, peer: Storage) -> None:
    theirs = await tree.through(peer)
    assert list(await peer.members(theirs)) == []
    async with (
        tree.storage.member(tree.top, "one", b"about one", lease_s=_LEASE_S),
        peer.member(theirs, "other", b"about other", lease_s=_LEASE_S),
    ):
        for storage, node in ((tree.storage, tree.top), (peer, theirs)):
            assert sorted(await storage.members(node)) == ["one", "other"]
    assert list(await peer.members(theirs)) == []
    peer.forget(theirs)


async def test_directories_have_members_of_their_own(tree: Tree) -> None:
    one, other = await tree.dir(b"one"), await tree.dir(b"other")
    async with tree.storage.member(one, "name", b"x", lease_s=_LEASE_S):
        assert list(await tree.storage.members(other)) == []
        assert await tree.storage.try_succeed(other, "name") is None


async def test_nobody_succeeds_who_lives_or_never_was(tree: Tree, peer: Storage) -> None:
    theirs = await tree.through(peer)
    async with tree.storage.member(tree.top, "one", b"about", lease_s=_LEASE_S):
        assert await peer.try_succeed(theirs, "one") is None
        await trio.sleep(_LEASE_S + 1)
        assert await peer.try_succeed(theirs, "one") is None
    assert await peer.try_succeed(theirs, "one") is None
    assert list(await peer.members(theirs)) == []
    peer.forget(theirs)


async def test_leaves_on_an_error_and_on_cancellation(tree: Tree) -> None:
    with pytest.raises(ZeroDivisionError):
        async with tree.storage.member(tree.top, "one", b"about", lease_s=_LEASE_S):
            raise ZeroDivisionError
    with trio.CancelScope() as scope:
        async with tree.storage.member(tree.top, "one", b"about", lease_s=_LEASE_S):
            scope.cancel()
            await trio.sleep_forever()
    assert list(await tree.storage.members(tree.top)) == []


async def test_comes_again_under_the_same_name(tree: Tree) -> None:
    for about in (b"first, and longer", b"second"):
        async with tree.storage.member(tree.top, "one", about, lease_s=_LEASE_S):
            assert list(await tree.storage.members(tree.top)) == ["one"]


@pytest.fixture
def mortal(tree: Tree, place: Place) -> Iterator[subprocess.Popen[str]]:
    """Return a process that is a member."""
    held = 'storage.member(node, "mortal", uuid.encode(), lease_s=2)'
    with holding(held, tree, place) as process:
        yield process


async def _about_of_dead(storage: Storage, node: Node) -> bytes:
    """Succeed the dead member, as soon as that can be done."""
    with trio.fail_after(_WAIT_S):
        while (succession := await storage.try_succeed(node, "mortal")) is None:  # noqa: ASYNC110
            await trio.sleep(0.05)
    async with succession as about:
        assert await storage.try_succeed(node, "mortal") is None
        assert "mortal" in await storage.members(node)
    return about


async def test_dead_member_is_succeeded_once(tree: Tree, mortal: subprocess.Popen[str]) -> None:
    storage = tree.storage
    assert list(await storage.members(tree.top)) == ["mortal"]
    os.kill(mortal.pid, signal.SIGKILL)
    mortal.wait()
    assert await _about_of_dead(storage, tree.top) == session_of(tree).encode()
    assert list(await storage.members(tree.top)) == []
    assert await storage.try_succeed(tree.top, "mortal") is None


async def test_successor_that_fails_leaves_it_to_others(
    tree: Tree, mortal: subprocess.Popen[str]
) -> None:
    os.kill(mortal.pid, signal.SIGKILL)
    mortal.wait()
    with trio.fail_after(_WAIT_S):
        while (first := await tree.storage.try_succeed(tree.top, "mortal")) is None:  # noqa: ASYNC110
            await trio.sleep(0.05)
    with pytest.raises(ZeroDivisionError):
        async with first:
            raise ZeroDivisionError
    assert list(await tree.storage.members(tree.top)) == ["mortal"]
    assert await _about_of_dead(tree.storage, tree.top)


async def test_comes_again_once_its_successor_is_through(
    tree: Tree, mortal: subprocess.Popen[str]
) -> None:
    os.kill(mortal.pid, signal.SIGKILL)
    mortal.wait()
    await _about_of_dead(tree.storage, tree.top)
    with trio.fail_after(_WAIT_S):
        async with tree.storage.member(tree.top, "mortal", b"again", lease_s=_LEASE_S):
            assert list(await tree.storage.members(tree.top)) == ["mortal"]


async def test_ending_sessions_that_are_gone_is_no_error(tree: Tree) -> None:
    with trio.fail_after(_WAIT_S):
        await tree.storage.end_sessions([f"never-was-{number}" for number in range(6)])
