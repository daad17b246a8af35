"""`cephfs-ext rm`: a tree of any size is deleted by one rename into the virtual `.trashbin`.

Needs no daemon, but to wait for one: the kernel checks the caller's rights, as for any rename.
"""

from __future__ import annotations

import json
import os
import stat
import time
from typing import NamedTuple

import click
import msgspec

from cephfs_ext.cli.connect import connect, relative
from cephfs_ext.cli.jobs import exit_code_of, print_ends, wait_for
from cephfs_ext.cli.options import PATH, config_options, json_option
from cephfs_ext.cli.output import printable
from cephfs_ext.control.jobs import JobListing, JobQuery
from cephfs_ext.core import mountinfo
from cephfs_ext.core.config import Loaded
from cephfs_ext.core.errors import ExitCode, UserError

_TRASH = ".trashbin"
_NOW = os.path.join(_TRASH, "now")

_SKEW_NS = 10_000_000_000
"""A job that was made this long before it was asked for may be it: clocks differ."""


class Result(NamedTuple):
    """What became of one path."""

    path: str
    deleted: bool
    message: str
    exit_code: int
    job: str | None = None
    """What removes it now; None if it is kept, or gone already."""


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PATH)
@click.option("--recursive", "-r", "-R", is_flag=True, help="Delete directories, too.")
@click.option("--force", "-f", is_flag=True, help="What isn't there is no error.")
@click.option("--now", is_flag=True, help="Keep nothing: it can't be restored, and makes room.")
@click.option("--wait", is_flag=True, help="With --now, wait until all is really removed.")
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would be deleted.")
@json_option
@config_options
def rm(
    paths: tuple[str, ...],
    recursive: bool,
    force: bool,
    now: bool,
    wait: bool,
    dry_run: bool,
    as_json: bool,
    loaded: Loaded,
) -> int:
    """Delete PATHS; each directory, whatever its size, by one rename.

    With --now, jobs in the background really remove what is in them; see `cephfs-ext jobs`.
    """
    if wait and not now:
        raise UserError("--wait needs --now: what is kept is in the trash at once", ExitCode.USAGE)
    devices = {mount.device for mount in mountinfo.mounts() if mount.is_gateway}
    wanted = _Wanted(recursive, force, now, dry_run)
    results = [_delete(path, devices, wanted, loaded) for path in paths]
    listing = _ended(results, loaded, with_bar=not as_json) if wait else None
    _report(results, listing, as_json=as_json, dry_run=dry_run)
    failed = [result for result in results if result.exit_code]
    if failed:
        return failed[0].exit_code if len(failed) == len(results) else ExitCode.PARTIAL
    return ExitCode.OK if listing is None else exit_code_of(listing)


class _Wanted(NamedTuple):
    """How to delete."""

    recursive: bool
    force: bool
    now: bool
    dry_run: bool


def _delete(path: str, devices: set[int], wanted: _Wanted, loaded: Loaded) -> Result:
    try:
        place = mountinfo.without_links(path)
        attr = os.lstat(place if path else path)
        _check(path, place, attr, devices, recursive=wanted.recursive)
        job = None
        if not wanted.dry_run:
            since_ns = time.time_ns() - _SKEW_NS
            _remove(place, attr, now=wanted.now)
            if wanted.now and stat.S_ISDIR(attr.st_mode):
                job = _job_of(place, since_ns, loaded)
        return Result(path, not wanted.dry_run, "", ExitCode.OK, job)
    except UserError as exc:
        return Result(path, False, str(exc), exc.exit_code)
    except FileNotFoundError:
        if wanted.force:
            return Result(path, False, "", ExitCode.OK)
        return Result(path, False, "no such file or directory", ExitCode.NOT_FOUND)
    except PermissionError as exc:
        return Result(path, False, exc.strerror or "denied", ExitCode.DENIED)
    except OSError as exc:
        return Result(path, False, exc.strerror or str(exc), ExitCode.OTHER)


def _check(
    path: str, place: str, attr: os.stat_result, devices: set[int], *, recursive: bool
) -> None:
    """Refuse what nobody means.

    Args:
        path: as it was given.
        place: what is to be deleted.
        attr: of what is there.
        devices: of all gateways.
        recursive: directories are meant, too.
    """
    if os.path.basename(path.rstrip("/")) in ("", ".", ".."):
        raise UserError("refused: name the directory itself", ExitCode.USAGE)
    if path.endswith("/") and not stat.S_ISDIR(attr.st_mode):
        raise UserError("not a directory; leave the / at its end out", ExitCode.USAGE)
    if os.path.ismount(place):
        raise UserError("refused: it is a mountpoint", ExitCode.USAGE)
    if attr.st_dev not in devices:
        raise UserError("it is on no gateway mount; use rm", ExitCode.USAGE)
    if stat.S_ISDIR(attr.st_mode) and not recursive:
        raise UserError("it is a directory; add -r", ExitCode.USAGE)


def _remove(place: str, attr: os.stat_result, *, now: bool) -> None:
    above, name = os.path.split(place)
    if now or stat.S_ISDIR(attr.st_mode):
        os.rename(place, os.path.join(above, _NOW if now else _TRASH, name))
    else:
        os.unlink(place)


def _job_of(place: str, since_ns: int, loaded: Loaded) -> str | None:
    """Return the job that removes what was at a place; None if the gateway can't be asked."""
    try:
        connection = connect(loaded.config, os.path.dirname(place))
        query = JobQuery(below=relative(connection, place), since_ns=since_ns, over=True)
        listing = connection.client.post("/v1/jobs/list", query, JobListing)
    except UserError:
        return None
    return max((item.id for item in listing.items), default=None)


def _ended(results: list[Result], loaded: Loaded, *, with_bar: bool) -> JobListing | None:
    """Wait until all is removed; None if there is nothing to wait for."""
    ids = [result.job for result in results if result.job is not None]
    if not ids:
        return None
    client = connect(loaded.config, os.path.dirname(os.path.abspath(results[0].path))).client
    return wait_for(client, ids, with_bar=with_bar)


def _report(
    results: list[Result], jobs: JobListing | None, *, as_json: bool, dry_run: bool
) -> None:
    if as_json:
        items = [result._asdict() for result in results]
        document = {"schema_version": 1, "dry_run": dry_run, "items": items}
        if jobs is not None:
            document["jobs"] = msgspec.to_builtins(jobs.items)
        click.echo(json.dumps(document))
        return
    for result in results:
        if result.message:
            click.echo(printable(f"cephfs-ext rm: {result.path}: {result.message}"), err=True)
        elif dry_run and not result.exit_code:
            click.echo(printable(f"would delete {result.path}"))
    if jobs is not None:
        print_ends(jobs)
