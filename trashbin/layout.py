"""The names on disk: what docs/format.md describes, and nothing else.

Pure functions and values; no storage. One trash per rename domain:

    .trashbin/format.json                    {"version": 1}
    .trashbin/r<rank>.<2 hex>[<term>]/<hour>/<entry>  what was deleted, by rename
    .trashbin/r<rank>.<2 hex>/fresh/<id>     files that are about to replace a truncated one
    .trashbin/journal/<hour>.<instance>.jsonl, <hour>.<instance>.<part>.jsonl
    .trashbin/tombs[<term>]/<hour>/<prefix>.<inode>   names whose inode lives on elsewhere
    .trashbin/tombs.held/<hour>/hold.<id>    who holds a tree, and why
    .trashbin/restoring/<run>/               restores under way
    .trashbin/purging/                       claimed for removal, no longer restorable
    .trashbin/held/                          set aside: unreadable entries found while expiring
    .trashbin/jobs/                          what outlives a gateway: domains
    .new-<16 hex>                            a small file that is being written

An entry is `<prefix>.<name>`, the prefix being
`<deleted ns, 16 hex>.<instance, 4 hex>.<deleter uid, hex>.<parent inode, hex>`. Where that would
pass 255 bytes the name goes, whole, inside a directory named by the prefix alone.

A term says for how long something is kept, where that isn't as usual: `.k<seconds>`, `.v<newest>`,
`.held`, or several of them in that order.
"""

from __future__ import annotations

import datetime
import functools
import re
from typing import NamedTuple

from cephfs_ext.core.types import NAME_MAX, Ino, Rank

TRASH_NAME = b".trashbin"
FORMAT_NAME = b"format.json"
FORMAT_VERSION = 1
TRASH_MODE = 0o700

FRESH = b"fresh"
"""Directory in a shard, so that what is made there is renamed within its rank."""

JOURNAL = b"journal"
TOMBS = b"tombs"
HELD = b"held"
RESTORING = b"restoring"
PURGING = b"purging"
JOBS = b"jobs"
SERVICE_DIRS = (JOURNAL, TOMBS, HELD, RESTORING, PURGING, JOBS)
PROMISED = b"trusted.cephfs_ext.promised"
"""Attribute of an inode that a tombstone may need; users are never shown it."""

STAGED = b".new-"
"""How the name of a file that is being written begins."""

_PREFIX = re.compile(rb"([0-9a-f]{16})\.([0-9a-f]{4})\.([0-9a-f]{1,8})\.([0-9a-f]{1,16})")
_TERM = rb"((?:\.k(?:0|[1-9]\d{0,9}))?(?:\.v[1-9]\d{0,3})?(?:\.held)?)"
_SHARD = re.compile(rb"r(0|[1-9]\d{0,3})\.([0-9a-f]{2})" + _TERM)
_TOMBS = re.compile(TOMBS + _TERM)
_TERM_PARTS = re.compile(rb"(?:\.k(\d+))?(?:\.v(\d+))?(\.held)?")
_CLAIM = re.compile(rb"\.([0-9a-f]{16}\.[0-9a-f]{4})$")
_NUMBER = re.compile(rb"[0-9a-f]{1,16}")
_HOUR = re.compile(rb"\d{4}-\d{2}-\d{2}T\d{2}")
_JOURNAL = re.compile(_HOUR.pattern.join((rb"(", rb")\.([0-9a-f]{4})(?:\.([1-9]\d{0,5}))?\.jsonl")))
_NS = 1_000_000_000
HOUR_S = 3600

_remembered = functools.lru_cache(maxsize=4096)
"""For what is asked of a few names again and again."""


class Term(NamedTuple):
    """How long something is kept, as the directory says that holds its hours."""

    retention_s: int | None = None
    """From the end of its hour; None: as the trash has it."""
    versions: int | None = None
    """How many of one name in one directory are kept, the newest; None: all."""
    is_held: bool = False
    """True for what is kept until somebody lets it go; the rest counts again from then on."""

    @property
    def suffix(self) -> bytes:
        """What it adds to the name of a directory; nothing if all is as usual."""
        kept = b"" if self.retention_s is None else b".k%d" % self.retention_s
        kept += b"" if self.versions is None else b".v%d" % self.versions
        return kept + b".held" if self.is_held else kept


USUAL = Term()
HOLD = Term(is_held=True)

NOTES = TOMBS + HOLD.suffix
"""Directory in whose hours notes say who holds what."""


class EntryName(NamedTuple):
    """What the name of a trash entry says."""

    deleted_ns: int
    instance: str
    """4 hex digits: which run of which gateway."""
    deleter_uid: int
    parent: Ino
    """Directory that the entry was deleted from."""
    name: bytes

    @property
    def id(self) -> str:
        """What users call the entry: `<deleted ns>.<instance>`."""
        return make_id(self.deleted_ns, self.instance)

    @property
    def hour(self) -> bytes:
        """Name of the hour that the entry lies in."""
        return hour_name(self.deleted_ns)

    @property
    def prefix(self) -> bytes:
        """Everything before the name."""
        return (
            f"{self.deleted_ns:016x}.{self.instance}.{self.deleter_uid:x}.{self.parent:x}".encode()
        )

    @property
    def path(self) -> tuple[bytes, ...]:
        """Path below the hour directory: one component, or two for a long name."""
        flat = self.prefix + b"." + self.name
        return (flat,) if len(flat) <= NAME_MAX else (self.prefix, self.name)


def parse_entry(raw: bytes) -> EntryName | None:
    """Read a name found in an hour directory.

    Returns:
        None if it is no entry. For the directory of a long name the field `name` is empty.
    """
    match = _PREFIX.match(raw)
    if match is None:
        return None
    rest = raw[match.end() :]
    if rest and (rest[:1] != b"." or len(rest) == 1):
        return None
    ns, instance, uid, parent = match.groups()
    entry = EntryName(int(ns, 16), instance.decode(), int(uid, 16), Ino(int(parent, 16)), rest[1:])
    return entry if raw.startswith(entry.prefix) else None  # numbers have no leading zeros


def tomb_name(entry: EntryName, ino: Ino) -> bytes:
    """Name of the tombstone that stands for an entry; `ino` is the inode that lives on."""
    return entry.prefix + b".%x" % ino


def parse_tomb(raw: bytes) -> tuple[EntryName, Ino] | None:
    """Read a name found in an hour of `tombs`; None if it is no tombstone's.

    The entry has no name: that is in the tombstone.
    """
    entry = parse_entry(raw)
    if entry is None or _NUMBER.fullmatch(entry.name) is None:
        return None
    ino = Ino(int(entry.name, 16))
    return (entry._replace(name=b""), ino) if tomb_name(entry, ino) == raw else None


class ShardName(NamedTuple):
    """What the name of a shard says."""

    rank: Rank
    number: int
    """0..255."""
    term: Term = USUAL

    @property
    def raw(self) -> bytes:
        """Name of the directory."""
        return f"r{self.rank}.{self.number:02x}".encode() + self.term.suffix


@_remembered
def parse_shard(raw: bytes) -> ShardName | None:
    """Read the name of a shard directory; None if it is none."""
    match = _SHARD.fullmatch(raw)
    if match is None:
        return None
    return ShardName(Rank(int(match[1])), int(match[2], 16), _term(match[3]))


def tombs_name(term: Term) -> bytes:
    """Name of the directory of tombstones of a term."""
    return TOMBS + term.suffix


@_remembered
def is_tombs(above: bytes) -> bool:
    """Tell whether a directory holds tombstones."""
    return _TOMBS.fullmatch(above) is not None


def has_hours(above: bytes) -> bool:
    """Tell whether a directory holds hours: a shard, or one of tombstones."""
    return parse_shard(above) is not None or is_tombs(above)


@_remembered
def term_of(above: bytes) -> Term:
    """Return how long things are kept in a directory of hours."""
    match = _TOMBS.fullmatch(above)
    if match is not None:
        return _term(match[1])
    shard = parse_shard(above)
    return USUAL if shard is None else shard.term


def _term(suffix: bytes) -> Term:
    match = _TERM_PARTS.fullmatch(suffix)
    assert match is not None
    kept, versions, held = match.groups()
    return Term(
        None if kept is None else int(kept),
        None if versions is None else int(versions),
        held is not None,
    )


def note_name(entry_id: str) -> bytes:
    """Name of the note that says who holds a tree, by the id of its top."""
    return b"hold." + entry_id.encode()


def parse_note(raw: bytes) -> str | None:
    """Read the name of a note: the id of the top; None if it is none."""
    kind, _, entry_id = raw.decode(errors="replace").partition(".")
    return entry_id if kind == "hold" and parse_id(entry_id) is not None else None


def claim_id(claim: bytes) -> str | None:
    """Return the id at the end of the name of something in `purging`; None if it has none."""
    match = _CLAIM.search(claim)
    return None if match is None else match[1].decode()


def hour_name(time_ns: int) -> bytes:
    """Name of the hour, UTC, that a time lies in: `2026-11-24T01`."""
    return _hour_name(time_ns // (HOUR_S * _NS))


@_remembered
def _hour_name(hours: int) -> bytes:
    when = datetime.datetime.fromtimestamp(hours * HOUR_S, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H").encode()


@_remembered
def hour_end_s(raw: bytes) -> int | None:
    """Return when an hour is over, seconds since the epoch; None if `raw` names no hour."""
    if _HOUR.fullmatch(raw) is None:
        return None
    try:
        start = datetime.datetime.strptime(raw.decode(), "%Y-%m-%dT%H")
    except ValueError:
        return None
    return int(start.replace(tzinfo=datetime.UTC).timestamp()) + HOUR_S


def make_id(time_ns: int, instance: str) -> str:
    """Make the id of something that an instance does at a time: `<ns, 16 hex>.<instance>`."""
    return f"{time_ns:016x}.{instance}"


def parse_id(text: str) -> tuple[int, str] | None:
    """Read an entry id; None if `text` is none."""
    match = re.fullmatch(r"([0-9a-f]{16})\.([0-9a-f]{4})", text)
    return None if match is None else (int(match[1], 16), match[2])


def hour_plus(raw: bytes, hours: int) -> bytes:
    """Name of the hour that comes `hours` after one, or before it."""
    end_s = hour_end_s(raw)
    assert end_s is not None
    return hour_name((end_s + (hours - 1) * HOUR_S) * _NS)


class JournalName(NamedTuple):
    """What the name of a journal says."""

    hour: bytes
    instance: str
    part: int = 0
    """0 for the first of an hour, which is the only one unless it has grown too long."""

    @property
    def raw(self) -> bytes:
        """The name itself."""
        part = b".%d" % self.part if self.part else b""
        return b"%s.%s%s.jsonl" % (self.hour, self.instance.encode(), part)


def parse_journal(raw: bytes) -> JournalName | None:
    """Read the name of a journal; None if it is none."""
    match = _JOURNAL.fullmatch(raw)
    if match is None or hour_end_s(match[1]) is None:
        return None
    return JournalName(match[1], match[2].decode(), int(match[3] or 0))
