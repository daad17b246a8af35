"""Who deleted what, where and with which program: advisory, beside the truth.

The trash is complete without it: a lost record costs the path and the process, never the file.
Recording never waits and never fails a delete; records beyond the limit are dropped and counted.
One background task writes them in groups and syncs each group. What can't be written now, on a
full disk for one, waits for the next round; `waiting` has what isn't on disk yet.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import trio

from cephfs_ext.core.errors import FSError, NotFoundError
from cephfs_ext.core.limits import JOURNAL_QUEUE
from cephfs_ext.core.ports import Meter, Storage
from cephfs_ext.core.types import GATEWAY, Ino
from trashbin import layout
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.files import names_in, open_file, read_file, write_whole

_GROUP_S = 0.5
"""How long records are gathered before they are written together."""

_IDLE_S = 60.0
"""How long a round waits for records."""

_CHUNK_BYTES = 256 * 1024
"""What is read of a journal at a time, where it is read line by line."""

_JOURNAL_LIMIT = 256 * 1024 * 1024
"""Bytes of one journal that are read back."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One delete."""

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

    def line(self) -> bytes:
        """Encode as one line of JSON."""
        fields: dict[str, Any] = dataclasses.asdict(self)
        fields["path"] = os.fsdecode(self.path).encode("utf-8", "replace").decode()
        if os.fsencode(fields["path"]) != self.path:
            fields["path_raw"] = base64.b64encode(self.path).decode()
        fields["parent_token"] = base64.b64encode(self.parent_token).decode()
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def parse_line(line: bytes) -> Record | None:
    """Decode one line; None if it is torn or foreign. Fields of newer versions are ignored."""
    try:
        fields = json.loads(line)
        texts = [fields[key] for key in ("id", "command", "kind")]
        numbers = [fields[key] for key in ("uid", "gid", "pid", "ino")]
        numbers.append(fields.get("parent", 0))
        raw = fields.get("path_raw")
        path = fields["path"].encode() if raw is None else base64.b64decode(raw, validate=True)
        token = base64.b64decode(fields["parent_token"], validate=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    sound = all(type(text) is str for text in texts) and all(type(n) is int for n in numbers)
    if not sound or layout.parse_id(texts[0]) is None:
        return None
    uid, gid, pid, ino, parent = numbers
    return Record(texts[0], path, uid, gid, pid, texts[1], texts[2], ino, token, parent)


class _Where(NamedTuple):
    """The journal that a record belongs into."""

    root: Ino
    """Where the domain starts."""
    hour: bytes


class Journal:
    """Takes records and writes them to the trash they belong to."""

    def __init__(self, domains: Domains, storage: Storage, instance: str, meter: Meter) -> None:
        self._domains = domains
        self._storage = storage
        self._instance = instance
        self._meter = meter
        self._waiting: dict[_Where, dict[str, Record]] = {}
        self._torn: set[_Where] = set()
        """Journals that may end in a part of a line."""
        self._arrived = trio.Event()
        self.taken = 0
        """How many records there have been: by it a reader knows that there is something new."""
        self._writing = trio.Lock()
        """Two appends at once would write to the same place."""

    def record(self, root: Ino, deleted_ns: int, record: Record) -> None:
        """Take a record for the domain that starts at `root`. Never blocks, never fails."""
        if sum(map(len, self._waiting.values())) >= JOURNAL_QUEUE:
            self._meter.count("journal_dropped_total")
            return
        self.taken += 1
        where = _Where(root, layout.hour_name(deleted_ns))
        self._waiting.setdefault(where, {})[record.id] = record
        self._arrived.set()

    def waiting(self, root: Ino) -> dict[str, Record]:
        """Return the records of a domain that may not be on disk yet, by entry id.

        Taken before the journals are read, the two together have every record.
        """
        groups = [records for where, records in self._waiting.items() if where.root == root]
        return {entry_id: record for records in groups for entry_id, record in records.items()}

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
        """Write what waits. Records of a domain that is gone are dropped and counted.

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
        records = list(self._waiting[where].values())
        data = b"".join(record.line() for record in records)
        try:
            await self._append(where, data)
            self._meter.count("journal_records_total", len(records))
        except NotFoundError:
            self._meter.count("journal_dropped_total", len(records))
        rest = self._waiting[where]  # some may have come meanwhile
        for record in records:
            del rest[record.id]
        if not rest:
            del self._waiting[where]

    async def _append(self, where: _Where, data: bytes) -> None:
        domain = await self._domains.at(where.root)
        name = layout.journal_name(where.hour, self._instance)
        fresh_line = b"\n" if where in self._torn else b""
        self._torn.add(where)
        await append(domain, name, fresh_line + data)
        self._torn.discard(where)


async def append(domain: Domain, name: bytes, data: bytes) -> None:
    """Write durably at the end of a journal, made if it is missing; one at a time.

    Raises:
        FSError: a part may have been written.
    """
    storage = domain.storage
    flags = os.O_WRONLY | os.O_APPEND
    created = await storage.create(domain.service(layout.JOURNAL), name, 0o600, flags, GATEWAY)
    try:
        size = (await storage.getattr(created.node)).size
        await write_whole(storage, created.handle, size, data)
        await storage.fsync(created.handle)
    finally:
        with trio.CancelScope(shield=True):
            await storage.release(created.handle)
        storage.forget(created.node)


async def read_records(
    domain: Domain, *, hours: Container[bytes] | None = None, instance: str | None = None
) -> dict[str, Record]:
    """Read the records of a domain, by entry id; torn lines are left out.

    Args:
        hours: those of these hours only.
        instance: those of one run of a gateway only.
    """
    records: dict[str, Record] = {}
    directory = domain.service(layout.JOURNAL)
    for name in sorted(await names_in(domain.storage, directory)):
        of_hour, of_instance = layout.parse_journal(name) or (b"", "")
        if (hours is None or of_hour in hours) and instance in (None, of_instance):
            records.update(await _read_journal(domain, name))
    return records


async def each_line(domain: Domain, name: bytes, take: Callable[[bytes], None]) -> None:
    """Hand the lines of a journal to `take` one by one, whatever its size; a torn end is left out.

    Raises:
        NotFoundError: there is none of that name.
    """
    storage = domain.storage
    found = await storage.lookup(domain.service(layout.JOURNAL), name)
    try:
        async with open_file(storage, found.node) as handle:
            off, rest = 0, b""
            while data := await storage.read(handle, off, _CHUNK_BYTES):
                off += len(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    take(line)
    finally:
        storage.forget(found.node)


async def _read_journal(domain: Domain, name: bytes) -> dict[str, Record]:
    directory = domain.service(layout.JOURNAL)
    try:
        data = await read_file(domain.storage, directory, name, limit=_JOURNAL_LIMIT)
    except NotFoundError:
        return {}
    records = [record for line in data.splitlines() if (record := parse_line(line)) is not None]
    return {record.id: record for record in records}
