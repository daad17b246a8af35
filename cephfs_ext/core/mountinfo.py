"""What /proc says of mounts.

A mount itself is never asked, so that a daemon that hangs holds nobody up. Paths are text as
`os.fsdecode` makes it. Source: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

GATEWAY_TYPE = "fuse.cephfs-ext"

_MOUNTINFO = "/proc/self/mountinfo"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_LINKS = 40
"""Symbolic links in a row that are followed, as path_resolution(7) has it."""


class Mount(NamedTuple):
    """One mount that this process sees."""

    device: int
    """st_dev of what is on it."""
    root: str
    """The directory of the file system that is seen here: `/`, or another one in a bind mount."""
    place: str
    kind: str

    @property
    def is_gateway(self) -> bool:
        """True for a mount of ours, bind mounts of it among them."""
        return self.kind == GATEWAY_TYPE


def mounts(process: int | None = None) -> list[Mount]:
    """Return all mounts that a process sees; of two at one place the later one is on top."""
    with open(_MOUNTINFO if process is None else f"/proc/{process}/mountinfo", "rb") as mountinfo:
        return [_parse(line) for line in mountinfo]


def _parse(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    fields = before.split()
    major, minor = fields[2].split(b":")
    root, place, kind = (_plain(raw) for raw in (fields[3], fields[4], after.split()[0]))
    return Mount(os.makedev(int(major), int(minor)), root, place, kind)


def _plain(raw: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), raw))


def mount_at(place: str) -> Mount | None:
    """Return what is mounted at exactly this place, an absolute path without links; else None."""
    return next((mount for mount in reversed(mounts()) if mount.place == place), None)


def mount_above(path: str) -> Mount:
    """Return the mount that an absolute path without links, which need not exist, lies on."""
    found = [mount for mount in reversed(mounts()) if _is_below(path, mount.place)]
    return max(found, key=lambda mount: len(mount.place))


def _is_below(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")


def without_links(path: str) -> str:
    """Return an absolute path in which links are followed, but for the last name.

    That is what a name itself is called, whatever it links to, and whether it exists or not.
    `..` behind a link is what the kernel takes it for.
    """
    above, name = os.path.split(path.rstrip("/") or path[:1])
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(above), name)


def mountpoint_of(path: str) -> str:
    """Return where a mountpoint is, which may be given through links.

    A mount is never asked for anything, also where the path or a link names its root.
    """
    place = without_links(path)
    for _ in range(_LINKS):
        if mount_at(place) is not None or not os.path.islink(place):
            break
        place = without_links(os.path.join(os.path.dirname(place), os.readlink(place)))
    return place
