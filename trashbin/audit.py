"""Audit: who deleted what, when, where from and with what, and what became of it.

Everything goes into the journal, which never lets a delete wait. What isn't kept is recorded as
well, in the journal of the served root: it has no entry, and needs no trash of its own.
`trashbin.trail` reads it.
"""

from __future__ import annotations

import dataclasses
import stat
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cephfs_ext.core.ports import Node
from cephfs_ext.core.types import Attr, Credentials, Ino
from trashbin.ancestors import Ancestors
from trashbin.event_ids import EventIds
from trashbin.journal import Fate, Journal, Record
from trashbin.layout import EntryName, make_id

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}


@dataclasses.dataclass(frozen=True, slots=True)
class Deleter:
    """Who deletes."""

    cred: Credentials
    pid: int
    command: str
    started: int = 0
    """When the process was started, in ticks since the machine was; 0 if it isn't known."""
    pod: str = ""
    container: str = ""


class Bypass(NamedTuple):
    """Why something isn't kept."""

    reason: str
    """As `trash_bypasses_total` has it."""
    rule: str = ""
    """Name of the rule of the policy, or `mark`."""


class Was(NamedTuple):
    """A name that is gone."""

    path: bytes
    """Relative to the domain's root."""
    parent: Ino
    """0 if it isn't known."""
    parent_token: bytes
    attr: Attr
    kind: str


class Gone(NamedTuple):
    """A tree that has left the trash."""

    id: str
    """Of its top."""
    began_ns: int
    """When the first of what is in it was deleted."""
    path: bytes
    """Where it was, relative to the domain's root; nothing if that isn't known."""


def kind_of(attr: Attr) -> str:
    """Say what a name is that is deleted by itself."""
    if attr.nlink > 1 and not attr.is_dir:
        return "link"
    return _KINDS.get(stat.S_IFMT(attr.mode), "special")


class Audit:
    """Writes the journal of one running gateway. Nothing here blocks or fails."""

    def __init__(
        self,
        journal: Journal,
        events: EventIds,
        ancestors: Ancestors,
        *,
        root: Ino,
        host: str,
        instance: str,
        clock: Callable[[], int],
        wanted: bool,
    ) -> None:
        """Keep what is needed.

        Args:
            root: the served root, in whose journal stands what isn't kept.
            host: where the gateway runs.
            clock: that of the entries.
            wanted: False to record nothing but what the trash needs.
        """
        self._journal = journal
        self._events = events
        self._ancestors = ancestors
        self._root = root
        self._host = host
        self._instance = instance
        self._clock = clock
        self._wanted = wanted

    def begin(self, who: Deleter) -> None:
        """Note that somebody deletes something, which is recorded later."""
        self._events.of(who.cred.uid, who.pid, who.started)

    def kept(
        self,
        domain_root: Ino,
        entry: EntryName,
        was: Was,
        who: Deleter,
        chain: Sequence[Node] = (),
    ) -> None:
        """Record something that is in the trash now.

        Args:
            chain: the directory that it was in, the one above that, and so on, without the
                domain's root.
        """
        record = self._record(entry.id, was, who, Bypass(""))
        self._journal.record(domain_root, entry.deleted_ns, record)
        above = was.path.rpartition(b"/")[0]
        self._ancestors.saw(domain_root, entry.deleted_ns, chain, above)

    def bypassed(self, was: Was, who: Deleter, bypass: Bypass) -> None:
        """Record something that was really removed; its path is relative to the served root."""
        if self._wanted:
            now_ns = self._clock()
            record = self._record(make_id(now_ns, self._instance), was, who, bypass)
            self._journal.record(self._root, now_ns, record)

    def _record(self, record_id: str, was: Was, who: Deleter, bypass: Bypass) -> Record:
        attr = was.attr
        return Record(
            id=record_id,
            path=was.path,
            uid=who.cred.uid,
            gid=who.cred.gid,
            pid=who.pid,
            command=who.command,
            kind=was.kind,
            ino=attr.ino,
            parent_token=was.parent_token,
            parent=was.parent,
            owner=attr.uid,
            size=attr.size if attr.is_regular or attr.is_symlink else None,
            event=self._events.of(who.cred.uid, who.pid, who.started),
            host=self._host,
            pod=who.pod,
            container=who.container,
            why=bypass.reason,
            rule=bypass.rule,
        )

    def restored(self, domain_root: Ino, gone: Gone, uid: int, to: bytes) -> None:
        """Note who brought a tree back, and to where, relative to the served root."""
        self._left(domain_root, gone, "restored", uid, to)

    def purged(self, domain_root: Ino, gone: Gone, uid: int) -> None:
        """Note who removed a tree for good."""
        self._left(domain_root, gone, "purged", uid, b"")

    def outdated(self, domain_root: Ino, entry: EntryName) -> None:
        """Note that a version went because there are newer ones."""
        self._left(domain_root, Gone(entry.id, entry.deleted_ns, b""), "outdated", 0, b"")

    def _left(self, domain_root: Ino, gone: Gone, what: str, uid: int, to: bytes) -> None:
        fate = Fate(
            what=what,
            at_ns=time.time_ns(),
            host=self._host,
            id=gone.id,
            began_ns=gone.began_ns,
            path=gone.path,
            uid=uid,
            to=to,
        )
        self._note(domain_root, fate)

    def expired(self, domain_root: Ino, hour: bytes) -> None:
        """Note that an hour of a shard, or of tombstones, has expired."""
        fate = Fate(what="expired", at_ns=time.time_ns(), host=self._host, hour=hour.decode())
        self._note(domain_root, fate)

    def _note(self, domain_root: Ino, fate: Fate) -> None:
        if self._wanted:
            self._journal.note(domain_root, fate)
