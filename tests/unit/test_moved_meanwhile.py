"""What moves within the trash while somebody looks for it is found: [trash-19].

The move is made right before each call in turn that the look makes to its storage.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.ports import Node
from cephfs_ext.core.types import Ino
from tests.property.gateways import (
    OPERATOR,
    WHO,
    Parts,
    PosixGround,
    delete,
    delete_tree,
    make_dirs,
    make_files,
    make_link,
    parts,
    victim,
)
from tests.property.scenarios import newest
from trashbin import layout
from trashbin.domain import Domain
from trashbin.hours import Viewer
from trashbin.picture import Pictures, Place
from trashbin.progress import Progress
from trashbin.service import Conflict

_CALLS = ("lookup", "resolve", "readlink", "opendir", "readdir", "find", "rename", "link", "unlink")

Move = Callable[[], Awaitable[object]]
Prepare = Callable[[Parts], Awaitable[Move]]
Look = Callable[[Parts, str], Awaitable[None]]


class _Meanwhile:
    """Makes a move right before the n-th call to a storage, and counts them all.

    But for those under the lock of an inode: who moves would wait for it.
    """

    def __init__(self, gateway: Parts, domain: Domain, move: Move, nth: int) -> None:
        self.calls = 0
        self._storage: Any = gateway.storage
        self._move, self._nth = move, nth
        self._guards = {domain.service(name).ino for name in layout.SERVICE_DIRS}
        self._is_moving, self._locks = False, 0

    def __enter__(self) -> _Meanwhile:
        for name in _CALLS:
            setattr(self._storage, name, self._instead_of(getattr(self._storage, name)))
        self._exclusive, self._storage.exclusive = self._storage.exclusive, self._locking
        return self

    def __exit__(self, *_: object) -> None:
        for name in _CALLS:
            delattr(self._storage, name)
        del self._storage.exclusive

    @contextlib.asynccontextmanager
    async def _locking(self, node: Node) -> AsyncIterator[None]:
        async with self._exclusive(node):
            self._locks += node.ino in self._guards
            try:
                yield
            finally:
                self._locks -= node.ino in self._guards

    def _instead_of(self, original: Callable[..., Awaitable[Any]]) -> Any:
        async def acted(*args: Any, **kwargs: Any) -> Any:
            is_counted = not self._is_moving and not self._locks
            self.calls += is_counted
            if is_counted and self.calls == self._nth:
                self._is_moving = True
                await self._move()
                self._is_moving, self._nth = False, 0
            return await original(*args, **kwargs)

        return acted


def at_each_call(base: Path, prepare: Prepare, look: Look) -> None:
    """Look for what is called `kept`, with the move before each call in turn."""

    async def main() -> None:
        for nth in itertools.count(1):
            async with parts(PosixGround(base), "000a") as gateway:
                move = await prepare(gateway)
                await gateway.journal.drain()
                top = (await newest(gateway, b"kept")).tree.top
                domain = await gateway.domain()
                with _Meanwhile(gateway, domain, move, nth) as meanwhile:
                    try:
                        await look(gateway, top.entry.id)
                    except (NotFoundError, AssertionError) as exc:
                        raise AssertionError(f"moved before call {nth}") from exc
            if meanwhile.calls < nth:
                return

    trio.run(main)


# what moves


async def promised_file(gateway: Parts) -> Move:
    """Delete a name of a file; the last other one is about to take the place of its tombstone."""
    purge = await _purged_link(gateway, b"kept")
    await delete(gateway, b"kept")
    return purge


async def _purged_link(gateway: Parts, link: bytes) -> Move:
    await make_dirs(gateway.storage, b"d")
    await make_files(gateway.storage, b"d/a")
    await make_link(gateway.storage, b"d/a", link)
    async with victim(gateway.storage, b"d") as d:
        await gateway.put.tree(await gateway.domain(), d.at, d.found, WHO)
    d_too = await newest(gateway, b"d")
    return lambda: gateway.service.purge(OPERATOR, [d_too])


async def promised_in_tree(gateway: Parts) -> Move:
    """The same of a name in a tree that was deleted bottom up."""
    await make_dirs(gateway.storage, b"kept")
    purge = await _purged_link(gateway, b"kept/b")
    await delete_tree(gateway, b"kept")
    return purge


async def held_file(gateway: Parts) -> Move:
    """Delete a file that somebody is about to hold."""
    await make_files(gateway.storage, b"kept")
    await delete(gateway, b"kept")
    listed = await newest(gateway, b"kept")
    await gateway.service.hold(OPERATOR, listed, "")
    await gateway.service.release(await newest(gateway, b"kept"))
    return lambda: gateway.service.hold(OPERATOR, listed, "")


async def released_file(gateway: Parts) -> Move:
    """Hold a deleted file that somebody is about to release."""
    await make_files(gateway.storage, b"kept")
    await delete(gateway, b"kept")
    await gateway.service.hold(OPERATOR, await newest(gateway, b"kept"), "")
    listed = await newest(gateway, b"kept")
    return lambda: gateway.service.release(listed)


MOVES = [promised_file, held_file, released_file]


# how it is looked for


async def by_id(gateway: Parts, entry_id: str) -> None:
    await gateway.service.find(OPERATOR, entry_id)


async def by_path(gateway: Parts, entry_id: str) -> None:
    assert await gateway.service.at_path(OPERATOR, b"kept")


async def restored_out_of_view(gateway: Parts, entry_id: str) -> None:
    root = gateway.storage.root
    token = gateway.storage.token(root)
    await gateway.service.restore_as(OPERATOR, entry_id, root.ino, token, b"back")


async def restored_by_path(gateway: Parts, entry_id: str) -> None:
    asked = [("", listed) for listed in await gateway.service.at_path(OPERATOR, b"kept")]
    assert asked, "not found"
    (answer,) = await gateway.service.restore(
        OPERATOR, asked, to=None, on_conflict=Conflict.FAIL, dry_run=False, progress=Progress()
    )
    assert answer.outcome.value == "restored", answer


async def seen_in_view(gateway: Parts, entry_id: str) -> None:
    pictures = Pictures(gateway.domains, gateway.domains, gateway.journal, gateway.meter)
    viewer, place = Viewer(WHO.cred.uid, everything=True), Place(b"", Ino(0))
    (hour,) = await pictures.hours(b"", place, viewer)
    seen = await pictures.names(hour, b"", place, viewer, None, _nothing)
    assert [name for name in seen if name.startswith(b"kept")] == [b"kept"], seen


async def _nothing(name: bytes) -> bool:
    return False


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("look", [by_id, by_path, restored_out_of_view, seen_in_view])
def test_it_is_found(tmp_path: Path, move: Prepare, look: Look) -> None:
    """[trash-19]."""
    at_each_call(tmp_path, move, look)


@pytest.mark.parametrize("look", [restored_out_of_view, restored_by_path])
def test_tree_comes_back_with_it(tmp_path: Path, look: Look) -> None:
    """[trash-19]: what was in a directory moves while that is restored."""
    at_each_call(tmp_path, promised_in_tree, look)
