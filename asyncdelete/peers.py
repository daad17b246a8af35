"""Who is at work on one tree, so that nobody waits for the dead.

Every worker has a directory `.trashbin/jobs/worker.<name>/` in the trash of the served root,
and holds its lock for as long as it lives. `about.json` in it names the storage sessions that it
works through. Whoever gets that lock knows that its holder has died, or has stalled for longer
than its lease; it ends those sessions first, then removes the directory. From then on nothing that
the worker still does can take effect, and what it held doesn't make others wait: a client of
CephFS that dies without goodbye makes those who need its capabilities wait for a minute.

A worker that was only slow notices that it has lost its lock, stops, and registers anew.

Concurrency: each looks after the next ones in the order of names, so that a crowd of workers asks
the lock service no more than a few do.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import AsyncIterator

import msgspec
import trio

from cephfs_ext.core.errors import DeniedError, FSError, NotFoundError
from cephfs_ext.core.ports import Found, Meter, Node, Storage
from trashbin import layout
from trashbin.domains import Domains
from trashbin.files import make_dir, names_in, read_record, remove_dir, write_record

_log = logging.getLogger(__name__)

_PREFIX = b"worker."
_ABOUT = b"about.json"
_ABOUT_LIMIT = 64 * 1024

WORKER_LEASE_S = 3
"""A worker that stalls for longer is taken for dead."""

GATEWAY_LEASE_S = 12
"""The same of a gateway, whose users would notice the end of its sessions."""

_LOOK_S = 1.0

_NEXT = 2
"""How many others each looks after."""

_UNFINISHED_S = 60.0
"""A worker without `about.json` died while it registered, if it did so this long ago."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What others have to know of a worker."""

    host: str
    pid: int
    sessions: tuple[str, ...] = ()


class Peers:
    """Registers this worker, and clears up after others."""

    def __init__(
        self,
        storage: Storage,
        domains: Domains,
        meter: Meter,
        about: About,
        *,
        name: str,
        lease_s: int,
    ) -> None:
        """Keep what is needed.

        Args:
            name: of this worker, which no other has.
            lease_s: how long it may stall before others take it for dead.
        """
        self._storage = storage
        self._domains = domains
        self._meter = meter
        self._about = about
        self._lease_s = lease_s
        self._name = _PREFIX + name.encode()
        self.is_registered = False
        """False while this worker must not touch anything."""
        self.changed = trio.Event()
        """Set when that changes; a new one from then on."""

    async def once(self) -> None:
        """Be registered, and look after others, until that is lost. Never returns.

        Raises:
            FSError: the lock was lost; another worker may have ended this one's sessions.
        """
        jobs = (await self._domains.root()).service(layout.JOBS)
        async with self._registered(jobs):
            self._set(True)
            try:
                while True:
                    await self._look_after_others(jobs)
                    await trio.sleep(_LOOK_S)
            finally:
                self._set(False)

    def _set(self, is_registered: bool) -> None:
        self.is_registered = is_registered
        self.changed.set()
        self.changed = trio.Event()

    @contextlib.asynccontextmanager
    async def _registered(self, jobs: Node) -> AsyncIterator[None]:
        """Hold a lock of our own; where the key may take none, workers don't know of each other."""
        mine = (await make_dir(self._storage, jobs, self._name, 0o700)).node
        try:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(
                        self._storage.exclusive(mine, lease_s=self._lease_s)
                    )
                except DeniedError as exc:
                    _log.warning("workers that die make others wait for a minute: %s", exc)
                await write_record(self._storage, mine, _ABOUT, msgspec.json.encode(self._about))
                yield
        finally:
            with trio.CancelScope(shield=True), contextlib.suppress(FSError):
                await remove_dir(self._storage, jobs, self._name, mine)
            self._storage.forget(mine)

    async def living(self) -> frozenset[str]:
        """Return the names of all workers that may still be doing something."""
        jobs = (await self._domains.root()).service(layout.JOBS)
        names = await names_in(self._storage, jobs)
        return frozenset(map(_name_of, filter(_is_worker, names)))

    async def _look_after_others(self, jobs: Node) -> None:
        names = sorted(filter(_is_worker, await names_in(self._storage, jobs)))
        if self._name not in names:
            raise FSError(errno.EIO, "another worker has taken this one for dead")
        here = names.index(self._name)
        for name in (*names[here + 1 :], *names[:here])[:_NEXT]:
            with contextlib.suppress(NotFoundError):
                found = await self._storage.lookup(jobs, name)
                try:
                    await self._look_at(jobs, name, found)
                finally:
                    self._storage.forget(found.node)

    async def _look_at(self, jobs: Node, name: bytes, found: Found) -> None:
        try:
            lock = await self._storage.try_exclusive(found.node)
        except DeniedError:
            return  # `once` has said so
        if lock is None:
            return
        async with lock:
            about = await self._about_of(found.node)
            age_s = time.time() - found.attr.mtime_ns / 1e9
            if about is None and age_s < _UNFINISHED_S:
                return  # it is just registering
            if about is not None:
                _log.warning("worker %s is gone; its sessions are ended", _name_of(name))
                await self._storage.end_sessions(about.sessions)
                self._meter.count("workers_lost_total")
            await remove_dir(self._storage, jobs, name, found.node)

    async def _about_of(self, node: Node) -> About | None:
        try:
            raw = await read_record(self._storage, node, _ABOUT, limit=_ABOUT_LIMIT)
            return msgspec.json.decode(raw, type=About)
        except NotFoundError:
            return None
        except msgspec.DecodeError as exc:
            _log.warning("what a worker says of itself can't be read: %s", exc)
            return About(host="", pid=0)


def _is_worker(name: bytes) -> bool:
    return name.startswith(_PREFIX)


def _name_of(name: bytes) -> str:
    return name.removeprefix(_PREFIX).decode(errors="replace")
