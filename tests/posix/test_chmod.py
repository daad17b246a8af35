"""chmod(2), and what clears the set-user-ID and set-group-ID bits."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.actors import MEMBER, OWNER, STRANGER, SUPPLEMENTARY, User, as_user
from tests.posix.nodes import (
    KINDS,
    fails,
    kind_of,
    make,
    make_dir,
    make_file,
    make_symlink,
    mode_of,
    opened,
    tick,
)

SETTABLE = tuple(kind for kind in KINDS if kind != "symlink")
IN_TWO_GROUPS = User(OWNER.uid, OWNER.gid, (30009,))


@pytest.mark.parametrize("mode", [0, 0o111, 0o222, 0o444, 0o640, 0o755, 0o1777, 0o2755, 0o7777])
@pytest.mark.parametrize("kind", SETTABLE)
def test_root_sets_every_mode_on_every_kind(target: Path, kind: str, mode: int) -> None:
    make(kind, target / "it")
    os.chmod(target / "it", mode)
    assert mode_of(target / "it") == mode
    assert kind_of(target / "it") == kind


def test_link_is_followed(target: Path) -> None:
    make_file(target / "f")
    make_symlink(target / "link", "f")
    os.chmod(target / "link", 0o600)
    assert mode_of(target / "f") == 0o600
    assert mode_of(target / "link") == 0o777


def test_descriptor_is_as_good_as_a_name(target: Path) -> None:
    make_file(target / "f")
    with opened(target / "f") as fd:
        os.fchmod(fd, 0o4700)
    assert mode_of(target / "f") == 0o4700


@pytest.mark.parametrize(
    "user", [MEMBER, SUPPLEMENTARY, STRANGER], ids=["member", "supplementary", "stranger"]
)
def test_only_the_owner_may(target: Path, user: User) -> None:
    make_file(target / "f", mode=0o666, owner=OWNER)
    make_dir(target / "d", mode=0o770, owner=OWNER)
    tick()
    before = (target / "f").stat().st_ctime_ns
    for name in ("f", "d"):
        with fails(errno.EPERM):
            as_user(user, lambda name=name: os.chmod(target / name, 0o777))
    assert (target / "f").stat().st_ctime_ns == before
    as_user(OWNER, lambda: os.chmod(target / "f", 0o640))
    assert mode_of(target / "f") == 0o640


def test_only_the_owner_may_even_if_nothing_would_change(target: Path) -> None:
    make_file(target / "f", mode=0o666, owner=OWNER)
    with fails(errno.EPERM):
        as_user(STRANGER, lambda: os.chmod(target / "f", 0o666))


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_owner_outside_the_group_cannot_set_sgid(target: Path, kind: str) -> None:
    make(kind, target / "it")
    os.chown(target / "it", OWNER.uid, STRANGER.gid)
    as_user(OWNER, lambda: os.chmod(target / "it", 0o2755))
    assert mode_of(target / "it") == 0o755


def test_owner_in_the_group_sets_sgid(target: Path) -> None:
    make_file(target / "f", owner=OWNER)
    as_user(OWNER, lambda: os.chmod(target / "f", 0o2755))
    assert mode_of(target / "f") == 0o2755
    os.chown(target / "f", SUPPLEMENTARY.uid, OWNER.gid)
    os.chmod(target / "f", 0o755)
    as_user(SUPPLEMENTARY, lambda: os.chmod(target / "f", 0o2755))
    assert mode_of(target / "f") == 0o2755


def _write(path: Path) -> None:
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, b"x")


def _write_at(path: Path) -> None:
    with opened(path, os.O_WRONLY) as fd:
        os.pwrite(fd, b"x", 100)


def _append(path: Path) -> None:
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"x")


def _truncate(path: Path) -> None:
    os.truncate(path, 1)


def _extend(path: Path) -> None:
    os.truncate(path, 10_000)


def _ftruncate(path: Path) -> None:
    with opened(path, os.O_WRONLY) as fd:
        os.ftruncate(fd, 0)


def _open_truncating(path: Path) -> None:
    with opened(path, os.O_WRONLY | os.O_TRUNC):
        pass


CHANGES: list[Callable[[Path], None]] = [
    _write,
    _write_at,
    _append,
    _truncate,
    _extend,
    _ftruncate,
    _open_truncating,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize("user", [OWNER, STRANGER], ids=["owner", "stranger"])
def test_change_of_the_data_clears_suid_and_sgid(
    target: Path, user: User, change: Callable[[Path], None]
) -> None:
    """[perm-6]."""
    path = make_file(target / "f", b"program", mode=0o6777, owner=OWNER)
    as_user(user, lambda: change(path))
    assert mode_of(path) == 0o777


def test_reading_clears_nothing(target: Path) -> None:
    path = make_file(target / "f", b"program", mode=0o6777, owner=OWNER)
    as_user(STRANGER, path.read_bytes)
    assert mode_of(path) == 0o6777


def test_cleared_bits_are_seen_by_an_open_descriptor(target: Path) -> None:
    path = make_file(target / "f", b"program", mode=0o4777, owner=OWNER)
    with opened(path) as fd:
        as_user(STRANGER, lambda: _write(path))
        assert os.fstat(fd).st_mode & 0o7777 == 0o777


def test_change_of_group_by_the_owner_clears_suid_and_sgid(target: Path) -> None:
    path = make_file(target / "f", b"program", mode=0o6755, owner=OWNER)
    as_user(IN_TWO_GROUPS, lambda: os.chown(path, -1, 30009))
    assert mode_of(path) == 0o755


def test_change_of_owner_by_root_clears_suid_and_sgid_of_a_program(target: Path) -> None:
    path = make_file(target / "f", b"program", mode=0o6755, owner=OWNER)
    os.chown(path, STRANGER.uid, STRANGER.gid)
    assert mode_of(path) == 0o755


def test_directory_keeps_its_bits_when_its_owner_changes(target: Path) -> None:
    make_dir(target / "d", mode=0o3775, owner=OWNER)
    os.chown(target / "d", STRANGER.uid, STRANGER.gid)
    assert mode_of(target / "d") == 0o3775
