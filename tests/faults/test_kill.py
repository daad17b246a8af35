"""kill -9 of the daemon at random moments: [durability-2], [durability-4].

Each round writes files with contents of their own, synced, has a program delete, replace, move,
restore or purge them, and kills the daemon meanwhile. After the next mount and its recovery every
content must be found once for each name that it had: in place, or in the trash, from which it is
restored to be read.

`make test` plays a few rounds, `make faults` fifty of each kind.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.faults.contents import check, find, plant
from tests.faults.neighbour import Neighbour
from tests.faults.storage import Back
from tests.faults.works import WORKS, Play, Work
from tests.gateway import Gateway

_REMOUNT_S = 5.0
_SESSION_S = 20.0
"""Nobody waits longer, though the machine be busy: the session of a dead client lasts 60 s."""
_RECOVERY_S = 60.0
_LONGEST_S = 1.0
"""A program that goes on is killed within this time."""
_FEW, _MANY = 2, 50
_SOME = 3
_SUPERVISED_S = 1.0
"""How long it takes until somebody notices that a daemon is gone."""


def remount(gateway: Gateway) -> float:
    """Mount anew, and wait for the recovery; return how long the mount took to answer."""
    begun = time.monotonic()
    gateway.mount()
    os.listdir(gateway.path)
    took_s = time.monotonic() - begun
    until = time.monotonic() + _RECOVERY_S
    while gateway.state.dead_instances:
        assert time.monotonic() < until, f"no recovery\n{gateway.log[-4000:]}"
        time.sleep(0.05)
    return took_s


def report(what: str, times_s: list[float]) -> None:
    """Print the figures of some rounds, and check that no session was waited for.

    A few rounds beside other tests say nothing of how long a remount takes.
    """
    median_s, longest_s = statistics.median(times_s), max(times_s)
    print(f"{what}: {len(times_s)} rounds; remount {median_s:.2f} s, {longest_s:.2f} s at most")
    assert longest_s < _SESSION_S
    if len(times_s) == _MANY:
        assert median_s < _REMOUNT_S


def _rehearse(gateway: Gateway, work: Work) -> float:
    """Let a program run to its end, and return how long that takes."""
    begun = time.monotonic()
    play = work(gateway, gateway.path / "rehearsal", "rehearsal")
    started = time.monotonic()
    while not play.is_over() and time.monotonic() < started + _LONGEST_S:
        time.sleep(0.001)
    lasts_s = time.monotonic() - started
    play.stop()
    play.end()
    assert begun < started
    return lasts_s


def _round(gateway: Gateway, work: Work, number: int, lasts_s: float) -> float:
    mark = f"round{number}"
    play: Play = work(gateway, gateway.path / mark, mark)
    time.sleep(random.uniform(0, lasts_s))
    gateway.kill()
    wanted = play.end()
    took_s = remount(gateway)
    check(wanted, find(gateway, mark))
    return took_s


def _rounds(gateway: Gateway, kind: str, count: int) -> None:
    work = WORKS[kind]
    with gateway.mounted():
        lasts_s = _rehearse(gateway, work)
        report(kind, [_round(gateway, work, number, lasts_s) for number in range(count)])


@pytest.mark.parametrize("kind", WORKS)
def test_nothing_is_lost_or_doubled(unmounted: Gateway, kind: str) -> None:
    _rounds(unmounted, kind, _SOME if kind in ("rm", "restore") else _FEW)


@pytest.mark.faults
@pytest.mark.parametrize("kind", WORKS)
def test_nothing_is_lost_or_doubled_in_many_rounds(unmounted: Gateway, kind: str) -> None:
    _rounds(unmounted, kind, _MANY)


# expiry


def _expiry_round(gateway: Gateway, back: Back, number: int) -> float:
    """Kill the daemon while it lets one tree go, and has just been given another."""
    mark = f"round{number}"
    gateway.mount()
    top = gateway.path / mark
    kept = plant(top / "kept", mark)
    gone = plant(top / "gone", mark)
    subprocess.run(["rm", "-rf", str(top / "gone")], check=True)
    gateway.umount()
    back.age_trash()
    gateway.mount()
    with subprocess.Popen(["rm", "-rf", str(top / "kept")], stderr=subprocess.DEVNULL):
        time.sleep(random.uniform(0, _LONGEST_S))
        gateway.kill()
    took_s = remount(gateway)
    back.wait_for_removals()
    found = find(gateway, mark)
    check(kept, found)
    assert not gone.keys() & found.keys()
    gateway.umount()
    return took_s


def _expiry_rounds(gateway: Gateway, back: Back, count: int) -> None:
    try:
        report("expiry", [_expiry_round(gateway, back, number) for number in range(count)])
    finally:
        gateway.close()


def test_expiry_takes_all_that_is_old_and_nothing_else(unmounted: Gateway, back: Back) -> None:
    _expiry_rounds(unmounted, back, _FEW)


@pytest.mark.faults
def test_expiry_takes_all_that_is_old_in_many_rounds(unmounted: Gateway, back: Back) -> None:
    _expiry_rounds(unmounted, back, _MANY)


# a second gateway


def _neighbour_round(gateway: Gateway, neighbour: Neighbour, number: int) -> float:
    """Kill one gateway while another one works in the same directories."""
    mark = f"round{number}"
    top = gateway.path / mark
    wanted = plant(top, mark)
    worker = neighbour.work(mark, [f"{mark}/d{n}/below" for n in range(6)])
    play = Play(["sh", "-c", 'for d in "$0"/d*/below; do rm -f "$d"/f*; done', str(top)], wanted)
    time.sleep(random.uniform(0, _LONGEST_S))
    gateway.kill()
    wanted = play.end()
    time.sleep(_SUPERVISED_S)
    took_s = remount(gateway)
    wanted |= worker.end()
    check(wanted, find(gateway, mark))
    return took_s


def _neighbour_rounds(
    request: pytest.FixtureRequest, gateway: Gateway, base: Path, count: int
) -> None:
    conf = None
    if gateway.source.startswith("ceph:"):
        cluster: CephCluster = request.getfixturevalue("cluster")
        conf = cluster.conf
    other = Gateway(gateway.source, base / "neighbour/mnt", base / "neighbour/run", conf=conf)
    with gateway.mounted(), other.mounted():
        neighbour = Neighbour(other)
        times_s = [_neighbour_round(gateway, neighbour, number) for number in range(count)]
        report("beside another gateway", times_s)
    waits_s = neighbour.waits_s
    print(f"the other waited {statistics.median(waits_s):.2f} s, {max(waits_s):.2f} s at most")
    assert max(waits_s) < _SESSION_S


def test_another_gateway_goes_on(
    request: pytest.FixtureRequest, unmounted: Gateway, base: Path
) -> None:
    _neighbour_rounds(request, unmounted, base, _FEW)


@pytest.mark.faults
def test_another_gateway_goes_on_in_many_rounds(
    request: pytest.FixtureRequest, unmounted: Gateway, base: Path
) -> None:
    _neighbour_rounds(request, unmounted, base, _MANY)
