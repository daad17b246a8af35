"""Who may do what: every class of user against every combination of bits.

The class that fits best decides alone: an owner without the bit is refused even if everybody
else has it. So in each node the bits under test stand in one class, and their complement in the
other two.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.actors import (
    MEMBER,
    OWNER,
    ROOT,
    STRANGER,
    SUPPLEMENTARY,
    User,
    as_user,
    errno_of,
    name_of,
)
from tests.posix.nodes import fails, make_dir, make_file, make_symlink, opened

READ, WRITE, SEARCH = 4, 2, 1
ALL_BITS = range(8)

CLASSES: dict[str, tuple[User, int]] = {
    "owner": (OWNER, 6),
    "member": (MEMBER, 3),
    "supplementary": (SUPPLEMENTARY, 3),
    "other": (STRANGER, 0),
}
"""User and the shift of the class that decides for them."""

by_class = pytest.mark.parametrize("name", CLASSES)


def _mode(bits: int, shift: int) -> int:
    complement = 7 - bits
    others = sum(complement << place for place in (0, 3, 6) if place != shift)
    return others | bits << shift


def _outcomes(user: User, path_of: Callable[[int], Path], call: Callable[[Path], object]) -> str:
    """Return one line: how `call` fared, as `user`, on the nodes of all eight combinations."""
    codes = as_user(user, lambda: [errno_of(lambda n=n: call(path_of(n))) for n in ALL_BITS])
    return " ".join(name_of(code) for code in codes)


def _wanted(*needed: int) -> str:
    """Return the line that is right if every one of `needed` bits must be there."""
    return " ".join(
        "success" if all(bits & bit for bit in needed) else "EACCES" for bits in ALL_BITS
    )


def _open(flags: int) -> Callable[[Path], None]:
    def call(path: Path) -> None:
        os.close(os.open(path, flags))

    return call


def _execute(path: Path) -> None:
    """Try to run a file that is no program: refused with ENOEXEC once the rights suffice."""
    try:
        os.execv(path, [path])
    except OSError as exc:
        if exc.errno != errno.ENOEXEC:
            raise


FILE_CALLS: dict[str, tuple[Callable[[Path], object], int]] = {
    "read": (_open(os.O_RDONLY), READ),
    "write": (_open(os.O_WRONLY), WRITE),
    "read-write": (_open(os.O_RDWR), READ | WRITE),
    "append": (_open(os.O_WRONLY | os.O_APPEND), WRITE),
    "truncate": (lambda path: os.truncate(path, 1), WRITE),
    "execute": (_execute, SEARCH),
}


def _bits_of(needed: int) -> list[int]:
    return [bit for bit in (READ, WRITE, SEARCH) if needed & bit]


@by_class
@pytest.mark.parametrize("call", FILE_CALLS)
def test_files(target: Path, call: str, name: str) -> None:
    """[perm-1], [perm-3]: supplementary groups are among the users."""
    user, shift = CLASSES[name]
    for bits in ALL_BITS:
        make_file(target / f"{bits}", b"\0" * 8, mode=_mode(bits, shift), owner=OWNER)
    function, needed = FILE_CALLS[call]
    got = _outcomes(user, lambda bits: target / f"{bits}", function)
    assert got == _wanted(*_bits_of(needed))


@by_class
@pytest.mark.parametrize(
    ("asked", "needed"),
    [(os.R_OK, READ), (os.W_OK, WRITE), (os.X_OK, SEARCH), (os.R_OK | os.X_OK, READ | SEARCH)],
    ids=["read", "write", "execute", "read-execute"],
)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_access_tells_the_same(target: Path, kind: str, asked: int, needed: int, name: str) -> None:
    user, shift = CLASSES[name]
    build = make_file if kind == "file" else make_dir
    for bits in ALL_BITS:
        build(target / f"{bits}", mode=_mode(bits, shift), owner=OWNER)
    allowed = as_user(user, lambda: [os.access(target / f"{bits}", asked) for bits in ALL_BITS])
    assert allowed == [bits & needed == needed for bits in ALL_BITS]


DIRECTORY_CALLS: dict[str, tuple[Callable[[Path], object], int]] = {
    "list": (os.listdir, READ),
    "stat-below": (lambda d: os.stat(d / "f"), SEARCH),
    "stat-far-below": (lambda d: os.stat(d / "sub" / "g"), SEARCH),
    "read-below": (lambda d: os.close(os.open(d / "f", os.O_RDONLY)), SEARCH),
    "create": (lambda d: os.close(os.open(d / "new", os.O_CREAT | os.O_WRONLY)), WRITE | SEARCH),
    "mkdir": (lambda d: os.mkdir(d / "new"), WRITE | SEARCH),
    "symlink": (lambda d: os.symlink("x", d / "new"), WRITE | SEARCH),
    "mkfifo": (lambda d: os.mkfifo(d / "new"), WRITE | SEARCH),
    "link-into": (lambda d: os.link(d.parent / "shared", d / "new"), WRITE | SEARCH),
    "unlink": (lambda d: os.unlink(d / "f"), WRITE | SEARCH),
    "rmdir": (lambda d: os.rmdir(d / "empty"), WRITE | SEARCH),
    "rename-within": (lambda d: os.rename(d / "f", d / "g"), WRITE | SEARCH),
    "rename-out": (
        lambda d: os.rename(d / "f", d.parent / "open" / f"{d.name}"),
        WRITE | SEARCH,
    ),
    "chdir": (os.chdir, SEARCH),
    "statvfs-below": (lambda d: os.statvfs(d / "f"), SEARCH),
    "readlink-below": (lambda d: os.readlink(d / "link"), SEARCH),
}


def _fill(directory: Path) -> None:
    make_dir(directory)
    make_file(directory / "f")
    make_symlink(directory / "link")
    make_dir(directory / "empty")
    make_dir(directory / "sub")
    make_file(directory / "sub" / "g")


@by_class
@pytest.mark.parametrize("call", DIRECTORY_CALLS)
def test_directories(target: Path, call: str, name: str) -> None:
    """[perm-1], [perm-3]."""
    user, shift = CLASSES[name]
    make_dir(target / "open", mode=0o777)
    make_file(target / "shared", mode=0o666)
    for bits in ALL_BITS:
        _fill(target / f"{bits}")
        os.chown(target / f"{bits}", OWNER.uid, OWNER.gid)
        os.chmod(target / f"{bits}", _mode(bits, shift))
    function, needed = DIRECTORY_CALLS[call]
    got = _outcomes(user, lambda bits: target / f"{bits}", function)
    assert got == _wanted(*_bits_of(needed))


def test_root_needs_no_bits(target: Path) -> None:
    """[perm-4]."""
    _fill(target / "d")
    os.chmod(target / "d" / "f", 0)
    os.chmod(target / "d", 0)
    (target / "d" / "f").write_bytes(b"by root")
    assert (target / "d" / "f").read_bytes() == b"by root"
    assert "f" in os.listdir(target / "d")
    os.unlink(target / "d" / "f")


def test_root_executes_only_what_somebody_may_execute(target: Path) -> None:
    make_file(target / "none", mode=0o666)
    make_file(target / "one", mode=0o001)
    with fails(errno.EACCES):
        as_user(ROOT, lambda: _execute(target / "none"))
    as_user(ROOT, lambda: _execute(target / "one"))


def test_search_is_needed_all_the_way_down(target: Path) -> None:
    (target / "a" / "b" / "c").mkdir(parents=True)
    make_file(target / "a" / "b" / "c" / "f", b"x")
    deep = target / "a" / "b" / "c" / "f"
    assert as_user(STRANGER, deep.read_bytes) == b"x"
    os.chmod(target / "a" / "b", 0o766)
    with fails(errno.EACCES):
        as_user(STRANGER, deep.read_bytes)
    os.chmod(target / "a" / "b", 0o711)
    assert as_user(STRANGER, deep.read_bytes) == b"x"


def test_descriptor_of_a_directory_still_needs_search(target: Path) -> None:
    _fill(target / "d")
    os.chown(target / "d", OWNER.uid, OWNER.gid)

    def close_the_door() -> int:
        with opened(target / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
            os.chmod(target / "d", 0o600)
            return errno_of(lambda: os.stat("f", dir_fd=fd))

    assert as_user(OWNER, close_the_door) == errno.EACCES


def test_change_of_mode_counts_at_once(target: Path) -> None:
    path = make_file(target / "f", b"x", mode=0o600, owner=OWNER)
    for mode, expected in ((0o600, "EACCES"), (0o604, "success"), (0o600, "EACCES")):
        os.chmod(path, mode)
        got = as_user(STRANGER, lambda: errno_of(path.read_bytes))
        assert name_of(got) == expected
