"""The journal: what is dropped and when, and what becomes of one that has grown too long."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from cephfs_ext.core.limits import AUDIT_QUEUE, JOURNAL_QUEUE
from cephfs_ext.core.types import Ino
from tests.property.gateways import Parts, PosixGround, delete, make_files, parts
from trashbin import layout
from trashbin.journal import Fate, Journal, Record, journals_of, read_records

Script = Callable[[Parts, Path], Awaitable[None]]
Play = Callable[[Script], None]

_HOUR_NS = 1_795_572_749_000_000_000
_PART_BYTES = 4096


@pytest.fixture
def play(ground: PosixGround) -> Play:
    def played(script: Script) -> None:
        async def main() -> None:
            async with parts(ground, "000a") as gateway:
                await script(gateway, ground.directory / ".trashbin/journal")

        trio.run(main)

    return played


def record(number: int, why: str = "") -> Record:
    """Return a delete of the same hour."""
    entry_id = f"{_HOUR_NS + number:016x}.000a"
    path = b"a/%d" % number
    return Record(entry_id, path, 0, 0, 1, "rm", "file", 7, b"", 5, host="a-host", why=why)


def take(journal: Journal, root: Ino, numbers: range, why: str = "") -> None:
    for number in numbers:
        journal.record(root, _HOUR_NS + number, record(number, why))


def sizes_in(directory: Path) -> list[int]:
    return [path.stat().st_size for path in directory.iterdir()]


def counted(gateway: Parts, metric: str) -> int:
    return gateway.meter.counts.get((metric, ()), 0)


def small_journal(gateway: Parts) -> Journal:
    """Return a journal whose parts are small."""
    storage: Any = gateway.storage
    return Journal(gateway.domains, storage, "000a", gateway.meter, part_bytes=_PART_BYTES)


class TestParts:
    def test_what_is_too_long_goes_on_in_another_part(self, play: Play) -> None:
        """[audit-6]: nothing is lost, and everything is read back."""

        async def script(gateway: Parts, directory: Path) -> None:
            domain, journal = await gateway.domain(), small_journal(gateway)
            for start in range(0, 90, 10):
                take(journal, domain.root.ino, range(start, start + 10))
                await journal.drain()
            there = await journals_of(domain)
            assert [one.part for one in there] == list(range(len(there)))
            assert len(there) > 2
            sizes = sizes_in(directory)
            assert len(sizes) == len(there)
            assert max(sizes) <= _PART_BYTES
            records = await read_records(domain)
            assert {one.path for one in records.values()} == {b"a/%d" % n for n in range(90)}

        play(script)

    def test_a_group_that_is_longer_than_a_part_is_written_as_a_whole(self, play: Play) -> None:
        async def script(gateway: Parts, directory: Path) -> None:
            domain, journal = await gateway.domain(), small_journal(gateway)
            for start in (0, 100):
                take(journal, domain.root.ino, range(start, start + 100))
                await journal.drain()
            assert [one.part for one in await journals_of(domain)] == [0, 1]
            assert len(await read_records(domain)) == 200

        play(script)

    def test_parts_are_dropped_with_their_hour(self, play: Play) -> None:
        """[audit-6]."""

        async def script(gateway: Parts, directory: Path) -> None:
            await gateway.domain()
            hour = layout.hour_name(0)
            for part in range(3):
                name = layout.JournalName(hour, "0001", part).raw
                (directory / os.fsdecode(name)).write_text("{}\n")
            await gateway.expiry.once()
            assert sizes_in(directory) == []

        play(script)


class TestLimits:
    def test_delete_never_waits_for_a_storage_that_does_not_answer(self, play: Play) -> None:
        """[audit-5]: what doesn't fit is dropped and counted, and the rest is written later."""

        async def script(gateway: Parts, directory: Path) -> None:
            domain = await gateway.domain()
            storage: Any = gateway.storage
            await make_files(storage, b"f")
            let_go, entered = trio.Event(), trio.Event()
            create = storage.create

            async def hanging(*arguments: Any) -> Any:
                entered.set()
                await let_go.wait()
                return await create(*arguments)

            storage.create = hanging
            async with trio.open_nursery() as nursery:
                take(gateway.journal, domain.root.ino, range(1))
                nursery.start_soon(gateway.journal.drain)
                await entered.wait()
                take(gateway.journal, domain.root.ino, range(1, JOURNAL_QUEUE + 500))
                assert counted(gateway, "journal_dropped_total") == 500
                with trio.fail_after(30):
                    await delete(gateway, b"f")
                assert counted(gateway, "journal_dropped_total") == 501
                let_go.set()
            await gateway.journal.drain()
            assert len(await read_records(domain)) == JOURNAL_QUEUE

        play(script)

    def test_what_is_for_the_audit_alone_is_dropped_first(self, play: Play) -> None:
        """[audit-5]: it never takes the place of what a restore needs."""

        async def script(gateway: Parts, directory: Path) -> None:
            domain, journal = await gateway.domain(), gateway.journal
            root = domain.root.ino
            take(journal, root, range(AUDIT_QUEUE + 10), why="policy")
            journal.note(root, Fate("purged", _HOUR_NS, "a-host", id="x"))
            assert counted(gateway, "audit_dropped_total") == 11
            assert counted(gateway, "journal_dropped_total") == 0
            take(journal, root, range(AUDIT_QUEUE, JOURNAL_QUEUE))
            assert counted(gateway, "journal_dropped_total") == 0
            assert len(journal.waiting(root)) == JOURNAL_QUEUE - AUDIT_QUEUE

        play(script)


def test_what_was_not_kept_is_no_record_of_the_trash(play: Play) -> None:
    """Nor is what became of an entry: who looks for entries doesn't see them."""

    async def script(gateway: Parts, directory: Path) -> None:
        domain, journal = await gateway.domain(), gateway.journal
        root, taken = domain.root.ino, gateway.journal.taken
        take(journal, root, range(3), why="small")
        journal.note(root, Fate("expired", _HOUR_NS, "a-host", hour="2026-11-24T01"))
        assert journal.taken == taken
        assert journal.waiting(root) == {}
        assert len(journal.unwritten(root)) == 4
        take(journal, root, range(3, 5))
        assert len(journal.waiting(root)) == 2
        await journal.drain()
        assert journal.unwritten(root) == []
        assert [one.path for one in (await read_records(domain)).values()] == [b"a/3", b"a/4"]

    play(script)
