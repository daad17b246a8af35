"""Hold: what is exempt from expiry and pressure, because somebody says so.

Every entry and tombstone of a held tree is moved, by one rename each, into the same hour of a
directory whose term says that it is held, which expiry never claims; everything else reads it like
any other. A release moves them back: the rest of the term stays in the name, so that they expire
as they would have. A note says who holds a tree; it is written before the first entry moves.

Cut off in the middle, each entry is either held or not. Doing it again finishes it. Two who hold
or release the same thing at once do no harm: each move is a rename, and who comes second finds
the entry where it belongs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from cephfs_ext.core.errors import ExistsError, FSError, NotEmptyError, NotFoundError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY
from trashbin import layout
from trashbin.catalog import Item, directories_of_hours, hours_of, names_of_hour
from trashbin.domain import Domain, directory_at, lying_in
from trashbin.files import names_in, remove_quietly
from trashbin.links import has_name
from trashbin.settle import settling
from trashbin.tasks import for_each
from trashbin.trees import Tree

_log = logging.getLogger(__name__)

REASON_LIMIT = 500
"""Longest reason, characters: a note is the target of a symbolic link."""

_AT_ONCE = 8
"""Entries that are moved at the same time."""

_ATTEMPTS = 3
"""How often a move begins anew because the hour that it goes to was removed as empty."""

_UNSETTLED_NS = 3600 * 1_000_000_000
"""A note without its entry is younger than this while somebody is about to hold it."""


class Note(NamedTuple):
    """Who holds a tree, and why."""

    uid: int
    held_ns: int
    reason: str
    entries: int
    """How many the tree had."""

    def encode(self) -> bytes:
        """Encode as JSON without a NUL byte."""
        return json.dumps(self._asdict(), ensure_ascii=False, separators=(",", ":")).encode()


def decode_note(raw: bytes) -> Note | None:
    """Decode a note; None if it can't be read."""
    try:
        fields = json.loads(raw)
        note = Note(*(fields[name] for name in Note._fields))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    kinds = (int, int, str, int)
    sound = all(type(value) is kind for value, kind in zip(note, kinds, strict=True))
    return note if sound else None


class Moved(NamedTuple):
    """What a hold or a release did."""

    entries: int
    """How many are where they should be now."""
    failures: list[str]


async def hold(domain: Domain, tree: Tree, note: Note) -> Moved:
    """Exempt a tree from expiry; what is held already stays so, with its note.

    Raises:
        FSError: the note can't be written; nothing is held.
    """
    await _write_note(domain, tree.top, note)
    return await _move_all(domain, tree, _hold_one)


async def release(domain: Domain, tree: Tree) -> Moved:
    """Give a tree back to expiry; the notes go last, also those of parts of it."""
    moved = await _move_all(domain, tree, _release_one)
    if not moved.failures:
        await drop_notes(domain, tree)
    return moved


async def _move_all(
    domain: Domain, tree: Tree, move: Callable[[Domain, Item], Awaitable[None]]
) -> Moved:
    failures: list[str] = []
    done = 0

    async def one(part: tuple[Tree, tuple[bytes, ...]]) -> None:
        nonlocal done
        item = part[0].top
        try:
            await move(domain, item)
            done += 1
        except FSError as exc:
            failures.append(f"{b'/'.join(part[1]).decode(errors='replace') or '.'}: {exc}")

    async with settling(domain):
        await for_each(tree.walk(), one, at_once=_AT_ONCE)
    return Moved(done, failures)


async def _hold_one(domain: Domain, item: Item) -> None:
    await _move(domain, item, is_held=True)


async def _release_one(domain: Domain, item: Item) -> None:
    await _move(domain, item, is_held=False)


async def _move(domain: Domain, item: Item, *, is_held: bool) -> None:
    """Move what lies in an hour into that hour of the term that it has from now on.

    Raises:
        NotFoundError: it has left the trash, or somebody else has moved it.
    """
    if item.is_held == is_held:
        return
    hour, term = item.entry.hour, layout.term_of(item.above)._replace(is_held=is_held)
    home = domain.directories[await domain.counterpart(item.above, term)]
    for attempt in range(_ATTEMPTS):
        async with lying_in(domain, item.above, hour, (item.leaf,)) as (node, leaf):
            try:
                async with domain.lent_hour(home, hour) as there:
                    await domain.storage.rename(node, leaf, there, leaf, GATEWAY)
            except NotFoundError:
                domain.drop_hour(home, hour)
                if attempt + 1 == _ATTEMPTS:
                    raise
                continue
            if is_held and item.is_dir:
                await _check_whole(domain, item, node)
            return


async def _check_whole(domain: Domain, item: Item, hour: Node) -> None:
    """Check that nobody had begun to remove what is in a directory that was moved.

    Raises:
        NotFoundError: its hour had just been claimed.
    """
    async with directory_at(domain, item.above) as above:
        if not await has_name(domain.storage, above, item.entry.hour, hour.ino):
            raise NotFoundError(what="it was just being removed; parts may be missing")


# notes


async def _write_note(domain: Domain, top: Item, note: Note) -> None:
    name = layout.note_name(top.entry.id)

    async def write(storage: Storage, hour: Node) -> None:
        with contextlib.suppress(ExistsError):
            storage.forget((await storage.symlink(hour, name, note.encode(), GATEWAY)).node)

    await domain.add_term(layout.HOLD)
    home = domain.directories[layout.NOTES]
    for attempt in range(_ATTEMPTS):
        try:
            async with domain.lent_hour(home, top.entry.hour) as hour:
                await domain.in_spite_of_quota(hour, write)
            return
        except NotFoundError:
            domain.drop_hour(home, top.entry.hour)
            if attempt + 1 == _ATTEMPTS:
                raise


async def read_note(domain: Domain, top: Item) -> Note | None:
    """Return who holds a tree; None if nothing says so."""
    with contextlib.suppress(NotFoundError):
        async with directory_at(domain, layout.NOTES, top.entry.hour) as hour:
            return await _note_in(domain.storage, hour, layout.note_name(top.entry.id))
    return None


async def _note_in(storage: Storage, hour: Node, name: bytes) -> Note | None:
    found = await storage.lookup(hour, name)
    try:
        return decode_note(await storage.readlink(found.node)) if found.attr.is_symlink else None
    finally:
        storage.forget(found.node)


async def drop_notes(domain: Domain, tree: Tree) -> None:
    """Remove the notes of a tree that isn't held any more."""
    entries = [part.top.entry for part, _ in tree.walk()]
    ids = {entry.id for entry in entries}
    for hour in {entry.hour for entry in entries}:
        await _drop_notes(domain, hour, lambda entry_id, _: entry_id in ids)


async def entries_held_by(domain: Domain, uid: int) -> int:
    """Count what a user holds, by the notes."""
    count = 0
    for hour in await hours_of(domain, layout.NOTES):
        with contextlib.suppress(NotFoundError):
            async with directory_at(domain, layout.NOTES, hour) as node:
                notes = await _notes_in(domain.storage, node)
            count += sum(note.entries for _, note in notes if note and note.uid == uid)
    return count


async def _notes_in(storage: Storage, hour: Node) -> list[tuple[bytes, Note | None]]:
    """Read the notes of an hour, with their names."""
    notes = []
    for name in await names_in(storage, hour):
        if layout.parse_note(name) is not None:
            with contextlib.suppress(NotFoundError):
                notes.append((name, await _note_in(storage, hour, name)))
    return notes


async def tidy(domain: Domain) -> None:
    """Remove notes of what isn't held any more, and hours of which nothing is."""
    held = [above for above in directories_of_hours(domain) if layout.term_of(above).is_held]
    for hour in await hours_of(domain, layout.NOTES):
        await _drop_old_notes(domain, held, hour)
    for above in held:
        for hour in await hours_of(domain, above):
            with contextlib.suppress(NotFoundError, NotEmptyError):
                async with directory_at(domain, above) as node:
                    await domain.storage.rmdir(node, hour, GATEWAY)


async def _drop_old_notes(domain: Domain, held: Iterable[bytes], hour: bytes) -> None:
    there: set[str] = set()
    for above in held:
        entries = [layout.parse_entry(one.name) for one in await names_of_hour(domain, above, hour)]
        there.update(entry.id for entry in entries if entry is not None)

    def is_left_over(entry_id: str, note: Note | None) -> bool:
        held_ns = 0 if note is None else note.held_ns
        return entry_id not in there and time.time_ns() - held_ns > _UNSETTLED_NS

    await _drop_notes(domain, hour, is_left_over)


async def _drop_notes(
    domain: Domain, hour: bytes, unwanted: Callable[[str, Note | None], bool]
) -> None:
    with contextlib.suppress(NotFoundError):
        async with directory_at(domain, layout.NOTES, hour) as node:
            for name, note in await _notes_in(domain.storage, node):
                if unwanted(str(layout.parse_note(name)), note):
                    await remove_quietly(domain.storage, node, name)
