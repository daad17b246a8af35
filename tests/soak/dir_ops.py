"""Random operations on directories, each of which may have one child."""

from __future__ import annotations

import errno
import os

from tests.soak import models
from tests.soak.observer import IDENTITY_BITS, Observer

CHILD = "f"
_DEAD = (errno.ENOENT, errno.EPERM)
"""What changes get in a directory without a name, and in one that lies in the trash."""


def mode_of(number: int) -> int:
    """Return the permission bits that name a directory in its group."""
    assert number <= IDENTITY_BITS, "too many directories in a group"
    return number & IDENTITY_BITS


class OnDirs(Observer):
    """Uses a group whose names are those of directories."""

    def mkdir(self) -> None:
        """Make a directory."""
        name, who = self._pick(), mode_of(next(self._group.numbers))
        if who == models.PLACEHOLDER:
            return
        answer = self._ask("mkdir", lambda: os.mkdir(self._path(name), who))
        text = f"mkdir {self._called(name)}"
        if answer.errno == errno.EEXIST:
            step = models.taken(name)
            self._note(f"{text}: exists", answer, step, (name,), cached=True)
        elif answer.errno:
            self._surprise(text, answer)
        else:
            self._history.dirs.add((self._group.path, who))
            self._note_made(f"{text}: {who:x}", answer, name, who)

    def rmdir(self) -> None:
        """Remove a directory; only those with children may be full."""
        full = errno.ENOTEMPTY if self._group.kind == "trees" else 0
        self._remove("rmdir", os.rmdir, but=full)

    def child(self) -> None:
        """Make, remove or look for the child of a directory."""
        opened = self._open(os.O_RDONLY | os.O_DIRECTORY)
        if opened is None:
            return
        who = os.fstat(opened.value).st_mode & IDENTITY_BITS
        act = self._random.choice((self._child_made, self._child_removed, self._child_seen))
        try:
            act(opened.value, who)
        finally:
            os.close(opened.value)

    def _child_made(self, directory: int, who: int) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        answer = self._ask("create child", lambda: os.open(CHILD, flags, 0o600, dir_fd=directory))
        text = f"create child of {who:x}"
        if answer.errno in (errno.EEXIST, *_DEAD):
            return
        if answer.errno:
            self._surprise(text, answer)
            return
        ino = os.fstat(answer.value).st_ino
        self._history.files[ino] = f"{self._who} {text} in {self._group.path}"
        self._write(answer.value, ino)

    def _child_removed(self, directory: int, who: int) -> None:
        answer = self._ask("unlink child", lambda: os.unlink(CHILD, dir_fd=directory))
        if answer.errno not in (0, *_DEAD):
            self._surprise(f"unlink child of {who:x}", answer)

    def _child_seen(self, directory: int, who: int) -> None:
        answer = self._ask("readdir child", lambda: os.listdir(directory))
        if answer.errno:
            self._surprise(f"readdir child of {who:x}", answer)

    def play(self) -> None:
        """Carry out one operation."""
        weights = _WEIGHTS if self._group.kind == "dirs" else _WEIGHTS_OF_TREES
        (operation,) = self._random.choices(list(weights), list(weights.values()))
        operation(self)


_WEIGHTS = {
    OnDirs.mkdir: 4.0,
    OnDirs.rmdir: 2.0,
    OnDirs.rename: 3.0,
    OnDirs.look: 3.0,
    OnDirs.listing: 2.0,
    OnDirs.discard: 1.0,
    OnDirs.restore: 0.3,
}
_WEIGHTS_OF_TREES = {**_WEIGHTS, OnDirs.child: 6.0}
