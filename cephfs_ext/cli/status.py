"""`cephfs-ext status`."""

from __future__ import annotations

import click

from cephfs_ext.cli.connect import Connection, connect
from cephfs_ext.cli.options import PATH, config_options, json_option
from cephfs_ext.cli.output import human_duration, human_size, print_json
from cephfs_ext.control.service import Status, TrashSpace
from cephfs_ext.core.config import Loaded
from cephfs_ext.core.errors import ExitCode, UserError

_TIMEOUT_S = 10.0
"""A gateway that works says so at once."""


@click.command()
@click.argument("path", required=False, type=PATH)
@json_option
@config_options
def status(path: str | None, as_json: bool, loaded: Loaded) -> None:
    """Say what runs and serves PATH (or the only gateway there is)."""
    answer = _ask(connect(loaded.config, path, timeout_s=_TIMEOUT_S))
    if as_json:
        print_json(answer)
        return
    rows = [
        ("gateway", f"{answer.version}, process {answer.pid}, up {answer.uptime_s:.0f} s"),
        ("serves", f"{answer.source} at {answer.mountpoint}"),
        ("mode", "read-only" if answer.read_only else "read-write"),
        ("trash", _trash(answer)),
        *_space(answer.trash),
        ("kernel", f"{answer.nodes} inodes, {answer.handles} open"),
        ("memory", f"{human_size(answer.rss_bytes)}, {answer.threads} threads"),
    ]
    rows += [(f"storage.{key}", str(value)) for key, value in answer.storage.items()]
    for key, value in rows:
        click.echo(f"{key:<28}{value}")


def _ask(connection: Connection) -> Status:
    try:
        return connection.client.get("/v1/status", Status)
    except UserError as exc:
        if connection.state is None or exc.exit_code != ExitCode.TEMPORARY:
            raise
        pid = connection.state.pid
        raise UserError(
            f"{exc}; its process is {pid}, kill -9 {pid} ends it", exc.exit_code
        ) from exc


def _trash(answer: Status) -> str:
    if not answer.trash_enabled:
        return "off: what is deleted is gone"
    return f"kept {human_duration(answer.retention_s)}"


def _space(space: TrashSpace | None) -> list[tuple[str, str]]:
    if space is None:
        return []
    share = space.size_bytes / space.used_bytes if space.used_bytes else 0.0
    held = f", {human_size(space.held_bytes)} held" if space.held_bytes else ""
    return [
        (
            "used",
            f"{human_size(space.used_bytes)} of {human_size(space.total_bytes)}, "
            f"{100 * space.used_ratio:.0f}% of what is scarcest",
        ),
        (
            "trash.size",
            f"{human_size(space.size_bytes)}, {space.entries} names; {100 * share:.0f}% of what is "
            f"used{held}; {space.age_s:.0f} s ago",
        ),
        ("trash.guaranteed", _guaranteed(space)),
    ]


def _guaranteed(space: TrashSpace) -> str:
    if space.guaranteed_s is None:
        text = "not known before an hour is over in which something was deleted"
    else:
        text = f"at this rate {space.guaranteed_s / 86400:.1f} days are guaranteed"
    if space.is_helpless:
        text += "; too full, and nothing more may be let go"
    return text
