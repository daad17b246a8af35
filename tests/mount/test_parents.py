"""Parents that are gone: a restore makes them again, as they were for who may have them so."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cephfs_ext.core.errors import ExitCode
from tests.commands import run_as
from tests.gateway import Gateway
from tests.posix import acl
from tests.posix.actors import MEMBER, OWNER, STRANGER, User, as_user

_GROUP = 30077


class Was(NamedTuple):
    mode: int
    uid: int
    gid: int
    default: bytes | None


def _look(path: Path) -> Was:
    status, default = path.stat(), None
    if acl.DEFAULT in os.listxattr(path):
        default = os.getxattr(path, acl.DEFAULT)
    return Was(status.st_mode & 0o7777, status.st_uid, status.st_gid, default)


def _look_at_all(place: Path) -> list[Was]:
    return [_look(place / path) for path in ("d", "d/e", "d/e/f")]


def _plant(place: Path, owner: User = OWNER) -> list[Was]:
    """Make directories of different kinds, and a file in the last."""
    (place / "d/e/f").mkdir(parents=True)
    (place / "d/e/f/file").write_text("content")
    os.chown(place / "d", owner.uid, _GROUP)
    (place / "d").chmod(0o2775)
    os.chown(place / "d/e", owner.uid, owner.gid)
    (place / "d/e").chmod(0o1777)
    acl.write(place / "d/e/f", acl.extended(0o750, acl.Entry(acl.USER, 5, 30009)), acl.DEFAULT)
    os.chown(place / "d/e/f", owner.uid, owner.gid)
    (place / "d/e/f").chmod(0o777)
    return _look_at_all(place)


def _id(gateway: Gateway, path: Path) -> str:
    where = str(path.relative_to(gateway.path))
    (entry_id,) = [item["id"] for item in gateway.trash() if item["path"] == where]
    return str(entry_id)


def _remove(gateway: Gateway, top: Path, how: str) -> None:
    """Take a directory away by another delete than that of the file; `purged`: for good."""
    if how == "rm":
        subprocess.run(["rm", "-r", str(top)], check=True)
        return
    top.rename(top.parent / ".trashbin" / top.name)
    if how == "purged":
        gateway.run("trash", "purge", _id(gateway, top), "--yes", check=True)


def _restore(gateway: Gateway, path: Path, *words: str) -> dict[str, Any]:
    report = gateway.json("trash", "restore", *words, _id(gateway, path))
    (item,) = report["items"]
    return dict(item)


@pytest.mark.parametrize("how", ["rm", "moved", "purged"])
def test_all_of_them_are_as_they_were(mounted: Gateway, place: Path, how: str) -> None:
    """[trash-6]: whatever became of them since."""
    before = _plant(place)
    (place / "d/e/f/file").unlink()
    _remove(mounted, place / "d", how)
    made = _restore(mounted, place / "d/e/f/file")["made"]
    assert (place / "d/e/f/file").read_text() == "content"
    assert _look_at_all(place) == before
    assert [(one["mode"], one["uid"], one["gid"]) for one in made] == [one[:3] for one in before]
    assert made[-1]["path"] == f"{place.name}/d/e/f"


def test_part_of_a_tree_brings_its_parents_along(mounted: Gateway, place: Path) -> None:
    """[trash-6]: those are in the trash themselves."""
    before = _plant(place)
    subprocess.run(["rm", "-r", str(place / "d")], check=True)
    mounted.run("trash", "restore", str(place / "d/e/f/file"), check=True)
    assert _look_at_all(place) == before


def test_they_are_known_after_a_crash(unmounted: Gateway) -> None:
    """[trash-6]: of what was deleted a second before."""
    with unmounted.mounted():
        before = _plant(unmounted.path)
        (unmounted.path / "d/e/f/file").unlink()
        unmounted.umount()
        unmounted.mount()
        _remove(unmounted, unmounted.path / "d", "purged")
        unmounted.kill()
        unmounted.mount()
        _restore(unmounted, unmounted.path / "d/e/f/file")
        assert _look_at_all(unmounted.path) == before


def test_dry_run_says_which_and_makes_none(mounted: Gateway, place: Path) -> None:
    """[trash-6]."""
    before = _plant(place)
    (place / "d/e/f/file").unlink()
    _remove(mounted, place / "d/e", "purged")
    item = _restore(mounted, place / "d/e/f/file", "--dry-run")
    assert [(one["mode"], one["uid"], one["gid"]) for one in item["made"]] == [
        one[:3] for one in before[1:]
    ]
    assert item["outcome"] == "would_restore"
    assert not (place / "d/e").exists()
    words = ("trash", "restore", "-n", str(place / "d/e/f/file"))
    said = mounted.run(*words, check=True).stdout
    assert f"  would make {place.name}/d/e: mode 1777, uid {OWNER.uid}, gid {OWNER.gid}\n" in said


class TestUsers:
    def restore_as(self, gateway: Gateway, user: User, path: Path) -> dict[str, Any]:
        command = gateway.command("trash", "restore", str(path), "--json")
        done = run_as(user.uid, *command)
        assert done.returncode == ExitCode.OK, done
        (item,) = json.loads(done.stdout)["items"]
        return dict(item)

    def test_owner_gets_them_as_they_were(self, mounted: Gateway, place: Path) -> None:
        """[trash-6]."""
        before = _plant(place)
        as_user(OWNER, (place / "d/e/f/file").unlink)
        _remove(mounted, place / "d", "purged")
        self.restore_as(mounted, OWNER, place / "d/e/f/file")
        assert _look_at_all(place) == before

    def test_others_get_directories_of_their_own(self, mounted: Gateway, place: Path) -> None:
        """[trash-6]: no more open than they were, and no group but their own."""
        _plant(place)
        as_user(STRANGER, (place / "d/e/f/file").unlink)
        (place / "d").chmod(0o2750)
        _remove(mounted, place / "d", "moved")
        made = self.restore_as(mounted, STRANGER, place / "d/e/f/file")["made"]
        modes = [0o750, 0o755, 0o755]
        expected = [Was(mode, STRANGER.uid, STRANGER.gid, None) for mode in modes]
        assert _look_at_all(place) == expected
        assert [(one["mode"], one["uid"], one["gid"]) for one in made] == [w[:3] for w in expected]

    def test_who_is_in_their_group_keeps_that(self, mounted: Gateway, place: Path) -> None:
        """[trash-6]."""
        (place / "team").mkdir()
        os.chown(place / "team", OWNER.uid, MEMBER.uid)  # `run_as` has one group of that number
        (place / "team").chmod(0o2775)
        (place / "team/file").touch()
        os.chown(place / "team/file", MEMBER.uid, MEMBER.uid)
        subprocess.run(["rm", str(place / "team/file")], check=True)
        _remove(mounted, place / "team", "purged")
        self.restore_as(mounted, MEMBER, place / "team/file")
        assert _look(place / "team")[:3] == (0o2775, MEMBER.uid, MEMBER.uid)

    def test_they_are_made_where_one_may_write_only(self, mounted: Gateway, place: Path) -> None:
        """[trash-6], [perm-5]: and nothing is left behind."""
        _plant(place)
        as_user(STRANGER, (place / "d/e/f/file").unlink)
        _remove(mounted, place / "d", "purged")
        place.chmod(0o755)
        command = mounted.command("trash", "restore", str(place / "d/e/f/file"))
        assert run_as(STRANGER.uid, *command).returncode == ExitCode.DENIED
        assert os.listdir(place) == []


def test_within_a_quota(mounted: Gateway, place: Path) -> None:
    """[trash-6]: where the storage has such a thing, its trash and journal are its own."""
    home = place / "home"
    home.mkdir()
    if mounted.source.startswith("ceph:"):
        os.setxattr(home, "ceph.quota.max_files", b"100000")
    before = _plant(home)
    (home / "d/e/f/file").unlink()
    _remove(mounted, home / "d", "purged")
    mounted.run("trash", "restore", str(home / "d/e/f/file"), check=True)
    assert _look_at_all(home) == before
