"""Mounts the kernel's side of a gateway, and says where pyfuse3 finds it.

Root mounts by itself, with MS_POSIXACL: then the kernel leaves the umask of a request to us, as
default access control lists need it. Nobody else may do that; `fusermount3` mounts for them, the
kernel applies the umask first, and a file below a default list may get fewer rights than it says.

Everything here blocks.

Source: fs/fuse/inode.c, fuse_fill_super_common (dont_mask); libfuse 3, fuse_session_mount
(`/dev/fd/N`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import socket
from pathlib import Path
from typing import NamedTuple

from cephfs_ext.core.config import MountConfig, Source
from cephfs_ext.core.errors import ExitCode, FSError, UserError
from cephfs_ext.core.mountinfo import GATEWAY_TYPE
from cephfs_ext.core.ports import Lane
from cephfs_ext.daemon import mounts

_log = logging.getLogger(__name__)

_DEVICE = "/dev/fuse"
_CAP_SYS_ADMIN = 21
_SO_SNDBUFFORCE = 32
_PAIR_BYTES = 16 << 20
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_POSIXACL = 1, 2, 4, 8, 1 << 16
_REFUSED = (errno.EPERM, errno.EACCES)

_BACKING = Path("/sys/class/bdi")
"""What the kernel has of each device or mount that it writes pages to."""

_libc = ctypes.CDLL(None, use_errno=True)


class Attached(NamedTuple):
    """What pyfuse3 is to be told."""

    mountpoint: str
    """`/dev/fd/N` where the mount is made already."""
    options: set[str]
    device: int | None
    """N, if it is."""


def may_mount() -> bool:
    """Tell whether this process may mount by itself."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & 1 << _CAP_SYS_ADMIN)
    return False


def serve_through(lane: Lane, attached: Attached) -> Attached:
    """Have a lane answer what comes from the kernel; what it passes on comes to pyfuse3.

    Raises:
        UserError: it can't be started; the mount is as it was.
    """
    assert attached.device is not None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):  # whole requests, and some: the default is 212,992
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _PAIR_BYTES)
    try:
        lane.start(attached.device, ours.detach())
    except FSError as exc:
        theirs.close()
        raise UserError(f"the lane can't be started: {exc}; mount with -o lane=off") from exc
    return attached._replace(mountpoint=f"/dev/fd/{theirs.detach()}")


def attach(config: MountConfig, source: Source, mountpoint: str) -> Attached:
    """Mount, where this process may; else have pyfuse3 do it.

    Raises:
        UserError: the kernel refuses for another reason; nothing is mounted.
    """
    device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        _mount(config, source, mountpoint, device)
    except OSError as exc:
        os.close(device)
        if exc.errno not in _REFUSED:
            raise UserError(f"{mountpoint} could not be mounted: {exc.strerror}") from exc
        _log.info("mounting through fusermount3; default access control lists obey the umask")
        return Attached(mountpoint, {*_names(source), "allow_other", *_flags(config)}, None)
    return Attached(f"/dev/fd/{device}", _names(source), device)


def set_read_ahead(device: int, size_bytes: int) -> None:
    """Set how much the kernel reads ahead of who reads in order; it has to be root's to set.

    By itself it is 128 KiB, and FUSE can't ask for more; a request of more is cut to 1 MiB.

    Args:
        device: st_dev of the mount, which answers already: its first answer sets it, too.
        size_bytes: 0 to leave it as it is.
    """
    if not size_bytes:
        return
    name = f"{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    try:
        (_BACKING / name).write_text(f"{size_bytes >> 10}\n")
    except OSError as exc:
        _log.info("the kernel reads 128 KiB ahead, and no more: %s", exc)


def detach_failed(attached: Attached, mountpoint: str) -> None:
    """Take a mount away that pyfuse3 didn't get to serve."""
    if attached.device is not None:
        with contextlib.suppress(OSError):
            mounts.unmount(mountpoint, detach=True)


def _mount(config: MountConfig, source: Source, mountpoint: str, device: int) -> None:
    flags = _MS_NOSUID | _MS_NODEV | _MS_POSIXACL
    flags |= _MS_RDONLY if config.read_only else 0
    flags |= _MS_NOEXEC if config.noexec else 0
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    words = (str(source), mountpoint, GATEWAY_TYPE)
    if _libc.mount(*map(os.fsencode, words), ctypes.c_ulong(flags), data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mountpoint)


def _names(source: Source) -> set[str]:
    return {f"fsname={source}".replace(",", "\\,"), "subtype=cephfs-ext", "default_permissions"}


def _flags(config: MountConfig) -> set[str]:
    chosen = {"nosuid", "nodev"}
    if config.read_only:
        chosen.add("ro")
    if config.noexec:
        chosen.add("noexec")
    return chosen


def denied(mountpoint: str, reason: object) -> UserError:
    """Build the error for a mount that not even fusermount3 makes."""
    return UserError(
        f"{mountpoint} could not be mounted ({reason}); run as root, or with CAP_SYS_ADMIN, or put "
        "user_allow_other into /etc/fuse.conf; --foreground shows what fusermount3 says",
        ExitCode.DENIED,
    )
