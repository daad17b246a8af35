"""Who looks after whom, and what a worker does that can't be a member."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest
import trio
import trio.testing

from asyncdelete.peers import About, Peers
from cephfs_ext.core.errors import DeniedError, FSError, FullError
from cephfs_ext.core.ports import Meter, Node, Storage
from trashbin.domains import Domains

_WAIT_S = 30.0
_ABOUT = b'{"host": "h", "pid": 1, "sessions": ["%s"]}'


class _Storage:
    """Members in memory: those that have an `about` are dead."""

    def __init__(self, dead: dict[str, bytes], *, refuses: FSError | None = None) -> None:
        self.dead = dead
        self.refuses = refuses
        self.listed: set[str] = set(dead)
        self.ended: list[str] = []
        self.looked_at: list[str] = []

    @contextlib.asynccontextmanager
    async def member(
        self, above: Node, name: str, about: bytes, *, lease_s: int
    ) -> AsyncIterator[None]:
        if self.refuses is not None:
            raise self.refuses
        self.listed.add(name)
        try:
            yield
        finally:
            self.listed.discard(name)

    async def members(self, above: Node) -> Collection[str]:
        await trio.lowlevel.checkpoint()
        return set(self.listed)

    async def try_succeed(
        self, above: Node, name: str
    ) -> AbstractAsyncContextManager[bytes] | None:
        self.looked_at.append(name)
        return self._succeeding(name) if name in self.dead else None

    @contextlib.asynccontextmanager
    async def _succeeding(self, name: str) -> AsyncIterator[bytes]:
        yield self.dead.pop(name)
        self.listed.discard(name)

    async def end_sessions(self, sessions: Sequence[str]) -> None:
        self.ended += sessions


class _Domains:
    """One domain, which is the open one until it is made anew."""

    def __init__(self) -> None:
        self.is_anew = False

    async def root(self) -> Any:
        return self

    def service(self, name: bytes) -> Any:
        return self

    def is_open(self, domain: Any) -> bool:
        return not self.is_anew


class _Meter:
    def __init__(self) -> None:
        self.lost = 0

    def count(self, metric: str, n: int = 1, /, **labels: str) -> None:
        assert metric == "workers_lost_total"
        self.lost += n


class _Bench:
    def __init__(self, storage: _Storage) -> None:
        self.storage = storage
        self.domains = _Domains()
        self.meter = _Meter()
        self.peers = Peers(
            cast(Storage, storage),
            cast(Domains, self.domains),
            cast(Meter, self.meter),
            About(host="h", pid=1),
            name="me",
            lease_s=3,
        )

    async def wait_registered(self) -> None:
        while not self.peers.is_registered:
            await self.peers.changed.wait()


def test_all_dead_are_ended_without_waiting_between_them() -> None:
    """[job-4]: those who follow the next ones as well, and also what can't be read."""
    dead = {f"n{number}": _ABOUT.replace(b"%s", b"s%d" % number) for number in range(6)}
    bench = _Bench(_Storage(dead | {"odd": b"?", "unborn": b""}))

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.peers.once)
            await trio.testing.wait_all_tasks_blocked()
            assert bench.storage.listed == {"me"}
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock())
    assert sorted(bench.storage.ended) == [f"s{number}" for number in range(6)]
    assert bench.meter.lost == 8


def test_looks_at_the_next_two_only_while_they_live() -> None:
    bench = _Bench(_Storage({}))
    bench.storage.listed |= {"a", "b", "x", "y", "z"}

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.peers.once)
            with trio.fail_after(_WAIT_S):
                while len(bench.storage.looked_at) < 4:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(run)
    assert set(bench.storage.looked_at) == {"x", "y"}


@pytest.mark.parametrize("why", ["struck off", "trash made anew"])
def test_stops_when_it_is_no_member_any_more(why: str) -> None:
    bench = _Bench(_Storage({}))

    async def lose() -> None:
        await bench.wait_registered()
        if why == "struck off":
            bench.storage.listed.discard("me")
        bench.domains.is_anew = why == "trash made anew"

    async def run() -> None:
        with trio.fail_after(_WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lose)
                with pytest.raises(FSError) as caught:
                    await bench.peers.once()
        assert caught.value.errno == errno.EIO

    trio.run(run)
    assert not bench.peers.is_registered


@pytest.mark.parametrize("error", [DeniedError(), FullError()])
def test_works_without_where_it_can_not_be_a_member(
    error: FSError, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody else counts as living then; it is said once, and tried again."""
    bench = _Bench(_Storage({}, refuses=error))

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.peers.once)
            await bench.wait_registered()
            nursery.cancel_scope.cancel()
        assert await bench.peers.living(frozenset({"other"})) == {"other"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.peers.once)
            await bench.wait_registered()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        bench.storage.refuses = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.peers.once)
            with trio.fail_after(_WAIT_S):
                while "me" not in bench.storage.listed:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            assert await bench.peers.living(frozenset({"me", "other"})) == {"me"}
            nursery.cancel_scope.cancel()

    trio.run(run)
    assert len([one for one in caplog.records if "wait for a minute" in one.message]) == 1
