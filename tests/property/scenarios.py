"""What a gateway may be doing when it dies: each way to put, restore, expire, purge and set up."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Found
from cephfs_ext.core.types import GATEWAY
from tests.property.gateways import (
    OPERATOR,
    RETENTION_S,
    SOMEBODY_ELSE,
    WHO,
    Parts,
    delete,
    delete_tree,
    let_go,
    make_dirs,
    make_files,
    make_link,
    replace,
    victim,
    walk_to,
)
from trashbin.runs import Target
from trashbin.service import Answer, Conflict, Listed

Step = Callable[[Parts], Awaitable[None]]

LONG = b"n" * 250
EXPIRED_H = RETENTION_S / 3600 + 3


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A first life, and what is interrupted in it."""

    name: str
    prepare: Step
    act: Step
    may_vanish: frozenset[bytes] = frozenset()
    """Contents whose time is over."""
    may_come: frozenset[bytes] = frozenset()
    """Contents of what is made on the way: an empty file, or directories."""
    puts: bool = False
    """It is one delete: where it fails nothing has changed."""
    hours_ago: float = 0
    """How late the gateway's clock is."""


async def _files(gateway: Parts) -> None:
    await gateway.domain()
    await make_dirs(gateway.storage, b"d")
    await make_files(gateway.storage, b"d/a", b"d/other", b"d/" + LONG)


async def _links(gateway: Parts) -> None:
    await _files(gateway)
    await make_link(gateway.storage, b"d/a", b"d/b")
    await make_link(gateway.storage, b"d/" + LONG, b"d/short")


async def _tree(gateway: Parts) -> None:
    await gateway.domain()
    await make_dirs(gateway.storage, b"t", b"t/u", b"t/u/v", b"t/empty", b"t/" + LONG)
    await make_files(gateway.storage, b"t/1", b"t/u/2", b"t/u/v/3", b"t/" + LONG + b"/4", b"u")
    await make_link(gateway.storage, b"t/1", b"t/u/linked")
    await make_link(gateway.storage, b"u", b"t/u/outside")


async def _small_tree(gateway: Parts) -> None:
    await gateway.domain()
    await make_dirs(gateway.storage, b"t")
    await make_files(gateway.storage, b"t/1", b"u")
    await make_link(gateway.storage, b"u", b"t/outside")


async def _empty_dirs(gateway: Parts) -> None:
    await _files(gateway)
    await make_dirs(gateway.storage, b"e", b"f", b"d/" + LONG[:-1])


def _deleting(*paths: bytes) -> Step:
    async def act(gateway: Parts) -> None:
        for path in paths:
            await delete(gateway, path)

    return act


def _replacing(source: bytes, path: bytes) -> Step:
    async def act(gateway: Parts) -> None:
        await replace(gateway, source, path)

    return act


async def _truncate(gateway: Parts) -> None:
    domain = await gateway.domain()
    async with victim(gateway.storage, b"d/a") as gone:

        async def nothing(fresh: Found) -> None:
            assert fresh.attr.size == 0

        fresh = await gateway.put.truncated(domain, gone.at, gone.found, WHO, nothing)
        gateway.storage.forget(fresh.node)


async def _delete_whole(gateway: Parts) -> None:
    domain = await gateway.domain()
    async with victim(gateway.storage, b"t") as gone:
        await gateway.put.tree(domain, gone.at, gone.found, WHO)


async def _delete_tree(gateway: Parts) -> None:
    await delete_tree(gateway, b"t")


def _after(*steps: Step) -> Step:
    """Carry out steps, and have their records written."""

    async def prepare(gateway: Parts) -> None:
        for step in steps:
            await step(gateway)
        await gateway.journal.drain()

    return prepare


def _restoring(
    name: bytes, *, to: bytes | None = None, on_conflict: Conflict = Conflict.FAIL
) -> Step:
    async def act(gateway: Parts) -> None:
        listed = await newest(gateway, name)
        answers = await gateway.service.restore(
            OPERATOR, [("it", listed)], to=to, on_conflict=on_conflict, dry_run=False
        )
        raise_failures(answers)

    return act


async def newest(gateway: Parts, name: bytes) -> Listed:
    """Return what was deleted last under a name."""
    contents = await gateway.service.contents(OPERATOR)
    return next(listed for listed in contents.trees if listed.tree.top.entry.name == name)


def raise_failures(answers: list[Answer]) -> None:
    """Turn answers that aren't successes into an operating error."""
    for answer in answers:
        if answer.outcome.value != "restored":
            raise FSError(what=answer.message)


async def _new_at_t(gateway: Parts) -> None:
    await make_dirs(gateway.storage, b"t")
    await make_files(gateway.storage, b"t/new")


async def _take_its_place(gateway: Parts) -> None:
    storage = gateway.storage
    directory = await walk_to(storage, b"d")
    await storage.rename(directory, b"other", directory, b"a", GATEWAY)
    let_go(storage, directory)


async def _restore_over(gateway: Parts) -> None:
    listed = await newest(gateway, b"a")
    async with victim(gateway.storage, b"d/a") as there:
        target = Target(there.at.parent, b"a")
        await gateway.restore.tree(listed.domain, listed.tree, target)


async def _remove_d(gateway: Parts) -> None:
    await delete_tree(gateway, b"d", SOMEBODY_ELSE)


async def _purge_t(gateway: Parts) -> None:
    await gateway.service.purge(OPERATOR, [await newest(gateway, b"t")])


def _holding(name: bytes) -> Step:
    async def act(gateway: Parts) -> None:
        listed = await newest(gateway, name)
        _raise_any((await gateway.service.hold(OPERATOR, listed, "why")).failures)

    return act


def _releasing(name: bytes) -> Step:
    async def act(gateway: Parts) -> None:
        listed = await newest(gateway, name)
        _raise_any((await gateway.service.release(listed)).failures)

    return act


def _raise_any(failures: list[str]) -> None:
    for failure in failures:
        raise FSError(what=failure)


async def _expire(gateway: Parts) -> None:
    await gateway.expiry.once()


async def _delete_another(gateway: Parts) -> None:
    await make_files(gateway.storage, b"gone")
    await delete(gateway, b"gone")


_IN_T = frozenset(
    (b"dir", b"t/1", b"t/u/2", b"t/u/v/3", b"t/" + LONG + b"/4", b"u")  # u has a name in t
)

SCENARIOS = (
    Scenario("file", _files, _deleting(b"d/a"), puts=True),
    Scenario("file with a long name", _files, _deleting(b"d/" + LONG), puts=True),
    Scenario("one of two links", _links, _deleting(b"d/a"), puts=True),
    Scenario("one of two links, with a long name", _links, _deleting(b"d/" + LONG), puts=True),
    Scenario("both links", _links, _deleting(b"d/a", b"d/b")),
    Scenario("empty directory", _empty_dirs, _deleting(b"e"), puts=True),
    Scenario(
        "empty directory with a long name", _empty_dirs, _deleting(b"d/" + LONG[:-1]), puts=True
    ),
    Scenario("tree, whole", _tree, _delete_whole, puts=True),
    Scenario("tree, bottom up", _tree, _delete_tree),
    Scenario("replaced file", _files, _replacing(b"d/other", b"d/a"), puts=True),
    Scenario(
        "replaced file with a long name", _files, _replacing(b"d/other", b"d/" + LONG), puts=True
    ),
    Scenario("replaced link", _links, _replacing(b"d/other", b"d/a"), puts=True),
    Scenario("truncated file", _files, _truncate, puts=True, may_come=frozenset((b"",))),
    Scenario("replaced directory", _empty_dirs, _replacing(b"e", b"f"), puts=True),
    Scenario("restore file", _after(_files, _deleting(b"d/a")), _restoring(b"a")),
    Scenario("restore long name", _after(_files, _deleting(b"d/" + LONG)), _restoring(LONG)),
    Scenario("restore link", _after(_links, _deleting(b"d/a")), _restoring(b"a")),
    Scenario("restore last link", _after(_links, _deleting(b"d/a", b"d/b")), _restoring(b"a")),
    Scenario("restore link elsewhere", _after(_links, _deleting(b"d/a")), _restoring(b"a", to=b"")),
    Scenario("restore whole tree", _after(_tree, _delete_whole), _restoring(b"t")),
    Scenario("restore small tree", _after(_small_tree, _delete_tree), _restoring(b"t")),
    Scenario("restore tree of many entries", _after(_tree, _delete_tree), _restoring(b"t")),
    Scenario(
        "restore replaced directory",
        _after(_empty_dirs, _replacing(b"e", b"f")),
        _restoring(b"f", on_conflict=Conflict.KEEP_BOTH),
    ),
    Scenario(
        "restore over what is there",
        _after(_tree, _delete_tree, _new_at_t),
        _restoring(b"t", on_conflict=Conflict.REPLACE),
    ),
    Scenario(
        "restore into a directory that is gone",
        _after(_files, _deleting(b"d/a"), _remove_d),
        _restoring(b"a"),
        may_come=frozenset((b"dir",)),
    ),
    Scenario(
        "restore where something is",
        _after(_files, _deleting(b"d/a"), _take_its_place),
        _restore_over,
    ),
    Scenario("purge tree", _after(_tree, _delete_tree), _purge_t, may_vanish=_IN_T),
    Scenario("expiry", _after(_tree, _delete_tree), _expire, may_vanish=_IN_T, hours_ago=EXPIRED_H),
    Scenario("hold tree", _after(_tree, _delete_tree), _holding(b"t")),
    Scenario("hold whole tree", _after(_tree, _delete_whole), _holding(b"t")),
    Scenario("hold long name", _after(_files, _deleting(b"d/" + LONG)), _holding(LONG)),
    Scenario("hold link", _after(_links, _deleting(b"d/a")), _holding(b"a")),
    Scenario("release tree", _after(_tree, _delete_tree, _holding(b"t")), _releasing(b"t")),
    Scenario("restore held tree", _after(_tree, _delete_tree, _holding(b"t")), _restoring(b"t")),
    Scenario(
        "restore held link", _after(_links, _deleting(b"d/a"), _holding(b"a")), _restoring(b"a")
    ),
    Scenario(
        "restore held last link",
        _after(_links, _deleting(b"d/a", b"d/b"), _holding(b"a")),
        _restoring(b"a"),
    ),
    Scenario(
        "restore held directory that was replaced",
        _after(_empty_dirs, _replacing(b"e", b"f"), _holding(b"f")),
        _restoring(b"f", on_conflict=Conflict.KEEP_BOTH),
    ),
    Scenario(
        "expiry beside what is held",
        _after(_links, _deleting(b"d/a", b"d/b"), _holding(b"a"), _tree, _delete_tree),
        _expire,
        may_vanish=_IN_T | {b"d/a"},  # the name b, not the other one
        hours_ago=EXPIRED_H,
    ),
    Scenario(
        "expiry of what is held",
        _after(_tree, _delete_tree, _holding(b"t"), _delete_another),
        _expire,
        may_vanish=frozenset((b"gone",)),
        hours_ago=EXPIRED_H,
    ),
)

ON_CEPH = tuple(
    one
    for one in SCENARIOS
    if one.name
    in (
        "one of two links",
        "replaced link",
        "replaced directory",
        "restore file",
        "restore link",
        "restore small tree",
        "hold link",
        "restore held link",
    )
)
"""A smaller run: a session of a cluster takes its time."""
