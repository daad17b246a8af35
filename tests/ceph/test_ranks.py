"""Deletes stay within the metadata server of their directory: docs/decisions/0008.

Read off `ceph tell mds.N perf dump mds_server`: `handle_peer_request` counts what one server asks
another to do with it, as a rename between directories of two ranks needs. Nobody else may use the
cluster meanwhile.

What lies directly in a pinned directory isn't looked at: the inode of that directory, whose times
each delete changes, belongs to the rank of the directory above it.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, ceph_gateway, file_system
from tests.waiting import wait_until

_RANKS = (0, 1)
_FILES = 100
_SETTLED_S = 5.0
"""For so long no server has asked another for anything."""
_wait_for = functools.partial(wait_until, within_s=60.0)
_CONTENT = b"x" * 5000


@pytest.fixture
def gateway(cluster: CephCluster, base: Path) -> Iterator[Gateway]:
    """Return a mounted gateway."""
    with ceph_gateway(cluster, base).mounted() as gateway:
        yield gateway


def _peer_requests(cluster: CephCluster) -> int:
    """Return how many requests servers have made of each other."""
    counters = [
        cluster.ceph("tell", f"mds.{rank}", "perf", "dump", "mds_server") for rank in _RANKS
    ]
    return sum(one["mds_server"]["handle_peer_request"] for one in counters)


def _wait_until_settled(cluster: CephCluster) -> None:
    def is_settled() -> bool:
        before = _peer_requests(cluster)
        time.sleep(_SETTLED_S)
        return _peer_requests(cluster) == before

    _wait_for(is_settled)


def _has(cluster: CephCluster, rank: int, ino: int) -> bool:
    """Tell whether a rank has the content of a directory that was pinned."""
    trees = cluster.ceph("tell", f"mds.{rank}", "get", "subtrees")
    return any(
        tree["dir"]["dirfrag"].startswith(f"0x{ino:x}") and tree["auth_first"] == rank
        for tree in trees
    )


def _pinned(cluster: CephCluster, gateway: Gateway, rank: int) -> Path:
    """Make a directory below one that a rank has, with things in it."""
    pinned = gateway.path / f"rank{rank}"
    pinned.mkdir()
    os.setxattr(pinned, "ceph.dir.pin", b"%d" % rank)
    path = pinned / "work"
    path.mkdir()
    _wait_for(lambda: _has(cluster, rank, pinned.stat().st_ino))
    (path / "first").touch()
    for number in range(_FILES):
        (path / f"file{number}").write_bytes(_CONTENT)
    for number in range(_FILES // 10):
        (path / f"dir{number}").mkdir()
        (path / f"new{number}").write_bytes(_CONTENT)
    return path


def _delete_all_kinds(path: Path) -> None:
    for number in range(_FILES // 10):
        (path / f"new{number}").rename(path / f"file{number}")
        os.truncate(path / f"file{number}", 0)
        (path / f"dir{number}").rmdir()
    for number in range(_FILES):
        (path / f"file{number}").unlink()


def test_no_delete_needs_two_servers(cluster: CephCluster, gateway: Gateway) -> None:
    paths = [_pinned(cluster, gateway, rank) for rank in _RANKS]
    for path in paths:  # makes the hour, and has the gateway learn which rank has what
        (path / "first").unlink()
    _wait_until_settled(cluster)
    for path in paths:
        (path / "second").touch()
        (path / "second").unlink()
    before = _peer_requests(cluster)
    for path in paths:
        _delete_all_kinds(path)
    assert _peer_requests(cluster) == before
    kept = {(item["path"].split("/")[0], item["kind"]) for item in gateway.trash()}
    assert kept == {(f"rank{rank}", kind) for rank in _RANKS for kind in ("file", "dir")}


def test_shards_are_on_their_ranks_before_the_first_delete(
    cluster: CephCluster, gateway: Gateway
) -> None:
    """Else that one had to wait for the move: for a second and more."""
    with file_system(cluster) as fs:
        trash = f"{gateway.source.partition(':')[2]}/.trashbin"
        shards = {
            (rank, number): fs.stat(f"{trash}/r{rank}.{number:02x}").st_ino
            for rank in _RANKS
            for number in range(4)
        }
    for (rank, _), ino in shards.items():
        _wait_for(lambda rank=rank, ino=ino: _has(cluster, rank, ino))


def test_a_move_between_ranks_is_seen_by_this_counter(
    cluster: CephCluster, gateway: Gateway
) -> None:
    paths = [_pinned(cluster, gateway, rank) for rank in _RANKS]
    before = _peer_requests(cluster)
    (paths[0] / "file0").rename(paths[1] / "moved")
    assert _peer_requests(cluster) > before
