"""POSIX access control lists in the form that Linux keeps in extended attributes."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.posix.nodes import make_dir, make_file, refused

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFFFFFF
VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")


class Entry(NamedTuple):
    """One line of a list: whom it is about, and what they may do (rwx bits)."""

    tag: int
    perm: int
    qualifier: int = NO_ID


def encode(entries: Iterable[Entry]) -> bytes:
    """Return the attribute's value; entries are put into the order that the kernel demands."""
    ordered = sorted(entries, key=lambda entry: (entry.tag, entry.qualifier))
    body = b"".join(_ENTRY.pack(entry.tag, entry.perm, entry.qualifier) for entry in ordered)
    return _HEADER.pack(VERSION) + body


def decode(value: bytes) -> list[Entry]:
    """Return the entries of an attribute's value."""
    assert _HEADER.unpack_from(value) == (VERSION,)
    return [Entry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :])]


def plain(mode: int) -> list[Entry]:
    """Return the list that says the same as a mode."""
    return [
        Entry(USER_OBJ, mode >> 6 & 7),
        Entry(GROUP_OBJ, mode >> 3 & 7),
        Entry(OTHER, mode & 7),
    ]


def extended(mode: int, *named: Entry, mask: int = 7) -> list[Entry]:
    """Return a list with named users or groups, and the mask that this needs."""
    return [*plain(mode), *named, Entry(MASK, mask)]


def write(path: Path, entries: Iterable[Entry], attribute: str = ACCESS) -> None:
    """Set a node's list."""
    os.setxattr(path, attribute, encode(entries))


def read(path: Path, attribute: str = ACCESS) -> list[Entry]:
    """Return a node's list."""
    return decode(os.getxattr(path, attribute))


def unsupported(directory: Path) -> bool:
    """Tell whether lists are refused; then all of them must be, in the documented way."""
    path = make_file(directory / "probe")
    below = make_dir(directory / "probe-directory")
    refusals = [
        refused(lambda: write(path, plain(0o644)), errno.EOPNOTSUPP),
        refused(lambda: write(below, plain(0o755)), errno.EOPNOTSUPP),
        refused(lambda: write(below, plain(0o755), DEFAULT), errno.EOPNOTSUPP),
    ]
    path.unlink()
    below.rmdir()
    assert len(set(refusals)) == 1, f"lists work in part only: {refusals}"
    return refusals[0]
