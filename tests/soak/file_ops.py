"""Random operations on files: names, links, content."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tests.posix.libc import link_descriptor
from tests.soak import models
from tests.soak.observer import VALUE_BYTES, Answer, Observer


class OnFiles(Observer):
    """Uses a group whose names are those of files."""

    def create(self) -> None:
        """Make a file, and write into it."""
        name = self._pick()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        answer = self._ask("create", lambda: os.open(self._path(name), flags, 0o600))
        text = f"create {self._called(name)}"
        if answer.errno == errno.EEXIST:
            self._note(f"{text}: exists", answer, models.taken(name), (name,), cached=True)
        elif answer.errno:
            self._surprise(text, answer)
        else:
            ino = os.fstat(answer.value).st_ino
            self._history.files[ino] = f"{self._who} {text} in {self._group.path}"
            text = f"{text}: {ino:x}"
            self._note_made(text, answer, name, ino)
            self._write(answer.value, ino)

    def write(self) -> None:
        """Replace the content of a file."""
        opened = self._open(os.O_WRONLY)
        if opened is not None:
            self._write(opened.value, os.fstat(opened.value).st_ino)

    def read(self) -> None:
        """Read a file."""
        opened = self._open(os.O_RDONLY)
        if opened is None:
            return
        ino = os.fstat(opened.value).st_ino
        answer = self._ask("read", lambda: os.pread(opened.value, 2 * VALUE_BYTES, 0))
        os.close(opened.value)
        if answer.errno:
            self._surprise("read", answer)
            return
        # pages are dropped by open, so what is read is no older than that
        answer.invoked_s = opened.invoked_s
        self._seen(ino, answer)

    def _seen(self, ino: int, answer: Answer) -> None:
        value = answer.value
        text = f"read {ino:x}: {value.strip().decode()!r}"
        # a file that is believed to be empty isn't read
        cached, about = not value, ("content", ino)
        self._note(text, answer, models.content(value), (ino,), cached=cached, about=about)

    def unlink(self) -> None:
        """Remove a file."""
        self._remove("unlink", os.unlink)

    def link(self) -> None:
        """Give a file a second name."""
        opened = self._open(os.O_RDONLY)
        if opened is None:
            return
        ino, new = os.fstat(opened.value).st_ino, self._pick()
        self._history.linked.add(ino)
        there = Path(self._path(new))
        answer = self._ask("link", lambda: link_descriptor(opened.value, there))
        os.close(opened.value)
        text = f"link {ino:x} {self._called(new)}"
        if answer.errno == errno.EEXIST:
            self._note(f"{text}: exists", answer, models.taken(new), (new,), cached=True)
        elif answer.errno == errno.ENOENT:
            step = models.nameless(ino)
            self._note(f"{text}: nameless", answer, step, (ino,), cached=True)
        elif answer.errno:
            self._surprise(text, answer)
        else:
            self._note_made(text, answer, new, ino)

    def play(self) -> None:
        """Carry out one operation."""
        weights = _WEIGHTS if self._group.kind == "files" else _WEIGHTS_OF_LINKS
        (operation,) = self._random.choices(list(weights), list(weights.values()))
        operation(self)


_WEIGHTS = {
    OnFiles.create: 6.0,
    OnFiles.write: 3.0,
    OnFiles.read: 4.0,
    OnFiles.look: 4.0,
    OnFiles.listing: 2.0,
    OnFiles.unlink: 2.0,
    OnFiles.discard: 1.0,
    OnFiles.rename: 4.0,
    OnFiles.restore: 0.3,
}
_WEIGHTS_OF_LINKS = {**_WEIGHTS, OnFiles.link: 2.0}
