"""A storage that makes its names up: trees of any size, in memory for what is being removed only.

`python -m tests.unit.simulated FILES` walks such a tree, and prints how much memory that took.
"""

from __future__ import annotations

import errno
import resource
import stat
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import trio

from asyncdelete.walk import Walk
from cephfs_ext.core.errors import NotEmptyError, NotFoundError
from cephfs_ext.core.ports import Found, Listed
from cephfs_ext.core.types import Attr, DirEntry, Ino
from tests.property.gateways import SilentMeter

FILES = 1000
FAN = 20


class Place(NamedTuple):
    """A directory: where it is in the tree."""

    ino: Ino
    path: tuple[int, ...]


class Simulated:
    """Directories of `FAN` directories and `FILES` files each, as deep as it takes."""

    ranks = 1

    def __init__(self, dirs: int) -> None:
        self.root = Place(Ino(1), ())
        self._dirs = dirs
        self._files_gone: dict[int, int] = {}
        """Number of a directory to a bit for each file."""
        self._dirs_gone: dict[int, int] = {}
        self.nodes = 0
        self.most_nodes = 0

    def _number(self, path: tuple[int, ...]) -> int:
        """Number directories as a heap does: the top is 0."""
        number = 0
        for step in path[1:]:
            number = number * FAN + step + 1
        return number

    def _below(self, path: tuple[int, ...]) -> list[int]:
        number = self._number(path)
        gone = self._dirs_gone.get(number, 0)
        steps = range(FAN)
        return [s for s in steps if number * FAN + s + 1 < self._dirs and not gone >> s & 1]

    def _attr(self, number: int) -> Attr:
        return Attr(Ino(number + 2), stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, 4096, 0, 0, 0)

    async def resolve(self, parent: Place, name: bytes) -> Found:
        await trio.lowlevel.checkpoint()
        step = 0 if parent.path == () else int(name[1:])
        if parent.path and step not in self._below(parent.path):
            raise NotFoundError()
        path = (*parent.path, step)
        self.nodes += 1
        self.most_nodes = max(self.most_nodes, self.nodes)
        number = self._number(path)
        return Found(Place(Ino(number + 2), path), self._attr(number))

    def forget(self, node: Any, count: int = 1) -> None:
        self.nodes -= count

    async def opendir(self, node: Place) -> Place:
        await trio.lowlevel.checkpoint()
        return node

    async def releasedir(self, handle: Place) -> None:
        await trio.lowlevel.checkpoint()

    async def readdir(self, handle: Place, cookie: int, *, limit: int) -> Sequence[Listed]:
        await trio.lowlevel.checkpoint()
        gone = self._files_gone.get(self._number(handle.path), 0)
        entries = [
            DirEntry(b"f%d" % number, Ino(0), stat.S_IFREG, number + 1)
            for number in range(cookie, FILES)
            if not gone >> number & 1
        ]
        entries += [
            DirEntry(b"d%d" % step, Ino(0), stat.S_IFDIR, FILES + step + 1)
            for step in self._below(handle.path)
            if FILES + step >= cookie
        ]
        return [Listed(entry, None) for entry in entries[:limit]]

    async def unlink_many(self, parent: Place, names: Sequence[bytes]) -> list[int]:
        await trio.lowlevel.checkpoint()
        directory, errors = self._number(parent.path), []
        for name in names:
            gone, bit = self._files_gone.get(directory, 0), 1 << int(name[1:])
            errors.append(errno.ENOENT if gone & bit else 0)
            self._files_gone[directory] = gone | bit
        return errors

    async def rmdir(self, parent: Place, name: bytes, cred: Any) -> None:
        await trio.lowlevel.checkpoint()
        path = (*parent.path, 0 if parent.path == () else int(name[1:]))
        number = self._number(path)
        if self._below(path) or self._files_gone.get(number, 0) != (1 << FILES) - 1:
            raise NotEmptyError()
        self._files_gone.pop(number)
        self._dirs_gone.pop(number, None)
        if parent.path:
            above = self._number(parent.path)
            self._dirs_gone[above] = self._dirs_gone.get(above, 0) | 1 << path[-1]


def main() -> None:
    """Walk a tree; print files, directories and the most memory that it took, in KiB."""
    storage: Any = Simulated(int(sys.argv[1]) // FILES)
    removed = trio.run(Walk(storage, SilentMeter()).remove, storage.root, b"top")
    assert storage.nodes == 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(removed.files, removed.dirs, removed.failures, peak)


if __name__ == "__main__":
    main()
