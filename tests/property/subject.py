"""A mounted gateway, as the machine drives it: operations on paths below one directory.

An operation returns or raises the OSError of the system call. Paths are tuples of names.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pathlib
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from cephfs_ext.control.client import Client
from cephfs_ext.control.service import (
    HoldReport,
    HoldRequest,
    PurgeReport,
    PurgeRequest,
    RestoredItem,
    RestoreReport,
    RestoreRequest,
    TrashItem,
    TrashListing,
    TrashQuery,
)
from tests.commands import acting_as
from tests.faults.storage import Back
from tests.gateway import Gateway
from tests.posix.libc import RENAME_EXCHANGE, RENAME_NOREPLACE, rename2
from tests.property.model import DIR, FILE, SYMLINK, Path

RECOVERY_S = 60.0

T = TypeVar("T")


class Look(NamedTuple):
    """What one name looks like."""

    kind: int
    mode: int
    uid: int
    nlink: int
    content: bytes
    """Of a file; the target of a symbolic link."""
    xattrs: dict[str, bytes]


class Subject:
    """One gateway; `enter` chooses the directory to work in.

    Operations are root's, and an operator's, unless a uid is given.
    """

    def __init__(self, gateway: Gateway, back: Back) -> None:
        self.gateway = gateway
        self._back = back
        self._clients: dict[int, Client] = {}
        self.top: Path = ()

    def _post(self, path: str, body: object, kind: type[T], uid: int) -> T:
        name = "control.sock" if uid else "admin.sock"
        if uid not in self._clients:
            self._clients[uid] = Client(str(self.gateway.directory / name))
        with acting_as(uid):
            return self._clients[uid].post(path, body, kind)

    @property
    def is_posix(self) -> bool:
        return self.gateway.source.startswith("posix:")

    def enter(self, name: bytes) -> None:
        """Work in a fresh directory of the mount."""
        self.top = (name,)
        os.mkdir(self._at(()), 0o777)

    def _at(self, path: Path) -> bytes:
        return os.path.join(os.fsencode(self.gateway.path), *self.top, *path)

    def _path(self, path: Path) -> pathlib.Path:
        return pathlib.Path(os.fsdecode(self._at(path)))

    # names

    def mkdir(self, path: Path, mode: int, uid: int = 0) -> None:
        with acting_as(uid):
            os.mkdir(self._at(path), mode)

    def create(self, path: Path, mode: int, data: bytes, uid: int = 0) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        with acting_as(uid), self._opened(path, flags, mode) as fd:
            self._write(fd, 0, data)

    def symlink(self, path: Path, target: bytes) -> None:
        os.symlink(target, self._at(path))

    def link(self, path: Path, new: Path) -> None:
        os.link(self._at(path), self._at(new), follow_symlinks=False)

    def unlink(self, path: Path, uid: int = 0) -> None:
        with acting_as(uid):
            os.unlink(self._at(path))

    def rmdir(self, path: Path, uid: int = 0) -> None:
        with acting_as(uid):
            os.rmdir(self._at(path))

    def rename(self, path: Path, new: Path) -> None:
        os.rename(self._at(path), self._at(new))

    def rename_noreplace(self, path: Path, new: Path) -> None:
        rename2(self._path(path), self._path(new), RENAME_NOREPLACE)

    def exchange(self, path: Path, new: Path) -> None:
        rename2(self._path(path), self._path(new), RENAME_EXCHANGE)

    def move_to_trash(self, path: Path, trash_of: Path, uid: int = 0) -> None:
        with acting_as(uid):
            os.rename(self._at(path), self._at((*trash_of, b".trashbin", b"whatever")))

    # inodes

    @contextlib.contextmanager
    def _opened(self, path: Path, flags: int, mode: int = 0) -> Iterator[int]:
        fd = os.open(self._at(path), flags | os.O_NOFOLLOW, mode)
        try:
            yield fd
        finally:
            os.close(fd)

    def _write(self, fd: int, off: int, data: bytes) -> None:
        assert os.pwrite(fd, data, off) == len(data)

    def write(self, path: Path, off: int, data: bytes) -> None:
        with self._opened(path, os.O_WRONLY) as fd:
            self._write(fd, off, data)

    def append(self, path: Path, data: bytes) -> None:
        with self._opened(path, os.O_WRONLY | os.O_APPEND) as fd:
            assert os.write(fd, data) == len(data)

    def rewrite(self, path: Path, data: bytes) -> None:
        with self._opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
            self._write(fd, 0, data)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(self._at(path), size)

    def fsync(self, path: Path) -> None:
        with self._opened(path, os.O_WRONLY) as fd:
            os.fsync(fd)

    def chmod(self, path: Path, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def setxattr(self, path: Path, key: str, value: bytes) -> None:
        os.setxattr(self._at(path), key, value)

    def removexattr(self, path: Path, key: str) -> None:
        os.removexattr(self._at(path), key)

    def limit(self, path: Path, files: int) -> None:
        """Give a directory a quota."""
        os.setxattr(self._at(path), "ceph.quota.max_files", b"%d" % files)

    def open(self, path: Path) -> int:
        return os.open(self._at(path), os.O_RDWR | os.O_NOFOLLOW)

    # looking

    def look_at(self, path: Path) -> Look:
        stats = os.lstat(self._at(path))
        return self._look(self._at(path), stats)

    def look_at_open(self, fd: int) -> Look:
        stats = os.fstat(fd)
        return Look(
            FILE,
            stat.S_IMODE(stats.st_mode),
            stats.st_uid,
            stats.st_nlink,
            os.pread(fd, stats.st_size + 1, 0),
            {key: os.getxattr(fd, key) for key in os.listxattr(fd)},
        )

    def _look(self, path: bytes, stats: os.stat_result) -> Look:
        kind, content = stat.S_IFMT(stats.st_mode), b""
        xattrs: dict[str, bytes] = {}
        if kind == SYMLINK:
            content = os.readlink(path)
        else:
            xattrs = {key: os.getxattr(path, key) for key in os.listxattr(path)}
        if kind == FILE:
            with open(path, "rb", buffering=0) as stream:
                content = stream.read()
            assert len(content) == stats.st_size, (path, len(content), stats.st_size)
        mode = stat.S_IMODE(stats.st_mode)
        return Look(kind, mode, stats.st_uid, stats.st_nlink, content, xattrs)

    def tree(self, path: Path = ()) -> dict[Path, Look]:
        """Look at everything below a directory."""
        found: dict[Path, Look] = {}
        stack = [path]
        while stack:
            above = stack.pop()
            for name in os.listdir(self._at(above)):
                found[(*above, name)] = look = self.look_at((*above, name))
                if look.kind == DIR:
                    stack.append((*above, name))
        return found

    # the trash

    def trash(self, uid: int = 0) -> list[TrashItem]:
        """List what was deleted below the directory, newest first."""
        query = TrashQuery(below=_encode(self.top))
        listing = self._post("/v1/trash/list", query, TrashListing, uid)
        assert not listing.damaged, listing.damaged
        return listing.items

    def trash_anywhere(self) -> list[TrashItem]:
        """List everything, also that whose place isn't known."""
        return self._post("/v1/trash/list", TrashQuery(), TrashListing, 0).items

    def path_of(self, item: TrashItem) -> Path | None:
        """Return where something was, relative to the directory; None if that isn't known."""
        if item.path is None:
            return None
        raw = item.path.encode() if item.path_raw is None else base64.b64decode(item.path_raw)
        path = tuple(raw.split(b"/"))
        assert path[: len(self.top)] == self.top
        return path[len(self.top) :]

    def restore(
        self,
        *,
        entry_id: str = "",
        path: Path | None = None,
        last: bool = False,
        to: Path | None = None,
        policy: str = "fail",
        uid: int = 0,
    ) -> list[RestoredItem]:
        request = RestoreRequest(
            ids=[entry_id] if entry_id else [],
            paths=[] if path is None else [_encode((*self.top, *path))],
            last=last,
            to=None if to is None else _encode((*self.top, *to)),
            on_conflict=policy,  # type: ignore[arg-type]
        )
        return self._post("/v1/trash/restore", request, RestoreReport, uid).items

    def target_of(self, item: RestoredItem) -> Path | None:
        """Return where something appeared, relative to the directory."""
        if item.target is None:
            return None
        raw = item.target.encode() if item.target_raw is None else base64.b64decode(item.target_raw)
        path = tuple(raw.split(b"/"))
        assert path[: len(self.top)] == self.top
        return path[len(self.top) :]

    def purge(self, entry_id: str, uid: int = 0) -> PurgeReport:
        return self._post("/v1/trash/purge", PurgeRequest(ids=[entry_id]), PurgeReport, uid)

    def purge_everything(self) -> None:
        held = [item.id for item in self.trash_anywhere() if item.held]
        if held:
            self._post("/v1/trash/release", HoldRequest(ids=held), HoldReport, 0)
        report = self._post("/v1/trash/purge", PurgeRequest(all=True), PurgeReport, 0)
        assert not report.failures

    def hold(self, entry_id: str, uid: int = 0) -> str:
        return self._hold("hold", entry_id, uid)

    def release(self, entry_id: str, uid: int = 0) -> str:
        return self._hold("release", entry_id, uid)

    def _hold(self, verb: str, entry_id: str, uid: int) -> str:
        request = HoldRequest(ids=[entry_id])
        (item,) = self._post(f"/v1/trash/{verb}", request, HoldReport, uid).items
        return item.outcome

    # the gateway

    def crash(self) -> None:
        """Kill the daemon, mount again, and wait until recovery is through."""
        self.close()
        self.gateway.kill()
        self.gateway.mount()
        until = time.monotonic() + RECOVERY_S
        while self.gateway.state.dead_instances:
            assert time.monotonic() < until, "no end of the recovery"
            time.sleep(0.01)

    def let_time_pass(self) -> None:
        """Have everything expire that isn't held, and wait until it has."""
        self.close()
        self.gateway.umount()
        self._back.age_trash()
        self.gateway.mount()
        self._back.wait_for_removals()

    def close(self) -> None:
        while self._clients:
            self._clients.popitem()[1].close()


def _encode(path: Path) -> str:
    return base64.b64encode(b"/".join(path)).decode()
