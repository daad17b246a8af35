"""What destroys a name, and what becomes of it: the policy between POSIX and the trash.

Knows nothing of FUSE. All checks that the kernel makes before an unlink are made here again, with
the caller's credentials, because the rename into the trash acts as the gateway.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import trio

from cephfs_ext.core.config import PolicyRule
from cephfs_ext.core.errors import (
    CrossDomainError,
    DeniedError,
    ExchangedError,
    FSError,
    FullError,
    NotFoundError,
)
from cephfs_ext.core.permissions import SEARCH, WRITE, is_sticky_for, permits, sticky_forbids
from cephfs_ext.core.ports import Found, Meter, Node, Storage
from cephfs_ext.core.types import Attr, Credentials, Ino
from cephfs_ext.vfs.brake import Brake
from cephfs_ext.vfs.marks import Marks
from cephfs_ext.vfs.nodes import NodeId, NodeTable
from trashbin.audit import Audit, Bypass, Was, kind_of
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.files import read_acl
from trashbin.layout import USUAL, Term
from trashbin.links import beside_other_link, is_promised
from trashbin.paths import below
from trashbin.policy import Candidate, Decision, decide, may_exempt_any
from trashbin.put import Deleter, Place, Put

_log = logging.getLogger(__name__)

_TELL_FULL_S = 60.0
"""How often the log says that deletes are final because the trash is full."""

_Act = Callable[[], Awaitable[None]]

_FINAL = ("special", "disabled")
"""Reasons to remove something really of which no tombstone can be."""

_UNKNOWN = Ino(0)

_ATTEMPTS = 3
"""How often a delete starts anew because another client changed the name meanwhile."""

_MADE_ANEW_S = (0.0, 0.1, 0.3, 1.0)
"""Pauses between attempts to delete while another client removes the trash."""


Step = Callable[[Domain, Place], Awaitable[None]]
"""Something to do in a trash, for a name that goes."""


class Verdict(NamedTuple):
    """What becomes of something that is deleted, and why."""

    bypass: str
    """Reason, as metrics have it, to remove it really; nothing if it is kept."""
    why: str
    rule: str = ""
    """Name of the rule that decided, `mark` for a mark, nothing if none did."""
    term: Term = USUAL
    """How long it is kept."""

    @property
    def removal(self) -> Bypass:
        """What to record of it if it is really removed."""
        return Bypass(self.bypass, self.rule if self.bypass == "policy" else "")


class Site(NamedTuple):
    """What a directory says about deletes in it, and where it is."""

    attr: Attr
    acl: bytes
    is_protected: bool
    is_strict: bool
    """True if a delete may not be answered before it has been carried out."""
    mark: str
    """That about the trash."""
    path: bytes
    """Relative to the served root."""


class Goner(NamedTuple):
    """A name whose delete has been answered, and what it named."""

    name: bytes
    attr: Attr
    deleted_ns: int
    """When it was answered, by `Put.stamp`."""


class Deletes:
    """Carries out unlink, rmdir and the replacing kind of rename."""

    def __init__(
        self,
        storage: Storage,
        nodes: NodeTable,
        domains: Domains,
        put: Put,
        audit: Audit,
        marks: Marks,
        brake: Brake,
        meter: Meter,
        *,
        rules: Sequence[PolicyRule],
        enabled: bool,
        shadow: bool,
        deletes_when_full: bool,
    ) -> None:
        self._marks = marks
        self._brake = brake
        self._rules = rules
        self._shadow = shadow
        self._deletes_when_full = deletes_when_full
        self._told_full_s = float("-inf")
        self._storage = storage
        self._nodes = nodes
        self._domains = domains
        self.put = put
        self._audit = audit
        self._meter = meter
        self.enabled = enabled

    async def unlink(self, parent: NodeId, name: bytes, who: Deleter) -> None:
        """Remove a name that is no directory; what it named is in the trash afterwards.

        Raises:
            FSError: EISDIR, or what unlink(2) has; nothing has changed.
        """
        for attempt in range(_ATTEMPTS):
            try:
                await self._unlink_once(parent, name, who)
                return
            except ExchangedError as exc:
                if attempt + 1 == _ATTEMPTS:
                    raise NotFoundError() from exc

    async def _unlink_once(self, parent: NodeId, name: bytes, who: Deleter) -> None:
        above = self._nodes[parent].node
        victim = await self._storage.lookup(above, name)
        try:
            if victim.attr.is_dir:
                raise FSError(errno.EISDIR)
            await self.check_allowed(parent, victim, who.cred)
            verdict = await self.explain(parent, name, victim)
            bypass = await self._carry_out(
                victim,
                verdict,
                lambda: self._trash_file(parent, name, victim, who, verdict.term),
                lambda: self._remove_file(
                    parent,
                    name,
                    victim,
                    verdict,
                    lambda: self._storage.unlink(above, name, who.cred),
                ),
            )
            if bypass is not None:
                self.bypassed(parent, name, victim.attr, who, bypass, kind_of(victim.attr))
        finally:
            self._storage.forget(victim.node)

    async def _remove_file(
        self, parent: NodeId, name: bytes, victim: Found, verdict: Verdict, remove: _Act
    ) -> None:
        """Really remove a name of a file; one of several only while there is another.

        What isn't kept by this name may be kept by another one, and deleted at this moment: a
        tombstone would stand for it that has no inode.

        Args:
            remove: takes the name away, by an unlink or by a rename over it.

        Raises:
            ExchangedError: another client has changed the name, or removed the other one.
            FSError: what `remove` raised.
        """

        async def step(domain: Domain, at: Place) -> None:
            if not await beside_other_link(domain, at.parent, name, victim.attr.ino, remove):
                raise ExchangedError()

        beside = verdict.bypass not in _FINAL and victim.attr.nlink > 1
        if beside and not victim.attr.is_dir:
            with contextlib.suppress(FullError):  # there is no room for a lock
                await self.in_domain(parent, name, step)
                return
        await remove()

    async def carry_out(
        self,
        parent: NodeId,
        name: bytes,
        victim: Found,
        who: Deleter,
        verdict: Verdict,
        deleted_ns: int,
    ) -> None:
        """Delete what has been answered and checked before: a file's last name, or a directory.

        What another client has removed or replaced meanwhile is gone without us.

        Args:
            deleted_ns: when it was answered, by `Put.stamp`.

        Raises:
            FSError: it can't be kept, or the directory isn't empty; nothing has changed.
        """
        attr, above = victim.attr, self._nodes[parent].node

        async def step(domain: Domain, at: Place) -> None:
            at = dataclasses.replace(at, ino=attr.ino, deleted_ns=deleted_ns)
            put = self.put.directory if attr.is_dir else self.put.file
            await put(domain, at, victim, who)

        async def remove() -> None:
            take_away = self._storage.rmdir if attr.is_dir else self._storage.unlink
            await take_away(above, name, who.cred)

        try:
            bypass = await self._carry_out(
                victim, verdict, lambda: self.in_domain(parent, name, step, verdict.term), remove
            )
        except (NotFoundError, ExchangedError):
            return
        if bypass is not None:
            self.bypassed(parent, name, attr, who, bypass, kind_of(attr))

    async def carry_out_files(
        self, parent: NodeId, goners: Sequence[Goner], who: Deleter, term: Term
    ) -> Sequence[bool]:
        """Do the same for many files of a directory that are kept for one term.

        Returns:
            For each whether that is done; the others have to be carried out one by one.

        Raises:
            FSError: nothing has changed.
        """
        done: Sequence[bool] = ()

        async def step(domain: Domain, at: Place) -> None:
            nonlocal done
            above = at.path[: -len(at.name)]
            places = [
                dataclasses.replace(
                    at,
                    name=goner.name,
                    path=above + goner.name,
                    ino=goner.attr.ino,
                    deleted_ns=goner.deleted_ns,
                )
                for goner in goners
            ]
            done = await self.put.files(domain, places, [goner.attr for goner in goners], who)

        await self.in_domain(parent, goners[0].name, step, term)
        return done

    async def _trash_file(
        self, parent: NodeId, name: bytes, victim: Found, who: Deleter, term: Term
    ) -> None:
        async def step(domain: Domain, at: Place) -> None:
            hidden = True
            if victim.attr.nlink > 1:
                try:
                    hidden = await self.put.linked_file(domain, at, victim, who)
                except NotFoundError as exc:
                    raise ExchangedError() from exc
            else:
                await self.put.file(domain, at, victim, who)
            if hidden:
                self._nodes.hide_link(victim.attr.ino)

        await self.in_domain(parent, name, step, term)

    async def rmdir(self, parent: NodeId, name: bytes, who: Deleter) -> None:
        """Remove an empty directory; it is in the trash afterwards.

        Raises:
            FSError: ENOTDIR, ENOTEMPTY, or what rmdir(2) has; nothing has changed.
        """
        above = self._nodes[parent].node
        victim = await self._storage.lookup(above, name)
        try:
            if not victim.attr.is_dir:
                raise FSError(errno.ENOTDIR)
            await self.check_allowed(parent, victim, who.cred)
            verdict = await self.explain(parent, name, victim)
            bypass = await self._carry_out(
                victim,
                verdict,
                lambda: self._trash_dir(parent, name, victim, who, verdict.term),
                lambda: self._storage.rmdir(above, name, who.cred),
            )
            if bypass is not None:
                self.bypassed(parent, name, victim.attr, who, bypass, "dir")
            self._nodes.gone(parent, name)
            self._nodes.dead(victim.attr.ino)
        finally:
            self._storage.forget(victim.node)

    async def _trash_dir(
        self, parent: NodeId, name: bytes, victim: Found, who: Deleter, term: Term
    ) -> None:
        async def step(domain: Domain, at: Place) -> None:
            await self.put.directory(domain, at, victim, who)

        await self.in_domain(parent, name, step, term)
        self._nodes.hide_link(victim.attr.ino)

    async def _carry_out(
        self, victim: Found, verdict: Verdict, keep: _Act, remove: _Act
    ) -> Bypass | None:
        """Keep something, if that is the verdict, or remove it really.

        Where there is no room, and the operator wants it so, it is removed as well, but for what
        a tombstone promises.

        Returns:
            Why it was removed; None if it was kept.

        Raises:
            FSError: what `keep` raised, or `remove`; nothing has changed.
        """
        if verdict.bypass:
            await remove()
            return verdict.removal
        try:
            await keep()
            return None
        except FullError as exc:
            if not self._deletes_when_full or await self._is_promised(victim):
                raise
            why = str(exc)
        await remove()
        self._tell_full(why)
        return Bypass("full")

    def _tell_full(self, why: str) -> None:
        if time.monotonic() - self._told_full_s > _TELL_FULL_S:
            self._told_full_s = time.monotonic()
            _log.warning("the trash is full (%s): what is deleted now is gone", why)

    async def tree(self, parent: NodeId, name: bytes, who: Deleter) -> None:
        """Move whatever has a name into the trash, with all that is below it, by one rename.

        Raises:
            FSError: EACCES or EPERM, or ENOENT; nothing has changed.
        """
        above = self._nodes[parent].node
        victim = await self._storage.lookup(above, name)
        try:
            if not self.enabled:
                raise DeniedError(what="the trash is disabled")
            if not victim.attr.is_dir:
                await self.unlink(parent, name, who)
                return
            await self.check_allowed(parent, victim, who.cred, is_tree=True)

            async def step(domain: Domain, at: Place) -> None:
                await self.put.tree(domain, at, victim, who)

            decision = await self._decision(parent, name, victim.attr)
            await self.in_domain(parent, name, step, decision.term)
            self._nodes.hide_link(victim.attr.ino)
            self._nodes.gone(parent, name)
        finally:
            self._storage.forget(victim.node)

    async def _check_tree(self, victim: Found, cred: Credentials) -> int:
        """Check that a directory may be moved: its `..` changes, so rename(2) asks for WRITE on it.

        Returns:
            How many things are in it, if there is a use for that and the storage knows at once.

        Raises:
            DeniedError: EACCES.
        """
        acl = await self.acl(victim.node)
        if not permits(victim.attr, cred, WRITE, acl):
            raise DeniedError(errno.EACCES)
        if self._brake.is_on:
            with contextlib.suppress(FSError):
                weight = await self._storage.weigh(victim.node)
                return 1 if weight is None else 1 + weight.files
        return 1

    async def replace(
        self,
        parent: NodeId,
        name: bytes,
        victim: Found,
        who: Deleter,
        rename: Callable[[], Awaitable[None]],
    ) -> None:
        """Carry out a rename that replaces `victim`, which is kept.

        Args:
            rename: does the rename with the caller's credentials, if the victim is still there.

        Raises:
            FSError: what `rename` raised, or the trash; nothing has changed.
        """
        await self.check_allowed(parent, victim, who.cred)
        verdict = await self.explain(parent, name, victim)
        put = self.put.replaced_dir if victim.attr.is_dir else self.put.replaced_file

        async def step(domain: Domain, at: Place) -> None:
            if await put(domain, at, victim, who, rename):
                self._nodes.hide_link(victim.attr.ino)

        bypass = await self._carry_out(
            victim,
            verdict,
            lambda: self.in_domain(parent, name, step, verdict.term),
            lambda: self._remove_file(parent, name, victim, verdict, rename),
        )
        if bypass is not None:
            self.bypassed(parent, name, victim.attr, who, bypass, "replaced")

    async def check_allowed(
        self, parent: NodeId, victim: Found, cred: Credentials, *, is_tree: bool = False
    ) -> None:
        """Check all that can speak against removing or replacing something, and count it.

        Args:
            is_tree: True for a directory that goes with all that is in it.

        Raises:
            DeniedError: EACCES or EPERM, as `check_rights` and `check_protection`.
            FSError: EDQUOT; too much of what isn't the caller's, see `Brake`.
        """
        await self.check_rights(self._nodes[parent].node, victim.attr, cred)
        await self.check_protection(parent)
        weight = await self._check_tree(victim, cred) if is_tree else 1
        self.count_foreign(victim, cred, weight)

    def count_foreign(self, victim: Found, cred: Credentials, weight: int = 1) -> None:
        """Count what is about to go and isn't the caller's.

        Raises:
            FSError: EDQUOT; too much of it, see `Brake`.
        """
        self._brake.check(cred.uid, victim.attr.uid, weight)

    async def check_rights(self, parent: Node, victim: Attr, cred: Credentials) -> None:
        """Check that `cred` may remove `victim` from a directory.

        Raises:
            DeniedError: EACCES for the directory's permissions, EPERM for its sticky bit.
        """
        if cred.uid != 0:
            attr = await self._storage.getattr(parent)
            _check_rights(attr, await self.acl(parent), victim, cred)

    async def survey(self, directory: NodeId) -> Site:
        """Gather all that deletes in a directory depend on, but what they delete."""
        node = self._nodes[directory].node
        return Site(
            await self._storage.getattr(node),
            await self.acl(node),
            await self._marks.protected(directory),
            await self._marks.strict(directory),
            await self._marks.trash(directory),
            self._nodes.path(directory, self._storage.root.ino),
        )

    def check_at(self, site: Site, victim: Attr, cred: Credentials) -> None:
        """Check the same as `check_allowed`, where the directory is known. Counts it, too."""
        if cred.uid != 0:
            _check_rights(site.attr, site.acl, victim, cred)
        if site.is_protected:
            raise _protected()
        self._brake.check(cred.uid, victim.uid, 1)

    def keeps_at(self, site: Site) -> bool:
        """Tell whether all that is deleted in a directory is kept, but for the `names_exempted`."""
        if not self.enabled or self._shadow or site.mark == "off":
            return False
        return not may_exempt_any(self._rules, site.path)

    def counts_foreign(self, site: Site, cred: Credentials) -> bool:
        """Tell whether it matters in a directory whose it is what somebody deletes."""
        return self._brake.is_on or is_sticky_for(site.attr, cred)

    def verdict_at(self, site: Site, name: bytes, victim: Attr) -> Verdict | None:
        """Say that something will be kept, where the directory is known.

        Returns:
            None if it won't be, or if more has to be looked at, which `explain` does.
        """
        if not self.enabled or self._shadow:
            return None
        if not (victim.is_regular or victim.is_symlink or victim.is_dir):
            return None
        keep, rule, why, term = self._decide(site.path, name, victim, site.mark)
        return Verdict("", why, rule, term) if keep else None

    async def acl(self, node: Node) -> bytes:
        """Read an access control list; nothing if there is none."""
        return await read_acl(self._storage, node)

    async def check_protection(self, parent: NodeId) -> None:
        """Check that nothing above forbids to delete, replace or overwrite what is in `parent`.

        Raises:
            DeniedError: EPERM; a directory is marked `user.cephfs_ext.protect`.
        """
        if await self._marks.protected(parent):
            raise _protected()

    async def explain(self, parent: NodeId, name: bytes, victim: Found) -> Verdict:
        """Say what would become of a victim."""
        attr = victim.attr
        if not self.enabled:
            return Verdict("disabled", "trash.enabled is false")
        if not (attr.is_regular or attr.is_symlink or attr.is_dir):
            return Verdict("special", "it is no file, no link and no directory")
        keep, rule, why, term = await self._decision(parent, name, attr)
        is_exempt = not keep or self._shadow
        if is_exempt and await self._is_promised(victim):
            return Verdict("", "it may be needed to restore another name of the file")
        if not keep:
            return Verdict("policy", why, rule)
        if self._shadow:
            return Verdict("shadow", "trash.mode is shadow; else it would be kept", rule, term)
        return Verdict("", why, rule, term)

    async def _is_promised(self, victim: Found) -> bool:
        """Tell whether the last name of a file may be needed to restore another one."""
        return victim.attr.nlink == 1 and await is_promised(self._storage, victim.node)

    def bypassed(
        self, parent: NodeId, name: bytes, victim: Attr, who: Deleter, bypass: Bypass, kind: str
    ) -> None:
        """Count and record something that is really removed."""
        self._meter.count("trash_bypasses_total", reason=bypass.reason)
        above = self._nodes.path(parent, self._storage.root.ino)
        was = Was(below(above, name), _UNKNOWN, b"", victim, kind)
        self._audit.bypassed(was, who, bypass)

    async def _decision(self, parent: NodeId, name: bytes, victim: Attr) -> Decision:
        """Ask the policy."""
        above = self._nodes.path(parent, self._storage.root.ino)
        return self._decide(above, name, victim, await self._marks.trash(parent))

    def _decide(self, above: bytes, name: bytes, victim: Attr, mark: str) -> Decision:
        thing = Candidate(
            path=below(above, name),
            mode=victim.mode,
            size_bytes=victim.size,
            mtime_ns=victim.mtime_ns,
            owner_uid=victim.uid,
            mark=mark,
        )
        return decide(self._rules, thing, now_ns=time.time_ns())

    async def check_same_domain(self, one: NodeId, other: NodeId) -> None:
        """Check that a rename may go from one directory to another.

        Raises:
            CrossDomainError: EXDEV; only one of them is below some quota.
        """
        if one != other and await self._quota_of(one) != await self._quota_of(other):
            raise CrossDomainError()

    async def _quota_of(self, directory: NodeId) -> Ino:
        """Return where the nearest quota at or above a directory starts, looked up anew."""
        *chain, root = self._nodes.chain(directory)
        for node in chain:
            if await self._storage.is_domain_root(node):
                return node.ino
        return root.ino

    async def in_domain(self, parent: NodeId, name: bytes, step: Step, term: Term = USUAL) -> None:
        """Carry out `step` in the trash that `parent` belongs to, looked for anew on EXDEV.

        Where another client has removed the trash, or a part of it, it is made anew.

        Args:
            term: how long what `step` puts there is to be kept.

        Raises:
            FSError: what `step` raised, or the trash; it is counted as a failure of the trash.
        """
        chain = self._nodes.chain(parent)
        for pause_s in _MADE_ANEW_S:
            try:
                await self._in_either_domain(chain, parent, name, step, term)
            except NotFoundError:
                if not await self._is_made_anew(chain, parent):
                    raise
            else:
                return
            await trio.sleep(pause_s)
        await self._in_either_domain(chain, parent, name, step, term)

    async def _is_made_anew(self, chain: list[Node], parent: NodeId) -> bool:
        """Look whether it is the trash that is not there; then it is made anew."""
        path = self._nodes.path(parent, self._storage.root.ino)
        try:
            return await self._domains.renew(await self._domains.of(chain, path))
        except NotFoundError:
            return True  # it is being removed at this moment

    async def _in_either_domain(
        self, chain: list[Node], parent: NodeId, name: bytes, step: Step, term: Term
    ) -> None:
        try:
            await self._step(chain, parent, name, step, term)
        except CrossDomainError:
            self._domains.forget(chain)
            await self._step(chain, parent, name, step, term)

    async def _step(
        self, chain: list[Node], parent: NodeId, name: bytes, step: Step, term: Term
    ) -> None:
        path = self._nodes.path(parent, self._storage.root.ino)
        domain = await self._domains.of(chain, path)
        rank = await self._storage.rank_of(path)
        directory = self._nodes.path(parent, domain.root.ino)
        inside = tuple(itertools.takewhile(lambda node: node.ino != domain.root.ino, chain))
        place = Place(chain[0], name, below(directory, name), rank, term, inside)
        try:
            await step(domain, place)
        except FSError as exc:
            gone = exc.errno in (errno.ENOENT, errno.ENOTEMPTY)
            if not gone and not isinstance(exc, ExchangedError):
                label = errno.errorcode.get(exc.errno, "other")
                self._meter.count("trash_failures_total", errno=label)
            raise


def _protected() -> DeniedError:
    return DeniedError(what="a directory above is protected")


def _check_rights(parent: Attr, acl: bytes, victim: Attr, cred: Credentials) -> None:
    if not permits(parent, cred, WRITE | SEARCH, acl):
        raise DeniedError(errno.EACCES)
    if sticky_forbids(parent, victim, cred):
        raise DeniedError(errno.EPERM)
