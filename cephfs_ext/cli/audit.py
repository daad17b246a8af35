"""`cephfs-ext audit`: who deleted what, and what has become of it."""

from __future__ import annotations

import datetime
import pwd
import time

import click

from cephfs_ext.cli.connect import connect, relative
from cephfs_ext.cli.options import PATH, config_options, json_option, seconds
from cephfs_ext.cli.output import human_size, human_time, print_json, print_rows, printable
from cephfs_ext.control.service import (
    AuditEvent,
    AuditEventReport,
    AuditItem,
    AuditQuery,
    AuditReport,
)
from cephfs_ext.core.config import Loaded
from cephfs_ext.core.errors import ExitCode, UserError

_HEADINGS = ("DELETED", "BY", "EVENT", "KIND", "PATH", "COMMAND", "ON", "THEN")
_EVENT_HEADINGS = (
    "BEGAN",
    "ENDED",
    "BY",
    "EVENT",
    "NAMES",
    "NOT KEPT",
    "SIZE",
    "PATH",
    "COMMAND",
    "ON",
)
_LONG = ("PATH", "COMMAND", "ON", "THEN")

_REASONS = {
    "policy": "the policy exempts it",
    "special": "sockets, FIFOs and devices aren't",
    "disabled": "the trash is disabled",
    "shadow": "the trash only counts",
    "now": "it was moved into .trashbin/now",
    "small": "there was little in it",
    "links": "it had other names, or none",
    "opened": "others had it open",
    "moved": "it was moved at that moment",
    "full": "the storage is full",
}
"""Why something isn't kept, as people read it."""


@click.command()
@click.argument("path", required=False, type=PATH)
@click.option("--since", metavar="DURATION", help="Only what was deleted in the last 2d, 3h, …")
@click.option("--by", metavar="USER", help="Only what this user deleted: a name or a uid.")
@click.option("--event", metavar="EVENT", help="Only what went with this delete event.")
@click.option("--events", is_flag=True, help="One line a delete event, and how much it took.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The newest N; else 100.")
@json_option
@config_options
def audit(
    path: str | None,
    since: str | None,
    by: str | None,
    event: str | None,
    events: bool,
    limit: int | None,
    as_json: bool,
    loaded: Loaded,
) -> None:
    """Say who deleted PATH and what was below it, newest first; also what wasn't kept.

    Users see what they deleted or owned, operators everything.
    """
    since_s = seconds(since)
    uid = None if by is None else _uid(by)
    connection = connect(loaded.config, path)
    query = AuditQuery(
        path=None if path is None else relative(connection, path),
        since_ns=None if since_s is None else time.time_ns() - int(since_s * 1e9),
        uid=uid,
        event=event,
        limit=limit or AuditQuery().limit,
    )
    client = connection.client
    report: AuditReport | AuditEventReport
    if events:
        report = client.post("/v1/audit/events", query, AuditEventReport)
    else:
        report = client.post("/v1/audit", query, AuditReport)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _print(report: AuditReport | AuditEventReport) -> None:
    if isinstance(report, AuditEventReport):
        print_rows(_EVENT_HEADINGS, [_event_cells(event) for event in report.events], long=_LONG)
    else:
        print_rows(_HEADINGS, [_cells(item) for item in report.items], long=_LONG)
    if report.more:
        click.echo("there may be more: use --limit, --since or a PATH", err=True)


def _uid(user: str) -> int:
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as exc:
        raise UserError(f"--by {user}: no such user here", ExitCode.NOT_FOUND) from exc


def _user(uid: int) -> str:
    """Return a user by name, where this machine knows it, and number."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)


def _cells(item: AuditItem) -> tuple[str, ...]:
    return (
        human_time(item.deleted_ns / 1e9),
        printable(_user(item.uid)),
        printable(item.event or "?"),
        item.kind,
        printable(item.path),
        printable(item.command or "?"),
        printable(_place(item)),
        printable(_then(item)),
    )


def _event_cells(event: AuditEvent) -> tuple[str, ...]:
    return (
        _local(event.first_at),
        _local(event.last_at),
        printable(_user(event.uid)),
        event.event,
        str(event.names),
        str(event.not_kept),
        human_size(event.size_bytes),
        printable(event.path),
        printable(event.command or "?"),
        printable(_place(event)),
    )


def _place(item: AuditItem | AuditEvent) -> str:
    """Say where the process was."""
    parts = [item.host or "?"]
    parts += [f"pod {item.pod}"] if item.pod else []
    parts += [f"container {item.container}"] if item.container else []
    parts += [f"pid {item.pid}"] if item.pid else []
    return ", ".join(parts)


def _then(item: AuditItem) -> str:
    """Say what has become of it."""
    when = _local(item.became_at)
    if item.became == "in_trash":
        return f"in the trash until {_local(item.expires_at) or 'somebody lets it go'}"
    if item.became == "not_kept":
        reason = _REASONS.get(item.why or "", item.why or "?")
        return f"not kept: {reason}" + (f" ({item.rule})" if item.rule else "")
    if item.became == "restored":
        return f"restored {when} by {_by(item)} to {item.target or '?'}"
    if item.became == "purged":
        return f"purged {when} by {_by(item)}"
    if item.became == "expired":
        return f"expired {when}".rstrip()
    if item.became == "outdated":
        return f"expired {when}, as there were newer versions"
    return "no longer in the trash"


def _by(item: AuditItem) -> str:
    return "?" if item.became_by is None else _user(item.became_by)


def _local(time_utc: str | None) -> str:
    if time_utc is None:
        return ""
    return human_time(datetime.datetime.fromisoformat(time_utc).timestamp())
