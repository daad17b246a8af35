"""rename(2) and renameat2(2)."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from tests.posix.actors import OWNER, STRANGER, as_user, elsewhere, errno_of, spawn
from tests.posix.libc import RENAME_EXCHANGE, RENAME_NOREPLACE, rename2
from tests.posix.nodes import (
    KINDS,
    NON_DIRECTORIES,
    TYPE_BITS,
    fails,
    kind_of,
    make,
    make_dir,
    make_file,
    make_symlink,
    opened,
    refused,
)

REPLACED_LINKS = 120
FLAGS_REFUSED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_moves(target: Path, kind: str) -> None:
    make(kind, target / "old")
    make_dir(target / "d")
    before = os.lstat(target / "old")
    os.rename(target / "old", target / "d" / "new")
    after = os.lstat(target / "d" / "new")
    assert (after.st_ino, after.st_mode, after.st_nlink) == (
        before.st_ino,
        before.st_mode,
        before.st_nlink,
    )
    assert os.listdir(target) == ["d"]
    with fails(errno.ENOENT):
        os.lstat(target / "old")


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_every_kind_over_every_kind(target: Path, old: str, new: str) -> None:
    make(old, target / "old")
    make(new, target / "new")
    ino = os.lstat(target / "old").st_ino
    expected = 0
    if new == "directory" and old != "directory":
        expected = errno.EISDIR
    elif old == "directory" and new != "directory":
        expected = errno.ENOTDIR
    assert errno_of(lambda: os.rename(target / "old", target / "new")) == expected
    if expected:
        assert sorted(os.listdir(target)) == ["new", "old"]
        assert kind_of(target / "new") == new
    else:
        assert os.listdir(target) == ["new"]
        assert os.lstat(target / "new").st_ino == ino


@pytest.mark.parametrize("kind", NON_DIRECTORIES)
def test_over_another_link_of_the_same_inode_nothing_happens(target: Path, kind: str) -> None:
    """[rename-3]."""
    make(kind, target / "a")
    os.link(target / "a", target / "b", follow_symlinks=False)
    os.rename(target / "a", target / "b")
    assert sorted(os.listdir(target)) == ["a", "b"]
    assert os.lstat(target / "a").st_nlink == 2


@pytest.mark.parametrize("kind", KINDS)
def test_over_itself_nothing_happens(target: Path, kind: str) -> None:
    make(kind, target / "a")
    before = os.lstat(target / "a")
    os.rename(target / "a", target / "a")
    assert os.lstat(target / "a") == before


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("missing", "new", (errno.ENOENT,)),
        ("missing/f", "new", (errno.ENOENT,)),
        ("f", "missing/new", (errno.ENOENT,)),
        ("f/g", "new", (errno.ENOTDIR,)),
        ("f", "f/new", (errno.ENOTDIR,)),
        ("f/", "new", (errno.ENOTDIR,)),
        ("f", "new/", (errno.ENOTDIR,)),
        ("d/.", "new", (errno.EBUSY, errno.EINVAL)),
        ("d/..", "new", (errno.EBUSY, errno.EINVAL)),
        ("f", "d/.", (errno.EBUSY, errno.EINVAL)),
        ("d", "d/sub/new", (errno.EINVAL,)),
        ("d", "d/new", (errno.EINVAL,)),
        ("d/sub", "d", (errno.ENOTEMPTY, errno.EEXIST)),
    ],
)
def test_impossible_names(target: Path, old: str, new: str, expected: tuple[int, ...]) -> None:
    make_file(target / "f")
    (target / "d" / "sub").mkdir(parents=True)
    with fails(*expected):
        os.rename(f"{target}/{old}", f"{target}/{new}")
    assert sorted(os.listdir(target)) == ["d", "f"]
    assert os.listdir(target / "d") == ["sub"]


@pytest.mark.parametrize("kind", KINDS)
def test_over_a_directory_in_use(target: Path, kind: str) -> None:
    make_dir(target / "old")
    make_dir(target / "new")
    make(kind, target / "new" / "it")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(target / "old", target / "new")
    assert os.listdir(target / "new") == ["it"]
    assert (target / "old").is_dir()


def test_directory_moves_with_all_below_it(target: Path) -> None:
    (target / "p" / "d" / "sub").mkdir(parents=True)
    make_dir(target / "q")
    make_file(target / "p" / "d" / "sub" / "f", b"deep")
    os.rename(target / "p" / "d", target / "q" / "e")
    assert (target / "q" / "e" / "sub" / "f").read_bytes() == b"deep"
    assert os.listdir(target / "p") == []


def test_parent_of_a_moved_directory_is_its_new_one(target: Path) -> None:
    (target / "p" / "d").mkdir(parents=True)
    make_dir(target / "q")
    with opened(target / "p" / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rename(target / "p" / "d", target / "q" / "d")
        assert os.stat("..", dir_fd=fd).st_ino == (target / "q").stat().st_ino

    def where_after_a_move() -> str:
        os.chdir(target / "q" / "d")
        os.rename(target / "q" / "d", target / "d")
        return os.getcwd()

    assert elsewhere(where_after_a_move) == os.path.realpath(target / "d")


def test_directory_links_of_both_parents_move_with_it(target: Path) -> None:
    (target / "p" / "d").mkdir(parents=True)
    make_dir(target / "q")
    before = [(target / name).stat().st_nlink for name in "pq"]
    os.rename(target / "p" / "d", target / "q" / "d")
    after = [(target / name).stat().st_nlink for name in "pq"]
    # A file system may count the subdirectories of a directory or not: then both stay.
    assert after in ([before[0] - 1, before[1] + 1], before)
    os.rmdir(target / "q" / "d")
    emptied = [(target / name).stat().st_nlink for name in "pq"]
    assert emptied[0] == emptied[1]


@pytest.mark.parametrize("kind", NON_DIRECTORIES)
def test_replaced_inode_loses_a_link(target: Path, kind: str) -> None:
    make_file(target / "old")
    make(kind, target / "new")
    os.link(target / "new", target / "kept", follow_symlinks=False)
    os.rename(target / "old", target / "new")
    kept = os.lstat(target / "kept")
    assert kept.st_nlink == 1
    assert stat.S_IFMT(kept.st_mode) == TYPE_BITS[kind]


def test_other_link_of_a_replaced_file_is_never_missing(target: Path) -> None:
    for n in range(REPLACED_LINKS):
        make_file(target / "new")
        os.link(target / "new", target / f"kept-{n}")
        make_file(target / "old")
        os.rename(target / "old", target / "new")
        watched_until = time.monotonic() + 0.01
        while time.monotonic() < watched_until:
            assert (target / f"kept-{n}").exists()


def test_replaced_file_lives_while_it_is_open(target: Path) -> None:
    make_file(target / "new", b"victim")
    make_file(target / "old", b"victor")
    with opened(target / "new", os.O_RDWR) as fd:
        os.rename(target / "old", target / "new")
        assert os.fstat(fd).st_nlink == 0
        assert os.pread(fd, 10, 0) == b"victim"
        os.pwrite(fd, b"still writable", 0)
        assert os.pread(fd, 20, 0) == b"still writable"
    assert (target / "new").read_bytes() == b"victor"


def test_replaced_directory_is_dead_but_open(target: Path) -> None:
    make_dir(target / "old")
    make_file(target / "old" / "f")
    make_dir(target / "new")
    with opened(target / "new", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rename(target / "old", target / "new")
        assert os.listdir(fd) == []
        with fails(errno.ENOENT):
            os.mkdir("sub", dir_fd=fd)
    assert os.listdir(target / "new") == ["f"]


def test_open_file_stays_open_under_its_new_name(target: Path) -> None:
    make_file(target / "old", b"one")
    with opened(target / "old", os.O_RDWR | os.O_APPEND) as fd:
        os.rename(target / "old", target / "new")
        os.write(fd, b" two")
        assert os.fstat(fd).st_nlink == 1
    assert (target / "new").read_bytes() == b"one two"


def test_symlinks_are_moved_and_replaced_not_followed(target: Path) -> None:
    make_file(target / "f", b"kept")
    make_symlink(target / "link", "f")
    os.rename(target / "link", target / "moved")
    assert os.readlink(target / "moved") == "f"
    make_file(target / "g", b"new")
    os.rename(target / "g", target / "moved")
    assert kind_of(target / "moved") == "file"
    assert (target / "f").read_bytes() == b"kept"


def test_name_can_be_replaced_many_times(target: Path) -> None:
    for n in range(50):
        make_file(target / "tmp", b"%d" % n)
        os.rename(target / "tmp", target / "current")
        assert (target / "current").read_bytes() == b"%d" % n
    assert os.listdir(target) == ["current"]


def test_replacing_leaves_no_moment_without_the_name(target: Path) -> None:
    """[rename-1]."""
    make_file(target / "current", b"0")

    def replace() -> None:
        for n in range(100):
            make_file(target / "tmp", b"%d" % n)
            os.rename(target / "tmp", target / "current")

    with spawn(replace) as child:
        while not child.finished():
            assert (target / "current").read_bytes().isdigit()
        child.result()


@pytest.mark.parametrize("closed", ["old-parent", "new-parent"])
def test_write_permission_in_both_parents_decides(target: Path, closed: str) -> None:
    for name in ("old-parent", "new-parent"):
        make_dir(target / name, owner=STRANGER, mode=0o555 if name == closed else 0o755)
    make_file(target / "old-parent" / "f", owner=STRANGER)
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.rename(*_across(target)))
    assert os.listdir(target / "new-parent") == []


def test_directory_of_another_owner_moves_within_its_parent_only(target: Path) -> None:
    for name in ("old-parent", "new-parent"):
        make_dir(target / name, owner=STRANGER)
    make_dir(target / "old-parent" / "f", owner=OWNER)
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.rename(*_across(target)))
    as_user(
        STRANGER, lambda: os.rename(target / "old-parent" / "f", target / "old-parent" / "renamed")
    )
    assert os.listdir(target / "old-parent") == ["renamed"]


@pytest.mark.parametrize("kind", KINDS)
def test_noreplace_refuses_what_exists(target: Path, kind: str) -> None:
    """[rename-4]."""
    make_file(target / "old", b"old")
    make(kind, target / "new")
    with fails(errno.EEXIST, *FLAGS_REFUSED):
        rename2(target / "old", target / "new", RENAME_NOREPLACE)
    assert kind_of(target / "new") == kind
    assert (target / "old").read_bytes() == b"old"


def test_noreplace_moves_to_a_free_name(target: Path) -> None:
    make_file(target / "old")
    if not refused(
        lambda: rename2(target / "old", target / "new", RENAME_NOREPLACE), *FLAGS_REFUSED
    ):
        assert os.listdir(target) == ["new"]


def test_exchange_swaps_two_names(target: Path) -> None:
    """[rename-4]."""
    make_file(target / "f", b"file")
    make_dir(target / "d")
    make_file(target / "d" / "below")
    if not refused(lambda: rename2(target / "f", target / "d", RENAME_EXCHANGE), *FLAGS_REFUSED):
        assert (target / "d").read_bytes() == b"file"
        assert os.listdir(target / "f") == ["below"]
        with fails(errno.ENOENT):
            rename2(target / "f", target / "missing", RENAME_EXCHANGE)


def _across(target: Path) -> tuple[Path, Path]:
    return target / "old-parent" / "f", target / "new-parent" / "f"
