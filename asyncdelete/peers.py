"""Who is at work on one tree, so that nobody waits for the dead.

Every worker is a member of those at work below `.trashbin/jobs` in the trash of the served root
(`cephfs_ext.core.ports.Storage.member`), and says there which storage sessions it works through.
Whoever succeeds a dead member, or one that has stalled for longer than its lease, ends those
sessions first. From then on nothing that the worker still does can take effect, and what it held
doesn't make others wait: a client of CephFS that dies without goodbye makes those who need its
capabilities wait for a minute. So nothing here may use the file system once the worker is
registered: it may be what waits.

A worker that was only slow notices that it isn't a member any more, stops, and registers anew.

Concurrency: each looks after the next ones in the order of names, so that a crowd of workers asks
the lock service no more than a few do.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from itertools import chain

import msgspec
import trio

from cephfs_ext.core.errors import DeniedError, FSError, FullError
from cephfs_ext.core.ports import Meter, Node, Storage
from trashbin import layout
from trashbin.domain import Domain
from trashbin.domains import Domains

_log = logging.getLogger(__name__)

WORKER_LEASE_S = 3
"""A worker that stalls for longer is taken for dead."""

GATEWAY_LEASE_S = 12
"""The same of a gateway, whose users would notice the end of its sessions."""

_LOOK_S = 0.5

_NEXT = 2
"""How many others each looks after."""

_WITHOUT_S = 60.0
"""How long a worker goes on without being a member where it can't be one, before it tries again."""


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
        self._about = msgspec.json.encode(about)
        self._lease_s = lease_s
        self._name = name
        self._roll: Node | None = None
        """Where the members are; None while this worker can't know of them."""
        self._has_warned = False
        self.is_registered = False
        """False while this worker must not touch anything."""
        self.changed = trio.Event()
        """Set when that changes; a new one from then on."""

    async def once(self) -> None:
        """Be registered and look after others until that is lost, or go without for a while.

        Raises:
            FSError: this worker is no member any more; another may have ended its sessions.
        """
        domain = await self._domains.root()
        jobs = domain.service(layout.JOBS)
        try:
            async with self._storage.member(jobs, self._name, self._about, lease_s=self._lease_s):
                await self._look_after_others(domain, jobs)
        except (DeniedError, FullError) as exc:
            await self._go_without(exc)

    async def _look_after_others(self, domain: Domain, jobs: Node) -> None:
        """Look for the dead again and again; those who follow them at once."""
        self._roll = jobs
        self._set(True)
        try:
            while True:
                names = sorted(await self._storage.members(jobs))
                if self._name not in names or not self._domains.is_open(domain):
                    raise FSError(errno.EIO, "this worker is no member any more")
                if not await self._end_dead(jobs, _next_of(names, self._name)):
                    await trio.sleep(_LOOK_S)
        finally:
            self._set(False)

    async def _go_without(self, why: FSError) -> None:
        """Work without a lock, where there can't be one: workers don't know of each other."""
        if not self._has_warned:
            _log.warning("workers that die make others wait for a minute: %s", why)
        self._has_warned = True
        self._roll = None
        self._set(True)
        await trio.sleep(_WITHOUT_S)

    def _set(self, is_registered: bool) -> None:
        self.is_registered = is_registered
        self.changed.set()
        self.changed = trio.Event()

    async def living(self, names: frozenset[str]) -> frozenset[str]:
        """Return those of some workers who may still be doing something."""
        if self._roll is None:
            return names
        return names.intersection(await self._storage.members(self._roll))

    async def _end_dead(self, jobs: Node, names: Sequence[str]) -> bool:
        """Succeed those of some workers that are dead, at the same time; tell whether any was."""
        ended: list[str] = []

        async def look_at(name: str) -> None:
            try:
                succession = await self._storage.try_succeed(jobs, name)
                if succession is not None:
                    await self._succeed(name, succession)
                    ended.append(name)
            except FSError as exc:
                _log.warning("whether worker %s lives isn't known: %s", name, exc)

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(look_at, name)
        return bool(ended)

    async def _succeed(self, name: str, succession: AbstractAsyncContextManager[bytes]) -> None:
        async with succession as raw:
            _log.warning("worker %s is gone; its sessions are ended", name)
            await self._storage.end_sessions(_sessions_in(raw))
        self._meter.count("workers_lost_total")


def _next_of(names: Sequence[str], name: str) -> Sequence[str]:
    """Return those who come after a name, in a circle."""
    here = names.index(name)
    return tuple(chain(names[here + 1 :], names[:here]))[:_NEXT]


def _sessions_in(raw: bytes) -> Sequence[str]:
    """Return the sessions of a worker; none of one that died before it could say anything."""
    try:
        return msgspec.json.decode(raw, type=About).sessions if raw else ()
    except msgspec.DecodeError as exc:
        _log.warning("what a worker says of itself can't be read: %s", exc)
        return ()
