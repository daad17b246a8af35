"""Who makes a request: credentials and process, from what FUSE says and /proc.

FUSE gives uid, gid and the thread's id. Supplementary groups, the process and its command, pod and
container come from /proc of this host; when the process lives in a pid namespace that is hidden
from the daemon, FUSE says pid 0, and there are none. Root needs no groups. The process is
remembered for a moment, since an `rm -rf` asks for it at every name.

Source: proc(5); docs/semantics.md [perm-3].
"""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple, Protocol

from cephfs_ext.core.types import Credentials
from cephfs_ext.fuse.cgroups import Workload, workload_of
from cephfs_ext.vfs.nodes import NodeId, is_virtual
from trashbin.hours import Viewer
from trashbin.put import Deleter

_NAMESPACES = ("user", "pid", "mnt")
_KEPT_S = 1.0
"""How long a process is remembered: it may begin another program, or another one get its number."""

_KEPT = 1024
_COMMAND_BYTES = 256
_GROUP = re.compile(rb"^Tgid:\s*(\d+)$", re.MULTILINE)
_STARTED = 19
"""Place of the time among the fields of `stat` that follow the command."""

_FILE_BYTES = 4096
"""What is read of other files of /proc; the start of each is what counts."""


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


class _Process(NamedTuple):
    """What /proc says of a process."""

    pid: int
    command: str = ""
    started: int = 0
    workload: Workload = Workload()


def _read(pid: int, name: str, size: int = _FILE_BYTES) -> bytes:
    """Read the start of a file of a process or thread; nothing if it is hidden or gone."""
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, size)
        finally:
            os.close(fd)
    except OSError:
        return b""


def _read_process(thread: int) -> _Process:
    """Read what there is to know of the process of a thread."""
    raw = _read(thread, "cmdline", _COMMAND_BYTES)
    command = raw.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    group = _GROUP.search(_read(thread, "status"))
    pid = int(group[1]) if group else thread
    return _Process(pid, command, _started(pid), workload_of(_read(thread, "cgroup")))


def _started(pid: int) -> int:
    """Return when a process was started, in ticks since the machine was; 0 if it is gone."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[_STARTED]) if len(fields) > _STARTED else 0


class Callers:
    """Turns requests into deleters."""

    def __init__(self) -> None:
        self._processes: dict[int, tuple[float, _Process]] = {}

    def deleter(self, request: Request, *, destroys: bool = True) -> Deleter:
        """Return who deletes, and by which process, which only what destroys something needs."""
        cred = credentials(request)
        if not destroys:
            return Deleter(cred, request.pid, "")
        process = self._process(request.pid)
        pod, container = process.workload
        return Deleter(cred, process.pid, process.command, process.started, pod, container)

    def viewer(self, node_id: NodeId, request: Request) -> Viewer:
        """Return who looks at a node; of whom only what is in a virtual trash asks."""
        everything = request.uid == 0 and is_virtual(node_id) and is_of_this_host(request.pid)
        return Viewer(request.uid, everything)

    def _process(self, thread: int) -> _Process:
        now_s = time.monotonic()
        until_s, process = self._processes.get(thread, (0.0, _Process(thread)))
        if now_s >= until_s:
            process = _read_process(thread) if thread else _Process(0)
            if len(self._processes) >= _KEPT:
                self._processes.clear()
            self._processes[thread] = (now_s + _KEPT_S, process)
        return process
