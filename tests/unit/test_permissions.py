"""Who may do what: compared with what the kernel says of the same inode, for every mode."""

from __future__ import annotations

import itertools
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cephfs_ext.core.permissions import (
    ACL_XATTR,
    READ,
    SEARCH,
    WRITE,
    parse_acl,
    permits,
    sticky_forbids,
    without_privileges,
)
from cephfs_ext.core.types import Attr, Credentials, Ino
from cephfs_ext.storage.posix_calls import attr_of
from tests.posix.actors import User, as_user

OWNER, GROUP = 30001, 30002
NAMED, NAMED_GROUP = 30003, 30004
WANTS = range(1, 8)
NO_ID = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, GROUP_TAG, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

CREDENTIALS = [
    Credentials(0, 0),
    Credentials(OWNER, OWNER),
    Credentials(OWNER, GROUP),
    Credentials(NAMED, NAMED),
    Credentials(NAMED, NAMED, (GROUP,)),
    Credentials(31000, GROUP),
    Credentials(31000, 31000, (31001, GROUP)),
    Credentials(31000, NAMED_GROUP),
    Credentials(31000, 31000, (NAMED_GROUP, GROUP)),
    Credentials(31000, 31000),
]


def kernel_says(paths: list[Path], cred: Credentials) -> list[list[bool]]:
    """Return, for each path, which of `WANTS` the kernel grants a user."""
    user = User(cred.uid, cred.gid, cred.groups)
    return as_user(user, lambda: [[os.access(path, want) for want in WANTS] for path in paths])


def we_say(paths: list[Path], cred: Credentials) -> list[list[bool]]:
    """Return the same as `permits` has it."""
    return [[permits(attr, cred, want, acl) for want in WANTS] for attr, acl in map(facts, paths)]


def facts(path: Path) -> tuple[Attr, bytes]:
    """Return what the storage would say of an inode."""
    try:
        acl = os.getxattr(path, ACL_XATTR)
    except OSError:
        acl = b""
    return attr_of(os.stat(path)), acl


@pytest.fixture
def directory(base: Path) -> Path:
    """Return a directory that everybody gets to, also while another pytest starts."""
    return base


@pytest.fixture(params=["files", "directories"])
def with_modes(request: pytest.FixtureRequest, directory: Path) -> list[Path]:
    """Return an inode for every mode."""
    paths = []
    for mode in range(0o1000):
        path = directory / f"{mode:03o}"
        if request.param == "files":
            path.touch()
        else:
            path.mkdir()
        os.chown(path, OWNER, GROUP)
        path.chmod(mode)
        paths.append(path)
    return paths


@pytest.mark.parametrize("cred", CREDENTIALS, ids=str)
def test_every_mode(with_modes: list[Path], cred: Credentials) -> None:
    assert we_say(with_modes, cred) == kernel_says(with_modes, cred)


def encoded(entries: list[tuple[int, int, int]]) -> bytes:
    """Return an access control list as the kernel has it."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def lists() -> Iterator[list[tuple[int, int, int]]]:
    """Yield access control lists of many kinds, with and without each optional entry."""
    some = (0, READ | SEARCH, READ | WRITE)
    for user, named, group, named_group, other in itertools.product(some, repeat=5):
        for mask in (0, READ | WRITE, READ | WRITE | SEARCH):
            yield [
                (USER_OBJ, user, NO_ID),
                (USER, named, NAMED),
                (GROUP_OBJ, group, NO_ID),
                (GROUP_TAG, named_group, NAMED_GROUP),
                (MASK, mask, NO_ID),
                (OTHER, other, NO_ID),
            ]
    for user, group, other, mask in itertools.product((0, READ, WRITE | SEARCH), repeat=4):
        yield [(USER_OBJ, user, NO_ID), (GROUP_OBJ, group, NO_ID), (OTHER, other, NO_ID)]
        for tag, ident in ((USER, NAMED), (GROUP_TAG, NAMED_GROUP), (GROUP_TAG, GROUP)):
            extra = [(tag, READ | WRITE, ident), (GROUP_OBJ, group, NO_ID)]
            yield [
                (USER_OBJ, user, NO_ID),
                *sorted(extra),
                (MASK, mask, NO_ID),
                (OTHER, other, NO_ID),
            ]


@pytest.fixture
def with_lists(directory: Path) -> list[Path]:
    """Return files with access control lists."""
    paths = []
    for number, entries in enumerate(lists()):
        path = directory / str(number)
        path.touch()
        os.chown(path, OWNER, GROUP)
        os.setxattr(path, ACL_XATTR, encoded(entries))
        paths.append(path)
    return paths


def test_every_list(with_lists: list[Path]) -> None:
    for cred in CREDENTIALS:
        ours, kernels = we_say(with_lists, cred), kernel_says(with_lists, cred)
        wrong = [
            (path.name, parse_acl(facts(path)[1]))
            for path, mine, theirs in zip(with_lists, ours, kernels, strict=True)
            if mine != theirs
        ]
        assert not wrong[:3], f"{cred}: {len(wrong)} of {len(ours)}"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x02\x00\x00\x00",
        struct.pack("<I", 1) + bytes(8),
        struct.pack("<I", 2) + bytes(7),
        struct.pack("<I", 2) + bytes(9),
        b"\x02\x00",
    ],
)
def test_what_is_no_list_does_not_count(raw: bytes) -> None:
    assert parse_acl(raw) is None
    attr = inode(0o640)
    assert permits(attr, Credentials(OWNER, 1), READ | WRITE, raw)
    assert not permits(attr, Credentials(31000, 1), READ, raw)


def test_list_is_decoded() -> None:
    entries = [(USER_OBJ, 6, NO_ID), (USER, 4, 4_000_000_000), (MASK, 4, NO_ID)]
    assert parse_acl(encoded(entries)) == entries


def inode(mode: int, *, uid: int = OWNER, gid: int = GROUP) -> Attr:
    """Return attributes of a file."""
    return Attr(Ino(1), stat.S_IFREG | mode, 1, uid, gid, 0, 0, 0, 512, 0, 0, 0)


@pytest.mark.parametrize("parent_uid", [0, OWNER, 31000])
@pytest.mark.parametrize("victim_uid", [0, OWNER, 31000])
@pytest.mark.parametrize("sticky", [False, True])
def test_sticky_directory(directory: Path, parent_uid: int, victim_uid: int, sticky: bool) -> None:
    parent = directory / "d"
    parent.mkdir()
    for cred in (Credentials(0, 0), Credentials(OWNER, 1), Credentials(31000, 1)):
        victim = parent / "f"
        victim.touch()
        os.chown(victim, victim_uid, 0)
        os.chown(parent, parent_uid, 0)
        parent.chmod(0o1777 if sticky else 0o777)
        forbids = sticky_forbids(attr_of(parent.stat()), attr_of(victim.stat()), cred)
        assert forbids == (not _removes(cred, victim))


def _removes(cred: Credentials, victim: Path) -> bool:
    try:
        as_user(User(cred.uid, cred.gid, cred.groups), victim.unlink)
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize("mode", [0o702, 0o712, 0o4702, 0o4712, 0o2712, 0o6712, 0o1702])
def test_a_write_takes_privileges_away(directory: Path, mode: int) -> None:
    path = directory / "f"
    path.touch()
    os.chown(path, OWNER, GROUP)
    path.chmod(mode)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            file.write(b"x")

    as_user(User(31000, 31000), write)
    assert without_privileges(mode) == stat.S_IMODE(path.stat().st_mode)


def test_setgid_without_execute_is_no_privilege() -> None:
    """As FUSE has it; kernels since 6.2 take it from a local file."""
    assert without_privileges(0o2644) == 0o2644
    assert without_privileges(0o6644) == 0o2644
