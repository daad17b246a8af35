"""The trash as it lies on the storage, seen and changed beside the gateway."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster.ceph import CephCluster
from tests.gateway import file_system
from trashbin import layout

_OLD_HOUR = "2020-02-03T"
_REMOVAL_S = 90.0


class Back:
    """The back door; `of` chooses the one that fits."""

    def __init__(self, trash: str) -> None:
        self._trash = trash

    @staticmethod
    @contextlib.contextmanager
    def of(source: str, cluster: CephCluster | None) -> Iterator[Back]:
        """Return the back door to the trash of a served directory."""
        path = source.partition(":")[2] + "/.trashbin"
        if cluster is None:
            yield Back(path)
            return
        with file_system(cluster) as fs, _data_pool(cluster) as pool:
            yield _CephBack(path, fs, pool)

    def names(self, path: str) -> list[str]:
        """List a directory of the trash."""
        return os.listdir(f"{self._trash}/{path}")

    def workers(self) -> set[int]:
        """Return the processes that are at work, or died while they were."""
        return {int(json.loads(about)["pid"]) for about in self._abouts() if about}

    def _abouts(self) -> Iterator[bytes]:
        for path in Path(f"{self._trash}/jobs").glob("member.*"):
            with contextlib.suppress(FileNotFoundError):
                yield path.read_bytes()

    def record(self, path: str) -> str:
        """Read a record, which is the target of a link."""
        return os.readlink(f"{self._trash}/{path}")

    def _rename(self, old: str, new: str) -> None:
        os.rename(f"{self._trash}/{old}", f"{self._trash}/{new}")

    def put(self, hour: str, name: str, size: int) -> None:
        """Lay a file into an hour of the first shard."""
        os.makedirs(f"{self._trash}/r0.00/{hour}", 0o700, exist_ok=True)
        with open(f"{self._trash}/r0.00/{hour}/{name}", "wb") as file:
            file.write(bytes(size))

    def append(self, path: str, data: bytes) -> None:
        """Write at the end of a file, below directories that are made where they are missing."""
        whole = Path(f"{self._trash}/{path}")
        whole.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with whole.open("ab") as stream:
            stream.write(data)

    def _homes(self) -> list[str]:
        """Return what has hours that expire: the shards, and the tombstones."""
        return [name for name in self.names("") if _expires(name)]

    def age_trash(self) -> None:
        """Make everything in the trash old; no gateway may be running."""
        for home in self._homes():
            hours = [hour for hour in self.names(home) if hour.startswith("2")]
            for number, hour in enumerate(hours):
                self._rename(f"{home}/{hour}", f"{home}/{_OLD_HOUR}{number:02}")

    def wait_for_removals(self) -> None:
        """Wait until everything old is gone, and all that had been claimed."""
        until = time.monotonic() + _REMOVAL_S
        while left := self._left():
            assert time.monotonic() < until, left
            time.sleep(0.2)

    def _left(self) -> list[str]:
        hours = [hour for home in self._homes() for hour in self.names(home)]
        old = [hour for hour in hours if hour.startswith(_OLD_HOUR)]
        return old + self.names("purging")


class _CephBack(Back):
    def __init__(self, trash: str, fs: Any, pool: Any) -> None:
        super().__init__(trash)
        self._fs = fs
        self._pool = pool

    def _abouts(self) -> Iterator[bytes]:
        import rados

        jobs = self._fs.stat(f"{self._trash}/jobs").st_ino
        with contextlib.suppress(rados.ObjectNotFound):
            yield from (about for _, about in self._pool.get_xattrs(f"cephfs_ext.members.{jobs:x}"))

    def names(self, path: str) -> list[str]:
        with self._fs.opendir(f"{self._trash}/{path}") as stream:
            entries = iter(stream.readdir, None)
            return [e.d_name.decode() for e in entries if e.d_name not in (b".", b"..")]

    def put(self, hour: str, name: str, size: int) -> None:
        directory = f"{self._trash}/r0.00/{hour}"
        if hour not in self.names("r0.00"):
            self._fs.mkdir(directory, 0o700)
        fd = self._fs.open(f"{directory}/{name}", "w", 0o600)
        for off in range(0, size, 1 << 20):
            self._fs.write(fd, bytes(min(1 << 20, size - off)), off)
        self._fs.close(fd)

    def append(self, path: str, data: bytes) -> None:
        whole = f"{self._trash}/{path}"
        self._fs.mkdirs(whole.rpartition("/")[0], 0o700)
        fd = self._fs.open(whole, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._fs.write(fd, data, -1)
        self._fs.close(fd)

    def record(self, path: str) -> str:
        target: bytes = self._fs.readlink(f"{self._trash}/{path}", 1 << 12)
        return target.decode()

    def _rename(self, old: str, new: str) -> None:
        self._fs.rename(f"{self._trash}/{old}", f"{self._trash}/{new}")


@contextlib.contextmanager
def _data_pool(cluster: CephCluster) -> Iterator[Any]:
    import rados

    with (
        rados.Rados(conffile=str(cluster.conf), rados_id="admin") as connected,
        connected.open_ioctx("cephfs.data") as pool,
    ):
        yield pool


def _expires(name: str) -> bool:
    term = layout.term_of(name.encode())
    return layout.has_hours(name.encode()) and not term.is_held
