"""The names on disk: what docs/format.md describes, and nothing else.

Pure functions and values; no storage. One trash per rename domain:

    .trashbin/format.json                    {"version": 1}
    .trashbin/r<rank>.<2 hex>/<hour>/<entry> what was deleted, by rename
    .trashbin/r<rank>.<2 hex>/fresh/<id>     files that are about to replace a truncated one
    .trashbin/journal/<hour>.<instance>.jsonl
    .trashbin/tombs/<hour>/<prefix>.<inode>  names whose inode lives on elsewhere
    .trashbin/restoring/<run>/               restores under way
    .trashbin/purging/                       claimed for removal, no longer restorable
    .trashbin/held/                          set aside: unreadable entries found while expiring
    .trashbin/jobs/                          what outlives a gateway: domains
    .new-<16 hex>                            a small file that is being written

An entry is `<prefix>.<name>`, the prefix being
`<deleted ns, 16 hex>.<instance, 4 hex>.<deleter uid, hex>.<parent inode, hex>`. Where that would
pass 255 bytes the name goes, whole, inside a directory named by the prefix alone.
"""

from __future__ import annotations

import datetime
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
STAGED = b".new-"
"""How the name of a file that is being written begins."""

_PREFIX = re.compile(rb"([0-9a-f]{16})\.([0-9a-f]{4})\.([0-9a-f]{1,8})\.([0-9a-f]{1,16})")
_SHARD = re.compile(rb"r(0|[1-9]\d{0,3})\.([0-9a-f]{2})")
_NUMBER = re.compile(rb"[0-9a-f]{1,16}")
_HOUR = re.compile(rb"\d{4}-\d{2}-\d{2}T\d{2}")
_JOURNAL = re.compile(_HOUR.pattern.join((rb"(", rb")\.([0-9a-f]{4})\.jsonl")))
_NS = 1_000_000_000
HOUR_S = 3600


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
        return f"{self.deleted_ns:016x}.{self.instance}"

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


def shard_name(rank: Rank, number: int) -> bytes:
    """Name of a shard directory; `number` is 0..255."""
    return f"r{rank}.{number:02x}".encode()


def parse_shard(raw: bytes) -> tuple[Rank, int] | None:
    """Read the name of a shard directory; None if it is none."""
    match = _SHARD.fullmatch(raw)
    return None if match is None else (Rank(int(match[1])), int(match[2], 16))


def hour_name(time_ns: int) -> bytes:
    """Name of the hour, UTC, that a time lies in: `2026-11-24T01`."""
    when = datetime.datetime.fromtimestamp(time_ns // _NS, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H").encode()


def hour_end_s(raw: bytes) -> int | None:
    """Return when an hour is over, seconds since the epoch; None if `raw` names no hour."""
    if _HOUR.fullmatch(raw) is None:
        return None
    try:
        start = datetime.datetime.strptime(raw.decode(), "%Y-%m-%dT%H")
    except ValueError:
        return None
    return int(start.replace(tzinfo=datetime.UTC).timestamp()) + HOUR_S


def parse_id(text: str) -> tuple[int, str] | None:
    """Read an entry id; None if `text` is none."""
    match = re.fullmatch(r"([0-9a-f]{16})\.([0-9a-f]{4})", text)
    return None if match is None else (int(match[1], 16), match[2])


def hour_plus(raw: bytes, hours: int) -> bytes:
    """Name of the hour that comes `hours` after one, or before it."""
    end_s = hour_end_s(raw)
    assert end_s is not None
    return hour_name((end_s + (hours - 1) * HOUR_S) * _NS)


def journal_name(hour: bytes, instance: str) -> bytes:
    """Name of the journal that an instance writes in an hour."""
    return hour + b"." + instance.encode() + b".jsonl"


def parse_journal(raw: bytes) -> tuple[bytes, str] | None:
    """Read the name of a journal: hour and instance; None if it is none."""
    match = _JOURNAL.fullmatch(raw)
    if match is None or hour_end_s(match[1]) is None:
        return None
    return match[1], match[2].decode()
