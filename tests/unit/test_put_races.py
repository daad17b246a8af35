"""What another client does between two steps of a put; docs/concurrency.md tells the story."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.errors import ExchangedError, NotEmptyError, NotFoundError
from cephfs_ext.core.types import GATEWAY
from cephfs_ext.storage import posix_calls
from cephfs_ext.storage.posix import PosixStorage
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.put import Deleter, Place, Put

_WHO = Deleter(GATEWAY, 0, "")


class _Nothing:
    """Journal and meter of no interest."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


class Scene:
    """A directory with a trash, and one put with a moment in which somebody else acts."""

    def __init__(
        self, top: Path, storage: PosixStorage, domain: Domain, patch: pytest.MonkeyPatch
    ) -> None:
        self.top = top
        self.patch = patch
        self.storage = storage
        self.domain = domain
        nothing: Any = _Nothing()
        self.put = Put(storage, nothing, nothing, instance="0001", clock=MonotonicNs())

    def before(self, call: str, name: bytes, act: Callable[[], object]) -> None:
        """Have `act` happen before the storage carries out `call` on a name, once."""
        original = getattr(self.storage, call)

        async def acted(parent: Any, leaf: bytes, *rest: Any, **options: Any) -> Any:
            if leaf == name:
                setattr(self.storage, call, original)
                act()
            return await original(parent, leaf, *rest, **options)

        setattr(self.storage, call, acted)

    def between_look_and(self, call: str, name: bytes, act: Callable[[], object]) -> None:
        """Have `act` happen while the storage carries out a call, after its last look at a name."""
        original = getattr(posix_calls, call)

        def acted(parent: int, leaf: bytes, *rest: Any) -> Any:
            if leaf == name:
                self.patch.setattr(posix_calls, call, original)
                act()
            return original(parent, leaf, *rest)

        self.patch.setattr(posix_calls, call, acted)

    async def delete(self, name: bytes, *, how: str = "linked_file", checked: bool = False) -> None:
        """Delete a name; `checked`: only if it is still that of the same inode."""
        victim = await self.storage.lookup(self.storage.root, name)
        ino = victim.attr.ino if checked else None
        place = Place(self.storage.root, name, name, ino=ino)
        await getattr(self.put, how)(self.domain, place, victim, _WHO)

    async def delete_many(self, names: Sequence[bytes]) -> Sequence[bool]:
        """Delete names at once."""
        root = self.storage.root
        victims = [await self.storage.lookup(root, name) for name in names]
        attrs = [victim.attr for victim in victims]
        for victim in victims:
            self.storage.forget(victim.node)
        places = [Place(root, name, name) for name in names]
        return await self.put.files(self.domain, places, attrs, _WHO)

    def contents(self) -> list[str]:
        """Return what all files hold, wherever they are, each inode once."""
        files = (path for path in self.top.rglob("*") if path.is_file() and not path.is_symlink())
        inodes = {path.stat().st_ino: path for path in files if path.name != "format.json"}
        return sorted(path.read_text() for path in inodes.values())


@pytest.fixture
def play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Scene], Awaitable[None]]], None]:
    def played(script: Callable[[Scene], Awaitable[None]]) -> None:
        async def main() -> None:
            storage = await PosixStorage.connect(str(tmp_path))
            domains = Domains(storage, owner_uid=os.geteuid(), shards_per_rank=2)
            await script(Scene(tmp_path, storage, await domains.root(), monkeypatch))
            domains.close()
            await storage.close()

        trio.run(main)

    return played


Play = Callable[[Callable[[Scene], Awaitable[None]]], None]


@pytest.mark.parametrize("step", ["rename", "unlink"])
def test_file_that_takes_the_name_of_a_hard_link_is_kept(
    play: Play, tmp_path: Path, step: str
) -> None:
    """[link-3]: whoever is faster, no content is gone."""

    async def script(scene: Scene) -> None:
        (tmp_path / "one").write_text("old")
        (tmp_path / "two").hardlink_to(tmp_path / "one")
        (tmp_path / "new").write_text("new")
        scene.before(step, b"one", lambda: (tmp_path / "new").rename(tmp_path / "one"))
        await scene.delete(b"one")
        assert scene.contents() == ["new", "old"]
        assert not (tmp_path / "one").exists()

    play(script)


def test_last_two_names_deleted_at_the_same_time(play: Play, tmp_path: Path) -> None:
    """[link-3]: one is a tombstone, the other has the content."""

    async def script(scene: Scene) -> None:
        (tmp_path / "one").write_text("content")
        (tmp_path / "two").hardlink_to(tmp_path / "one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.delete, b"one")
            nursery.start_soon(scene.delete, b"two")
        assert scene.contents() == ["content"]
        assert len(list((tmp_path / ".trashbin/tombs").glob("*/*"))) == 1

    play(script)


def test_locks_do_not_depend_on_settings(tmp_path: Path) -> None:
    """[link-3]: gateways with other numbers of shards exclude each other."""

    async def main() -> None:
        chosen = []
        for shards in (1, 4, 7):
            storage = await PosixStorage.connect(str(tmp_path))
            domains = Domains(storage, owner_uid=os.geteuid(), shards_per_rank=shards)
            domain = await domains.root()
            chosen.append([domain.lock_of(storage.root.ino + number).ino for number in range(50)])  # type: ignore[arg-type]
            domains.close()
            await storage.close()
        assert chosen[0] == chosen[1] == chosen[2]
        assert len(set(chosen[0])) > 1

    trio.run(main)


def test_directory_that_somebody_fills_is_given_back(play: Play, tmp_path: Path) -> None:
    """[rmdir-2]."""

    async def script(scene: Scene) -> None:
        (tmp_path / "directory").mkdir()
        scene.before("rename", b"directory", (tmp_path / "directory/file").touch)
        with pytest.raises(NotEmptyError):
            await scene.delete(b"directory", how="directory")
        assert (tmp_path / "directory/file").exists()

    play(script)


def test_directory_whose_name_is_taken_meanwhile_stays_in_the_trash(
    play: Play, tmp_path: Path
) -> None:
    """[rmdir-2]: whole, whatever has its name now."""

    async def script(scene: Scene) -> None:
        (tmp_path / "directory").mkdir()
        scene.before("rename", b"directory", (tmp_path / "directory/file").touch)
        original = scene.storage.readdir
        calls = []

        async def readdir(*arguments: Any, **options: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 2:
                (tmp_path / "directory").write_text("somebody else's")
            return await original(*arguments, **options)

        scene.storage.readdir = readdir  # type: ignore[method-assign]
        with pytest.raises(NotEmptyError):
            await scene.delete(b"directory", how="directory")
        assert (tmp_path / "directory").read_text() == "somebody else's"
        assert len(list((tmp_path / ".trashbin").glob("r0.*/*/*.directory/file"))) == 1

    play(script)


@pytest.mark.parametrize("kind", ["file", "tree"])
def test_what_takes_the_place_of_a_victim_is_given_back(
    play: Play, tmp_path: Path, kind: str
) -> None:
    """[pending-7]: of a file or directory that was deleted some time ago, in the last moment."""
    name = tmp_path / "name"

    def make(what: str) -> None:
        path = tmp_path / "theirs"
        if kind == "tree":
            path.mkdir()
            path = path / "inside"
        path.write_text(what)

    def exchange() -> None:
        name.rename(tmp_path / "old")
        (tmp_path / "theirs").rename(name)

    async def script(scene: Scene) -> None:
        make("new")
        name.mkdir() if kind == "tree" else name.write_text("old")
        scene.between_look_and("rename", b"name", exchange)
        with pytest.raises(ExchangedError):
            await scene.delete(b"name", how="directory" if kind == "tree" else "file", checked=True)
        found = name / "inside" if kind == "tree" else name
        assert found.read_text() == "new"
        assert found.stat().st_nlink == 1
        assert not list((tmp_path / ".trashbin").rglob("*.name"))

    play(script)


def test_what_is_given_back_and_finds_its_place_taken_stays_in_the_trash(
    play: Play, tmp_path: Path
) -> None:
    """[pending-7]."""
    name = tmp_path / "name"

    def exchange() -> None:
        name.unlink()
        name.write_text("new")

    async def script(scene: Scene) -> None:
        name.write_text("old")
        scene.between_look_and("rename", b"name", exchange)
        link = scene.storage.link

        async def late(*arguments: Any) -> Any:
            name.write_text("newer")
            return await link(*arguments)

        scene.storage.link = late  # type: ignore[method-assign]
        with pytest.raises(ExchangedError):
            await scene.delete(b"name", how="file", checked=True)
        assert name.read_text() == "newer"
        (kept,) = (tmp_path / ".trashbin").rglob("*.name")
        assert kept.read_text() == "new"

    play(script)


def test_of_many_that_go_at_once_each_has_its_own_fate(play: Play, tmp_path: Path) -> None:
    """[pending-7]: what is gone, or somebody else's by now, is left to who looks again."""
    names = [b"first", b"gone", b"theirs", b"last", b"x" * 250]

    def exchange() -> None:
        (tmp_path / "gone").unlink()
        (tmp_path / "theirs").rename(tmp_path / "moved")
        (tmp_path / "theirs").write_text("their own")

    async def script(scene: Scene) -> None:
        for name in names:
            (tmp_path / name.decode()).write_text(name.decode())
        scene.between_look_and("rename", b"first", exchange)
        assert await scene.delete_many(names) == [True, False, False, True, False]
        assert (tmp_path / "theirs").read_text() == "their own"
        kept = {path.read_text() for path in (tmp_path / ".trashbin").rglob("*.*t")}
        assert kept == {"first", "last"}

    play(script)


def test_of_many_that_go_at_once_what_was_exchanged_at_the_last_moment_is_given_back(
    play: Play, tmp_path: Path
) -> None:
    """[pending-7]."""
    name = tmp_path / "theirs"

    def exchange() -> None:
        name.rename(tmp_path / "moved")
        name.write_text("their own")

    async def script(scene: Scene) -> None:
        for one in ("first", "theirs", "last"):
            (tmp_path / one).write_text(one)
        scene.between_look_and("rename", b"theirs", exchange)
        assert await scene.delete_many([b"first", b"theirs", b"last"]) == [True, True, True]
        assert name.read_text() == "their own"
        assert name.stat().st_nlink == 1
        assert scene.contents() == ["first", "last", "their own", "theirs"]
        assert not list((tmp_path / ".trashbin").rglob("*.theirs"))

    play(script)


def test_many_go_at_once_into_an_hour_that_somebody_has_just_removed(
    play: Play, tmp_path: Path
) -> None:
    """None is lost: all are left to who makes it anew."""

    async def script(scene: Scene) -> None:
        for one in ("first", "a", "b"):
            (tmp_path / one).write_text(one)
        assert await scene.delete_many([b"first"]) == [True]
        (kept,) = (tmp_path / ".trashbin").rglob("*.first")
        kept.unlink()
        kept.parent.rmdir()
        assert await scene.delete_many([b"a", b"b"]) == [False, False]
        assert scene.contents() == ["a", "b"]

    play(script)


def test_directory_that_one_delete_uses_is_not_closed_by_another(
    play: Play, tmp_path: Path
) -> None:
    """[unlink-1]: a delete that finds no name doubts the hour, which others use."""

    async def script(scene: Scene) -> None:
        for name in ("one", "two"):
            (tmp_path / name).write_text(name)
        (tmp_path / "elsewhere").mkdir()
        opened = []
        begun = scene.storage.rename

        async def rename(parent: Any, leaf: bytes, *rest: Any) -> bool:
            if leaf == b"one":
                scene.before("rename", b"two", (tmp_path / "two").unlink)
                with pytest.raises(NotFoundError):
                    await scene.delete(b"two", how="file")
                opened.append(os.open(tmp_path / "elsewhere", os.O_PATH))
            return await begun(parent, leaf, *rest)

        scene.storage.rename = rename  # type: ignore[assignment,method-assign]
        await scene.delete(b"one", how="file")
        os.close(*opened)
        assert os.listdir(tmp_path / "elsewhere") == []
        (kept,) = (tmp_path / ".trashbin").rglob("*.one")
        assert kept.read_text() == "one"
        assert len(scene.storage._nodes) == nodes_of(scene.domain) + 2  # and what was deleted

    play(script)


def nodes_of(domain: Domain) -> int:
    """Count the references that a domain has."""
    return 1 + len(domain.directories) + len(domain._hours)
