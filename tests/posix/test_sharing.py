"""Several processes on one mount: what one has done, the others see at once."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.posix.actors import elsewhere, errno_of, spawn
from tests.posix.nodes import fails, make_dir, make_file, opened

MANY_DESCRIPTORS = 800
ROUNDS = 30


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_data_is_seen_after_close(target: Path) -> None:
    path = target / "f"
    for n in range(ROUNDS):
        elsewhere(lambda n=n: path.write_bytes(b"%d" % n * (n + 1)))
        assert path.read_bytes() == b"%d" % n * (n + 1)
        assert path.stat().st_size == len(b"%d" % n) * (n + 1)


def test_data_is_seen_before_close(target: Path) -> None:
    """[cache-4]."""
    path = make_file(target / "f", b"nothing yet")
    assert path.read_bytes() == b"nothing yet"
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, b"news")
        assert elsewhere(path.read_bytes) == b"newsing yet"
        os.ftruncate(fd, 4)
        assert elsewhere(lambda: path.stat().st_size) == 4


class Change(NamedTuple):
    """What one process does to a file, what another looks at, and what it must see."""

    make: Callable[[Path], object]
    look: Callable[[Path], object]
    seen: object


CHANGES = {
    "chmod": Change(lambda p: p.chmod(0o600), lambda p: p.stat().st_mode & 0o777, 0o600),
    "chown": Change(lambda p: os.chown(p, 7, 8), lambda p: p.stat().st_gid, 8),
    "truncate": Change(lambda p: os.truncate(p, 99), lambda p: p.stat().st_size, 99),
    "utime": Change(lambda p: os.utime(p, ns=(1, 2)), lambda p: p.stat().st_mtime_ns, 2),
    "setxattr": Change(
        lambda p: os.setxattr(p, "user.it", b"x"), lambda p: os.getxattr(p, "user.it"), b"x"
    ),
    "link": Change(lambda p: os.link(p, p.parent / "g"), lambda p: p.stat().st_nlink, 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_attributes_are_seen_at_once(target: Path, name: str) -> None:
    """[cache-4]."""
    path = make_file(target / "f", b"data")
    change = CHANGES[name]
    errno_of(lambda: change.look(path))
    elsewhere(lambda: change.make(path))
    assert change.look(path) == change.seen


def test_missing_name_is_seen_once_it_is_there(target: Path) -> None:
    for n in range(ROUNDS):
        with fails(errno.ENOENT):
            os.stat(target / f"{n}")
        elsewhere(lambda n=n: make_file(target / f"{n}"))
        assert (target / f"{n}").is_file()


def test_removed_name_is_missing_at_once(target: Path) -> None:
    """[cache-4]."""
    for n in range(ROUNDS):
        make_file(target / f"{n}")
        assert (target / f"{n}").exists()
        elsewhere(lambda n=n: os.unlink(target / f"{n}"))
        with fails(errno.ENOENT):
            os.stat(target / f"{n}")


def test_renamed_tree_is_seen_under_its_new_name_only(target: Path) -> None:
    make_dir(target / "d0")
    make_file(target / "d0" / "f", b"x")
    for n in range(ROUNDS):
        assert (target / f"d{n}" / "f").read_bytes() == b"x"
        elsewhere(lambda n=n: os.rename(target / f"d{n}", target / f"d{n + 1}"))
        with fails(errno.ENOENT):
            os.stat(target / f"d{n}" / "f")
        assert (target / f"d{n + 1}" / "f").exists()
        assert os.listdir(target) == [f"d{n + 1}"]


def test_name_changes_its_type(target: Path) -> None:
    path = target / "it"
    for _ in range(10):
        elsewhere(lambda: os.mkdir(path))
        assert path.is_dir()
        elsewhere(lambda: os.rmdir(path))
        elsewhere(lambda: make_file(path, b"file"))
        assert path.read_bytes() == b"file"
        elsewhere(lambda: os.unlink(path))
        elsewhere(lambda: os.symlink("target", path))
        assert os.readlink(path) == "target"
        elsewhere(lambda: os.unlink(path))


def test_listing_is_that_of_the_moment(target: Path) -> None:
    for n in range(ROUNDS):
        elsewhere(lambda n=n: make_file(target / f"{n}"))
        assert len(os.listdir(target)) == n + 1


def test_many_files_open_at_once(target: Path, many_descriptors: None) -> None:
    descriptors = []
    for n in range(MANY_DESCRIPTORS):
        fd = os.open(target / f"{n}", os.O_CREAT | os.O_RDWR)
        os.write(fd, b"%d" % n)
        descriptors.append(fd)
    contents = [os.pread(fd, 10, 0) for fd in descriptors]
    for fd in descriptors:
        os.close(fd)
    assert contents == [b"%d" % n for n in range(MANY_DESCRIPTORS)]


def test_one_file_open_many_times(target: Path, many_descriptors: None) -> None:
    path = make_file(target / "f", b"shared")
    descriptors = [os.open(path, os.O_RDWR) for _ in range(MANY_DESCRIPTORS)]
    os.pwrite(descriptors[0], b"SHARED", 0)
    contents = {os.pread(fd, 10, 0) for fd in descriptors}
    for fd in descriptors:
        os.close(fd)
    assert contents == {b"SHARED"}


def test_processes_working_side_by_side_keep_out_of_each_others_way(target: Path) -> None:
    def work(name: str) -> int:
        d = make_dir(target / name)
        for n in range(50):
            make_file(d / f"{n}", name.encode() * n)
            os.rename(d / f"{n}", d / f"r{n}")
        return sum((d / f"r{n}").read_bytes() == name.encode() * n for n in range(50))

    with (
        spawn(lambda: work("a")) as a,
        spawn(lambda: work("b")) as b,
        spawn(lambda: work("c")) as c,
    ):
        assert [child.result() for child in (a, b, c)] == [50, 50, 50]


def test_processes_working_in_one_directory(target: Path) -> None:
    def work(name: str) -> None:
        for n in range(60):
            make_file(target / f"{name}{n}")
            if n % 3 == 0:
                os.unlink(target / f"{name}{n}")

    with spawn(lambda: work("a")) as a, spawn(lambda: work("b")) as b:
        a.result()
        b.result()
    assert set(os.listdir(target)) == {f"{w}{n}" for w in "ab" for n in range(60) if n % 3}
