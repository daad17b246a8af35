"""The clock that names trash entries: it never repeats, and never goes back."""

from __future__ import annotations

import threading
import time

import pytest

from cephfs_ext.core.clock import MonotonicNs


def test_is_the_time_of_day() -> None:
    before = time.time_ns()
    assert before <= MonotonicNs()() <= time.time_ns() + 1


def test_grows_with_every_call() -> None:
    clock = MonotonicNs()
    answers = [clock() for _ in range(10_000)]
    assert answers == sorted(set(answers))


@pytest.mark.parametrize("times", [[5, 5, 5], [5, 4, 3], [5, 1, 100]])
def test_grows_when_the_time_of_day_does_not(
    monkeypatch: pytest.MonkeyPatch, times: list[int]
) -> None:
    clock, rest = MonotonicNs(), iter(times)
    monkeypatch.setattr(time, "time_ns", lambda: next(rest))
    answers = [clock() for _ in times]
    assert answers[0] == 5
    assert answers == sorted(set(answers))
    assert answers[-1] == max(times[-1], 7)


def test_no_two_threads_get_the_same_answer() -> None:
    clock, answers = MonotonicNs(), [[0]] * 8

    def ask(thread: int) -> None:
        answers[thread] = [clock() for _ in range(2_000)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = [answer for one in answers for answer in one]
    assert len(set(together)) == len(together) == 16_000
    for one in answers:
        assert one == sorted(one)
