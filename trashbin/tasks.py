"""Doing the same to many things, several at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from cephfs_ext.core.errors import FSError

T = TypeVar("T")


async def for_each(
    things: Iterable[T], work: Callable[[T], Awaitable[None]], *, at_once: int
) -> None:
    """Carry out `work` for each thing.

    Args:
        at_once: how many are under way at the same time; no more are taken from `things`.

    Raises:
        FSError: of the first that failed; those under way have been cancelled, none more begun.
    """
    gate = trio.Semaphore(at_once)
    failures: list[FSError] = []

    async def one(thing: T) -> None:
        try:
            await work(thing)
        except FSError as exc:
            failures.append(exc)
            nursery.cancel_scope.cancel()
        finally:
            gate.release()

    async with trio.open_nursery() as nursery:
        for thing in things:
            await gate.acquire()
            nursery.start_soon(one, thing)
    if failures:
        raise failures[0]


@asynccontextmanager
async def beside(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Carry out `work`, which never fails, until the body is over.

    What the body raises comes out as it is, not in a group, also when all is being cancelled.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            try:
                yield
            except BaseException as exc:
                failure = exc
            nursery.cancel_scope.cancel()
    except BaseException:
        if failure is None:
            raise
    if failure is not None:
        raise failure
