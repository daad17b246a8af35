"""Who deleted what, where and with which program, and what became of it: beside the truth.

The trash is complete without it: a lost line costs a path, a process, an answer to who it was,
never a file. Recording never waits and never fails a delete; lines beyond the limit are dropped
and counted, and those that are there for the audit alone earlier than those of what is in the
trash. `trashbin.ancestors` has lines of its own. One background task writes them in groups and
syncs each group. What can't be written now, on a full disk for one, waits for the next round;
`waiting` has what isn't on disk yet.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Container, Iterable
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import trio

from cephfs_ext.core.errors import FSError, NotFoundError
from cephfs_ext.core.limits import AUDIT_QUEUE, JOURNAL_BYTES, JOURNAL_QUEUE
from cephfs_ext.core.ports import Handle, Meter, Node, Storage
from cephfs_ext.core.types import GATEWAY, Ino
from trashbin import layout
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.files import names_in, open_file, write_whole
from trashbin.layout import JournalName

_GROUP_S = 0.5
"""How long records are gathered before they are written together."""

_IDLE_S = 60.0
"""How long a round waits for records."""

_CHUNK_BYTES = 64 * 1024
"""What is looked at of a journal at a time: nothing else is done meanwhile."""

_LARGEST_CHUNK_BYTES = 1024 * 1024
"""What is read at a time of all of a journal."""

UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One delete, of a name or of a file's content."""

    id: str
    path: bytes
    """Where the name was, relative to the domain's root."""
    uid: int
    gid: int
    pid: int
    command: str
    kind: str
    ino: int
    parent_token: bytes
    parent: int = 0
    """Inode of the directory that the name was in; 0 if it isn't known."""
    owner: int | None = None
    """Whose it was."""
    size: int | None = None
    """Bytes; None for what has none."""
    event: str = ""
    """The delete event that it is a part of."""
    host: str = ""
    """Of the gateway, and of the process."""
    pod: str = ""
    container: str = ""
    why: str = ""
    """Why it is not in the trash: the reason of the bypass. Nothing if it was kept."""
    rule: str = ""
    """Which rule of the policy exempts it, or `mark`."""

    def line(self) -> bytes:
        """Encode as one line of JSON."""
        fields: dict[str, Any] = {
            "id": self.id,
            "path": "",
            "uid": self.uid,
            "gid": self.gid,
            "pid": self.pid,
            "command": self.command,
            "kind": self.kind,
            "ino": self.ino,
            "parent_token": base64.b64encode(self.parent_token).decode(),
            "parent": self.parent,
        }
        put_path(fields, "path", self.path)
        for key in _OPTIONAL_NUMBERS:
            if (number := getattr(self, key)) is not None:
                fields[key] = number
        for key in _OPTIONAL_TEXTS:
            if text := getattr(self, key):
                fields[key] = text
        return encode(fields)


_OPTIONAL_NUMBERS = ("owner", "size")
_OPTIONAL_TEXTS = ("event", "host", "pod", "container", "why", "rule")


class _Delete(msgspec.Struct, kw_only=True):
    """A line as it stands there; what newer versions have beside it is ignored."""

    id: str
    path: str
    path_raw: bytes | msgspec.UnsetType = msgspec.UNSET
    uid: int
    gid: int
    pid: int
    command: str
    kind: str
    ino: int
    parent_token: bytes
    parent: int = 0
    owner: int | msgspec.UnsetType = msgspec.UNSET
    size: int | msgspec.UnsetType = msgspec.UNSET
    event: str = ""
    host: str = ""
    pod: str = ""
    container: str = ""
    why: str = ""
    rule: str = ""


_DELETES = msgspec.json.Decoder(_Delete)


def parse_line(line: bytes) -> Record | None:
    """Decode one line; None if it is torn, foreign, or no delete's.

    Fields of newer versions are ignored, those that older ones don't have are empty.
    """
    try:
        found = _DELETES.decode(line)
        path = found.path.encode() if found.path_raw is msgspec.UNSET else found.path_raw
    except UNREADABLE:
        return None
    if layout.parse_id(found.id) is None:
        return None
    return Record(
        id=found.id,
        path=path,
        uid=found.uid,
        gid=found.gid,
        pid=found.pid,
        command=sys.intern(found.command),  # many lines have the same
        kind=sys.intern(found.kind),
        ino=found.ino,
        parent_token=found.parent_token,
        parent=found.parent,
        owner=None if found.owner is msgspec.UNSET else found.owner,
        size=None if found.size is msgspec.UNSET else found.size,
        event=sys.intern(found.event),
        host=sys.intern(found.host),
        pod=sys.intern(found.pod),
        container=sys.intern(found.container),
        why=sys.intern(found.why),
        rule=sys.intern(found.rule),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Fate:
    """What became of something that had been kept: of a tree, or of an hour that expired."""

    what: str
    """`restored`, `purged`, `expired`, or `outdated`: more versions than are kept."""
    at_ns: int
    host: str
    id: str = ""
    """Of the tree's top."""
    began_ns: int = 0
    """When the first of what was in the tree was deleted."""
    path: bytes = b""
    """Where the tree was, relative to the domain's root; nothing if that isn't known."""
    uid: int = 0
    """Who did it; 0 where nobody did."""
    to: bytes = b""
    """Where it was restored to, relative to the served directory."""
    hour: str = ""
    """Which hour expired."""

    def line(self) -> bytes:
        """Encode as one line of JSON."""
        fields: dict[str, Any] = {"what": self.what, "at_ns": self.at_ns, "host": self.host}
        if self.hour:
            fields["hour"] = self.hour
        else:
            fields |= {"id": self.id, "began_ns": self.began_ns, "uid": self.uid}
            put_path(fields, "path", self.path)
            put_path(fields, "to", self.to)
        return encode(fields)


def parse_fate(line: bytes) -> Fate | None:
    """Decode one line; None if it is torn, foreign, or a delete's."""
    try:
        fields = json.loads(line)
        texts = {key: fields.get(key, "") for key in ("what", "host", "id", "hour")}
        numbers = {"at_ns": fields["at_ns"], "uid": 0, "began_ns": 0}
        numbers |= {key: fields[key] for key in numbers if key in fields}
        paths = {key: path_in(fields, key) for key in ("path", "to") if key in fields}
    except UNREADABLE:
        return None
    sound = all(type(text) is str for text in texts.values())
    sound = sound and all(type(number) is int for number in numbers.values())
    if not sound or not texts["what"] or "kind" in fields:
        return None
    return Fate(
        what=texts["what"],
        at_ns=numbers["at_ns"],
        host=texts["host"],
        id=texts["id"],
        began_ns=numbers["began_ns"],
        path=paths.get("path", b""),
        uid=numbers["uid"],
        to=paths.get("to", b""),
        hour=texts["hour"],
    )


def encode(fields: dict[str, Any]) -> bytes:
    """Encode as one line."""
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def path_text(path: bytes) -> str:
    """Return a path as lines have it: exact if it is UTF-8."""
    return os.fsdecode(path).encode("utf-8", "replace").decode()


def put_path(fields: dict[str, Any], key: str, path: bytes) -> None:
    """Add a path to what is to be a line, and its exact bytes where it isn't UTF-8."""
    fields[key] = path_text(path)
    if os.fsencode(fields[key]) != path:
        fields[key + "_raw"] = base64.b64encode(path).decode()


def path_in(fields: dict[str, Any], key: str) -> bytes:
    """Return the path that `put_path` has added; raises one of `UNREADABLE`."""
    raw = fields.get(key + "_raw")
    path: bytes = fields[key].encode()
    return path if raw is None else base64.b64decode(raw, validate=True)


class Line(Protocol):
    """What stands in a journal: `Record`, `Fate`, or `trashbin.ancestors.Ancestor`."""

    def line(self) -> bytes:
        """Encode as one line of JSON."""
        ...


class _Where(NamedTuple):
    """The journal that a line belongs into."""

    root: Ino
    """Where the domain starts."""
    hour: bytes


class Journal:
    """Takes lines and writes them to the trash they belong to."""

    def __init__(
        self,
        domains: Domains,
        storage: Storage,
        instance: str,
        meter: Meter,
        *,
        part_bytes: int = JOURNAL_BYTES,
    ) -> None:
        self._domains = domains
        self._storage = storage
        self._instance = instance
        self._meter = meter
        self._part_bytes = part_bytes
        self._waiting: dict[_Where, list[Line]] = {}
        self._torn: set[_Where] = set()
        """Journals that may end in a part of a line."""
        self._arrived = trio.Event()
        self.taken = 0
        """How many records of what is in the trash there have been: by it a reader knows that there
        is something new."""
        self._writing = trio.Lock()
        """Two appends at once would write to the same place."""

    def record(self, root: Ino, deleted_ns: int, record: Record) -> None:
        """Take a record for the domain that starts at `root`. Never blocks, never fails."""
        if self._take(_Where(root, layout.hour_name(deleted_ns)), record) and not record.why:
            self.taken += 1

    def note(self, root: Ino, fate: Fate) -> None:
        """Take what became of something in a domain. Never blocks, never fails."""
        self._take(_Where(root, layout.hour_name(fate.at_ns)), fate)

    def describe(self, root: Ino, deleted_ns: int, line: Line) -> None:
        """Take what a restore may need to know of the hour of a delete. Never blocks or fails."""
        self._take(_Where(root, layout.hour_name(deleted_ns)), line)

    def _take(self, where: _Where, line: Line) -> bool:
        limit = JOURNAL_QUEUE if _is_of_trash(line) else AUDIT_QUEUE
        if sum(map(len, self._waiting.values())) >= limit:
            self._dropped([line])
            return False
        self._waiting.setdefault(where, []).append(line)
        self._arrived.set()
        return True

    def _dropped(self, lines: list[Line]) -> None:
        of_trash = sum(map(_is_of_trash, lines))
        of_audit = sum(isinstance(line, Record | Fate) for line in lines) - of_trash
        self._meter.count("journal_dropped_total", of_trash)
        self._meter.count("audit_dropped_total", of_audit)
        self._meter.count("ancestors_dropped_total", len(lines) - of_trash - of_audit)

    def waiting(self, root: Ino) -> dict[str, Record]:
        """Return the records of what is in a domain that may not be on disk yet, by entry id.

        Taken before the journals are read, the two together have every record.
        """
        lines = self.unwritten(root)
        return {one.id: one for one in lines if isinstance(one, Record) and not one.why}

    def unwritten(self, root: Ino) -> list[Line]:
        """Return all lines of a domain that may not be on disk yet; as `waiting`."""
        groups = [lines for where, lines in self._waiting.items() if where.root == root]
        return [line for lines in groups for line in lines]

    async def once(self) -> None:
        """Wait for records, or some time for none, gather some more, and write them.

        Raises:
            FSError: some could not be written; they wait.
        """
        with trio.move_on_after(_IDLE_S):
            await self._arrived.wait()
            await trio.sleep(_GROUP_S)
        self._arrived = trio.Event()
        await self.drain()

    async def drain(self) -> None:
        """Write what waits. Lines of a domain that is gone are dropped and counted.

        Raises:
            FSError: some could not be written; they wait.
        """
        async with self._writing:
            failure: FSError | None = None
            for where in list(self._waiting):
                try:
                    await self._write(where)
                except FSError as exc:
                    failure = exc
        if failure is not None:
            self._arrived.set()
            raise failure

    async def _write(self, where: _Where) -> None:
        lines = list(self._waiting[where])
        data = b"".join(line.line() for line in lines)
        try:
            await self._append(where, data)
            self._meter.count("journal_records_total", len(lines))
        except NotFoundError:
            self._dropped(lines)
        rest = self._waiting[where]  # some may have come meanwhile, behind these
        del rest[: len(lines)]
        if not rest:
            del self._waiting[where]

    async def _append(self, where: _Where, data: bytes) -> None:
        domain = await self._domains.at(where.root)
        fresh_line = b"\n" if where in self._torn else b""
        self._torn.add(where)
        await append(
            domain, where.hour, self._instance, fresh_line + data, part_bytes=self._part_bytes
        )
        self._torn.discard(where)


def _is_of_trash(line: Line) -> bool:
    """Tell whether something in the trash has lost its path without this line."""
    return isinstance(line, Record) and not line.why


async def append(
    domain: Domain, hour: bytes, instance: str, data: bytes, *, part_bytes: int = JOURNAL_BYTES
) -> None:
    """Write durably at the end of a journal, made if it is missing; one at a time.

    What would make it longer than `part_bytes` goes into a next part.

    Raises:
        FSError: a part of the data may have been written.
    """
    name = JournalName(hour, instance)
    while not await _append_to(domain, name.raw, data, part_bytes):
        name = name._replace(part=name.part + 1)


async def _append_to(domain: Domain, name: bytes, data: bytes, limit: int) -> bool:
    """Write at the end of a file; False if there is no room for it in there."""
    storage = domain.storage
    flags = os.O_WRONLY | os.O_APPEND
    created = await storage.create(domain.service(layout.JOURNAL), name, 0o600, flags, GATEWAY)
    try:
        size = (await storage.getattr(created.node)).size
        if size and size + len(data) > limit:
            return False
        await write_whole(storage, created.handle, size, data)
        await storage.fsync(created.handle)
        return True
    finally:
        with trio.CancelScope(shield=True):
            await storage.release(created.handle)
        storage.forget(created.node)


async def journals_of(
    domain: Domain, *, hours: Container[bytes] | None = None, instance: str | None = None
) -> list[JournalName]:
    """Return the journals of a domain, oldest hour first.

    Args:
        hours: those of these hours only.
        instance: those of one run of a gateway only.
    """
    names = await names_in(domain.storage, domain.service(layout.JOURNAL))
    return sorted(
        journal
        for journal in map(layout.parse_journal, names)
        if journal is not None
        and (hours is None or journal.hour in hours)
        and instance in (None, journal.instance)
    )


async def read_records(
    domain: Domain, *, hours: Container[bytes] | None = None, instance: str | None = None
) -> dict[str, Record]:
    """Read the records of what was kept in a domain, by entry id; torn lines are left out.

    Args:
        hours: those of these hours only.
        instance: those of one run of a gateway only.
    """
    records: dict[str, Record] = {}

    def take(line: bytes) -> None:
        record = parse_line(line)
        if record is not None and not record.why:
            records[record.id] = record

    for journal in await journals_of(domain, hours=hours, instance=instance):
        await each_line(domain, journal, take)
    return records


async def records_at(
    domain: Domain, journal: JournalName, offsets: Iterable[int]
) -> dict[int, Record]:
    """Read the records that begin at some offsets of a journal; fewer if it isn't there."""
    records: dict[int, Record] = {}
    with contextlib.suppress(NotFoundError):
        found = await domain.storage.lookup(domain.service(layout.JOURNAL), journal.raw)
        try:
            async with open_file(domain.storage, found.node) as handle:
                begin, data = 0, b""
                for offset in sorted(offsets):
                    end = data.find(b"\n", offset - begin)
                    if end < 0 or offset < begin:
                        begin, data = offset, await _read_lines(domain.storage, handle, offset)
                        end = data.find(b"\n")
                    record = parse_line(data[offset - begin : end])
                    if record is not None:
                        records[offset] = record
        finally:
            domain.storage.forget(found.node)
    return records


async def _read_lines(storage: Storage, handle: Handle, off: int) -> bytes:
    """Read on from an offset until there is at least one line, or the end."""
    data = b""
    while more := await storage.read(handle, off + len(data), _CHUNK_BYTES):
        data += more
        if b"\n" in more:
            break
    return data


async def parts_backwards(domain: Domain, journal: JournalName) -> AsyncGenerator[list[bytes]]:
    """Yield the lines of a journal in parts, the last part first; none if it isn't there."""
    with contextlib.suppress(NotFoundError):
        found = await domain.storage.lookup(domain.service(layout.JOURNAL), journal.raw)
        try:
            size = (await domain.storage.getattr(found.node)).size
            async with open_file(domain.storage, found.node) as handle:
                rest, chunk = b"", _CHUNK_BYTES
                while size:
                    begin = max(0, size - chunk)
                    data = await domain.storage.read(handle, begin, size - begin) + rest
                    rest, *lines = data.split(b"\n") if begin else [b"", *data.split(b"\n")]
                    yield lines
                    size, chunk = begin, min(4 * chunk, _LARGEST_CHUNK_BYTES)
        finally:
            domain.storage.forget(found.node)


async def each_line(domain: Domain, journal: JournalName, take: Callable[[bytes], None]) -> None:
    """Hand the lines of a journal to `take` one by one, whatever its size; a torn end is left out.

    One that isn't there has none.
    """
    with contextlib.suppress(NotFoundError):
        found = await domain.storage.lookup(domain.service(layout.JOURNAL), journal.raw)
        try:
            await _each_line(domain.storage, found.node, take)
        finally:
            domain.storage.forget(found.node)


async def _each_line(storage: Storage, node: Node, take: Callable[[bytes], None]) -> None:
    async with open_file(storage, node) as handle:
        off, rest = 0, b""
        while data := await storage.read(handle, off, _LARGEST_CHUNK_BYTES):
            for at in range(0, len(data), _CHUNK_BYTES):
                *lines, rest = (rest + data[at : at + _CHUNK_BYTES]).split(b"\n")
                for line in lines:
                    take(line)
                await trio.lowlevel.checkpoint()
            off += len(data)
