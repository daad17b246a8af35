"""System calls that Python's `os` lacks, or hides the details of."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
NAME_FIELD_BYTES = 256

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_int64), ("nsec", ctypes.c_long))


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("reclen", ctypes.c_ushort),
        ("kind", ctypes.c_ubyte),
        ("name", ctypes.c_char * NAME_FIELD_BYTES),
    )


_libc.opendir.argtypes = (ctypes.c_char_p,)
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir64.argtypes = (ctypes.c_void_p,)
_libc.readdir64.restype = ctypes.POINTER(_Dirent)
_libc.telldir.argtypes = (ctypes.c_void_p,)
_libc.telldir.restype = ctypes.c_long
_libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
_libc.seekdir.restype = None
_libc.rewinddir.argtypes = (ctypes.c_void_p,)
_libc.rewinddir.restype = None
_libc.closedir.argtypes = (ctypes.c_void_p,)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.getxattr.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.getxattr.restype = ctypes.c_ssize_t
_libc.listxattr.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.listxattr.restype = ctypes.c_ssize_t


def _check(rc: int) -> int:
    if rc < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return rc


def rename2(old: Path, new: Path, flags: int) -> None:
    """Call renameat2(2)."""
    arguments = (AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags))
    _check(_libc.renameat2(*arguments))


def link_descriptor(fd: int, path: Path) -> None:
    """Give the file behind a descriptor a name, with linkat(2)."""
    source = b"/proc/self/fd/%d" % fd
    _check(_libc.linkat(AT_FDCWD, source, AT_FDCWD, os.fsencode(path), AT_SYMLINK_FOLLOW))


def utimens(path: Path, atime_nsec: int, mtime_nsec: int, *, sec: int = 0) -> None:
    """Call utimensat(2) with raw nanosecond fields, UTIME_NOW and UTIME_OMIT among them."""
    times = (_Timespec * 2)((sec, atime_nsec), (sec, mtime_nsec))
    _check(_libc.utimensat(AT_FDCWD, os.fsencode(path), times, 0))


def syncfs(fd: int) -> None:
    """Call syncfs(2)."""
    _check(_libc.syncfs(fd))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2); glibc's posix_fallocate would hide a missing one by writing zeros."""
    _check(_libc.fallocate(fd, mode, offset, length))


def getxattr_size(path: Path, name: str, room: int) -> int:
    """Call getxattr(2) with a buffer of `room` bytes and return the length it tells."""
    buffer = ctypes.create_string_buffer(room) if room else None
    return _check(_libc.getxattr(os.fsencode(path), name.encode(), buffer, room))


def listxattr_size(path: Path, room: int) -> int:
    """Call listxattr(2) with a buffer of `room` bytes and return the length it tells."""
    buffer = ctypes.create_string_buffer(room) if room else None
    return _check(_libc.listxattr(os.fsencode(path), buffer, room))


class Entry(NamedTuple):
    """One entry as readdir(3) gives it, and the position behind it."""

    name: bytes
    ino: int
    kind: int
    behind: int


class Directory:
    """An open directory stream with its positions."""

    def __init__(self, path: Path) -> None:
        self._stream = _libc.opendir(os.fsencode(path))
        if not self._stream:
            _check(-1)

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        _check(_libc.closedir(self._stream))

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self.read()) is not None:
            yield entry

    def read(self) -> Entry | None:
        """Return the next entry, None at the end."""
        ctypes.set_errno(0)
        found = _libc.readdir64(self._stream)
        if not found:
            _check(-1 if ctypes.get_errno() else 0)
            return None
        raw = found.contents
        return Entry(raw.name, raw.ino, raw.kind, self.tell())

    def tell(self) -> int:
        """Return the present position."""
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        """Go back to a position that `tell` or an entry's `behind` gave."""
        _libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        """Start again, with the directory as it is now."""
        _libc.rewinddir(self._stream)
