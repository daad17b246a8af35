"""Holds a call of a storage back inside its thread, so that a test can do something meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio

_LONGEST_S = 20.0


class Brake:
    """Keeps the next call that begins inside its thread until it is let go; not those after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._let_go = threading.Event()
        self._inside = threading.Event()
        self._original = trio.to_thread.run_sync
        self._held = False
        monkeypatch.setattr(trio.to_thread, "run_sync", self._run_sync)

    async def _run_sync(
        self, call: Callable[[], object], *args: object, **options: object
    ) -> object:
        if self._held:
            return await self._original(call, *args, **options)  # type: ignore[arg-type]
        self._held = True

        def wait_and_call() -> object:
            self._inside.set()
            assert self._let_go.wait(_LONGEST_S)
            return call(*args)

        return await self._original(wait_and_call, **options)  # type: ignore[arg-type]

    async def wait_inside(self) -> None:
        """Wait until the call has begun."""
        await self._original(lambda: self._inside.wait(_LONGEST_S))

    def let_go(self) -> None:
        """Have it go on."""
        self._let_go.set()
