"""Values that every layer shares: identities, attributes, directory entries.

Owns no state. Names are `bytes` and times are integer nanoseconds since the epoch, UTC.
"""

from __future__ import annotations

import dataclasses
import enum
import stat
from typing import NamedTuple, NewType

Ino = NewType("Ino", int)
"""Number of an inode, unique within one storage."""

Rank = NewType("Rank", int)
"""Number of an active metadata server; 0 on a storage that has none."""

NAME_MAX = 255
"""Longest name of a directory entry, bytes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """Whose rights an operation is carried out with."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def in_group(self, gid: int) -> bool:
        """Tell whether `gid` is the primary or a supplementary group."""
        return gid == self.gid or gid in self.groups


GATEWAY = Credentials(0, 0)
"""The gateway's own identity: root of the storage."""


@dataclasses.dataclass(frozen=True, slots=True)
class Attr:
    """Attributes of an inode, as stat(2) has them."""

    ino: Ino
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    """Units of 512 bytes."""
    blksize: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    @property
    def is_dir(self) -> bool:
        """True for a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        """True for a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        """True for a symbolic link."""
        return stat.S_ISLNK(self.mode)


@dataclasses.dataclass(frozen=True, slots=True)
class AttrChange:
    """What a setattr changes; None leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    atime_now: bool = False
    """Set atime to the storage's present; needs write permission only, not ownership."""
    mtime_now: bool = False


class DirEntry(NamedTuple):
    """One entry of a directory; never `.` or `..`."""

    name: bytes
    ino: Ino
    kind: int
    """File type bits (`stat.S_IFMT`), 0 where the storage does not say."""
    cookie: int
    """Position behind this entry, to go on from; opaque, never 0."""


class Weight(NamedTuple):
    """Bytes and files side by side: what is below a directory, or a limit of it."""

    size: int
    """Bytes."""
    files: int
    """Names, those of directories among them."""


@dataclasses.dataclass(frozen=True, slots=True)
class StatFs:
    """Space and names of a file system, as statvfs(3) has them."""

    bsize: int
    frsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    favail: int
    namemax: int


class Reason(enum.IntFlag):
    """Why only Python can answer what an inode is asked for; see `core.ports.Lane.force`."""

    SPECIAL = enum.auto()
    """Links that only the trash has, an id that isn't the number, a generation."""
    LEFT = enum.auto()
    """A name was moved out of a directory, and its attributes have not been read since."""
