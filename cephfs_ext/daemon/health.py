"""Whether the storage answers, asked all the time so that nobody who wants to know has to wait.

Also what makes an idle session notice that the cluster has shut it out, so that it is back before
somebody needs it. One question a session is under way: one that hangs keeps one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import trio

from cephfs_ext.control.service import Check
from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Storage

_log = logging.getLogger(__name__)

_INTERVAL_S = 2.0
_SILENT_S = 10.0
"""How long a storage may take to answer; an MDS that another takes over from takes longer."""


class Health:
    """Asks each session in turn."""

    def __init__(self, storages: Mapping[str, Storage]) -> None:
        self._storages = storages
        self._asked: dict[str, float] = {}
        """When those that have not answered yet were asked."""
        self._failures: dict[str, str] = {}

    async def run(self) -> None:
        """Ask for ever."""
        async with trio.open_nursery() as nursery:
            for name, storage in self._storages.items():
                nursery.start_soon(self._watch, name, storage)

    async def _watch(self, name: str, storage: Storage) -> None:
        while True:
            self._asked[name] = trio.current_time()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_complain, name)
                    await storage.getattr(storage.root)
                    nursery.cancel_scope.cancel()
                self._failures.pop(name, None)
            except* FSError as group:
                self._failures[name] = str(_first(group))
            except* Exception:
                _log.exception("a bug in asking the %s", name)
                self._failures[name] = "a bug; see the log"
            del self._asked[name]
            await trio.sleep(_INTERVAL_S)

    def checks(self) -> list[Check]:
        """Say how each session is."""
        return [self._check(name) for name in self._storages]

    def _check(self, name: str) -> Check:
        silent_s = trio.current_time() - self._asked.get(name, trio.current_time())
        if silent_s > _SILENT_S:
            return Check(name, ok=False, reason=f"no answer for {silent_s:.0f} s")
        failure = self._failures.get(name)
        return Check(name, ok=failure is None, reason=failure or "")


async def _complain(name: str) -> None:
    """Log that there is no answer, and that there is one after all."""
    begun = trio.current_time()
    await trio.sleep(_SILENT_S)
    _log.error("the %s doesn't answer; see the cluster's health", name)
    try:
        await trio.sleep_forever()
    finally:
        _log.warning("the %s took %.0f s to answer", name, trio.current_time() - begun)


def _first(group: BaseExceptionGroup[FSError]) -> FSError:
    inner = group.exceptions[0]
    return inner if isinstance(inner, FSError) else _first(inner)
