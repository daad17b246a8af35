"""mkdir(2) and rmdir(2)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.posix.actors import OWNER, STRANGER, as_user, elsewhere, errno_of
from tests.posix.nodes import (
    KINDS,
    NON_DIRECTORIES,
    fails,
    make,
    make_dir,
    make_file,
    make_symlink,
    mode_of,
    opened,
)


@pytest.mark.parametrize("mode", [0, 0o500, 0o755, 0o777, 0o1777])
def test_mkdir_sets_the_mode(target: Path, mode: int) -> None:
    os.mkdir(target / "d", mode)
    assert mode_of(target / "d") == mode


@pytest.mark.parametrize("kind", KINDS)
def test_mkdir_refuses_what_exists(target: Path, kind: str) -> None:
    make(kind, target / "it")
    with fails(errno.EEXIST):
        os.mkdir(target / "it")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (".", errno.EEXIST),
        ("..", errno.EEXIST),
        ("dangling", errno.EEXIST),
        ("missing/d", errno.ENOENT),
        ("file/d", errno.ENOTDIR),
        ("dangling/d", errno.ENOENT),
    ],
)
def test_mkdir_of_impossible_names(target: Path, name: str, expected: int) -> None:
    make_file(target / "file")
    make_symlink(target / "dangling")
    with fails(expected):
        os.mkdir(f"{target}/{name}")


def test_mkdir_takes_a_trailing_slash(target: Path) -> None:
    os.mkdir(f"{target}/d/")
    assert (target / "d").is_dir()


def test_new_directory_belongs_to_its_maker_and_is_empty(target: Path) -> None:
    target.chmod(0o777)
    as_user(STRANGER, lambda: os.mkdir(target / "d", 0o700))
    found = (target / "d").stat()
    assert (found.st_uid, found.st_gid) == (STRANGER.uid, STRANGER.gid)
    assert os.listdir(target / "d") == []
    assert (target / "d" / "..").stat().st_ino == target.stat().st_ino


@pytest.mark.parametrize("kind", KINDS)
def test_rmdir_refuses_a_directory_in_use(target: Path, kind: str) -> None:
    """[rmdir-1]."""
    make_dir(target / "d")
    make(kind, target / "d" / "it")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(target / "d")
    assert os.listdir(target / "d") == ["it"]


@pytest.mark.parametrize("kind", NON_DIRECTORIES)
def test_rmdir_refuses_everything_else(target: Path, kind: str) -> None:
    make(kind, target / "it")
    with fails(errno.ENOTDIR):
        os.rmdir(target / "it")
    assert os.listdir(target) == ["it"]


def test_rmdir_does_not_follow_a_link(target: Path) -> None:
    make_dir(target / "d")
    make_symlink(target / "link", "d")
    for name in ("link", "link/"):
        with fails(errno.ENOTDIR):
            os.rmdir(f"{target}/{name}")
    assert (target / "d").is_dir()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("d/.", (errno.EINVAL,)),
        ("d/sub/..", (errno.ENOTEMPTY, errno.EEXIST)),
        ("missing", (errno.ENOENT,)),
        ("missing/d", (errno.ENOENT,)),
    ],
)
def test_rmdir_of_impossible_names(target: Path, name: str, expected: tuple[int, ...]) -> None:
    (target / "d" / "sub").mkdir(parents=True)
    with fails(*expected):
        os.rmdir(f"{target}/{name}")


def test_rmdir_takes_a_trailing_slash(target: Path) -> None:
    make_dir(target / "d")
    os.rmdir(f"{target}/d/")
    assert os.listdir(target) == []


def test_name_is_free_again_at_once(target: Path) -> None:
    for _ in range(20):
        make_dir(target / "d")
        make_file(target / "d" / "f")
        os.unlink(target / "d" / "f")
        os.rmdir(target / "d")
    make_file(target / "d")
    assert (target / "d").is_file()


def test_making_and_removing_need_write_permission_in_the_parent(target: Path) -> None:
    make_dir(target / "d", owner=STRANGER)
    for call in (lambda: os.rmdir(target / "d"), lambda: os.mkdir(target / "new")):
        with fails(errno.EACCES):
            as_user(STRANGER, call)


def test_owner_of_the_parent_removes_what_others_made(target: Path) -> None:
    parent = make_dir(target / "p", owner=OWNER)
    make_dir(parent / "d", mode=0, owner=STRANGER)
    as_user(OWNER, lambda: os.rmdir(parent / "d"))
    assert os.listdir(parent) == []


def test_removed_directory_takes_no_new_names(target: Path) -> None:
    make_dir(target / "d")

    def use_it_from_inside() -> list[int]:
        os.chdir(target / "d")
        os.rmdir(target / "d")
        return [
            errno_of(lambda: os.open("f", os.O_CREAT | os.O_WRONLY)),
            errno_of(lambda: os.mkdir("sub")),
            errno_of(lambda: os.symlink("to", "link")),
            errno_of(os.getcwd),
        ]

    assert elsewhere(use_it_from_inside) == [errno.ENOENT] * 4


def test_open_directory_outlives_its_name(target: Path) -> None:
    make_dir(target / "d")
    with opened(target / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rmdir(target / "d")
        assert os.listdir(fd) == []
        assert os.fstat(fd).st_nlink == 0
    with fails(errno.ENOENT):
        os.stat(target / "d")
