"""The lane of a mount of CephFS: see c_ext/lane, and `cephfs_ext.core.ports.Lane`.

It uses the session of users, reads as the gateway, and never waits for Python. Of an inode that it
is forced to ask about, of a session that was shut out, and of files whose handle isn't the
session's any more, Python answers.

Concurrency: `force`, `keep_name`, `kept_name` and `lookups` from any thread, `forget_name` and
`forget_inode` from any thread that answers no request; all else belongs to the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import trio

from c_ext._lane import ffi, lib
from cephfs_ext.core.errors import FSError, check
from cephfs_ext.core.limits import LANE_READERS, LANE_READERS_MOST, OPEN_FILES
from cephfs_ext.core.ports import (
    ALL_LOOKUPS,
    LANE_OPERATIONS,
    OPEN_IN_LANE,
    Adopted,
    Found,
    Grant,
    Handle,
    LaneCost,
    Node,
    Removed,
)
from cephfs_ext.core.types import Attr, Ino, Reason

assert (lib.CX_OPEN_HERE, lib.CX_ALL_LOOKUPS) == (OPEN_IN_LANE, ALL_LOOKUPS)

_OPCODES = {
    "lookup": (1,), "getattr": (3,), "readlink": (5,), "getxattr": (22,), "read": (15,),
    "write": (16,), "open": (14,), "release": (18,), "opendir": (27,), "readdir": (28, 44),
    "releasedir": (29,), "forget": (2, 42), "create": (35,), "mkdir": (9,), "mknod": (8,),
    "symlink": (6,), "setattr": (4,), "rename": (12, 45), "unlink": (10,),
    "flush": (25,), "getlk": (31,), "setlk": (32, 33), "statfs": (17,), "listxattr": (23,),
    "fallocate": (43,), "copy_file_range": (47,),
}  # fmt: skip
"""The requests that it knows, by the kernel's numbers (include/uapi/linux/fuse.h)."""


assert list(_OPCODES) == LANE_OPERATIONS

_NS = 1_000_000_000

_REMOVED = 64
"""What is taken over with one call."""


class CephLane:
    """Answers the kernel without Python, over a session of libcephfs."""

    def __init__(
        self,
        mount: int,
        perms: int,
        raw: Callable[[Node], int],
        refer: Callable[[Ino], Node | None],
        data_of: Callable[[Handle], tuple[int, bool] | None],
        handle_of: Callable[[Node, int, int, bool], Handle],
        *,
        entry_timeout_s: float,
        attr_timeout_s: float,
    ) -> None:
        """Build it; nothing runs yet.

        Args:
            mount: the session; this, `perms` and what `raw` and `data_of` return are addresses.
            raw: returns the inode behind a node.
            refer: returns a node with a reference of its own, of an inode that is in use.
            data_of: returns the open file of a handle, and whether it appends; None if only the
                storage can use it.
            handle_of: makes a handle of an inode, an open file, the flags with which it was opened,
                and whether the session hasn't been shut out since.

        Raises:
            FSError: no memory, or no root.
        """
        settings = {
            "entry_timeout_s": entry_timeout_s,
            "attr_timeout_s": attr_timeout_s,
            "readers": LANE_READERS,
            "readers_max": LANE_READERS_MOST,
            "open_max": OPEN_FILES // 2,
        }
        session = {
            "mount": ffi.cast("struct ceph_mount_info *", mount),
            "perms": ffi.cast("struct UserPerm *", perms),
        }
        self._store = ffi.new("struct cx_store *", session)
        self._lane = lib.cx_lane_new(self._store, ffi.new("struct cx_settings *", settings)[0])
        if self._lane == ffi.NULL:
            raise FSError(errno.ENOMEM, "the lane can't be made")
        self._nodes = lib.cx_lane_nodes(self._lane)
        self._files = lib.cx_lane_files(self._lane)
        self._hidden = lib.cx_lane_hidden(self._lane)
        self._busy = lib.cx_lane_busy(self._lane)
        self._leaving = lib.cx_lane_leaving(self._lane)
        self._allowed = lib.cx_lane_allowed(self._lane)
        self._looked = lib.cx_lane_looked(self._lane)
        self._removals = lib.cx_lane_removals(self._lane)
        self._raw = raw
        self._refer = refer
        self._data_of = data_of
        self._handle_of = handle_of
        self._removed_buffers = (
            ffi.new("struct cx_removed[]", _REMOVED),
            ffi.new("struct cx_attr[]", _REMOVED),
        )
        self._descriptors: list[int] = []
        self._ended, self._some = -1, -1
        self._costs = [(0, 0, 0)] * lib.CX_OPCODES
        self._data = (0, 0)
        self._refused = 0
        self._stopping = threading.Lock()
        self._is_over = False

    # inodes

    def __len__(self) -> int:
        return int(lib.cx_nodes_count(self._nodes))

    def teach(self, node_id: int, found: Found, parent: int, name: bytes) -> None:
        """Count one lookup; takes over the reference in `found`."""
        attr, raw = found.attr, ffi.cast("void *", self._raw(found.node))
        at, keep = _at(parent, name)
        arguments = (node_id, attr.ino, raw, at[0], attr.is_dir, attr.nlink)
        if lib.cx_nodes_teach(self._nodes, *arguments) != lib.CX_LEARNED:
            raise FSError(errno.ENOMEM)
        del keep

    def count_again(self, node_id: int) -> None:
        """Count one more lookup of an inode that it has."""
        lib.cx_nodes_count_again(self._nodes, node_id)

    def forget(self, node_id: int, lookups: int) -> bool | None:
        """Take lookups back."""
        forgotten = lib.cx_nodes_forget(self._nodes, node_id, lookups)
        return None if forgotten == lib.CX_UNKNOWN else bool(forgotten == lib.CX_GONE_TELL)

    def adopt(self, node_id: int) -> Adopted | None:
        """Return what it knows of an inode, and tell of its end from now on."""
        known = ffi.new("struct cx_known *")
        if not lib.cx_nodes_adopt(self._nodes, node_id, known):
            return None
        node = self._refer(Ino(known.ino))
        if node is None:
            return None
        name = bytes(ffi.buffer(known.name, known.name_length))
        return Adopted(node, known.parent, name, known.is_dir, known.nlink)

    def has(self, node_id: int) -> bool:
        """Tell whether it has an inode; if so, its end is told of from now on."""
        return bool(lib.cx_nodes_adopt(self._nodes, node_id, ffi.new("struct cx_known *")))

    def retarget(self, node_id: int, ino: Ino) -> None:
        """Have an id lead to another inode."""
        node = self._refer(ino)
        if node is None:
            raise FSError(errno.ESTALE)
        raw = ffi.cast("void *", self._raw(node))
        if not lib.cx_nodes_retarget(self._nodes, node_id, ino, raw):
            raise FSError(errno.ENOMEM)

    def force(self, ino: Ino, reason: Reason, *, on: bool) -> None:
        """Have all that an inode is asked for answered in Python, or no longer."""
        if not lib.cx_nodes_force(self._nodes, ino, reason * on, reason * (not on)):
            raise FSError(errno.ENOMEM)

    # names

    def place(self, node_id: int, parent: int, name: bytes) -> None:
        """Note where a directory is now."""
        at, _keep = _at(parent, name)
        lib.cx_nodes_place(self._nodes, node_id, at[0])

    def unplace(self, parent: int, name: bytes) -> None:
        """Note that a directory has lost its name."""
        at, _keep = _at(parent, name)
        lib.cx_nodes_unplace(self._nodes, at[0])

    def directory_at(self, parent: int, name: bytes) -> int:
        """Return the id of the directory that was seen last under a name; 0 if none was."""
        at, _keep = _at(parent, name)
        return int(lib.cx_nodes_directory_at(self._nodes, at[0]))

    def oldest(self, count: int) -> list[tuple[int, bytes]]:
        """Return names of inodes that were learned longest ago; the next call returns others."""
        known = ffi.new("struct cx_known[]", count)
        found = lib.cx_nodes_oldest(self._nodes, known, count)
        return [
            (one.parent, bytes(ffi.buffer(one.name, one.name_length))) for one in known[0:found]
        ]

    def names_changed(self, directory: int) -> None:
        """Note that a name in a directory was changed."""
        lib.cx_nodes_changed(self._nodes, directory)

    def hide(self, parent: int, name: bytes) -> None:
        """Answer that a name isn't there."""
        at, _keep = _at(parent, name)
        if not lib.cx_names_add(self._hidden, at[0]):
            raise FSError(errno.ENOMEM)

    def show(self, parent: int, name: bytes) -> None:
        """End that."""
        at, _keep = _at(parent, name)
        lib.cx_names_remove(self._hidden, at[0])

    def touches(self, directory: int) -> int:
        """Return how often it has changed something of a directory, or names in it."""
        known = ffi.new("struct cx_known *")
        return int(known.touches) if lib.cx_nodes_look(self._nodes, directory, known) else 0

    def take_name(self, parent: Ino, name: bytes) -> bool:
        """Keep it from changing a name in a directory; False if it is just doing that."""
        at, _keep = _at(parent, name)
        return bool(lib.cx_names_take(self._busy, at[0]))

    def leave_name(self, parent: Ino, name: bytes) -> None:
        """Let it change a name again."""
        at, _keep = _at(parent, name)
        lib.cx_names_remove(self._busy, at[0])

    def keep_name(self, parent: Ino, name: bytes) -> bool:
        """Keep it from renaming what has a name; False if it is just doing that. Any thread."""
        at, _keep = _at(parent, name)
        return bool(lib.cx_names_take(self._leaving, at[0]))

    def kept_name(self, parent: Ino, name: bytes) -> None:
        """End that. Any thread."""
        at, _keep = _at(parent, name)
        lib.cx_names_remove(self._leaving, at[0])

    def allow(self, directory: int, seconds: float) -> None:
        """Have it rename in a directory, and open what is there for writing, for some time."""
        lib.cx_allowed_add(self._allowed, directory, seconds)

    def allow_nowhere(self) -> None:
        """Have that done in Python everywhere, until it is allowed again."""
        lib.cx_allowed_clear(self._allowed)

    def looked(self, parent: int, name: bytes) -> Attr | None:
        """Return what a name had when we were asked to unlink it; None if that isn't known."""
        at, _keep = _at(parent, name)
        attr = ffi.new("struct cx_attr *")
        return _attr(attr) if lib.cx_looked_take(self._looked, at[0], attr) else None

    def exempt(self, patterns: Sequence[str]) -> None:
        """Never unlink names without Python that fit a pattern."""
        packed = b"".join(pattern.encode() + b"\0" for pattern in patterns)
        if not lib.cx_removals_exempt(self._removals, ffi.from_buffer(packed), len(packed)):
            raise FSError(errno.ENOMEM)

    def grant(self, grant: Grant, seconds: float) -> None:
        """Have a process' unlinks in a directory answered here, for some time."""
        lib.cx_removals_grant(self._removals, ffi.new("struct cx_grant *", grant), seconds)

    def revoke(self, directory: int | None = None) -> None:
        """Take the grant for a directory back, or all."""
        if directory is None:
            lib.cx_removals_revoke_all(self._removals)
        else:
            lib.cx_removals_revoke(self._removals, directory)

    async def removed_some(self) -> None:
        """Wait until something was unlinked here that Python hasn't taken over."""
        await trio.lowlevel.wait_readable(self._some)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._some)

    def removed(self) -> list[Removed]:
        """Take over some of what was unlinked here."""
        found: list[Removed] = []
        names, attrs = self._removed_buffers
        count = int(lib.cx_removals_take(self._removals, names, attrs, _REMOVED))
        for one, attr in zip(names[0:count], attrs[0:count], strict=True):
            name = bytes(ffi.buffer(one.name, one.length))
            found.append(Removed(one.grant, one.parent, name, _attr(attr)))
        return found

    def deletes_inside(self, ino: Ino, answered_ns: int, directories: int) -> None:
        """Show attributes of a directory as if names in it had gone."""
        if not lib.cx_removals_inside(self._removals, ino, answered_ns, directories):
            raise FSError(errno.ENOMEM)

    def open_outside(self, node_id: int, *, on: bool) -> None:
        """Note that Python has a file open, or no longer."""
        lib.cx_nodes_open_outside(self._nodes, node_id, on)

    def pass_changes(self, *, on: bool) -> None:
        """Have all changes made in Python, or no longer; counted."""
        lib.cx_lane_pass_changes(self._lane, on)

    # open files and directories

    def opened(self, fh: int, handle: Handle) -> None:
        """Read and write an open file from now on; with this handle, if it had another."""
        data = self._data_of(handle)
        if data is None:
            lib.cx_files_drop(self._files, fh)
            return
        raw, appends = data
        file = {"raw": ffi.cast("struct cx_fh *", raw), "appends": appends}
        lib.cx_files_set(self._files, fh, ffi.new("struct cx_file *", file)[0])

    def file_at(self, fh: int) -> int:
        """Return which inode it has open under a number; 0 if none."""
        opened = ffi.new("struct cx_opened *")
        return int(opened.id) if lib.cx_files_look(self._files, fh, opened) else 0

    def take_file(self, fh: int, node: Node) -> Handle:
        """Hand a file over that it has open, to be closed by who gets it.

        Raises:
            FSError: EBADF; it has none of that number.
        """
        opened = ffi.new("struct cx_opened *")
        if not lib.cx_lane_take_file(self._lane, fh, opened):
            raise FSError(errno.EBADF)
        raw = int(ffi.cast("uintptr_t", opened.raw))
        return self._handle_of(node, raw, opened.flags, opened.is_current)

    def closing(self, fh: int) -> None:
        """Don't use a file any more, that is about to be closed."""
        lib.cx_files_drop(self._files, fh)

    def is_idle(self, fh: int) -> bool:
        """Tell whether no call is under way with a handle that a file had."""
        return bool(lib.cx_files_is_idle(self._files, fh))

    @property
    def open_handles(self) -> int:
        """How many files and directories it has opened."""
        return 0 if self._is_over else int(lib.cx_lane_open(self._lane))

    def opens(self, node_id: int) -> int:
        """Return how often it has a file open."""
        return int(lib.cx_nodes_opens(self._nodes, node_id))

    def hold(self, node_id: int, *, on: bool) -> None:
        """Keep a file from being opened by it, or no longer."""
        lib.cx_nodes_hold(self._nodes, node_id, on)

    def pass_opendir(self) -> None:
        """Have all directories opened in Python."""
        lib.cx_lane_pass_opendir(self._lane)

    # the session

    def shut_out(self) -> None:
        """Answer nothing of the storage: the cluster has shut the session out."""
        lib.cx_lane_pause(self._lane, True)

    def let_in(self) -> None:
        """Answer again; files that were open before are Python's until it says otherwise."""
        lib.cx_lane_pause(self._lane, False)

    def lookups(self) -> Iterator[tuple[int, int, Ino, bytes]]:
        """Yield what is being looked up: the thread, a number for each lookup, and the name."""
        if self._is_over:
            return
        lookup = ffi.new("struct cx_lookup *")
        for thread in range(LANE_READERS_MOST):
            if lib.cx_lane_lookup(self._lane, thread, lookup):
                name = bytes(ffi.string(lookup.name))
                yield thread, lookup.begun, Ino(lookup.directory), name

    # the kernel

    def start(self, device: int, pair: int) -> None:
        """Begin to answer; takes over the descriptors."""
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        self._ended, self._some = os.eventfd(0, flags), os.eventfd(0, flags)
        self._descriptors = [device, pair, self._ended, self._some]
        lib.cx_removals_wake(self._removals, self._some)
        check(lib.cx_lane_start(self._lane, device, pair, self._ended))

    async def ended(self) -> None:
        """Wait until the kernel has ended the session."""
        await trio.lowlevel.wait_readable(self._ended)

    @property
    def error(self) -> int:
        """The errno for which it has stopped to answer; 0 unless something went wrong."""
        return 0 if self._is_over else int(lib.cx_lane_error(self._lane))

    # what it has cost

    def costs(self) -> list[LaneCost]:
        """Return what each kind of request that it knows has cost since the last call."""
        former, self._costs = self._costs, self._ask()[0]
        costs = []
        for op, opcodes in _OPCODES.items():
            steps = [
                [new - old for new, old in zip(self._costs[code], former[code], strict=True)]
                for code in opcodes
            ]
            answered, passed, ns = map(sum, zip(*steps, strict=True))
            costs.append(LaneCost(op, answered, passed, ns / 1e9))
        return costs

    def data(self) -> tuple[int, int]:
        """Return how many bytes were read and written since the last call."""
        former, self._data = self._data, self._ask()[1]
        return self._data[0] - former[0], self._data[1] - former[1]

    @property
    def is_unsure(self) -> bool:
        """Whether there are directories of which the kernel is to remember nothing."""
        return not self._is_over and bool(lib.cx_lane_is_unsure(self._lane))

    def is_unsure_in(self, directory: int) -> bool:
        """Tell whether a directory is one of them: others rely on what is in it."""
        return bool(lib.cx_lane_is_unsure_in(self._lane, directory))

    def locks(self) -> tuple[int, int]:
        """Return how many requests for locks wait, and how many more were refused by now."""
        if self._is_over:
            return 0, 0
        waiting, refused = ffi.new("size_t *"), ffi.new("uint64_t *")
        lib.cx_lane_locks(self._lane, waiting, refused)
        former, self._refused = self._refused, refused[0]
        return waiting[0], self._refused - former

    def _ask(self) -> tuple[list[tuple[int, int, int]], tuple[int, int]]:
        if self._is_over:
            return self._costs, self._data
        costs, data = ffi.new("struct cx_cost[]", lib.CX_OPCODES), ffi.new("uint64_t[2]")
        lib.cx_lane_costs(self._lane, costs, data)
        return [(one.answered, one.passed, one.answered_ns) for one in costs], (data[0], data[1])

    def forget_name(self, parent: int, name: bytes) -> None:
        """Have the kernel forget a name. Blocks."""
        at, _keep = _at(parent, name)
        _check_os(lib.cx_lane_forget_name(self._lane, at[0]))

    def forget_inode(self, node_id: int) -> None:
        """Have the kernel forget attributes and pages of an inode. Blocks."""
        _check_os(lib.cx_lane_forget_inode(self._lane, node_id))

    async def stop(self) -> None:
        """Answer nothing any more; what is under way is waited for."""
        await trio.to_thread.run_sync(self._stop)

    def _stop(self) -> None:
        with self._stopping:
            if not self._is_over:
                lib.cx_lane_stop(self._lane)
            self._is_over = True
            for descriptor in self._descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            self._descriptors.clear()

    def free(self) -> None:
        """Give back all inodes; it must have been stopped, and nothing may be called any more."""
        lib.cx_lane_free(self._lane)


def _at(parent: int, name: bytes) -> tuple[Any, Any]:
    """Build the argument for a name; the second part has to live as long as the first is used."""
    buffer = ffi.from_buffer(name)
    value = {"parent": parent, "name": ffi.cast("char *", buffer), "length": len(name)}
    return ffi.new("struct cx_name *", value), buffer


def _attr(attr: Any) -> Attr:
    return Attr(
        Ino(attr.ino),
        attr.mode,
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.rdev,
        attr.size,
        attr.blocks,
        attr.blksize,
        _ns(attr.atime),
        _ns(attr.mtime),
        _ns(attr.ctime),
    )


def _ns(time: Any) -> int:
    return int(time.tv_sec) * _NS + int(time.tv_nsec)


def _check_os(rc: int) -> None:
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
