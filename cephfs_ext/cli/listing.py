"""Prints what is in the trash, as it comes: however much it is, a part of it is in memory."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import click
import msgspec

from cephfs_ext.cli.output import Rows, human_size, human_time, printable
from cephfs_ext.control.service import SCHEMA_VERSION, ListingEnd, TrashItem

_HEADINGS = ("ID", "DELETED", "BY", "KIND", "ENTRIES", "SIZE", "PATH")
_EVENT_HEADINGS = ("EVENT", "DELETED", "BY", "TREES", "ENTRIES", "SIZE", "COMMAND")
_LONG = ("PATH", "COMMAND")

_TOGETHER = 1_000
"""Trees that are printed as one part of a table; of those, the ones of one event stand together."""

_EVENTS = 10_000
"""Delete events that may go on at the same time; beyond it the newest is taken to be complete."""

Listing = Iterable[TrashItem | ListingEnd]
"""What the daemon says: trees, newest first, then the end."""


class _Items:
    """The trees of a listing, and then its end."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self.end = ListingEnd(damaged=[], more=False)

    def __iter__(self) -> Iterator[TrashItem]:
        for one in self._listing:
            if isinstance(one, ListingEnd):
                self.end = one
            else:
                yield one


def print_listing_json(listing: Listing) -> None:
    """Print one document, tree by tree."""
    items = _Items(listing)
    click.echo(f'{{\n  "schema_version": {SCHEMA_VERSION},\n  "items": [', nl=False)
    for number, item in enumerate(items):
        text = msgspec.json.format(msgspec.json.encode(item)).decode()
        click.echo(",\n    " if number else "\n    ", nl=False)
        click.echo(text.replace("\n", "\n    "), nl=False)
    end = {"damaged": items.end.damaged, "more": items.end.more}
    text = msgspec.json.format(msgspec.json.encode(end)).decode()
    click.echo("\n  ]," + text.removeprefix("{"))


def print_trees(listing: Listing) -> ListingEnd:
    """Print a line for each tree; on a terminal, trees of one event stand together."""
    items, table = _Items(listing), Rows(_HEADINGS, long=_LONG)
    if not table.is_for_people:
        for item in items:
            table.print([_cells(item)])
        return items.end
    trees = iter(items)
    while some := list(itertools.islice(trees, _TOGETHER)):
        table.print(_grouped(some))
    return items.end


def print_items(items: Sequence[TrashItem]) -> None:
    """Print a line for each tree."""
    Rows(_HEADINGS, long=_LONG).print([_cells(item) for item in items])


def print_events(listing: Listing) -> ListingEnd:
    """Print a line for each delete event."""
    items, table = _Items(listing), Rows(_EVENT_HEADINGS, long=_LONG)
    events: dict[str, _Event] = {}
    rows: list[tuple[str, ...]] = []
    for item in items:
        _add(events, item)
        if len(events) > _EVENTS:
            rows.append(events.pop(next(iter(events))).cells())
        if len(rows) == _TOGETHER:
            table.print(rows)
            rows = []
    table.print(rows + [event.cells() for event in events.values()])
    return items.end


def print_event(trees: Sequence[TrashItem]) -> None:
    """Print one event and its trees."""
    for heading, cell in zip(_EVENT_HEADINGS, _event_of(trees).cells(), strict=True):
        click.echo(f"{heading.lower():<10}{cell}")
    print_items(trees)


@dataclasses.dataclass
class _Event:
    """What an event took away, as far as it has been seen; sums are None where one isn't known."""

    newest: TrashItem
    trees: int = 0
    entries: int | None = 0
    size: int | None = 0

    def add(self, item: TrashItem) -> None:
        self.trees += 1
        self.entries = _sum(self.entries, item.entries)
        self.size = _sum(self.size, item.size_bytes)

    def cells(self) -> tuple[str, ...]:
        return (
            self.newest.event or self.newest.id,
            human_time(self.newest.deleted_ns / 1e9),
            str(self.newest.deleter_uid),
            str(self.trees),
            "?" if self.entries is None else str(self.entries),
            human_size(self.size),
            printable(self.newest.command or "?"),
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _add(events: dict[str, _Event], item: TrashItem) -> None:
    events.setdefault(item.event or item.id, _Event(item)).add(item)


def _event_of(trees: Iterable[TrashItem]) -> _Event:
    events: dict[str, _Event] = {}
    for item in trees:
        _add(events, item)
    return next(iter(events.values()))


def _grouped(items: Sequence[TrashItem]) -> list[tuple[str, ...]]:
    """Return lines of trees; several of one event stand below a line of the event."""
    groups: dict[str, list[TrashItem]] = {}
    for item in items:
        groups.setdefault(item.event or item.id, []).append(item)
    rows: list[tuple[str, ...]] = []
    for group in groups.values():
        if len(group) == 1:
            rows.append(_cells(group[0]))
            continue
        event_id, when, by, trees, entries, size, command = _event_of(group).cells()
        rows.append((event_id, when, by, "event", entries, size, f"{trees} trees: {command}"))
        for item in group:
            *cells, path = _cells(item)
            rows.append((*cells, f"  {path}"))
    return rows


def _cells(item: TrashItem) -> tuple[str, ...]:
    return (
        item.id,
        human_time(item.deleted_ns / 1e9),
        str(item.deleter_uid),
        item.kind + (" (held)" if item.held else ""),
        "?" if item.entries is None else str(item.entries),
        human_size(item.size_bytes),
        printable(item.path or "(unknown place)"),
    )
