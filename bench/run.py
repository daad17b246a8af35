"""Takes the samples: round after round, each peer once a round, another one first each time."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import logging
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from bench.counters import Counters
from bench.peers import GATEWAY, Peer
from bench.workload import Cache, Place, Workload
from tests.cluster.ceph import CephCluster
from tests.commands import acting_as

_log = logging.getLogger(__name__)

T = TypeVar("T")

_DROP = Path("/proc/sys/vm/drop_caches")
_SETTLE_S = 0.3
"""How long the daemons are left alone with what dropping the caches has the kernel tell them."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measurement."""

    seconds: float
    units: int
    counters: dict[str, float]
    """What happened inside, by name; empty unless it was asked for."""


@dataclasses.dataclass
class Result:
    """All samples of one workload on one storage, in the order of the rounds."""

    workload: Workload
    storage: str
    samples: dict[str, list[Sample]]
    failure: str = ""
    """Why there are no more samples; empty if nothing went wrong."""

    def median_s(self, peer: str) -> float | None:
        """Return seconds per unit; None without samples."""
        each = [sample.seconds / sample.units for sample in self.samples[peer]]
        return statistics.median(each) if each else None

    def ratio(self, peer: str) -> float | None:
        """Return how many times a peer's median the gateway's is; below 1 the gateway is faster."""
        ours, theirs = self.median_s(GATEWAY), self.median_s(peer)
        return ours / theirs if ours and theirs else None

    def ratios(self, peer: str) -> list[float]:
        """Return the ratio of each round by itself: their spread is the noise of the figure."""
        pairs = zip(self.samples[GATEWAY], self.samples[peer], strict=False)
        return [ours.seconds / theirs.seconds for ours, theirs in pairs]


class Bench:
    """Runs workloads on the peers of one storage."""

    def __init__(
        self,
        storage: str,
        peers: list[Peer],
        scratch: Path,
        *,
        rounds: int,
        small: bool,
        uid: int,
        counted_on: CephCluster | None = None,
        counting: bool = False,
    ) -> None:
        self._storage = storage
        self._peers = peers
        self._scratch = scratch
        self._rounds = rounds
        self._small = small
        self._uid = uid
        self._counted_on = counted_on
        self._counting = counting
        self._firsts = itertools.count()

    def run(self, workloads: Iterable[Workload], done: Callable[[Result], object]) -> list[Result]:
        """Run workloads one after the other; one that fails doesn't keep the others from running.

        Args:
            done: called with each result as it comes.
        """
        results = []
        for workload in workloads:
            results.append(self._one(workload))
            done(results[-1])
        return results

    def _one(self, workload: Workload) -> Result:
        samples: dict[str, list[Sample]] = {peer.name: [] for peer in self._peers}
        result = Result(workload, self._storage, samples)
        try:
            self._rounds_of(workload, result)
        except Exception as exc:  # reported with the others; what has been measured stays
            _log.exception("%s on %s", workload.name, self._storage)
            result.failure = f"{type(exc).__name__}: {exc}"
        self._discard(workload)
        return result

    def _rounds_of(self, workload: Workload, result: Result) -> None:
        places = {peer.name: self._place(peer, workload, "kept") for peer in self._peers}
        if workload.kept:
            for peer in self._peers:
                self._set_up(workload, places[peer.name])
        for number in range(self._rounds):
            for peer in self._in_turn():
                place = places[peer.name]
                if not workload.kept:
                    place = self._place(peer, workload, str(number))
                    self._set_up(workload, place)
                result.samples[peer.name].append(self._sample(workload, peer, place))
                if not workload.kept:
                    self._as_user(workload.cleanup, place)
        if workload.kept:
            for place in places.values():
                self._as_user(workload.cleanup, place)

    def _in_turn(self) -> list[Peer]:
        first = next(self._firsts) % len(self._peers)
        return self._peers[first:] + self._peers[:first]

    def _top(self, peer: Peer, workload: Workload) -> Path:
        return peer.path / f"bench-{workload.name}"

    def _place(self, peer: Peer, workload: Workload, name: str) -> Place:
        return Place(self._top(peer, workload) / name, self._small, self._scratch)

    def _set_up(self, workload: Workload, place: Place) -> None:
        place.path.mkdir(parents=True)
        for directory in (place.path.parent, place.path):
            os.chown(directory, self._uid, self._uid)
        self._as_user(workload.setup, place)

    def _as_user(self, step: Callable[[Place], T], place: Place) -> T:
        with acting_as(self._uid):
            return step(place)

    def _sample(self, workload: Workload, peer: Peer, place: Place) -> Sample:
        self._prepare(workload, peer, place)
        counters = Counters(peer, self._counted_on)
        before = counters.read() if self._counting else Counter[str]()
        seconds, units = self._as_user(lambda place: _timed(workload, place), place)
        after = counters.read() if self._counting else Counter[str]()
        return Sample(seconds, units, dict(after - before))

    def _prepare(self, workload: Workload, peer: Peer, place: Place) -> None:
        """Bring the caches into the state that the workload begins with."""
        match workload.cache:
            case Cache.WARM:
                self._as_user(workload.measure, place)
            case Cache.DROPPED:
                _drop_caches(2)
            case Cache.COLD:
                peer.remount()
                _drop_caches(3)
            case Cache.AS_LEFT:
                pass

    def _discard(self, workload: Workload) -> None:
        """Delete what all rounds left; not before, since that keeps servers busy afterwards."""
        for peer in self._peers:
            top = self._top(peer, workload)
            try:
                if top.exists():
                    peer.discard(top)
            except Exception as exc:  # the place is thrown away in the end anyway
                _log.warning("%s: %s", top, exc)


def _timed(workload: Workload, place: Place) -> tuple[float, int]:
    gc.disable()
    try:
        begun = time.perf_counter()
        units = workload.measure(place)
        return time.perf_counter() - begun, units
    finally:
        gc.enable()


def _drop_caches(what: int) -> None:
    """Drop the kernel's unused names and inodes (2), its clean pages too (3)."""
    os.sync()
    _DROP.write_text(f"{what}\n")
    time.sleep(_SETTLE_S)
