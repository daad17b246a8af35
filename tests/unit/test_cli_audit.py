"""`cephfs-ext audit` against a service that remembers: what is asked and printed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest

from cephfs_ext.control.service import AuditQuery
from cephfs_ext.core.errors import DeniedError, ExitCode
from tests.unit.command import Call, Done
from tests.unit.fake_gateway import FakeService, deed, event
from tests.unit.test_cli_trash import inside


@pytest.fixture
def audit(call: Call) -> Call:
    """Carry out `cephfs-ext audit`."""
    return lambda *words: call("audit", *words)


def then(audit: Call, service: FakeService, became: str, **more: object) -> str:
    """Return what is printed of what has become of something."""
    service.deeds = [deed(became, **more)]
    return audit().out.rstrip("\n").split("\t")[-1]


def test_cells(audit: Call, service: FakeService) -> None:
    service.deeds = [deed(expires_at="2026-12-01T10:00:00Z", pod="the-pod", container="4e1ba2c3")]
    done = audit()
    assert (done.code, done.err) == (ExitCode.OK, "")
    cells = done.out.rstrip("\n").split("\t")
    assert cells[1:7] == [
        "root (0)",
        "18eaf1b2aec46709.a7f8",
        "file",
        "home/report",
        "rm report",
        "node-7, pod the-pod, container 4e1ba2c3, pid 42",
    ]
    assert cells[7].startswith("in the trash until 2026-12-01 ")


def test_what_is_not_known(audit: Call, service: FakeService) -> None:
    service.deeds = [deed("unknown", uid=4294967294, event=None, command=None, host=None, pid=None)]
    cells = audit().out.rstrip("\n").split("\t")
    assert cells[1:] == [
        "4294967294", "?", "file", "home/report", "?", "?", "no longer in the trash"
    ]  # fmt: skip


def test_what_became(audit: Call, service: FakeService) -> None:
    at = {"became_at": "2026-12-01T10:00:00Z", "became_by": 0}
    assert then(audit, service, "restored", target="x", **at).endswith(" by root (0) to x")
    assert then(audit, service, "purged", **at).endswith(" by root (0)")
    assert then(audit, service, "expired").rstrip() == "expired"
    assert then(audit, service, "not_kept", why="now").endswith("moved into .trashbin/now")
    assert then(audit, service, "not_kept", why="new-reason") == "not kept: new-reason"
    assert then(audit, service, "new-outcome") == "no longer in the trash"


def test_asks(audit: Call, service: FakeService, tmp_path: Path) -> None:
    begun_ns = time.time_ns()
    path = str(tmp_path / "gone")
    audit(path, "--since", "1h", "--by", "root", "--event", "e", "--limit", "7")
    query = service.last[2]
    assert isinstance(query, AuditQuery)
    assert query.since_ns is not None
    assert abs(begun_ns - query.since_ns - 3600 * 10**9) < 60 * 10**9
    assert query == AuditQuery(
        path=inside(tmp_path / "gone"), since_ns=query.since_ns, uid=0, event="e", limit=7
    )
    audit()
    assert service.last[2] == AuditQuery()


def test_json(audit: Call, service: FakeService) -> None:
    document = json.loads(audit("--json").out)
    assert document["items"] == [msgspec.to_builtins(deed())]
    assert (document["schema_version"], document["more"]) == (1, False)


def test_events(audit: Call, service: FakeService) -> None:
    """[audit-7]."""
    done = audit("--events", "--by", "7")
    cells = done.out.rstrip("\n").split("\t")
    assert service.last[0] == "audit events"
    assert service.last[2] == AuditQuery(uid=7)
    assert cells[2:] == [
        "root (0)",
        "18eaf1b2aec46709.a7f8",
        "7000",
        "3",
        "2.0 KiB",
        "home",
        "rm -r home",
        "node-7, pid 42",
    ]
    document = json.loads(audit("--events", "--json").out)
    assert document["events"] == [msgspec.to_builtins(event())]


def test_more(audit: Call, service: FakeService) -> None:
    service.deeds_left_out = True
    assert audit().err.startswith("there may be more")


def test_odd_text_stays_in_its_cell(audit: Call, service: FakeService) -> None:
    service.deeds = [deed(path="a\nb\tc", command="rm \x1b[2J", host="h\n")]
    out = audit().out
    assert out.count("\n") == 1
    assert out.count("\t") == 7
    assert "\x1b" not in out


def test_refused(audit: Call, service: FakeService) -> None:
    service.failure = DeniedError(what="the mount is read-only")
    assert audit() == Done(ExitCode.DENIED, "", "cephfs-ext: error: the mount is read-only\n")


def test_that_it_is_wrong(audit: Call, service: FakeService) -> None:
    for words in (("--since", "yesterday"), ("--limit", "0"), ("--limit", "x")):
        assert audit(*words).code == ExitCode.USAGE
    assert audit("--by", "no-such-user").code == ExitCode.NOT_FOUND
    assert service.calls == []
