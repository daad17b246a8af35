"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from cephfs_ext.core.config import load_config, parse_duration
from cephfs_ext.core.errors import ExitCode, UserError


class _Path(click.Path):
    """A path as it was given. click's own asks for its attributes, and hangs where a mount does."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        del param, ctx
        return value


PATH = _Path()

F = TypeVar("F", bound=Callable[..., Any])


def config_options(command: F) -> F:
    """Add the options that make up the configuration; the command gets it as `loaded`."""

    @click.option("--config", "file", type=PATH, envvar="CEPHFS_EXT_CONFIG")
    @click.option("-o", "options", multiple=True, metavar="KEY=VALUE[,…]", help="Set a value.")
    @click.option("--ceph-conf", metavar="FILE", help="Configuration of the cluster.")
    @click.option("--ceph-id", metavar="ID", help="Client id, without `client.`.")
    @functools.wraps(command)
    def with_config(
        file: str | None,
        options: tuple[str, ...],
        ceph_conf: str | None,
        ceph_id: str | None,
        **arguments: Any,
    ) -> Any:
        flags = [part for option in options for part in option.split(",") if part]
        flags += [f"ceph.conf={ceph_conf}"] if ceph_conf else []
        flags += [f"ceph.id={ceph_id}"] if ceph_id else []
        return command(loaded=load_config(file, options=flags), **arguments)

    return with_config  # type: ignore[return-value]


def seconds(duration: str | None) -> float | None:
    """Return how long an option says; None if it isn't given.

    Raises:
        UserError: it is no duration.
    """
    if duration is None:
        return None
    try:
        return parse_duration(duration)
    except ValueError as exc:
        raise UserError(str(exc), ExitCode.USAGE) from exc


def json_option(command: F) -> F:
    """Add `--json`; the command gets it as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)
