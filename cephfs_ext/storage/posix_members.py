"""Who is at work on a tree, in files `member.<name>` of a directory, each locked by its member.

A file that nobody has locked is that of a dead member, or of one that is about to lock it: whoever
gets the lock may remove the name, and who has made the file then finds that it has none any more.

Everything here blocks; the caller has threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from cephfs_ext.storage.posix_calls import magic, write_all

_PREFIX = "member."
_ABOUT_LIMIT = 64 * 1024


def try_enter(directory: int, name: str, about: bytes) -> int | None:
    """Return a descriptor that is the membership; None if somebody has the file at this moment.

    Args:
        directory: a descriptor, O_PATH will do.
    """
    fd = _try_lock(directory, name, os.O_CREAT)
    if fd is not None:
        try:
            os.ftruncate(fd, 0)
            write_all(fd, 0, about)
        except BaseException:
            leave(directory, name, fd)
            raise
    return fd


def try_succeed(directory: int, name: str) -> tuple[int, bytes] | None:
    """Return a descriptor and what a dead member says; None if it lives, or is gone."""
    try:
        fd = _try_lock(directory, name, 0)
    except FileNotFoundError:
        return None
    if fd is None:
        return None
    try:
        return fd, os.pread(fd, _ABOUT_LIMIT, 0)
    except BaseException:
        os.close(fd)
        raise


def leave(directory: int, name: str, fd: int) -> None:
    """Remove a member of which we hold the descriptor."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_PREFIX + name, dir_fd=directory)
    finally:
        os.close(fd)


def names(directory: int) -> list[str]:
    """Return the names of all members."""
    with os.scandir(magic(directory)) as entries:
        there = [entry.name for entry in entries]
    return [name.removeprefix(_PREFIX) for name in there if name.startswith(_PREFIX)]


def _try_lock(directory: int, name: str, making: int) -> int | None:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | making
    fd = os.open(_PREFIX + name, flags, 0o600, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None
