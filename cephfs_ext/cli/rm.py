"""`cephfs-ext rm`: a tree of any size is deleted by one rename into the virtual `.trashbin`.

Needs no daemon: the kernel checks the caller's rights, as for any rename.
"""

from __future__ import annotations

import json
import os
import stat
from typing import NamedTuple

import click

from cephfs_ext.cli.options import PATH, json_option
from cephfs_ext.cli.output import printable
from cephfs_ext.core import mountinfo
from cephfs_ext.core.errors import ExitCode, UserError

_TRASH = ".trashbin"


class Result(NamedTuple):
    """What became of one path."""

    path: str
    deleted: bool
    message: str
    exit_code: int


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PATH)
@click.option("--recursive", "-r", "-R", is_flag=True, help="Delete directories, too.")
@click.option("--force", "-f", is_flag=True, help="What isn't there is no error.")
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would be deleted.")
@json_option
def rm(paths: tuple[str, ...], recursive: bool, force: bool, dry_run: bool, as_json: bool) -> int:
    """Delete PATHS; each directory, whatever its size, by one rename."""
    devices = {mount.device for mount in mountinfo.mounts() if mount.is_gateway}
    results = [
        _delete(path, devices, recursive=recursive, force=force, dry_run=dry_run) for path in paths
    ]
    _report(results, as_json=as_json, dry_run=dry_run)
    failed = [result for result in results if result.exit_code]
    if not failed:
        return ExitCode.OK
    return failed[0].exit_code if len(failed) == len(results) else ExitCode.PARTIAL


def _delete(path: str, devices: set[int], *, recursive: bool, force: bool, dry_run: bool) -> Result:
    try:
        place = mountinfo.without_links(path)
        attr = os.lstat(place if path else path)
        _check(path, place, attr, devices, recursive=recursive)
        if not dry_run:
            _remove(place, attr)
        return Result(path, not dry_run, "", ExitCode.OK)
    except UserError as exc:
        return Result(path, False, str(exc), exc.exit_code)
    except FileNotFoundError:
        if force:
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


def _remove(place: str, attr: os.stat_result) -> None:
    above, name = os.path.split(place)
    if stat.S_ISDIR(attr.st_mode):
        os.rename(place, os.path.join(above, _TRASH, name))
    else:
        os.unlink(place)


def _report(results: list[Result], *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        items = [result._asdict() for result in results]
        click.echo(json.dumps({"schema_version": 1, "dry_run": dry_run, "items": items}))
        return
    for result in results:
        if result.message:
            click.echo(printable(f"cephfs-ext rm: {result.path}: {result.message}"), err=True)
        elif dry_run and not result.exit_code:
            click.echo(printable(f"would delete {result.path}"))
