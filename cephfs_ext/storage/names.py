"""The checks that a storage makes before it asks its file system."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable

from cephfs_ext.core.errors import FSError, fs_error
from cephfs_ext.core.types import NAME_MAX


def check_name(name: bytes) -> None:
    """Check that `name` is one component of a path.

    Raises:
        FSError: EINVAL if it is empty, `.`, `..`, or holds a `/` or NUL; ENAMETOOLONG.
    """
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise FSError(errno.EINVAL, repr(name))
    if len(name) > NAME_MAX:
        raise FSError(errno.ENAMETOOLONG)


def pack_names(names: Iterable[bytes]) -> bytes:
    """Put names into one piece, each ended by a zero byte.

    Raises:
        FSError: as `check_name`.
    """
    for name in names:
        check_name(name)
    return b"".join(name + b"\0" for name in names)


_NODES = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)


def check_node(mode: int) -> None:
    """Check that `mode` is of something that mknod makes.

    The kernel lets nothing else through. An MDS of Ceph 16 that is asked for a directory dies of
    a failed assertion, and so does each standby that replays its journal.

    Raises:
        FSError: EPERM for a directory, as mknod(2); else EINVAL.
    """
    kind = stat.S_IFMT(mode)
    if kind not in _NODES:
        raise fs_error(errno.EPERM if kind == stat.S_IFDIR else errno.EINVAL)


_TARGET_MAX = 4_095


def check_target(target: bytes) -> None:
    """Check that `target` is what a symbolic link can hold.

    Raises:
        FSError: ENOENT if it is empty, as symlink(2); EINVAL for a NUL; ENAMETOOLONG.
    """
    if not target:
        raise fs_error(errno.ENOENT)
    if b"\0" in target:
        raise FSError(errno.EINVAL)
    if len(target) > _TARGET_MAX:
        raise FSError(errno.ENAMETOOLONG)


def check_regular(mode: int) -> None:
    """Check that what `create` found under a name is a file that it may open.

    Raises:
        FSError: EISDIR; ESTALE for all else: the kernel took the name for free, looks again, and
            then follows a symlink, or opens a FIFO without us.
    """
    if stat.S_ISDIR(mode):
        raise FSError(errno.EISDIR)
    if not stat.S_ISREG(mode):
        raise FSError(errno.ESTALE)


def check_sizeable(mode: int) -> None:
    """Check that what is about to be truncated has a size to set.

    Raises:
        FSError: EISDIR for a directory, EINVAL for all else but a file, as truncate(2).
    """
    if stat.S_ISDIR(mode):
        raise FSError(errno.EISDIR)
    if not stat.S_ISREG(mode):
        raise FSError(errno.EINVAL)
