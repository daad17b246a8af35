"""A storage that dies, or fails, at a chosen step: a proxy before a real one.

Only calls that change something are counted, since what happens between two of them can't be told
apart on the storage.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from cephfs_ext.core.errors import NotFoundError, fs_error
from cephfs_ext.core.ports import Node, Storage

_NAMES = ("mkdir", "mknod", "symlink", "link", "unlink", "unlink_many", "rmdir", "rename", "create")
_INODES = ("setattr", "setxattr", "removexattr", "write", "pin")
CHANGES = frozenset((*_NAMES, *_INODES))
_ALWAYS = frozenset(("kind", "ranks", "rename_noreplace", "finds_by_number"))


class Crash(BaseException):
    """The gateway is dead: nothing it still does reaches the storage."""


class When(enum.Enum):
    """What becomes of the chosen step."""

    BEFORE = "dies before it"
    AFTER = "dies after it"
    FAILS = "it fails"
    LIES = "it fails although it was done"
    FROM_NOW_ON = "it fails, and all after it"
    CANCELLED = "the request is cancelled before it"


class Faulty:
    """Passes everything on to a real storage until its time has come."""

    def __init__(self, real: Storage, root: Node | None = None) -> None:
        self._real = real
        self._root = real.root if root is None else root
        self.changes: list[str] = []
        """Names of the changing calls so far."""
        self.dead = False
        self.scope = trio.CancelScope()
        """Of the request, for steps that cancel it."""
        self._step = 0
        self._when = When.BEFORE
        self._errno = 0

    def arm(self, step: int, when: When, errno: int = 0) -> None:
        """Choose the step, counted from the next changing call, which is 1."""
        self.changes.clear()
        self._step, self._when, self._errno = step, when, errno

    def disarm(self) -> None:
        """Let everything pass from now on."""
        self._step = 0

    @property
    def root(self) -> Node:
        """The directory that the gateway serves."""
        return self._root

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._real, name)
        if name in _ALWAYS:
            return target
        if self.dead:
            raise Crash
        if name in CHANGES:
            return lambda *args, **kwargs: self._change(name, target, *args, **kwargs)
        return target

    @property
    def open_nodes(self) -> int:
        """How many inodes somebody has a reference to; known on posix only."""
        return int(self._real.describe().get("nodes", 0))

    async def path(self, node: Node) -> bytes:
        """Return where a directory is now, relative to our own root."""
        if self.dead:
            raise Crash
        top, path = await self._real.path(self._root), await self._real.path(node)
        if top and path != top and not path.startswith(top + b"/"):
            raise NotFoundError()
        return path[len(top) :].lstrip(b"/")

    async def _change(
        self, name: str, target: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
    ) -> Any:
        if self.dead:
            raise Crash
        self.changes.append(name)
        now = len(self.changes)
        if not self._step or now < self._step:
            return await target(*args, **kwargs)
        if self._when is When.FROM_NOW_ON or (now == self._step and self._when is When.FAILS):
            raise fs_error(self._errno)
        if now > self._step:
            return await target(*args, **kwargs)
        if self._when is When.CANCELLED:
            self.scope.cancel()
            return await target(*args, **kwargs)
        if self._when is When.BEFORE:
            self.dead = True
            raise Crash
        done = await target(*args, **kwargs)
        if self._when is When.AFTER:
            self.dead = True
            raise Crash
        self._give_back(done)
        raise fs_error(self._errno)

    def _give_back(self, done: Any) -> None:
        """Nobody will ever have the reference that came with a success."""
        node = getattr(done, "node", None)
        if node is not None:
            self._real.forget(node)


def is_crash(error: BaseException) -> bool:
    """Tell whether an exception is a crash, in groups or not.

    Who was cancelled because somebody beside has crashed has crashed with them.
    """
    if isinstance(error, BaseExceptionGroup):
        _, others = error.split(trio.Cancelled)
        return others is not None and all(is_crash(inner) for inner in others.exceptions)
    return isinstance(error, Crash)
