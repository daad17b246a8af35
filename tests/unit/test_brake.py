"""The brake for mass deletes, without waiting for minutes."""

from __future__ import annotations

import errno

import pytest

from cephfs_ext.core.errors import FSError
from cephfs_ext.vfs import brake as brakes
from cephfs_ext.vfs.brake import Brake
from tests.property.gateways import SilentMeter

_ANN, _BOB = 1001, 1002


class Clock:
    """A time that the test sets."""

    now_s = 6000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(brakes.time, "monotonic", clock)
    return clock


def refused(brake: Brake, uid: int = _ANN, owner: int = _BOB, weight: int = 1) -> bool:
    """Tell whether a delete is refused."""
    try:
        brake.check(uid, owner, weight)
    except FSError as exc:
        return exc.errno == errno.EDQUOT
    return False


def test_no_limit_refuses_nothing(clock: Clock) -> None:
    brake = Brake(SilentMeter(), per_minute=0)
    assert not any(refused(brake) for _ in range(10_000))


def test_own_things_never_count(clock: Clock) -> None:
    brake = Brake(SilentMeter(), per_minute=1)
    assert not any(refused(brake, owner=_ANN) for _ in range(100))
    assert not refused(brake)


def test_what_is_beyond_the_limit_is_refused_and_counted(clock: Clock) -> None:
    meter = SilentMeter()
    brake = Brake(meter, per_minute=3)
    assert [refused(brake) for _ in range(5)] == [False, False, False, True, True]
    assert meter.counts["trash_refusals_total", ()] == 2


def test_users_are_counted_apart(clock: Clock) -> None:
    brake = Brake(SilentMeter(), per_minute=1)
    assert [refused(brake), refused(brake, uid=0)] == [False, False]
    assert refused(brake, uid=0), "root has no exception"


def test_limit_is_that_of_a_sliding_minute(clock: Clock) -> None:
    brake = Brake(SilentMeter(), per_minute=4)
    clock.now_s = 6059.0
    assert not any(refused(brake) for _ in range(4))
    clock.now_s = 6061.0
    assert refused(brake), "two seconds later it is the same minute"
    clock.now_s = 6090.0
    assert [refused(brake) for _ in range(3)] == [False, False, True]
    clock.now_s = 6200.0
    assert not any(refused(brake) for _ in range(4))


def test_tree_counts_as_what_is_in_it(clock: Clock) -> None:
    brake = Brake(SilentMeter(), per_minute=10)
    assert refused(brake, weight=11)
    assert not refused(brake, weight=10), "what was refused isn't counted"


def test_operator_lifts_it_for_a_while(clock: Clock) -> None:
    brake = Brake(SilentMeter(), per_minute=1)
    assert [refused(brake), refused(brake)] == [False, True]
    brake.lift(_ANN, 30.0)
    assert not refused(brake, weight=1000)
    clock.now_s += 31.0
    assert refused(brake)


def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brakes, "_USERS", 100)
    brake = Brake(SilentMeter(), per_minute=1)
    for uid in range(1000, 2000):
        assert not refused(brake, uid=uid, owner=0)
        assert len(brake._counted) <= 100
