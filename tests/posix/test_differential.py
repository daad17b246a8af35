"""Random operations on names, on the target and on a local directory: the same must happen.

Links lead up by one level at most, so the root of the operations lies one level down.

Every operation must end with the same errno on both, and now and then, and at the end, the trees
must look the same. A failure prints the seed and the operations that led to it.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.posix.actors import errno_of, name_of
from tests.posix.nodes import kind_of, make_dir
from tests.posix.targets import fresh_directory

SEEDS = range(1, 6)
STEPS = 300
LOOK_EVERY = 50
HISTORY_SHOWN = 25
NAMES = ("a", "b", "c")
DEPTH = 3

Operation = Callable[[Path], object]


@pytest.fixture
def reference() -> Iterator[Path]:
    with fresh_directory() as path:
        yield path


class Player:
    """Draws operations; what it draws depends on nothing but its seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.count = 0

    def draw(self) -> tuple[str, Operation]:
        """Return an operation on a root directory, and how to write it down."""
        self.count += 1
        name, make = self.random.choice(list(OPERATIONS.items()))
        paths = [self._path() for _ in range(2)]
        number = self.count
        shown = f"{name} {paths[0]} {paths[1]}"
        return shown, lambda root: make(root / paths[0], root / paths[1], number)

    def _path(self) -> str:
        names = self.random.choices(NAMES, k=self.random.randint(1, DEPTH))
        return "/".join(names)


def _write(path: Path, number: int) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.write(fd, b"%d" % number)
    os.close(fd)


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


OPERATIONS: dict[str, Callable[[Path, Path, int], object]] = {
    "mkdir": lambda a, b, n: os.mkdir(a, 0o755),
    "mkdir-again": lambda a, b, n: os.mkdir(a, 0o711),
    "create": lambda a, b, n: _create(a),
    "write": lambda a, b, n: _write(a, n),
    "symlink": lambda a, b, n: os.symlink(b.name, a),
    "symlink-up": lambda a, b, n: os.symlink(f"../{b.name}", a),
    "link": lambda a, b, n: os.link(a, b, follow_symlinks=False),
    "unlink": lambda a, b, n: os.unlink(a),
    "rmdir": lambda a, b, n: os.rmdir(a),
    "rename": lambda a, b, n: os.rename(a, b),
    "rename-more": lambda a, b, n: os.rename(a, b),
    "chmod": lambda a, b, n: os.chmod(a, n & 0o777),
    "chown": lambda a, b, n: os.chown(a, n, n),
    "truncate": lambda a, b, n: os.truncate(a, n),
    "utime": lambda a, b, n: os.utime(a, ns=(n, n)),
    "setxattr": lambda a, b, n: os.setxattr(a, "user.n", b"%d" % n),
    "readlink": lambda a, b, n: os.readlink(a),
    "listdir": lambda a, b, n: os.listdir(a),
}


def _look(root: Path) -> dict[str, tuple[object, ...]]:
    """Return everything about a tree that must be the same on every file system."""
    found = {}
    for top, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(top) / name
            found[str(path.relative_to(root))] = _describe(path)
    return found


def _describe(path: Path) -> tuple[object, ...]:
    stats = os.lstat(path)
    kind = kind_of(path)
    common = (kind, stat.S_IMODE(stats.st_mode), stats.st_uid, stats.st_gid)
    if kind == "symlink":
        return (*common, stats.st_nlink, os.readlink(path))
    if kind == "directory":
        return (*common, sorted(os.listdir(path)), _attribute(path))
    return (*common, stats.st_nlink, path.read_bytes(), _attribute(path))


def _attribute(path: Path) -> bytes | None:
    return os.getxattr(path, "user.n") if "user.n" in os.listxattr(path) else None


@pytest.mark.parametrize("seed", SEEDS)
def test_same_operations_same_results(target: Path, reference: Path, seed: int) -> None:
    roots = make_dir(target / "root"), make_dir(reference / "root")
    player = Player(seed)
    history: list[str] = []
    for step in range(1, STEPS + 1):
        shown, operation = player.draw()
        wanted = name_of(errno_of(lambda op=operation: op(roots[1])))
        history.append(f"{shown}: {wanted}")
        recent = "\n".join(history[-HISTORY_SHOWN:])
        got = name_of(errno_of(lambda op=operation: op(roots[0])))
        assert got == wanted, f"{got} after\n{recent}"
        if step % LOOK_EVERY == 0:
            assert _look(target) == _look(reference), recent
