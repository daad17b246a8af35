"""Locks against every gateway there is, and facts of the cluster, through librados.

A lock is a rados lock on the object `cephfs_ext.lock.<inode, hex>` in the default data pool,
held for a lease that is renewed: the lock of a dead holder comes free when its lease ends. There
are as many objects as directories that are locked: some of each trash's own, and those of
restores. Members are extended attributes of one object: the pool may be erasure coded, and has no
omap then.

Everything here blocks; the caller has threads. The key needs `osd 'allow rwx'` on the pool.
"""

from __future__ import annotations

import contextlib
import errno
import json
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator
from typing import Any

import rados

from cephfs_ext.core.config import CephConfig
from cephfs_ext.core.errors import FSError, fs_error

_NAME = "gateway"
_PROBED = "cephfs_ext.lock.probe"
_ANSWER_S = "15"
_NAME_OBJECTS = 4096
_EXCLUSIVE = 1
_MAY_RENEW, _MUST_RENEW = 1, 2
"""LIBRADOS_LOCK_FLAG_MAY_RENEW and …_MUST_RENEW."""
_PROBE_S = 10


class ClusterLocks:
    """Takes and gives back locks; connects when it is first needed."""

    def __init__(self, config: CephConfig, pool: str) -> None:
        self._config = config
        self._pool = pool
        self._connecting = threading.Lock()
        self._cluster: Any = None
        self._ioctx: Any = None

    def _io(self) -> Any:
        with self._connecting:
            if self._ioctx is None:
                options = {
                    "client_mount_timeout": str(int(self._config.mount_timeout_s)),
                    "rados_osd_op_timeout": _ANSWER_S,
                    "rados_mon_op_timeout": _ANSWER_S,
                }
                cluster = rados.Rados(
                    conffile=self._config.conf, rados_id=self._config.id, conf=options
                )
                cluster.connect(timeout=int(self._config.mount_timeout_s))
                self._cluster, self._ioctx = cluster, cluster.open_ioctx(self._pool)
                self._ioctx.set_osdmap_full_try()  # a full pool refuses at once, and never waits
            return self._ioctx

    def take(self, lock: str, cookie: str, lease_s: int) -> bool:
        """Take a lock; False if somebody else holds it.

        Args:
            lock: from one of the functions below.

        Raises:
            FSError: the cluster refuses, or doesn't answer.
        """
        with self._translated():
            try:
                self._lock(lock, _lock_op(cookie, lease_s, _MAY_RENEW))
            except (rados.ObjectBusy, rados.ObjectExists):
                return False
        return True

    def renew(self, lock: str, cookie: str, lease_s: int) -> bool:
        """Begin the lease of a lock anew; False if it has ended, whoever has the lock by now.

        Raises:
            FSError: the cluster refuses, or doesn't answer.
        """
        with self._translated():
            try:
                self._lock(lock, _lock_op(cookie, lease_s, _MUST_RENEW))
            except (rados.ObjectBusy, rados.ObjectExists, rados.ObjectNotFound):
                return False
        return True

    def _lock(self, lock: str, operation: bytes) -> None:
        with rados.WriteOpCtx() as call:
            call.execute("lock", "lock", operation)
            self._io().operate_write_op(call, lock)

    def give_back(self, lock: str, cookie: str) -> None:
        """Give a lock back; one that is gone already is no error."""
        with self._translated(), contextlib.suppress(rados.ObjectNotFound):
            self._io().unlock(lock, _NAME, cookie)

    def remove(self, lock: str) -> None:
        """Give a lock back for good: its object goes, too. Only the holder may do this."""
        with self._translated(), contextlib.suppress(rados.ObjectNotFound):
            self._io().remove_object(lock)

    def members(self, roll: str) -> dict[str, bytes]:
        """Return what all members say of themselves, by name.

        Args:
            roll: from `roll_of_dir`.
        """
        with self._translated():
            try:
                return dict(self._io().get_xattrs(roll))
            except rados.ObjectNotFound:
                return {}

    def enrol(self, roll: str, name: str, about: bytes) -> None:
        """Add a member, or replace what it says of itself."""
        with self._translated():
            self._io().set_xattr(roll, name, about)

    def strike(self, roll: str, name: str) -> None:
        """Remove a member; one that is gone already is no error."""
        with self._translated(), contextlib.suppress(rados.ObjectNotFound, rados.NoData):
            self._io().rm_xattr(roll, name)

    def check(self) -> None:
        """Check that the key may take locks.

        Raises:
            DeniedError: it may not; the message says what it needs.
            FSError: the cluster doesn't answer.
        """
        cookie = uuid.uuid4().hex
        if self.take(_PROBED, cookie, _PROBE_S):
            self.give_back(_PROBED, cookie)

    def fs_dump(self) -> dict[str, Any]:
        """Return what the monitors know of the file systems."""
        return self._ask("fs dump")

    def is_full(self, fs_name: str) -> bool:
        """Tell whether the metadata pool of a file system is full, or the whole cluster.

        Args:
            fs_name: empty for the cluster's first one.
        """
        maps = [fs["mdsmap"] for fs in self.fs_dump()["filesystems"]]
        pools = [one["metadata_pool"] for one in maps if fs_name in ("", one["fs_name"])]
        dump = self._ask("osd dump")
        flags = {pool["pool"]: pool["flags_names"] for pool in dump["pools"]}
        said = dump["flags"].split(",") + [
            flag for pool in pools[:1] for flag in flags[pool].split(",")
        ]
        return "full" in said

    def _ask(self, prefix: str) -> dict[str, Any]:
        self._io()
        words = json.dumps({"prefix": prefix, "format": "json"})
        rc, out, message = self._cluster.mon_command(words, b"")
        if rc != 0:
            raise fs_error(-rc, message)
        answer: dict[str, Any] = json.loads(out)
        return answer

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except rados.Error as exc:
            raise self._failure(exc) from exc

    def _failure(self, exc: Exception) -> FSError:
        """Say what went wrong; a connection that was shut out is replaced at the next call."""
        number = abs(getattr(exc, "errno", None) or errno.EIO)
        if number == errno.ESHUTDOWN:
            with self._connecting:  # who still uses it keeps it
                self._ioctx = self._cluster = None
        if number in (errno.EPERM, errno.EACCES):
            fix = f"osd 'allow rwx pool={self._pool}'"
            return fs_error(number, f"client.{self._config.id} may take no locks, it needs {fix}")
        return fs_error(number, f"the lock service: {exc}")

    def close(self) -> None:
        """End the connection."""
        with self._connecting:
            if self._ioctx is not None:
                self._ioctx.close()
                self._cluster.shutdown()
                self._ioctx = self._cluster = None


def _lock_op(cookie: str, lease_s: int, flags: int) -> bytes:
    """Return what the OSDs take a lock by, as version 1 of `cls_lock_lock_op`.

    `Ioctx.lock_exclusive` of the Python binding (16.2) leaves a part of the duration to chance:
    leases of 3 s lasted for up to 6.

    Source: cls/lock/cls_lock_ops.h of ceph.
    """
    texts = (cookie, "", "cephfs-ext")  # the tag isn't used, the other is for who looks
    words = b"".join(_encoded(text) for text in texts)
    fields = _encoded(_NAME) + bytes([_EXCLUSIVE]) + words + struct.pack("<IIB", lease_s, 0, flags)
    return struct.pack("<BBI", 1, 1, len(fields)) + fields


def _encoded(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw


def lock_of_dir(ino: int) -> str:
    """Return the object to lock a directory with."""
    return f"cephfs_ext.lock.{ino:x}"


def lock_of_name(parent: int, name: bytes) -> str:
    """Return the object to lock a name in a directory with; others may share it."""
    number = zlib.crc32(b"%x/%s" % (parent, name)) % _NAME_OBJECTS
    return f"cephfs_ext.names.{number:03x}"


def lock_of_member(above: int, name: str) -> str:
    """Return the object whose lock a member holds."""
    return f"cephfs_ext.member.{above:x}.{name}"


def roll_of_dir(ino: int) -> str:
    """Return the object that lists the members of a directory."""
    return f"cephfs_ext.members.{ino:x}"
