"""What a walk keeps, reports and costs, where test_trashbin_removal.py has what it removes."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncdelete.rights import RightsOf, Verdict
from asyncdelete.throttle import Throttle
from asyncdelete.walk import Failure, Walk
from cephfs_ext.core.limits import REMOVAL_BATCH, WALK_FAILURES, WALK_OPEN, WALK_PAGE
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import Credentials
from cephfs_ext.storage.posix import PosixStorage
from tests.property.gateways import SameThread, SilentMeter

USER = Credentials(30001, 30001, (30009,))
Script = Callable[[Any, Path], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Script], None]:
    """Run a script on a storage over a fresh directory; it must give back every reference."""

    def played(script: Script) -> None:
        async def main() -> None:
            storage = await SameThread.connect(str(tmp_path), background=True)
            try:
                await script(storage, tmp_path)
                assert storage.describe()["nodes"] == 0, "a reference was not given back"
            finally:
                await storage.close()

        trio.run(main)

    return played


def keeping(storage: Any, number: int, *names: bytes) -> None:
    """Let names stay, with an errno."""
    original = storage.unlink_many

    async def unlink_many(parent: Node, wanted: Sequence[bytes]) -> list[int]:
        done = iter(await original(parent, [name for name in wanted if name not in names]))
        return [number if name in names else next(done) for name in wanted]

    storage.unlink_many = unlink_many


def files_in(directory: Path, *names: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).touch()


Play = Callable[[Script], None]


def test_each_failure_is_told_once_with_its_reason(play: Play) -> None:
    async def script(storage: Any, top: Path) -> None:
        for number in range(5):
            files_in(top / f"d/{number}/e", "stuck", "f", "g")
        files_in(top / "d", "h")
        keeping(storage, errno.EBUSY, b"stuck")
        meter = SilentMeter()
        walk = Walk(storage, meter)
        removed = await walk.remove(storage.root, b"d")
        assert (removed.files, removed.dirs, removed.failures) == (11, 0, 5)
        assert walk.progress.failures == 5
        assert sorted(walk.failures) == [
            Failure(b"%d/e/stuck" % number, os.strerror(errno.EBUSY)) for number in range(5)
        ]
        assert meter.counts["purge_failures_total", (("errno", "EBUSY"),)] == 5

    play(script)


def test_only_some_failures_are_kept_and_all_are_counted(play: Play) -> None:
    async def script(storage: Any, top: Path) -> None:
        names = [f"s{number}" for number in range(3 * WALK_PAGE)]
        files_in(top / "d", *names)
        keeping(storage, errno.EPERM, *(name.encode() for name in names))
        walk = Walk(storage, SilentMeter())
        assert (await walk.remove(storage.root, b"d")).failures == 3 * WALK_PAGE
        assert len(walk.failures) == WALK_FAILURES

    play(script)


def test_a_failure_that_another_pass_removes_is_none(play: Play) -> None:
    async def script(storage: Any, top: Path) -> None:
        files_in(top / "d/e", *(f"f{number}" for number in range(100)))
        original, refused = storage.unlink_many, [True]

        async def unlink_many(parent: Node, names: Sequence[bytes]) -> Sequence[int]:
            if refused[0]:
                refused[0] = False
                files_in(top / "d/e", "new")  # so that what is there is not what was left
                return [errno.EBUSY for _ in names]
            done: Sequence[int] = await original(parent, names)
            return done

        storage.unlink_many = unlink_many
        walk = Walk(storage, SilentMeter())
        removed = await walk.remove(storage.root, b"d")
        assert (removed.files, removed.dirs, removed.failures) == (101, 2, 0)
        assert walk.failures == []
        assert walk.progress.failures == 0

    play(script)


def test_what_stays_is_not_read_again_and_again(play: Play) -> None:
    """However deep it lies: each directory is read twice."""
    depth = 200

    async def script(storage: Any, top: Path) -> None:
        files_in(top / "d" / "/".join("e" * depth), "stuck")
        keeping(storage, errno.EPERM, b"stuck")
        original, opened = storage.opendir, itertools.count()

        async def opendir(node: Node) -> Any:
            next(opened)
            return await original(node)

        storage.opendir = opendir
        walk = Walk(storage, SilentMeter())
        assert (await walk.remove(storage.root, b"d")).failures == 1
        assert next(opened) <= 2 * (depth + 1)
        assert walk.failures[0].path == b"e/" * depth + b"stuck"

    play(script)


def test_a_directory_that_lists_empty_and_is_not_is_reported(play: Play) -> None:
    """As one whose snapshots something needs."""

    async def script(storage: Any, top: Path) -> None:
        files_in(top / "d/pinned", "f")
        files_in(top / "d/other", "f")
        original = storage.rmdir

        async def rmdir(parent: Node, name: bytes, *rest: Any) -> None:
            if name == b"pinned":
                from cephfs_ext.core.errors import NotEmptyError

                raise NotEmptyError()
            await original(parent, name, *rest)

        storage.rmdir = rmdir
        walk = Walk(storage, SilentMeter())
        removed = await walk.remove(storage.root, b"d")
        assert (removed.files, removed.dirs, removed.failures) == (2, 1, 1)
        (failure,) = walk.failures
        assert failure.path == b"pinned"
        assert "snapshots" in failure.reason

    play(script)


def test_depth_takes_no_nodes(play: Play) -> None:
    depth = 4 * WALK_OPEN

    async def script(storage: Any, top: Path) -> None:
        fd = os.open(top, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=below))
            os.close(fd)
            fd = below
        os.close(fd)
        most, original = [0], storage.unlink_many

        async def unlink_many(parent: Node, names: Sequence[bytes]) -> Any:
            most[0] = max(most[0], storage.describe()["nodes"])
            return await original(parent, names)

        storage.unlink_many = unlink_many
        removed = await Walk(storage, SilentMeter()).remove(storage.root, b"d")
        assert (removed.files, removed.dirs, removed.failures) == (depth, depth, 0)
        assert most[0] < 2 * WALK_OPEN

    play(script)


def test_files_go_by_batches_and_nobody_looks_at_them(play: Play) -> None:
    async def script(storage: Any, top: Path) -> None:
        files_in(top / "d", *(f"f{number}" for number in range(2000)))
        looks, calls = [], []
        resolve, unlink_many = storage.resolve, storage.unlink_many

        async def counting_resolve(parent: Node, name: bytes) -> Any:
            looks.append(name)
            return await resolve(parent, name)

        async def counting_unlink(parent: Node, names: Sequence[bytes]) -> Any:
            calls.append(len(names))
            return await unlink_many(parent, names)

        storage.resolve, storage.unlink_many = counting_resolve, counting_unlink
        await Walk(storage, SilentMeter()).remove(storage.root, b"d")
        assert set(looks) == {b"d"}
        assert max(calls) == REMOVAL_BATCH
        assert len(calls) < 2 * 2000 / REMOVAL_BATCH

    play(script)


def test_what_is_removed_when_it_is_cancelled_is_counted(play: Play) -> None:
    async def script(storage: Any, top: Path) -> None:
        for number in range(20):
            files_in(top / f"d/{number}", *(f"f{one}" for one in range(100)))
        original, calls = storage.unlink_many, itertools.count()

        async def unlink_many(parent: Node, names: Sequence[bytes]) -> Any:
            done = await original(parent, names)
            if next(calls) == 10:
                scope.cancel()
            return done

        storage.unlink_many = unlink_many
        walk = Walk(storage, SilentMeter(), throttle=Throttle(SilentMeter()))
        with trio.CancelScope() as scope:
            await walk.remove(storage.root, b"d")
        assert scope.cancelled_caught
        left = sum(len(files) for _, _, files in os.walk(top))
        assert walk.progress.files == 2000 - left
        removed = await Walk(storage, SilentMeter()).remove(storage.root, b"d")
        assert removed.files == left

    play(script)


def test_a_tree_can_be_removed_through_the_throttle(play: Play) -> None:
    async def script(storage: Any, top: Path) -> None:
        files_in(top / "d/e", *(f"f{number}" for number in range(300)))
        throttle = Throttle(SilentMeter())
        walk = Walk(storage, SilentMeter(), throttle=throttle, owner=7)
        removed = await walk.remove(storage.root, b"d")
        assert (removed.files, removed.dirs) == (300, 2)

    play(script)


class TestRights:
    """What the one who wants a tree removed could not have deleted stays."""

    @staticmethod
    async def removed(storage: Storage, cred: Credentials = USER) -> Walk:
        walk = Walk(storage, SilentMeter(), rights=RightsOf(storage, cred))
        removed = await walk.remove(storage.root, b"d")
        assert removed.failures == 0, "what is forbidden is no error of the storage"
        return walk

    @staticmethod
    def give(path: Path, mode: int, uid: int, gid: int = 0) -> None:
        os.chown(path, uid, gid)
        path.chmod(mode)

    def test_what_is_in_a_directory_of_others_stays(self, play: Play) -> None:
        async def script(storage: Any, top: Path) -> None:
            for name in ("mine", "foreign", "empty"):
                files_in(top / "d" / name, *(["f"] if name != "empty" else []))
                self.give(top / "d" / name, 0o755, USER.uid if name == "mine" else 0)
            self.give(top / "d", 0o755, USER.uid)
            walk = await self.removed(storage)
            assert walk.failures == [Failure(b"foreign/f", os.strerror(errno.EACCES))]
            assert [path.name for path in (top / "d").iterdir()] == ["foreign"]
            assert (top / "d/foreign/f").exists()

        play(script)

    @pytest.mark.parametrize("mode", [0o070, 0o060, 0o030, 0o050])
    def test_all_of_read_write_and_search_are_needed(self, play: Play, mode: int) -> None:
        async def script(storage: Any, top: Path) -> None:
            files_in(top / "d", "f")
            self.give(top / "d", mode, 0, USER.groups[0])
            await self.removed(storage)
            assert (top / "d").exists() == (mode != 0o070)

        play(script)

    def test_own_entries_of_a_sticky_directory_go(self, play: Play) -> None:
        async def script(storage: Any, top: Path) -> None:
            files_in(top / "d", "mine", "foreign")
            os.chown(top / "d/mine", USER.uid, 0)
            for name, uid in (("dir", USER.uid), ("theirs", 0)):
                (top / "d" / name).mkdir()
                files_in(top / "d" / name, "f")
                self.give(top / "d" / name, 0o777, uid)
            self.give(top / "d", 0o1777, 0)
            walk = await self.removed(storage)
            left = sorted(path.name for path in (top / "d").iterdir())
            assert left == ["foreign", "theirs"]
            assert sorted(failure.path for failure in walk.failures) == [b"foreign", b"theirs"]
            assert list((top / "d/theirs").iterdir()) == []  # as rm -rf leaves it

        play(script)

    def test_root_may_everything(self, play: Play) -> None:
        async def script(storage: Any, top: Path) -> None:
            files_in(top / "d", "f")
            self.give(top / "d", 0o1700, USER.uid)
            await self.removed(storage, Credentials(0, 0))
            assert not (top / "d").exists()

        play(script)

    def test_access_control_lists_count(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir(mode=0o700)
        entry = f"u:{USER.uid}:rwx"
        subprocess.run(["setfacl", "-m", entry, tmp_path / "d"], check=True)

        async def main() -> None:
            storage = await PosixStorage.connect(str(tmp_path))
            try:
                found = await storage.lookup(storage.root, b"d")
                for cred, verdict in (
                    (USER, Verdict.ALL),
                    (Credentials(30002, 30002), Verdict.HIDDEN),
                ):
                    said = await RightsOf(storage, cred).may_empty(found.node, found.attr)
                    assert said is verdict
                storage.forget(found.node)
            finally:
                await storage.close()

        assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o770
        trio.run(main)


def test_memory_does_not_grow_with_the_tree() -> None:
    """300,000 files and ten times as many: the same memory, to a fifth."""

    def peak(files: int) -> int:
        command = [sys.executable, "-m", "tests.unit.simulated", str(files)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        removed, dirs, failures, most = map(int, done.stdout.split())
        assert (removed, dirs, failures) == (files, files // 1000, 0)
        return most

    assert peak(3_000_000) < 1.2 * peak(300_000)
