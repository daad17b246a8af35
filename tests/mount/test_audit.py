"""Who deleted what, and delete events: docs/semantics.md, [audit-1] to [event-3]."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cephfs_ext.control.client import Client
from cephfs_ext.control.service import AuditItem, AuditQuery, AuditReport
from cephfs_ext.core.errors import ExitCode
from tests.faults.storage import Back
from tests.gateway import Gateway, posix_gateway
from tests.posix.actors import OWNER, STRANGER, User, as_user
from tests.waiting import wait_until
from trashbin import layout
from trashbin.journal import Record

NOBODY = User(12345, 12345)
_wait_until = functools.partial(wait_until, within_s=30.0)


class Audit:
    """What a gateway says about a directory, over one of its sockets."""

    def __init__(self, gateway: Gateway, place: Path, socket_name: str = "admin.sock") -> None:
        self._gateway = gateway
        self._place = place
        self._socket = str(gateway.directory / socket_name)

    def of(self, path: Path | None = None, **more: Any) -> list[AuditItem]:
        """Return what was deleted at and below a path, newest first."""
        inside = os.fsencode((path or self._place).relative_to(self._gateway.path))
        query = AuditQuery(path=base64.b64encode(inside).decode(), **more)
        with contextlib.closing(Client(self._socket)) as client:
            return client.post("/v1/audit", query, AuditReport).items

    def only(self, path: Path | None = None, **more: Any) -> AuditItem:
        """Return the only one."""
        (item,) = self.of(path, **more)
        return item

    def seen_by(self, user: User, path: Path | None = None) -> list[str]:
        """Return what a user is told about."""
        mine = Audit(self._gateway, self._place, "control.sock")
        return as_user(user, lambda: [item.path for item in mine.of(path)])


@pytest.fixture
def audit(mounted: Gateway, place: Path) -> Audit:
    return Audit(mounted, place)


def inside(gateway: Gateway, path: Path) -> str:
    return str(path.relative_to(gateway.path))


def a_file(path: Path, content: str = "content", owner: User | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)
    return path


def rm(*arguments: str | Path, user: User | None = None, cwd: Path | None = None) -> None:
    """Delete by a process of its own."""
    options: dict[str, Any] = {"user": user.uid, "group": user.gid} if user else {}
    subprocess.run(["rm", *arguments], check=True, cwd=cwd, **options)


class TestWho:
    def test_deleted_a_file_of_mine(self, mounted: Gateway, place: Path, audit: Audit) -> None:
        """[audit-1]: the owner learns who it was, with what, and what has become of it."""
        file = a_file(place / "file", "ten bytes!", OWNER)
        begun_ns = time.time_ns()
        rm(file, user=STRANGER)
        mine = Audit(mounted, place, "control.sock")
        item = as_user(OWNER, mine.only)
        assert (item.uid, item.gid, item.owner_uid) == (STRANGER.uid, STRANGER.gid, OWNER.uid)
        assert (item.path, item.kind) == (inside(mounted, file), "file")
        assert (item.command, item.size_bytes) == (f"rm {file}", 10)
        assert item.host == socket.gethostname()
        assert item.pid
        assert begun_ns < item.deleted_ns < time.time_ns()
        assert item.became == "in_trash"
        assert item.expires_at is not None
        assert item.expires_at > item.deleted_at

    def test_is_told_to_owner_deleter_and_operators(
        self, mounted: Gateway, place: Path, audit: Audit
    ) -> None:
        """[audit-4]: root over the socket of users is nobody special."""
        file = a_file(place / "file", owner=OWNER)
        rm(file, user=STRANGER)
        path = inside(mounted, file)
        assert audit.seen_by(OWNER) == [path]
        assert audit.seen_by(STRANGER) == [path]
        assert audit.seen_by(NOBODY) == []
        assert audit.seen_by(NOBODY, file) == []
        assert audit.seen_by(User(0, 0)) == []
        assert [item.path for item in audit.of()] == [path]

    def test_names_the_process_of_a_thread(self, place: Path, audit: Audit) -> None:
        """[audit-1]: the kernel says which thread it was."""
        files = [a_file(place / name) for name in "ab"]
        os.unlink(files[0])
        thread = threading.Thread(target=os.unlink, args=(files[1],))
        thread.start()
        thread.join()
        items = audit.of()
        assert [item.pid for item in items] == [os.getpid(), os.getpid()]
        assert items[0].event == items[1].event

    def test_odd_bytes_of_a_command_and_of_names(
        self, mounted: Gateway, place: Path, audit: Audit
    ) -> None:
        """[audit-1]: names are exact, and terminals are told nothing."""
        name = b"\xff\x1b[2J\n"
        path = os.path.join(os.fsencode(place), name)
        os.close(os.open(path, os.O_CREAT))
        subprocess.run([b"rm", b"--", path], check=True)
        item = audit.only()
        assert item.path_raw is not None
        raw = base64.b64decode(item.path_raw)
        assert raw == os.path.relpath(path, os.fsencode(mounted.path))
        assert item.command is not None
        assert "�\x1b[2J\n" in item.command
        assert audit.of(Path(os.fsdecode(path))) == [item]
        done = mounted.run("audit", str(place), check=True)
        assert done.stdout.count("\n") == 1
        assert "\x1b" not in done.stdout
        assert r"\x1b[2J\n" in done.stdout

    def test_a_long_command_is_cut(self, place: Path, audit: Audit) -> None:
        a_file(place / "file")
        subprocess.run(["rm", "-f", *map(str, range(1000)), str(place / "file")], check=True)
        command = audit.only().command
        assert command is not None
        assert command.startswith("rm -f 0 1 2 3 ")
        assert len(command.encode()) == 256


class TestThen:
    def test_restored(self, mounted: Gateway, place: Path, audit: Audit) -> None:
        """[audit-3]: by whom and where to, with the tree that it was in."""
        tree = a_file(place / "tree/sub/file", owner=OWNER).parents[1]
        place.chmod(0o777)
        rm("-rf", tree)
        (place / "to").mkdir()
        mounted.run("trash", "restore", str(tree), "--to", str(place / "to"), check=True)
        item = audit.only(tree / "sub/file")
        assert (item.became, item.became_by) == ("restored", 0)
        assert item.target == inside(mounted, place / "to/tree")
        assert item.became_on == socket.gethostname()
        assert item.became_at is not None
        assert item.became_at >= item.deleted_at

    def test_restored_by_mv(self, mounted: Gateway, place: Path, audit: Audit) -> None:
        """[audit-3]."""
        file = a_file(place / "file")
        rm(file)
        (seen,) = (place / ".trashbin").glob("2*/file")
        subprocess.run(["mv", seen, place / "back"], check=True)
        item = audit.only(file)
        assert (item.became, item.target) == ("restored", inside(mounted, place / "back"))

    def test_purged(self, mounted: Gateway, place: Path, audit: Audit) -> None:
        """[audit-3]: by whom; the delete stays known."""
        file = a_file(place / "file", owner=OWNER)
        rm(file, user=OWNER)
        mounted.run("trash", "purge", audit.only().id, "--yes", "--mount", str(place), check=True)
        item = audit.only(file)
        assert (item.became, item.became_by, item.uid) == ("purged", 0, OWNER.uid)
        assert (item.became, item.path) == ("purged", inside(mounted, file))
        assert audit.seen_by(OWNER) == [item.path]

    def test_in_a_tree_that_was_moved_whole(self, place: Path, audit: Audit) -> None:
        """[audit-1]: its files have no line of their own; the tree has."""
        file = a_file(place / "tree/sub/file")
        os.rename(place / "tree", place / ".trashbin/tree")
        item = audit.only(file)
        assert (item.kind, item.became) == ("tree", "in_trash")
        assert item.path.endswith("/tree")


class TestNotKept:
    def test_says_why(self, place: Path, audit: Audit) -> None:
        """[audit-2]: rules and marks, what is special, `now`, truncations."""
        (place / "scratch").mkdir()
        os.setxattr(place / "scratch", "user.cephfs_ext.trash", b"off")
        os.unlink(a_file(place / "a.tmp"))
        os.unlink(a_file(place / "scratch/b"))
        os.mkfifo(place / "fifo")
        os.unlink(place / "fifo")
        os.rename(a_file(place / "now"), place / ".trashbin/now/now")
        os.rename(a_file(place / "tree/file").parent, place / ".trashbin/now/tree")
        os.truncate(a_file(place / "small"), 0)
        os.rename(a_file(place / "new"), a_file(place / "old.tmp"))
        told = {
            Path(item.path).name: (item.kind, item.why, item.rule)
            for item in audit.of()
            if item.became == "not_kept"
        }
        assert told == {
            "a.tmp": ("file", "policy", "temporary"),
            "b": ("file", "policy", "mark"),
            "fifo": ("special", "special", None),
            "now": ("file", "now", None),
            "tree": ("tree", "now", None),
            "small": ("truncated", "small", None),
            "old.tmp": ("replaced", "policy", "temporary"),
        }

    def test_truncation_that_is_kept_says_so(self, place: Path, audit: Audit) -> None:
        """[audit-2]: and one that can't be, because others have the file open."""
        file = a_file(place / "file", "x" * 5000)
        with file.open("rb"):
            os.truncate(file, 0)
        file.write_text("x" * 5000)
        os.truncate(file, 0)
        told = [(item.kind, item.became, item.why, item.size_bytes) for item in audit.of()]
        assert told == [
            ("truncated", "in_trash", None, 5000),
            ("truncated", "not_kept", "opened", 5000),
        ]

    def test_delete_that_fails_leaves_no_line(self, place: Path, audit: Audit) -> None:
        """[audit-2]."""
        a_file(place / "dir/x.tmp")
        with pytest.raises(OSError, match="not empty"):
            os.rmdir(place / "dir")
        (place / "dir").chmod(0o755)
        with pytest.raises(PermissionError):
            as_user(STRANGER, lambda: os.unlink(place / "dir/x.tmp"))
        assert audit.of() == []

    @pytest.mark.parametrize(
        ("option", "why"), [("trash.enabled=false", "disabled"), ("trash.mode=shadow", "shadow")]
    )
    def test_nothing_is_kept_at_all(self, unmounted: Gateway, option: str, why: str) -> None:
        """[audit-2]: the answer to who it was is there without any trash."""
        with unmounted.mounted("-o", option):
            rm("-r", a_file(unmounted.path / "dir/file").parent)
            items = unmounted.json("audit", str(unmounted.path))["items"]
            assert [(item["path"], item["why"]) for item in items] == [
                ("dir", why),
                ("dir/file", why),
            ]
            unmounted.umount()
            unmounted.mount()
            again = unmounted.json("audit", str(unmounted.path))["items"]
            assert [item["became"] for item in again] == ["not_kept", "not_kept"]

    def test_trash_that_cannot_be_used_stops_no_delete(self, base: Path) -> None:
        """[audit-5], [audit-6]: its log says why nothing is written."""
        gateway = posix_gateway(base)
        (base / "source/.trashbin").symlink_to("/nowhere")
        with gateway.mounted("-o", "trash.enabled=false"):
            os.unlink(a_file(gateway.path / "file"))
            _wait_until(lambda: "journal failed" in gateway.log)
            os.unlink(a_file(gateway.path / "file"))
            assert gateway.run("audit", str(gateway.path)).returncode != ExitCode.OK
        assert os.listdir(base / "source") == [".trashbin"]

    def test_audit_can_be_turned_off(self, unmounted: Gateway) -> None:
        """[audit-6]: then only what the trash needs is written."""
        with unmounted.mounted("-o", "trash.audit_s=0"):
            os.unlink(a_file(unmounted.path / "a.tmp"))
            os.unlink(a_file(unmounted.path / "b"))
            items = unmounted.json("audit", str(unmounted.path))["items"]
            assert [item["path"] for item in items] == ["b"]


class TestEvents:
    def test_restore_brings_back_what_one_command_took(
        self, mounted: Gateway, place: Path, audit: Audit
    ) -> None:
        """[event-2]: `rm a b c`, and nothing else."""
        for name in ("a", "b/deep/x", "c", "other", "later"):
            a_file(place / name, name)
        rm(place / "other")
        rm("-r", "a", "b", "c", cwd=place)
        rm(place / "later")
        event = audit.only(place / "a").event
        assert event is not None
        assert {item.event for item in audit.of(place / "b")} == {event}
        listed = mounted.json("trash", "ls", str(place), "--event", event)["items"]
        assert [Path(item["path"]).name for item in listed] == ["c", "b", "a"]
        assert {item["event"] for item in listed} == {event}
        done = mounted.run("trash", "restore", "--event", event, "--mount", str(place), check=True)
        assert done.stdout.count("restored: ") == 3
        assert sorted(os.listdir(place)) == ["a", "b", "c"]
        assert (place / "b/deep/x").read_text() == "b/deep/x"

    def test_only_what_is_the_callers_comes_back(self, mounted: Gateway, place: Path) -> None:
        """[event-2], [perm-5]."""
        for name, owner in (("mine", OWNER), ("foreign", STRANGER)):
            a_file(place / name, owner=owner)
        rm("mine", "foreign", cwd=place)
        event = mounted.json("trash", "ls", str(place))["items"][0]["event"]
        socket_path = str(mounted.directory / "control.sock")
        command = mounted.command("trash", "restore", "--event", event, "--mount", str(place))
        done = subprocess.run(
            ["env", f"CEPHFS_EXT_SOCKET={socket_path}", *command],
            user=OWNER.uid,
            group=OWNER.gid,
            extra_groups=(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == ExitCode.OK, done
        assert os.listdir(place) == ["mine"]

    def test_show_lists_its_trees(self, mounted: Gateway, place: Path) -> None:
        """[event-2]."""
        for name in ("a", "d/b", "d/c"):
            a_file(place / name, "four")
        rm("-r", "a", "d", cwd=place)
        event = mounted.json("trash", "ls", str(place))["items"][0]["event"]
        done = mounted.run("trash", "show", event, "--mount", str(place), check=True)
        lines = dict(line.split(None, 1) for line in done.stdout.splitlines()[:7])
        assert (lines["event"], lines["trees"], lines["entries"]) == (event, "2", "4")
        assert (lines["size"], lines["command"]) == ("12 B", "rm -r a d")
        (line,) = mounted.run("trash", "ls", str(place), "--events").stdout.splitlines()
        assert line.split("\t")[3:] == ["2", "4", "12 B", "rm -r a d"]

    def test_are_counted(self, mounted: Gateway, place: Path) -> None:
        """[audit-7]: all of it, also what wasn't kept and what has been purged."""
        for name in ("d/a", "d/b.tmp", "d/sub/c"):
            a_file(place / name, "four")
        rm("-r", "d", cwd=place)
        tree = mounted.json("trash", "ls", str(place))["items"][0]["id"]
        mounted.run("trash", "purge", tree, "--yes", "--mount", str(place), check=True)
        (event,) = mounted.json("audit", str(place), "--events")["events"]
        assert (event["names"], event["not_kept"], event["size_bytes"]) == (5, 1, 12)
        assert (event["command"], event["path"]) == ("rm -r d", inside(mounted, place / "d"))
        assert event["first_at"] <= event["last_at"]
        items = mounted.json("audit", str(place), "--event", event["event"])["items"]
        assert len(items) == 5

    def test_no_such_event(self, mounted: Gateway, place: Path) -> None:
        for words in (("show", "18eb27e6ec29171d.8ddd"), ("restore", "--event", "nonsense")):
            done = mounted.run("trash", *words, "--mount", str(place))
            assert done.returncode == ExitCode.NOT_FOUND
            assert done.stderr.count("\n") == 1

    def test_tree_is_whole_if_the_command_has_paused(self, unmounted: Gateway) -> None:
        """[event-3]: it comes back with each of the events that took parts of it."""
        with unmounted.mounted("-o", "trash.event_gap_s=0.5"):
            for name in ("a", "b"):
                a_file(unmounted.path / f"tree/{name}")
            script = (
                "import os, time; os.chdir('tree'); os.unlink('a'); time.sleep(1.5);"
                "os.unlink('b'); os.chdir('..'); os.rmdir('tree')"
            )
            subprocess.run([sys.executable, "-c", script], cwd=unmounted.path, check=True)
            items = unmounted.json("audit", str(unmounted.path))["items"]
            events = {item["path"]: item["event"] for item in items}
            assert events["tree/a"] != events["tree/b"] == events["tree"]
            done = unmounted.run(
                "trash", "restore", "--event", events["tree/a"], "--mount", str(unmounted.path)
            )
            assert done.stdout == "restored: tree\n", done
            assert sorted(os.listdir(unmounted.path / "tree")) == ["a", "b"]


def _line(deleted_ns: int, path: str, **more: Any) -> bytes:
    entry_id = f"{deleted_ns:016x}.0001"
    fields = {"owner": OWNER.uid, "host": "a-host", **more}
    uid = STRANGER.uid
    return Record(entry_id, path.encode(), uid, uid, 7, "rm it", "file", 5, b"", 1, **fields).line()


class TestLater:
    def test_after_it_has_expired(self, unmounted: Gateway, back: Back) -> None:
        """[audit-3]: an entry of eight days ago, of a gateway that is gone."""
        deleted_ns = time.time_ns() - 8 * 86400 * 1_000_000_000
        hour = layout.hour_name(deleted_ns).decode()
        with unmounted.mounted():
            unmounted.umount()
            entry = layout.EntryName(deleted_ns, "0001", STRANGER.uid, layout.Ino(1), b"thesis")
            back.append(f"journal/{hour}.0001.jsonl", _line(deleted_ns, "home/thesis"))
            back.append(f"r0.00/{hour}/{os.fsdecode(entry.path[0])}", b"old")
            unmounted.mount()
            path = str(unmounted.path / "home/thesis")
            _wait_until(lambda: unmounted.json("audit", path)["items"][0]["became"] == "expired")
            (item,) = unmounted.json("audit", path)["items"]
            assert (item["uid"], item["command"]) == (STRANGER.uid, "rm it")
            assert (item["became_by"], item["became_on"]) == (None, socket.gethostname())
            assert item["became_at"] > item["deleted_at"]
            assert unmounted.trash() == []

    def test_after_newer_versions(self, unmounted: Gateway, base: Path) -> None:
        """[audit-3]: a rule says how many are kept."""
        config = base / "config.toml"
        config.write_text('[[trash.policy]]\nname = "logs"\nmatch = ["*.log"]\nversions = 1\n')
        with unmounted.mounted("--config", str(config), "-o", "trash.expire_interval_s=1"):
            for _ in range(2):
                rm(a_file(unmounted.path / "a.log"))

            def told() -> list[str]:
                items = unmounted.json("audit", str(unmounted.path))["items"]
                return [item["became"] for item in items]

            _wait_until(lambda: told() == ["in_trash", "outdated"])
            item = unmounted.json("audit", str(unmounted.path))["items"][1]
            assert (item["expires_at"], item["became_by"]) == (None, None)
            assert item["became_at"] >= item["deleted_at"]

    def test_of_a_term_of_its_own(self, unmounted: Gateway, base: Path) -> None:
        """[audit-3]: what a rule keeps for longer is in the trash until then."""
        config = base / "config.toml"
        config.write_text('[[trash.policy]]\nname = "m"\nmatch = ["m"]\nretention_s = "30d"\n')
        with unmounted.mounted("--config", str(config)):
            for name in ("m", "n"):
                rm(a_file(unmounted.path / name))
            items = unmounted.json("audit", str(unmounted.path))["items"]
            shorter, longer = (item["expires_at"] for item in items)
            assert [item["became"] for item in items] == ["in_trash", "in_trash"]
            assert longer[:10] > shorter[:10]
            assert longer == unmounted.trash()[1]["expires_at"]

    def test_torn_lines_and_those_of_older_versions(self, unmounted: Gateway, back: Back) -> None:
        """[audit-1]: the rest is told."""
        now_ns = time.time_ns()
        name = f"journal/{layout.hour_name(now_ns).decode()}.0001.jsonl"
        old = (
            '{"id":"%016x.0001","path":"old","uid":1,"gid":1,"pid":2,"command":"rm old",'
            '"kind":"file","ino":3,"parent_token":""}\n' % (now_ns - 3)
        )
        with unmounted.mounted():
            back.append(name, old.encode())
            back.append(name, _line(now_ns - 2, "torn")[:-20] + b"\n")
            back.append(name, b"\xff\xfe nonsense\n" + _line(now_ns - 1, "whole"))
            back.append(name, _line(now_ns, "torn")[:40])
            items = unmounted.json("audit", str(unmounted.path))["items"]
            assert [(item["path"], item["owner_uid"], item["event"]) for item in items] == [
                ("whole", OWNER.uid, None),
                ("old", None, None),
            ]

    def test_survives_a_crash_but_for_the_last_moment(self, unmounted: Gateway) -> None:
        """[audit-5]: what another gateway has written is told by any."""
        with unmounted.mounted():
            rm(a_file(unmounted.path / "file"))
            _wait_until(lambda: unmounted.metric("journal_records_total") == 1)
            unmounted.kill()
            unmounted.mount()
            (item,) = unmounted.json("audit", str(unmounted.path))["items"]
            assert item["command"] == f"rm {unmounted.path / 'file'}"

    def test_read_only_mount_has_none(self, unmounted: Gateway) -> None:
        """[readonly-1]."""
        with unmounted.mounted("-o", "ro"):
            done = unmounted.run("audit", str(unmounted.path))
            assert done.returncode == ExitCode.DENIED


class TestCommand:
    def test_lines_for_people(self, mounted: Gateway, place: Path) -> None:
        """[audit-1]."""
        rm(a_file(place / "file"), user=User(0, 0))
        os.unlink(a_file(place / "x.tmp"))
        newest, oldest = mounted.run("audit", str(place), check=True).stdout.splitlines()
        cells = oldest.split("\t")
        assert cells[1:2] + cells[3:6] == [
            "root (0)",
            "file",
            inside(mounted, place / "file"),
            f"rm {place / 'file'}",
        ]
        assert cells[7].startswith("in the trash until 20")
        assert newest.endswith("\tnot kept: the policy exempts it (temporary)")

    def test_options(self, mounted: Gateway, place: Path) -> None:
        """[audit-1]."""
        for name, user in (("a", OWNER), ("b", STRANGER)):
            rm(a_file(place / name, owner=user), user=user)

        def told(*options: str) -> list[str]:
            items = mounted.json("audit", str(place), *options)["items"]
            return [Path(item["path"]).name for item in items]

        assert told("--by", str(OWNER.uid)) == ["a"]
        assert told("--by", "root") == []
        assert told("--limit", "1") == ["b"]
        assert told("--since", "1h") == ["b", "a"]
        assert told("--since", "0s") == []
        done = mounted.run("audit", str(place), "--limit", "1")
        assert "may be more" in done.stderr
        done = mounted.run("audit", str(place), "--by", "no-such-user")
        assert done.returncode == ExitCode.NOT_FOUND
        assert mounted.run("audit", str(place), "--limit", "0").returncode == ExitCode.USAGE

    def test_journals_are_for_the_gateway_only(self, unmounted: Gateway, back: Back) -> None:
        """[audit-4], [trash-1]: command lines of others are in them."""
        with unmounted.mounted():
            rm(a_file(unmounted.path / "file"))
            _wait_until(lambda: unmounted.metric("journal_records_total") == 1)
            if unmounted.source.startswith("posix:"):
                trash = Path(unmounted.source.removeprefix("posix:")) / ".trashbin"
                modes = [stat.S_IMODE(path.stat().st_mode) for path in trash.glob("journal/*")]
                assert modes == [0o600]
            assert not (unmounted.path / ".trashbin/journal").exists()
