"""System calls on descriptors, with the error class that fits. Everything here blocks.

Called in worker threads. `acting_as` changes the identity of the calling thread alone, so that the
kernel itself checks a user's rights, strips setuid bits, and picks owner and group.

Source: credentials(7), path_resolution(7), proc(5) (magic links in /proc/self/fd).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import struct
import time
from collections.abc import Iterator, Sequence

from c_ext._posix import ffi, lib
from cephfs_ext.core.errors import ExchangedError, FSError, check, fs_error
from cephfs_ext.core.types import GATEWAY, Attr, AttrChange, Credentials, DirEntry, Ino
from cephfs_ext.storage.names import pack_names

_log = logging.getLogger(__name__)

_UTIME_NOW = (1 << 30) - 1
_UTIME_OMIT = (1 << 30) - 2
_NO_CHANGE = 0xFFFF_FFFF
_NS = 1_000_000_000
_TOKEN_BYTES = 128
_DIRENT = struct.Struct("=QqHB")
_PAGE_BYTES = 32 * 1024
_RETURN_ATTEMPTS = 50
_RETURN_PAUSE_S = 0.02
_REPLACES_ATOMICALLY = frozenset(
    [
        0xEF53,  # ext4
        0x5846_5342,  # xfs
        0x9123_683E,  # btrfs
        0x0102_1994,  # tmpfs
        0x794C_7630,  # overlay
        0xF2F5_2010,  # f2fs
        0xCA45_1A4E,  # bcachefs
    ]
)
"""File systems, by their magic number, that honour RENAME_NOREPLACE."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn an OSError into the error class that fits."""
    try:
        yield
    except OSError as exc:
        raise fs_error(exc.errno or 5) from exc


@contextlib.contextmanager
def acting_as(cred: Credentials, own: Credentials) -> Iterator[None]:
    """Carry out what follows with the identity of `cred`, in this thread alone.

    A thread that can't become itself again ends the process: it would carry out somebody else's
    next call with this user's rights. Nothing that was written is lost by that.

    Args:
        own: who the process is; one that isn't root can't be anybody else, and isn't asked to.

    Raises:
        FSError: EPERM; the kernel refuses the change; the thread is itself again.
    """
    if own.uid != 0 or cred == own:
        yield
        return
    try:
        groups = ffi.new("unsigned[]", list(cred.groups) or 1)
        check(lib.cx_act_as(cred.uid, cred.gid, groups, len(cred.groups)))
        yield
    finally:
        _be_root_again()


def _be_root_again() -> None:
    for _ in range(_RETURN_ATTEMPTS):
        rc = lib.cx_be_root_again()
        if rc == 0:
            return
        time.sleep(_RETURN_PAUSE_S)  # only memory can be short, and that passes
    _log.critical("a thread can't leave a user's identity (%s); the process ends", os.strerror(-rc))
    os.abort()


def own_identity() -> Credentials:
    """Return who the process is."""
    if os.geteuid() == 0:
        return GATEWAY
    return Credentials(os.geteuid(), os.getegid(), tuple(os.getgroups()))


def magic(fd: int) -> str:
    """Return a path that leads to the inode behind a descriptor, whatever it is."""
    return f"/proc/self/fd/{fd}"


def attr_of(stats: os.stat_result) -> Attr:
    """Convert what stat(2) says."""
    return Attr(
        Ino(stats.st_ino),
        stats.st_mode,
        stats.st_nlink,
        stats.st_uid,
        stats.st_gid,
        stats.st_rdev,
        stats.st_size,
        stats.st_blocks,
        stats.st_blksize,
        stats.st_atime_ns,
        stats.st_mtime_ns,
        stats.st_ctime_ns,
    )


def open_path(parent: int, name: bytes) -> int:
    """Open a name for its inode only; never follows a symlink."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


@contextlib.contextmanager
def spare_descriptor() -> Iterator[None]:
    """Have a descriptor at hand for what is opened right after the body.

    So that making a name fails for lack of descriptors before it was made.
    """
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(fd)


def add_mode(parent: int, name: bytes, bits: int) -> None:
    """Set permission bits of a directory that has just been made."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=parent)
    try:
        os.chmod(magic(fd), stat.S_IMODE(os.fstat(fd).st_mode) | bits)
    finally:
        os.close(fd)


def rename(parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
    """Rename, with the flags of renameat2(2)."""
    check(lib.cx_renameat2(parent, name, new_parent, new_name, flags))


def move(
    parent: int, name: bytes, new_parent: int, new_name: bytes, ino: Ino, flags: int = 0
) -> bool:
    """Rename the name of an inode, as `Storage.rename` does if it is told which."""
    if os.lstat(name, dir_fd=parent).st_ino != ino:
        raise ExchangedError()
    rename(parent, name, new_parent, new_name, flags)
    try:
        return os.lstat(new_name, dir_fd=new_parent).st_ino == ino
    except FileNotFoundError:
        return True  # it is gone again


def link(fd: int, parent: int, name: bytes) -> None:
    """Give the inode behind a descriptor another name."""
    check(lib.cx_linkat(fd, parent, name))


def unlink_many(parent: int, names: Sequence[bytes]) -> list[int]:
    """Unlink names one after the other; return an errno, or 0, for each."""
    errors = ffi.new("int[]", len(names))
    lib.cx_unlink_many(parent, ffi.from_buffer(pack_names(names)), len(names), errors)
    return list(ffi.unpack(errors, len(names)))


def change(fd: int, wanted: AttrChange, writable: int | None) -> None:
    """Change attributes, size first, since that is what fails for lack of space.

    Args:
        fd: O_PATH descriptor of the inode.
        writable: descriptor open for writing: a truncation through it needs no permission.
    """
    if wanted.size is not None:
        if writable is None:
            os.truncate(magic(fd), wanted.size)
        else:
            os.ftruncate(writable, wanted.size)
    if wanted.uid is not None or wanted.gid is not None:
        uid = _NO_CHANGE if wanted.uid is None else wanted.uid
        gid = _NO_CHANGE if wanted.gid is None else wanted.gid
        check(lib.cx_chown(fd, uid, gid))
    if wanted.mode is not None:
        os.chmod(magic(fd), wanted.mode & 0o7777)
    _change_times(fd, wanted)


def _change_times(fd: int, wanted: AttrChange) -> None:
    times = [
        _time(wanted.atime_ns, now=wanted.atime_now),
        _time(wanted.mtime_ns, now=wanted.mtime_now),
    ]
    if any(nanoseconds != _UTIME_OMIT for _, nanoseconds in times):
        seconds, nanoseconds = zip(*times, strict=True)
        check(lib.cx_utimens(fd, list(seconds), list(nanoseconds)))


def _time(value_ns: int | None, *, now: bool) -> tuple[int, int]:
    if now:
        return 0, _UTIME_NOW
    if value_ns is None:
        return 0, _UTIME_OMIT
    return divmod(value_ns, _NS)


def read_page(fd: int, limit: int) -> list[DirEntry]:
    """Read the next entries of a directory, without `.` and `..`; none at its end.

    Leaves the position behind the last one returned.
    """
    entries: list[DirEntry] = []
    buffer = ffi.new("char[]", _PAGE_BYTES)
    while not entries:
        count = check(lib.cx_getdents(fd, buffer, _PAGE_BYTES))
        if count == 0:
            break
        entries = list(_parse_page(ffi.unpack(buffer, count)))
    if len(entries) > limit:
        entries = entries[:limit]
        os.lseek(fd, entries[-1].cookie, os.SEEK_SET)
    return entries


def _parse_page(raw: bytes) -> Iterator[DirEntry]:
    offset = 0
    while offset < len(raw):
        ino, cookie, length, kind = _DIRENT.unpack_from(raw, offset)
        start = offset + _DIRENT.size
        name = raw[start : raw.index(b"\0", start)]
        if name not in (b".", b".."):
            yield DirEntry(name, Ino(ino), kind << 12, cookie)
        offset += length


def try_lock(path: str) -> int | None:
    """Return a descriptor that holds the lock of a directory; None if somebody else has it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def token_of(fd: int) -> bytes:
    """Return the file handle of an inode; empty where the file system has none."""
    buffer = ffi.new("char[]", _TOKEN_BYTES)
    count = lib.cx_name_to_handle(fd, buffer, _TOKEN_BYTES)
    return ffi.unpack(buffer, count) if count > 0 else b""


def open_token(mount: int, token: bytes) -> int:
    """Open the inode of a file handle for its inode only.

    Args:
        mount: any descriptor, not O_PATH, on the same file system.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = lib.cx_open_by_handle(mount, ffi.from_buffer(token), len(token), flags)
    return check(fd)


def write_all(fd: int, off: int, data: bytes) -> int:
    """Write all of `data`; fewer bytes only when the storage is full after some."""
    view, done = memoryview(data), 0
    while done < len(data):
        try:
            step = os.pwrite(fd, view[done:], off + done)
        except OSError:
            if done:
                return done
            raise
        if step == 0:
            break
        done += step
    return done


def read_all(fd: int, off: int, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end of the file."""
    data = os.pread(fd, size, off)
    if len(data) == size or not data:
        return data
    parts, got = [data], len(data)
    while got < size and (more := os.pread(fd, size - got, off + got)):
        parts.append(more)
        got += len(more)
    return b"".join(parts)


def supports_noreplace(fd: int) -> bool:
    """Tell whether the file system is known to honour RENAME_NOREPLACE.

    Trying would need two names in the served directory: the flag reaches the file system only once
    the kernel has found the source, and not the target.
    """
    return lib.cx_file_system(fd) in _REPLACES_ATOMICALLY


def lies_below(fd: int, top: int) -> bool:
    """Tell whether a directory is, at this moment, in the tree below another, or is the other."""
    wanted = identity(top)
    here = open_path(fd, b".")
    try:
        while (seen := identity(here)) != wanted:
            above = os.open(b"..", os.O_PATH | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = above
            if identity(here) == seen:
                return False
    finally:
        os.close(here)
    return True


def identity(fd: int) -> tuple[int, int]:
    """Return device and number of an inode."""
    attributes = os.fstat(fd)
    return attributes.st_dev, attributes.st_ino


def read_link(fd: int) -> bytes:
    """Return the target of the symlink behind an `O_PATH` descriptor.

    Raises:
        FSError: EINVAL; it is no symlink.
    """
    if not stat.S_ISLNK(os.fstat(fd).st_mode):
        raise FSError(errno.EINVAL)
    return os.readlink(b"", dir_fd=fd)
