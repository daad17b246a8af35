"""Mounts as /proc shows them, and paths that lead to them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cephfs_ext.core.mountinfo import mount_above, mount_at, mountpoint_of, without_links


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[str]:
    """Mount something at a name that /proc has to escape."""
    place = os.fsdecode(os.fsencode(tmp_path) + b"/a b\t\\040\n#\xff")
    os.mkdir(place)
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_name_that_needs_escapes(odd: str) -> None:
    mount = mount_at(odd)
    assert mount is not None
    assert (mount.place, mount.root, mount.kind) == (odd, "/", "tmpfs")
    assert mount.device == os.stat(odd).st_dev
    assert not mount.is_gateway


def test_bind_mount_tells_what_it_shows(odd: str, tmp_path: Path) -> None:
    os.makedirs(f"{odd}/x/y")
    (tmp_path / "bound").mkdir()
    subprocess.run(["mount", "--bind", f"{odd}/x/y", str(tmp_path / "bound")], check=True)
    try:
        mount = mount_at(str(tmp_path / "bound"))
        assert mount is not None
        assert mount.root == "/x/y"
    finally:
        subprocess.run(["umount", str(tmp_path / "bound")], check=True)


def test_nothing_mounted(tmp_path: Path) -> None:
    assert mount_at(str(tmp_path)) is None


def test_mount_above(odd: str, tmp_path: Path) -> None:
    assert mount_above(odd).place == odd
    assert mount_above(f"{odd}/not/there").place == odd
    assert mount_above(f"{odd}x").place != odd
    assert mount_above("/proc/1").kind == "proc"
    assert mount_above("/").place == "/"


def test_links_are_followed_but_for_the_last_name(tmp_path: Path) -> None:
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    real = os.path.realpath(tmp_path / "real")
    assert without_links(f"{tmp_path}/link/gone") == f"{real}/gone"
    assert without_links(f"{tmp_path}/link/../gone") == f"{os.path.dirname(real)}/gone"
    assert without_links(f"{tmp_path}/link/") == f"{os.path.dirname(real)}/link"
    assert without_links(f"{tmp_path}/link/below/..") == real
    assert without_links("/") == "/"


def test_dots_behind_a_link_are_those_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    assert without_links(f"{tmp_path}/link/../x") == os.path.realpath(tmp_path / "a") + "/x"


def test_mountpoint_through_links(odd: str, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(odd)
    assert mountpoint_of(f"{tmp_path}/one") == odd
    assert mountpoint_of(f"{odd}/../{os.path.basename(odd)}/") == odd
    (tmp_path / "loop").symlink_to("loop")
    assert mountpoint_of(f"{tmp_path}/loop") == os.path.realpath(tmp_path) + "/loop"
