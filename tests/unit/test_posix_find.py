"""Looking for an inode through the whole tree, and for where a directory is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.types import Ino
from cephfs_ext.storage.posix_find import find_below, path_of

DEEP = 1_500
"""Deeper than Python's stack, and than a path may be long."""


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    """Return a descriptor of an empty directory."""
    (tmp_path / "top").mkdir()
    fd = os.open(tmp_path / "top", os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    yield fd
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)
    subprocess.run(["rm", "-rf", str(tmp_path / "top")], check=True)


def deepen(top: int, levels: int, name: bytes = b"d") -> int:
    """Make directories within each other; return a descriptor of the last, to be closed."""
    fd = os.dup(top)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def find(top: int, ino: int) -> int:
    """Return the number of what was found."""
    fd = find_below(top, Ino(ino))
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def test_every_kind_of_inode(top: int) -> None:
    os.mkdir("d", dir_fd=top)
    os.symlink("nowhere", "d/l", dir_fd=top)
    os.mkfifo("d/p", dir_fd=top)
    os.close(os.open("d/f", os.O_CREAT | os.O_WRONLY, dir_fd=top))
    os.close(os.open(b"\xff\xfe", os.O_CREAT | os.O_WRONLY, dir_fd=top))
    for name in (b"d", b"d/l", b"d/p", b"d/f", b"\xff\xfe"):
        ino = os.stat(name, dir_fd=top, follow_symlinks=False).st_ino
        assert find(top, ino) == ino


def test_the_top_itself(top: int) -> None:
    assert find(top, os.fstat(top).st_ino) == os.fstat(top).st_ino


def test_what_is_not_there(top: int) -> None:
    os.close(deepen(top, 3))
    with pytest.raises(NotFoundError):
        find_below(top, Ino(1))


def test_a_link_out_of_the_tree_is_not_followed(top: int, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").touch()
    os.symlink("../outside", "l", dir_fd=top)
    with pytest.raises(NotFoundError):
        find_below(top, Ino((tmp_path / "outside" / "f").stat().st_ino))


def test_another_file_system_is_not_entered(top: int, tmp_path: Path) -> None:
    os.mkdir("mnt", dir_fd=top)
    mountpoint = tmp_path / "top" / "mnt"
    subprocess.run(["mount", "-t", "tmpfs", "none", str(mountpoint)], check=True)
    try:
        (mountpoint / "f").touch()
        with pytest.raises(NotFoundError):
            find_below(top, Ino((mountpoint / "f").stat().st_ino))
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


def test_a_circle_of_mounts_ends(top: int, tmp_path: Path) -> None:
    os.mkdir("a", dir_fd=top)
    os.mkdir("a/again", dir_fd=top)
    mountpoint = tmp_path / "top" / "a" / "again"
    subprocess.run(["mount", "--bind", str(tmp_path / "top"), str(mountpoint)], check=True)
    try:
        with pytest.raises(NotFoundError):
            find_below(top, Ino(1))
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


def test_a_wide_directory(top: int) -> None:
    for number in range(3000):
        os.mknod(f"{number:04}", dir_fd=top)
    ino = os.stat("2999", dir_fd=top).st_ino
    assert find(top, ino) == ino


def test_a_deep_tree(top: int) -> None:
    last = deepen(top, DEEP)
    ino = os.fstat(last).st_ino
    os.close(last)
    assert find(top, ino) == ino
    with pytest.raises(NotFoundError):
        find_below(top, Ino(1))


@pytest.mark.parametrize("name", [b"d", b"\xff" * 200])
def test_path_of_a_deep_directory(top: int, tmp_path: Path, name: bytes) -> None:
    levels = DEEP if len(name) == 1 else 40
    expected = b"/".join([os.fsencode(tmp_path / "top"), *[name] * levels])
    last = deepen(top, levels, name)
    try:
        if len(name) == 1:
            os.mkdir(b"n" * 255, dir_fd=last)
        assert path_of(last) == expected
    finally:
        os.close(last)


def test_path_of_what_has_been_moved(top: int, tmp_path: Path) -> None:
    os.mkdir("a", dir_fd=top)
    fd = os.open("a", os.O_PATH, dir_fd=top)
    try:
        os.rename("a", "b", src_dir_fd=top, dst_dir_fd=top)
        assert path_of(fd) == os.fsencode(tmp_path / "top" / "b")
    finally:
        os.close(fd)
