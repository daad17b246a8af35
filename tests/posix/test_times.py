"""Which times each operation must move on, and which it must leave alone.

One table: an operation, and for each node it might touch the letters of the times that must be
later than before: `m` for mtime, `c` for ctime. A time that is not named must be what it was.
Nodes are watched through descriptors opened beforehand, so that a change of names doesn't matter.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.posix.libc import UTIME_NOW, UTIME_OMIT, utimens
from tests.posix.nodes import fails, make_dir, make_file, make_symlink, opened, tick

Operation = Callable[[Path], object]

WATCHED = ("top", "other", "top/file", "top/dir", "top/link", "top/twin", "other/victim")
CLOCK_SLACK_S = 2.0


def _build(target: Path) -> None:
    """Build what the operations work on; `top/twin` is a second name of `other/twin`."""
    top, other = make_dir(target / "top"), make_dir(target / "other")
    make_file(top / "file", b"data")
    make_dir(top / "dir")
    make_symlink(top / "link", "file")
    make_file(top / "twin", b"twin")
    os.link(top / "twin", other / "twin")
    make_file(other / "victim", b"victim")
    make_dir(other / "empty")
    os.setxattr(top / "file", "user.old", b"x")


def _open_create(d: Path) -> None:
    os.close(os.open(d / "top/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def _write(d: Path, flags: int = 0, text: bytes = b"x") -> None:
    with opened(d / "top/file", os.O_WRONLY | flags) as fd:
        os.write(fd, text)


def _read(d: Path) -> None:
    with opened(d / "top/file") as fd:
        os.read(fd, 10)


def _ftruncate(d: Path) -> None:
    with opened(d / "top/file", os.O_WRONLY) as fd:
        os.ftruncate(fd, 2)


def _fsync(d: Path) -> None:
    with opened(d / "top/file", os.O_RDWR) as fd:
        os.fsync(fd)


class Rule(NamedTuple):
    """An operation and the times that it must move on; every other one it must not."""

    name: str
    operation: Operation
    moves: dict[str, str]


RULES = [
    Rule("stat", lambda d: os.stat(d / "top/file"), {}),
    Rule("open", lambda d: os.close(os.open(d / "top/file", os.O_RDWR)), {}),
    Rule("read", _read, {}),
    Rule("fsync", _fsync, {}),
    Rule("listdir", lambda d: os.listdir(d / "top"), {}),
    Rule("readlink", lambda d: os.readlink(d / "top/link"), {}),
    Rule("access", lambda d: os.access(d / "top/file", os.W_OK), {}),
    Rule("getxattr", lambda d: os.getxattr(d / "top/file", "user.old"), {}),
    Rule("statvfs", lambda d: os.statvfs(d / "top/file"), {}),
    Rule("create", _open_create, {"top": "mc"}),
    Rule("create-existing", lambda d: os.close(os.open(d / "top/file", os.O_CREAT)), {}),
    Rule("mkdir", lambda d: os.mkdir(d / "top/new"), {"top": "mc"}),
    Rule("mkfifo", lambda d: os.mkfifo(d / "top/new"), {"top": "mc"}),
    Rule("symlink", lambda d: os.symlink("x", d / "top/new"), {"top": "mc"}),
    Rule(
        "link", lambda d: os.link(d / "top/file", d / "other/new"), {"other": "mc", "top/file": "c"}
    ),
    Rule("unlink", lambda d: os.unlink(d / "top/file"), {"top": "mc", "top/file": "c"}),
    Rule("unlink-twin", lambda d: os.unlink(d / "other/twin"), {"other": "mc", "top/twin": "c"}),
    Rule("unlink-symlink", lambda d: os.unlink(d / "top/link"), {"top": "mc", "top/link": "c"}),
    Rule("rmdir", lambda d: os.rmdir(d / "top/dir"), {"top": "mc", "top/dir": "c"}),
    Rule(
        "rename-within",
        lambda d: os.rename(d / "top/file", d / "top/new"),
        {"top": "mc", "top/file": "c"},
    ),
    Rule(
        "rename-across",
        lambda d: os.rename(d / "top/file", d / "other/new"),
        {"top": "mc", "other": "mc", "top/file": "c"},
    ),
    Rule(
        "rename-over",
        lambda d: os.rename(d / "top/file", d / "other/victim"),
        {"top": "mc", "other": "mc", "top/file": "c", "other/victim": "c"},
    ),
    Rule("rename-onto-own-twin", lambda d: os.rename(d / "top/twin", d / "other/twin"), {}),
    Rule("write", _write, {"top/file": "mc"}),
    Rule("append", lambda d: _write(d, os.O_APPEND), {"top/file": "mc"}),
    Rule("overwrite-with-the-same", lambda d: _write(d, 0, b"data"), {"top/file": "mc"}),
    Rule("write-nothing", lambda d: _write(d, 0, b""), {}),
    Rule("open-truncating", lambda d: _write(d, os.O_TRUNC, b""), {"top/file": "mc"}),
    Rule("truncate-shorter", lambda d: os.truncate(d / "top/file", 1), {"top/file": "mc"}),
    Rule("truncate-longer", lambda d: os.truncate(d / "top/file", 100), {"top/file": "mc"}),
    Rule("ftruncate", _ftruncate, {"top/file": "mc"}),
    Rule("chmod", lambda d: os.chmod(d / "top/file", 0o600), {"top/file": "c"}),
    Rule("chmod-same", lambda d: os.chmod(d / "top/file", 0o644), {"top/file": "c"}),
    Rule("chmod-directory", lambda d: os.chmod(d / "top/dir", 0o700), {"top/dir": "c"}),
    Rule("chown", lambda d: os.chown(d / "top/file", 1, 1), {"top/file": "c"}),
    Rule("lchown", lambda d: os.lchown(d / "top/link", 1, 1), {"top/link": "c"}),
    Rule("set-atime", lambda d: utimens(d / "top/file", 5, UTIME_OMIT, sec=9), {"top/file": "c"}),
    Rule(
        "set-mtime-now",
        lambda d: utimens(d / "top/file", UTIME_OMIT, UTIME_NOW),
        {"top/file": "mc"},
    ),
    Rule("setxattr", lambda d: os.setxattr(d / "top/file", "user.new", b"x"), {"top/file": "c"}),
    Rule("removexattr", lambda d: os.removexattr(d / "top/file", "user.old"), {"top/file": "c"}),
]


@contextlib.contextmanager
def _watched(target: Path) -> Iterator[dict[str, int]]:
    """Open every watched node; O_PATH, so that opening itself does nothing to it."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(opened(target / name, os.O_PATH | os.O_NOFOLLOW))
            for name in WATCHED
        }


def _times(descriptors: dict[str, int]) -> dict[str, tuple[int, int]]:
    stats = {name: os.fstat(fd) for name, fd in descriptors.items()}
    return {name: (found.st_mtime_ns, found.st_ctime_ns) for name, found in stats.items()}


def _moved(before: tuple[int, int], after: tuple[int, int]) -> str:
    """Return the letters of the times that differ; a time that went back is written `<`."""
    letters = ""
    for letter, old, new in zip("mc", before, after, strict=True):
        if new != old:
            letters += letter if new > old else f"{letter}<"
    return letters


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_operation_moves_these_times_and_no_others(target: Path, rule: Rule) -> None:
    """[time-2]."""
    _build(target)
    with _watched(target) as descriptors:
        before = _times(descriptors)
        tick()
        rule.operation(target)
        after = _times(descriptors)
    moved = {name: letters for name in WATCHED if (letters := _moved(before[name], after[name]))}
    assert moved == rule.moves


FAILURES: dict[str, Operation] = {
    "mkdir": lambda d: os.mkdir(d / "top/dir"),
    "rmdir": lambda d: os.rmdir(d / "other"),
    "unlink": lambda d: os.unlink(d / "top/dir"),
    "create": lambda d: os.open(d / "top/file", os.O_CREAT | os.O_EXCL),
    "link": lambda d: os.link(d / "top/file", d / "other/victim"),
    "rename": lambda d: os.rename(d / "top/file", d / "top/dir"),
    "truncate": lambda d: os.truncate(d / "top/dir", 0),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failed_operation_moves_nothing(target: Path, name: str) -> None:
    """[time-2], [unlink-2]."""
    _build(target)
    with _watched(target) as descriptors:
        before = _times(descriptors)
        tick()
        with pytest.raises(OSError):  # noqa: PT011 - which errno is another test's business
            FAILURES[name](target)
        assert _times(descriptors) == before


def test_new_node_is_born_now(target: Path) -> None:
    _build(target)
    for name in ("top/file", "top/dir", "top/link"):
        found = os.lstat(target / name)
        for born in (found.st_mtime_ns, found.st_ctime_ns, found.st_atime_ns):
            assert abs(born / 10**9 - time.time()) < CLOCK_SLACK_S


def test_times_of_a_file_written_in_steps_move_with_each(target: Path) -> None:
    with opened(target / "f", os.O_CREAT | os.O_WRONLY) as fd:
        seen = []
        for _ in range(5):
            tick()
            os.write(fd, b"x")
            seen.append(os.fstat(fd).st_mtime_ns)
        assert seen == sorted(set(seen))
    assert (target / "f").stat().st_mtime_ns == seen[-1]


def test_times_are_steady_when_nothing_happens(target: Path) -> None:
    """What `make` lives on: a closed file keeps its times, whoever looks at it, however often."""
    path = target / "f"
    with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x" * 100_000)
    first = path.stat()
    time.sleep(0.05)
    with opened(path) as fd:
        os.fsync(fd)
        assert os.fstat(fd).st_mtime_ns == first.st_mtime_ns
    assert path.stat().st_mtime_ns == first.st_mtime_ns
    assert path.stat().st_ctime_ns == first.st_ctime_ns


def test_missing_name_moves_nothing(target: Path) -> None:
    before = target.stat()
    tick()
    with fails(2):
        os.unlink(target / "missing")
    assert target.stat() == before
