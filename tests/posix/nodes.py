"""What tests build on the file system, and how they say what they expect of it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.posix.actors import ROOT, User, name_of

CLOCK_TICK_S = 0.012
"""Longer than the steps of any kernel's clock for file times (10 ms at 100 Hz)."""


@contextlib.contextmanager
def fails(*errnos: int) -> Iterator[None]:
    """Assert that the body raises an OSError with one of `errnos`."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at below
        yield
    wanted = " or ".join(map(name_of, errnos))
    got = caught.value.errno or 0
    assert got in errnos, f"expected {wanted}, got {name_of(got)}"


def refused(call: Callable[[], object], *errnos: int) -> bool:
    """Tell whether `call` is refused with one of `errnos`; any other failure is passed on."""
    try:
        call()
    except OSError as exc:
        if exc.errno in errnos:
            return True
        raise
    return False


def tick() -> None:
    """Wait until the file system's clock has moved on."""
    time.sleep(CLOCK_TICK_S)


def make_file(path: Path, data: bytes = b"", *, mode: int = 0o644, owner: User = ROOT) -> Path:
    """Create a regular file with exactly this mode and owner."""
    path.write_bytes(data)
    return _own(path, mode, owner)


def make_dir(path: Path, *, mode: int = 0o755, owner: User = ROOT) -> Path:
    """Create a directory with exactly this mode and owner."""
    path.mkdir()
    return _own(path, mode, owner)


def _own(path: Path, mode: int, owner: User) -> Path:
    if owner != ROOT:
        os.chown(path, owner.uid, owner.gid)
    path.chmod(mode)
    return path


def make_symlink(path: Path, to: str | bytes | Path = "nowhere") -> Path:
    """Create a symbolic link; dangling unless told otherwise."""
    os.symlink(os.fsencode(to), os.fsencode(path))
    return path


def make_socket(path: Path) -> Path:
    """Bind a UNIX socket; short relative names keep within the 108 bytes of its address."""
    here = os.open(path.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)
    return path


def _make_device(path: Path, kind: int) -> Path:
    os.mknod(path, kind | 0o600, os.makedev(1, 7))
    return path


def _make_fifo(path: Path) -> Path:
    os.mkfifo(path, 0o644)
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "file": make_file,
    "directory": make_dir,
    "symlink": make_symlink,
    "fifo": _make_fifo,
    "socket": make_socket,
    "char": lambda path: _make_device(path, stat.S_IFCHR),
    "block": lambda path: _make_device(path, stat.S_IFBLK),
}

TYPE_BITS: dict[str, int] = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}

KINDS = tuple(MAKERS)
NON_DIRECTORIES = tuple(kind for kind in KINDS if kind != "directory")


def make(kind: str, path: Path) -> Path:
    """Create a node of any kind."""
    return MAKERS[kind](path)


def kind_of(path: Path) -> str:
    """Return the kind of a node, a symbolic link itself included."""
    bits = stat.S_IFMT(os.lstat(path).st_mode)
    return next(kind for kind, wanted in TYPE_BITS.items() if wanted == bits)


def mode_of(path: Path) -> int:
    """Return the permission bits of a node, with suid, sgid and sticky."""
    return stat.S_IMODE(os.lstat(path).st_mode)


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDONLY, mode: int = 0o644) -> Iterator[int]:
    """Open a descriptor for the body of the `with`."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)
