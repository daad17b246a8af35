"""Who makes a request: credentials and process, from what FUSE says and /proc.

FUSE gives uid, gid and the thread's id. Supplementary groups, the process and its command, pod and
container come from /proc of this host; when the process lives in a pid namespace that is hidden
from the daemon, FUSE says pid 0, and there are none. Root needs no groups. The process is
remembered for a moment, since an `rm -rf` asks for it at every name.

**Reading a command may block**, as long as the process likes: the kernel takes the lock of the
process's memory for it, which a thread of the process may hold until we have written its pages. So
it is done in a thread, and not waited for. What blocks stays blocked, and a user has only some of
the threads: nobody can keep the commands of others out of the audit. In place of a command that
can't be read stands the name of the program, as ps(1) writes it.

Source: proc(5); docs/semantics.md [perm-3].
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import trio

from asyncdelete.intent import Rm
from cephfs_ext.core.mountinfo import mounts
from cephfs_ext.core.types import Credentials
from cephfs_ext.fuse.cgroups import Workload, workload_of
from cephfs_ext.vfs.nodes import NodeId, is_virtual
from trashbin.hours import Viewer
from trashbin.put import Deleter

T = TypeVar("T")

_NAMESPACES = ("user", "pid", "mnt")
_KEPT_S = 1.0
"""How long a process is remembered: it may begin another program, or another one get its number."""

_KEPT = 1024
_COMMAND_BYTES = 256
_ARGUMENTS_BYTES = 65_536
"""An rm with more than that is not recognised."""
_PATIENCE_S = 0.25
"""How long a command is waited for."""

_READERS = 16
"""Threads that read commands; where all hang nobody waits, and commands are left out."""

_READERS_OF_ONE = 4
"""How many of them may read commands of one user."""

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


def _read_command(thread: int) -> str:
    """Read the arguments of the process of a thread. Blocks."""
    raw = _read(thread, "cmdline", _COMMAND_BYTES)
    return raw.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")


def _read_process(thread: int, command: str) -> _Process:
    """Read what else there is to know of the process of a thread. Doesn't block."""
    group = _GROUP.search(_read(thread, "status"))
    pid = int(group[1]) if group else thread
    command = command or _program(pid)
    return _Process(pid, command, _started(pid), workload_of(_read(thread, "cgroup")))


def _program(pid: int) -> str:
    """Return the name of the program of a process; nothing if it is gone."""
    name = _read(pid, "comm").rstrip(b"\n").decode("utf-8", "replace")
    return f"[{name}]" if name else ""


def _started(pid: int) -> int:
    """Return when a process was started, in ticks since the machine was; 0 if it is gone."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[_STARTED]) if len(fields) > _STARTED else 0


def _read_rm(pid: int) -> Rm | None:
    """Read what a process deletes, if it is rm and sees the mounts that we see. Blocks."""
    try:
        here = f"/proc/{pid}"
        if os.path.basename(os.readlink(f"{here}/exe")) != "rm":
            return None
        if os.readlink(f"{here}/ns/mnt") != os.readlink("/proc/self/ns/mnt"):
            return None
        if os.readlink(f"{here}/root") != os.readlink("/proc/self/root"):
            return None
        raw = _read(pid, "cmdline", _ARGUMENTS_BYTES)
        if len(raw) == _ARGUMENTS_BYTES or not raw.endswith(b"\0"):
            return None
        return Rm(tuple(raw[:-1].split(b"\0")[1:]), os.readlink(f"{here}/cwd"), mounts(pid))
    except OSError:
        return None


class _Readers:
    """Threads that read what may block of processes of one user."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(_READERS_OF_ONE)
        self._waiting = 0
        """Reads that somebody waits for; a thread may be under way without one."""

    @property
    def hanging(self) -> int:
        """How many threads nobody waits for any more."""
        return max(0, int(self._threads.borrowed_tokens) - self._waiting)

    @property
    def are_idle(self) -> bool:
        """True if nothing is being read."""
        return not self._waiting and not self._threads.borrowed_tokens

    async def read(self, read: Callable[[int], T | None], thread: int) -> T | None:
        """Read something; None if that takes too long, or all threads hang."""
        if self.hanging >= _READERS_OF_ONE:
            return None
        answer = None
        self._waiting += 1
        try:
            with trio.move_on_after(_PATIENCE_S):
                answer = await trio.to_thread.run_sync(
                    read, thread, limiter=self._threads, abandon_on_cancel=True
                )
        finally:
            self._waiting -= 1
        return answer


class Callers:
    """Turns requests into deleters; within one `trio.run`."""

    def __init__(self) -> None:
        self._readers: dict[int, _Readers] = {}
        """By user; those of whom nothing is being read aren't there."""
        self._processes: dict[int, tuple[float, _Process]] = {}

    async def deleter(self, request: Request, *, destroys: bool = True) -> Deleter:
        """Return who deletes, and by which process, which only what destroys something needs."""
        cred = credentials(request)
        if not destroys:
            return Deleter(cred, request.pid, "")
        process = await self._process(request.pid, cred.uid)
        pod, container = process.workload
        return Deleter(cred, process.pid, process.command, process.started, pod, container)

    def viewer(self, node_id: NodeId, request: Request) -> Viewer:
        """Return who looks at a node; of whom only what is in a virtual trash asks."""
        everything = request.uid == 0 and is_virtual(node_id) and is_of_this_host(request.pid)
        return Viewer(request.uid, everything)

    async def _process(self, thread: int, uid: int) -> _Process:
        if not thread:
            return _Process(0)
        until_s, process = self._processes.get(thread, (0.0, _Process(thread)))
        if time.monotonic() >= until_s:
            process = _read_process(thread, await self._command(thread, uid))
            if len(self._processes) >= _KEPT:
                self._processes.clear()
            self._processes[thread] = (time.monotonic() + _KEPT_S, process)
        return process

    async def rm(self, pid: int) -> Rm | None:
        """Read what a process deletes; None if it is no rm, or if that takes too long."""
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            return None
        return await self._patiently(_read_rm, pid, uid)

    async def _command(self, thread: int, uid: int) -> str:
        """Read a command; nothing if that takes too long."""
        return await self._patiently(_read_command, thread, uid) or ""

    async def _patiently(self, read: Callable[[int], T | None], thread: int, uid: int) -> T | None:
        """Read something that may block for ever; None if it takes too long.

        Args:
            uid: whose process it is: who lets reads hang keeps only their own from being read.
        """
        if sum(readers.hanging for readers in self._readers.values()) >= _READERS:
            return None
        readers = self._readers.setdefault(uid, _Readers())
        try:
            return await readers.read(read, thread)
        finally:
            if readers.are_idle:
                self._readers.pop(uid, None)
