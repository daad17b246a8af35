"""What is seen in `.trashbin`, and what `now` does: [view-1] to [view-8], [now-1], [now-2]."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import os
import re
import socket
import stat
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from cephfs_ext.control.client import Client
from cephfs_ext.control.service import TrashListing, TrashQuery
from tests.gateway import Gateway, file_system
from tests.posix.actors import OWNER, STRANGER, as_user, errno_of, name_of, spawn
from tests.waiting import wait_until

wait_for = functools.partial(wait_until, within_s=30.0)
"""How long something that shows within a second is waited for, on a busy machine."""

_LOOKS = 50
"""How often two users look at the same time."""


def hours(directory: Path) -> list[str]:
    """Return the hours in which something was deleted below a directory, newest first."""
    return sorted(set(os.listdir(directory / ".trashbin")) - {"now"}, reverse=True)


def seen(directory: Path, path: str) -> Path:
    """Return where something that was deleted below a directory is seen."""
    for hour in hours(directory):
        found = directory / ".trashbin" / hour / path
        if os.path.lexists(found):
            return found
    raise AssertionError(f"{path} isn't seen in {directory}: {hours(directory)}")


def listing(directory: Path) -> list[str]:
    """Return everything that is seen of what was deleted below a directory, hours left out."""
    result: list[str] = []
    for hour in hours(directory):
        top = directory / ".trashbin" / hour
        for above, dirs, files in os.walk(top):
            result += [os.path.relpath(os.path.join(above, name), top) for name in dirs + files]
    return sorted(result)


def tree(top: Path) -> Path:
    """Make a small tree."""
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "file").write_text("content")
    (top / "sub" / "deep").write_text("deep content")
    (top / "sub" / "link").symlink_to("deep")
    return top


TREE = ["file", "sub", "sub/deep", "sub/empty", "sub/link"]


def rm_rf(path: Path) -> None:
    """Delete as rm -rf does, in a process of its own."""
    subprocess.run(["rm", "-rf", str(path)], check=True)


def move_away(path: Path) -> None:
    """Delete by one rename."""
    path.rename(path.parent / ".trashbin" / path.name)


DELETES = {"rm -rf": rm_rf, "mv to .trashbin": move_away}


@pytest.mark.parametrize("delete", DELETES.values(), ids=DELETES)
class TestTree:
    def test_is_seen_as_it_was(self, place: Path, delete: Callable[[Path], None]) -> None:
        """[view-1], [view-2]."""
        delete(tree(place / "tree"))
        assert listing(place) == ["tree", *(f"tree/{name}" for name in TREE)]
        top = seen(place, "tree")
        assert (top / "file").read_text() == "content"
        assert (top / "sub/deep").read_text() == "deep content"
        assert os.readlink(top / "sub/link") == "deep"
        assert (top / "sub/link").read_text() == "deep content"

    def test_is_copied_out(
        self, place: Path, tmp_path: Path, delete: Callable[[Path], None]
    ) -> None:
        """[view-3]."""
        top = tree(place / "tree")
        os.setxattr(top / "file", "user.x", b"value")
        os.utime(top / "file", ns=(1, 1_000_000_001))
        os.chown(top / "file", 30001, 30002)
        (top / "file").chmod(0o640)
        delete(top)
        for target in (place / "copy", tmp_path / "copy"):
            subprocess.run(["cp", "-a", str(seen(place, "tree")), str(target)], check=True)
            found = (target / "file").stat()
            assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (
                *(30001, 30002),
                0o640,
            )
            assert found.st_mtime_ns == 1_000_000_001
            assert os.getxattr(target / "file", "user.x") == b"value"
            names = [str(path.relative_to(target)) for path in target.rglob("*")]
            assert sorted(names) == TREE
        assert seen(place, "tree/file").read_text() == "content"

    def test_is_restored_by_moving_it_out(
        self, place: Path, delete: Callable[[Path], None]
    ) -> None:
        """[view-6]."""
        ino = tree(place / "tree").joinpath("file").stat().st_ino
        delete(place / "tree")
        subprocess.run(["mv", str(seen(place, "tree")), str(place / "back")], check=True)
        assert (place / "back/file").stat().st_ino == ino
        assert (place / "back/sub/deep").read_text() == "deep content"
        assert listing(place) == []
        (place / "back/file").write_text("it can be changed again")
        rm_rf(place / "back")

    def test_part_of_it_is_restored(self, place: Path, delete: Callable[[Path], None]) -> None:
        """[view-6]."""
        delete(tree(place / "tree"))
        seen(place, "tree/sub").rename(place / "sub")
        assert (place / "sub/deep").read_text() == "deep content"
        seen(place, "tree/file").rename(place / "other name")
        assert (place / "other name").read_text() == "content"
        assert listing(place) == ["tree"]
        (place / "sub/new").touch()

    def test_programs_that_walk_come_to_an_end(
        self, place: Path, delete: Callable[[Path], None]
    ) -> None:
        """[view-1]."""
        delete(tree(place / "tree"))
        trash = str(place / ".trashbin")
        walks = (
            ["find", trash, "-ls"],
            ["ls", "-laR", trash],
            ["du", "-s", trash],
            ["grep", "-r", "content", trash],
        )
        for walk in walks:
            subprocess.run(walk, check=True, timeout=60, capture_output=True)


class TestListing:
    def test_trash_of_a_fresh_directory_has_only_now(self, place: Path) -> None:
        """[view-1]."""
        assert os.listdir(place / ".trashbin") == ["now"]
        assert os.listdir(place / ".trashbin/now") == []

    def test_hours_are_those_of_deletes_below(self, place: Path) -> None:
        """[view-1]: names are UTC, and each directory shows what was below itself."""
        for name in ("a/b", "c"):
            (place / name).mkdir(parents=True)
        (place / "a/b/file").write_text("content")
        before = time.strftime("%Y-%m-%dT%H", time.gmtime())
        (place / "a/b/file").unlink()
        assert hours(place)[0] in (before, time.strftime("%Y-%m-%dT%H", time.gmtime()))
        assert listing(place) == ["a", "a/b", "a/b/file"]
        assert listing(place / "a") == ["b", "b/file"]
        assert listing(place / "a/b") == ["file"]
        assert hours(place / "c") == []

    def test_deletes_show_at_once(self, place: Path) -> None:
        """[view-1]: also those that come right after a look."""
        for number in range(5):
            (place / f"file{number}").touch()
            assert f"file{number}" not in listing(place)
            (place / f"file{number}").unlink()
            wait_for(lambda number=number: f"file{number}" in listing(place))  # type: ignore[misc]

    def test_deletes_of_another_gateway_show(self, mounted: Gateway, other: Gateway) -> None:
        """[view-1]: so do its restores."""
        place = mounted.path / uuid.uuid4().hex[:8]
        tree(place / "tree")
        there = other.path / place.name
        wait_for((there / "tree").exists)
        rm_rf(there / "tree")
        wait_for(lambda: len(listing(place)) == 1 + len(TREE))
        assert (seen(place, "tree/sub/deep")).read_text() == "deep content"
        wait_for(lambda: len(listing(there)) == 1 + len(TREE))
        seen(there, "tree").rename(there / "tree")
        wait_for(lambda: listing(place) == [])
        wait_for((place / "tree").exists)

    def test_older_deletes_of_one_name_have_names_of_their_own(self, place: Path) -> None:
        """[view-2]: the newest has the plain name."""
        times = []
        for content in ("first", "second", "third"):
            (place / "file").write_text(content)
            (place / "file").unlink()
            times.append(time.strftime("%H%M%S", time.gmtime()))
        names = listing(place)
        assert len(names) == 3
        assert seen(place, "file").read_text() == "third"
        contents = {name: seen(place, name).read_text() for name in names}
        assert sorted(contents.values()) == ["first", "second", "third"]
        for name in set(names) - {"file"}:
            assert name.startswith("file~")
            assert name[5:11].isdigit()

    def test_two_trees_of_one_name_are_not_mixed(self, place: Path) -> None:
        """[view-2]."""
        for name in ("first", "second"):
            (place / "tree").mkdir()
            (place / "tree" / name).touch()
            rm_rf(place / "tree")
        older = next(
            name for name in listing(place) if name.startswith("tree~") and "/" not in name
        )
        assert os.listdir(seen(place, "tree")) == ["second"]
        assert os.listdir(seen(place, older)) == ["first"]

    def test_what_was_deleted_before_its_directory_is_in_it(self, place: Path) -> None:
        """[view-2]: one by one, or by a move of the directory."""
        for delete in DELETES.values():
            top = tree(place / "tree")
            (top / "early").write_text("early")
            (top / "sub/early").write_text("sub early")
            (top / "early").unlink()
            (top / "sub/early").unlink()
            delete(top)
            assert seen(place, "tree/early").read_text() == "early"
            assert seen(place, "tree/sub/early").read_text() == "sub early"
            assert sorted(os.listdir(seen(place, "tree"))) == ["early", "file", "sub"]
            seen(place, "tree").rename(place / "back")
            rm_rf(place / "back")

    def test_name_of_a_file_that_became_a_directory(self, place: Path) -> None:
        """[view-2]: the directory on the way has the plain name."""
        (place / "x").write_text("file")
        (place / "x").unlink()
        (place / "x").mkdir()
        (place / "x/y").write_text("below")
        (place / "x/y").unlink()
        names = listing(place)
        assert {"x", "x/y"} < set(names)
        (older,) = set(names) - {"x", "x/y"}
        assert seen(place, older).read_text() == "file"

    @pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "with~tilde", " ", "-rf", "now"])
    def test_odd_names(self, place: Path, name: str) -> None:
        """[view-2]: a name too long for a suffix is shortened."""
        for content in ("old", "new"):
            (place / name).write_text(content)
            (place / name).unlink()
        newest, older = sorted(listing(place), key=lambda one: one != name)
        assert newest == name
        assert seen(place, newest).read_text() == "new"
        assert seen(place, older).read_text() == "old"
        assert len(os.fsencode(older)) <= 255

    def test_names_that_are_no_text(self, place: Path) -> None:
        """[view-2]."""
        name = os.fsencode(place) + b"/caf\xe9"
        os.close(os.open(name, os.O_CREAT))
        os.unlink(name)
        assert listing(place) == [os.fsdecode(b"caf\xe9")]

    def test_moved_directory_shows_what_was_deleted_from_it(self, place: Path) -> None:
        """[view-1]: it is known by its inode."""
        (place / "old").mkdir()
        (place / "old/file").touch()
        (place / "old/file").unlink()
        (place / "old").rename(place / "new")
        assert listing(place / "new") == ["file"]

    def test_part_of_the_tree_that_is_mounted_elsewhere(self, place: Path, tmp_path: Path) -> None:
        """[view-1]: as in containers; so does moving out of it."""
        tree(place / "tree")
        subprocess.run(["mount", "--bind", place, tmp_path], check=True)
        try:
            move_away(tmp_path / "tree")
            assert seen(tmp_path, "tree/file").read_text() == "content"
            seen(tmp_path, "tree").rename(tmp_path / "tree")
        finally:
            subprocess.run(["umount", tmp_path], check=True)
        assert (place / "tree/file").read_text() == "content"

    def test_large_directory_is_listed_whole(self, place: Path) -> None:
        """[view-2]: page by page, each name once, of both kinds of deletes."""
        for name in ("one", "two"):
            (place / name).mkdir()
            for number in range(1200):
                (place / name / f"file{number}").touch()
        rm_rf(place / "one")
        move_away(place / "two")
        expected = sorted(f"file{number}" for number in range(1200))
        for name in ("one", "two"):
            assert sorted(os.listdir(seen(place, name))) == expected


class TestReading:
    def test_attributes_are_those_of_what_was_deleted(self, place: Path) -> None:
        """[view-3]: but setuid and setgid of files are dead."""
        file = place / "file"
        file.write_text("content")
        os.chown(file, 30001, 30002)
        file.chmod(0o6755)
        os.utime(file, ns=(5, 7))
        os.setxattr(file, "user.x", b"value")
        file.unlink()
        found = seen(place, "file")
        attr = found.stat()
        assert (attr.st_uid, attr.st_gid, attr.st_mode) == (30001, 30002, stat.S_IFREG | 0o755)
        assert (attr.st_size, attr.st_mtime_ns, attr.st_nlink) == (7, 7, 1)
        assert os.listxattr(found) == ["user.x"]
        assert os.getxattr(found, "user.x") == b"value"

    def test_access_control_lists_hold(self, place: Path) -> None:
        """[view-5]."""
        file = place / "file"
        as_user(STRANGER, lambda: file.write_text("content"))
        file.chmod(0o600)
        as_user(STRANGER, lambda: os.chmod(file, 0o600))
        subprocess.run(["setfacl", "-m", f"u:{OWNER.uid}:r", str(file)], check=True)
        as_user(OWNER, file.unlink)
        assert as_user(OWNER, lambda: seen(place, "file").read_text()) == "content"

    @pytest.mark.parametrize("delete", DELETES.values(), ids=DELETES)
    def test_nothing_can_be_changed(self, place: Path, delete: Callable[[Path], None]) -> None:
        """[view-4]."""
        delete(tree(place / "tree"))
        top = seen(place, "tree")
        (place / "live").touch()
        changes: list[Callable[[], object]] = [
            lambda: (top / "file").write_text("x"),
            lambda: os.truncate(top / "file", 0),
            lambda: os.close(os.open(top / "file", os.O_RDWR)),
            lambda: os.close(os.open(top / "file", os.O_RDONLY | os.O_TRUNC)),
            lambda: (top / "file").chmod(0o777),
            lambda: os.utime(top / "file"),
            lambda: os.chown(top / "file", 1, 1),
            lambda: os.setxattr(top / "file", "user.x", b"1"),
            lambda: os.removexattr(top / "file", "user.x"),
            lambda: (top / "file").unlink(),
            lambda: (top / "sub/empty").rmdir(),
            lambda: (top / "new").touch(),
            lambda: (top / "new").mkdir(),
            lambda: os.mkfifo(top / "new"),
            lambda: os.symlink("x", top / "new"),
            lambda: os.link(place / "live", top / "new"),
            lambda: os.link(top / "file", place / "new"),
            lambda: os.rename(place / "live", top / "live"),
            lambda: os.rename(top / "file", top / "other"),
            lambda: os.rename(top / "file", place / ".trashbin/x"),
            lambda: os.rename(top / "file", place / ".trashbin/now/x"),
            lambda: os.rename(top.parent, place / "hour"),
            lambda: os.mkdir(top.parent / "new"),
        ]
        got = [name_of(errno_of(change)) for change in changes]
        assert got == ["EROFS"] * len(changes)
        assert (top / "file").read_text() == "content"

    def test_file_that_is_open_is_read_on_after_it_was_restored(self, place: Path) -> None:
        """[view-3]."""
        (place / "file").write_text("content")
        (place / "file").unlink()
        with seen(place, "file").open() as file:
            seen(place, "file").rename(place / "file")
            assert file.read() == "content"

    def test_special_files_in_a_tree(self, place: Path) -> None:
        """[view-3]."""
        top = tree(place / "tree")
        os.mkfifo(top / "fifo")
        os.mknod(top / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(top):
            listener.bind("socket")
        move_away(top)
        top = seen(place, "tree")
        assert stat.S_ISFIFO((top / "fifo").stat().st_mode)
        assert stat.S_ISSOCK((top / "socket").stat().st_mode)
        assert name_of(errno_of((top / "device").read_bytes)) == "EACCES"

    def test_deleted_name_of_a_file_leads_to_its_content(self, place: Path) -> None:
        """[view-7]."""
        (place / "one").write_text("content")
        os.link(place / "one", place / "two")
        (place / "two").unlink()
        found = seen(place, "two")
        assert found.read_text() == "content"
        (place / "one").write_text("changed")
        assert found.read_text() == "changed"
        found.rename(place / "three")
        assert (place / "three").samefile(place / "one")

    def test_deleted_name_of_a_file_that_is_gone_says_so(
        self, mounted: Gateway, place: Path, request: pytest.FixtureRequest
    ) -> None:
        """[view-7]: another client has really removed what it is another name of."""
        (place / "one").write_text("content")
        os.link(place / "one", place / "two")
        (place / "two").unlink()
        kind, _, top = mounted.source.partition(":")
        behind = f"{top}/{(place / 'one').relative_to(mounted.path)}"
        if kind == "posix":
            os.unlink(behind)
        else:
            with file_system(request.getfixturevalue("cluster")) as fs:
                fs.unlink(behind)
        found = seen(place, "two")
        assert found.lstat().st_size == 7
        wait_for(lambda: name_of(errno_of(found.read_text)) == "ENODATA")

    def test_replaced_directory_is_seen(self, place: Path) -> None:
        """[view-7]."""
        (place / "old").mkdir(mode=0o750)
        os.setxattr(place / "old", "user.x", b"value")
        (place / "new").mkdir()
        os.rename(place / "new", place / "old")
        found = seen(place, "old")
        assert stat.S_IMODE(found.stat().st_mode) == 0o750
        assert os.getxattr(found, "user.x") == b"value"
        assert os.listdir(found) == []

    def test_nothing_is_held_once_the_kernel_forgets(self, mounted: Gateway, place: Path) -> None:
        """What a walk made known is given back."""
        rm_rf(tree(place / "tree"))
        move_away(tree(place / "other"))
        listing(place)
        with open("/proc/sys/vm/drop_caches", "w") as caches:
            caches.write("2")
        wait_for(lambda: mounted.metric("nodes") < 100)


class TestMovingOut:
    @pytest.mark.parametrize("name", ["file", "tree", "tree/file", "tree/sub"])
    @pytest.mark.parametrize("target", ["other", "empty"])
    @pytest.mark.parametrize("delete", DELETES.values(), ids=DELETES)
    def test_it_replaces_nothing(
        self, place: Path, delete: Callable[[Path], None], name: str, target: str
    ) -> None:
        """[view-6]: where rename(2) would have refused in another way, it may do so."""
        tree(place / "tree")
        (place / "file").write_text("deleted")
        for victim in ("file", "tree"):
            delete(place / victim)
        (place / "other").write_text("live")
        (place / "empty").mkdir()
        found = seen(place, name)
        refusal = errno_of(lambda: os.rename(found, place / target))
        assert name_of(refusal) in ("EEXIST", "ENOTDIR", "EISDIR")
        assert (place / "other").read_text() == "live"
        found.rename(place / "back")
        assert (place / "back").exists()

    def test_mv_says_what_is_in_the_way_and_loses_nothing(self, place: Path) -> None:
        """[view-6]."""
        (place / "file").write_text("deleted")
        (place / "file").unlink()
        (place / "file").write_text("live")
        found = seen(place, "file")
        done = subprocess.run(
            ["mv", str(found), str(place / "file")], capture_output=True, text=True
        )
        assert done.returncode
        assert "File exists" in done.stderr
        assert (place / "file").read_text() == "live"
        assert found.read_text() == "deleted"

    def test_it_needs_the_right_to_write_there(self, place: Path) -> None:
        """[view-6], [perm-5]."""
        (place / "mine").mkdir()
        as_user(STRANGER, lambda: (place / "file").write_text("content"))
        as_user(STRANGER, (place / "file").unlink)
        move = lambda: os.rename(seen(place, "file"), place / "mine/file")  # noqa: E731
        assert name_of(errno_of(lambda: as_user(STRANGER, move))) == "EACCES"
        as_user(STRANGER, lambda: os.rename(seen(place, "file"), place / "file"))
        assert (place / "file").stat().st_uid == STRANGER.uid

    def test_directories_on_the_way_stay(self, place: Path) -> None:
        """[view-6]."""
        (place / "a").mkdir()
        (place / "a/file").touch()
        (place / "a/file").unlink()
        refusal = errno_of(lambda: os.rename(seen(place, "a"), place / "b"))
        assert name_of(refusal) == "EROFS"
        assert not (place / "b").exists()

    def test_out_of_the_mount_it_is_copied_and_kept(self, place: Path, tmp_path: Path) -> None:
        """[view-6]."""
        rm_rf(tree(place / "tree"))
        done = subprocess.run(
            ["mv", str(seen(place, "tree")), str(tmp_path / "tree")], capture_output=True, text=True
        )
        assert done.returncode
        assert "Read-only file system" in done.stderr
        assert (tmp_path / "tree/sub/deep").read_text() == "deep content"
        assert listing(place) == ["tree", *(f"tree/{name}" for name in TREE)]

    def test_every_version_can_be_had(self, place: Path) -> None:
        """[view-6]: what has a suffix comes back under any name."""
        for content in ("old", "new"):
            (place / "file").write_text(content)
            (place / "file").unlink()
        (older,) = set(listing(place)) - {"file"}
        seen(place, older).rename(place / "old version")
        assert (place / "old version").read_text() == "old"
        assert listing(place) == ["file"]


class TestNow:
    def _purging(self, gateway: Gateway) -> float:
        return gateway.metric('trash_bypasses_total{reason="now"}')

    @pytest.mark.parametrize("kind", ["file", "tree", "empty"])
    def test_nothing_is_kept(self, mounted: Gateway, place: Path, kind: str) -> None:
        """[now-1]."""
        victim = place / kind
        if kind == "tree":
            tree(victim)
        elif kind == "file":
            victim.write_text("content")
        else:
            victim.mkdir()
        before = self._purging(mounted)
        subprocess.run(["mv", str(victim), str(place / ".trashbin/now") + "/"], check=True)
        assert not victim.exists()
        assert os.listdir(place / ".trashbin/now") == []
        assert listing(place) == []
        assert [item for item in mounted.trash() if item["path"].startswith(place.name)] == []
        assert self._purging(mounted) == before + 1

    def test_space_is_given_back_at_once(self, mounted: Gateway, place: Path) -> None:
        """[now-1]: long before the next round of expiry."""
        removed = 'purge_removed_total{kind="file"}'
        before = mounted.metric(removed)
        tree(place / "tree").rename(place / ".trashbin/now/tree")
        wait_for(lambda: mounted.metric(removed) >= before + 3)

    def test_it_needs_the_rights_of_a_delete(self, place: Path) -> None:
        """[now-2]."""

        def delete() -> None:
            os.rename(place / "tree", place / ".trashbin/now/tree")

        (place / "tree").mkdir()
        (place / "tree").chmod(0o777)
        for mode, expected in ((0o755, "EACCES"), (0o1777, "EPERM")):
            place.chmod(mode)
            assert name_of(errno_of(lambda: as_user(STRANGER, delete))) == expected
        place.chmod(0o777)
        (place / "tree").chmod(0o755)
        assert name_of(errno_of(lambda: as_user(STRANGER, delete))) == "EACCES"
        (place / "tree").chmod(0o777)
        as_user(STRANGER, delete)
        assert not (place / "tree").exists()

    def test_protected_directories_hold(self, place: Path) -> None:
        """[now-2], [protect-1]."""
        tree(place / "tree")
        os.setxattr(place, "user.cephfs_ext.protect", b"1")
        for name in ("tree", "tree/file"):
            refusal = errno_of(lambda name=name: os.rename(place / name, place / ".trashbin/now/x"))  # type: ignore[misc]
            assert name_of(refusal) == "EPERM"
        os.removexattr(place, "user.cephfs_ext.protect")

    def test_other_names_of_a_file_stay(self, place: Path) -> None:
        """[now-1], [link-4]: and so does what a tombstone promises."""
        (place / "one").write_text("content")
        for name in ("two", "three"):
            os.link(place / "one", place / name)
        (place / "two").rename(place / ".trashbin/now/two")
        wait_for(lambda: (place / "one").stat().st_nlink == 2)
        (place / "three").unlink()
        (place / "one").rename(place / ".trashbin/now/one")
        wait_for(lambda: "three" in listing(place))
        wait_for(lambda: errno_of(seen(place, "three").read_text) == 0)
        seen(place, "three").rename(place / "three")
        assert (place / "three").read_text() == "content"

    def test_open_file_stays_usable(self, place: Path) -> None:
        """[now-1], [unlink-5]."""
        with (place / "file").open("w+") as file:
            (place / "file").rename(place / ".trashbin/now/file")
            file.write("content")
            file.seek(0)
            assert file.read() == "content"
            assert os.fstat(file.fileno()).st_nlink == 0

    def test_nothing_else_works_there(self, place: Path) -> None:
        """[now-1]."""
        now = place / ".trashbin/now"
        (place / "file").touch()
        attempts: list[Callable[[], object]] = [
            lambda: (now / "x").touch(),
            lambda: (now / "x").mkdir(),
            lambda: os.link(place / "file", now / "x"),
            lambda: now.chmod(0o700),
        ]
        assert [name_of(errno_of(attempt)) for attempt in attempts] == ["EROFS"] * 4
        assert name_of(errno_of(now.rmdir)) == "EPERM"
        assert name_of(errno_of(lambda: now.rename(place / "now"))) == "EROFS"
        assert name_of(errno_of(lambda: (now / "x").stat())) == "ENOENT"


class Secrets(NamedTuple):
    """What one user has deleted, and another must not see."""

    top: Path
    hour: Path
    older: str
    """Name of an older version of `file`, which the other user has found out somehow."""


@pytest.fixture(scope="module")
def secrets(mounted: Gateway) -> Secrets:
    """Have one user delete things that another must not see."""
    top = mounted.path / "secrets"
    top.mkdir()
    top.chmod(0o777)
    as_user(OWNER, lambda: _delete_secrets(top))
    found = as_user(OWNER, lambda: listing(top))
    (older,) = [name for name in found if name.startswith("file~")]
    assert set(PATHS) < set(found)
    (hour,) = as_user(OWNER, lambda: hours(top))
    return Secrets(top, top / ".trashbin" / hour, older)


def _delete_secrets(top: Path) -> None:
    os.umask(0o022)
    for number in range(2):
        (top / "file").write_text(f"secret {number}")
        (top / "file").unlink()
    (top / "link").symlink_to("secret target")
    (top / "link").unlink()
    (top / "way").mkdir()
    (top / "way/file").write_text("secret")
    os.setxattr(top / "way/file", "user.secret", b"secret")
    (top / "way/file").unlink()
    (top / "linked").write_text("secret")
    os.link(top / "linked", top / "other name")
    (top / "linked").unlink()
    (top / "run").write_text("#!/bin/sh\nexit 0\n")
    (top / "run").chmod(0o755)
    (top / "run").unlink()
    rm_rf(tree(top / "rm"))
    move_away(tree(top / "mv"))


PATHS = (
    "file",
    "link",
    "way",
    "way/file",
    "linked",
    "run",
    *("rm", "rm/file", "rm/sub/deep"),
    *("mv", "mv/file", "mv/sub/deep", "mv/sub/link"),
)
"""What the owner sees; there is a `file~HHMMSS` besides."""

TRIES: dict[str, Callable[[Secrets], object]] = {
    "list the hour": lambda at: os.listdir(at.hour),
    "look at the hour": lambda at: at.hour.stat(),
    "look at a file": lambda at: (at.hour / "file").stat(),
    "look at its older version": lambda at: (at.hour / at.older).stat(),
    "open a file": lambda at: (at.hour / "file").read_text(),
    "open its older version": lambda at: (at.hour / at.older).read_text(),
    "open for nothing": lambda at: os.open(at.hour / "file", os.O_PATH),
    "open for writing": lambda at: os.open(at.hour / "file", os.O_RDWR),
    "ask for access": lambda at: _accessed(at.hour / "file"),
    "read a link": lambda at: os.readlink(at.hour / "link"),
    "list a directory on the way": lambda at: os.listdir(at.hour / "way"),
    "open below a directory on the way": lambda at: (at.hour / "way/file").read_text(),
    "read an attribute": lambda at: os.getxattr(at.hour / "way/file", "user.secret"),
    "list attributes": lambda at: os.listxattr(at.hour / "way/file"),
    "list a tree of rm -rf": lambda at: os.listdir(at.hour / "rm"),
    "open in a tree of rm -rf": lambda at: (at.hour / "rm/sub/deep").read_text(),
    "list a tree that was moved": lambda at: os.listdir(at.hour / "mv"),
    "list below a tree that was moved": lambda at: os.listdir(at.hour / "mv/sub"),
    "open in a tree that was moved": lambda at: (at.hour / "mv/sub/deep").read_text(),
    "follow a link in a tree": lambda at: (at.hour / "mv/sub/link").read_text(),
    "read a name of a linked file": lambda at: (at.hour / "linked").read_text(),
    "link it": lambda at: os.link(at.hour / "file", at.top / "mine"),
    "move a file out": lambda at: os.rename(at.hour / "file", at.top / "mine"),
    "move a tree out": lambda at: os.rename(at.hour / "mv", at.top / "mine"),
    "move a part of a tree out": lambda at: os.rename(at.hour / "mv/sub", at.top / "mine"),
    "move it to now": lambda at: os.rename(at.hour / "file", at.hour.parent / "now/file"),
    "run it": lambda at: subprocess.run([at.hour / "run"], check=False),
    "go there": lambda at: os.chdir(at.hour / "mv"),
    "from a directory below": lambda at: _from_below(at),
    "list with a program": lambda at: _found(at),
}


def _accessed(path: Path) -> None:
    if not os.access(path, os.F_OK):
        raise FileNotFoundError(errno.ENOENT, "no access")


def _from_below(at: Secrets) -> list[str]:
    way = at.top / "way/.trashbin"
    assert os.listdir(way) == ["now"]
    return os.listdir(way / at.hour.name)


def _found(at: Secrets) -> None:
    trash = at.hour.parent
    done = subprocess.run(["find", str(trash)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(trash), str(trash / "now")]
    raise FileNotFoundError(errno.ENOENT, "nothing was found")


class TestPrivacy:
    @pytest.mark.parametrize("look", TRIES.values(), ids=TRIES)
    @pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
    def test_others_see_nothing(
        self, secrets: Secrets, look: Callable[[Secrets], object], *, is_warm: bool
    ) -> None:
        """[view-5]: also right after the kernel has seen it all for its owner."""
        if is_warm:
            as_user(OWNER, lambda: listing(secrets.top))
        assert name_of(errno_of(lambda: as_user(STRANGER, lambda: look(secrets)))) == "ENOENT"

    def test_open_directories_of_others_lead_nowhere(self, secrets: Secrets) -> None:
        """[view-5]: one that was opened by who may."""
        for name in ("mv", "rm", "way"):
            fd = os.open(secrets.hour / name, os.O_RDONLY)
            try:
                assert as_user(STRANGER, functools.partial(_led_to, fd)) == []
            finally:
                os.close(fd)

    def test_two_users_who_look_at_once_see_their_own(self, place: Path) -> None:
        """[view-5]: again and again, in the same directories."""
        for user in (OWNER, STRANGER):
            as_user(user, lambda user=user: _delete_own(place, user.uid))  # type: ignore[misc]
        with (
            spawn(lambda: _look_often(place, OWNER.uid), OWNER) as one,
            spawn(lambda: _look_often(place, STRANGER.uid), STRANGER) as other,
        ):
            assert one.result() == other.result() == 0

    def test_what_one_owns_in_the_tree_of_another_is_seen_alone(self, place: Path) -> None:
        """[view-5], [perm-5]."""
        (place / "shared").mkdir()
        (place / "shared").chmod(0o777)
        as_user(OWNER, lambda: (place / "shared/theirs").write_text("theirs"))
        as_user(STRANGER, lambda: (place / "shared/mine").write_text("mine"))
        as_user(OWNER, lambda: rm_rf(place / "shared"))
        both = ["shared", "shared/mine", "shared/theirs"]
        assert as_user(OWNER, lambda: listing(place)) == both
        assert as_user(STRANGER, lambda: listing(place)) == ["shared", "shared/mine"]
        read = lambda: seen(place, "shared/mine").read_text()  # noqa: E731
        assert as_user(STRANGER, read) == "mine"

    @pytest.mark.parametrize("delete", DELETES.values(), ids=DELETES)
    def test_modes_hold_in_what_one_has_deleted(
        self, place: Path, delete: Callable[[Path], None]
    ) -> None:
        """[view-5]: what its place would not have shown."""
        top = place / "tree"
        as_user(OWNER, top.mkdir)
        top.chmod(0o777)
        as_user(STRANGER, lambda: (top / "private").write_text("private"))
        as_user(STRANGER, lambda: (top / "private").chmod(0o600))
        if delete is move_away:
            as_user(STRANGER, lambda: (top / "room").mkdir(mode=0o700))
            as_user(STRANGER, lambda: (top / "room/file").write_text("private"))
        as_user(OWNER, lambda: delete(top))
        found = as_user(OWNER, lambda: seen(place, "tree"))
        looks: list[Callable[[], object]] = [(found / "private").read_text]
        if delete is move_away:
            looks += [
                lambda: os.listdir(found / "room"),
                (found / "room/file").stat,
                (found / "room/file").read_text,
                lambda: os.rename(found / "room/file", place / "mine"),
            ]
        for look in looks:
            assert name_of(errno_of(lambda look=look: as_user(OWNER, look))) == "EACCES"  # type: ignore[misc]

    def test_owner_sees_what_somebody_else_has_deleted(self, place: Path) -> None:
        """[view-5], [perm-5]."""
        as_user(STRANGER, lambda: (place / "file").write_text("content"))
        as_user(OWNER, lambda: (place / "file").unlink())
        for user in (OWNER, STRANGER):
            assert as_user(user, lambda: listing(place)) == ["file"]
            assert as_user(user, lambda: seen(place, "file").read_text()) == "content"

    def test_root_sees_everything_on_the_host_only(self, secrets: Secrets) -> None:
        """[view-5], [perm-4]: in a container it is nobody special."""
        assert set(PATHS) < set(listing(secrets.top))
        for namespace in ("--mount", "--pid"):
            command = ["unshare", namespace, "--fork", "find", str(secrets.hour.parent)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            assert done.stdout.split() == [
                str(secrets.hour.parent),
                str(secrets.hour.parent / "now"),
            ]
            command = ["unshare", namespace, "--fork", "cat", str(secrets.hour / "mv/file")]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode
            assert "No such file" in done.stderr


def _led_to(fd: int) -> list[str]:
    """Return what an open directory shows."""
    shown = []
    for look in (os.stat, functools.partial(os.open, flags=os.O_RDONLY)):
        with contextlib.suppress(FileNotFoundError):
            look("file", dir_fd=fd)
            shown.append("file")
    with contextlib.suppress(FileNotFoundError):
        shown += os.listdir(f"/proc/self/fd/{fd}")
    return shown


def _delete_own(place: Path, uid: int) -> None:
    (place / f"{uid}").mkdir()
    (place / f"{uid}/file").write_text(f"{uid}")
    rm_rf(place / f"{uid}")


def _look_often(place: Path, uid: int) -> int:
    """Look again and again; return how often there was something else than one's own."""
    wrong = 0
    for _ in range(_LOOKS):
        wrong += listing(place) != [f"{uid}", f"{uid}/file"]
        wrong += seen(place, f"{uid}/file").read_text() != f"{uid}"
    return wrong


@pytest.mark.parametrize("mounted", ["ceph"], indirect=True, scope="module")
class TestQuota:
    @pytest.fixture
    def realm(self, place: Path) -> Path:
        """Return a directory with a quota, and so with a trash of its own."""
        (place / "realm").mkdir()
        os.setxattr(place / "realm", "ceph.quota.max_files", b"1000")
        return place / "realm"

    def test_what_was_below_it_is_seen_from_above_and_below(self, realm: Path) -> None:
        """[view-1]."""
        place = realm.parent
        rm_rf(tree(realm / "tree"))
        rm_rf(tree(place / "other"))
        names = ["tree", *(f"tree/{name}" for name in TREE)]
        assert listing(realm) == names
        assert [name for name in listing(place) if name.startswith("realm/")] == [
            f"realm/{name}" for name in names
        ]
        assert seen(place, "other/sub/deep").exists()

    def test_it_is_restored_there(self, realm: Path) -> None:
        """[view-6]."""
        move_away(tree(realm / "tree"))
        seen(realm.parent, "realm/tree").rename(realm / "tree")
        assert (realm / "tree/sub/deep").read_text() == "deep content"

    def test_across_it_nothing_is_lost(self, realm: Path) -> None:
        """[view-6]: mv(1) gets it out, or says that it didn't."""
        place = realm.parent
        move_away(tree(realm / "tree"))
        (realm / "file").write_text("content")
        (realm / "file").unlink()
        for name in ("tree/sub", "file", "tree"):
            subprocess.run(["mv", str(seen(realm, name)), str(place)], capture_output=True)
        assert (place / "sub/deep").read_text() == "deep content"
        assert (place / "file").read_text() == "content"
        assert (place / "tree/file").read_text() == "content"

    def test_now_works_at_a_full_quota(self, realm: Path) -> None:
        """[now-1], [quota-2]."""
        tree(realm / "tree")
        os.setxattr(realm, "ceph.quota.max_files", b"3")
        (realm / "tree").rename(realm / ".trashbin/now/tree")
        assert os.listdir(realm) == []


_SUFFIX = re.compile(r"~\d{6}(\.\d+)?$")


def _told(gateway: Gateway, place: Path) -> set[str]:
    """Return the paths that `trash ls` lists for who asks, from a directory on."""
    below = base64.b64encode(os.fsencode(place.relative_to(gateway.path))).decode()
    with contextlib.closing(Client(str(gateway.directory / "control.sock"))) as client:
        items = client.post("/v1/trash/list", TrashQuery(below=below), TrashListing).items
    return {os.path.relpath(item.path, place.name) for item in items if item.path is not None}


def _shown(place: Path) -> tuple[set[str], set[str]]:
    """Return the paths that a view shows, without suffixes: all, and those of files."""
    everything: set[str] = set()
    files: set[str] = set()
    for hour in hours(place):
        top = place / ".trashbin" / hour
        for above, dirs, names in os.walk(top):
            parts = [_SUFFIX.sub("", part) for part in Path(above).relative_to(top).parts]
            files |= {"/".join([*parts, _SUFFIX.sub("", name)]) for name in names}
            everything |= {"/".join([*parts, _SUFFIX.sub("", name)]) for name in dirs}
    return everything | files, files


def _play(place: Path, seed: int) -> None:
    """Make and delete things at random, in few places."""
    os.umask(0)  # of a process of its own
    random = Random(seed)
    for _ in range(40):
        directory = place / random.choice(("a", "a/b", "c"))
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o777)
        path = directory / random.choice("xyz")
        with contextlib.suppress(OSError):
            match random.randrange(6):
                case 0:
                    path.unlink()
                case 1:
                    rm_rf(path.parent)
                case 2:
                    move_away(path.parent)
                case 3:
                    os.link(path, directory / random.choice("xyz"))
                case _:
                    path.write_text(f"{seed}")


@pytest.mark.parametrize("seed", range(4))
def test_it_shows_what_trash_ls_lists(mounted: Gateway, place: Path, seed: int) -> None:
    """[view-5], [perm-5]: to two users, and to root, whatever they have deleted."""
    for number, user in enumerate((OWNER, STRANGER, OWNER, STRANGER)):
        as_user(user, functools.partial(_play, place, 10 * seed + number))
    for user in (OWNER, STRANGER):
        told = as_user(user, lambda: _told(mounted, place))
        shown, files = as_user(user, lambda: _shown(place))
        assert told <= shown
        assert {path for path in files if not _is_at_or_below(path, told)} == set()


def _is_at_or_below(path: str, tops: set[str]) -> bool:
    return any(path == top or path.startswith(top + "/") for top in tops)
