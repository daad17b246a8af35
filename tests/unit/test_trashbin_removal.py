"""Removing for good: of any depth and width, past what can't be removed, and expiry around it."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncdelete.walk import Walk
from cephfs_ext.core.errors import FSError, fs_error
from cephfs_ext.core.limits import READDIR_PAGE
from tests.property.gateways import (
    OPERATOR,
    Parts,
    PosixGround,
    SilentMeter,
    delete,
    hours_ago,
    make_dirs,
    make_files,
    names_below,
    parts,
)
from tests.property.scenarios import EXPIRED_H
from trashbin.expire import Removed

Script = Callable[[Parts, Path], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def play(ground: PosixGround) -> Play:
    def played(script: Script, *, late_h: float = 0) -> None:
        async def main() -> None:
            async with parts(ground, "000a", hours_ago(late_h)) as gateway:
                await script(gateway, ground.directory)
                gateway.domains.close()
                assert gateway.storage.open_nodes == 0, "a reference was not given back"

        trio.run(main)

    return played


def walk(gateway: Parts) -> Walk:
    storage: Any = gateway.storage
    return Walk(storage, gateway.meter)


def keeping(gateway: Parts, *names: bytes, error: int = errno.EIO) -> None:
    """Let names stay, whatever removes them."""
    storage: Any = gateway.storage
    original = storage.unlink_many

    async def unlink_many(parent: Any, wanted: Sequence[bytes]) -> list[int]:
        done = iter(await original(parent, [name for name in wanted if name not in names]))
        return [error if name in names else next(done) for name in wanted]

    storage.unlink_many = unlink_many


def failing(gateway: Parts, call: str, *names: bytes) -> None:
    """Let a call fail for some names."""
    storage: Any = gateway.storage
    original = getattr(storage, call)

    async def fail(parent: Any, name: bytes, *rest: Any) -> Any:
        if name in names:
            raise fs_error(errno.EIO)
        return await original(parent, name, *rest)

    setattr(storage, call, fail)


class TestWalk:
    def test_depth_has_no_limit(self, play: Play) -> None:
        depth = 3_000

        async def script(gateway: Parts, top: Path) -> None:
            fd = os.open(top, os.O_RDONLY)
            for _ in range(depth):
                os.mkdir("d", dir_fd=fd)
                below = os.open("d", os.O_RDONLY, dir_fd=fd)
                os.close(fd)
                fd = below
            os.close(fd)
            removed = await walk(gateway).remove(gateway.storage.root, b"d")
            assert removed == Removed(0, depth, 0)
            assert os.listdir(top) == []

        play(script)

    def test_directory_is_not_read_again_for_each_subdirectory(self, play: Play) -> None:
        subdirs = 2 * READDIR_PAGE

        async def script(gateway: Parts, top: Path) -> None:
            for number in range(subdirs):
                (top / f"d/{number}").mkdir(parents=True)
                (top / f"d/{number}/file").touch()
            storage: Any = gateway.storage
            pages = []
            original = storage.readdir

            async def readdir(*arguments: Any, **options: Any) -> Any:
                page = await original(*arguments, **options)
                pages.append(len(page))
                return page

            storage.readdir = readdir
            removed = await walk(gateway).remove(storage.root, b"d")
            assert removed == Removed(subdirs, subdirs + 1, 0)
            assert sum(pages) < 4 * subdirs

        play(script)

    def test_what_cannot_be_removed_stops_nothing_else(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            for number in range(20):
                (top / f"d/{number}").mkdir(parents=True)
                (top / f"d/{number}/a").touch()
                (top / f"d/{number}/b").touch()
            (top / "d/3/stuck").touch()
            (top / "d/17/stuck").touch()
            keeping(gateway, b"stuck")
            removed = await walk(gateway).remove(gateway.storage.root, b"d")
            assert removed == Removed(40, 18, 2)
            left = await names_below(gateway.storage, gateway.storage.root)
            assert sorted(left) == [b"d", b"d/17", b"d/17/stuck", b"d/3", b"d/3/stuck"]

        play(script)

    def test_directory_that_cannot_be_opened_stops_nothing_else(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            for name in ("a", "closed", "z"):
                (top / "d" / name).mkdir(parents=True)
                (top / "d" / name / "file").touch()
            failing(gateway, "resolve", b"closed")
            removed = await walk(gateway).remove(gateway.storage.root, b"d")
            assert removed == Removed(2, 2, 1)
            assert (top / "d/closed/file").exists()

        play(script)

    def test_listing_that_fails_is_counted(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            (top / "d").mkdir()
            (top / "d/file").touch()

            async def opendir(_: Any) -> None:
                raise FSError()

            storage: Any = gateway.storage
            storage.opendir = opendir
            removed = await walk(gateway).remove(storage.root, b"d")
            assert (removed.files, removed.dirs) == (0, 0)
            assert removed.failures >= 1

        play(script)

    def test_two_walks_of_one_tree_remove_it(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            for number in range(100):
                (top / f"d/{number % 10}/{number}").mkdir(parents=True)
                (top / f"d/{number % 10}/{number}/file").touch()
            removed: list[Removed] = []

            async def one() -> None:
                removed.append(await walk(gateway).remove(gateway.storage.root, b"d"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(one)
                nursery.start_soon(one)
            assert os.listdir(top) == []
            assert sum(part.files for part in removed) == 100
            assert sum(part.failures for part in removed) == 0

        play(script)

    def test_walk_that_is_cancelled_holds_nothing(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            for number in range(50):
                (top / f"d/{number}/deep/deeper").mkdir(parents=True)
            storage: Any = gateway.storage
            original, left = storage.rmdir, [20]

            async def rmdir(*arguments: Any) -> None:
                left[0] -= 1
                if not left[0]:
                    scope.cancel()
                await original(*arguments)

            storage.rmdir = rmdir
            with trio.CancelScope() as scope:
                await walk(gateway).remove(storage.root, b"d")
            assert scope.cancelled_caught

        play(script)

    def test_missing_name_is_nothing(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            removed = await walk(gateway).remove(gateway.storage.root, b"none")
            assert removed == Removed(0, 0, 0)

        play(script)

    def test_promises_that_cannot_be_read_stop_the_walk(self, play: Play) -> None:
        """Rather than removing what is promised."""

        async def script(gateway: Parts, top: Path) -> None:
            (top / "d").mkdir()

            class Broken:
                async def look_again(self) -> None:
                    raise FSError(what="broken")

            broken: Any = Broken()
            storage: Any = gateway.storage
            with pytest.raises(FSError, match="broken"):
                await Walk(storage, SilentMeter(), broken).remove(storage.root, b"d")
            assert (top / "d").exists()

        play(script)


class TestExpiry:
    def test_hour_that_cannot_be_claimed_stops_no_other(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            for number in range(8):  # of several directories, and so in several shards
                name = b"d%d" % number
                await make_dirs(gateway.storage, name)
                await make_files(gateway.storage, name + b"/f")
                await delete(gateway, name + b"/f")
            storage: Any = gateway.storage
            original, failed = storage.rename, []

            async def rename(parent: Any, name: bytes, *rest: Any) -> bool:
                if not failed:
                    failed.append(name)
                    raise FSError()
                return bool(await original(parent, name, *rest))

            storage.rename = rename
            await gateway.expiry.once()
            assert 0 < len((await gateway.service.contents(OPERATOR)).trees) < 8
            await gateway.expiry.once()
            assert (await gateway.service.contents(OPERATOR)).trees == []
            assert list((top / ".trashbin/purging").iterdir()) == []

        play(script, late_h=EXPIRED_H)

    def test_hour_is_let_go_by_one_rename_of_each_shard(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            for number in range(8):
                name = b"d%d" % number
                files = [b"%s/f%d" % (name, file) for file in range(50)]
                await make_dirs(gateway.storage, name)
                await make_files(gateway.storage, *files)
                for file in files:
                    await delete(gateway, file)
            storage: Any = gateway.storage
            original, renamed = storage.rename, []

            async def rename(parent: Any, name: bytes, *rest: Any) -> bool:
                renamed.append(name)
                return bool(await original(parent, name, *rest))

            hours = list((top / ".trashbin").glob("r0.*/20*"))
            storage.rename = rename
            await gateway.expiry.once()
            assert sorted(renamed) == sorted(hour.name.encode() for hour in hours)
            assert (await gateway.service.contents(OPERATOR)).trees == []

        play(script, late_h=EXPIRED_H)

    def test_what_is_younger_stays(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            await make_files(gateway.storage, b"a")
            await delete(gateway, b"a")
            await gateway.expiry.once()
            assert len((await gateway.service.contents(OPERATOR)).trees) == 1

        play(script, late_h=EXPIRED_H - 4)

    def test_claim_of_a_dead_gateway_is_removed(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            await gateway.domain()
            claim = top / ".trashbin/purging/r0.00.2026-01-01T00.0000000000000001.beef"
            claim.mkdir()
            (claim / "file").touch()
            await gateway.expiry.once()
            assert not claim.exists()

        play(script)

    def test_restore_of_a_dead_gateway_is_undone(self, play: Play) -> None:
        """It may never come back; its lock came free when it died."""

        async def script(gateway: Parts, top: Path) -> None:
            await gateway.domain()
            run = top / ".trashbin/restoring/0000000000000001.beef"
            run.mkdir()
            await gateway.expiry.once()
            assert not run.exists()

        play(script)

    def test_purge_that_fails_in_the_middle_keeps_what_was_not_claimed(self, play: Play) -> None:
        async def script(gateway: Parts, top: Path) -> None:
            await make_files(gateway.storage, b"a", b"b")
            await delete(gateway, b"a")
            await delete(gateway, b"b")
            contents = await gateway.service.contents(OPERATOR)
            newest, oldest = contents.trees
            entry = oldest.tree.top.entry
            failing(gateway, "rename", entry.path[0])
            with pytest.raises(FSError):
                await gateway.service.purge(OPERATOR, [newest, oldest])
            left = (await gateway.service.contents(OPERATOR)).trees
            assert [one.tree.top.entry for one in left] == [entry]

        play(script)
