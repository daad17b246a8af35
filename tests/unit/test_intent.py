"""What an `rm -rf` is about to delete, and when that is in doubt: [intent-1]."""

from __future__ import annotations

import pytest

from asyncdelete.intent import Rm, operands, trees
from cephfs_ext.core.mountinfo import Mount

_OURS = 77
_MOUNTS = [
    Mount(1, "/", "/", "ext4"),
    Mount(_OURS, "/", "/mnt/g", "fuse.cephfs-ext"),
    Mount(_OURS, "/users/ann", "/home/ann", "fuse.cephfs-ext"),
    Mount(2, "/", "/mnt/g/over/there", "tmpfs"),
    Mount(1, "/x", "/mnt/g/hidden", "ext4"),
]


@pytest.mark.parametrize("line", [
    "-rf a", "-r -f a", "-fR a", "-vrf a", "--recursive --force a", "-rf -- a", "a -rf", "-rdf a",
])  # fmt: skip
def test_these_delete_whole(line: str) -> None:
    """[intent-1]."""
    assert operands(line.encode().split()) == [b"a"]


@pytest.mark.parametrize("line", [
    "-r a", "-f a", "a", "-rfi a", "-rfI a", "-rf --interactive=never a", "--one-file-system -rf a",
    "-rf --no-preserve-root a", "-rf --rec a", "-rf", "-rfx a", "-- -rf a",
])  # fmt: skip
def test_these_do_not(line: str) -> None:
    """[intent-1]."""
    assert operands(line.encode().split()) == []


def _trees(*arguments: str, cwd: str = "/mnt/g/a") -> list[str]:
    rm = Rm(tuple(argument.encode() for argument in ("-rf", *arguments)), cwd, _MOUNTS)
    return [b"/".join(names).decode() for names in trees(rm, _OURS)]


def test_operands_are_found_on_the_file_system() -> None:
    """[intent-1]: relative, absolute, through a bind mount."""
    assert _trees("b", "./c/", "d//e", "--", "-f") == ["a/b", "a/c", "a/d/e", "a/-f"]
    assert _trees("/mnt/g/x", "../y", "../../g/z") == ["x", "y", "z"]
    assert _trees("../b/d", cwd="/home/ann/c") == ["users/ann/b/d"]
    assert _trees("/home/ann/b") == ["users/ann/b"]


def test_what_may_lead_elsewhere_is_left_alone() -> None:
    """[intent-1]: links, other file systems, mountpoints, what has a mount below it."""
    assert _trees("b/../c", ".", "..", "/mnt/g", "/mnt/g/", "/", "/mnt") == []
    assert _trees("/etc", "../../h", "/home/ann", "/mnt/gx") == []
    assert (
        _trees("/mnt/g/over", "/mnt/g/over/there", "/mnt/g/over/there/x", "/mnt/g/hidden/x") == []
    )
    assert _trees("b", cwd="(unreachable)/a") == []
