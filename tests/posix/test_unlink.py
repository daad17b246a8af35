"""unlink(2): the name goes, the data stays for whoever has it open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.posix.actors import STRANGER, as_user, elsewhere
from tests.posix.nodes import (
    NON_DIRECTORIES,
    fails,
    make,
    make_dir,
    make_file,
    make_symlink,
    opened,
    tick,
)


@pytest.mark.parametrize("kind", NON_DIRECTORIES)
def test_every_kind_but_a_directory_goes(target: Path, kind: str) -> None:
    make(kind, target / "it")
    os.unlink(target / "it")
    assert os.listdir(target) == []
    with fails(errno.ENOENT):
        os.lstat(target / "it")


def test_directory_is_refused(target: Path) -> None:
    make_dir(target / "d")
    with fails(errno.EISDIR, errno.EPERM):
        os.unlink(target / "d")
    assert os.listdir(target) == ["d"]


def test_link_goes_and_what_it_names_stays(target: Path) -> None:
    make_file(target / "f", b"kept")
    make_symlink(target / "link", "f")
    os.unlink(target / "link")
    assert (target / "f").read_bytes() == b"kept"
    make_dir(target / "d")
    make_symlink(target / "to-dir", "d")
    os.unlink(target / "to-dir")
    assert sorted(os.listdir(target)) == ["d", "f"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing", (errno.ENOENT,)),
        ("missing/f", (errno.ENOENT,)),
        ("f/g", (errno.ENOTDIR,)),
        ("f/", (errno.ENOTDIR,)),
        (".", (errno.EISDIR, errno.EPERM, errno.EINVAL)),
        ("..", (errno.EISDIR, errno.EPERM, errno.EINVAL)),
    ],
)
def test_impossible_names(target: Path, name: str, expected: tuple[int, ...]) -> None:
    """[unlink-2]."""
    make_file(target / "f")
    with fails(*expected):
        os.unlink(f"{target}/{name}")
    assert os.listdir(target) == ["f"]


def test_second_unlink_finds_nothing(target: Path) -> None:
    make_file(target / "f")
    os.unlink(target / "f")
    with fails(errno.ENOENT):
        os.unlink(target / "f")


def test_write_permission_in_the_parent_decides(target: Path) -> None:
    """[unlink-2], [perm-1]."""
    make_file(target / "f", owner=STRANGER)
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.unlink(target / "f"))
    open_to_all = make_dir(target / "d", mode=0o777)
    make_file(open_to_all / "f", mode=0)
    as_user(STRANGER, lambda: os.unlink(open_to_all / "f"))
    assert os.listdir(open_to_all) == []


def test_open_file_stays_readable_and_writable(target: Path) -> None:
    path = make_file(target / "f", b"before")
    with opened(path, os.O_RDWR) as fd:
        os.unlink(path)
        assert os.pread(fd, 10, 0) == b"before"
        os.pwrite(fd, b"after, and longer", 0)
        assert os.pread(fd, 20, 0) == b"after, and longer"
        os.ftruncate(fd, 5)
        assert os.fstat(fd).st_size == 5
        os.fsync(fd)
    assert os.listdir(target) == []


def test_open_file_takes_new_attributes(target: Path) -> None:
    path = make_file(target / "f")
    with opened(path, os.O_RDWR) as fd:
        os.unlink(path)
        os.fchmod(fd, 0o600)
        os.fchown(fd, 30001, 30001)
        os.utime(fd, ns=(1, 2_000_000_003))
        found = os.fstat(fd)
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o600, 30001, 30001)
    assert found.st_mtime_ns == 2_000_000_003


def test_open_file_has_no_links_left(target: Path) -> None:
    """[unlink-5]."""
    path = make_file(target / "f")
    with opened(path) as fd:
        os.unlink(path)
        assert os.fstat(fd).st_nlink == 0


def test_open_file_counts_the_links_that_remain(target: Path) -> None:
    """[link-2]."""
    path = make_file(target / "f")
    os.link(path, target / "g")
    with opened(path) as fd:
        os.unlink(path)
        assert os.fstat(fd).st_nlink == 1
        assert (target / "g").stat().st_nlink == 1
        os.unlink(target / "g")
        assert os.fstat(fd).st_nlink == 0


def test_remaining_link_has_a_new_ctime_and_the_old_mtime(target: Path) -> None:
    path = make_file(target / "f", b"data")
    os.link(path, target / "g")
    before = path.stat()
    tick()
    os.unlink(path)
    after = (target / "g").stat()
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


def test_name_is_free_for_another_file(target: Path) -> None:
    path = make_file(target / "f", b"old")
    with opened(path) as old:
        os.unlink(path)
        make_file(path, b"new")
        assert path.stat().st_ino != os.fstat(old).st_ino
        assert os.read(old, 5) == b"old"
        assert path.read_bytes() == b"new"


def test_file_open_in_two_processes_lives_until_both_have_closed(target: Path) -> None:
    path = make_file(target / "f", b"shared")
    with opened(path) as fd:

        def unlink_and_close() -> bytes:
            with opened(path) as own:
                os.unlink(path)
                return os.read(own, 10)

        assert elsewhere(unlink_and_close) == b"shared"
        assert os.read(fd, 10) == b"shared"


def test_many_files_made_and_unlinked_while_open(target: Path) -> None:
    descriptors = []
    for n in range(100):
        path = make_file(target / "same-name", b"%d" % n)
        descriptors.append(os.open(path, os.O_RDONLY))
        os.unlink(path)
    contents = [os.read(fd, 10) for fd in descriptors]
    for fd in descriptors:
        os.close(fd)
    assert contents == [b"%d" % n for n in range(100)]
    assert os.listdir(target) == []
