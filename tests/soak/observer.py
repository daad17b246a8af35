"""What a worker has asked and what was answered, as operations of a model.

Every answer becomes an operation (tests/soak/models.py). What no model allows, an unexpected
errno, is a surprise, and fails the test by itself.
"""

from __future__ import annotations

import base64
import dataclasses
import errno
import functools
import itertools
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Literal

from cephfs_ext.control.client import Client
from cephfs_ext.control.service import (
    RestoreReport,
    RestoreRequest,
    TrashListing,
    TrashQuery,
)
from tests.soak import models
from tests.soak.linearize import Op, Step

CACHED_S = 1.0
"""Timeouts of names and attributes in the kernel."""

VALUE_BYTES = 64
NAMES = ("a", "b", "c")
Kind = Literal["files", "links", "dirs", "trees"]
"""What the names of a group are used for: files, files with several names, empty directories,
directories with children."""
IDENTITY_BITS = 0o1777
"""Permission bits that tell directories of a group apart."""


@dataclasses.dataclass
class Group:
    """A directory that some workers use for a while."""

    path: str
    """Relative to the mount."""
    kind: Kind
    numbers: Any = dataclasses.field(default_factory=lambda: itertools.count(1))

    @property
    def of_dirs(self) -> bool:
        """True if its names are those of directories."""
        return self.kind in ("dirs", "trees")

    @property
    def ordered(self) -> bool:
        """True if what was seen has to fit together.

        CephFS doesn't find the other names of a file for a moment after one was removed, and an
        rmdir that finds that a child was just made takes the directory away for a moment.
        """
        return self.kind in ("files", "dirs")


@dataclasses.dataclass(frozen=True)
class Seen(Op):
    """Somebody had a name at some time."""

    name: int = 0
    who: int = 0


class Look(Seen):
    """A name was looked at, maybe in the kernel's cache."""


@dataclasses.dataclass(frozen=True)
class Rename(Op):
    """A name was given to something by renaming; the kernel may have found nothing to do."""

    name: int = 0
    new_name: int = 0


@dataclasses.dataclass(frozen=True)
class Restored(Op):
    """A name was given to what had been deleted."""

    name: int = 0


@dataclasses.dataclass
class History:
    """What one worker has seen."""

    ops: dict[Hashable, list[Op]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    """By object: ("names", path of a group) or ("content", inode)."""
    files: dict[int, str] = dataclasses.field(default_factory=dict)
    """Every file that was made, and how."""
    dirs: set[tuple[str, int]] = dataclasses.field(default_factory=set)
    """Every directory that was made: its group and its permission bits."""
    linked: set[int] = dataclasses.field(default_factory=set)
    """Files that were given a second name."""
    surprises: list[str] = dataclasses.field(default_factory=list)
    counts: dict[str, int] = dataclasses.field(default_factory=lambda: defaultdict(int))
    slowest: dict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))


@dataclasses.dataclass
class Answer:
    """What a call answered, and when."""

    invoked_s: float
    answered_s: float
    value: Any
    errno: int


class Observer:
    """Asks a mount, and notes the answers."""

    def __init__(
        self, who: str, gateway: str, mount: Path, client: Client, rng: random.Random
    ) -> None:
        self._who = who
        self._gateway = gateway
        self._mount = mount
        self._client = client
        self._random = rng
        self._history = History()
        self._group = Group("", "files")
        self._numbers = itertools.count(1)

    @property
    def history(self) -> History:
        """What was seen so far."""
        return self._history

    def use(self, group: Group) -> None:
        """Use a group from now on."""
        self._group = group

    def _ask(self, what: str, call: Callable[[], Any]) -> Answer:
        self._history.counts[what] += 1
        invoked_s = time.monotonic()
        try:
            value, number = call(), 0
        except OSError as exc:
            value, number = None, exc.errno or errno.EIO
        answered_s = time.monotonic()
        slowest = self._history.slowest
        slowest[what] = max(slowest[what], answered_s - invoked_s)
        return Answer(invoked_s, answered_s, value, number)

    def _note(
        self,
        text: str,
        answer: Answer,
        step: Step,
        keys: tuple[Hashable, ...],
        *,
        changes: bool = False,
        cached: bool = False,
        about: Hashable = None,
        gateway: str = "",
        kind: Callable[..., Op] = Op,
    ) -> None:
        self._history.ops[about or ("names", self._group.path)].append(
            kind(
                f"{self._who} {text}",
                gateway or self._gateway,
                answer.invoked_s,
                answer.answered_s,
                keys,
                step,
                changes,
                CACHED_S if cached else 0.0,
            )
        )

    def _surprise(self, text: str, answer: Answer) -> None:
        name = errno.errorcode.get(answer.errno, answer.errno)
        self._history.surprises.append(
            f"{self._who}: {text} in {self._group.path}: {name} after "
            f"{answer.answered_s - answer.invoked_s:.3f} s"
        )

    def _pick(self) -> int:
        return self._random.randrange(len(NAMES))

    def _two_names(self) -> tuple[int, int]:
        first, second = self._random.sample(range(len(NAMES)), 2)
        return first, second

    def _path(self, name: int) -> str:
        return os.path.join(self._mount, self._group.path, NAMES[name])

    def _called(self, name: int) -> str:
        return NAMES[name]

    def _open(self, flags: int) -> Answer | None:
        name = self._pick()
        answer = self._ask("open", lambda: os.open(self._path(name), flags))
        self._looked(f"open {self._called(name)}", name, answer, lambda: os.fstat(answer.value))
        return None if answer.errno else answer

    def _looked(
        self, text: str, name: int, answer: Answer, attributes: Callable[[], os.stat_result]
    ) -> None:
        """Note what a name was seen to be: somebody's, maybe out of a cache, or nobody's."""
        if answer.errno == errno.ENOENT:
            self._absent(text, name, answer)
        elif answer.errno:
            self._surprise(text, answer)
        else:
            who = self._identity(attributes())
            step, kind = models.read_name(name, who), functools.partial(Look, name=name, who=who)
            self._note(f"{text}: {who:x}", answer, step, (name,), cached=True, kind=kind)

    def _absent(self, text: str, name: int, answer: Answer) -> None:
        step = models.read_name(name, models.ABSENT)
        self._note(f"{text}: absent", answer, step, (name,))

    def _note_made(self, text: str, answer: Answer, name: int, who: int) -> None:
        """Note that somebody was given a free name."""
        kind = functools.partial(Seen, name=name, who=who)
        self._note(text, answer, models.made(name, who), (name,), changes=True, kind=kind)

    def _identity(self, attributes: os.stat_result) -> int:
        if self._group.of_dirs:
            return attributes.st_mode & IDENTITY_BITS
        return attributes.st_ino

    def look(self) -> None:
        """Stat a name."""
        self._look_at(self._pick())

    def _look_at(self, name: int) -> None:
        answer = self._ask("stat", lambda: os.lstat(self._path(name)))
        self._looked(f"stat {self._called(name)}", name, answer, lambda: answer.value)

    def listing(self) -> None:
        """List the directory; each name counts for itself."""
        where = os.path.join(self._mount, self._group.path)
        answer = self._ask("readdir", lambda: {e.name: e.inode() for e in os.scandir(where)})
        if answer.errno:
            self._surprise("readdir", answer)
            return
        for name, called in enumerate(NAMES):
            ino = answer.value.get(called)
            text = f"readdir {called}: {ino or 0:x}"
            step = models.read_name(name, ino or models.ABSENT)
            if ino is not None and self._group.of_dirs:
                step = models.taken(name)
            self._note(text, answer, step, ())  # the kernel's cache doesn't learn from it

    def discard(self) -> None:
        """Move something into the virtual trash."""
        bin_of_group = os.path.join(self._mount, self._group.path, ".trashbin")
        there = os.path.join(bin_of_group, f"{self._who}.{next(self._numbers)}")
        self._remove("mv into .trashbin", lambda path: os.rename(path, there))

    def _remove(self, what: str, call: Callable[[str], None], *, but: int = 0) -> None:
        """Remove something; the errno `but` is as good, and says nothing."""
        name = self._pick()
        answer = self._ask(what, lambda: call(self._path(name)))
        text = f"{what} {self._called(name)}"
        if answer.errno == errno.ENOENT:
            self._absent(text, name, answer)
        elif answer.errno and answer.errno != but:
            self._surprise(text, answer)
        elif not answer.errno:
            self._note(text, answer, models.removed(name), (name,), changes=True)

    def rename(self) -> None:
        """Rename, maybe over something."""
        name, new = self._two_names()
        answer = self._ask("rename", lambda: os.rename(self._path(name), self._path(new)))
        text = f"rename {self._called(name)} {self._called(new)}"
        if answer.errno == errno.ENOENT:
            self._absent(text, name, answer)
        elif answer.errno == errno.ENOTEMPTY and self._group.kind == "trees":
            pass
        elif answer.errno:
            self._surprise(text, answer)
        else:
            kind = functools.partial(Rename, name=name, new_name=new)
            step = models.renamed(name, new)
            self._note(text, answer, step, (name, new), changes=True, kind=kind)

    def _write(self, fd: int, ino: int) -> None:
        label = f"{self._who}.{next(self._numbers)}"
        value = label.encode().ljust(VALUE_BYTES)

        def write() -> None:
            os.pwrite(fd, value, 0)
            os.fsync(fd)

        answer = self._ask("write+fsync", write)
        os.close(fd)
        if answer.errno:
            self._surprise("write", answer)
            return
        text, about = f"write {ino:x}: {label!r}", ("content", ino)
        self._note(text, answer, models.written(value), (ino,), changes=True, about=about)

    def restore(self) -> None:
        """Bring back what had a name last."""
        name = self._pick()
        answer = self._ask("restore", lambda: self._restored(name))
        text, keys = f"restore {self._called(name)}", (name,)
        if answer.value not in ("restored", "conflict", "not_found"):
            self._history.surprises.append(f"{self._who}: {text}: {answer.value}")
        if answer.value != "restored":
            return
        steps = [models.restored(name)]
        if self._group.of_dirs:
            steps = [models.made(name, models.PLACEHOLDER), models.dir_appears(name)]
        for step in steps:
            # its own kernel hears of it as late as any other
            background = f"{self._gateway}-background"
            kind = functools.partial(Restored, name=name)
            self._note(text, answer, step, keys, changes=True, gateway=background, kind=kind)
        self._look_at(name)

    def _restored(self, name: int) -> str:
        entry_id = self._last_deleted(f"{self._group.path}/{self._called(name)}")
        if entry_id is None:
            return "not_found"
        request = RestoreRequest(ids=[entry_id])
        item = self._client.post("/v1/trash/restore", request, RestoreReport).items[0]
        known = item.outcome in ("restored", "conflict", "not_found")
        return item.outcome if known else f"{item.outcome}: {item.message}"

    def _last_deleted(self, path: str) -> str | None:
        """Return the id of what had exactly this path when it was deleted."""
        query = TrashQuery(below=base64.b64encode(path.encode()).decode())
        listing = self._client.post("/v1/trash/list", query, TrashListing)
        return next((item.id for item in listing.items if item.path == path), None)
