"""What is said of a storage that answers, refuses, or does neither."""

from __future__ import annotations

import errno
import logging
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from cephfs_ext.control.service import Check
from cephfs_ext.core.errors import FSError
from cephfs_ext.daemon.health import Health


class FakeStorage:
    """Answers, unless it is told otherwise."""

    root = None

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.answers = trio.Event()

    async def getattr(self, node: object) -> None:
        await self.answers.wait()
        if self.failure is not None:
            raise self.failure


def answering(failure: Exception | None = None) -> FakeStorage:
    storage = FakeStorage(failure)
    storage.answers.set()
    return storage


def checks(storage: FakeStorage, *, after_s: float) -> Check:
    """Return how the storage is after some time, which doesn't really pass."""

    async def run() -> Check:
        health = Health({"storage": cast(Any, storage)})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(health.run)
            await trio.sleep(after_s)
            (check,) = health.checks()
            nursery.cancel_scope.cancel()
        return check

    return trio.run(run, clock=MockClock(autojump_threshold=0))


def test_storage_that_answers() -> None:
    assert checks(answering(), after_s=5) == Check("storage", ok=True)


def test_storage_that_refuses() -> None:
    check = checks(answering(FSError(errno.ESHUTDOWN, "shut out")), after_s=5)
    assert not check.ok
    assert check.reason.startswith("shut out: ")


def test_bug_ends_nothing() -> None:
    assert not checks(answering(ValueError()), after_s=5).ok


def test_slow_storage_is_not_dead() -> None:
    assert checks(FakeStorage(), after_s=9).ok


def test_storage_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        check = checks(FakeStorage(), after_s=42)
    assert check == Check("storage", ok=False, reason="no answer for 42 s")
    assert "the storage doesn't answer" in caplog.text


def test_storage_that_answers_again() -> None:
    storage = FakeStorage()

    async def run() -> None:
        health = Health({"storage": cast(Any, storage)})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(health.run)
            await trio.sleep(30)
            storage.answers.set()
            await trio.sleep(5)
            assert health.checks() == [Check("storage", ok=True)]
            nursery.cancel_scope.cancel()

    trio.run(run, clock=MockClock(autojump_threshold=0))
