"""Inode numbers, link counts of directories, and what else stat(2) tells."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.nodes import KINDS, TYPE_BITS, make, make_dir, make_file, make_symlink, opened

CONVENTIONS: dict[tuple[int, ...], str] = {
    (2, 4, 5, 3, 2): "two and one for each subdirectory",
    (1, 1, 1, 1, 1): "always one",
    (1, 3, 4, 2, 1): "one and one for each subdirectory",
    (2, 2, 2, 2, 2): "always two",
}
"""Link counts of a directory while subdirectories come and go, by the rule they follow."""


def test_link_count_of_a_directory_follows_one_rule(
    target: Path, record_property: Callable[[str, object], None]
) -> None:
    d = make_dir(target / "d")
    counts = [d.stat().st_nlink]
    make_file(d / "file")
    for name in ("a", "b"):
        make_dir(d / name)
    counts.append(d.stat().st_nlink)
    make_dir(d / "c")
    counts.append(d.stat().st_nlink)
    for name in ("a", "b"):
        os.rmdir(d / name)
    counts.append(d.stat().st_nlink)
    os.rmdir(d / "c")
    counts.append(d.stat().st_nlink)
    rule = CONVENTIONS.get(tuple(counts))
    assert rule, f"no rule explains {counts}"
    record_property("link count of directories", rule)


@pytest.mark.parametrize("kind", KINDS)
def test_descriptor_and_name_tell_the_same(target: Path, kind: str) -> None:
    path = make(kind, target / "it")
    with opened(path, os.O_PATH | os.O_NOFOLLOW) as fd:
        assert os.fstat(fd) == os.lstat(path)
    assert os.lstat(path).st_mode & 0o170000 == TYPE_BITS[kind]


def test_inode_numbers_differ(target: Path) -> None:
    numbers = {os.lstat(make_file(target / f"{n}")).st_ino for n in range(300)}
    assert len(numbers) == 300
    assert 0 not in numbers


def test_inode_number_in_the_listing_is_that_of_stat(target: Path) -> None:
    for kind in KINDS:
        make(kind, target / kind)
    with os.scandir(target) as found:
        listed = {entry.name: entry.inode() for entry in found}
    assert listed == {kind: os.lstat(target / kind).st_ino for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_inode_number_stays_over_every_change(target: Path, kind: str) -> None:
    path = make(kind, target / "it")
    ino = os.lstat(path).st_ino
    os.utime(path, ns=(1, 1), follow_symlinks=False)
    os.lchown(path, 1, 1)
    make_dir(target / "d")
    os.rename(path, target / "d" / "renamed")
    os.rename(target / "d", target / "e")
    assert os.lstat(target / "e" / "renamed").st_ino == ino


def test_inode_number_stays_when_the_data_is_rewritten(target: Path) -> None:
    path = make_file(target / "f", b"one")
    ino = path.stat().st_ino
    path.write_bytes(b"two")
    os.truncate(path, 0)
    path.write_bytes(b"three")
    assert path.stat().st_ino == ino


def test_everything_lies_on_one_device(target: Path) -> None:
    devices = {os.lstat(make(kind, target / kind)).st_dev for kind in KINDS}
    assert devices == {target.stat().st_dev}


def test_sizes_and_blocks(target: Path) -> None:
    path = make_file(target / "f", b"x" * 1_000_000)
    with opened(path, os.O_RDWR) as fd:
        os.fsync(fd)
    found = path.stat()
    assert found.st_size == 1_000_000
    # Compression and delayed allocation may make it less than the size, but not nothing.
    assert found.st_blocks > 0
    assert found.st_blksize >= 512
    assert make_symlink(target / "l", "12345").lstat().st_size == 5


def test_dot_and_dotdot_are_the_right_inodes(target: Path) -> None:
    (target / "a" / "b").mkdir(parents=True)
    a = (target / "a").stat().st_ino
    assert os.stat(f"{target}/a/.").st_ino == a
    assert os.stat(f"{target}/a/b/..").st_ino == a
    os.rename(target / "a" / "b", target / "b")
    assert os.stat(f"{target}/b/..").st_ino == target.stat().st_ino


def test_descriptor_of_a_removed_name_is_another_inode_than_its_successor(target: Path) -> None:
    path = make_file(target / "f")
    with opened(path) as fd:
        os.unlink(path)
        make_file(path)
        assert os.fstat(fd).st_ino != path.stat().st_ino
