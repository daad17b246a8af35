"""Letting go: what is older than the retention time leaves the trash, and what is purged.

Time to live comes from the hour in the path, never from file times. An hour of a shard is claimed
by renaming it into `purging/`: from then on nothing in it can be restored, and any gateway may
remove it. What can't be read is set aside in `held/` first; it is never removed. An inode of which
a tombstone that stays promises another name is not removed with its last link (`trashbin.spare`).

Concurrency: two gateways may expire one domain at once; a claim is a rename, so one of them wins.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.errors import FSError, NotFoundError
from cephfs_ext.core.ports import Meter, Node
from cephfs_ext.core.types import GATEWAY, Credentials
from trashbin import layout
from trashbin.audit import Audit
from trashbin.catalog import Item, damaged_names, directories_of_hours, hours_of
from trashbin.domain import Domain, directory_at, lying_in
from trashbin.domains import Domains
from trashbin.files import exists, make_dir, remove_quietly
from trashbin.hold import tidy
from trashbin.journal import journals_of
from trashbin.layout import JournalName
from trashbin.progress import Progress
from trashbin.recover import recover_restores
from trashbin.versions import Versions

_log = logging.getLogger(__name__)

SLACK_S = 900
"""An hour is claimed this long after its time: clocks differ, and a delete may stall."""


def _end_s(journal: JournalName) -> int:
    end_s = layout.hour_end_s(journal.hour)
    assert end_s is not None, "the name of a journal has an hour"
    return end_s


class Removed(NamedTuple):
    """What a removal took away."""

    files: int
    dirs: int
    failures: int


def total(removals: Iterable[Removed]) -> Removed:
    """Add up."""
    files = dirs = failures = 0
    for removed in removals:
        files, dirs = files + removed.files, dirs + removed.dirs
        failures += removed.failures
    return Removed(files, dirs, failures)


class Remover(Protocol):
    """Removes for good what has been claimed (`asyncdelete.worker`)."""

    async def plan_purge(self, domain: Domain, cred: Credentials) -> bytes:
        """Note that entries are about to be claimed, together.

        Args:
            cred: who wants it.

        Returns:
            A new name in `purging`, for a directory that they are to be claimed into.
        """
        ...

    async def hand_over(self, domain: Domain) -> None:
        """See to it that all that lies in `purging` is removed, sooner or later."""
        ...

    async def removed(self, domain: Domain, claim: bytes) -> Removed:
        """Have something removed and wait for it; what can't be removed is counted as failures."""
        ...


class Expiry:
    """Claims what has expired and has it removed."""

    def __init__(
        self,
        domains: Domains,
        remover: Remover,
        meter: Meter,
        audit: Audit,
        *,
        retention_s: float,
        audit_s: float,
        instance: str,
        clock: MonotonicNs,
    ) -> None:
        """Keep what is needed.

        Args:
            retention_s: how long what was deleted is kept.
            audit_s: how much longer the journal is.
        """
        self._domains = domains
        self.remover = remover
        self._meter = meter
        self._audit = audit
        self._retention_s = retention_s
        self._audit_s = audit_s
        self._instance = instance
        self._clock = clock
        self._versions = Versions(meter)

    def expires_s(self, item: Item) -> float | None:
        """Return when an item leaves the trash, seconds since the epoch; None if it is held."""
        return self.leaves_s(item.above, item.entry.hour)

    def leaves_s(self, above: bytes, hour: bytes) -> float | None:
        """Return when an hour has expired; None if it never does, or is no hour."""
        end_s, term = layout.hour_end_s(hour), layout.term_of(above)
        if end_s is None or term.is_held:
            return None
        return end_s + (self._retention_s if term.retention_s is None else term.retention_s)

    async def once(self) -> None:
        """Let go what has expired in every domain, and remove all that has been claimed.

        What one domain can't do is logged, and doesn't stop the others; restores whose gateways
        have died are brought to their end on the way.

        Raises:
            FSError: the trash of the root can't be used.
        """
        for domain in await self._domains.all():
            steps = (
                recover_restores,
                self._claim_expired,
                self._claim_surplus,
                self._drop_journals,
                tidy,
                self.remover.hand_over,
            )
            for step in steps:
                try:
                    await step(domain)
                except FSError as exc:
                    _log.warning("expiry in domain %x: %s", domain.root.ino, exc)

    async def _claim_expired(self, domain: Domain) -> None:
        for above in directories_of_hours(domain):
            for hour in await hours_of(domain, above):
                leaves_s = self.leaves_s(above, hour)
                if leaves_s is not None and leaves_s <= time.time() - SLACK_S:
                    await self.claim_hour(domain, above, hour)

    async def _claim_surplus(self, domain: Domain) -> None:
        """Claim the versions of files that are more than is to be kept."""
        purging = domain.service(layout.PURGING)
        async for above, hour, name in self._versions.surplus(domain):
            with contextlib.suppress(NotFoundError):
                claim = b"version." + self._unique()
                await self._claim(domain, above, hour, name, purging, claim)
                self._meter.count("trash_expired_total", kind="versions")
                entry = layout.parse_entry(name)
                assert entry is not None, "a version is told by its name"
                self._audit.outdated(domain.root.ino, entry)

    async def claim_hour(self, domain: Domain, above: bytes, hour: bytes) -> bool:
        """Claim an hour; what can't be claimed now is tried again in the next round.

        Returns:
            False if it isn't claimed, or somebody else was faster.
        """
        claim = b"%s.%s.%s" % (above, hour, self._unique())
        try:
            async with directory_at(domain, above, hour) as node:
                await self._set_damaged_aside(domain, above, hour, node)
            async with directory_at(domain, above) as node:
                await domain.storage.rename(
                    node, hour, domain.service(layout.PURGING), claim, GATEWAY
                )
        except NotFoundError:
            return False  # another gateway was faster
        except FSError as exc:
            _log.warning("%r of %r can't be claimed: %s", hour, above, exc)
            return False
        self._meter.count(
            "trash_expired_total", kind="tombs" if layout.is_tombs(above) else "hours"
        )
        self._audit.expired(domain.root.ino, hour)
        return True

    def _unique(self) -> bytes:
        return layout.make_id(self._clock(), self._instance).encode()

    async def _set_damaged_aside(
        self, domain: Domain, above: bytes, hour: bytes, node: Node
    ) -> None:
        for name in await damaged_names(domain.storage, above, node):
            kept = b"%s.%s.%s" % (above, hour, self._unique())
            await domain.storage.rename(node, name, domain.service(layout.HELD), kept, GATEWAY)
            _log.warning("%r/%r/%r can't be read; kept as held/%r", above, hour, name, kept)

    async def once_disabled(self) -> None:
        """Drop old journals of the root, in which a gateway without a trash writes.

        Raises:
            FSError: it could not be done.
        """
        if await self._domains.is_set_up():
            await self._drop_journals(await self._domains.root())

    async def _drop_journals(self, domain: Domain) -> None:
        """Remove journals that are old, and of hours of which there is nothing any more."""
        horizon_s = time.time() - self._retention_s - self._audit_s - SLACK_S
        old = [name for name in await journals_of(domain) if _end_s(name) < horizon_s]
        if not old:
            return
        hours = [await hours_of(domain, above) for above in directories_of_hours(domain)]
        there = set(itertools.chain.from_iterable(hours))
        for name in old:
            if name.hour not in there:
                await remove_quietly(domain.storage, domain.service(layout.JOURNAL), name.raw)

    async def purge(
        self,
        domain: Domain,
        items: Iterable[Item],
        cred: Credentials,
        progress: Progress | None = None,
    ) -> Removed:
        """Remove items before their time, and wait until they are gone.

        All are claimed before the first is removed, into a directory of their own, which is not
        counted.

        Args:
            progress: counts items that are claimed.

        Raises:
            FSError: an item could not be claimed; those before it will be removed.
        """
        waiting: Sequence[Item] = list(items)
        progress = progress or Progress()
        claims: list[bytes] = []
        try:
            while waiting:
                claims.append(await self.remover.plan_purge(domain, cred))
                left = await self._claim_into(domain, claims[-1], waiting)
                progress.add(len(waiting) - len(left))
                waiting = left
        except FSError:
            await self.remover.hand_over(domain)
            raise
        removed = total([await self.remover.removed(domain, claim) for claim in claims])
        return removed._replace(dirs=max(0, removed.dirs - len(claims)))

    async def _claim_into(
        self, domain: Domain, claim: bytes, items: Sequence[Item]
    ) -> Sequence[Item]:
        """Claim items into a new directory.

        Returns:
            Those that were not, since somebody has removed the directory already.
        """
        storage, purging = domain.storage, domain.service(layout.PURGING)
        found = await make_dir(storage, purging, claim, layout.TRASH_MODE)
        try:
            for number, item in enumerate(items):
                try:
                    await self._claim(
                        domain, item.above, item.entry.hour, item.leaf, found.node, item.leaf
                    )
                except NotFoundError:
                    if not await exists(storage, purging, claim):
                        return items[number:]
                    # else it was restored, or purged by somebody else
        finally:
            storage.forget(found.node)
        return ()

    async def _claim(
        self, domain: Domain, above: bytes, hour: bytes, name: bytes, to: Node, claim: bytes
    ) -> None:
        """Claim one name in an hour.

        Raises:
            NotFoundError: it is gone.
        """
        async with lying_in(domain, above, hour, (name,)) as (node, leaf):
            await domain.storage.rename(node, leaf, to, claim, GATEWAY)
