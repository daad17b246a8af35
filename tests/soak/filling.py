"""Fills an hour of a trash with entries and their records, beside the gateway.

As `python -m tests.soak.filling`, for work by hand, and in processes of its own for tests: Ceph's
binding waits for the answer to each request.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cephfs_ext.core.types import Ino
from tests.cluster.ceph import CephCluster
from tests.gateway import file_system
from trashbin import layout
from trashbin.layout import EntryName

INSTANCE = "f111"
_PROCESSES = 4
_APART_NS = 200_000
_LINES = 500_000


class Filling(NamedTuple):
    """What goes into an hour."""

    trash: str
    """Path of the trash in the file system."""
    start_ns: int
    """When the first entry was deleted; the next 200 µs later, and so on."""
    entries: int
    parent: int
    """Inode of the directory that all were deleted from."""
    path: str
    """Where that is."""

    def entry(self, number: int) -> EntryName:
        """Return the name of an entry."""
        return EntryName(
            self.start_ns + number * _APART_NS, INSTANCE, 0, Ino(self.parent), b"f%07d" % number
        )

    def line(self, number: int) -> bytes:
        """Return its record."""
        entry = self.entry(number)
        fields = {
            "id": entry.id,
            "path": f"{self.path}/{entry.name.decode()}",
            "uid": 0,
            "gid": 0,
            "pid": 4000 + number,
            "command": f"rm {self.path}/{entry.name.decode()}",
            "kind": "file",
            "ino": 1,
            "parent_token": "",
            "parent": self.parent,
            "owner": 0,
            "size": 0,
            "event": f"{entry.deleted_ns:016x}.{INSTANCE}",
        }
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def fill(cluster: CephCluster | None, filling: Filling) -> None:
    """Make the entries and records of an hour; several processes share the entries.

    Args:
        cluster: where the trash is; None for a local directory.
    """
    command = [sys.executable, "-m", "tests.soak.filling"]
    command += [str(cluster.directory) if cluster is not None else "", json.dumps(filling)]
    at_work = [subprocess.Popen([*command, str(part)]) for part in range(_PROCESSES)]
    assert [one.wait() for one in at_work] == [0] * _PROCESSES


class _Local:
    """A local directory, with the calls of Ceph's binding that are needed here."""

    mkdir, mknod, chdir = os.mkdir, os.mknod, os.chdir

    def names(self, path: str) -> list[str]:
        return os.listdir(path)

    def write(self, path: str, parts: Iterable[bytes]) -> None:
        with open(path, "wb") as file:
            file.writelines(parts)


class _Ceph:
    """A CephFS."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self.mknod, self.chdir = fs.mknod, fs.chdir

    def mkdir(self, path: str, mode: int) -> None:
        import cephfs

        try:
            self._fs.mkdir(path, mode)
        except cephfs.ObjectExists as exc:
            raise FileExistsError(path) from exc

    def names(self, path: str) -> list[str]:
        with self._fs.opendir(path) as directory:
            return [entry.d_name.decode() for entry in iter(directory.readdir, None)]

    def write(self, path: str, parts: Iterable[bytes]) -> None:
        fd, offset = self._fs.open(path, "w", 0o600), 0
        for part in parts:
            offset += self._fs.write(fd, part, offset)
        self._fs.fsync(fd, False)
        self._fs.close(fd)


def _fill_part(fs: Any, filling: Filling, part: int) -> None:
    shards = sorted(n for n in fs.names(filling.trash) if layout.parse_shard(n.encode()))
    hour = layout.hour_name(filling.start_ns).decode()
    for number, shard in enumerate(shards):
        if number % _PROCESSES == part:
            path = f"{filling.trash}/{shard}/{hour}"
            with contextlib.suppress(FileExistsError):
                fs.mkdir(path, 0o700)
            fs.chdir(path)
            for one in range(number, filling.entries, len(shards)):
                fs.mknod(filling.entry(one).path[0], stat.S_IFREG | 0o644, 0)
    if part == 0:
        for number, begin in enumerate(range(0, filling.entries, _LINES)):
            lines = map(filling.line, range(begin, min(begin + _LINES, filling.entries)))
            suffix = f".{number}" if number else ""
            fs.write(f"{filling.trash}/journal/{hour}.{INSTANCE}{suffix}.jsonl", lines)


def main(directory: str, filling: str, part: str) -> None:
    """Make what one process has to make."""
    os.umask(0)
    wanted = Filling(*json.loads(filling))
    if not directory:
        _fill_part(_Local(), wanted, int(part))
        return
    with file_system(CephCluster(Path(directory))) as fs:
        _fill_part(_Ceph(fs), wanted, int(part))


if __name__ == "__main__":
    main(*sys.argv[1:])
