"""link(2): several names, one inode."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.posix.actors import OWNER, STRANGER, as_user
from tests.posix.nodes import (
    KINDS,
    NON_DIRECTORIES,
    fails,
    make,
    make_dir,
    make_file,
    make_symlink,
    opened,
)

MANY_LINKS = 60


def _link(old: Path, new: Path) -> None:
    os.link(old, new, follow_symlinks=False)


@pytest.mark.parametrize("kind", NON_DIRECTORIES)
def test_both_names_are_the_same_inode(target: Path, kind: str) -> None:
    make(kind, target / "a")
    _link(target / "a", target / "b")
    a, b = os.lstat(target / "a"), os.lstat(target / "b")
    assert (a.st_ino, a.st_mode, a.st_nlink) == (b.st_ino, b.st_mode, 2)
    assert b.st_nlink == 2
    os.unlink(target / "a")
    assert os.lstat(target / "b").st_nlink == 1


def test_directory_is_refused(target: Path) -> None:
    make_dir(target / "d")
    with fails(errno.EPERM):
        _link(target / "d", target / "e")
    assert os.listdir(target) == ["d"]


@pytest.mark.parametrize("kind", KINDS)
def test_existing_name_is_refused(target: Path, kind: str) -> None:
    make_file(target / "f")
    make(kind, target / "it")
    with fails(errno.EEXIST):
        _link(target / "f", target / "it")
    assert (target / "f").stat().st_nlink == 1


def test_link_to_itself_is_refused(target: Path) -> None:
    make_file(target / "f")
    with fails(errno.EEXIST):
        _link(target / "f", target / "f")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("missing", "new", errno.ENOENT),
        ("missing/f", "new", errno.ENOENT),
        ("f/g", "new", errno.ENOTDIR),
        ("f/", "new", errno.ENOTDIR),
        ("f", "missing/new", errno.ENOENT),
        ("f", "f/new", errno.ENOTDIR),
        ("f", "new/", errno.ENOENT),
    ],
)
def test_impossible_names(target: Path, old: str, new: str, expected: int) -> None:
    make_file(target / "f")
    with fails(expected):
        os.link(f"{target}/{old}", f"{target}/{new}")
    assert os.listdir(target) == ["f"]


def test_data_and_attributes_are_shared(target: Path) -> None:
    make_file(target / "a", b"one")
    _link(target / "a", target / "b")
    (target / "b").write_bytes(b"two, longer")
    os.chmod(target / "b", 0o600)
    os.truncate(target / "a", 3)
    a, b = (target / "a").stat(), (target / "b").stat()
    assert (target / "a").read_bytes() == b"two"
    assert (a.st_mode, a.st_size, a.st_mtime_ns, a.st_ctime_ns) == (
        b.st_mode,
        b.st_size,
        b.st_mtime_ns,
        b.st_ctime_ns,
    )


def test_change_through_one_name_is_seen_through_a_descriptor_of_the_other(target: Path) -> None:
    make_file(target / "a", b"one")
    _link(target / "a", target / "b")
    with opened(target / "a") as fd:
        assert os.read(fd, 3) == b"one"
        with opened(target / "b", os.O_WRONLY | os.O_APPEND) as writer:
            os.write(writer, b" two")
        assert os.read(fd, 10) == b" two"
        assert os.fstat(fd).st_size == 7


def test_links_span_directories(target: Path) -> None:
    for name in ("p", "q"):
        make_dir(target / name)
    make_file(target / "p" / "f", b"x")
    _link(target / "p" / "f", target / "q" / "g")
    os.unlink(target / "p" / "f")
    os.rmdir(target / "p")
    assert (target / "q" / "g").read_bytes() == b"x"


def test_link_counts_up_and_down(target: Path) -> None:
    make_file(target / "f")
    for n in range(MANY_LINKS):
        _link(target / "f", target / f"{n}")
        assert (target / f"{n}").stat().st_nlink == n + 2
    for n in range(MANY_LINKS):
        os.unlink(target / f"{n}")
    assert (target / "f").stat().st_nlink == 1


def test_link_of_a_symlink_is_a_symlink(target: Path) -> None:
    make_file(target / "f")
    make_symlink(target / "link", "f")
    _link(target / "link", target / "copy")
    assert os.readlink(target / "copy") == "f"
    assert (target / "f").stat().st_nlink == 1


def test_write_permission_in_the_new_parent_decides(target: Path) -> None:
    make_file(target / "f", owner=STRANGER)
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: _link(target / "f", target / "g"))
    mine = make_dir(target / "d", owner=STRANGER)
    as_user(STRANGER, lambda: _link(target / "f", mine / "g"))
    assert (mine / "g").stat().st_nlink == 2


def test_search_permission_on_the_old_parent_is_needed(target: Path) -> None:
    closed = make_dir(target / "closed", mode=0o700, owner=OWNER)
    make_file(closed / "f", owner=STRANGER)
    mine = make_dir(target / "mine", owner=STRANGER)
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: _link(closed / "f", mine / "g"))


def test_open_file_that_lost_its_name_cannot_be_linked_by_its_old_one(target: Path) -> None:
    make_file(target / "f", b"x")
    with opened(target / "f"):
        os.unlink(target / "f")
        with fails(errno.ENOENT):
            _link(target / "f", target / "g")
