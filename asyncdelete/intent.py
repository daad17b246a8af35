"""Whole-tree intent: which directories an `rm -rf` is about to delete, from what /proc says of it.

Pure functions. What isn't beyond doubt is no intent: the process deletes as any other then.

* Only `-r`, `-R`, `-f`, `-v`, `-d` and their long forms, and both `-r` and `-f`.
* Only operands that lead to where they say without links: `..` is understood at the beginning
  alone, and who carries the intent out resolves the path in the storage, where no link is followed.
* Nothing may be mounted at the operand or below it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cephfs_ext.core.mountinfo import Mount

_LONG = {b"--recursive": "r", b"--force": "f", b"--verbose": "", b"--dir": ""}
_SHORT = {ord("r"): "r", ord("R"): "r", ord("f"): "f", ord("v"): "", ord("d"): ""}


class Rm(NamedTuple):
    """What /proc says of a process whose program is rm, in the daemon's mount namespace."""

    arguments: tuple[bytes, ...]
    """Without the name of the program."""
    cwd: str
    mounts: Sequence[Mount]


def operands(arguments: Sequence[bytes]) -> list[bytes]:
    """Return what is to be deleted whole; nothing if that isn't what is asked for."""
    asked, names, options = "", [], True
    for argument in arguments:
        if options and argument == b"--":
            options = False
        elif options and argument in _LONG:
            asked += _LONG[argument]
        elif options and argument.startswith(b"-") and len(argument) > 1:
            letters = [_SHORT.get(letter) for letter in argument[1:]]
            if None in letters:
                return []
            asked += "".join(letter or "" for letter in letters)
        else:
            names.append(argument)
    return names if "r" in asked and "f" in asked else []


def trees(rm: Rm, device: int) -> Iterator[tuple[bytes, ...]]:
    """Yield what an rm deletes of one file system, each by its names from the root on.

    Args:
        device: `st_dev` of the file system.
    """
    for operand in operands(rm.arguments):
        path = _path(os.fsdecode(operand), rm.cwd)
        if path is not None:
            names = _names(path, rm.mounts, device)
            if names:
                yield names


def _path(operand: str, cwd: str) -> str | None:
    """Return the absolute path that an operand is; None if links may lead elsewhere."""
    parts = [part for part in operand.split("/") if part not in ("", ".")]
    while parts and parts[0] == ".." and not operand.startswith("/"):
        cwd, parts = os.path.dirname(cwd), parts[1:]
    if ".." in parts or not parts or not cwd.startswith("/"):
        return None
    return os.path.join("/" if operand.startswith("/") else cwd, *parts)


def _names(path: str, mounts: Sequence[Mount], device: int) -> tuple[bytes, ...]:
    """Return where a path leads on a file system; nothing if it isn't on it, or its mountpoint."""
    if any((mount.place + "/").startswith(path + "/") for mount in mounts):
        return ()
    above = [m for m in reversed(mounts) if path.startswith(m.place.rstrip("/") + "/")]
    mount = max(above, key=lambda m: len(m.place), default=None)
    if mount is None or mount.device != device:
        return ()
    whole = mount.root + path[len(mount.place.rstrip("/")) :]
    return tuple(os.fsencode(name) for name in whole.split("/") if name)
