"""Another MDS takes a rank over while programs work on a gateway.

They have to wait, and nothing else: no program fails, what was synced is in its place or in the
trash, once for each of its names. The accounts are those of the kill tests.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.faults.contents import Contents, check, find, plant
from tests.faults.neighbour import Neighbour
from tests.faults.works import Play, replace_slowly
from tests.gateway import Gateway, ceph_gateway

_LOAD_S = 0.2
"""How long the programs work before the MDS goes."""
_PAUSE_S = 0.5
_WAIT_S = 60.0
"""Nobody waits longer: a standby takes over at once, or 20 s after the last beacon."""


@pytest.fixture(scope="module")
def gateway(cluster: CephCluster) -> Iterator[Gateway]:
    """Return a gateway for all rounds."""
    with (
        tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as base,
        ceph_gateway(cluster, Path(base)).mounted() as gateway,
    ):
        yield gateway


def _trees(top: Path, kind: str, count: int, mark: str) -> tuple[list[str], Contents]:
    """Make some trees; return their paths, and what is in them."""
    contents: Contents = {}
    paths = [top / f"{kind}{number}" for number in range(count)]
    for path in paths:
        contents |= plant(path, mark)
    return [str(path) for path in paths], contents


def _begin(gateway: Gateway, top: Path, mark: str) -> list[Play]:
    """Prepare all that programs need, then start them together; the last one has no end."""
    doomed, in_doomed = _trees(top, "rm", 4, mark)
    gone, in_gone = _trees(top, "restore", 2, mark)
    moved, in_moved = _trees(top, "mv", 1, mark)
    subprocess.run(["rm", "-rf", *gone], check=True)
    return [
        Play(["rm", "-rf", *doomed], in_doomed),
        Play(gateway.command("trash", "restore", *gone), in_gone),
        Play(["mv", *moved, str(top / ".trashbin")], in_moved),
        replace_slowly(gateway, top / "replaced", f"{mark}:replaced"),
    ]


def _end(plays: list[Play]) -> Contents:
    """Stop what has no end, wait for the rest; return what must be found."""
    wanted: Contents = {}
    assert not plays[-1].is_over()
    plays[-1].stop()
    for play in plays:
        wanted |= play.end()
        assert not play.failed
    return wanted


def _round(
    gateway: Gateway, cluster: CephCluster, rank: int, mark: str, fail: Callable[[], object]
) -> float:
    """Let the rank that has a tree fail under load; return how long the slowest step took."""
    neighbour = Neighbour(gateway)
    top = gateway.path / mark
    os.setxattr(gateway.path, "ceph.dir.pin", b"%d" % rank)
    top.mkdir()
    (top / "work").mkdir()
    worker = neighbour.work(mark, [f"{mark}/work"], pause_s=_PAUSE_S)
    plays = _begin(gateway, top, mark)
    time.sleep(_LOAD_S)
    fail()
    cluster.wait_until_healthy()
    (gateway.path / mark / "after").write_text("answers")
    wanted = _end(plays) | worker.end()
    check(wanted, find(gateway, mark))
    return max(neighbour.waits_s)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.faults)])
def test_rank_that_a_standby_takes_over_costs_a_wait_only(
    gateway: Gateway, cluster: CephCluster, rank: int
) -> None:
    """[failover-1]"""
    waited_s = _round(gateway, cluster, rank, f"round-fail-{rank}", lambda: cluster.fail_mds(rank))
    print(f"rank {rank} failed: the slowest step took {waited_s:.1f} s")
    assert waited_s < _WAIT_S


@pytest.mark.faults
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_mds_costs_a_wait_only(gateway: Gateway, cluster: CephCluster, rank: int) -> None:
    """[failover-1]"""

    def kill() -> None:
        cluster.kill_mds(rank)
        while cluster.active_ranks() == 2:  # until the monitors notice
            time.sleep(0.2)

    try:
        waited_s = _round(gateway, cluster, rank, f"round-kill-{rank}", kill)
    finally:
        cluster.revive_mds()
    print(f"rank {rank} killed: the slowest step took {waited_s:.1f} s")
    assert waited_s < _WAIT_S
