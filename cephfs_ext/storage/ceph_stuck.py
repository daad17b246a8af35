"""Names that libcephfs takes for being renamed for ever, and how they are freed.

libcephfs 16.2.15 marks the new name of a rename, and lookups of it wait until the rename is over.
When the rename fails before its request is sent (the old name turned out to be gone), the mark
stays: every later lookup of the new name through that session hangs, and with it the directory in
the kernel.

`cx_rename` looks the old name up right before the rename, so that this needs another client to
remove it within a microsecond. It happens all the same, some times a minute where two gateways
rename onto the same names, so the new name of a rename that failed that way is freed at once. In
case that isn't all, every call that looks a name up is watched, and what takes far too long is
taken for stuck.

The next rename onto a name takes the mark off, also one that is refused: that of the directory
around it into itself. (That of a name onto itself would do, but libcephfs takes the name for gone
afterwards.) In the root of the mount, all that can be dropped is dropped from the cache of the
session, the mark with it; a directory that the kernel knows stays stuck there.

**No name is freed while a rename takes it away**: when that is answered first libcephfs follows a
null pointer at the answer to the refused one (see `name_locks`). A rename's own new name is its
own to free; what is only watched must be nobody's old name, which `taking_away` sees to.

Source: PR 40787 of ceph and its backport 52505; tests/ceph/test_renames.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from c_ext._libcephfs import ffi, lib
from cephfs_ext.core.types import Ino
from cephfs_ext.storage.ceph_cache import CacheSize
from cephfs_ext.storage.name_locks import Name

_log = logging.getLogger(__name__)

_PATIENCE_S = 15.0
"""A call that takes longer is taken for one that hangs; a standby needs less to take over.

Freeing it in vain doubles the patience.
"""

_LOOK_S = 0.25


@dataclasses.dataclass(slots=True, eq=False)
class _Call:
    parent: Ino
    names: Sequence[bytes]
    over: Callable[[], int]
    """How many of the names are dealt with; the next one is under way."""
    due_s: float
    patience_s: float
    at: int = 0

    @property
    def name(self) -> bytes:
        return self.names[min(self.at, len(self.names) - 1)]

    def is_late(self) -> bool:
        """Tell whether one name takes too long."""
        if (over := self.over()) != self.at:
            self.at, self.patience_s = over, _PATIENCE_S
            self.due_s = time.monotonic() + _PATIENCE_S
        return time.monotonic() > self.due_s


def _call(parent: Ino, names: Sequence[bytes], over: Callable[[], int]) -> _Call:
    return _Call(parent, names, over, time.monotonic() + _PATIENCE_S, _PATIENCE_S)


class Others(Protocol):
    """Who looks up and renames in threads of their own."""

    def lookups(self) -> Iterable[tuple[int, int, Ino, bytes]]:
        """Yield what is being looked up: by whom, a number for each, directory and name."""
        ...

    def keep_name(self, parent: Ino, name: bytes) -> bool:
        """Keep them from renaming what has a name; False if they are just doing that."""
        ...

    def kept_name(self, parent: Ino, name: bytes) -> None:
        """End that."""
        ...


class StuckNames:
    """Watches the calls of one session, and frees names; has a thread.

    Concurrency: `watched`, `taking_away` and `free` from any thread.
    """

    def __init__(self, mount: Any, root: Any, perms: Any, cache: CacheSize) -> None:
        self._mount = mount
        self._root = root
        self._perms = perms
        self._cache = cache
        self.others: Others | None = None
        self._others: dict[tuple[int, int], _Call] = {}
        self._calls: dict[_Call, None] = {}
        self._changed = threading.Condition()
        self._taken_away: Counter[Name] = Counter()
        self._freeing: Name | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stuck names", daemon=True)
        self._thread.start()

    def watched(self, parent: Ino, name: bytes) -> contextlib.AbstractContextManager[None]:
        """Watch a call that looks a name up while the body runs."""
        return self.watched_in_turn(parent, (name,), lambda: 0)

    @contextlib.contextmanager
    def watched_in_turn(
        self, parent: Ino, names: Sequence[bytes], over: Callable[[], int]
    ) -> Iterator[None]:
        """Watch a call that looks up one name after the other while the body runs.

        Args:
            over: says, in any thread, how many it has dealt with.
        """
        call = _call(parent, names, over)
        self._calls[call] = None
        try:
            yield
        finally:
            del self._calls[call]

    @contextlib.contextmanager
    def taking_away(self, parent: Ino, *names: bytes) -> Iterator[None]:
        """Keep names from being freed while the body renames them. Blocks while one is."""
        keys = [(parent, name) for name in names]
        with self._changed:
            self._changed.wait_for(lambda: self._freeing not in keys)
            self._taken_away.update(keys)
        try:
            yield
        finally:
            with self._changed:
                for key in keys:
                    self._taken_away[key] -= 1
                    if not self._taken_away[key]:
                        del self._taken_away[key]

    def free(self, parent: Any, ino: Ino, name: bytes) -> None:
        """Free a name in a directory that nobody else changes meanwhile. Blocks.

        Args:
            parent: the directory, as libcephfs knows it; `ino` is its number.
        """
        if not self._move_into_itself(parent, name, ino):
            self._drop_marks()

    def close(self) -> None:
        """End the thread; nothing may be watched any more. Blocks."""
        self._closing.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK_S):
            try:
                for call in self._calls.copy():
                    if call.is_late() and call in self._calls:
                        self._free_late(call)
                for call in self._look_at_others():
                    if call.is_late():
                        self._free_late(call)
            except Exception:
                _log.exception("watching for stuck names goes on")

    def _look_at_others(self) -> list[_Call]:
        """Return the lookups of somebody else that are under way."""
        found: dict[tuple[int, int], _Call] = {}
        for who, number, parent, name in () if self.others is None else self.others.lookups():
            known = self._others.get((who, number))
            found[who, number] = known or _call(parent, (name,), lambda: 0)
        self._others = found
        return list(found.values())

    def _free_late(self, call: _Call) -> None:
        self._free(call)
        call.patience_s *= 2
        call.due_s = time.monotonic() + call.patience_s

    def _free(self, call: _Call) -> None:
        key = (call.parent, call.name)
        with self._changed:
            if self._taken_away[key]:
                return
            if self.others is not None and not self.others.keep_name(*key):
                return
            self._freeing = key
        _log.warning("a lookup hangs, or is slow; its name is freed in case it is stuck")
        try:
            self._free_at(call.parent, call.name)
        finally:
            if self.others is not None:
                self.others.kept_name(*key)
            with self._changed:
                self._freeing = None
                self._changed.notify_all()

    def _free_at(self, parent: Ino, name: bytes) -> None:
        out, number = ffi.new("Inode **"), ffi.new("inodeno_t *", {"val": parent})
        if lib.ceph_ll_lookup_inode(self._mount, number[0], out) < 0:
            return  # the directory is gone
        try:
            self.free(out[0], parent, name)
        finally:
            lib.ceph_ll_put(self._mount, out[0])

    def _move_into_itself(self, directory: Any, name: bytes, ino: Ino) -> bool:
        """Rename a directory to a name in it; False if its own name isn't found, as of our root."""
        out, stx = ffi.new("Inode **"), ffi.new("struct ceph_statx *")
        if lib.ceph_ll_lookup(self._mount, directory, b"..", out, stx, 0, 0, self._perms) < 0:
            return False
        try:
            own_name = self._name_in(out[0], ino)
            if own_name:
                place = (out[0], own_name)
                lib.ceph_ll_rename(self._mount, *place, directory, name, self._perms)
        finally:
            lib.ceph_ll_put(self._mount, out[0])
        return bool(own_name)

    def _name_in(self, directory: Any, ino: Ino) -> bytes:
        """Return the name of an inode in a directory; nothing if it has none."""
        stream, entry = ffi.new("struct ceph_dir_result **"), ffi.new("struct dirent *")
        if lib.ceph_ll_opendir(self._mount, directory, stream, self._perms) < 0:
            return b""
        try:
            while lib.ceph_readdir_r(self._mount, stream[0], entry) > 0:
                name = bytes(ffi.string(entry.d_name))
                if entry.d_ino == ino and name not in (b".", b".."):
                    return name
            return b""
        finally:
            lib.ceph_ll_releasedir(self._mount, stream[0])

    def _drop_marks(self) -> None:
        """Rename a directory of our own into itself: refused, then the cache is trimmed.

        Once for the marks, and once more for those who were woken before they were gone.
        """
        name, out = f".cephfs-ext-{uuid.uuid4().hex}".encode(), ffi.new("Inode **")
        stx = ffi.new("struct ceph_statx *")
        rc = lib.ceph_ll_mkdir(self._mount, self._root, name, 0o700, out, stx, 0, 0, self._perms)
        if rc < 0:
            _log.error("names can't be freed: error %d", -rc)
            return
        with self._cache.limited(1):
            for _ in range(2):
                lib.ceph_ll_rename(self._mount, self._root, name, out[0], b"x", self._perms)
        lib.ceph_ll_put(self._mount, out[0])
        lib.ceph_ll_rmdir(self._mount, self._root, name, self._perms)
