"""symlink(2), readlink(2), and the walking of links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.posix.actors import OWNER, STRANGER, as_user
from tests.posix.nodes import KINDS, fails, make, make_dir, make_file, make_symlink

LINKS_FOLLOWED = 40
"""How many links Linux follows in one path; one more is ELOOP."""

PATH_MAX = 4096


@pytest.mark.parametrize(
    "text",
    [
        b"a",
        b"relative/path",
        b"/absolute/path",
        b"../..//./x",
        b"trailing/",
        b"\xff\xfe not utf-8",
        b"with\nnewline",
        b"n" * 255,
        b"x" * 300,
    ],
    ids=lambda text: text[:12].decode("latin-1").encode("unicode_escape").decode(),
)
def test_text_comes_back_as_it_went_in(target: Path, text: bytes) -> None:
    make_symlink(target / "link", text)
    assert os.readlink(os.fsencode(target / "link")) == text


@pytest.mark.parametrize("length", [1, 59, 60, 255, 1000, 1023, 1024, 4000, PATH_MAX - 1])
def test_size_is_the_length_of_the_text(target: Path, length: int) -> None:
    make_symlink(target / "link", "t" * length)
    found = os.lstat(target / "link")
    assert stat.S_ISLNK(found.st_mode)
    assert found.st_size == length
    assert len(os.readlink(target / "link")) == length


def test_text_of_path_max_is_refused(target: Path) -> None:
    with fails(errno.ENAMETOOLONG):
        os.symlink("t" * PATH_MAX, target / "link")
    with fails(errno.ENOENT):
        os.symlink("", target / "link")
    assert os.listdir(target) == []


@pytest.mark.parametrize("kind", KINDS)
def test_existing_name_is_refused(target: Path, kind: str) -> None:
    make(kind, target / "it")
    with fails(errno.EEXIST):
        os.symlink("anywhere", target / "it")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "symlink"])
def test_readlink_refuses_everything_else(target: Path, kind: str) -> None:
    make(kind, target / "it")
    with fails(errno.EINVAL):
        os.readlink(target / "it")


def test_dangling_link_is_there_and_leads_nowhere(target: Path) -> None:
    make_symlink(target / "link", "missing")
    assert stat.S_ISLNK(os.lstat(target / "link").st_mode)
    for call in (os.stat, os.listdir, lambda p: os.chmod(p, 0o600), lambda p: os.truncate(p, 0)):
        with fails(errno.ENOENT):
            call(target / "link")
    make_file(target / "missing", b"found")
    assert (target / "link").read_bytes() == b"found"


@pytest.mark.parametrize("ring", [1, 2, 3])
def test_ring_of_links_is_a_loop(target: Path, ring: int) -> None:
    for n in range(ring):
        make_symlink(target / f"{n}", f"{(n + 1) % ring}")
    for call in (os.stat, lambda p: os.open(p, os.O_RDONLY), lambda p: os.listdir(p / "below")):
        with fails(errno.ELOOP):
            call(target / "0")
    assert os.readlink(target / "0") == f"{1 % ring}"


def test_chain_may_be_forty_links_long(target: Path) -> None:
    make_file(target / "0", b"end")
    for n in range(1, LINKS_FOLLOWED + 2):
        make_symlink(target / f"{n}", f"{n - 1}")
    assert (target / f"{LINKS_FOLLOWED}").read_bytes() == b"end"
    with fails(errno.ELOOP):
        os.stat(target / f"{LINKS_FOLLOWED + 1}")


def test_links_in_the_middle_of_a_path_are_followed(target: Path) -> None:
    (target / "a" / "b").mkdir(parents=True)
    make_file(target / "a" / "b" / "f", b"deep")
    make_symlink(target / "short", "a/b")
    make_symlink(target / "a" / "up", "..")
    assert (target / "short" / "f").read_bytes() == b"deep"
    assert (target / "a" / "up" / "short" / "f").read_bytes() == b"deep"
    assert (target / "short" / "..").stat().st_ino == (target / "a").stat().st_ino


def test_link_with_a_trailing_slash_is_the_directory(target: Path) -> None:
    make_dir(target / "d")
    make_symlink(target / "link", "d")
    assert stat.S_ISDIR(os.lstat(f"{target}/link/").st_mode)
    make_file(target / "f")
    make_symlink(target / "to-file", "f")
    with fails(errno.ENOTDIR):
        os.lstat(f"{target}/to-file/")


def test_mode_of_a_link_is_0777_and_stops_nobody(target: Path) -> None:
    os.umask(0o077)
    make_symlink(target / "link", "f")
    make_file(target / "f", b"x", mode=0o644)
    assert stat.S_IMODE(os.lstat(target / "link").st_mode) == 0o777
    assert as_user(STRANGER, (target / "link").read_bytes) == b"x"


def test_link_belongs_to_its_maker(target: Path) -> None:
    target.chmod(0o777)
    as_user(OWNER, lambda: os.symlink("x", target / "link"))
    found = os.lstat(target / "link")
    assert (found.st_uid, found.st_gid) == (OWNER.uid, OWNER.gid)


def test_owner_of_a_link_is_changed_without_following(target: Path) -> None:
    make_file(target / "f")
    make_symlink(target / "link", "f")
    os.lchown(target / "link", OWNER.uid, OWNER.gid)
    assert os.lstat(target / "link").st_uid == OWNER.uid
    assert (target / "f").stat().st_uid == 0


def test_directory_must_be_writable(target: Path) -> None:
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.symlink("x", target / "link"))
    with fails(errno.ENOENT):
        os.symlink("x", target / "missing" / "link")
    make_file(target / "f")
    with fails(errno.ENOTDIR):
        os.symlink("x", target / "f" / "link")
