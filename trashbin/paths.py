"""Where entries were, for those whose record in the journal was lost with their gateway.

A record is written a moment after the delete. What a gateway that died had not yet written is
found out from the inode of the directory: where that is now, or, if it is an entry itself, where
that was. Recovery then writes the records, so that everybody who reads the trash has them.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping

from cephfs_ext.core.errors import FSError, NotFoundError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import Ino
from trashbin import journal, layout
from trashbin.catalog import Item
from trashbin.domain import Domain
from trashbin.journal import Record

_log = logging.getLogger(__name__)

_SEARCHES = 4
"""Directories that one recovery looks for through the whole tree, where nothing else finds them."""


class Parents:
    """The directories that entries were in; each is looked for once. Use `open_parents`."""

    def __init__(
        self,
        storage: Storage,
        root: bytes,
        items: Iterable[Item],
        records: Mapping[str, Record],
        searches: int,
    ) -> None:
        self._storage = storage
        self._root = root
        self._records = records
        self._tokens = {Ino(one.parent): one.parent_token for one in records.values()}
        self._paths = {Ino(one.parent): _above(one.path) for one in records.values()}
        self._deleted = {item.ino: item for item in items if item.is_dir}
        self._nodes: dict[Ino, Node | None] = {}
        self._searches_left = searches

    async def node(self, ino: Ino) -> Node | None:
        """Return a directory; None if it is gone. The reference stays here."""
        if ino not in self._nodes:
            self._nodes[ino] = await self._find(ino)
        return self._nodes[ino]

    async def _find(self, ino: Ino) -> Node | None:
        token = self._tokens.get(ino, b"")
        if not token and not self._storage.finds_by_number:
            if not self._searches_left:
                return None
            self._searches_left -= 1
        try:
            return (await self._storage.find(ino, token)).node
        except FSError as exc:
            if not isinstance(exc, NotFoundError):
                _log.warning("directory %x can't be looked for: %s", ino, exc)
            return None

    def token(self, ino: Ino) -> bytes:
        """Return from what a directory is found again; nothing if it isn't known."""
        node = self._nodes.get(ino)
        return self._tokens.get(ino, b"") if node is None else self._storage.token(node)

    async def path(self, ino: Ino) -> bytes | None:
        """Return where a directory is or was, relative to the domain's root."""
        if ino not in self._paths:
            path = await self._path_of_deleted(ino) if ino in self._deleted else None
            if path is None:
                path = await self._path_now(ino)
            if path is not None:
                self._paths[ino] = path
        return self._paths.get(ino)

    async def _path_of_deleted(self, ino: Ino) -> bytes | None:
        item = self._deleted.pop(ino)  # popped: entries can't be trusted to be without a circle
        record = self._records.get(item.entry.id)
        if record is not None:
            return record.path
        above = await self.path(item.entry.parent)
        return None if above is None else below(above, item.entry.name)

    async def _path_now(self, ino: Ino) -> bytes | None:
        node = await self.node(ino)
        if node is None:
            return None
        try:
            path = await self._storage.path(node)
        except FSError:
            return None
        if not below(path, b"").startswith(self._root):
            return None
        path = below(path, b"")[len(self._root) :].rstrip(b"/")
        return None if path.partition(b"/")[0] == layout.TRASH_NAME else path

    def close(self) -> None:
        """Give references back."""
        for node in self._nodes.values():
            if node is not None:
                self._storage.forget(node)


def _above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def below(path: bytes, name: bytes) -> bytes:
    """Join a path, which may be empty, and a name."""
    return path + b"/" + name if path else name


@contextlib.asynccontextmanager
async def open_parents(
    domain: Domain,
    items: Iterable[Item],
    records: Mapping[str, Record],
    *,
    searches: int = _SEARCHES,
) -> AsyncIterator[Parents]:
    """Lend what finds the directories of entries.

    Args:
        items: entries, of which some may be those directories.
        records: what the journal has of the same time.
        searches: how many may be looked for through the whole tree, where nothing else finds them.
    """
    storage = domain.storage
    root = below(await storage.path(domain.root), b"")
    parents = Parents(storage, root, items, records, searches)
    try:
        yield parents
    finally:
        parents.close()


async def write_lost_records(
    domain: Domain, instance: str, lost: Iterable[Item], parents: Parents
) -> None:
    """Write records for entries of a dead instance that have none, where their places are known."""
    lines: dict[bytes, list[bytes]] = defaultdict(list)
    for item in lost:
        above = await parents.path(item.entry.parent)
        if above is not None:
            token = parents.token(item.entry.parent)
            lines[item.entry.hour].append(_record(item, above, token).line())
    for hour, hour_lines in lines.items():
        await journal.append(domain, hour, instance, b"\n" + b"".join(hour_lines))
        _log.info("%d records that %s had lost were written", len(hour_lines), instance)


def _record(item: Item, above: bytes, token: bytes) -> Record:
    return Record(
        id=item.entry.id,
        path=below(above, item.entry.name),
        uid=item.entry.deleter_uid,
        gid=0,
        pid=0,
        command="",
        kind=item.kind,
        ino=item.ino,
        parent_token=token,
        parent=item.entry.parent,
    )
