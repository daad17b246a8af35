"""statvfs(3): figures that programs divide by, compare and trust."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tests.posix.actors import STRANGER, as_user
from tests.posix.nodes import fails, make_dir, make_file, opened


def test_figures_make_sense(target: Path) -> None:
    found = os.statvfs(target)
    for size in (found.f_bsize, found.f_frsize):
        assert size >= 512
        assert size & (size - 1) == 0, "not a power of two"
    assert 0 <= found.f_bavail <= found.f_bfree <= found.f_blocks
    assert found.f_blocks > 0
    assert found.f_namemax == 255


def test_inode_figures_make_sense(target: Path) -> None:
    found = os.statvfs(target)
    # A file system without a fixed number of inodes says 0, or tells no free ones.
    assert found.f_ffree <= found.f_files or found.f_files == 0 or found.f_ffree in (0, 2**64 - 1)


def test_every_node_and_descriptor_tells_the_same(target: Path) -> None:
    """[statfs-1]."""
    make_dir(target / "d")
    make_file(target / "f")
    fixed = [(s.f_bsize, s.f_frsize, s.f_namemax) for s in map(os.statvfs, _nodes(target))]
    with opened(target / "f") as fd:
        found = os.fstatvfs(fd)
    assert {*fixed, (found.f_bsize, found.f_frsize, found.f_namemax)} == {fixed[0]}


def _nodes(target: Path) -> list[Path]:
    return [target, target / "d", target / "f"]


def test_everybody_may_ask(target: Path) -> None:
    make_file(target / "f", mode=0)
    assert as_user(STRANGER, lambda: os.statvfs(target / "f").f_namemax) == 255


def test_missing_file(target: Path) -> None:
    with fails(errno.ENOENT):
        os.statvfs(target / "missing")


def test_pathconf_agrees(target: Path) -> None:
    assert os.pathconf(target, "PC_NAME_MAX") == 255
    assert os.pathconf(target, "PC_PATH_MAX") == 4096
    assert os.pathconf(target, "PC_LINK_MAX") > 1
