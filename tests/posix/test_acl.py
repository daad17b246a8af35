"""POSIX access control lists: they either work, or are refused with EOPNOTSUPP throughout."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix import acl
from tests.posix.acl import Entry
from tests.posix.actors import MEMBER, OWNER, STRANGER, SUPPLEMENTARY, User, as_user, errno_of
from tests.posix.nodes import fails, make_dir, make_file, mode_of, tick

READ, WRITE, ALL = 4, 2, 7
NAMED = User(30030, 30030)
IN_NAMED_GROUP = User(30031, 30031, (30032,))
NAMED_USER = Entry(acl.USER, READ | WRITE, NAMED.uid)
NAMED_GROUP = Entry(acl.GROUP, READ, 30032)


@pytest.fixture
def lists(target: Path) -> Callable[[], bool]:
    """Return a question: do lists work here? Asking asserts that the answer is a clean one."""
    return lambda: not acl.unsupported(target)


def _may(user: User, path: Path) -> str:
    """Return which of reading and writing `user` may do with a file."""

    def try_both() -> str:
        flags = {"r": os.O_RDONLY, "w": os.O_WRONLY}
        return "".join(
            letter for letter, flag in flags.items() if not errno_of(lambda f=flag: _open(path, f))
        )

    return as_user(user, try_both)


def _open(path: Path, flags: int) -> None:
    os.close(os.open(path, flags))


def test_list_comes_back_as_it_went_in(target: Path, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f")
    if lists():
        wanted = acl.extended(0o640, NAMED_USER, NAMED_GROUP, mask=6)
        acl.write(path, wanted)
        assert sorted(acl.read(path)) == sorted(wanted)
        assert acl.ACCESS in os.listxattr(path)


def test_named_users_and_groups_have_what_the_list_gives(
    target: Path, lists: Callable[[], bool]
) -> None:
    """[perm-1]."""
    path = make_file(target / "f", mode=0o640, owner=OWNER)
    if lists():
        acl.write(path, acl.extended(0o640, NAMED_USER, NAMED_GROUP))
        users = (OWNER, MEMBER, SUPPLEMENTARY, NAMED, IN_NAMED_GROUP, STRANGER)
        assert [_may(user, path) for user in users] == ["rw", "r", "r", "rw", "r", ""]


def test_mask_limits_named_users_and_groups_but_not_owner_and_others(
    target: Path, lists: Callable[[], bool]
) -> None:
    path = make_file(target / "f", owner=OWNER)
    if lists():
        acl.write(path, acl.extended(0o666, NAMED_USER, NAMED_GROUP, mask=READ))
        users = (OWNER, MEMBER, NAMED, IN_NAMED_GROUP, STRANGER)
        assert [_may(user, path) for user in users] == ["rw", "r", "r", "r", "rw"]


def test_list_can_take_away_what_others_have(target: Path, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f", mode=0o666, owner=OWNER)
    if lists():
        acl.write(path, acl.extended(0o666, Entry(acl.USER, 0, NAMED.uid)))
        assert [_may(user, path) for user in (NAMED, STRANGER)] == ["", "rw"]


def test_group_bits_of_the_mode_are_the_mask(target: Path, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f", mode=0o600, owner=OWNER)
    if lists():
        acl.write(path, acl.extended(0o600, NAMED_USER, mask=6))
        assert mode_of(path) == 0o660
        os.chmod(path, 0o640)
        assert Entry(acl.MASK, READ) in acl.read(path)
        assert Entry(acl.GROUP_OBJ, 0) in acl.read(path)
        assert [_may(user, path) for user in (NAMED, MEMBER)] == ["r", ""]


def test_list_without_names_is_a_mode(target: Path, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f", mode=0o600)
    if lists():
        acl.write(path, acl.plain(0o754))
        assert mode_of(path) == 0o754
        with fails(errno.ENODATA):
            acl.read(path)


def test_removed_list_leaves_the_mode(target: Path, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f", owner=OWNER)
    if lists():
        acl.write(path, acl.extended(0o640, NAMED_USER, mask=ALL))
        os.removexattr(path, acl.ACCESS)
        assert acl.ACCESS not in os.listxattr(path)
        assert _may(NAMED, path) == ""


def test_only_the_owner_may_change_a_list(target: Path, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f", mode=0o666, owner=OWNER)
    if lists():
        with fails(errno.EPERM):
            as_user(STRANGER, lambda: acl.write(path, acl.extended(0o777, NAMED_USER)))
        as_user(OWNER, lambda: acl.write(path, acl.extended(0o640, NAMED_USER)))
        with fails(errno.EPERM):
            as_user(NAMED, lambda: os.removexattr(path, acl.ACCESS))
        assert _may(NAMED, path) == "rw"


def test_change_of_a_list_changes_ctime(target: Path, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f")
    if lists():
        before = path.stat()
        tick()
        acl.write(path, acl.extended(0o644, NAMED_USER))
        assert path.stat().st_ctime_ns > before.st_ctime_ns
        assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize(
    "value",
    [
        b"\x02",
        b"\x09\0\0\0" + acl.encode(acl.plain(0o644))[4:],
        acl.encode(acl.plain(0o644)[:2]),
        acl.encode([*acl.plain(0o644), NAMED_USER]),
        acl.encode([*acl.plain(0o644), Entry(0x40, 7)]),
    ],
    ids=["short", "version", "no-other", "no-mask", "unknown-tag"],
)
def test_nonsense_is_refused(target: Path, value: bytes, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f")
    if lists():
        with fails(errno.EINVAL, errno.EOPNOTSUPP):
            os.setxattr(path, acl.ACCESS, value)
        assert mode_of(path) == 0o644


def test_default_list_is_for_directories(target: Path, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f")
    if lists():
        with fails(errno.EACCES):
            acl.write(path, acl.plain(0o644), acl.DEFAULT)


def test_default_list_becomes_the_list_of_a_new_file(
    target: Path, lists: Callable[[], bool]
) -> None:
    parent = make_dir(target / "d", mode=0o777)
    if lists():
        acl.write(parent, acl.extended(0o770, NAMED_USER), acl.DEFAULT)
        os.umask(0o077)
        _open(parent / "f", os.O_CREAT | os.O_WRONLY | os.O_EXCL)
        # The umask, which leaves nothing to the group, plays no part.
        assert NAMED_USER in acl.read(parent / "f")
        assert _may(NAMED, parent / "f") == "rw"
        assert _may(STRANGER, parent / "f") == ""


def test_mode_asked_for_limits_the_inherited_list(target: Path, lists: Callable[[], bool]) -> None:
    """[perm-7]: and no umask does."""
    parent = make_dir(target / "d", mode=0o777)
    if lists():
        acl.write(parent, acl.extended(0o777, NAMED_USER), acl.DEFAULT)
        os.close(os.open(parent / "f", os.O_CREAT | os.O_WRONLY, 0o640))
        assert mode_of(parent / "f") == 0o640
        assert Entry(acl.MASK, READ) in acl.read(parent / "f")
        assert _may(NAMED, parent / "f") == "r"


def test_default_list_goes_all_the_way_down(target: Path, lists: Callable[[], bool]) -> None:
    parent = make_dir(target / "d", mode=0o777)
    if lists():
        wanted = acl.extended(0o775, NAMED_USER, NAMED_GROUP)
        acl.write(parent, wanted, acl.DEFAULT)
        os.makedirs(parent / "a" / "b")
        assert sorted(acl.read(parent / "a" / "b", acl.DEFAULT)) == sorted(wanted)
        assert NAMED_USER in acl.read(parent / "a" / "b")
        make_file(parent / "a" / "b" / "f")
        assert NAMED_USER in acl.read(parent / "a" / "b" / "f")


def test_default_list_gives_nothing_on_the_directory_itself(
    target: Path, lists: Callable[[], bool]
) -> None:
    parent = make_dir(target / "d", mode=0o700)
    if lists():
        acl.write(parent, acl.extended(0o700, Entry(acl.USER, ALL, NAMED.uid)), acl.DEFAULT)
        with fails(errno.EACCES):
            as_user(NAMED, lambda: os.listdir(parent))
        os.removexattr(parent, acl.DEFAULT)
        make_file(parent / "f")
        with fails(errno.ENODATA):
            acl.read(parent / "f")


def test_list_on_a_directory_lets_a_named_user_in(target: Path, lists: Callable[[], bool]) -> None:
    parent = make_dir(target / "d", mode=0o700)
    if lists():
        acl.write(parent, acl.extended(0o700, Entry(acl.USER, ALL, NAMED.uid)))
        as_user(NAMED, lambda: make_file(parent / "f"))
        assert as_user(NAMED, lambda: os.listdir(parent)) == ["f"]
        with fails(errno.EACCES):
            as_user(STRANGER, lambda: os.listdir(parent))


def test_list_follows_its_inode(target: Path, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f", mode=0o600)
    if lists():
        acl.write(path, acl.extended(0o600, NAMED_USER))
        os.link(path, target / "g")
        os.rename(path, target / "h")
        assert acl.read(target / "g") == acl.read(target / "h")
        assert _may(NAMED, target / "h") == "rw"


def test_tools_agree(target: Path, lists: Callable[[], bool]) -> None:
    path = make_file(target / "f", mode=0o640)
    if lists():
        subprocess.run(["setfacl", "-m", f"u:{NAMED.uid}:rw", path], check=True)
        shown = subprocess.run(
            ["getfacl", "-n", "-c", "-p", path], check=True, capture_output=True, text=True
        ).stdout
        assert f"user:{NAMED.uid}:rw-" in shown
        assert NAMED_USER in acl.read(path)
