"""The tree of the restore tests: everything that a file system can hold, 2,000 files of it.

Directories belong to `OWNER`, or let its group write, so that it can take the whole tree away.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tests.posix import acl
from tests.posix.actors import OWNER

FILES = 2_000
DIRECTORIES = 200
SPARSE_BYTES = 1 << 30
SPARSE_DATA = (0, 336 << 20, (512 << 20) + 1_234, SPARSE_BYTES - 4096)
"""Where the sparse file has data; the samples of a picture hit all of it."""

_OLD_NS = 1_234_567_890_123_456_789
_OWNERS = ((0, 0), (30001, 30001), (30002, 30001), (12345, 54321))
_FILE_MODES = (0o644, 0o600, 0o000, 0o4755, 0o2755, 0o6711, 0o1644, 0o444, 0o777)
_DIR_MODES = (0o755, 0o700, 0o2775, 0o1777, 0o3770, 0o711)
ODD_NAMES = (
    b"n" * 255,
    "\N{SNOWMAN}".encode() * 85,
    b"\xff\xfe not utf-8 \x80",
    b"new\nline\n",
    b"-rf",
    b"--no-preserve-root",
    b" space before and after ",
    "emoji \N{FIRE}\N{PILE OF POO}".encode(),
    b"tab\tbell\x07esc\x1b[31m",
    b"back\\slash 'quotes\" $HOME *?[a-z]",
    b"...",
    b"~",
    b".hidden",
    b"#recover#",
    b"18748f9b3a5c0000.abcd.0.1000.looks-like-an-entry",
)


class Forest(NamedTuple):
    """What was built."""

    top: Path
    outside: Path
    """Directory beside the tree: another name of one of its files is in it."""


def plant(base: Path) -> Forest:
    """Build the tree below `base`, as root; takes seconds."""
    forest = Forest(base / "tree", base / "outside")
    forest.outside.mkdir()
    directories = _make_directories(os.fsencode(forest.top))
    _make_files(directories)
    _make_links(os.fsencode(forest.top), os.fsencode(forest.outside))
    _make_sparse(os.fsencode(forest.top / "sparse"))
    _dress(directories)
    return forest


def _make_directories(top: bytes) -> list[bytes]:
    directories = [top]
    os.mkdir(top)
    for number in range(1, DIRECTORIES - len(ODD_NAMES)):
        # a few wide levels, and one line that goes deep
        above = directories[-1] if number % 8 == 0 else directories[number // 8]
        directories.append(os.path.join(above, b"dir%d" % number))
        os.mkdir(directories[-1])
    for name in ODD_NAMES:
        directories.append(os.path.join(directories[100], name))
        os.mkdir(directories[-1])
    return directories


def _make_files(directories: list[bytes]) -> None:
    """Spread files over all directories but the last regular one, which stays empty."""
    homes = [path for number, path in enumerate(directories) if number % 20 != 19]
    for number in range(FILES):
        home = homes[number % len(homes)]
        odd = ODD_NAMES[number % len(ODD_NAMES)]
        name = odd if number < len(ODD_NAMES) * 3 else b"file%d" % number
        path = os.path.join(home, name)
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        if number % 10:
            os.write(fd, b"content of %d\n" % number * (number % 50))
        os.close(fd)
        os.chown(path, *_OWNERS[number % len(_OWNERS)])
        os.chmod(path, _FILE_MODES[number % len(_FILE_MODES)])
        _decorate_file(path, number)
        os.utime(path, ns=(_OLD_NS, _OLD_NS + number))


def _decorate_file(path: bytes, number: int) -> None:
    if number % 3 == 0:
        os.setxattr(path, "user.number", b"%d" % number)
    if number % 30 == 0:
        os.setxattr(path, "user.large", bytes(range(256)) * 8)
        os.setxattr(path, "trusted.gateway-test", b"\0binary\xff")
    if number % 25 == 0:
        entries = acl.extended(0o640, acl.Entry(acl.USER, 6, 30004), acl.Entry(acl.GROUP, 4, 7))
        acl.write(Path(os.fsdecode(path)), entries)


def _make_links(top: bytes, outside: bytes) -> None:
    for number, target in enumerate((b"file100", b"/etc/passwd", b"../missing", b"x" * 3_000)):
        path = os.path.join(top, b"symlink%d" % number)
        os.symlink(target, path)
        os.chown(path, 30002, 30001, follow_symlinks=False)
        os.utime(path, ns=(_OLD_NS, _OLD_NS - number), follow_symlinks=False)
    for number in range(40):
        path = os.path.join(top, b"dir1", b"to %d\xff" % number)
        os.symlink(b"../dir%d" % number, path)
        os.utime(path, ns=(_OLD_NS, _OLD_NS - number), follow_symlinks=False)
    files = _linkable(top)
    for number in range(0, 60, 2):  # names of one file in different directories
        os.link(files[number], os.path.join(os.path.dirname(files[number + 1]), b"linked"))
    for name in (b"twin", b"triplet"):  # and in the same
        os.link(files[100], files[100] + name)
    os.link(os.path.join(top, b"symlink0"), os.path.join(top, b"symlink0 again"),
            follow_symlinks=False)  # fmt: skip
    os.link(files[101], os.path.join(outside, b"elsewhere"))


def _linkable(top: bytes) -> list[bytes]:
    """Return files to link, each in a directory of its own."""
    found = []
    for directory, _, files in sorted(os.walk(top)):
        plain = sorted(name for name in files if name.startswith(b"file"))
        if plain:
            found.append(os.path.join(directory, plain[0]))
    return found


def _make_sparse(path: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
    for off in SPARSE_DATA:
        os.pwrite(fd, b"data at %d\n" % off * 200, off)
    os.ftruncate(fd, SPARSE_BYTES)
    os.fsync(fd)
    os.close(fd)
    os.utime(path, ns=(_OLD_NS, _OLD_NS))


def _dress(directories: list[bytes]) -> None:
    """Give directories owners, modes, attributes, lists and times, deepest first."""
    for number, path in reversed(list(enumerate(directories))):
        uid = OWNER.uid if number % 5 else 0
        os.chown(path, uid, OWNER.gid)
        os.chmod(path, _DIR_MODES[number % len(_DIR_MODES)] if uid else 0o2775)
        if number % 4 == 0:
            os.setxattr(path, "user.directory", b"%d" % number)
        if number % 10 == 1:
            entries = acl.extended(0o750, acl.Entry(acl.USER, 5, 30004))
            acl.write(Path(os.fsdecode(path)), entries, acl.DEFAULT)
        if number % 10 == 2:
            entries = acl.extended(0o770, acl.Entry(acl.GROUP, 5, 7))
            acl.write(Path(os.fsdecode(path)), entries)
        os.utime(path, ns=(_OLD_NS, _OLD_NS + number))
