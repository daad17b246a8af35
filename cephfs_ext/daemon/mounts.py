"""What can be known of a mountpoint before and after mounting; checks with the fix in the error.

Everything here blocks and is called outside of the event loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess

from cephfs_ext.core import mountinfo
from cephfs_ext.core.config import Source
from cephfs_ext.core.errors import ExitCode, UserError

_MNT_DETACH = 2
_DEVICE = "/dev/fuse"
_FUSERMOUNT = "fusermount3"
_libc = ctypes.CDLL(None, use_errno=True)


def unmount(mountpoint: str, *, detach: bool = False) -> None:
    """Unmount; who isn't root may do so with what they have mounted.

    Args:
        detach: take it out of the tree at once; what is open stays usable until it is closed.

    Raises:
        OSError: EBUSY, something is open there; EPERM; EINVAL, nothing is mounted there.
    """
    flags = _MNT_DETACH if detach else 0
    if _libc.umount2(os.fsencode(mountpoint), flags) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM and os.geteuid() != 0:
        number = _unmount_as_user(mountpoint, detach=detach)
    if number:
        raise OSError(number, os.strerror(number), mountpoint)


def _unmount_as_user(mountpoint: str, *, detach: bool) -> int:
    """Unmount through the setuid program of libfuse; return an errno, or 0."""
    words = [_FUSERMOUNT, "-u", *(["-z"] if detach else []), "--", mountpoint]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
    except OSError:
        return errno.EPERM
    if done.returncode == 0:
        return 0
    return errno.EBUSY if os.strerror(errno.EBUSY) in done.stderr else errno.EPERM


def unmount_stale(mountpoint: str) -> None:
    """Take a mount whose daemon is gone out of the tree; does nothing if it is gone."""
    with contextlib.suppress(OSError):
        unmount(mountpoint, detach=True)


def is_stale(mountpoint: str) -> bool:
    """Tell whether a mount is there whose daemon is gone.

    Not by stat(2), which the kernel answers by itself for a second after the last one.
    """
    try:
        os.statvfs(mountpoint)
    except OSError as exc:
        return exc.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def check_device() -> None:
    """Check that FUSE can be used at all.

    Raises:
        UserError: it can't.
    """
    try:
        os.close(os.open(_DEVICE, os.O_RDWR))
    except FileNotFoundError as exc:
        raise UserError(
            f"{_DEVICE} is missing; load the fuse module (modprobe fuse), or give the container "
            f"the device (--device {_DEVICE})"
        ) from exc
    except PermissionError as exc:
        raise UserError(
            f"{_DEVICE}: permission denied; run as root, or give this user access to it",
            ExitCode.DENIED,
        ) from exc
    except OSError as exc:
        raise UserError(f"{_DEVICE}: {exc.strerror}; load the fuse module") from exc


def prepare_mountpoint(source: Source, mountpoint: str) -> None:
    """Check that a mount can be made, and take away what a dead daemon left there.

    Raises:
        UserError: it can't.
    """
    if is_stale(mountpoint):
        unmount_stale(mountpoint)
    if mountinfo.mount_at(mountpoint) is not None:
        raise UserError(
            f"{mountpoint} is already mounted; unmount it first (cephfs-ext umount {mountpoint})",
            ExitCode.CONFLICT,
        )
    try:
        names = os.listdir(mountpoint)
    except FileNotFoundError as exc:
        raise UserError(
            f"{mountpoint}: no such directory; create the mountpoint first", ExitCode.NOT_FOUND
        ) from exc
    except NotADirectoryError as exc:
        raise UserError(f"{mountpoint} is not a directory; name one", ExitCode.USAGE) from exc
    except OSError as exc:
        raise UserError(
            f"{mountpoint}: {exc.strerror}; mount at a directory that you may read", ExitCode.DENIED
        ) from exc
    _check_apart(source, mountpoint)
    if names:
        raise UserError(
            f"{mountpoint} is not empty; what is in it would be hidden: use an empty directory",
            ExitCode.CONFLICT,
        )


def _check_apart(source: Source, mountpoint: str) -> None:
    if source.kind != "posix":
        return
    served, place = os.path.realpath(source.path), os.path.realpath(mountpoint)
    if os.path.commonpath([served, place]) == place:
        raise UserError(
            f"{source.path} is inside the mountpoint {mountpoint}, which would hide it; "
            "mount somewhere else",
            ExitCode.USAGE,
        )
    if os.path.commonpath([served, place]) == served:
        raise UserError(
            f"the mountpoint {mountpoint} is inside {source.path}, which would contain itself; "
            "mount somewhere else",
            ExitCode.USAGE,
        )
