"""Everything about a tree that deleting and restoring must leave as it was.

Paths are bytes, relative to the top of the tree; the top itself is `b"."`. Names that lead to the
same inode are known by the first of them. Large files are sampled, not read whole.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

_WHOLE_BYTES = 1 << 20
_SAMPLE_BYTES = 4096
_SAMPLE_EVERY_BYTES = 8 << 20


class Look(NamedTuple):
    """What one name looks like."""

    kind: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    blocks: int
    mtime_ns: int
    content: bytes
    """Digest of a file's content, target of a symbolic link, empty for a directory."""
    xattrs: tuple[tuple[str, bytes], ...]
    first: bytes
    """The first name of the inode in the tree."""


Picture = dict[bytes, Look]


def take(top: bytes, *, dir_times: bool = True) -> Picture:
    """Look at every name of a tree.

    Args:
        dir_times: False leaves out the times of directories, which `rm -rf` itself changes.
    """
    picture: Picture = {}
    first: dict[int, bytes] = {}
    for name in sorted(_names(top)):
        path = os.path.join(top, name)
        stats = os.lstat(path)
        known = first.setdefault(stats.st_ino, name)
        picture[name] = _look(path, stats, known, dir_times=dir_times)
    return picture


def _names(top: bytes) -> Iterator[bytes]:
    yield b"."
    for directory, dirs, files in os.walk(top, onerror=_raise):
        for name in (*dirs, *files):
            yield os.path.relpath(os.path.join(directory, name), top)


def _raise(error: OSError) -> None:
    raise error


def _look(path: bytes, stats: os.stat_result, first: bytes, *, dir_times: bool) -> Look:
    is_dir = stat.S_ISDIR(stats.st_mode)
    return Look(
        stat.S_IFMT(stats.st_mode),
        stat.S_IMODE(stats.st_mode),
        stats.st_uid,
        stats.st_gid,
        stats.st_nlink,
        0 if is_dir else stats.st_size,
        0 if is_dir else stats.st_blocks,
        stats.st_mtime_ns if dir_times or not is_dir else 0,
        _content(path, stats),
        _xattrs(path),
        first,
    )


def _content(path: bytes, stats: os.stat_result) -> bytes:
    if stat.S_ISLNK(stats.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(stats.st_mode):
        return b""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as stream:
        if stats.st_size <= _WHOLE_BYTES:
            digest.update(stream.read())
        else:
            for off in range(0, stats.st_size, _SAMPLE_EVERY_BYTES):
                digest.update(os.pread(stream.fileno(), _SAMPLE_BYTES, off))
            digest.update(os.pread(stream.fileno(), _SAMPLE_BYTES, stats.st_size - _SAMPLE_BYTES))
    return digest.digest()


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def differences(before: Picture, after: Picture) -> list[str]:
    """Say how two pictures differ, one line a name and field."""
    found = [f"{name!r} is missing" for name in sorted(before.keys() - after.keys())]
    found += [f"{name!r} is new" for name in sorted(after.keys() - before.keys())]
    for name in sorted(before.keys() & after.keys()):
        for field, old, new in zip(Look._fields, before[name], after[name], strict=True):
            if old != new:
                found.append(f"{name!r} {field}: {old!r} before, {new!r} now")
    return found
