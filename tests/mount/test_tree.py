"""A whole tree is deleted and restored, in every way that users have, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cluster.ceph import CephCluster
from tests.conftest import STORAGES
from tests.gateway import COMMAND, Gateway, ceph_gateway, posix_gateway
from tests.mount import forest, picture
from tests.mount.forest import Forest, plant
from tests.mount.picture import Look, Picture, differences
from tests.posix.actors import OWNER, ROOT, User, as_user

FIGURES_WAIT_S = 60.0
"""How long CephFS may take to add up a tree that was moved whole."""

RESTORE_S = 300.0
MIGRATION_S = 60.0


class Planted(NamedTuple):
    """A tree on a mount, and what it looked like when it was new.

    The tests take the same tree away, one after the other; each gives it back.
    """

    gateway: Gateway
    cluster: CephCluster | None
    forest: Forest
    picture: Picture
    outside: Picture


class Way(NamedTuple):
    """One way to delete a tree."""

    delete: Callable[[Planted], None]
    who: User
    is_whole: bool
    """True if the tree goes by one rename, which doesn't touch what is below."""


def _rm(planted: Planted) -> None:
    subprocess.run(["rm", "-rf", planted.forest.top], check=True, timeout=RESTORE_S)


def _mv(planted: Planted) -> None:
    trash = planted.forest.top.parent / ".trashbin/"
    subprocess.run(["mv", planted.forest.top, f"{trash}/"], check=True)


def _cephfs_ext_rm(planted: Planted) -> None:
    planted.gateway.run("rm", "-r", str(planted.forest.top), check=True)


def _rmtree(planted: Planted) -> None:
    as_user(OWNER, lambda: shutil.rmtree(os.fsencode(planted.forest.top)), timeout_s=RESTORE_S)


WAYS = {
    "rm -rf": Way(_rm, ROOT, is_whole=False),
    "mv to .trashbin": Way(_mv, ROOT, is_whole=True),
    "cephfs-ext rm -r": Way(_cephfs_ext_rm, ROOT, is_whole=True),
    "rmtree of an owner": Way(_rmtree, OWNER, is_whole=False),
}


@pytest.fixture(scope="module", params=STORAGES)
def planted(request: pytest.FixtureRequest) -> Iterator[Planted]:
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        base = Path(name)
        base.chmod(0o755)
        cluster: CephCluster | None = None
        if request.param == "ceph":
            cluster = request.getfixturevalue("cluster")
        gateway = posix_gateway(base) if cluster is None else ceph_gateway(cluster, base)
        with gateway.mounted():
            gateway.path.chmod(0o777)
            trees = plant(gateway.path)
            if cluster is not None:
                _spread_over_ranks(cluster, trees.top)
            yield Planted(
                gateway,
                cluster,
                trees,
                picture.take(os.fsencode(trees.top)),
                picture.take(os.fsencode(trees.outside)),
            )


def _spread_over_ranks(cluster: CephCluster, top: Path) -> None:
    """Give some of the tree to the second metadata server, and wait until it has it."""
    pinned = ("dir2", "dir4", "dir6/dir50")
    for name in pinned:
        os.setxattr(top / name, "ceph.dir.pin", b"1")
    until = time.monotonic() + MIGRATION_S
    while True:
        subtrees = cluster.ceph("tell", "mds.1", "get", "subtrees")
        paths = [one["dir"]["path"] for one in subtrees if one["is_auth"]]
        if all(any(path.endswith(f"tree/{name}") for path in paths) for name in pinned):
            return
        assert time.monotonic() < until, paths
        time.sleep(0.5)


@pytest.mark.parametrize("way", WAYS)
def test_deleted_tree_is_one_line_and_comes_back_as_it_was(planted: Planted, way: str) -> None:
    deleting = WAYS[way]
    before, extents = picture.take(os.fsencode(planted.forest.top)), _extents(planted)
    deleting.delete(planted)
    assert not os.path.lexists(planted.forest.top)
    _check_figures(planted, deleting)
    _restore(planted, deleting.who)
    assert [item for item in planted.gateway.trash() if item["path"] == "tree"] == []
    _check_tree(planted, deleting, before)
    assert _extents(planted) == extents
    _check_outside(planted)


def test_planted_tree_has_what_the_tests_are_about(planted: Planted) -> None:
    looks = planted.picture.values()
    kinds = [look.kind for look in looks]
    assert kinds.count(stat.S_IFDIR) == forest.DIRECTORIES
    assert kinds.count(stat.S_IFREG) > forest.FILES
    assert len({(look.uid, look.gid) for look in looks}) > 4
    assert {0o4755, 0o2755, 0o1777} <= {look.mode for look in looks}
    assert sum(look.first != name for name, look in planted.picture.items()) > 30
    assert any(name == "system.posix_acl_default" for look in looks for name, _ in look.xattrs)
    assert any(name == "trusted.gateway-test" for look in looks for name, _ in look.xattrs)
    inside = {
        os.stat(os.path.join(os.fsencode(planted.forest.top), name)).st_ino
        for name, look in planted.picture.items()
        if look.kind == stat.S_IFREG and look.nlink > 1
    }
    assert os.stat(planted.forest.outside / "elsewhere").st_ino in inside


def _restore(planted: Planted, who: User) -> None:
    flags = ["-o", f"control.runtime_dir={planted.gateway.runtime}"]
    command = [COMMAND, "trash", "restore", str(planted.forest.top), *flags]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=RESTORE_S,
        user=who.uid,
        group=who.gid,
        extra_groups=[],
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def _check_tree(planted: Planted, way: Way, before: Picture) -> None:
    if not way.is_whole:
        before = {
            name: look._replace(mtime_ns=0) if look.kind == stat.S_IFDIR else look
            for name, look in before.items()
        }
    after = picture.take(os.fsencode(planted.forest.top), dir_times=way.is_whole)
    found = differences(before, after)
    assert not found, "\n".join(found[:50])


def _check_outside(planted: Planted) -> None:
    after = picture.take(os.fsencode(planted.forest.outside))
    found = differences(planted.outside, after)
    assert not found, "\n".join(found)


def _check_figures(planted: Planted, way: Way) -> None:
    """The trash shows one line; CephFS itself adds up what was moved whole, with a delay."""
    adds_up_later = way.is_whole and planted.cluster is not None
    wanted = _figures_of_ceph(planted) if adds_up_later else [_figures(planted)]
    until = time.monotonic() + FIGURES_WAIT_S
    while True:
        items = planted.gateway.trash()
        assert [item["path"] for item in items] == ["tree"], items
        got = (items[0]["entries"], items[0]["size_bytes"])
        if got in wanted or not adds_up_later:
            break
        assert time.monotonic() < until, f"{got} instead of {wanted}"
        time.sleep(1)
    assert got in wanted
    assert items[0]["deleter_uid"] == way.who.uid
    assert items[0]["kind"] == "dir"


def _figures(planted: Planted) -> tuple[int, int]:
    """Return how many names, and how many bytes of files, each counted once, are in the tree."""
    return len(planted.picture), sum(look.size for look in _inodes(planted))


def _figures_of_ceph(planted: Planted) -> list[tuple[int, int]]:
    """Return what CephFS may say: it counts inodes, and each where its first name is.

    The file with a name outside of the tree is in either place.
    """
    inodes = _inodes(planted)
    outside = planted.outside[b"elsewhere"].size
    size = sum(look.size for look in inodes)
    return [(len(inodes), size), (len(inodes) - 1, size - outside)]


def _inodes(planted: Planted) -> list[Look]:
    return [look for name, look in planted.picture.items() if look.first == name]


def _extents(planted: Planted) -> Any:
    """Return where the sparse file has data, as the storage itself knows."""
    if planted.cluster is None:
        source = planted.gateway.source.partition(":")[2]
        path = os.path.join(source, "tree/sparse")
        assert os.lstat(path).st_blocks * 512 < forest.SPARSE_BYTES // 100
        return _data_of(path)
    ino = os.lstat(planted.forest.top / "sparse").st_ino
    return ino, _objects_of(planted.cluster, ino)


def _data_of(path: str) -> list[tuple[int, int]]:
    extents = []
    with open(path, "rb", buffering=0) as stream:
        fd, end = stream.fileno(), 0
        while True:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:  # ENXIO: no more data
                return extents
            end = os.lseek(fd, start, os.SEEK_HOLE)
            extents.append((start, end))


def _objects_of(cluster: CephCluster, ino: int) -> list[tuple[int, int]]:
    """Return the numbers and sizes of the file's objects that exist."""
    import rados

    found = []
    with (
        rados.Rados(conffile=str(cluster.conf), rados_id="admin") as client,
        client.open_ioctx("cephfs.data") as ioctx,
    ):
        for number in range(forest.SPARSE_BYTES // (4 << 20)):
            try:
                size, _ = ioctx.stat(f"{ino:x}.{number:08x}")
            except rados.ObjectNotFound:
                continue
            found.append((number, size))
    assert 0 < len(found) <= len(forest.SPARSE_DATA) + 1
    return found


def test_restored_directory_lives_while_something_in_it_is_open(gateway: Gateway) -> None:
    top = gateway.path / "top"
    (top / "below").mkdir(parents=True)
    (top / "file").write_text("content")
    with (top / "file").open() as stream:
        here = os.open(top / "below", os.O_PATH)
        shutil.rmtree(top)
        gateway.run("trash", "restore", str(top), check=True)
        assert sorted(path.name for path in top.iterdir()) == ["below", "file"]
        (top / "below/new").write_text("more")
        assert (top / "below/new").read_text() == "more"
        assert stream.read() == "content"
        os.close(here)


def test_files_just_written_and_deleted_are_listed_at_once(gateway: Gateway) -> None:
    top = gateway.path / "top"
    top.mkdir()
    for number in range(60):
        (top / str(number)).write_text("content")
    shutil.rmtree(top)
    begun = time.monotonic()
    assert [item["entries"] for item in gateway.trash()] == [61]
    assert time.monotonic() - begun < 20  # 5 s for every four files, if servers take their time
