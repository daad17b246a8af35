"""Runs of restores: the plan that each writes first, how one ends, and how one is undone.

A run is a directory in `restoring/`. What is to come back lies in it as `tree`; `plan` says where
that came from and where it is to appear. Whoever ends a run holds the lock of its directory.

Appearing replaces nothing: a rename that refuses to where the storage has such a thing; otherwise
a directory is renamed over a placeholder made by mkdir (ENOTEMPTY if somebody wrote into it), and a
file is linked (EEXIST if the name is taken) and unlinked aside.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from typing import NamedTuple

import trio

from cephfs_ext.core.errors import ExistsError, FSError, NotEmptyError, NotFoundError
from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.core.types import GATEWAY, Attr, Ino
from trashbin import layout, links, tombs
from trashbin.domain import Domain, directory_at, lying_in
from trashbin.files import RENAME_NOREPLACE, names_in, remove_quietly
from trashbin.layout import EntryName
from trashbin.names import is_name

_log = logging.getLogger(__name__)

PLAN = b"plan"
TREE = b"tree"
MADE = b"made-"
"""How the name of a directory begins that is made again from a tombstone."""

_PLACEHOLDER_MODE = 0o1000
"""Nobody else makes a directory of this mode: by it recovery knows a placeholder."""

_ATTEMPTS = 3
"""How often an entry is put back into an hour that expires at this moment."""


class Target(NamedTuple):
    """Where something is to appear."""

    parent: Node
    name: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a run does: enough to finish or undo it."""

    above: bytes
    """Shard that the top came from."""
    hour: bytes
    path: tuple[bytes, ...]
    """The top's path below the hour."""
    target_ino: Ino
    target_token: bytes
    target_name: bytes

    def encode(self) -> bytes:
        """Encode as JSON without a NUL byte."""
        fields = {
            "above": self.above.decode(),
            "hour": self.hour.decode(),
            "path": [_text(name) for name in self.path],
            "target_ino": self.target_ino,
            "target_token": _text(self.target_token),
            "target_name": _text(self.target_name),
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @property
    def entry(self) -> EntryName | None:
        """The entry that the top was; None if the path is that of none."""
        entry = layout.parse_entry(self.path[0])
        if entry is not None and len(self.path) > 1:
            entry = entry._replace(name=self.path[1])
        return entry if entry is not None and entry.path == self.path else None


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def decode_plan(raw: bytes) -> Plan | None:
    """Decode a plan; None if it is damaged, or of what can't be."""
    try:
        fields = json.loads(raw)
        plan = Plan(
            fields["above"].encode(),
            fields["hour"].encode(),
            tuple(_bytes(name) for name in fields["path"]),
            Ino(fields["target_ino"]),
            _bytes(fields["target_token"]),
            _bytes(fields["target_name"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return plan if _is_sound(plan) else None


def _is_sound(plan: Plan) -> bool:
    return (
        layout.parse_shard(plan.above) is not None
        and len(plan.path) in (1, 2)
        and all(is_name(name) for name in (*plan.path, plan.target_name))
        and plan.entry is not None
        and plan.hour == plan.entry.hour
        and type(plan.target_ino) is int
        and plan.target_ino >= 0
    )


async def appear(domain: Domain, aside: Node, target: Target) -> bool:
    """Make what lies aside appear at its place, replacing nothing.

    Returns:
        False if it has appeared and a second name of it is left aside.

    Raises:
        ExistsError: the name is taken; nothing has changed.
    """
    storage = domain.storage
    if storage.rename_noreplace:
        await storage.rename(aside, TREE, target.parent, target.name, GATEWAY, RENAME_NOREPLACE)
        return True
    found = await storage.resolve(aside, TREE)
    try:
        if not found.attr.is_dir:
            return await _link(domain, aside, found.node, target)
        await _over_placeholder(storage, aside, target)
        return True
    finally:
        storage.forget(found.node)


async def _link(domain: Domain, aside: Node, node: Node, target: Target) -> bool:
    """Give a file its place, and take the other name away.

    Under the inode's lock: whoever deletes it at once, and believes that the name aside is another
    one of it, has to wait.
    """
    storage = domain.storage
    async with storage.exclusive(domain.lock_of(node.ino)):
        await storage.link(node, target.parent, target.name, GATEWAY)
        try:
            await storage.unlink(aside, TREE, GATEWAY)
        except FSError as exc:
            _log.warning("a second name of inode %x is left to recovery: %s", node.ino, exc)
            return False
    return True


async def _over_placeholder(storage: Storage, aside: Node, target: Target) -> None:
    made = await storage.mkdir(target.parent, target.name, _PLACEHOLDER_MODE, GATEWAY)
    storage.forget(made.node)
    try:
        await storage.rename(aside, TREE, target.parent, target.name, GATEWAY)
    except NotEmptyError as exc:
        raise ExistsError(what="somebody has just made something at its place") from exc


def _is_placeholder(attr: Attr) -> bool:
    return attr.is_dir and attr.uid == GATEWAY.uid and attr.mode & 0o7777 == _PLACEHOLDER_MODE


async def undo(domain: Domain, plan: Plan | None, aside: Node) -> None:
    """Bring a run to its end: finished if the top has appeared, else back in the trash.

    Args:
        plan: None for a run that died before it had one.

    Raises:
        FSError: it could not be; it stays aside, and the next recovery tries again.
    """
    storage = domain.storage
    if plan is not None:
        await _undo(domain, plan, aside)
    for name in await names_in(storage, aside):
        if name.startswith(MADE):
            await storage.rmdir(aside, name, GATEWAY)
    await remove_quietly(storage, aside, PLAN)


async def _undo(domain: Domain, plan: Plan, aside: Node) -> None:
    entry = plan.entry
    assert entry is not None
    is_dir = False
    try:
        found = await domain.storage.resolve(aside, TREE)
    except NotFoundError:
        pass  # nothing was taken, or it has appeared: what is at its place is no placeholder
    else:
        domain.storage.forget(found.node)
        is_dir = found.attr.is_dir
        if not await _finished(domain, plan, aside, found.attr.ino):
            await _back_into_trash(domain, plan, aside)
            await _remove_placeholder(domain, plan)
    if is_dir or not await links.bury_link(domain, plan.above, entry):
        await _drop_stand_ins(domain, plan, entry)


async def _drop_stand_ins(domain: Domain, plan: Plan, entry: EntryName) -> None:
    """Remove the tombstone that an entry was made from, where the run died between the two."""
    with contextlib.suppress(NotFoundError):
        async with lying_in(domain, plan.above, plan.hour, plan.path) as (above, leaf):
            domain.storage.forget((await domain.storage.resolve(above, leaf)).node)
        await tombs.exhume_all(domain, entry, layout.term_of(plan.above))


async def _finished(domain: Domain, plan: Plan, aside: Node, ino: Ino) -> bool:
    """Take the name aside from a file that has its place; False if it has none."""
    async with _target(domain.storage, plan) as target:
        if target is None or not await links.has_name(domain.storage, *target, ino):
            return False
        return await links.remove_other_link(domain, aside, TREE, ino)


@contextlib.asynccontextmanager
async def _target(storage: Storage, plan: Plan) -> AsyncIterator[Target | None]:
    try:
        parent = (await storage.find(plan.target_ino, plan.target_token)).node
    except NotFoundError:
        yield None
        return
    try:
        yield Target(parent, plan.target_name)
    finally:
        storage.forget(parent)


async def _remove_placeholder(domain: Domain, plan: Plan) -> None:
    """Remove the placeholder of a run, if there is one and it is still as it was made."""
    storage = domain.storage
    if storage.rename_noreplace:
        return  # none is made where a rename can refuse to replace
    async with _target(storage, plan) as target:
        if target is None:
            return
        with contextlib.suppress(NotFoundError, NotEmptyError):
            found = await storage.resolve(*target)
            storage.forget(found.node)
            if _is_placeholder(found.attr):
                await storage.rmdir(*target, GATEWAY)


async def _back_into_trash(domain: Domain, plan: Plan, aside: Node) -> None:
    """Rename the top back to where it lay, also while expiry takes its hour away."""
    storage = domain.storage
    for _ in range(_ATTEMPTS):
        async with _made_again(domain, plan) as (hour, above):
            await storage.rename(aside, TREE, above, plan.path[-1], GATEWAY)
            async with directory_at(domain, plan.above) as shard:
                if await links.has_name(storage, shard, plan.hour, hour.ino):
                    return
            await storage.rename(above, plan.path[-1], aside, TREE, GATEWAY)
    raise FSError(what="its hour expires")


@contextlib.asynccontextmanager
async def _made_again(domain: Domain, plan: Plan) -> AsyncIterator[tuple[Node, Node]]:
    """Lend the hour that the top lay in, and the directory in it, made if they are missing."""
    held: list[Node] = []
    node = domain.trash
    try:
        for name in (plan.above, plan.hour, *plan.path[:-1]):
            node = await domain.make(node, name)
            held.append(node)
        yield held[1], held[-1]
    finally:
        for node in held:
            domain.storage.forget(node)


async def remove_run(storage: Storage, restoring: Node, run: bytes) -> None:
    """Remove the directory of a run that is over; one that could not be undone stays."""
    try:
        with trio.CancelScope(shield=True):
            await storage.rmdir(restoring, run, GATEWAY)
    except NotFoundError:
        return
    except FSError as exc:
        _log.warning("restore %s is left to recovery: %s", run.decode(errors="replace"), exc)
