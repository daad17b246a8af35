"""How samples are taken, on two local directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers import LocalPeer
from bench.run import Bench, Result
from bench.workload import Cache, Place, Workload, nothing


class _Peer(LocalPeer):
    def __init__(self, name: str, path: Path) -> None:
        super().__init__(path)
        self.name = name


@pytest.fixture
def peers(tmp_path: Path) -> list[_Peer]:
    made = []
    for name in ("gateway", "other"):
        (tmp_path / name).mkdir()
        made.append(_Peer(name, tmp_path / name))
    return made


def _bench(peers: list[_Peer], tmp_path: Path, rounds: int) -> Bench:
    return Bench("posix", list(peers), tmp_path, rounds=rounds, small=True, uid=0)


def _workload(measure, *, setup=nothing, cleanup=nothing, cache=Cache.AS_LEFT, kept=False):
    return Workload(measure.__name__, "", "call", cache, measure, setup, cleanup, kept)


def _ignore(result: Result) -> None:
    pass


def test_peers_take_turns_and_another_one_is_first_each_round(peers, tmp_path: Path):
    order = []

    def note(place: Place) -> int:
        order.append(place.path.relative_to(tmp_path).parts[0])
        return 1

    (result,) = _bench(peers, tmp_path, 3).run([_workload(note)], _ignore)
    assert order == ["gateway", "other", "other", "gateway", "gateway", "other"]
    assert [len(samples) for samples in result.samples.values()] == [3, 3]


def test_each_sample_has_a_fresh_directory_which_is_gone_in_the_end(peers, tmp_path: Path):
    def fill(place: Place) -> int:
        (place.path / "file").touch(exist_ok=False)
        return 1

    (result,) = _bench(peers, tmp_path, 2).run([_workload(fill)], _ignore)
    assert not result.failure
    assert [list(peer.path.iterdir()) for peer in peers] == [[], []]


def test_a_kept_setup_is_made_once_on_each_peer(peers, tmp_path: Path):
    steps = []

    def look(place: Place) -> int:
        return len(list(place.path.iterdir()))

    def make(place: Place) -> None:
        steps.append("setup")
        (place.path / "file").touch()

    def end(place: Place) -> None:
        steps.append("cleanup")

    workload = _workload(look, setup=make, cleanup=end, kept=True)
    (result,) = _bench(peers, tmp_path, 3).run([workload], _ignore)
    assert not result.failure
    assert steps == ["setup", "setup", "cleanup", "cleanup"]


def test_warm_work_is_done_once_before_it_is_measured(peers, tmp_path: Path):
    calls = []

    def count(place: Place) -> int:
        calls.append(place.path)
        return 1

    _bench(peers, tmp_path, 1).run([_workload(count, cache=Cache.WARM)], _ignore)
    assert len(calls) == 4


def test_a_workload_that_fails_is_reported_and_the_next_one_runs(peers, tmp_path: Path):
    def broken(place: Place) -> int:
        raise OSError(5, "no such luck")

    def whole(place: Place) -> int:
        return 1

    first, second = _bench(peers, tmp_path, 1).run([_workload(broken), _workload(whole)], _ignore)
    assert "no such luck" in first.failure
    assert not second.failure
    assert second.ratio("other")
