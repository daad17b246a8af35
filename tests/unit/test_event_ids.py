"""Which deletes are one event."""

from __future__ import annotations

import itertools

import pytest

from cephfs_ext.core.limits import DELETE_EVENTS
from tests.property.gateways import SilentMeter
from trashbin import layout
from trashbin.event_ids import EventIds

GAP_S = 10.0


class Scene:
    """Events, and a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.meter = SilentMeter()
        ticks = itertools.count(1_795_572_749_000_000_000)
        self.events = EventIds(
            self.meter,
            instance="000a",
            clock=lambda: next(ticks),
            gap_s=GAP_S,
            now_s=lambda: self.now_s,
        )

    @property
    def ended_early(self) -> int:
        return self.meter.counts.get(("event_limit_reached_total", ()), 0)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_deletes_of_one_process_are_one_event(scene: Scene) -> None:
    """[event-1]: however long it takes, as long as it doesn't pause."""
    first = scene.events.of(1000, 42, 7)
    assert layout.parse_id(first) is not None
    for _ in range(100):
        scene.now_s += GAP_S
        assert scene.events.of(1000, 42, 7) == first


def test_pause_begins_another_event(scene: Scene) -> None:
    """[event-1]."""
    first = scene.events.of(1000, 42, 7)
    scene.now_s += GAP_S + 0.1
    assert scene.events.of(1000, 42, 7) != first


@pytest.mark.parametrize("other", [(1000, 43, 7), (1000, 42, 8), (1001, 42, 7)])
def test_another_process_or_user_is_another_event(
    scene: Scene, other: tuple[int, int, int]
) -> None:
    """[event-1]: also one that has got the number of one that has ended."""
    first = scene.events.of(1000, 42, 7)
    assert scene.events.of(*other) != first
    assert scene.events.of(1000, 42, 7) == first


def test_deletes_of_unknown_processes_are_told_by_their_user(scene: Scene) -> None:
    """[event-1]."""
    first = scene.events.of(1000, 0, 0)
    assert scene.events.of(1000, 0, 0) == first
    assert scene.events.of(1001, 0, 0) != first


def test_table_has_a_limit(scene: Scene) -> None:
    first = scene.events.of(1000, 1, 1)
    for pid in range(2, DELETE_EVENTS + 1):
        scene.events.of(1000, pid, 1)
    assert scene.events.of(1000, 1, 1) == first
    assert scene.ended_early == 0
    second = scene.events.of(1000, 2, 1)
    scene.events.of(1000, DELETE_EVENTS + 1, 1)  # the third has rested longest
    assert scene.ended_early == 1
    assert scene.events.of(1000, 2, 1) == second
    assert scene.events.of(1000, 1, 1) == first


def test_events_that_are_over_make_room_by_themselves(scene: Scene) -> None:
    for pid in range(DELETE_EVENTS):
        scene.events.of(1000, pid + 1, 1)
    scene.now_s += GAP_S + 0.1
    scene.events.of(1000, DELETE_EVENTS + 1, 1)
    assert scene.ended_early == 0
