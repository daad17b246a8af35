"""`mount.fuse.cephfs-ext`, which mount(8) calls for a line of fstab.

Source: mount(8), EXTERNAL HELPERS.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os

import click

from cephfs_ext.cli.options import PATH, config_options
from cephfs_ext.core.config import Loaded, parse_source
from cephfs_ext.core.errors import ExitCode, UserError

_CLONE_NEWNS = 0x0002_0000
_NEEDED_LATER = (
    "cephfs_ext.daemon.run",
    "cephfs_ext.daemon.serve",
    "cephfs_ext.storage.ceph",
)
"""What a daemon imports, and may not find in another namespace."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source")
@click.argument("mountpoint", type=PATH)
@click.option("-f", "fake", is_flag=True, help="Check the options, and mount nothing.")
@click.option("-N", "namespace", metavar="PID|FILE", help="Mount in this mount namespace.")
@click.option("-n", "-s", "-v", "_flags", is_flag=True, hidden=True)
@click.option("-t", "_kind", hidden=True)
@config_options
def mount_helper(
    source: str,
    mountpoint: str,
    fake: bool,
    namespace: str | None,
    loaded: Loaded,
    **_: object,
) -> None:
    """Mount SOURCE (posix:DIR or ceph:/SUBDIR) at MOUNTPOINT, as mount(8) asks for it."""
    served = parse_source(source)
    if fake:
        return
    if namespace is not None:
        _enter(namespace)
    from cephfs_ext.daemon import run

    run.mount(loaded.config, served, mountpoint, foreground=False)


def _enter(namespace: str) -> None:
    """Go on in another mount namespace: source, mountpoint and sockets are those there."""
    for module in _NEEDED_LATER:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    file = f"/proc/{namespace}/ns/mnt" if namespace.isdigit() else namespace
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise UserError(
            f"-N {namespace}: {exc.strerror}; name a process, or a file such as /proc/1/ns/mnt",
            ExitCode.NOT_FOUND,
        ) from exc
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.setns(descriptor, _CLONE_NEWNS) != 0
    os.close(descriptor)
    if failed:
        reason = os.strerror(ctypes.get_errno())
        raise UserError(f"-N {namespace}: {reason}; run as root", ExitCode.DENIED)
