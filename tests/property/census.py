"""Counts everything there is, in place and in the trash: no name may be lost, and none twice."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from cephfs_ext.core.ports import Found
from tests.property.gateways import OPERATOR, Parts, content_of, names_below
from trashbin import layout
from trashbin.catalog import Item, directories_of_hours
from trashbin.domain import Domain, lying_in
from trashbin.service import Conflict

Name = tuple[bytes, bytes]
"""A name without its directory, and what it names: the content of a file, or `dir`."""


@dataclasses.dataclass(frozen=True)
class Census:
    """All names, and what they name."""

    places: dict[bytes, bytes]
    """By path."""
    trash: Counter[Name]
    """Entries of the trash, and what is below them."""

    def everything(self) -> Counter[bytes]:
        """Count the names of each file, and directories."""
        count = Counter(self.places.values())
        for (_, content), number in self.trash.items():
            count[content] += number
        return count

    def names(self) -> set[Name]:
        """Return every name with what it names, wherever it is."""
        return {(path.rpartition(b"/")[2], it) for path, it in self.places.items()} | set(
            self.trash
        )


async def take_census(gateway: Parts) -> Census:
    """Count what is in place, and what the trash shows."""
    storage: Any = gateway.storage
    places = await names_below(storage, storage.root)
    trash: Counter[Name] = Counter()
    contents = await gateway.service.contents(OPERATOR)
    assert contents.damaged == []
    for listed in contents.trees:
        for tree, _ in listed.tree.walk():
            trash.update(await _names_of(storage, listed.domain, tree.top))
    return Census(places, trash)


async def _names_of(storage: Any, domain: Domain, item: Item) -> list[Name]:
    name = item.entry.name
    if item.tomb is not None and item.tomb.kind == "dir":
        return [(name, b"dir")]
    found = await _open(storage, domain, item)
    names = [(name, await content_of(storage, found))]
    if found.attr.is_dir:
        below = await names_below(storage, found.node)
        names += [(path.rpartition(b"/")[2], it) for path, it in below.items()]
    storage.forget(found.node)
    return names


async def _open(storage: Any, domain: Domain, item: Item) -> Found:
    if item.tomb is not None:
        found: Found = await storage.find(item.tomb.ino, item.tomb.token)
        return found
    async with lying_in(domain, item.above, item.entry.hour, item.entry.path) as (above, leaf):
        return await (storage.resolve if item.is_dir else storage.lookup)(above, leaf)


async def check_nothing_is_hidden(gateway: Parts) -> None:
    """Check that no restore is under way, and that all that lies in the trash is shown."""
    domain = await gateway.domain()
    storage: Any = gateway.storage
    assert await names_below(storage, domain.service(layout.RESTORING)) == {}
    lying: set[str] = set()
    for name in directories_of_hours(domain):
        for path in await names_below(storage, domain.directories[name]):
            _, entry, *rest = (*path.split(b"/"), b"")
            parsed = layout.parse_entry(entry)
            if parsed is not None and (parsed.name or rest[:-1]):
                lying.add(parsed.id)
    contents = await gateway.service.contents(OPERATOR)
    shown = [tree.top.entry.id for one in contents.trees for tree, _ in one.tree.walk()]
    assert Counter(shown) == Counter(lying)


async def restore_everything(gateway: Parts) -> None:
    """Bring back all that the trash shows, each to where it was."""
    contents = await gateway.service.contents(OPERATOR)
    for listed in contents.trees:
        assert listed.path is not None, (listed.tree.top, listed.record)
        answers = await gateway.service.restore(
            OPERATOR,
            [("all", listed)],
            to=None,
            on_conflict=Conflict.KEEP_BOTH,
            dry_run=False,
        )
        assert [answer.outcome.value for answer in answers] == ["restored"], answers
    assert (await gateway.service.contents(OPERATOR)).trees == []
