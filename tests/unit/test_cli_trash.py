"""`status` and `trash …` against a service that remembers: what is asked, printed, returned."""

from __future__ import annotations

import base64
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cephfs_ext.control.service import (
    Explanation,
    HeldBy,
    HeldItem,
    HoldRequest,
    PurgeRequest,
    RestoreRequest,
    TrashItem,
    TrashQuery,
    TrashSpace,
)
from cephfs_ext.core.errors import DeniedError, ExitCode, NotFoundError
from tests.unit.command import Call, Done
from tests.unit.fake_gateway import FakeService, item, restored

ID = "18eaf1b2aec46709.a7f8"


def inside(path: Path) -> str:
    """Return a path as it goes over the wire: relative to what it is mounted on, base64."""
    mountpoint = path
    while not os.path.ismount(mountpoint):
        mountpoint = mountpoint.parent
    return base64.b64encode(os.fsencode(path.relative_to(mountpoint))).decode()


def test_status(call: Call) -> None:
    done = call("status")
    assert done.code == ExitCode.OK
    lines = dict(line.split(None, 1) for line in done.out.splitlines())
    assert lines["serves"] == "posix:/data at /mnt/data"
    assert lines["trash"] == "kept 7 days"
    assert call("status", "--json").json["pid"] == 42


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # httpcore leaves it open
def test_nobody_answers(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEPHFS_EXT_SOCKET", "/nowhere/control.sock")
    done = call("status")
    assert done.code == ExitCode.TEMPORARY
    assert done.err.startswith("cephfs-ext: error: the gateway at /nowhere/control.sock doesn't")
    assert done.err.count("\n") == 1


def _of_event(number: str, event: str | None, path: str) -> TrashItem:
    listed = item(f"18eaf1b2aec4{number}.a7f8", path)
    return msgspec.structs.replace(listed, event=event)


class TestList:
    def test_plain(self, call: Call, service: FakeService) -> None:
        done = call("trash", "ls")
        assert done.code == ExitCode.OK
        cells = done.out.rstrip("\n").split("\t")
        assert cells[0] == ID
        assert cells[2:] == ["1000", "file", "1", "2.0 KiB", "home/report"]
        assert service.last[2] == TrashQuery()

    def test_time_is_local(self, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        try:
            assert call("trash", "ls").out.split("\t")[1] == "2026-11-24 17:39:11"
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_json(self, call: Call) -> None:
        listed = call("trash", "ls", "--json").json["items"][0]
        assert listed == msgspec.to_builtins(item())
        assert listed["deleted_at"] == "2026-11-24T09:39:11Z"
        assert listed["size_bytes"] == 2048

    def test_filters(self, call: Call, service: FakeService, tmp_path: Path) -> None:
        gone = tmp_path / "gone" / "deeper"
        before = time.time_ns()
        call("trash", "ls", str(gone), "--since", "2d", "--deleted-by", "7", "--match", "*.py")
        query = service.last[2]
        assert isinstance(query, TrashQuery)
        assert query.below == inside(gone)
        assert (query.deleter_uid, query.glob, query.limit) == (7, "*.py", None)
        assert query.since_ns is not None
        assert abs(before - query.since_ns - 2 * 86400 * 10**9) < 60 * 10**9

    def test_limit_says_that_there_are_more(self, call: Call, service: FakeService) -> None:
        service.more = True
        done = call("trash", "ls", "--limit", "1")
        assert done.err == "there are more: use --limit\n"
        assert service.last[2] == TrashQuery(limit=1)

    def test_unknown_figures_and_place(self, call: Call, service: FakeService) -> None:
        service.items = [msgspec.structs.replace(item(path=None), entries=None, size_bytes=None)]
        cells = call("trash", "ls").out.rstrip("\n").split("\t")
        assert cells[4:] == ["?", "?", "(unknown place)"]

    def test_empty(self, call: Call, service: FakeService) -> None:
        service.items = []
        assert call("trash", "ls") == Done(ExitCode.OK, "", "")

    def test_since_that_is_none(self, call: Call, service: FakeService) -> None:
        done = call("trash", "ls", "--since", "yesterday")
        assert done.code == ExitCode.USAGE
        assert "write 90s, 30m, 12h or 7d" in done.err
        assert service.calls == []

    def test_trees_of_one_event_stand_together_on_a_terminal(
        self, call: Call, service: FakeService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """[event-2]: under a line that says its id; one alone has none."""
        first, second = "18eaf1b2aec40000.a7f8", "18eaf1b2aec30000.a7f8"
        service.items = [
            _of_event("0004", first, "a"),
            _of_event("0003", second, "alone"),
            _of_event("0002", first, "b"),
            _of_event("0001", None, "old"),
        ]
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", call("trash", "ls").out).splitlines()
        assert [line.split()[0][-9:] for line in lines] == [
            "ID",
            "0000.a7f8",
            "0004.a7f8",
            "0002.a7f8",
            "0003.a7f8",
            "0001.a7f8",
        ]
        assert lines[1].startswith(first)
        assert "2 trees: rm" in lines[1]
        assert "4.0 KiB" in lines[1]
        monkeypatch.undo()

    def test_programs_get_one_line_a_tree(self, call: Call, service: FakeService) -> None:
        service.items = [_of_event(n, "18eaf1b2aec40000.a7f8", n) for n in ("0002", "0001")]
        assert [line[12:16] for line in call("trash", "ls").out.splitlines()] == ["0002", "0001"]

    def test_one_line_an_event(self, call: Call, service: FakeService) -> None:
        """[event-2]."""
        event = "18eaf1b2aec30000.a7f8"
        service.items = [
            _of_event("0002", event, "b"),
            msgspec.structs.replace(_of_event("0001", event, "a"), entries=None),
            _of_event("0000", None, "old"),
        ]
        lines = [line.split("\t") for line in call("trash", "ls", "--events").out.splitlines()]
        assert [line[:1] + line[2:] for line in lines] == [
            [event, "1000", "2", "?", "4.0 KiB", "rm"],
            ["18eaf1b2aec40000.a7f8", "1000", "1", "1", "2.0 KiB", "rm"],
        ]

    @pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\rb", "a\x1b]0;b\x07", "a\x9bb"])
    def test_name_with_control_characters(
        self, call: Call, service: FakeService, name: str
    ) -> None:
        service.items = [item(path=name)]
        out = call("trash", "ls").out
        assert out.count("\n") == 1
        assert out.count("\t") == 6
        assert all(char.isprintable() or char in "\n\t" for char in out)


class TestShow:
    def test_plain(self, call: Call, service: FakeService) -> None:
        done = call("trash", "show", ID)
        assert done.code == ExitCode.OK
        lines = done.out.splitlines()
        assert f"id        {ID}" in lines
        assert "mode      0640" in lines
        assert lines[-2:] == ["  a/b", "  … and 2 more"]
        assert service.last[2] == ID

    def test_json(self, call: Call) -> None:
        assert call("trash", "show", ID, "--json").json["children"] == [{"text": "a/b"}]

    def test_not_found(self, call: Call, service: FakeService) -> None:
        service.failure = NotFoundError(what="no such entry")
        assert call("trash", "show", ID) == Done(3, "", "cephfs-ext: error: no such entry\n")


class TestRestore:
    def test_ids_and_paths(self, call: Call, service: FakeService, tmp_path: Path) -> None:
        done = call("trash", "restore", ID, str(tmp_path / "gone"), "--on-conflict", "skip", "-n")
        assert done == Done(ExitCode.OK, "restored: home/report\n", "")
        assert service.last[2] == RestoreRequest(
            ids=[ID], paths=[inside(tmp_path / "gone")], on_conflict="skip", dry_run=True
        )

    def test_last(self, call: Call, service: FakeService) -> None:
        call("trash", "restore", "--last")
        assert service.last[2] == RestoreRequest(last=True)

    def test_filters(self, call: Call, service: FakeService, tmp_path: Path) -> None:
        filters = ("--below", str(tmp_path), "--deleted-by", "1000", "--match", "*.py")
        call("trash", "restore", *filters, "--limit", "5", "--dry-run")
        query = TrashQuery(below=inside(tmp_path), deleter_uid=1000, glob="*.py", limit=5)
        assert service.last[2] == RestoreRequest(query=query, dry_run=True)

    def test_filters_beside_a_name(self, call: Call) -> None:
        assert call("trash", "restore", "--since", "1h", ID).code == ExitCode.USAGE

    def test_limit_alone_chooses_nothing(self, call: Call) -> None:
        assert call("trash", "restore", "--limit", "5").code == ExitCode.USAGE

    def test_path_is_relative_to_here(
        self, call: Call, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        call("trash", "restore", "gone/./deeper/../file")
        request = service.last[2]
        assert isinstance(request, RestoreRequest)
        assert request.paths == [inside(tmp_path / "gone" / "file")]

    def test_name_that_is_not_utf8(self, call: Call, service: FakeService, tmp_path: Path) -> None:
        call("trash", "restore", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
        request = service.last[2]
        assert isinstance(request, RestoreRequest)
        assert base64.b64decode(request.paths[0]).endswith(b"/\xff")

    def test_to(self, call: Call, service: FakeService, tmp_path: Path) -> None:
        call("trash", "restore", ID, "--to", str(tmp_path))
        assert service.last[2] == RestoreRequest(ids=[ID], to=inside(tmp_path))

    def test_to_a_place_that_is_not_there(self, call: Call, service: FakeService) -> None:
        done = call("trash", "restore", ID, "--to", "/nowhere")
        assert done.code == ExitCode.NOT_FOUND
        assert "create it first" in done.err
        assert service.calls == []

    def test_nothing_named(self, call: Call, service: FakeService) -> None:
        done = call("trash", "restore")
        assert done.code == ExitCode.USAGE
        assert "--last" in done.err
        assert service.calls == []

    @pytest.mark.parametrize(
        ("outcomes", "code"),
        [
            (["restored"], ExitCode.OK),
            (["would_restore"], ExitCode.OK),
            (["skipped"], ExitCode.OK),
            (["conflict"], ExitCode.CONFLICT),
            (["conflict", "conflict"], ExitCode.CONFLICT),
            (["denied"], ExitCode.DENIED),
            (["not_found"], ExitCode.NOT_FOUND),
            (["restored", "conflict"], ExitCode.PARTIAL),
            (["failed", "restored"], ExitCode.PARTIAL),
            (["partly_restored"], ExitCode.PARTIAL),
            (["failed"], ExitCode.OTHER),
            (["of a newer gateway"], ExitCode.OTHER),
        ],
    )
    def test_exit_codes(
        self, call: Call, service: FakeService, outcomes: list[str], code: int
    ) -> None:
        service.outcomes = [restored(outcome, "why") for outcome in outcomes]
        done = call("trash", "restore", ID)
        assert done.code == code
        assert (done.out + done.err).count(": why\n") == len(outcomes)
        assert call("trash", "restore", ID, "--json").code == code

    @pytest.mark.parametrize("outcomes", [["conflict", "denied"], ["failed"]])
    def test_nothing_done_is_not_partly_done(
        self, call: Call, service: FakeService, outcomes: list[str]
    ) -> None:
        service.outcomes = [restored(outcome) for outcome in outcomes]
        assert call("trash", "restore", ID).code != ExitCode.PARTIAL

    def test_what_failed_is_on_standard_error(self, call: Call, service: FakeService) -> None:
        service.outcomes = [restored("restored"), restored("conflict", "it exists")]
        done = call("trash", "restore", ID)
        assert done.out == "restored: home/report\n"
        assert done.err == "conflict: home/report: it exists\n"

    def test_denied(self, call: Call, service: FakeService) -> None:
        service.failure = DeniedError(what="not yours")
        assert call("trash", "restore", ID) == Done(7, "", "cephfs-ext: error: not yours\n")

    def test_unknown_policy(self, call: Call) -> None:
        assert call("trash", "restore", ID, "--on-conflict", "merge").code == ExitCode.USAGE


class TestPurge:
    def test_plan_then_exactly_that(self, call: Call, service: FakeService) -> None:
        done = call("trash", "purge", "--older-than", "1d", "--yes")
        assert done == Done(ExitCode.OK, "removed 1: 1 files, 0 directories\n", "")
        assert [argument for _, _, argument in service.calls] == [
            PurgeRequest(older_than_s=86400.0, dry_run=True),
            PurgeRequest(ids=[ID]),
        ]

    def test_more_than_a_request_can_name_are_several(
        self, call: Call, service: FakeService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cephfs_ext.cli.trash._PURGED_AT_ONCE", 2)
        ids = [f"18eaf1b2aec4670{number}.a7f8" for number in range(5)]
        service.items = [item(entry_id) for entry_id in ids]
        done = call("trash", "purge", "--all", "--yes")
        assert done.code == ExitCode.OK
        named = [argument.ids for _, _, argument in service.calls[1:]]
        assert named == [ids[:2], ids[2:4], ids[4:]]

    def test_without_a_terminal_names_yes(self, call: Call, service: FakeService) -> None:
        done = call("trash", "purge", "--all")
        assert done.code == ExitCode.USAGE
        assert "add --yes" in done.err
        assert [argument for _, _, argument in service.calls] == [
            PurgeRequest(all=True, dry_run=True)
        ]

    def test_dry_run(self, call: Call, service: FakeService) -> None:
        done = call("trash", "purge", ID, "--dry-run")
        assert done.code == ExitCode.OK
        assert done.out.endswith("would remove 1\n")
        assert len(service.calls) == 1

    def test_json(self, call: Call) -> None:
        document = call("trash", "purge", ID, "--yes", "--json").json
        assert (document["dry_run"], document["files"]) == (False, 1)

    def test_nothing_named(self, call: Call, service: FakeService) -> None:
        done = call("trash", "purge", "--yes")
        assert done.code == ExitCode.USAGE
        assert service.calls == []

    def test_nothing_found(self, call: Call, service: FakeService) -> None:
        service.items, service.not_found = [], [ID]
        done = call("trash", "purge", ID, "--yes")
        assert done.code == ExitCode.NOT_FOUND
        assert f"no entry {ID}" in done.err

    def test_partly_found(self, call: Call, service: FakeService) -> None:
        service.not_found = ["0000000000000000.0000"]
        assert call("trash", "purge", ID, "0000000000000000.0000", "--yes").code == ExitCode.PARTIAL

    def test_partly_failed(self, call: Call, service: FakeService) -> None:
        service.failures = 2
        done = call("trash", "purge", ID, "--yes")
        assert done.code == ExitCode.PARTIAL
        assert "2 could not be removed" in done.out

    def test_nothing_to_do_was_no_dry_run(self, call: Call, service: FakeService) -> None:
        service.items = []
        assert call("trash", "purge", "--all", "--yes", "--json").json["dry_run"] is False


class TestExplain:
    def test_what_is_kept(self, call: Call, service: FakeService) -> None:
        done = call("trash", "explain", "logs/x")
        assert done.code == ExitCode.OK
        assert done.out == (
            "kept 2 hours, the newest 3 of its name: the path matches logs/** (rule logs)\n"
        )
        assert service.last[0] == "explain"

    def test_what_is_really_removed(self, call: Call, service: FakeService) -> None:
        service.explanation = Explanation(
            kept=False,
            reason="special",
            rule="",
            why="it is a\nFIFO",
            retention_s=None,
            versions=None,
            protected=True,
        )
        assert call("trash", "explain", "x").out.splitlines() == [
            "can't be deleted: a directory above is marked user.cephfs_ext.protect",
            "really removed [special]: it is a\\nFIFO",
        ]

    def test_json(self, call: Call) -> None:
        assert call("trash", "explain", "x", "--json").json["retention_s"] == 7200.0

    def test_failure(self, call: Call, service: FakeService) -> None:
        service.failure = NotFoundError()
        assert call("trash", "explain", "x").code == ExitCode.NOT_FOUND


class TestHold:
    def test_passes_on_what_is_asked(self, service: FakeService, call: Call) -> None:
        assert call("trash", "hold", ID, ID, "--reason", "why").out == f"held: {ID}, 3 entries\n"
        assert service.last[0] == "hold"
        assert service.last[2] == HoldRequest(ids=[ID, ID], reason="why")
        assert call("trash", "release", ID).code == ExitCode.OK
        assert service.last[::2] == ("release", HoldRequest(ids=[ID]))

    def test_needs_an_id(self, call: Call) -> None:
        assert call("trash", "hold").code == ExitCode.USAGE

    @pytest.mark.parametrize(
        ("outcomes", "code"),
        [
            (["held", "released"], ExitCode.OK),
            (["partly"], ExitCode.PARTIAL),
            (["held", "not_found"], ExitCode.PARTIAL),
            (["not_found"], ExitCode.NOT_FOUND),
            (["denied"], ExitCode.DENIED),
            (["failed"], ExitCode.OTHER),
        ],
    )
    def test_exit_codes(
        self, service: FakeService, call: Call, outcomes: list[str], code: int
    ) -> None:
        """[hold-4]"""
        service.held = [HeldItem(id=ID, outcome=one, message="\x1bwhy") for one in outcomes]
        done = call("trash", "hold", ID)
        assert done.code == code
        assert "\x1b" not in done.out + done.err

    def test_list_marks_it(self, service: FakeService, call: Call) -> None:
        service.items = [
            msgspec.structs.replace(
                item(),
                held=True,
                held_entries=1,
                expires_at=None,
                held_by=HeldBy(uid=7, at="2026-11-24T09:39:11Z", reason="why"),
            )
        ]
        assert "file (held)" in call("trash", "ls").out
        query = TrashQuery(held=True)
        assert call("trash", "ls", "--held").code == ExitCode.OK
        assert service.last[2] == query


def _space(**changes: Any) -> TrashSpace:
    fields: dict[str, Any] = {
        "size_bytes": 1 << 30, "entries": 7, "held_bytes": 0, "used_bytes": 4 << 30,
        "total_bytes": 8 << 30, "used_ratio": 0.5, "hourly_bytes": 1, "guaranteed_s": 432000.0,
        "is_helpless": False, "age_s": 3.0,
    }  # fmt: skip
    return TrashSpace(**(fields | changes))


class TestSpace:
    def said(self, service: FakeService, call: Call, **changes: Any) -> str:
        service.space = _space(**changes)
        return call("status").out

    def test_share_and_prediction(self, service: FakeService, call: Call) -> None:
        """[space-1], [pressure-4]"""
        said = self.said(service, call)
        assert "4.0 GiB of 8.0 GiB, 50% of what is scarcest" in said
        assert "1.0 GiB, 7 names; 25% of what is used; 3 s ago" in said
        assert "at this rate 5.0 days are guaranteed" in said

    def test_what_is_not_known(self, service: FakeService, call: Call) -> None:
        said = self.said(service, call, guaranteed_s=None, used_bytes=0, held_bytes=1024)
        assert "not known before an hour is over" in said
        assert "1.0 KiB held" in said

    def test_nothing_helps(self, service: FakeService, call: Call) -> None:
        assert "nothing more may be let go" in self.said(service, call, is_helpless=True)

    def test_before_it_is_known(self, call: Call) -> None:
        assert "trash.size" not in call("status").out
