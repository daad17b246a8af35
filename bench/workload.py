"""What a workload is, and the registry of all.

A workload is one small function that does the work and returns how many units it did; all of it
is measured. What must be there before is made by its `setup`, and what may not stay until the end
of the run goes in its `cleanup`. Registered in the order of their definition.
"""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Callable
from pathlib import Path


class Cache(enum.Enum):
    """What the kernel knows when measuring begins; the same for every peer."""

    AS_LEFT = "as the setup leaves it"
    WARM = "the same work has just been done once"
    DROPPED = "kernel's names and inodes dropped"
    COLD = "remounted, kernel's pages dropped too"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one sample is taken: a directory of its own on one peer."""

    path: Path
    small: bool
    scratch: Path
    """A local directory that all samples share, for what is read from elsewhere."""

    def scaled(self, full: int, small: int) -> int:
        """Choose an amount by the size of the run."""
        return small if self.small else full

    def files(self, count: int) -> list[str]:
        """Return paths in this place: always the same for the same count."""
        return [os.fspath(self.path / f"file{number:05}") for number in range(count)]


Step = Callable[[Place], object]
Measure = Callable[[Place], int]


def nothing(_: Place) -> None:
    """The setup or cleanup of a workload that needs none."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """One row of the table."""

    name: str
    about: str
    unit: str
    cache: Cache
    measure: Measure
    setup: Step
    cleanup: Step
    kept: bool
    """The setup is done once for all rounds, since the work changes nothing."""


WORKLOADS: dict[str, Workload] = {}


def workload(
    about: str,
    *,
    unit: str,
    cache: Cache = Cache.AS_LEFT,
    setup: Step = nothing,
    cleanup: Step = nothing,
    kept: bool = False,
) -> Callable[[Measure], Measure]:
    """Register a function as the workload of its name."""

    def register(measure: Measure) -> Measure:
        name = measure.__name__
        assert name not in WORKLOADS, name
        WORKLOADS[name] = Workload(name, about, unit, cache, measure, setup, cleanup, kept)
        return measure

    return register
