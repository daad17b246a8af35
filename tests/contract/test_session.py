"""A session as a whole: what it says of itself, where things lie, and how it ends."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY, Rank
from cephfs_ext.storage import ceph_ranks
from tests.contract.brake import Brake
from tests.contract.conftest import Place
from tests.contract.tree import Tree, fails


async def test_describes_itself(storage: Storage) -> None:
    described = storage.describe()
    assert described["kind"] == storage.kind
    assert described["rename_noreplace"] == storage.rename_noreplace
    for key, value in described.items():
        assert isinstance(key, str)
        assert isinstance(value, str | int | bool)


async def test_ranks(tree: Tree) -> None:
    ranks = tree.storage.ranks
    assert ranks == (1 if tree.storage.kind == "posix" else 2)
    for path in (b"", b"no/such/directory", tree.name.encode()):
        assert 0 <= await tree.storage.rank_of(path) < ranks


async def test_pinned_directory_goes_to_its_rank(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceph_ranks, "_FRESH_S", 0.5)
    node = await tree.dir(b"d")
    await tree.file(b"f", at=node)
    last = Rank(tree.storage.ranks - 1)
    await tree.storage.pin(node, last)
    path = tree.name.encode() + b"/d"
    with trio.fail_after(60):
        while await tree.storage.rank_of(path) != last:  # noqa: ASYNC110
            await trio.sleep(0.2)
    assert await tree.names(node) == [b"f"]
    await tree.storage.pin(node, Rank(0))


async def test_directory_is_no_domain_of_its_own(tree: Tree) -> None:
    assert not await tree.storage.is_domain_root(await tree.dir(b"d"))


@asynccontextmanager
async def fresh_session(place: Place) -> AsyncIterator[tuple[Storage, Node]]:
    """Open a session and make a directory; the body ends the session."""
    storage = await place.connect()
    found = await storage.mkdir(storage.root, uuid.uuid4().hex.encode(), 0o755, GATEWAY)
    yield storage, found.node


async def test_closing_writes_what_is_buffered(tree: Tree, place: Place) -> None:
    ended = await place.connect()
    top = await tree.through(ended)
    created = await ended.create(top, b"f", 0o644, os.O_RDWR, GATEWAY)
    data = os.urandom(300_000)
    await ended.write(created.handle, 0, data)
    if ended.kind == "posix":
        await ended.release(created.handle)  # a descriptor is the caller's to close
    await ended.close()
    assert await tree.data((await tree.look(b"f")).node) == data


async def test_closing_lets_calls_under_way_end(tree: Tree, place: Place) -> None:
    """And none goes on with a descriptor or memory that is somebody else's by then."""
    ended = await place.connect()
    top = await tree.through(ended)
    outcomes: list[bytes | None] = []

    async def make(number: int) -> None:
        name = b"%d" % number
        try:
            await ended.mkdir(top, name, 0o755, GATEWAY)
            outcomes.append(name)
        except FSError:
            outcomes.append(None)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(make, number)
        await trio.sleep(0.005)
        await ended.close()
    assert len(outcomes) == 100
    made = sorted(name for name in outcomes if name is not None)
    assert made == await tree.names()


async def test_closing_waits_for_the_call_that_is_under_way(
    tree: Tree, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = await place.connect()
    top = await tree.through(ended)
    order: list[str] = []

    async def make() -> None:
        await ended.mkdir(top, b"d", 0o755, GATEWAY)
        order.append("made")

    async def close() -> None:
        await ended.close()
        order.append("closed")

    with monkeypatch.context() as patch:
        brake = Brake(patch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make)
            await brake.wait_inside()
            nursery.start_soon(close)
            await trio.sleep(0.1)
            assert order == []
            with fails(errno.ESHUTDOWN):
                await ended.getattr(top)
            brake.let_go()
    assert order == ["made", "closed"]
    assert await tree.names() == [b"d"]


async def test_nothing_gets_in_once_it_is_closed(place: Place) -> None:
    async with fresh_session(place) as (ended, node):
        await ended.close()
    for call in (
        lambda: ended.getattr(node),
        lambda: ended.lookup(node, b"x"),
        lambda: ended.mkdir(node, b"x", 0o755, GATEWAY),
        lambda: ended.opendir(node),
    ):
        with pytest.raises(FSError):
            await call()
    ended.forget(node)


async def test_closing_can_not_be_cancelled(tree: Tree, place: Place) -> None:
    ended = await place.connect()
    top = await tree.through(ended)
    created = await ended.create(top, b"f", 0o644, os.O_RDWR, GATEWAY)
    await ended.write(created.handle, 0, b"data")
    await ended.release(created.handle)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ended.close()
    assert await tree.data((await tree.look(b"f")).node) == b"data"
