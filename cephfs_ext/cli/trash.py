"""`cephfs-ext trash ls|show|restore|purge|hold|release`."""

from __future__ import annotations

import base64
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import click
import msgspec

from cephfs_ext.cli.bar import bar_of_request
from cephfs_ext.cli.connect import Connection, connect, relative
from cephfs_ext.cli.listing import (
    print_event,
    print_events,
    print_items,
    print_listing_json,
    print_trees,
)
from cephfs_ext.cli.options import PATH, config_options, json_option, seconds
from cephfs_ext.cli.output import (
    human_duration,
    human_size,
    print_json,
    printable,
)
from cephfs_ext.control.client import Client
from cephfs_ext.control.service import (
    Allowed,
    AllowRequest,
    ExplainRequest,
    Explanation,
    HoldReport,
    HoldRequest,
    PurgeReport,
    PurgeRequest,
    RestoreReport,
    RestoreRequest,
    TrashDetail,
    TrashListing,
    TrashQuery,
)
from cephfs_ext.core.config import Loaded
from cephfs_ext.core.errors import ExitCode, UserError

Command = TypeVar("Command", bound=Callable[..., object])

_ID = re.compile(r"[0-9a-f]{16}\.[0-9a-f]{4}")
_PURGED_AT_ONCE = 500_000
"""Entries that one request names: more make it longer than the daemon reads."""

_OUTCOME_CODES = {
    "restored": ExitCode.OK,
    "would_restore": ExitCode.OK,
    "skipped": ExitCode.OK,
    "conflict": ExitCode.CONFLICT,
    "denied": ExitCode.DENIED,
    "not_found": ExitCode.NOT_FOUND,
    "partly_restored": ExitCode.PARTIAL,
    "failed": ExitCode.OTHER,
    "stopped": ExitCode.OTHER,
    "held": ExitCode.OK,
    "released": ExitCode.OK,
    "partly": ExitCode.PARTIAL,
}


@click.group()
def trash() -> None:
    """List, restore, hold and purge what was deleted."""


_FILTERS = (
    click.option("--since", metavar="DURATION", help="Only what was deleted in the last 2d, 3h, …"),
    click.option("--deleted-by", type=int, metavar="UID", help="Only what this user deleted."),
    click.option("--match", "glob", metavar="GLOB", help="Only names that fit."),
    click.option("--event", metavar="EVENT", help="Only what this delete event took away."),
    click.option("--limit", type=int, metavar="N", help="The newest N only."),
)


def _filter_options(command: Command) -> Command:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def _query(
    below: str | None,
    since: str | None,
    deleted_by: int | None,
    glob: str | None,
    event: str | None,
    limit: int | None,
) -> TrashQuery:
    """Return what filters ask for; `below` is base64 already."""
    since_s = seconds(since)
    return TrashQuery(
        below=below,
        since_ns=None if since_s is None else time.time_ns() - int(since_s * 1e9),
        deleter_uid=deleted_by,
        glob=glob,
        event=event,
        limit=limit,
    )


@trash.command("ls")
@click.argument("path", required=False, type=PATH)
@_filter_options
@click.option("--last", is_flag=True, help="Only what you deleted last.")
@click.option("--held", is_flag=True, help="Only what somebody holds.")
@click.option("--events", is_flag=True, help="One line a delete event.")
@json_option
@config_options
def ls(
    path: str | None,
    since: str | None,
    deleted_by: int | None,
    glob: str | None,
    event: str | None,
    limit: int | None,
    last: bool,
    held: bool,
    events: bool,
    as_json: bool,
    loaded: Loaded,
) -> None:
    """List what was deleted (below PATH), one line a tree, newest first.

    On a terminal, trees of one delete event stand together, under a line that says its id.
    """
    connection = connect(loaded.config, path)
    if last and (held or any(one is not None for one in (since, deleted_by, glob, event))):
        raise UserError("--last chooses by itself; add no filter", ExitCode.USAGE)
    below = None if path is None or last else relative(connection, path)
    query = _query(below, since, deleted_by, glob, event, limit)
    query = msgspec.structs.replace(query, held=held, last=last)
    listing = connection.client.listing(query)
    if as_json:
        print_listing_json(listing)
        return
    end = print_events(listing) if events else print_trees(listing)
    if end.more:
        click.echo("there are more: use --limit", err=True)
    for damaged in end.damaged:
        line = f"damaged: .trashbin/{damaged.path}: {damaged.reason}"
        click.echo(printable(line), err=True)


@trash.command()
@click.argument("entry_id", metavar="ID")
@click.option("--mount", "path", type=PATH, help="A path on the mount, if there are more.")
@json_option
@config_options
def show(entry_id: str, path: str | None, as_json: bool, loaded: Loaded) -> None:
    """Show what was deleted under ID, and what is in it; of an event, its trees."""
    client = connect(loaded.config, path).client
    try:
        detail = client.get(f"/v1/trash/{entry_id}", TrashDetail)
    except UserError as exc:
        if exc.exit_code != ExitCode.NOT_FOUND or not _show_event(client, entry_id, as_json):
            raise
        return
    if as_json:
        print_json(detail)
    else:
        _print_detail(detail)


def _show_event(client: Client, event: str, as_json: bool) -> bool:
    """Show the trees that an event took away; False if there are none."""
    listing = client.post("/v1/trash/list", TrashQuery(event=event), TrashListing)
    if not listing.items:
        return False
    if as_json:
        print_json(listing)
    else:
        print_event(listing.items)
    return True


def _print_detail(detail: TrashDetail) -> None:
    item = detail.item
    rows = [
        ("id", item.id),
        ("path", printable(item.path or "(unknown place)")),
        ("kind", item.kind),
        ("deleted", f"{item.deleted_at} by uid {item.deleter_uid}"),
        ("command", printable(item.command or "?")),
        ("event", printable(item.event or "?")),
        ("owner", str(item.owner_uid)),
        ("mode", f"{detail.mode & 0o7777:04o}"),
        ("size", human_size(item.size_bytes)),
        ("entries", "?" if item.entries is None else str(item.entries)),
        ("expires", item.expires_at or "never, it is held"),
    ]
    if item.held_by is not None:
        why = f": {item.held_by.reason}" if item.held_by.reason else ""
        held = f"by uid {item.held_by.uid} since {item.held_by.at}{why}"
        rows.append(("held", printable(held)))
    for key, value in rows:
        click.echo(f"{key:<10}{value}")
    for child in detail.children:
        click.echo(f"  {printable(child.text)}")
    if detail.more:
        click.echo(f"  … and {detail.more} more")


@trash.command()
@click.argument("what", nargs=-1, metavar="[ID|PATH]…")
@click.option("--last", is_flag=True, help="What you deleted last.")
@click.option("--below", metavar="DIR", type=PATH, help="What was deleted below DIR.")
@_filter_options
@click.option("--to", metavar="DIR", type=PATH, help="Restore into DIR.")
@click.option(
    "--on-conflict",
    type=click.Choice(["fail", "skip", "keep-both", "replace"]),
    default="fail",
    help="Where something is at its place already. What is replaced goes into the trash.",
)
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would be done.")
@click.option("--mount", "path", type=PATH, help="A path on the mount, if there are more.")
@json_option
@config_options
def restore(
    what: tuple[str, ...],
    last: bool,
    below: str | None,
    since: str | None,
    deleted_by: int | None,
    glob: str | None,
    event: str | None,
    limit: int | None,
    to: str | None,
    on_conflict: str,
    dry_run: bool,
    path: str | None,
    as_json: bool,
    loaded: Loaded,
) -> int:
    """Bring back what was deleted: by ID, by the PATH it had, --last, or all that fits."""
    filters = (below, since, deleted_by, glob, event)
    by_filters = any(one is not None for one in filters)
    if not what and not last and not by_filters:
        raise UserError(
            "name an ID or a PATH, or use --last, --event, --below, --since, --deleted-by or "
            "--match",
            ExitCode.USAGE,
        )
    if by_filters and (what or last):
        raise UserError("filters choose by themselves; name nothing beside them", ExitCode.USAGE)
    ids = [word for word in what if _ID.fullmatch(word)]
    paths = [word for word in what if not _ID.fullmatch(word)]
    connection = connect(loaded.config, path or to or below or (paths[0] if paths else None))
    inside = None if below is None else relative(connection, below)
    request = RestoreRequest(
        ids=ids,
        paths=[relative(connection, word) for word in paths],
        last=last,
        query=_query(inside, since, deleted_by, glob, event, limit) if by_filters else None,
        to=None if to is None else _directory(connection, to),
        on_conflict=on_conflict,  # type: ignore[arg-type]
        dry_run=dry_run,
    )
    with bar_of_request("restoring", wanted=not as_json) as tell:
        report = connection.client.post_long("/v1/trash/restore", request, RestoreReport, tell=tell)
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    return _exit_code([item.outcome for item in report.items])


@trash.command()
@click.argument("path", type=PATH)
@json_option
@config_options
def explain(path: str, as_json: bool, loaded: Loaded) -> None:
    """Say what would become of PATH if it were deleted, and why."""
    connection = connect(loaded.config, path)
    request = ExplainRequest(relative(connection, path))
    answer = connection.client.post("/v1/trash/explain", request, Explanation)
    if as_json:
        print_json(answer)
        return
    if answer.protected:
        click.echo("can't be deleted: a directory above is marked user.cephfs_ext.protect")
    rule = answer.rule and f" (rule {printable(answer.rule)})"
    click.echo(f"{_fate(answer)}: {printable(answer.why)}{rule}")


def _fate(answer: Explanation) -> str:
    if answer.retention_s is None:
        return f"really removed [{answer.reason}]"
    versions = "" if answer.versions is None else f", the newest {answer.versions} of its name"
    return f"kept {human_duration(answer.retention_s)}{versions}"


@trash.command()
@click.argument("uid", type=click.IntRange(0, 2**32 - 1))
@click.option("--for", "duration", default="10m", metavar="DURATION", help="How long; 10m.")
@click.option("--mount", "path", type=PATH, help="A path on the mount, if there are more.")
@json_option
@config_options
def allow(uid: int, duration: str, path: str | None, as_json: bool, loaded: Loaded) -> None:
    """Let UID delete what isn't theirs without trash.foreign_deletes_per_minute, for a while."""
    duration_s = seconds(duration)
    assert duration_s is not None
    request = AllowRequest(uid, duration_s)
    answer = connect(loaded.config, path).client.post("/v1/trash/allow", request, Allowed)
    if as_json:
        print_json(answer)
    else:
        click.echo(f"uid {uid} may delete without limit until {answer.until}")


def _directory(connection: Connection, path: str) -> str:
    if not os.path.isdir(path):
        raise UserError(f"--to {path}: no such directory; create it first", ExitCode.NOT_FOUND)
    inside = relative(connection, os.path.join(os.path.realpath(path), "x"))
    return base64.b64encode(os.path.dirname(base64.b64decode(inside))).decode()


def _print_report(report: RestoreReport) -> None:
    for item in report.items:
        line = f"{item.outcome.replace('_', ' ')}: {item.target or item.asked}"
        failed = _OUTCOME_CODES.get(item.outcome) != ExitCode.OK
        click.echo(printable(f"{line}: {item.message}" if item.message else line), err=failed)
        verb = "would make" if item.outcome == "would_restore" else "made"
        for made in item.made:
            owner = f"mode {made.mode:04o}, uid {made.uid}, gid {made.gid}"
            click.echo(printable(f"  {verb} {made.path}: {owner}"), err=failed)


def _exit_code(outcomes: Sequence[str]) -> int:
    """Return the code for several: that of the first failure, unless something was done."""
    codes = [_OUTCOME_CODES.get(outcome, ExitCode.OTHER) for outcome in outcomes]
    failed = [code for code in codes if code != ExitCode.OK]
    if not failed:
        return ExitCode.OK
    nothing_done = len(failed) == len(codes) and ExitCode.PARTIAL not in failed
    return failed[0] if nothing_done else ExitCode.PARTIAL


@trash.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@click.option("--older-than", metavar="DURATION", help="Everything deleted longer ago than 7d, …")
@click.option("--all", "everything", is_flag=True, help="Everything you may purge.")
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would be removed.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@click.option("--mount", "path", type=PATH, help="A path on the mount, if there are more.")
@json_option
@config_options
def purge(
    ids: tuple[str, ...],
    older_than: str | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
    path: str | None,
    as_json: bool,
    loaded: Loaded,
) -> int:
    """Remove for good what was deleted; it can't be restored afterwards."""
    age_s = seconds(older_than)
    if not ids and age_s is None and not everything:
        raise UserError("name an ID, or use --older-than or --all", ExitCode.USAGE)
    client = connect(loaded.config, path).client
    request = PurgeRequest(ids=list(ids), older_than_s=age_s, all=everything, dry_run=True)
    plan = client.post("/v1/trash/purge", request, PurgeReport)
    report = plan if dry_run else _carry_out(client, plan, yes=yes, as_json=as_json)
    if as_json:
        print_json(report)
    else:
        _print_purge(report)
    for entry_id in plan.not_found:
        click.echo(f"cephfs-ext: no entry {entry_id} in the trash", err=True)
    for entry_id in plan.held:
        click.echo(f"cephfs-ext: {entry_id} is held; release it first", err=True)
    if plan.not_found or plan.held:
        if plan.trees:
            return ExitCode.PARTIAL
        return ExitCode.NOT_FOUND if plan.not_found else ExitCode.CONFLICT
    return ExitCode.PARTIAL if report.failures else ExitCode.OK


def _carry_out(client: Client, plan: PurgeReport, *, yes: bool, as_json: bool) -> PurgeReport:
    """Remove exactly what a plan names."""
    if not plan.trees:
        return msgspec.structs.replace(plan, dry_run=False)
    _confirm(plan, yes=yes)
    ids = [item.id for item in plan.trees]
    reports = []
    for start in range(0, len(ids), _PURGED_AT_ONCE):
        wanted = PurgeRequest(ids=ids[start : start + _PURGED_AT_ONCE])
        with bar_of_request("removing", wanted=not as_json) as tell:
            reports.append(client.post_long("/v1/trash/purge", wanted, PurgeReport, tell=tell))
    return PurgeReport(
        dry_run=False,
        trees=[item for report in reports for item in report.trees],
        not_found=[entry_id for report in reports for entry_id in report.not_found],
        files=sum(report.files for report in reports),
        dirs=sum(report.dirs for report in reports),
        failures=sum(report.failures for report in reports),
        held=[entry_id for report in reports for entry_id in report.held],
    )


def _confirm(plan: PurgeReport, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("refused without confirmation; add --yes", ExitCode.USAGE)
    print_items(plan.trees)
    click.confirm(f"Remove these {len(plan.trees)} for good?", abort=True)


def _print_purge(report: PurgeReport) -> None:
    if report.dry_run:
        print_items(report.trees)
        click.echo(f"would remove {len(report.trees)}")
        return
    click.echo(
        f"removed {len(report.trees)}: {report.files} files, {report.dirs} directories"
        + (f"; {report.failures} could not be removed, see the log" if report.failures else "")
    )


@trash.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@click.option("--reason", default="", metavar="TEXT", help="Why; it is shown beside who holds it.")
@click.option("--mount", "path", type=PATH, help="A path on the mount, if there are more.")
@json_option
@config_options
def hold(ids: tuple[str, ...], reason: str, path: str | None, as_json: bool, loaded: Loaded) -> int:
    """Keep what was deleted under ID, however old it gets and however full the storage is."""
    request = HoldRequest(ids=list(ids), reason=reason)
    return _hold_or_release("hold", request, path, as_json=as_json, loaded=loaded)


@trash.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@click.option("--mount", "path", type=PATH, help="A path on the mount, if there are more.")
@json_option
@config_options
def release(ids: tuple[str, ...], path: str | None, as_json: bool, loaded: Loaded) -> int:
    """End a hold: what was deleted under ID expires as it would have."""
    request = HoldRequest(ids=list(ids))
    return _hold_or_release("release", request, path, as_json=as_json, loaded=loaded)


def _hold_or_release(
    verb: str, request: HoldRequest, path: str | None, *, as_json: bool, loaded: Loaded
) -> int:
    report = connect(loaded.config, path).client.post(f"/v1/trash/{verb}", request, HoldReport)
    if as_json:
        print_json(report)
    for item in () if as_json else report.items:
        line = f"{item.outcome.replace('_', ' ')}: {item.id}"
        line += f": {item.message}" if item.message else f", {item.entries} entries"
        failed = _OUTCOME_CODES.get(item.outcome) != ExitCode.OK
        click.echo(printable(line), err=failed)
    return _exit_code([item.outcome for item in report.items])
