"""Other processes and other users: code that runs in a forked child and hands its result back.

A child never outlives the test: it is killed after `TIMEOUT_S`, or when its context ends, and it
is always waited for. Only one thread may exist in the process that forks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")

TIMEOUT_S = 30.0
REAP_S = 5.0
CHUNK_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class User:
    """Whom a child acts as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = User(0, 0)
OWNER = User(30001, 30001)
MEMBER = User(30002, OWNER.gid)
SUPPLEMENTARY = User(30003, 30003, (OWNER.gid,))
STRANGER = User(30004, 30004)


class ActorError(AssertionError):
    """A child hung, died, or raised something that is not an OSError."""


class Child(Generic[T]):
    """A forked process that computes one value; made by `spawn`."""

    def __init__(self, pid: int, results: int) -> None:
        self.pid = pid
        self._results = results
        self._reaped = False
        self._status = 0

    def result(self, timeout_s: float = TIMEOUT_S) -> T:
        """Wait for the child's end and return its value.

        Raises:
            OSError: as the child raised it.
            ActorError: the child hung (it has been killed), died, or failed otherwise.
        """
        report = self._read_all(time.monotonic() + timeout_s)
        self._reap()
        if not report:
            raise ActorError(f"child {self.pid} died without a word")
        kind, value = pickle.loads(report)
        if kind == "errno":
            raise OSError(value, os.strerror(value))
        if kind == "bug":
            raise ActorError(f"in child {self.pid}:\n{value}")
        returned: T = value
        return returned

    def signal(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait for the end of a child that a signal is to kill; return the signal, 0 if none."""
        self._read_all(time.monotonic() + timeout_s)
        self._reap()
        return os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else 0

    def finished(self) -> bool:
        """Tell whether the child has a result to hand over, or has died; never waits."""
        return bool(select.select([self._results], [], [], 0)[0])

    def kill(self) -> None:
        """End the child at once, as kill -9 does."""
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def close(self) -> None:
        """Leave neither process nor descriptor behind."""
        self.kill()
        os.close(self._results)

    def _read_all(self, deadline: float) -> bytes:
        report = b""
        while select.select([self._results], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(self._results, CHUNK_BYTES)
            if not chunk:
                return report
            report += chunk
        self.kill()
        raise ActorError(f"child {self.pid} hung and was killed")

    def _reap(self) -> None:
        """Wait for the child, but not for ever: one stuck inside the kernel can't be killed."""
        deadline = time.monotonic() + REAP_S
        while not self._reaped:
            pid, self._status = os.waitpid(self.pid, os.WNOHANG)
            self._reaped = pid == self.pid
            if not self._reaped:
                if time.monotonic() > deadline:
                    raise ActorError(f"child {self.pid} can't be killed: stuck in a system call")
                time.sleep(0.001)


@contextlib.contextmanager
def spawn(fn: Callable[[], T], user: User | None = None) -> Iterator[Child[T]]:
    """Run `fn` in a child, as `user` if one is given, while the body of the `with` goes on."""
    results, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(results)
        _run(fn, user, report)
    os.close(report)
    child: Child[T] = Child(pid, results)
    try:
        yield child
    finally:
        child.close()


def as_user(user: User, fn: Callable[[], T], timeout_s: float = TIMEOUT_S) -> T:
    """Return what `fn` returns when `user` runs it, or raise the OSError that it raised."""
    with spawn(fn, user) as child:
        return child.result(timeout_s)


def elsewhere(fn: Callable[[], T]) -> T:
    """Return what `fn` returns in another process of the same user."""
    with spawn(fn) as child:
        return child.result()


def errno_of(fn: Callable[[], object]) -> int:
    """Run `fn` and return the errno that it fails with, 0 for success."""
    try:
        fn()
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0


def name_of(number: int) -> str:
    """Spell an errno for an assertion's message."""
    return errno.errorcode.get(number, str(number)) if number else "success"


def _run(fn: Callable[[], object], user: User | None, report: int) -> NoReturn:
    try:
        if user is not None:
            _become(user)
        outcome: tuple[str, object] = ("value", fn())
    except OSError as exc:
        outcome = ("errno", exc.errno)
    except BaseException:
        outcome = ("bug", traceback.format_exc())
    _write_all(report, pickle.dumps(outcome))
    # Not sys.exit: the test runner's own clean-up belongs to the parent.
    os._exit(0)


def _become(user: User) -> None:
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
