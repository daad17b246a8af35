"""chown(2): root gives away, an owner may choose among the own groups, nobody else anything."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.posix.actors import MEMBER, OWNER, STRANGER, SUPPLEMENTARY, User, as_user
from tests.posix.nodes import KINDS, fails, make, make_file, make_symlink, opened, tick

SECOND_GROUP = 30009
IN_TWO_GROUPS = User(OWNER.uid, OWNER.gid, (SECOND_GROUP,))
LARGEST_ID = 2**31 - 2


def _owner_of(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_uid, found.st_gid


@pytest.mark.parametrize("kind", KINDS)
def test_root_gives_every_kind_away(target: Path, kind: str) -> None:
    make(kind, target / "it")
    os.lchown(target / "it", OWNER.uid, STRANGER.gid)
    assert _owner_of(target / "it") == (OWNER.uid, STRANGER.gid)
    os.lchown(target / "it", -1, 5)
    assert _owner_of(target / "it") == (OWNER.uid, 5)
    os.lchown(target / "it", 6, -1)
    assert _owner_of(target / "it") == (6, 5)


@pytest.mark.parametrize("number", [1, 65534, 65536, LARGEST_ID])
def test_large_ids_are_kept(target: Path, number: int) -> None:
    make_file(target / "f")
    os.chown(target / "f", number, number)
    assert _owner_of(target / "f") == (number, number)


def test_chown_follows_a_link_and_lchown_does_not(target: Path) -> None:
    make_file(target / "f")
    make_symlink(target / "link", "f")
    os.chown(target / "link", OWNER.uid, OWNER.gid)
    assert _owner_of(target / "f") == (OWNER.uid, OWNER.gid)
    assert _owner_of(target / "link") == (0, 0)
    os.lchown(target / "link", STRANGER.uid, STRANGER.gid)
    assert _owner_of(target / "f") == (OWNER.uid, OWNER.gid)
    assert _owner_of(target / "link") == (STRANGER.uid, STRANGER.gid)


def test_descriptor_is_as_good_as_a_name(target: Path) -> None:
    make_file(target / "f")
    with opened(target / "f") as fd:
        os.fchown(fd, OWNER.uid, OWNER.gid)
        assert os.fstat(fd).st_uid == OWNER.uid
    assert _owner_of(target / "f") == (OWNER.uid, OWNER.gid)


def test_owner_chooses_among_own_groups(target: Path) -> None:
    path = make_file(target / "f", owner=OWNER)
    as_user(IN_TWO_GROUPS, lambda: os.chown(path, -1, SECOND_GROUP))
    assert _owner_of(path) == (OWNER.uid, SECOND_GROUP)
    as_user(IN_TWO_GROUPS, lambda: os.chown(path, OWNER.uid, OWNER.gid))
    assert _owner_of(path) == (OWNER.uid, OWNER.gid)


@pytest.mark.parametrize(
    ("uid", "gid"),
    [(STRANGER.uid, -1), (STRANGER.uid, OWNER.gid), (-1, STRANGER.gid), (-1, 0), (0, 0)],
)
def test_owner_cannot_give_away(target: Path, uid: int, gid: int) -> None:
    path = make_file(target / "f", owner=OWNER)
    with fails(errno.EPERM):
        as_user(OWNER, lambda: os.chown(path, uid, gid))
    assert _owner_of(path) == (OWNER.uid, OWNER.gid)


@pytest.mark.parametrize(
    "user", [MEMBER, SUPPLEMENTARY, STRANGER], ids=["member", "supplementary", "stranger"]
)
def test_others_cannot_take_or_change(target: Path, user: User) -> None:
    path = make_file(target / "f", mode=0o777, owner=OWNER)
    before = path.stat().st_ctime_ns
    tick()
    for uid, gid in ((user.uid, -1), (-1, user.gid), (-1, OWNER.gid), (OWNER.uid, -1)):
        with fails(errno.EPERM):
            as_user(user, lambda uid=uid, gid=gid: os.chown(path, uid, gid))
    assert _owner_of(path) == (OWNER.uid, OWNER.gid)
    assert path.stat().st_ctime_ns == before


def test_owner_may_say_what_is_already_so(target: Path) -> None:
    path = make_file(target / "f", owner=OWNER)
    as_user(OWNER, lambda: os.chown(path, OWNER.uid, OWNER.gid))
    assert _owner_of(path) == (OWNER.uid, OWNER.gid)


def test_new_owner_has_the_rights_at_once_and_the_old_one_has_lost_them(target: Path) -> None:
    path = make_file(target / "f", b"secret", mode=0o600, owner=OWNER)
    assert as_user(OWNER, path.read_bytes) == b"secret"
    os.chown(path, STRANGER.uid, STRANGER.gid)
    assert as_user(STRANGER, path.read_bytes) == b"secret"
    with fails(errno.EACCES):
        as_user(OWNER, path.read_bytes)
