"""Holds: what somebody holds neither expires nor is purged, and comes back like anything else."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from cephfs_ext.core.errors import ExitCode
from tests.faults.storage import Back
from tests.gateway import Gateway
from tests.posix.actors import OWNER, STRANGER, as_user

_WAIT_S = 30.0


def _plant(top: Path) -> None:
    """Make a tree with everything that is kept in a way of its own."""
    (top / "deep/er").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "file").write_text("content")
    (top / "deep/er" / ("n" * 250)).write_text("long name")
    (top / "deep/linked").hardlink_to(top / "file")
    (top / "outside").hardlink_to(top.parent / "kept")
    (top / "link").symlink_to("file")


def _tree(gateway: Gateway, name: str = "tree") -> Path:
    top = gateway.path / name
    top.mkdir()
    if not (gateway.path / "kept").exists():
        (gateway.path / "kept").write_text("lives on")
    _plant(top)
    return top


def _remove(top: Path) -> None:
    subprocess.run(["rm", "-rf", str(top)], check=True)


def _contents(top: Path) -> dict[str, str]:
    paths = [path for path in sorted(top.rglob("*")) if path.is_file()]
    return {str(path.relative_to(top)): path.read_text() for path in paths}


def _item(gateway: Gateway, name: str) -> dict[str, Any]:
    (item,) = [item for item in gateway.trash() if item["path"] == name]
    return item


def _id(gateway: Gateway, name: str) -> str:
    entry_id: str = _item(gateway, name)["id"]
    return entry_id


def _hold(gateway: Gateway, name: str, *words: str) -> str:
    entry_id = _id(gateway, name)
    gateway.run("trash", "hold", entry_id, *words, check=True)
    return entry_id


class TestHold:
    def test_is_listed_with_who_and_why(self, gateway: Gateway) -> None:
        """[hold-1], [hold-4]."""
        _remove(_tree(gateway))
        _remove(_tree(gateway, "other"))
        entry_id = _hold(gateway, "tree", "--reason", "evidence\n\N{SNOWMAN}")
        item = _item(gateway, "tree")
        assert (item["held"], item["expires_at"]) == (True, None)
        assert item["held_entries"] == item["entries"]
        assert (item["held_by"]["uid"], item["held_by"]["reason"]) == (0, "evidence\n\N{SNOWMAN}")
        assert _item(gateway, "other")["held"] is False
        listing = gateway.json("trash", "ls", "--held", str(gateway.path))
        assert ([one["id"] for one in listing["items"]], listing["damaged"]) == ([entry_id], [])
        assert "(held)" in gateway.run("trash", "ls", str(gateway.path)).stdout
        assert "evidence\\n" in gateway.run("trash", "show", entry_id).stdout

    def test_comes_back_whole(self, gateway: Gateway) -> None:
        """[hold-3]: with its links, and no trace of the hold."""
        top = _tree(gateway)
        before = _contents(top)
        _remove(top)
        _hold(gateway, "tree")
        gateway.run("trash", "restore", str(top), check=True)
        assert _contents(top) == before
        assert (top / "file").samefile(top / "deep/linked")
        assert (top / "outside").samefile(gateway.path / "kept")
        assert os.readlink(top / "link") == "file"
        assert gateway.trash() == []
        _remove(top)
        assert _item(gateway, "tree")["held_by"] is None

    def test_is_seen_in_views_and_moved_out_of_them(self, gateway: Gateway) -> None:
        """[hold-3]: in the hour that it was deleted in."""
        top = _tree(gateway)
        before = _contents(top)
        _remove(top)
        _hold(gateway, "tree")
        hour = max(set(os.listdir(gateway.path / ".trashbin")) - {"now"})
        seen = gateway.path / ".trashbin" / hour / "tree"
        assert _contents(seen) == before
        seen.rename(top)
        assert _contents(top) == before

    def test_again_changes_nothing(self, gateway: Gateway) -> None:
        """[hold-4]: the first reason stays."""
        _remove(_tree(gateway))
        entry_id = _hold(gateway, "tree", "--reason", "first")
        before = _item(gateway, "tree")
        _hold(gateway, "tree", "--reason", "second")
        assert _item(gateway, "tree") == before
        for _ in range(2):
            done = gateway.run("trash", "release", entry_id, check=True)
            assert done.stdout.startswith(f"released: {entry_id}"), done
        assert _item(gateway, "tree")["held"] is False

    def test_what_is_not_there_is_said(self, gateway: Gateway) -> None:
        (gateway.path / "file").touch()
        (gateway.path / "file").unlink()
        entry_id, missing = _id(gateway, "file"), "0" * 16 + ".0000"
        done = gateway.run("trash", "hold", missing)
        assert (done.returncode, done.stderr[:9]) == (ExitCode.NOT_FOUND, "not found")
        done = gateway.run("trash", "hold", missing, entry_id)
        assert done.returncode == ExitCode.PARTIAL
        assert _item(gateway, "file")["held"] is True

    def test_reason_has_an_end(self, gateway: Gateway) -> None:
        (gateway.path / "file").touch()
        (gateway.path / "file").unlink()
        entry_id = _id(gateway, "file")
        done = gateway.run("trash", "hold", entry_id, "--reason", "\x01\N{PILE OF POO}" * 300)
        assert done.returncode == ExitCode.USAGE
        gateway.run("trash", "hold", entry_id, "--reason", "\x01\N{PILE OF POO}" * 250, check=True)
        assert _item(gateway, "file")["held_by"]["reason"] == "\x01\N{PILE OF POO}" * 250

    def test_is_not_purged(self, gateway: Gateway) -> None:
        """[hold-2]: before it is released."""
        for name in ("held", "other"):
            (gateway.path / name).write_text(name)
            (gateway.path / name).unlink()
        entry_id = _hold(gateway, "held")
        done = gateway.run("trash", "purge", entry_id, "--yes")
        assert (done.returncode, "release it first" in done.stderr) == (ExitCode.CONFLICT, True)
        gateway.run("trash", "purge", "--all", "--yes", check=True)
        assert [item["id"] for item in gateway.trash()] == [entry_id]
        gateway.run("trash", "release", entry_id, check=True)
        gateway.run("trash", "purge", entry_id, "--yes", check=True)
        assert gateway.trash() == []


def _as(gateway: Gateway, uid: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Carry out a command as a user who can reach the socket for everybody only."""
    environment = {**os.environ, "CEPHFS_EXT_SOCKET": str(gateway.directory / "control.sock")}
    return subprocess.run(
        gateway.command(*words),
        capture_output=True,
        text=True,
        timeout=120,
        user=uid,
        group=uid,
        extra_groups=[],
        env=environment,
    )


class TestRights:
    def test_everybody_holds_their_own(self, gateway: Gateway) -> None:
        """[hold-5]."""
        gateway.path.chmod(0o777)
        file = gateway.path / "file"
        as_user(OWNER, lambda: (file.write_text("content"), file.unlink()))
        entry_id = _id(gateway, "file")
        assert _as(gateway, STRANGER.uid, "trash", "hold", entry_id).returncode == ExitCode.DENIED
        assert _item(gateway, "file")["held"] is False
        assert _as(gateway, OWNER.uid, "trash", "hold", entry_id).returncode == ExitCode.OK
        assert _item(gateway, "file")["held_by"]["uid"] == OWNER.uid
        done = _as(gateway, STRANGER.uid, "trash", "release", entry_id)
        assert done.returncode == ExitCode.DENIED
        assert _as(gateway, OWNER.uid, "trash", "release", entry_id).returncode == ExitCode.OK

    def test_users_hold_so_much_and_no_more(self, unmounted: Gateway) -> None:
        """[hold-5]: `trash.held_max`; operators hold what they like."""
        with unmounted.mounted("-o", "trash.held_max=3") as gateway:
            gateway.path.chmod(0o777)

            def make() -> None:
                for name in ("a", "b"):
                    (gateway.path / name).mkdir()
                    (gateway.path / name / "file").touch()
                    subprocess.run(["rm", "-r", str(gateway.path / name)], check=True)

            as_user(OWNER, make)
            ids = [_id(gateway, name) for name in ("a", "b")]
            assert _as(gateway, OWNER.uid, "trash", "hold", ids[0]).returncode == ExitCode.OK
            done = _as(gateway, OWNER.uid, "trash", "hold", ids[1])
            assert (done.returncode, "trash.held_max" in done.stderr) == (ExitCode.DENIED, True)
            assert gateway.metric("trash_holds_refused_total") == 1
            assert _as(gateway, OWNER.uid, "trash", "hold", ids[0]).returncode == ExitCode.OK
            gateway.run("trash", "hold", ids[1], check=True)
            assert [item["held"] for item in gateway.trash()] == [True, True]
            assert _as(gateway, OWNER.uid, "trash", "release", ids[0]).returncode == ExitCode.OK
            (gateway.path / "c").touch()
            os.chown(gateway.path / "c", OWNER.uid, OWNER.gid)
            (gateway.path / "c").unlink()
            assert _as(gateway, OWNER.uid, "trash", "hold", _id(gateway, "c")).returncode == 0


class TestTime:
    def test_expires_only_once_it_is_released(self, unmounted: Gateway, back: Back) -> None:
        """[hold-1], [hold-2], [hold-4]: with what its tombstones stand for."""
        with unmounted.mounted() as gateway:
            top = _tree(gateway)
            before = _contents(top)
            _remove(top)
            entry_id = _hold(gateway, "tree")
            (gateway.path / "loose").write_text("goes")
            (gateway.path / "loose").unlink()
            (gateway.path / "kept").unlink()  # of its two names the last that isn't held
        back.age_trash()
        with unmounted.mounted("-o", "trash.expire_interval_s=1") as gateway:
            back.wait_for_removals()
            assert [item["id"] for item in gateway.trash()] == [entry_id]
            gateway.run("trash", "restore", entry_id, check=True)
            assert _contents(gateway.path / "tree") == before

    def test_released_expires(self, unmounted: Gateway, back: Back) -> None:
        """[hold-4]: at the next round if its time is over."""
        options = ("-o", "trash.expire_interval_s=1,trash.retention_s=0")
        with unmounted.mounted() as gateway:
            _remove(_tree(gateway))
            entry_id = _hold(gateway, "tree")
            gateway.run("trash", "release", entry_id, check=True)
        back.age_trash()
        with unmounted.mounted(*options) as gateway:
            back.wait_for_removals()
            assert gateway.trash() == []

    def test_what_a_rule_said_counts_again(self, unmounted: Gateway, base: Path) -> None:
        """[hold-4]: its retention, not the usual one."""
        config = base / "config.toml"
        config.write_text('[[trash.policy]]\nname = "all"\nretention_s = "90d"\n')
        with unmounted.mounted("--config", str(config)) as gateway:
            _remove(_tree(gateway))
            before = _item(gateway, "tree")
            entry_id = _hold(gateway, "tree")
            assert _item(gateway, "tree")["expires_at"] is None
            gateway.run("trash", "release", entry_id, check=True)
            assert _item(gateway, "tree") == before

    def test_leaves_nothing_behind(self, unmounted: Gateway, back: Back) -> None:
        """Hours of which nothing is held any more go."""
        with unmounted.mounted("-o", "trash.expire_interval_s=1") as gateway:
            _remove(_tree(gateway))
            entry_id = _hold(gateway, "tree")
            gateway.run("trash", "release", entry_id, check=True)
            until = time.monotonic() + _WAIT_S
            homes = [name for name in back.names("") if name.endswith(".held")]
            assert "tombs.held" in homes
            while any(back.names(home) for home in homes):
                assert time.monotonic() < until, [back.names(home) for home in homes]
                time.sleep(0.1)


class TestKill:
    def test_in_the_middle_leaves_all_of_it(self, unmounted: Gateway) -> None:
        """[hold-4]: each entry is held or not, none is lost, and doing it again finishes it."""
        with unmounted.mounted() as gateway:
            top = gateway.path / "tree"
            for number in range(300):
                (top / f"d{number % 20}").mkdir(parents=True, exist_ok=True)
                (top / f"d{number % 20}/{number}").write_text(str(number))
            before = _contents(top)
            _remove(top)
            entry_id = _id(gateway, "tree")
            holding = subprocess.Popen(
                gateway.command("trash", "hold", entry_id),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            until = time.monotonic() + _WAIT_S
            while not _item(gateway, "tree")["held"]:
                assert time.monotonic() < until
            gateway.kill()
            holding.wait(timeout=_WAIT_S)
            gateway.mount()
            assert _item(gateway, "tree")["entries"] == 321
            gateway.run("trash", "hold", entry_id, check=True)
            item = _item(gateway, "tree")
            assert (item["held_entries"], item["entries"]) == (321, 321)
            gateway.run("trash", "restore", entry_id, check=True)
            assert _contents(top) == before


def test_report_is_json(gateway: Gateway) -> None:
    (gateway.path / "file").touch()
    (gateway.path / "file").unlink()
    entry_id = _id(gateway, "file")
    report = json.loads(gateway.run("trash", "hold", entry_id, "--json", check=True).stdout)
    assert report["items"] == [{"id": entry_id, "outcome": "held", "entries": 1, "message": ""}]
