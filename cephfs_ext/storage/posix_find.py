"""Finds an inode's names, and the inode of a number where the file system has no file handles.

The latter looks through the tree: slow, and the last resort. Keeps one descriptor per level, and
of each level the names of the directories that it hasn't been in yet. Everything here blocks.
"""

from __future__ import annotations

import errno
import os

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.types import Ino
from cephfs_ext.storage.posix_calls import identity, magic, open_path

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def find_below(top: int, ino: Ino) -> int:
    """Return an `O_PATH` descriptor of the inode. Stays on the file system of `top`.

    Raises:
        NotFoundError: no name below `top` leads to it.
    """
    stat = os.fstat(top)
    if stat.st_ino == ino:
        return open_path(top, b".")
    search = _Search(stat.st_dev, ino)
    try:
        fd = search.enter(os.open(b".", _FLAGS, dir_fd=top))
        while fd is None and search.levels:
            fd = search.step()
    finally:
        search.close()
    if fd is None:
        raise NotFoundError()
    return fd


def path_of(fd: int) -> bytes:
    """Return where a directory is, as this process sees it.

    The kernel says so, up to a page of it; of what is deeper, each directory above is read.

    Raises:
        NotFoundError: it has just been moved or removed.
    """
    names: list[bytes] = []
    here = open_path(fd, b".")
    try:
        while (path := _short_path(here)) is None:
            above = os.open(b"..", _FLAGS, dir_fd=here)
            child, here = here, above
            try:
                names.append(_name_in(above, identity(child)))
            finally:
                os.close(child)
    finally:
        os.close(here)
    return b"/".join([path, *reversed(names)])


def _short_path(fd: int) -> bytes | None:
    """Return the path of a directory if it fits into what the kernel says."""
    try:
        return os.fsencode(os.readlink(magic(fd)))
    except OSError as exc:
        if exc.errno != errno.ENAMETOOLONG:
            raise
        return None


def _name_in(parent: int, wanted: tuple[int, int]) -> bytes:
    with os.scandir(parent) as entries:
        for entry in entries:
            if entry.inode() == wanted[1]:
                stat = entry.stat(follow_symlinks=False)
                if (stat.st_dev, stat.st_ino) == wanted:
                    return os.fsencode(entry.name)
    raise NotFoundError()


class _Search:
    """A walk, depth first, without recursion: trees may be deeper than Python's stack."""

    def __init__(self, device: int, ino: Ino) -> None:
        self._device = device
        self._ino = ino
        self.levels: list[tuple[int, int, list[str]]] = []
        """From the top down: descriptor, inode, and names of directories to go into."""

    def enter(self, fd: int) -> int | None:
        """Look through one directory, which is closed in the end; return what was looked for."""
        stat = os.fstat(fd)
        dirs: list[str] = []
        self.levels.append((fd, stat.st_ino, dirs))
        if stat.st_dev != self._device or self._is_above(stat.st_ino):
            return None
        with os.scandir(fd) as entries:
            for entry in entries:
                if self._is_wanted(entry):
                    return open_path(fd, os.fsencode(entry.name))
                if entry.is_dir(follow_symlinks=False):
                    dirs.append(entry.name)
        return None

    def _is_above(self, ino: int) -> bool:
        """Tell whether a directory is on the way to itself: a bind mount may have made a circle."""
        return any(ino == above for _, above, _ in self.levels[:-1])

    def _is_wanted(self, entry: os.DirEntry[str]) -> bool:
        try:
            stat = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (stat.st_dev, stat.st_ino) == (self._device, self._ino)

    def step(self) -> int | None:
        """Go into the next directory, or back up."""
        fd, _, dirs = self.levels[-1]
        if not dirs:
            self.levels.pop()
            os.close(fd)
            return None
        try:
            below = os.open(dirs.pop(), _FLAGS, dir_fd=fd)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None  # removed or replaced meanwhile, or closed to a daemon that isn't root
        return self.enter(below)

    def close(self) -> None:
        """Close every level."""
        for fd, _, _ in self.levels:
            os.close(fd)
        self.levels.clear()
