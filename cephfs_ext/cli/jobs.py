"""`cephfs-ext jobs ls|show|pause|resume|cancel|retry|wait`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from cephfs_ext.cli.bar import ShowProgress, bar
from cephfs_ext.cli.connect import connect, relative
from cephfs_ext.cli.options import PATH, config_options, json_option, seconds
from cephfs_ext.cli.output import (
    human_duration,
    human_size,
    print_json,
    print_rows,
    printable,
)
from cephfs_ext.control.client import Client
from cephfs_ext.control.jobs import (
    JobItem,
    JobListing,
    JobQuery,
    JobReport,
    JobRequest,
    JobVerb,
)
from cephfs_ext.core.config import Loaded
from cephfs_ext.core.errors import ExitCode, UserError

POLL_S = 0.5

_CODES = {
    "done": ExitCode.OK,
    "kept": ExitCode.PARTIAL,
    "stuck": ExitCode.PARTIAL,
    "cancelled": ExitCode.PARTIAL,
    "paused": ExitCode.TEMPORARY,
}
"""How `wait` ends; a job in any other state goes on."""

_REFUSED = {
    "not_found": ExitCode.NOT_FOUND,
    "denied": ExitCode.DENIED,
    "conflict": ExitCode.CONFLICT,
    "failed": ExitCode.OTHER,
}


@click.group()
def jobs() -> None:
    """Follow and steer what is removed in the background."""


def _mount_option(command: Any) -> Any:
    return click.option(
        "--mount", "path", type=PATH, help="A path on the mount, if there are more."
    )(command)


@jobs.command("ls")
@click.argument("path", required=False, type=PATH)
@click.option("--all", "-a", "over", is_flag=True, help="Also those that are over.")
@json_option
@config_options
def ls(path: str | None, over: bool, as_json: bool, loaded: Loaded) -> None:
    """List jobs, of what was at PATH and below, or all, the oldest first."""
    connection = connect(loaded.config, path)
    where = None if path is None else relative(connection, path)
    listing = _list(connection.client, JobQuery(below=where, over=over))
    if as_json:
        print_json(listing)
    else:
        print_rows(_HEADINGS, [_cells(item) for item in listing.items], long=("PATH",))


_HEADINGS = ("ID", "STATE", "KIND", "BY", "REMOVED", "LEFT", "BYTES LEFT", "RATE", "ETA", "PATH")


def _cells(item: JobItem) -> tuple[str, ...]:
    return (
        item.id,
        item.state,
        item.kind,
        str(item.uid),
        str(item.files + item.dirs),
        "?" if item.entries_left is None else str(item.entries_left),
        human_size(item.size_left_bytes),
        f"{item.rate:.0f}/s" if item.rate else "-",
        "-" if item.eta_s is None else human_duration(float(round(item.eta_s))),
        "?" if item.path is None else printable(item.path),
    )


def _list(client: Client, query: JobQuery) -> JobListing:
    return client.post("/v1/jobs/list", query, JobListing)


@jobs.command()
@click.argument("job_id", metavar="ID")
@_mount_option
@json_option
@config_options
def show(job_id: str, path: str | None, as_json: bool, loaded: Loaded) -> None:
    """Show one job, and what it could not remove."""
    client = connect(loaded.config, path).client
    listing = _list(client, JobQuery(ids=[job_id]))
    if as_json:
        print_json(listing.items[0])
        return
    for label, text in _lines(listing.items[0]):
        click.echo(f"{label:<10} {text}")


def _lines(item: JobItem) -> list[tuple[str, str]]:
    total = "?" if item.entries_total is None else str(item.entries_total)
    lines = [
        ("id", item.id),
        ("state", item.state),
        ("kind", item.kind),
        ("path", "?" if item.path is None else printable(item.path)),
        ("by", str(item.uid)),
        ("since", item.made_at),
        ("removed", f"{item.files} files, {item.dirs} directories, of {total} names"),
        ("left", f"{human_size(item.size_left_bytes)} of {human_size(item.size_total_bytes)}"),
        ("workers", " ".join(item.workers) or "-"),
    ]
    if item.ended_at is not None:
        lines.append(("ended", item.ended_at))
    if item.entry is not None:
        lines.append(("kept as", f"{item.entry} (cephfs-ext trash restore {item.entry})"))
    if item.failed:
        lines.append(("failed", str(item.failed)))
    lines += [("", printable(f"{one.path}: {one.reason}")) for one in item.failures]
    return lines


@jobs.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@_mount_option
@click.option("--timeout", metavar="DURATION", help="Give up after 10m, 2h, …")
@json_option
@config_options
def wait(
    ids: tuple[str, ...], path: str | None, timeout: str | None, as_json: bool, loaded: Loaded
) -> int:
    """Wait until jobs are over, and say how they ended.

    Exit codes: 0 all is removed, 3 no such job, 5 paused or not over in time, 6 something is left.
    """
    client = connect(loaded.config, path).client
    listing = wait_for(client, ids, timeout_s=seconds(timeout), with_bar=not as_json)
    if as_json:
        print_json(listing)
    else:
        print_ends(listing)
    return exit_code_of(listing)


def wait_for(
    client: Client, ids: Sequence[str], *, timeout_s: float | None = None, with_bar: bool
) -> JobListing:
    """Wait until jobs are over, stuck or paused, and return how they stand then.

    Args:
        with_bar: show on a terminal how far they are.

    Raises:
        UserError: there is no such job, or they are not over in time.
    """
    end_s = None if timeout_s is None else time.monotonic() + timeout_s
    query = JobQuery(ids=list(ids))
    with bar("removing", wanted=with_bar) as show_progress:
        while True:
            listing = _list(client, query)
            if show_progress is not None:
                _show(listing, show_progress)
            if all(item.state in _CODES for item in listing.items):
                return listing
            if end_s is not None and time.monotonic() > end_s:
                raise UserError("the jobs go on; cephfs-ext jobs wait", ExitCode.TEMPORARY)
            time.sleep(POLL_S)


def print_ends(listing: JobListing) -> None:
    """Print how jobs stand, a line each; on standard error if something is left."""
    for item in listing.items:
        click.echo(_end(item), err=item.state != "done")


def exit_code_of(listing: JobListing) -> int:
    """Return the exit code of a command that has waited for jobs."""
    return max((_CODES[item.state] for item in listing.items), default=ExitCode.OK)


def _show(listing: JobListing, show: ShowProgress) -> None:
    """Show how far jobs are, together."""
    done = sum(item.files + item.dirs for item in listing.items)
    left = [item.entries_left for item in listing.items]
    known = [number for number in left if number is not None]
    size = sum(item.size_left_bytes or 0 for item in listing.items)
    total = done + sum(known) if len(known) == len(left) else None
    show(done, total, f"{human_size(size)} left" if total is not None else "")


def _end(item: JobItem) -> str:
    line = f"{item.id}: {item.state}, {item.files} files and {item.dirs} directories removed"
    if item.failed:
        line += f", {item.failed} could not be removed (cephfs-ext jobs show {item.id})"
    if item.entry is not None:
        line += f"; what was left: cephfs-ext trash restore {item.entry}"
    return line


def _asking(verb: JobVerb, help_text: str) -> click.Command:
    """Make the command that asks something of jobs."""

    @click.argument("ids", nargs=-1, metavar="[ID]…")
    @click.option("--all", "-a", "everything", is_flag=True, help="All that you may steer.")
    @_mount_option
    @json_option
    @config_options
    def command(
        ids: tuple[str, ...], everything: bool, path: str | None, as_json: bool, loaded: Loaded
    ) -> int:
        if bool(ids) == everything:
            raise UserError("name an ID, or use --all", ExitCode.USAGE)
        client = connect(loaded.config, path).client
        wanted = list(ids)
        if everything:
            wanted = [item.id for item in _list(client, JobQuery()).items]
        if not wanted:
            return ExitCode.OK
        report = client.post("/v1/jobs/ask", JobRequest(ids=wanted, verb=verb), JobReport)
        return _report(report, as_json=as_json)

    return jobs.command(verb, help=help_text)(command)


def _report(report: JobReport, *, as_json: bool) -> int:
    if as_json:
        print_json(report)
    for item in () if as_json else report.items:
        line = f"{item.id}: {item.outcome}" if not item.message else item.message
        if item.entry is not None:
            line += f"; what was left: cephfs-ext trash restore {item.entry}"
        click.echo(printable(line), err=item.outcome in _REFUSED)
    refused = [_REFUSED[item.outcome] for item in report.items if item.outcome in _REFUSED]
    if not refused:
        return ExitCode.OK
    return refused[0] if len(refused) == len(report.items) else ExitCode.PARTIAL


_asking("pause", "Stop removing for now; what is removed stays removed.")
_asking("resume", "Go on with jobs that were paused.")
_asking("cancel", "Give back what is left: it is in the trash then, to be restored.")
_asking("retry", "Try again what could not be removed.")
