"""What a new node gets: umask, owner, group, and the set-group-ID bit of its directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.posix.actors import MEMBER, OWNER, STRANGER, SUPPLEMENTARY, User, as_user, elsewhere
from tests.posix.nodes import make_dir, make_file, mode_of

PROJECT = User(0, 30020)
IN_PROJECT = User(30021, 30021, (PROJECT.gid,))


def _create_all(directory: Path, umask: int, mode: int) -> None:
    """Create one node of each kind that takes a mode."""
    os.umask(umask)
    os.close(os.open(directory / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    os.mkdir(directory / "directory", mode)
    os.mkfifo(directory / "fifo", mode)
    os.mknod(directory / "node", mode)


NEW_NODES = ("file", "directory", "fifo", "node")


@pytest.mark.parametrize("umask", [0, 0o022, 0o027, 0o077, 0o111, 0o777])
@pytest.mark.parametrize("mode", [0o666, 0o777, 0o640])
def test_umask_takes_bits_away(target: Path, mode: int, umask: int) -> None:
    """[perm-7]."""
    elsewhere(lambda: _create_all(target, umask, mode))
    for name in NEW_NODES:
        assert mode_of(target / name) == mode & ~umask, name


def test_umask_is_that_of_the_process(target: Path) -> None:
    os.umask(0o077)
    make_dir(target / "theirs")
    elsewhere(lambda: _create_all(target / "theirs", 0, 0o666))
    os.umask(0o077)
    os.close(os.open(target / "mine", os.O_CREAT | os.O_WRONLY, 0o666))
    assert mode_of(target / "theirs" / "file") == 0o666
    assert mode_of(target / "mine") == 0o600


def test_umask_does_not_touch_chmod_or_existing_files(target: Path) -> None:
    make_file(target / "f", mode=0o666)
    os.umask(0o077)
    os.close(os.open(target / "f", os.O_CREAT | os.O_WRONLY, 0o666))
    assert mode_of(target / "f") == 0o666
    os.chmod(target / "f", 0o777)
    assert mode_of(target / "f") == 0o777


@pytest.mark.parametrize(
    "user", [OWNER, MEMBER, SUPPLEMENTARY, STRANGER], ids=["owner", "member", "suppl", "stranger"]
)
def test_owner_and_group_are_those_of_the_process(target: Path, user: User) -> None:
    target.chmod(0o777)
    os.chown(target, OWNER.uid, OWNER.gid)
    as_user(user, lambda: _create_all(target, 0o022, 0o666))
    for name in NEW_NODES:
        found = (target / name).stat()
        assert (found.st_uid, found.st_gid) == (user.uid, user.gid), name


@pytest.mark.parametrize("user", [IN_PROJECT, STRANGER], ids=["member", "stranger"])
def test_group_comes_from_a_setgid_directory(target: Path, user: User) -> None:
    shared = make_dir(target / "shared", mode=0o2777, owner=PROJECT)
    as_user(user, lambda: _create_all(shared, 0o022, 0o777))
    as_user(user, lambda: os.symlink("x", shared / "symlink"))
    for name in (*NEW_NODES, "symlink"):
        found = os.lstat(shared / name)
        assert (found.st_uid, found.st_gid) == (user.uid, PROJECT.gid), name


def test_setgid_is_inherited_by_directories_only(target: Path) -> None:
    shared = make_dir(target / "shared", mode=0o2777, owner=PROJECT)
    as_user(IN_PROJECT, lambda: _create_all(shared, 0o022, 0o777))
    assert mode_of(shared / "directory") == 0o2755
    for name in ("file", "fifo", "node"):
        assert mode_of(shared / name) == 0o755, name


def test_setgid_goes_all_the_way_down(target: Path) -> None:
    shared = make_dir(target / "shared", mode=0o2777, owner=PROJECT)
    as_user(IN_PROJECT, lambda: os.makedirs(shared / "a" / "b" / "c"))
    found = (shared / "a" / "b" / "c").stat()
    assert (found.st_mode & 0o2000, found.st_gid) == (0o2000, PROJECT.gid)


def test_stranger_cannot_create_a_setgid_program_of_the_directorys_group(target: Path) -> None:
    shared = make_dir(target / "shared", mode=0o2777, owner=PROJECT)

    def create() -> None:
        os.close(os.open(shared / "program", os.O_CREAT | os.O_WRONLY, 0o2755))

    as_user(STRANGER, create)
    assert mode_of(shared / "program") == 0o755


def test_member_of_the_group_may_create_a_setgid_program(target: Path) -> None:
    shared = make_dir(target / "shared", mode=0o2777, owner=PROJECT)

    def create() -> None:
        os.close(os.open(shared / "program", os.O_CREAT | os.O_WRONLY, 0o2755))

    as_user(IN_PROJECT, create)
    assert mode_of(shared / "program") == 0o2755


def test_suid_and_sticky_of_a_directory_are_not_inherited(target: Path) -> None:
    parent = make_dir(target / "parent", mode=0o5777)
    _create_all(parent, 0, 0o755)
    for name in NEW_NODES:
        assert mode_of(parent / name) == 0o755, name


def test_new_node_is_complete(target: Path) -> None:
    elsewhere(lambda: _create_all(target, 0, 0o644))
    for name in ("file", "fifo", "node"):
        found = os.lstat(target / name)
        assert (found.st_nlink, found.st_size) == (1, 0), name
        # Birth is one event, so the times may differ by no more than the clock's last step.
        assert abs(found.st_ctime_ns - found.st_mtime_ns) < 10**9, name
