"""Renames whose source another client has just removed: libcephfs may forget to end them."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import subprocess
import sys
import threading
from typing import Any

import pytest
import trio

from c_ext._libcephfs import ffi, lib
from cephfs_ext.core.errors import ExchangedError, FSError, NotFoundError
from cephfs_ext.core.ports import Move, Node
from cephfs_ext.core.types import GATEWAY, Ino
from cephfs_ext.storage import ceph, ceph_stuck
from cephfs_ext.storage.ceph import CephStorage
from tests.ceph.sessions import sessions
from tests.cluster.ceph import CephCluster

SOON_S = 10.0
NEW = b"new"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free what is stuck at once."""
    monkeypatch.setattr(ceph_stuck, "_PATIENCE_S", 1.0)


async def _remove_elsewhere(storage: CephStorage, other: CephStorage) -> None:
    """Have another client remove `old`, which `storage` knows."""
    found = await storage.mknod(storage.root, b"old", 0o100644, 0, GATEWAY)
    storage.forget(found.node)
    found = await other.lookup(other.root, b"old")
    other.forget(found.node)
    await other.unlink(other.root, b"old", GATEWAY)
    assert await _look_soon(storage, storage.root, b"old") is None


async def _look_soon(storage: CephStorage, parent: Node, name: bytes) -> Node | None:
    with trio.fail_after(SOON_S):
        try:
            return (await storage.lookup(parent, name)).node
        except NotFoundError:
            return None


def test_a_rename_of_what_is_gone_leaves_no_name_stuck(cluster: CephCluster) -> None:
    async def run() -> None:
        async with sessions(cluster, 2) as (storage, other):
            await _remove_elsewhere(storage, other)
            with pytest.raises(NotFoundError):
                await storage.rename(storage.root, b"old", storage.root, NEW, GATEWAY)
            assert await _look_soon(storage, storage.root, NEW) is None

    trio.run(run)


async def _rename(storage: CephStorage, parent: Node, new_parent: Node, ino: Ino) -> bool:
    return await storage.rename(parent, b"old", new_parent, NEW, GATEWAY, moved=ino)


async def _move_many(storage: CephStorage, parent: Node, new_parent: Node, ino: Ino) -> bool:
    """Do the same with others before and after it."""
    for name in (b"first", b"last"):
        storage.forget((await storage.mknod(parent, name, 0o100644, 0, GATEWAY)).node)
    moves = []
    for name, new_name in ((b"first", b"first-new"), (b"old", NEW), (b"last", b"last-new")):
        found = await storage.lookup(parent, name) if name != b"old" else None
        moves.append(Move(name, new_name, ino if found is None else found.node.ino))
        if found is not None:
            storage.forget(found.node)
    first, old, last = await storage.move_many(parent, new_parent, moves)
    assert first is last is True
    if isinstance(old, FSError):
        raise old
    return old


WAYS = pytest.mark.parametrize("rename", [_rename, _move_many])


@WAYS
def test_a_rename_tells_that_another_client_was_faster(cluster: CephCluster, rename: Any) -> None:
    """What it has moved is what that client has just put there."""

    async def race(storage: CephStorage, other: CephStorage) -> bool:
        theirs = await other.mknod(other.root, b"theirs", 0o100644, 0, GATEWAY)
        mine = await storage.mknod(storage.root, b"old", 0o100644, 0, GATEWAY)
        moved = None
        async with trio.open_nursery() as nursery:
            names = (other.root, b"theirs", other.root, b"old", GATEWAY)
            nursery.start_soon(other.rename, *names)
            with contextlib.suppress(ExchangedError):
                moved = await rename(storage, storage.root, storage.root, mine.node.ino)
        if moved is not None:
            found = await other.lookup(other.root, NEW)
            assert (found.node.ino == mine.node.ino) is moved
            other.forget(found.node)
        for one, node in ((other, theirs.node), (storage, mine.node)):
            one.forget(node)
        for name in (b"old", NEW, b"first-new", b"last-new"):
            with contextlib.suppress(NotFoundError):
                await other.unlink(other.root, name, GATEWAY)
        return moved is False

    async def run() -> None:
        async with sessions(cluster, 2) as (storage, other):
            for _ in range(2_000):
                if await race(storage, other):
                    return
        raise AssertionError("no client was faster")

    trio.run(run)


class _Lookless:
    """The library, but old names are gone as soon as they have been looked up."""

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def cx_rename(self, *arguments: Any) -> int:
        *names, _, _, how_far = arguments
        how_far[0] = lib.CX_BEGUN
        return int(lib.ceph_ll_rename(*names))

    def cx_move_many(self, mount: Any, *arguments: Any) -> None:
        above, names, below, new_names, _, number, perms, errors, how_far, done = arguments
        pairs = zip(
            *(bytes(ffi.buffer(one)).split(b"\0") for one in (names, new_names)), strict=True
        )
        for index, (name, new_name) in enumerate(list(pairs)[:number]):
            how_far[index] = lib.CX_BEGUN
            errors[index] = -lib.ceph_ll_rename(mount, above, name, below, new_name, perms)
            done[0] = index + 1


@WAYS
@pytest.mark.parametrize("where", ["root", "below"])
def test_a_rename_that_loses_its_old_name_frees_the_new_one_at_once(
    cluster: CephCluster, where: str, rename: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with sessions(cluster, 2) as (storage, other):
            parent = storage.root
            if where == "below":
                parent = (await storage.mkdir(parent, b"below", 0o755, GATEWAY)).node
            await _remove_elsewhere(storage, other)
            monkeypatch.setattr(ceph, "lib", _Lookless())
            with pytest.raises(NotFoundError):
                await rename(storage, storage.root, parent, Ino(4711))
            assert await _look_soon(storage, parent, NEW) is None
            if where == "below":
                storage.forget(parent)

    monkeypatch.setattr(ceph_stuck, "_PATIENCE_S", 1000.0)
    trio.run(run)


async def _free_what_is_renamed(cluster: CephCluster, renames: int) -> None:
    """Free two names all the time while a file goes from one to the other and back."""
    async with sessions(cluster, 1) as (storage,):
        above = (await storage.mkdir(storage.root, b"above", 0o755, GATEWAY)).node
        found = await storage.mknod(above, b"one", 0o100644, 0, GATEWAY)
        ended = threading.Event()

        def free() -> None:
            while not ended.is_set():
                for name in (b"one", b"two"):
                    storage._stuck._free(ceph_stuck._Call(above.ino, (name,), lambda: 0, 0.0, 1.0))

        freeing = threading.Thread(target=free)
        freeing.start()
        names = [b"one", b"two"]
        for _ in range(renames):
            await storage.rename(above, names[0], above, names[1], GATEWAY)
            names.reverse()
        ended.set()
        await trio.to_thread.run_sync(freeing.join)
        for node in (found.node, above):
            storage.forget(node)


def test_names_that_are_only_slow_are_freed_without_harm(cluster: CephCluster) -> None:
    """In a process of its own: libcephfs would follow a null pointer."""
    script = (
        "import trio; from tests.ceph import test_renames; from tests.cluster.ceph import"
        " CephCluster; trio.run(test_renames._free_what_is_renamed, CephCluster(), 1000)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])


@pytest.mark.parametrize("there", ["nothing", "file"])
def test_a_stuck_name_is_freed_and_its_waiters_go_on(
    cluster: CephCluster, there: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with sessions(cluster, 2) as (storage, other):
            held = await _make(storage, there, storage.root)
            await _remove_elsewhere(storage, other)
            await _rename_without_a_look(storage, storage.root)
            await _expect(storage, storage.root, there)
            if held is not None:
                storage.forget(held)

    with caplog.at_level(logging.WARNING):
        trio.run(run)
    assert "is freed" in caplog.text, "the defect is gone: see cephfs_ext/storage/ceph_stuck.py"


def test_a_stuck_name_is_freed_whose_directory_was_removed_elsewhere(
    cluster: CephCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel knows the directory, so that libcephfs can't forget it."""

    async def run() -> None:
        async with sessions(cluster, 2) as (storage, other):
            parent = await _make(storage, "directory", storage.root)
            held = await _make(storage, "directory", parent)
            await _remove_elsewhere(storage, other)
            above = (await other.lookup(other.root, NEW)).node
            await other.rmdir(above, NEW, GATEWAY)
            await _rename_without_a_look(storage, parent)
            await _expect(storage, parent, "nothing")
            for node in (held, parent):
                storage.forget(node)
            other.forget(above)

    with caplog.at_level(logging.WARNING):
        trio.run(run)
    assert "is freed" in caplog.text


async def _make(storage: CephStorage, what: str, parent: Node) -> Node | None:
    if what == "nothing":
        return None
    if what == "directory":
        return (await storage.mkdir(parent, NEW, 0o755, GATEWAY)).node
    return (await storage.mknod(parent, NEW, 0o100644, 0, GATEWAY)).node


async def _rename_without_a_look(storage: CephStorage, parent: Node) -> None:
    """Rename as if `old` had gone after the look that precedes a rename."""
    perms = storage._identities.of(GATEWAY)  # type: ignore[attr-defined]
    places = (storage.root.raw, b"old", parent.raw, NEW)
    call = functools.partial(lib.ceph_ll_rename, storage._mount, *places, perms)
    assert await trio.to_thread.run_sync(call) == -errno.ENOENT


async def _expect(storage: CephStorage, parent: Node, there: str) -> None:
    node = await _look_soon(storage, parent, NEW)
    assert (node is None) == (there == "nothing")
    if node is not None:
        storage.forget(node)
