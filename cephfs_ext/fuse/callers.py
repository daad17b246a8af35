"""Who makes a request: credentials and process, from what FUSE says and /proc.

FUSE gives uid, gid and the thread's id. Supplementary groups and the command come from /proc of
this host; when the process lives in a pid namespace that is hidden from the daemon, FUSE says
pid 0, and there are none. Root needs no groups. The command is remembered for a moment, since an
`rm -rf` asks for it at every name.

Source: proc(5); docs/semantics.md [perm-3].
"""

from __future__ import annotations

import os
import time
from typing import Protocol

from cephfs_ext.core.types import Credentials
from cephfs_ext.vfs.nodes import NodeId, is_virtual
from trashbin.hours import Viewer
from trashbin.put import Deleter

_NAMESPACES = ("user", "pid", "mnt")
_COMMAND_KEPT_S = 1.0
_COMMANDS_KEPT = 1024
_COMMAND_BYTES = 256


class Request(Protocol):
    """What FUSE says of the caller."""

    @property
    def uid(self) -> int:
        """User id."""
        ...

    @property
    def gid(self) -> int:
        """Primary group id."""
        ...

    @property
    def pid(self) -> int:
        """Thread id, 0 if it is hidden from this process."""
        ...


def groups_of(pid: int) -> tuple[int, ...]:
    """Read the supplementary groups of a process; none if it is hidden or gone."""
    if pid == 0:
        return ()
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"Groups:"):
                    return tuple(map(int, line.split()[1:]))
    except OSError:
        pass
    return ()


def credentials(request: Request) -> Credentials:
    """Return the rights that a request comes with."""
    groups = () if request.uid == 0 else groups_of(request.pid)
    return Credentials(request.uid, request.gid, groups)


def is_of_this_host(pid: int) -> bool:
    """Tell whether a process lives where the daemon does, rather than in a container.

    Only such a one could reach the operators' socket, which is what root may do everything by.
    """
    if pid == 0:
        return False
    try:
        return all(
            os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
            for kind in _NAMESPACES
        )
    except OSError:
        return False


def _read_command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            raw = cmdline.read(_COMMAND_BYTES)
    except OSError:
        return ""
    return raw.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")


class Callers:
    """Turns requests into deleters."""

    def __init__(self) -> None:
        self._commands: dict[int, tuple[float, str]] = {}

    def deleter(self, request: Request, *, destroys: bool = True) -> Deleter:
        """Return who deletes, and with which command, which only what destroys something needs."""
        command = self._command(request.pid) if destroys else ""
        return Deleter(credentials(request), request.pid, command)

    def viewer(self, node_id: NodeId, request: Request) -> Viewer:
        """Return who looks at a node; of whom only what is in a virtual trash asks."""
        everything = request.uid == 0 and is_virtual(node_id) and is_of_this_host(request.pid)
        return Viewer(request.uid, everything)

    def _command(self, pid: int) -> str:
        now = time.monotonic()
        until, command = self._commands.get(pid, (0.0, ""))
        if now >= until:
            command = _read_command(pid) if pid else ""
            if len(self._commands) >= _COMMANDS_KEPT:
                self._commands.clear()
            self._commands[pid] = (now + _COMMAND_KEPT_S, command)
        return command
