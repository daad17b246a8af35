"""What is known of the directories that something was deleted from: [trash-6]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from cephfs_ext.core.ports import Found
from tests.property.gateways import Parts, PosixGround, delete, make_dirs, make_files, parts
from trashbin import ancestors
from trashbin.layout import EntryName


def _entry(gateway: Parts, top: Path, parent: str, name: bytes) -> EntryName:
    now_ns = gateway.journal.unwritten(gateway.storage.root.ino)[0].id  # type: ignore[attr-defined]
    ino = (top / parent).stat().st_ino
    return EntryName(int(now_ns[:16], 16), gateway.instance, 0, ino, name)  # type: ignore[arg-type]


def test_each_is_looked_up_once_an_hour(ground: PosixGround) -> None:
    async def main() -> None:
        async with parts(ground, "000a") as gateway:
            await make_dirs(gateway.storage, b"d", b"d/e")
            await make_files(gateway.storage, b"d/e/a", b"d/e/b", b"d/c")
            (ground.directory / "d").chmod(0o2751)
            for name in (b"d/e/a", b"d/e/b", b"d/c"):
                await delete(gateway, name)
            assert len(gateway.ancestors._waiting) == 2
            entry = _entry(gateway, ground.directory, "d/e", b"a")
            found = await gateway.ancestors.of(await gateway.domain(), entry, b"d/e")
            assert [(one.path, one.mode) for one in found] == [(b"d/e", 0o755), (b"d", 0o2751)]
            await gateway.journal.drain()
            again = await gateway.ancestors.of(await gateway.domain(), entry, b"d/e")
            assert again == found

    trio.run(main)


def test_what_is_beyond_the_limit_is_counted(
    ground: PosixGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next delete takes note of it, if there is room then."""
    monkeypatch.setattr(ancestors, "ANCESTOR_QUEUE", 1)

    async def main() -> None:
        async with parts(ground, "000a") as gateway:
            await make_dirs(gateway.storage, b"d", b"e")
            await make_files(gateway.storage, b"d/a", b"e/a", b"e/b")
            await delete(gateway, b"d/a")
            await delete(gateway, b"e/a")
            assert gateway.meter.counts["ancestors_dropped_total", ()] == 1
            await gateway.ancestors.drain()
            await delete(gateway, b"e/b")
            assert [seen.path for seen in gateway.ancestors._waiting] == [b"e"]

    trio.run(main)


def test_none_is_lost_when_the_loop_ends(
    ground: PosixGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that stops cancels it in the middle of a lookup, and drains afterwards."""

    async def main() -> None:
        async with parts(ground, "000a") as gateway:
            await make_dirs(gateway.storage, b"d", b"d/e")
            await make_files(gateway.storage, b"d/e/a")
            await delete(gateway, b"d/e/a")
            looking, find = trio.Event(), gateway.storage.find

            async def slow(*arguments: Any) -> Found:
                looking.set()
                await trio.sleep(0.01)
                return await find(*arguments)

            monkeypatch.setattr(gateway.storage, "find", slow)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gateway.ancestors.once)
                await looking.wait()
                nursery.cancel_scope.cancel()
            await gateway.ancestors.drain()
            lines = gateway.journal.unwritten(gateway.storage.root.ino)
            seen = [one.path for one in lines if isinstance(one, ancestors.Ancestor)]
            assert seen == [b"d/e", b"d"]

    trio.run(main)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b'{"dir":',
        b'{"dir":1,"path":"a","mode":"x","uid":0,"gid":0,"parent":0,"token":""}',
        b'{"dir":1,"path":"a","mode":1,"uid":-1,"gid":0,"parent":0,"token":""}',
        b'{"dir":1,"path":"a","mode":1,"uid":0,"gid":0,"parent":0,"token":"","acls":[1]}',
    ],
)
def test_torn_and_foreign_lines_are_none(line: bytes) -> None:
    assert ancestors.parse_ancestor(line) is None
