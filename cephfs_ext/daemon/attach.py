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
from typing import NamedTuple

from cephfs_ext.core.config import MountConfig, Source
from cephfs_ext.core.errors import ExitCode, UserError
from cephfs_ext.core.mountinfo import GATEWAY_TYPE
from cephfs_ext.daemon import mounts

_log = logging.getLogger(__name__)

_DEVICE = "/dev/fuse"
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_POSIXACL = 1, 2, 4, 8, 1 << 16
_REFUSED = (errno.EPERM, errno.EACCES)

_libc = ctypes.CDLL(None, use_errno=True)


class Attached(NamedTuple):
    """What pyfuse3 is to be told."""

    mountpoint: str
    """`/dev/fd/N` where the mount is made already."""
    options: set[str]


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
        return Attached(mountpoint, {*_names(source), "allow_other", *_flags(config)})
    return Attached(f"/dev/fd/{device}", _names(source))


def detach_failed(attached: Attached, mountpoint: str) -> None:
    """Take a mount away that pyfuse3 didn't get to serve."""
    if attached.mountpoint != mountpoint:
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
