"""`cephfs-ext mount` and `cephfs-ext umount`."""

from __future__ import annotations

import contextlib
import errno
import os
import time

import click

from cephfs_ext.cli.options import PATH, config_options
from cephfs_ext.control.state import ADMIN_SOCKET, State, daemon_dir, is_alive, read_state
from cephfs_ext.core import mountinfo
from cephfs_ext.core.config import Loaded, parse_source
from cephfs_ext.core.errors import ExitCode, UserError
from cephfs_ext.daemon import mounts

_UNMOUNT_S = 60.0
_POLL_S = 0.05
_ANSWER_S = 10.0
"""How long a daemon may take to say that it will stop."""


@click.command()
@click.argument("source")
@click.argument("mountpoint", type=PATH)
@click.option("--foreground", "-f", is_flag=True, help="Stay in the foreground; log to stderr.")
@config_options
def mount(source: str, mountpoint: str, foreground: bool, loaded: Loaded) -> None:
    """Mount SOURCE (posix:DIR or ceph:/SUBDIR) at MOUNTPOINT; returns when the mount answers."""
    from cephfs_ext.daemon import run

    run.mount(loaded.config, parse_source(source), mountpoint, foreground=foreground)


@click.command()
@click.argument("mountpoint", type=PATH)
@click.option("--force", is_flag=True, help="Take the mount away although its daemon hangs.")
@config_options
def umount(mountpoint: str, force: bool, loaded: Loaded) -> None:
    """Unmount MOUNTPOINT; returns when everything has been written."""
    place = mountinfo.mountpoint_of(mountpoint)
    directory = daemon_dir(loaded.config.control.runtime_dir, place)
    state = read_state(directory)
    alive = state is not None and is_alive(state)
    if state is not None and alive and not force:
        _ask_to_stop(directory, state)
        _wait_for_end(state, place)
        return
    mounted = mountinfo.mount_at(place)
    if mounted is None or not mounted.is_gateway:
        raise UserError(f"{mountpoint} is no gateway mount", ExitCode.NOT_FOUND)
    # a daemon is never asked where it may hang
    _unmount(place, detach=force or (not alive and mounts.is_stale(place)))


def _unmount(place: str, *, detach: bool) -> None:
    try:
        mounts.unmount(place, detach=detach)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise UserError(
                f"{place} is busy; close what is open there, or use --force", ExitCode.CONFLICT
            ) from exc
        raise UserError(
            f"{place}: {exc.strerror}; only root, or the user who mounted it, may unmount",
            ExitCode.DENIED,
        ) from exc


def _ask_to_stop(directory: str, state: State) -> None:
    from cephfs_ext.control.client import Client

    admin = os.path.join(directory, ADMIN_SOCKET)
    if os.path.exists(admin) and not os.access(admin, os.R_OK | os.W_OK):
        raise UserError(
            "only an operator may stop a gateway; run as root, or as the user who mounted it",
            ExitCode.DENIED,
        )
    with contextlib.closing(Client(admin, timeout_s=_ANSWER_S)) as client:
        try:
            client.post("/v1/stop", {}, dict[str, str])
        except UserError as exc:
            if exc.exit_code == ExitCode.TEMPORARY and not is_alive(state):
                return  # it had ended already
            raise UserError(
                f"{exc}; --force takes the mount away, kill -9 {state.pid} ends the daemon",
                exc.exit_code,
            ) from exc


def _wait_for_end(state: State, place: str) -> None:
    until = time.monotonic() + _UNMOUNT_S
    while is_alive(state):
        if time.monotonic() > until:
            raise UserError(
                f"{place} is still busy after {_UNMOUNT_S:.0f} s; close what is open there, "
                "or use --force",
                ExitCode.TEMPORARY,
            )
        time.sleep(_POLL_S)
