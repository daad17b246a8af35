"""open(2): flags, and what each does to each kind of node."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.posix.actors import OWNER, STRANGER, as_user, spawn
from tests.posix.libc import link_descriptor
from tests.posix.nodes import (
    KINDS,
    fails,
    make,
    make_dir,
    make_file,
    make_socket,
    make_symlink,
    mode_of,
    opened,
    refused,
    tick,
)


@pytest.mark.parametrize("kind", KINDS)
def test_exclusive_creation_refuses_what_exists(target: Path, kind: str) -> None:
    make(kind, target / "it")
    with fails(errno.EEXIST):
        os.open(target / "it", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    assert os.listdir(target) == ["it"]


def test_exclusive_creation_has_one_winner(target: Path) -> None:
    start, go = os.pipe()

    def create() -> bool:
        os.close(go)
        os.read(start, 1)
        try:
            os.close(os.open(target / "prize", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    with spawn(create) as a, spawn(create) as b, spawn(create) as c, spawn(create) as d:
        os.close(start)
        os.close(go)
        assert sum(child.result() for child in (a, b, c, d)) == 1


@pytest.mark.parametrize("mode", [0, 0o400, 0o644, 0o777, 0o1644, 0o2755, 0o4755, 0o7777])
def test_creation_sets_exactly_the_mode(target: Path, mode: int) -> None:
    with opened(target / "f", os.O_CREAT | os.O_WRONLY, mode) as fd:
        assert stat.S_IMODE(os.fstat(fd).st_mode) == mode
    assert mode_of(target / "f") == mode


def test_creation_leaves_an_existing_file_as_it_is(target: Path) -> None:
    path = make_file(target / "f", b"kept", mode=0o640, owner=OWNER)
    with opened(path, os.O_CREAT | os.O_RDWR, 0o777):
        pass
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (30001, 30001, 0o640)
    assert path.read_bytes() == b"kept"


def test_creator_writes_to_a_file_of_mode_zero(target: Path) -> None:
    target.chmod(0o777)

    def create_and_write() -> bytes:
        with opened(target / "f", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0) as fd:
            os.write(fd, b"mine")
            return os.pread(fd, 10, 0)

    assert as_user(STRANGER, create_and_write) == b"mine"
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.open(target / "f", os.O_RDONLY))


def test_creation_through_a_dangling_link_creates_what_it_names(target: Path) -> None:
    make_symlink(target / "link", "real")
    with opened(target / "link", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x")
    assert (target / "real").read_bytes() == b"x"
    assert (target / "link").is_symlink()


@pytest.mark.parametrize(
    "flags",
    [
        os.O_WRONLY,
        os.O_RDWR,
        os.O_RDONLY | os.O_CREAT,
        os.O_RDONLY | os.O_TRUNC,
        os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    ],
    ids=["write", "read-write", "create", "truncate", "append"],
)
def test_directory_opens_for_reading_only(target: Path, flags: int) -> None:
    make_dir(target / "d")
    with fails(errno.EISDIR):
        os.open(target / "d", flags)
    with opened(target / "d") as fd:
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
        with fails(errno.EISDIR):
            os.read(fd, 1)


def test_truncation_empties_the_file(target: Path) -> None:
    path = make_file(target / "f", b"something")
    before = path.stat()
    tick()
    with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == 0
    after = path.stat()
    assert after.st_size == 0
    assert after.st_ino == before.st_ino
    assert after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns


def test_truncation_needs_write_permission(target: Path) -> None:
    path = make_file(target / "f", b"something", mode=0o644, owner=OWNER)
    for flags in (os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC):
        with fails(errno.EACCES):
            as_user(STRANGER, lambda flags=flags: os.open(path, flags))
    assert path.read_bytes() == b"something"


def test_truncation_is_seen_by_other_descriptors(target: Path) -> None:
    path = make_file(target / "f", b"something")
    with opened(path) as reader:
        assert os.read(reader, 4) == b"some"
        with opened(path, os.O_WRONLY | os.O_TRUNC):
            assert os.read(reader, 5) == b""
            assert os.fstat(reader).st_size == 0


def test_append_goes_to_the_end_wherever_the_offset_is(target: Path) -> None:
    path = make_file(target / "f", b"head")
    with opened(path, os.O_RDWR | os.O_APPEND) as fd:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"-1")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 6
        with opened(path, os.O_WRONLY | os.O_APPEND) as other:
            os.write(other, b"-2")
        os.write(fd, b"-3")
    assert path.read_bytes() == b"head-1-2-3"


def test_nofollow_refuses_a_link_at_the_end_only(target: Path) -> None:
    make_dir(target / "d")
    make_file(target / "d" / "f")
    make_symlink(target / "to-file", "d/f")
    make_symlink(target / "to-dir", "d")
    with fails(errno.ELOOP):
        os.open(target / "to-file", os.O_RDONLY | os.O_NOFOLLOW)
    with fails(errno.ELOOP):
        os.open(target / "to-file", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    with opened(target / "to-dir" / "f", os.O_RDONLY | os.O_NOFOLLOW) as fd:
        assert stat.S_ISREG(os.fstat(fd).st_mode)


def test_path_descriptor_of_a_link_is_the_link(target: Path) -> None:
    make_symlink(target / "link", "target")
    with opened(target / "link", os.O_PATH | os.O_NOFOLLOW) as fd:
        assert stat.S_ISLNK(os.fstat(fd).st_mode)
        assert os.readlink("", dir_fd=fd) == "target"


def test_path_descriptor_carries_no_data(target: Path) -> None:
    make_file(target / "f", b"data", mode=0)
    with opened(target / "f", os.O_PATH) as fd:
        assert os.fstat(fd).st_size == 4
        with fails(errno.EBADF):
            os.read(fd, 1)
        with fails(errno.EBADF):
            os.fchmod(fd, 0o644)


@pytest.mark.parametrize("kind", ["file", "fifo", "socket", "char"])
def test_directory_flag_refuses_everything_else(target: Path, kind: str) -> None:
    make(kind, target / "it")
    make_symlink(target / "link", "it")
    for path in (target / "it", target / "link"):
        with fails(errno.ENOTDIR):
            os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)


def test_directory_flag_follows_links(target: Path) -> None:
    make_dir(target / "d")
    make_symlink(target / "link", "d")
    with opened(target / "link", os.O_RDONLY | os.O_DIRECTORY) as fd:
        assert os.fstat(fd).st_ino == (target / "d").stat().st_ino
    with fails(errno.ENOTDIR, errno.ELOOP):
        os.open(target / "link", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _open_nameless(directory: Path, flags: int = os.O_RDWR) -> int:
    return os.open(directory, os.O_TMPFILE | flags, 0o600)


def _has_nameless_files(directory: Path) -> bool:
    """Tell whether O_TMPFILE works; if it does not, it must be refused as open(2) says."""
    return not refused(lambda: os.close(_open_nameless(directory)), errno.EOPNOTSUPP, errno.EISDIR)


def test_nameless_file_gets_a_name_later(target: Path) -> None:
    """[open-1]."""
    if _has_nameless_files(target):
        fd = _open_nameless(target)
        os.write(fd, b"born without a name")
        assert os.fstat(fd).st_nlink == 0
        assert os.listdir(target) == []
        link_descriptor(fd, target / "named")
        assert os.fstat(fd).st_nlink == 1
        os.close(fd)
        assert (target / "named").read_bytes() == b"born without a name"
    else:
        assert os.listdir(target) == []


def test_exclusive_nameless_file_never_gets_a_name(target: Path) -> None:
    if _has_nameless_files(target):
        fd = _open_nameless(target, os.O_RDWR | os.O_EXCL)
        with fails(errno.ENOENT):
            link_descriptor(fd, target / "named")
        os.close(fd)
    assert os.listdir(target) == []


def test_running_program_cannot_be_written(target: Path) -> None:
    """[open-1]."""
    program = target / "sleep"
    shutil.copy("/bin/sleep", program)
    program.chmod(0o755)
    running = subprocess.Popen([program, "60"])
    try:
        with fails(errno.ETXTBSY):
            os.open(program, os.O_WRONLY)
        with fails(errno.ETXTBSY):
            os.truncate(program, 0)
    finally:
        running.kill()
        running.wait()
    with opened(program, os.O_WRONLY):
        pass


def test_file_open_for_writing_cannot_be_run(target: Path) -> None:
    """[open-1]."""
    program = target / "true"
    shutil.copy("/bin/true", program)
    program.chmod(0o755)
    with opened(program, os.O_WRONLY), fails(errno.ETXTBSY):
        subprocess.run([program], check=True)
    assert subprocess.run([program], check=False).returncode == 0


def test_fifo_without_a_reader_refuses_a_writer_that_will_not_wait(target: Path) -> None:
    os.mkfifo(target / "fifo")
    with fails(errno.ENXIO):
        os.open(target / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    with opened(target / "fifo", os.O_RDONLY | os.O_NONBLOCK) as reader:
        with opened(target / "fifo", os.O_WRONLY | os.O_NONBLOCK) as writer:
            os.write(writer, b"through")
        assert os.read(reader, 10) == b"through"


def test_socket_cannot_be_opened(target: Path) -> None:
    make_socket(target / "socket")
    with fails(errno.ENXIO):
        os.open(target / "socket", os.O_RDWR)


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("missing", os.O_RDONLY, errno.ENOENT),
        ("missing", os.O_WRONLY | os.O_TRUNC, errno.ENOENT),
        ("missing/f", os.O_CREAT | os.O_RDWR, errno.ENOENT),
        ("file/f", os.O_RDONLY, errno.ENOTDIR),
        ("file/f", os.O_CREAT | os.O_RDWR, errno.ENOTDIR),
        ("file/", os.O_RDONLY, errno.ENOTDIR),
        ("new/", os.O_CREAT | os.O_RDWR, errno.EISDIR),
        ("dangling", os.O_RDONLY, errno.ENOENT),
    ],
)
def test_names_that_lead_nowhere(target: Path, name: str, flags: int, expected: int) -> None:
    make_file(target / "file")
    make_symlink(target / "dangling")
    with fails(expected):
        os.open(f"{target}/{name}", flags)
    assert sorted(os.listdir(target)) == ["dangling", "file"]


def test_descriptor_does_only_what_it_was_opened_for(target: Path) -> None:
    path = make_file(target / "f", b"data")
    with opened(path) as fd:
        with fails(errno.EBADF):
            os.write(fd, b"x")
        with fails(errno.EINVAL, errno.EBADF):
            os.ftruncate(fd, 0)
    with opened(path, os.O_WRONLY) as fd, fails(errno.EBADF):
        os.read(fd, 1)
    assert path.read_bytes() == b"data"


def test_rights_are_checked_when_opening_not_when_using(target: Path) -> None:
    path = make_file(target / "f", b"old", mode=0o600, owner=OWNER)

    def use_after_losing_rights() -> bytes:
        with opened(path, os.O_RDWR) as fd:
            os.chmod(path, 0)
            os.pwrite(fd, b"new", 0)
            return os.pread(fd, 10, 0)

    assert as_user(OWNER, use_after_losing_rights) == b"new"


def test_descriptor_truncates_whatever_the_mode_is_now(target: Path) -> None:
    path = make_file(target / "f", b"old", mode=0o600, owner=OWNER)

    def truncate_after_losing_rights() -> int:
        with opened(path, os.O_RDWR) as fd:
            os.chmod(path, 0)
            os.ftruncate(fd, 2)
            return os.fstat(fd).st_size

    assert as_user(OWNER, truncate_after_losing_rights) == 2


def test_creator_of_a_read_only_file_truncates_it(target: Path) -> None:
    target.chmod(0o777)

    def create_and_truncate() -> int:
        with opened(target / "f", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o400) as fd:
            os.ftruncate(fd, 100)
            return os.fstat(fd).st_size

    assert as_user(STRANGER, create_and_truncate) == 100
