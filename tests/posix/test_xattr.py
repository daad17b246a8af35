"""setxattr(2), getxattr(2), listxattr(2), removexattr(2)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.posix.actors import OWNER, STRANGER, as_user
from tests.posix.libc import getxattr_size, listxattr_size
from tests.posix.nodes import (
    fails,
    make,
    make_dir,
    make_file,
    make_symlink,
    opened,
    refused,
)

VALUES = {
    "empty": b"",
    "text": b"value",
    "binary": bytes(range(256)),
    "page": b"p" * 3000,
}
XATTR_SIZE_MAX = 65_536
XATTR_NAME_MAX = 255

on_files_and_directories = pytest.mark.parametrize("kind", ["file", "directory"])


def _user_attributes(path: Path) -> list[str]:
    """Return the names that programs made; a file system may show some of its own."""
    return sorted(name for name in os.listxattr(path) if name.startswith("user."))


@on_files_and_directories
@pytest.mark.parametrize("value", VALUES)
def test_value_comes_back_as_it_went_in(target: Path, value: str, kind: str) -> None:
    """[xattr-1]."""
    path = make(kind, target / "it")
    os.setxattr(path, "user.it", VALUES[value])
    assert os.getxattr(path, "user.it") == VALUES[value]
    assert _user_attributes(path) == ["user.it"]


@on_files_and_directories
def test_list_grows_and_shrinks(target: Path, kind: str) -> None:
    path = make(kind, target / "it")
    names = [f"user.name-{n:02d}" for n in range(20)]
    for name in names:
        os.setxattr(path, name, name.encode())
    assert _user_attributes(path) == names
    for name in names[::2]:
        os.removexattr(path, name)
    assert _user_attributes(path) == names[1::2]
    assert os.getxattr(path, names[1]) == names[1].encode()


def test_new_value_replaces_the_old_one(target: Path) -> None:
    path = make_file(target / "f")
    for value in (b"long value" * 50, b"short", b"", b"again"):
        os.setxattr(path, "user.it", value)
        assert os.getxattr(path, "user.it") == value


def test_create_and_replace_flags(target: Path) -> None:
    path = make_file(target / "f")
    with fails(errno.ENODATA):
        os.setxattr(path, "user.it", b"1", os.XATTR_REPLACE)
    os.setxattr(path, "user.it", b"2", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(path, "user.it", b"3", os.XATTR_CREATE)
    assert os.getxattr(path, "user.it") == b"2"
    os.setxattr(path, "user.it", b"4", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.it") == b"4"


def test_missing_attribute(target: Path) -> None:
    path = make_file(target / "f")
    for call in (os.getxattr, os.removexattr):
        with fails(errno.ENODATA):
            call(path, "user.missing")
    os.setxattr(path, "user.it", b"x")
    os.removexattr(path, "user.it")
    with fails(errno.ENODATA):
        os.removexattr(path, "user.it")


def test_missing_file(target: Path) -> None:
    for call in (
        lambda path: os.getxattr(path, "user.it"),
        lambda path: os.setxattr(path, "user.it", b""),
        lambda path: os.removexattr(path, "user.it"),
        os.listxattr,
    ):
        with fails(errno.ENOENT):
            call(target / "missing")


def test_buffer_sizes(target: Path) -> None:
    path = make_file(target / "f")
    os.setxattr(path, "user.it", b"0123456789")
    assert getxattr_size(path, "user.it", 0) == 10
    assert getxattr_size(path, "user.it", 10) == 10
    assert getxattr_size(path, "user.it", 100) == 10
    with fails(errno.ERANGE):
        getxattr_size(path, "user.it", 9)
    needed = listxattr_size(path, 0)
    assert needed >= len(b"user.it\0")
    assert listxattr_size(path, needed) == needed
    with fails(errno.ERANGE):
        listxattr_size(path, needed - 1)


def test_longest_name(target: Path) -> None:
    path = make_file(target / "f")
    longest = "user." + "n" * (XATTR_NAME_MAX - len("user."))
    os.setxattr(path, longest, b"x")
    assert os.getxattr(path, longest) == b"x"
    with fails(errno.ERANGE):
        os.setxattr(path, longest + "n", b"x")


def test_largest_value(target: Path) -> None:
    path = make_file(target / "f")
    value = b"v" * XATTR_SIZE_MAX
    # Many file systems hold less; then they say so and keep what was there.
    if not refused(
        lambda: os.setxattr(path, "user.it", value), errno.ENOSPC, errno.E2BIG, errno.ERANGE
    ):
        assert os.getxattr(path, "user.it") == value
    with fails(errno.E2BIG):
        os.setxattr(path, "user.more", value + b"v")
    assert "user.more" not in os.listxattr(path)


@pytest.mark.parametrize("name", ["nonsense.it", "plain", "user."])
def test_unknown_namespace_is_refused(target: Path, name: str) -> None:
    path = make_file(target / "f")
    with fails(errno.EOPNOTSUPP, errno.EINVAL):
        os.setxattr(path, name, b"x")
    assert _user_attributes(path) == []


@pytest.mark.parametrize("kind", ["symlink", "fifo", "socket", "char"])
def test_special_files_have_no_user_attributes(target: Path, kind: str) -> None:
    path = make(kind, target / "it")
    with fails(errno.EPERM):
        os.setxattr(path, "user.it", b"x", follow_symlinks=False)
    with fails(errno.ENODATA, errno.EPERM):
        os.getxattr(path, "user.it", follow_symlinks=False)


def test_link_is_followed(target: Path) -> None:
    make_file(target / "f")
    make_symlink(target / "link", "f")
    os.setxattr(target / "link", "user.it", b"x")
    assert os.getxattr(target / "f", "user.it") == b"x"
    assert "user.it" not in os.listxattr(target / "link", follow_symlinks=False)


def test_attributes_belong_to_the_inode(target: Path) -> None:
    path = make_file(target / "a")
    os.setxattr(path, "user.it", b"x")
    os.link(path, target / "b")
    os.rename(path, target / "c")
    assert os.getxattr(target / "b", "user.it") == b"x"
    os.setxattr(target / "c", "user.it", b"y")
    assert os.getxattr(target / "b", "user.it") == b"y"
    os.unlink(target / "b")
    assert os.getxattr(target / "c", "user.it") == b"y"


def test_attributes_of_an_open_unlinked_file(target: Path) -> None:
    path = make_file(target / "f")
    with opened(path, os.O_RDWR) as fd:
        os.setxattr(fd, "user.it", b"x")
        os.unlink(path)
        assert os.getxattr(fd, "user.it") == b"x"


def test_new_file_has_none(target: Path) -> None:
    path = make_file(target / "f")
    os.setxattr(path, "user.it", b"x")
    os.unlink(path)
    assert _user_attributes(make_file(path)) == []


def test_writing_needs_write_permission_and_reading_read(target: Path) -> None:
    path = make_file(target / "f", mode=0o644, owner=OWNER)
    os.setxattr(path, "user.it", b"x")
    assert as_user(STRANGER, lambda: os.getxattr(path, "user.it")) == b"x"
    for call in (
        lambda: os.setxattr(path, "user.it", b"y"),
        lambda: os.removexattr(path, "user.it"),
    ):
        with fails(errno.EACCES):
            as_user(STRANGER, call)
    os.chmod(path, 0o602)
    as_user(STRANGER, lambda: os.setxattr(path, "user.it", b"y"))
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.getxattr(path, "user.it"))


def test_owner_may(target: Path) -> None:
    path = make_file(target / "f", owner=OWNER)
    as_user(OWNER, lambda: os.setxattr(path, "user.it", b"x"))
    assert as_user(OWNER, lambda: os.getxattr(path, "user.it")) == b"x"
    as_user(OWNER, lambda: os.removexattr(path, "user.it"))


def test_sticky_directory_takes_attributes_from_its_owner_only(target: Path) -> None:
    path = make_dir(target / "d", mode=0o1777, owner=OWNER)
    with fails(errno.EPERM):
        as_user(STRANGER, lambda: os.setxattr(path, "user.it", b"x"))
    as_user(OWNER, lambda: os.setxattr(path, "user.it", b"x"))


def test_trusted_attributes_are_for_root(target: Path) -> None:
    """[xattr-1]."""
    path = make_file(target / "f", owner=OWNER)
    if refused(lambda: os.setxattr(path, "trusted.it", b"x"), errno.EOPNOTSUPP):
        return
    assert os.getxattr(path, "trusted.it") == b"x"
    with fails(errno.EPERM):
        as_user(OWNER, lambda: os.setxattr(path, "trusted.it", b"y"))
    with fails(errno.ENODATA, errno.EPERM):
        as_user(OWNER, lambda: os.getxattr(path, "trusted.it"))
