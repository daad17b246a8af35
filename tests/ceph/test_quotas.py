"""Quotas that come and go while a gateway runs: each directory with one is a domain of its own."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster.ceph import CephCluster
from tests.faults.contents import Found, check, plant, read
from tests.gateway import Gateway, ceph_gateway

_LARGE = b"100000"


class Site(NamedTuple):
    gateway: Gateway
    behind: Path
    """The same directory through ceph-fuse."""


@pytest.fixture(scope="module")
def site(cluster: CephCluster) -> Iterator[Site]:
    """Return a mounted gateway, and a ceph-fuse beside it."""
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        base = Path(name)
        gateway = ceph_gateway(cluster, base)
        with gateway.mounted(), cluster.ceph_fuse(base / "all", gateway.source[5:]) as behind:
            yield Site(gateway, behind)


@pytest.fixture
def gateway(site: Site) -> Gateway:
    """Return the gateway; the tests have directories of their own."""
    return site.gateway


def limit(directory: Path, files: bytes = _LARGE) -> None:
    """Set a quota through the gateway itself; 0 removes it."""
    os.setxattr(directory, "ceph.quota.max_files", files)


def remove_and_restore(gateway: Gateway, top: Path) -> None:
    """Delete a tree and bring it back, each file once."""
    wanted = plant(top, top.name)
    subprocess.run(["rm", "-rf", str(top)], check=True)
    assert not top.exists()
    gateway.run("trash", "restore", str(top), check=True)
    check(wanted, _found(top))


def _found(top: Path) -> dict[str, list[Found]]:
    found: dict[str, list[Found]] = {}
    for content, name in read(top, top.name):
        found.setdefault(content, []).append(name)
    return found


def in_trash(site: Site, top: str) -> int:
    """Count what lies in the trash of a directory, seen beside the gateway."""
    return len(list((site.behind / top / ".trashbin").glob("r?.*/*/*")))


def test_quota_that_is_set_moves_the_trash_and_its_removal_loses_nothing(site: Site) -> None:
    """[rename-5]"""
    gateway, home = site.gateway, site.gateway.path / "home"
    home.mkdir()
    before, within, after = (home / name for name in ("before", "within", "after"))
    for file in (before, within, after):
        file.write_text(file.name)
    before.unlink()
    limit(home)
    within.unlink()
    assert in_trash(site, "") == 1
    assert in_trash(site, "home") == 1
    limit(home, b"0")
    after.unlink()
    for file in (before, within, after):
        gateway.run("trash", "restore", str(file), check=True)
        assert file.read_text() == file.name
    remove_and_restore(gateway, home / "tree")


def test_nested_quotas_have_a_trash_each(site: Site) -> None:
    gateway, outer = site.gateway, site.gateway.path / "outer"
    inner = outer / "inner"
    inner.mkdir(parents=True)
    limit(outer)
    limit(inner)
    for directory in (outer, inner):
        (directory / "file").write_text(directory.name)
        (directory / "file").unlink()
    assert in_trash(site, "outer/inner") == 1
    assert in_trash(site, "outer") == 1
    remove_and_restore(gateway, inner / "tree")
    for directory in (outer, inner):
        gateway.run("trash", "restore", str(directory / "file"), check=True)
        assert (directory / "file").read_text() == directory.name


def test_home_with_a_quota_comes_back_first_and_then_what_was_in_it(gateway: Gateway) -> None:
    """[trash-14]: what was in it lies in its own trash, which went with it."""
    home = gateway.path / "whole"
    wanted = plant(home, home.name)
    limit(home)
    subprocess.run(["rm", "-rf", str(home)], check=True)
    gateway.run("trash", "restore", str(home), check=True)
    assert os.listdir(home) == []
    assert os.getxattr(home, "ceph.quota.max_files") == _LARGE
    gateway.run("trash", "restore", str(home), check=True)
    check(wanted, _found(home))


def test_mv_across_a_quota_copies_and_keeps_the_original(gateway: Gateway) -> None:
    """[rename-5]"""
    home, top = gateway.path / "target", gateway.path / "tree"
    home.mkdir()
    limit(home)
    wanted = plant(top, "tree")
    with pytest.raises(OSError) as caught:  # noqa: PT011
        top.rename(home / "tree")
    assert caught.value.errno == errno.EXDEV
    subprocess.run(["mv", str(top), str(home)], check=True)
    check(wanted, _found(home / "tree"))
    gateway.run("trash", "restore", str(top), check=True)
    check(wanted, _found(top))


def test_tree_moved_into_the_trash_of_a_home(gateway: Gateway) -> None:
    """[virtual-trash-2]"""
    home = gateway.path / "last"
    home.mkdir()
    limit(home)
    top = home / "tree"
    wanted = plant(top, "tree")
    subprocess.run(["mv", str(top), str(home / ".trashbin")], check=True)
    assert not top.exists()
    gateway.run("trash", "restore", str(top), check=True)
    check(wanted, _found(top))
