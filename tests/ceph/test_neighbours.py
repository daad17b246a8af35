"""A gateway and ceph-fuse on one tree."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster.ceph import CephCluster
from tests.faults.contents import Found, check, plant, read
from tests.gateway import Gateway, ceph_gateway

_TIMEOUT_S = 1.0
"""How long the kernel believes what it knows: [cache-1]."""
_NOISE_S = 10.0
_CONTENT = b"content" * 1000


class Site(NamedTuple):
    gateway: Gateway
    fuse: Path
    """The same directory through ceph-fuse."""

    @property
    def both(self) -> tuple[tuple[Path, Path], ...]:
        return ((self.gateway.path, self.fuse), (self.fuse, self.gateway.path))


@pytest.fixture
def site(cluster: CephCluster, base: Path) -> Iterator[Site]:
    """Return a mounted gateway, and a ceph-fuse beside it."""
    gateway = ceph_gateway(cluster, base)
    with gateway.mounted(), cluster.ceph_fuse(base / "fuse", gateway.source[5:]) as fuse:
        yield Site(gateway, fuse)


def seen_after(true: Callable[[], bool]) -> float:
    """Wait until something is so; return how long that took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() < begun + _TIMEOUT_S + _NOISE_S
        time.sleep(0.01)
    return time.monotonic() - begun


def test_each_sees_what_the_other_has_done(site: Site) -> None:
    """[multi-client-1], [cache-1], [cache-2]"""
    longest_s = max(_work_seen(here, there) for here, there in site.both)
    print(f"seen after {longest_s:.2f} s at most")


def _work_seen(here: Path, there: Path) -> float:
    """Make, rename and remove; return how long it took at most until that was seen there."""
    (here / "d").mkdir()
    (here / "d/made").write_bytes(_CONTENT)
    assert (there / "d/made").read_bytes() == _CONTENT
    (here / "d/made").rename(here / "d/renamed")
    assert (there / "d/renamed").read_bytes() == _CONTENT
    assert os.listdir(there / "d") == ["renamed"]
    times_s = [seen_after(lambda: not (there / "d/made").exists())]
    (here / "d/renamed").unlink()
    times_s.append(seen_after(lambda: not (there / "d/renamed").exists()))
    (here / "d").rmdir()
    times_s.append(seen_after(lambda: not (there / "d").exists()))
    return max(times_s)


def test_what_ceph_fuse_has_open_can_be_read_after_the_gateway_has_deleted_it(site: Site) -> None:
    """[unlink-5]"""
    (site.fuse / "file").write_bytes(_CONTENT)
    with (site.fuse / "file").open("rb", buffering=0) as file:
        assert file.read(10) == _CONTENT[:10]
        (site.gateway.path / "file").unlink()
        seen_after(lambda: not (site.fuse / "file").exists())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read() == _CONTENT[10:]


def test_snapshot_keeps_what_is_deleted_and_so_does_the_trash(site: Site) -> None:
    top = site.gateway.path / "tree"
    wanted = plant(top, "tree")
    (site.fuse / ".snap/before").mkdir()
    try:
        subprocess.run(["rm", "-rf", str(top)], check=True)
        assert not top.exists()
        site.gateway.run("trash", "restore", str(top), check=True)
        check(wanted, _found(top, "tree"))
        assert (site.fuse / ".snap/before/tree/d1/below/f1").read_text() == "tree:tree-1-1"
    finally:
        (site.fuse / ".snap/before").rmdir()


def _found(top: Path, mark: str) -> dict[str, list[Found]]:
    found: dict[str, list[Found]] = {}
    for content, name in read(top, mark):
        found.setdefault(content, []).append(name)
    return found


def rm(*paths: Path) -> None:
    subprocess.run(["rm", "-rf", *map(str, paths)], check=True)


def remove_trash(site: Site, parts: str = "") -> None:
    """Remove parts of the trash beside the gateway, which may be putting something in."""
    command = ["sh", "-c", f"rm -rf {site.fuse}/.trashbin/{parts}"]
    subprocess.run(command, stderr=subprocess.DEVNULL)


def test_gateway_goes_on_when_parts_of_its_trash_are_removed(site: Site) -> None:
    """[multi-client-6]: what was in there is gone, and nothing else."""
    gateway = site.gateway
    top = gateway.path / "tree"
    wanted = plant(top, "tree")
    for parts in ("", "r*", "tombs", "restoring", "journal"):
        (gateway.path / "lost").write_bytes(_CONTENT)
        (gateway.path / "lost").unlink()
        remove_trash(site, parts)
        rm(top)
        gateway.run("trash", "restore", str(top), check=True)
        check(wanted, _found(top, "tree"))
    assert "it is made anew" in gateway.log


@pytest.mark.faults
def test_no_delete_fails_while_the_trash_is_being_removed(site: Site) -> None:
    """[multi-client-6]"""
    top, kept = site.gateway.path / "tree", site.gateway.path / "kept"
    wanted = plant(kept, "kept")
    plant(top, "tree")
    with subprocess.Popen(["rm", "-rf", str(top)]) as removal:
        time.sleep(0.1)
        remove_trash(site)
    assert removal.returncode == 0
    assert not top.exists()
    check(wanted, _found(kept, "kept"))
    rm(kept)
    site.gateway.run("trash", "restore", str(kept), check=True)
    check(wanted, _found(kept, "kept"))
