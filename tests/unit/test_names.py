"""What a storage refuses before it asks its file system."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cephfs_ext.core.errors import DeniedError, FSError
from cephfs_ext.storage.names import (
    check_name,
    check_node,
    check_regular,
    check_sizeable,
    check_target,
)


def refusal(check: Callable[[], None]) -> int:
    """Return the errno that a check raises, 0 for none."""
    try:
        check()
    except FSError as exc:
        return exc.errno
    return 0


@given(st.binary(max_size=300))
def test_a_name_is_one_component(name: bytes) -> None:
    if name in (b"", b".", b"..") or {0, ord("/")} & set(name):
        expected = errno.EINVAL
    else:
        expected = errno.ENAMETOOLONG if len(name) > 255 else 0
    assert refusal(lambda: check_name(name)) == expected


@pytest.mark.parametrize("name", [b"...", b". ", b" ", b"\xff", b"a" * 255, b"..a", b"\\"])
def test_names_that_look_odd_are_names(name: bytes) -> None:
    check_name(name)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0"])
def test_names_that_lead_elsewhere(name: bytes) -> None:
    assert refusal(lambda: check_name(name)) == errno.EINVAL


NODES = [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]


@pytest.mark.parametrize("kind", NODES, ids=oct)
def test_nodes_that_mknod_makes(kind: int) -> None:
    check_node(kind | 0o644)


@pytest.mark.parametrize("mode", [0, 0o644, stat.S_IFLNK, 0o130000, 0o170000, 0o030000])
def test_nodes_that_mknod_does_not_make(mode: int) -> None:
    assert refusal(lambda: check_node(mode)) == errno.EINVAL


def test_mknod_makes_no_directory() -> None:
    with pytest.raises(DeniedError):
        check_node(stat.S_IFDIR | 0o755)


@pytest.mark.parametrize("length", [1, 255, 4095])
def test_targets_of_links(length: int, tmp_path: Path) -> None:
    target = b"t" * length
    check_target(target)
    os.symlink(target, os.fsencode(tmp_path / "link"))


def test_targets_that_links_can_not_have(tmp_path: Path) -> None:
    for target in (b"", b"t" * 4096):
        with pytest.raises(OSError, match="link") as caught:
            os.symlink(target, os.fsencode(tmp_path / "link"))
        assert refusal(lambda target=target: check_target(target)) == caught.value.errno
    assert refusal(lambda: check_target(b"a\0b")) == errno.EINVAL


KINDS = [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR]


@pytest.mark.parametrize("kind", KINDS, ids=oct)
def test_only_files_are_opened_and_truncated(kind: int) -> None:
    special = {stat.S_IFREG: 0, stat.S_IFDIR: errno.EISDIR}
    assert refusal(lambda: check_regular(kind | 0o644)) == special.get(kind, errno.ESTALE)
    assert refusal(lambda: check_sizeable(kind | 0o644)) == special.get(kind, errno.EINVAL)
