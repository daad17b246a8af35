"""Sticky directories: who may take a name away.

In a directory that all may write to, with the sticky bit, an entry may be removed, renamed or
replaced by its owner, by the directory's owner, and by root; anybody else gets EPERM.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.actors import ROOT, User, as_user, errno_of, name_of
from tests.posix.nodes import make_dir, make_file, make_symlink, tick

DIRECTORY_OWNER = User(30011, 30010)
FILE_OWNER = User(30012, 30010)
SAME_GROUP = User(30013, 30010)
STRANGER = User(30014, 30014)

ACTORS = {
    "root": (ROOT, 0),
    "directory-owner": (DIRECTORY_OWNER, 0),
    "file-owner": (FILE_OWNER, 0),
    "same-group": (SAME_GROUP, errno.EPERM),
    "stranger": (STRANGER, errno.EPERM),
}


def _unlink_file(d: Path) -> None:
    os.unlink(d / "file")


def _unlink_symlink(d: Path) -> None:
    os.unlink(d / "symlink")


def _remove_directory(d: Path) -> None:
    os.rmdir(d / "directory")


def _rename_within(d: Path) -> None:
    os.rename(d / "file", d / "new-name")


def _rename_out(d: Path) -> None:
    os.rename(d / "file", d.parent / "plain" / "file")


def _rename_directory_within(d: Path) -> None:
    os.rename(d / "directory", d / "new-name")


def _replace_from_outside(d: Path) -> None:
    os.rename(d.parent / "plain" / "actors-file", d / "file")


def _replace_directory_from_outside(d: Path) -> None:
    os.rename(d.parent / "plain" / "actors-directory", d / "directory")


OPERATIONS: list[Callable[[Path], None]] = [
    _unlink_file,
    _unlink_symlink,
    _remove_directory,
    _rename_within,
    _rename_out,
    _rename_directory_within,
    _replace_from_outside,
    _replace_directory_from_outside,
]


def _build(target: Path, actor: User, sticky_mode: int) -> Path:
    """Build a sticky directory with entries of FILE_OWNER, beside a plain one with the actor's."""
    d = make_dir(target / "sticky")
    make_file(d / "file", owner=FILE_OWNER, mode=0o666)
    make_dir(d / "directory", owner=FILE_OWNER, mode=0o777)
    make_symlink(d / "symlink")
    os.lchown(d / "symlink", FILE_OWNER.uid, FILE_OWNER.gid)
    os.chown(d, DIRECTORY_OWNER.uid, DIRECTORY_OWNER.gid)
    d.chmod(sticky_mode)
    plain = make_dir(target / "plain", mode=0o777)
    make_file(plain / "actors-file", owner=actor)
    make_dir(plain / "actors-directory", owner=actor)
    return d


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op.__name__.strip("_"))
@pytest.mark.parametrize("name", ACTORS)
def test_who_may_take_a_name_away(
    target: Path, name: str, operation: Callable[[Path], None]
) -> None:
    """[perm-2]."""
    actor, expected = ACTORS[name]
    d = _build(target, actor, 0o1777)
    got = as_user(actor, lambda: errno_of(lambda: operation(d)))
    assert name_of(got) == name_of(expected)
    if expected:
        assert sorted(os.listdir(d)) == ["directory", "file", "symlink"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op.__name__.strip("_"))
def test_without_the_bit_everybody_may(target: Path, operation: Callable[[Path], None]) -> None:
    d = _build(target, STRANGER, 0o777)
    as_user(STRANGER, lambda: operation(d))


def test_without_write_permission_the_bit_gives_nothing(target: Path) -> None:
    d = _build(target, FILE_OWNER, 0o1755)
    got = as_user(FILE_OWNER, lambda: errno_of(lambda: _unlink_file(d)))
    assert name_of(got) == "EACCES"


def test_everybody_may_create_and_remove_their_own(target: Path) -> None:
    d = _build(target, STRANGER, 0o1777)

    def come_and_go() -> None:
        make_file(d / "mine")
        os.link(d / "mine", d / "mine-too")
        os.rename(d / "mine", d / "mine-too")
        os.unlink(d / "mine")
        os.rename(d / "mine-too", d / "gone")
        os.unlink(d / "gone")

    as_user(STRANGER, come_and_go)
    assert sorted(os.listdir(d)) == ["directory", "file", "symlink"]


def test_refused_removal_leaves_the_times_alone(target: Path) -> None:
    d = _build(target, STRANGER, 0o1777)
    before = d.stat().st_mtime_ns, (d / "file").stat().st_ctime_ns
    tick()
    assert as_user(STRANGER, lambda: errno_of(lambda: _unlink_file(d))) == errno.EPERM
    assert (d.stat().st_mtime_ns, (d / "file").stat().st_ctime_ns) == before
