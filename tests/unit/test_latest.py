"""What was deleted last, from the ends of the journals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from cephfs_ext.core.types import Credentials
from tests.property.gateways import (
    OPERATOR,
    WHO,
    PosixGround,
    delete,
    delete_tree,
    hours_ago,
    make_dirs,
    make_files,
    parts,
)
from trashbin.service import Caller, Conflict, Wanted

Script = Callable[[PosixGround], Awaitable[None]]
Play = Callable[[Script], None]


@pytest.mark.parametrize("is_written", [False, True])
def test_newest_that_is_there(play: Play, is_written: bool) -> None:
    """[trash-18]."""

    async def script(ground: PosixGround) -> None:
        async with parts(ground, "000a") as gateway:
            names = [b"f%d" % number for number in range(200)]
            await make_files(gateway.storage, *names)
            for name in names:
                await delete(gateway, name)
            if is_written:
                await gateway.journal.drain()
            for name in reversed(names[-150:]):
                last = await gateway.service.last(OPERATOR)
                assert last is not None
                assert last.path == name
                answers = await gateway.service.restore(
                    OPERATOR,
                    [("", last)],
                    to=None,
                    on_conflict=Conflict.FAIL,
                    dry_run=False,
                )
                assert answers[0].target == name

    play(script)


def test_own_only(play: Play) -> None:
    """[trash-18]."""

    async def script(ground: PosixGround) -> None:
        async with parts(ground, "000a") as gateway:
            await make_files(gateway.storage, b"mine")
            await delete(gateway, b"mine")
            stranger = Caller(Credentials(12345, 12345, ()), everything=False)
            assert await gateway.service.last(stranger) is None
            own = await gateway.service.last(Caller(WHO.cred, everything=False))
            assert own is not None
            assert own.path == b"mine"

    play(script)


def test_directory_has_what_it_took_with_it(play: Play) -> None:
    """[trash-18]."""

    async def script(ground: PosixGround) -> None:
        async with parts(ground, "000a") as gateway:
            await make_dirs(gateway.storage, b"t")
            await make_files(gateway.storage, b"t/1", b"t/2")
            await delete_tree(gateway, b"t")
            last = await gateway.service.last(OPERATOR)
            assert last is not None
            assert sorted(path for _, path in last.tree.walk()) == [(), (b"1",), (b"2",)]

    play(script)


def test_without_a_journal_the_trash_itself_says_it(play: Play) -> None:
    """[trash-18]."""

    async def script(ground: PosixGround) -> None:
        async with parts(ground, "000a", hours_ago(3)) as gateway:
            await make_files(gateway.storage, b"file")
            await delete(gateway, b"file")
        async with parts(ground, "000b") as gateway:
            last = await gateway.service.last(OPERATOR)
            assert last is not None
            assert last.tree.top.entry.name == b"file"

    play(script)


def test_limit_reads_no_further(play: Play) -> None:
    """[trash-17]: older hours aren't opened."""

    async def script(ground: PosixGround) -> None:
        for hour in range(4):
            async with parts(ground, f"000{hour}", hours_ago(hour)) as gateway:
                await make_files(gateway.storage, b"f%d" % hour)
                await delete(gateway, b"f%d" % hour)
                await gateway.journal.drain()
        async with parts(ground, "00ff") as gateway:
            loaded = []
            original = gateway.storage.resolve

            async def resolve(parent: object, name: bytes) -> object:
                loaded.append(name)
                return await original(parent, name)  # type: ignore[arg-type]

            gateway.storage.resolve = resolve  # type: ignore[method-assign,assignment]
            found = await gateway.service.chosen(OPERATOR, Wanted(), 1)
            assert [one.path for one in found] == [b"f0"]
            hours = {name for name in loaded if name.startswith(b"20")}
            assert hours == {found[0].tree.top.entry.hour}

    play(script)
