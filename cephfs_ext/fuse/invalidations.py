"""Tells the kernel to forget what changed behind its back.

A handler must never do this itself: the kernel holds the directory's lock while it waits for the
handler's reply, and an invalidation of an entry waits for that lock. So everything goes through a
bounded queue to one thread. Beyond the limit invalidations are dropped and counted; the kernel's
timeouts (1 s) end what was not told.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence

import pyfuse3
import trio

from cephfs_ext.core.limits import INVALIDATION_QUEUE
from cephfs_ext.core.ports import Lane, Meter
from cephfs_ext.vfs.nodes import NodeId

_log = logging.getLogger(__name__)

_BATCH = 256
"""How many go to the thread at a time: it takes longer to get there than to send one."""

_IDLE_S = 60.0
"""How long a round waits for something to send."""


class Invalidations:
    """The queue to the kernel."""

    def __init__(self, meter: Meter, lane: Lane | None = None) -> None:
        self._meter = meter
        self._forget_name = pyfuse3.invalidate_entry if lane is None else lane.forget_name
        self._forget_inode = pyfuse3.invalidate_inode if lane is None else lane.forget_inode
        self._queue: deque[tuple[str, Callable[[], None]]] = deque()
        self._arrived = trio.Event()
        self._limiter = trio.CapacityLimiter(1)

    def entry(self, parent: NodeId, name: bytes) -> None:
        """Have the kernel forget a name. Never blocks."""
        self._add("entry", lambda: self._forget_name(parent, name))

    def inodes(self, node_ids: Sequence[NodeId]) -> None:
        """Have the kernel forget attributes and pages of inodes. Never blocks."""
        for node_id in node_ids:
            self._add("inode", lambda node_id=node_id: self._forget_inode(node_id))  # type: ignore[misc]

    def _add(self, kind: str, send: Callable[[], None]) -> None:
        if len(self._queue) >= INVALIDATION_QUEUE:
            self._meter.count("invalidations_dropped_total")
            return
        self._queue.append((kind, send))
        self._arrived.set()

    async def once(self) -> None:
        """Wait for invalidations, or some time for none, and send them."""
        with trio.move_on_after(_IDLE_S):
            await self._arrived.wait()
        self._arrived = trio.Event()
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
            await trio.to_thread.run_sync(_send, batch, limiter=self._limiter)
            for kind, count in Counter(kind for kind, _ in batch).items():
                self._meter.count("invalidations_total", count, kind=kind)


def _send(batch: Sequence[tuple[str, Callable[[], None]]]) -> None:
    for _, send in batch:
        try:
            send()
        except OSError as exc:  # the kernel doesn't know it (ENOENT), or the mount is gone
            _log.debug("invalidation: %s", exc)
