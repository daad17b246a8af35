"""Finds the gateway for a command, and its way of writing paths."""

from __future__ import annotations

import base64
import os
from typing import NamedTuple

import click

from cephfs_ext.control.client import SOCKET_VARIABLE, Client, find_daemon, socket_of
from cephfs_ext.control.state import State
from cephfs_ext.core import mountinfo
from cephfs_ext.core.config import Config
from cephfs_ext.core.errors import ExitCode, UserError


class Connection(NamedTuple):
    """A gateway, and what is known of it here."""

    client: Client
    state: State | None
    """None where a socket was named: the gateway may run on another host."""


class Seen(NamedTuple):
    """Where a path lies on what is mounted there."""

    device: int
    inside: str
    """Relative to the root of what is mounted: a bind mount shows a part of it."""


def connect(config: Config, path: str | None, *, timeout_s: float | None = None) -> Connection:
    """Connect to the gateway that serves a path, or the current directory, or to the only one.

    Args:
        timeout_s: how long an answer may take; None for as long as a large restore does.

    Raises:
        UserError: there is none, or more than one.
    """
    explicit = os.environ.get(SOCKET_VARIABLE)
    if explicit:
        return Connection(_client(explicit, timeout_s), None)
    if path is None and mountinfo.mount_above(os.getcwd()).is_gateway:
        path = os.getcwd()
    place = None if path is None else _place(path)
    directory, state = find_daemon(place, config.control.runtime_dir)
    return Connection(_client(socket_of(directory), timeout_s), state)


def _client(socket_path: str, timeout_s: float | None) -> Client:
    """Connect until the end of the command."""
    client = Client(socket_path, timeout_s=timeout_s)
    click.get_current_context().call_on_close(client.close)
    return client


def _place(path: str) -> str:
    """Return what a path calls, whether it exists or not.

    Its last name is followed if it is a link that isn't on a gateway itself.
    """
    place = mountinfo.without_links(path)
    return place if mountinfo.mount_above(place).is_gateway else os.path.realpath(place)


def seen(path: str) -> Seen:
    """Return where a path lies."""
    place = _place(path)
    mount = mountinfo.mount_above(place)
    inside = os.path.relpath(place, mount.place)
    if mount.is_gateway:
        inside = os.path.normpath(os.path.join(mount.root.lstrip("/"), inside))
    return Seen(mount.device, "" if inside == "." else inside)


def relative(connection: Connection, path: str) -> str:
    """Return a path relative to the root of the mount, base64.

    Raises:
        UserError: the path is not on the mount.
    """
    found = seen(path)
    if connection.state is not None and found.device != connection.state.dev:
        raise UserError(
            f"{path} is not on {connection.state.mountpoint}; name paths of one mount at a time",
            ExitCode.USAGE,
        )
    return base64.b64encode(os.fsencode(found.inside)).decode()
