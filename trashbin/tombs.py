"""Tombstones: names that are gone while their inode lives on, or whose place was taken.

Two kinds. `link`: one of several hard links was removed; a restore links the inode again. `dir`:
an empty directory was replaced by a rename; a restore makes it again.

A tombstone is a symbolic link whose target is its JSON: made in one step, never torn. One that
would be longer than a target may be (many extended attributes) is a file, written aside. Where
there is an entry of the same id, that one counts: the tombstone is about to go, or to take over.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import stat
from typing import Any, Literal

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.limits import TOMBSTONE_INLINE_BYTES
from cephfs_ext.core.ports import Found, Node, Storage
from cephfs_ext.core.types import GATEWAY, Attr, Ino
from trashbin import layout
from trashbin.domain import Domain, directory_at, lying_in
from trashbin.files import names_in, read_node, remove_quietly, write_file
from trashbin.layout import EntryName, Term
from trashbin.names import is_name

_FILE_LIMIT = 8 * 1024 * 1024

TombKind = Literal["link", "dir"]
_NUMBERS = ("ino", "mode", "uid", "gid", "size", "mtime_ns")


@dataclasses.dataclass(frozen=True, slots=True)
class Tomb:
    """What a tombstone remembers of a name."""

    kind: TombKind
    name: bytes
    ino: Ino
    token: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    def encode(self) -> bytes:
        """Encode as JSON without a NUL byte."""
        fields = dataclasses.asdict(self)
        fields["name"] = _text(self.name)
        fields["token"] = _text(self.token)
        fields["xattrs"] = [[_text(name), _text(value)] for name, value in self.xattrs]
        return json.dumps(fields, separators=(",", ":")).encode()


def decode(raw: bytes) -> Tomb | None:
    """Decode a tombstone; None if it is damaged, or of a name or inode that can't be."""
    try:
        fields = json.loads(raw)
        tomb = Tomb(
            kind=fields["kind"],
            name=_bytes(fields["name"]),
            token=_bytes(fields["token"]),
            xattrs=tuple((_bytes(name), _bytes(value)) for name, value in fields["xattrs"]),
            **{key: fields[key] for key in _NUMBERS},
        )
        return tomb if _is_sound(tomb) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_sound(tomb: Tomb) -> bool:
    numbers: list[Any] = [getattr(tomb, key) for key in _NUMBERS]
    return (
        all(type(number) is int for number in numbers)
        and all(number >= 0 for number in numbers[:-1])
        and tomb.kind == ("dir" if stat.S_ISDIR(tomb.mode) else "link")
        and is_name(tomb.name)
    )


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


async def describe(storage: Storage, kind: TombKind, name: bytes, found: Found) -> Tomb:
    """Gather what a tombstone of an inode has to remember."""
    attr: Attr = found.attr
    xattrs: list[tuple[bytes, bytes]] = []
    if kind == "dir":
        for key in await storage.listxattr(found.node):
            xattrs.append((key, await storage.getxattr(found.node, key)))
    token = storage.token(found.node)
    return Tomb(
        kind, name, attr.ino, token, attr.mode, attr.uid, attr.gid, attr.size, attr.mtime_ns,
        tuple(xattrs),
    )  # fmt: skip


async def bury(domain: Domain, entry: EntryName, tomb: Tomb, term: Term) -> None:
    """Write a tombstone durably, to be kept for a term.

    Raises:
        ExistsError: there is one.
        FullError: there is no room; nothing has changed.
    """
    raw = tomb.encode()
    name = layout.tomb_name(entry, tomb.ino)

    async def write(storage: Storage, directory: Node) -> None:
        if len(raw) <= TOMBSTONE_INLINE_BYTES:
            storage.forget((await storage.symlink(directory, name, raw, GATEWAY)).node)
        else:
            await write_file(storage, directory, name, raw)

    above = domain.directories[domain.tombs(term)]

    async def write_in_hour() -> None:
        async with domain.lent_hour(above, entry.hour) as directory:
            await domain.in_spite_of_quota(directory, write)

    await domain.in_hour(above, entry.hour, write_in_hour)


async def exhume(domain: Domain, entry: EntryName, ino: Ino, term: Term) -> None:
    """Remove the tombstone of a name that is back, or was never gone; one that is gone is fine."""
    path = (layout.tomb_name(entry, ino),)
    with contextlib.suppress(NotFoundError):
        async with lying_in(domain, domain.tombs(term), entry.hour, path) as (above, name):
            await remove_quietly(domain.storage, above, name)


async def exhume_all(domain: Domain, entry: EntryName, term: Term) -> None:
    """Remove what tombstones stand beside an entry, of whatever inode."""
    with contextlib.suppress(NotFoundError):
        async with directory_at(domain, domain.tombs(term), entry.hour) as hour:
            for name in await names_in(domain.storage, hour):
                parsed = layout.parse_tomb(name)
                if parsed is not None and parsed[0].prefix == entry.prefix:
                    await remove_quietly(domain.storage, hour, name)


async def read(storage: Storage, found: Found) -> Tomb | None:
    """Read the tombstone at an inode; None if it is damaged."""
    if found.attr.is_symlink:
        return decode(await storage.readlink(found.node))
    if not found.attr.is_regular:
        return None
    return decode(await read_node(storage, found.node, limit=_FILE_LIMIT))
