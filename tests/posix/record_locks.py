"""fcntl(2) locks on ranges of files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.posix.actors import Child, spawn
from tests.posix.nodes import opened

_FLOCK = struct.Struct("hhqqi4x")
"""`struct flock` of Linux on 64-bit machines: type, whence, start, length, pid."""


def record_lock(
    fd: int, kind: int, start: int = 0, length: int = 0, *, command: int = fcntl.F_SETLK
) -> None:
    """Lock a range, to the end for a length of 0; or unlock it."""
    fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def in_way(fd: int, kind: int, start: int = 0, length: int = 0) -> tuple[int, int, int, int]:
    """Ask who stands in the way: kind, start, length and pid of the lock; F_UNLCK if none."""
    asked = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    found, _, at, span, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return found, at, span, pid


@contextlib.contextmanager
def holding(path: Path, lock: Callable[[int], None]) -> Iterator[Child[None]]:
    """Have another process hold a lock on the file while the body runs."""
    ready, told = os.pipe()

    def hold() -> None:
        with opened(path, os.O_RDWR) as fd:
            lock(fd)
            os.write(told, b"x")
            signal.pause()

    with spawn(hold) as child:
        os.close(told)
        assert os.read(ready, 1) == b"x", "the other process did not get the lock"
        os.close(ready)
        yield child
