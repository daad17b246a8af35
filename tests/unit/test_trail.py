"""Who deleted what and what has become of it, found out from journals of any length."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from cephfs_ext.core.types import Credentials
from tests.property.gateways import (
    OPERATOR,
    SOMEBODY_ELSE,
    WHO,
    Parts,
    PosixGround,
    delete,
    delete_tree,
    hours_ago,
    make_dirs,
    make_files,
    make_link,
    parts,
    replace,
)
from tests.property.scenarios import EXPIRED_H
from trashbin import layout
from trashbin.audit import Bypass, Deleter, Was
from trashbin.fates import Became
from trashbin.journal import Record, append, journals_of
from trashbin.layout import JournalName
from trashbin.questions import Question
from trashbin.service import Caller, Conflict
from trashbin.trail import Answer, Trail

Script = Callable[[Parts], Awaitable[None]]
Play = Callable[..., None]

ANN, BOB = Credentials(1000, 1000), Credentials(1001, 1001)
LONG = b"n" * 250


@pytest.fixture
def play(ground: PosixGround) -> Play:
    """Run a script over a gateway whose clock may be late, then end it."""

    def played(script: Script, *, late_h: float = 0) -> None:
        async def main() -> None:
            async with parts(ground, "000a", hours_ago(late_h)) as gateway:
                await gateway.domain()
                await script(gateway)
                gateway.domains.close()
                assert gateway.storage.open_nodes == 0, "a reference was not given back"

        trio.run(main)

    return played


def trail(gateway: Parts) -> Trail:
    return Trail(gateway.domains, gateway.journal, gateway.expiry)


async def ask(gateway: Parts, path: bytes = b"", caller: Caller = OPERATOR, **more: Any) -> Answer:
    return await trail(gateway).ask(caller, Question(path=path, **more))


async def became(gateway: Parts, path: bytes = b"") -> dict[bytes, str]:
    """Return what has become of what was deleted at and below a path."""
    deeds = (await ask(gateway, path)).deeds
    assert len({deed.path for deed in deeds}) == len(deeds)
    return {deed.path: deed.became.value for deed in deeds}


async def paths(gateway: Parts, path: bytes = b"", **more: Any) -> list[bytes]:
    return [deed.path for deed in (await ask(gateway, path, **more)).deeds]


async def restore(gateway: Parts, path: bytes) -> None:
    contents = await gateway.service.contents(OPERATOR)
    (listed,) = (one for one in contents.trees if one.path == path)
    (answer,) = await gateway.service.restore(
        OPERATOR, [("", listed)], to=None, on_conflict=Conflict.FAIL, dry_run=False
    )
    assert answer.outcome.value == "restored", answer


async def purge(gateway: Parts, path: bytes, caller: Caller = OPERATOR) -> None:
    contents = await gateway.service.contents(OPERATOR)
    trees = [one for one in contents.trees if one.path == path]
    await gateway.service.purge(caller, trees)


class TestWhatBecame:
    @pytest.mark.parametrize("drained", [False, True], ids=["in memory", "on disk"])
    def test_of_each_kind(self, play: Play, drained: bool) -> None:
        """[audit-3]: by whom and when, of a tree and all that was in it."""

        async def script(gateway: Parts) -> None:
            await make_dirs(gateway.storage, b"back", b"back/d", b"gone", b"stays")
            await make_files(gateway.storage, b"back/d/a", b"back/b", b"gone/c", b"stays/e")
            for tree in (b"back", b"gone", b"stays"):
                await delete_tree(gateway, tree)
            await restore(gateway, b"back")
            await purge(gateway, b"gone", Caller(BOB, everything=True))
            if drained:
                await gateway.journal.drain()
                assert gateway.journal.unwritten(gateway.storage.root.ino) == []
            assert await became(gateway) == {
                b"back": "restored",
                b"back/d": "restored",
                b"back/d/a": "restored",
                b"back/b": "restored",
                b"gone": "purged",
                b"gone/c": "purged",
                b"stays": "in_trash",
                b"stays/e": "in_trash",
            }
            (deed,) = (await ask(gateway, b"gone/c")).deeds
            assert deed.fate is not None
            assert (deed.fate.uid, deed.fate.host) == (BOB.uid, "a-host")
            assert deed.fate.at_ns > int(deed.record.id[:16], 16)
            (deed,) = (await ask(gateway, b"back/d/a")).deeds
            assert deed.fate is not None
            assert deed.fate.to == b"back"

        play(script)

    def test_after_it_has_expired(self, play: Play) -> None:
        """[audit-3]."""

        async def script(gateway: Parts) -> None:
            await make_dirs(gateway.storage, b"d")
            await make_files(gateway.storage, b"d/a", b"b")
            await delete_tree(gateway, b"d")
            await delete(gateway, b"b")
            await purge(gateway, b"b")
            await gateway.expiry.once()
            await gateway.journal.drain()
            assert await became(gateway) == {b"d/a": "expired", b"d": "expired", b"b": "purged"}
            deed = (await ask(gateway, b"d/a")).deeds[0]
            assert deed.fate is not None
            assert deed.fate.hour.encode() == layout.hour_name(int(deed.record.id[:16], 16))

        play(script, late_h=EXPIRED_H)

    def test_what_is_in_neither_is_not_guessed(self, play: Play, ground: PosixGround) -> None:
        """[audit-3]: somebody has taken it out of the trash by hand."""

        def take_out() -> None:
            (entry,) = ground.directory.glob(".trashbin/r*/*/*.a")
            entry.unlink()

        async def script(gateway: Parts) -> None:
            await make_files(gateway.storage, b"a")
            await delete(gateway, b"a")
            take_out()
            assert await became(gateway) == {b"a": "unknown"}

        play(script)

    def test_names_of_all_kinds_are_found_in_the_trash(self, play: Play) -> None:
        """[audit-3]: long ones, tombstones of links and of directories, what was replaced."""

        async def script(gateway: Parts) -> None:
            await make_dirs(gateway.storage, b"empty", b"other")
            await make_files(gateway.storage, LONG, b"one", b"old", b"new")
            await make_link(gateway.storage, b"one", b"two")
            await delete(gateway, LONG)
            await delete(gateway, b"two")
            await replace(gateway, b"new", b"old")
            await replace(gateway, b"other", b"empty")
            assert await became(gateway) == dict.fromkeys(
                (LONG, b"two", b"old", b"empty"), "in_trash"
            )

        play(script)

    def test_what_was_deleted_again_is_in_the_trash(self, play: Play) -> None:
        """[audit-3]: each delete has its own fate."""

        async def script(gateway: Parts) -> None:
            await make_files(gateway.storage, b"a")
            await delete(gateway, b"a")
            await restore(gateway, b"a")
            await delete(gateway, b"a")
            deeds = (await ask(gateway, b"a")).deeds
            assert [deed.became for deed in deeds] == [Became.IN_TRASH, Became.RESTORED]

        play(script)

    def test_what_was_not_kept_says_why(self, play: Play) -> None:
        """[audit-2]."""

        async def script(gateway: Parts) -> None:
            attr = await gateway.storage.getattr(gateway.storage.root)
            was = Was(b"d/a.tmp", layout.Ino(0), b"", attr, "file")
            gateway.audit.bypassed(was, Deleter(ANN, 5, "rm"), Bypass("policy", "temporary"))
            await gateway.journal.drain()
            (deed,) = (await ask(gateway, b"d")).deeds
            assert deed.became is Became.NOT_KEPT
            assert (deed.record.why, deed.record.rule) == ("policy", "temporary")

        play(script)


class TestQuestions:
    def test_path_means_it_and_what_was_below_and_trees_around(self, play: Play) -> None:
        """[audit-1]."""

        async def script(gateway: Parts) -> None:
            domain = await gateway.domain()
            for number, (path, kind) in enumerate(
                [
                    (b"a", "tree"),
                    (b"a/b", "dir"),
                    (b"a/b/c", "file"),
                    (b"a/b/c/d", "file"),
                    (b"a/b/cc", "file"),
                    (b"x/a/b/c", "file"),
                    (b"a/b", "tree"),
                ]
            ):
                await write(gateway, [a_record(number, path, kind=kind)])
            assert domain.root.ino == gateway.storage.root.ino
            found = (await ask(gateway, b"a/b/c")).deeds
            assert [(deed.path, deed.record.kind) for deed in found] == [
                (b"a/b", "tree"),
                (b"a/b/c/d", "file"),
                (b"a/b/c", "file"),
                (b"a", "tree"),
            ]

        play(script)

    @pytest.mark.parametrize(
        "name", [b"caf\xc3\xa9", b"caf\xe9", b'quo"te\\', b"new\nline", b"\xff\xfe", b"?", b"\x01"]
    )
    def test_names_are_compared_exactly(self, play: Play, name: bytes) -> None:
        """[audit-1]."""

        async def script(gateway: Parts) -> None:
            others = [b"caf?", b"caf\xe8", b"??", b"\xfe\xff", name + b"x"]
            records = [a_record(n, path) for n, path in enumerate([name, name + b"/f", *others])]
            await write(gateway, records)
            assert await paths(gateway, name) == [name + b"/f", name]

        play(script)

    def test_filters(self, play: Play) -> None:
        """[audit-1]."""

        async def script(gateway: Parts) -> None:
            records = [
                a_record(0, b"a", uid=1000, event="e1"),
                a_record(1, b"b", uid=10, event="e1"),
                a_record(2, b"c", uid=1000, event="e2"),
            ]
            await write(gateway, records)
            assert await paths(gateway) == [b"c", b"b", b"a"]
            assert await paths(gateway, uid=1000) == [b"c", b"a"]
            assert await paths(gateway, event="e1") == [b"b", b"a"]
            assert await paths(gateway, uid=1000, event="e1") == [b"a"]
            assert await paths(gateway, since_ns=ns_of(records[1])) == [b"c", b"b"]

        play(script)

    @pytest.mark.parametrize("on_disk", [False, True], ids=["in memory", "on disk"])
    def test_users_are_told_of_what_they_deleted_or_owned(self, play: Play, on_disk: bool) -> None:
        """[audit-4]."""

        async def script(gateway: Parts) -> None:
            records = [
                a_record(0, b"mine", uid=ANN.uid, owner=ANN.uid),
                a_record(1, b"by-me", uid=ANN.uid, owner=0),
                a_record(2, b"of-mine", uid=0, owner=ANN.uid),
                a_record(3, b"foreign", uid=BOB.uid, owner=0),
                a_record(4, b"of-before", uid=0, owner=None),
            ]
            if on_disk:
                await write(gateway, records)
            else:
                remember(gateway, records)
            ann, bob, root = (
                Caller(cred, everything=False) for cred in (ANN, BOB, Credentials(0, 0))
            )
            assert await paths(gateway, caller=ann) == [b"of-mine", b"by-me", b"mine"]
            assert await paths(gateway, caller=bob) == [b"foreign"]
            assert await paths(gateway, b"of-mine", caller=bob) == []
            assert await paths(gateway, caller=root) == [
                b"of-before", b"foreign", b"of-mine", b"by-me"
            ]  # fmt: skip
            assert len(await paths(gateway)) == 5

        play(script)

    def test_torn_and_foreign_lines_are_passed_over(self, play: Play) -> None:
        """[audit-1]."""

        async def script(gateway: Parts) -> None:
            await write(gateway, [a_record(0, b"a")])
            torn = a_record(1, b"torn").line()[:-30]
            await append(await gateway.domain(), HOUR, "000a", torn)
            await append(
                await gateway.domain(), HOUR, "000a", b'\n{"what":3}\n{"id":"path"}\nnonsense\n\n'
            )
            await write(gateway, [a_record(2, b"b")])
            assert await paths(gateway) == [b"b", b"a"]

        play(script)


class TestLimit:
    def test_newest_are_told_across_hours_and_gateways(self, play: Play) -> None:
        """[audit-1]: no more are kept in memory, and hours that can't matter aren't read."""

        async def script(gateway: Parts) -> None:
            hour_ns = layout.HOUR_S * 1_000_000_000
            for hour in range(4):
                for instance in ("000a", "000b"):
                    await write(
                        gateway,
                        [
                            a_record(hour * hour_ns + n * 2 + (instance == "000b"), b"%d" % n,
                                     instance=instance)
                            for n in range(50)
                        ],
                    )  # fmt: skip
            everything = (await ask(gateway)).deeds
            assert len(everything) == 400
            for limit in (1, 99, 100, 101, 399, 400):
                answer = await ask(gateway, limit=limit)
                expected = [deed.record.id for deed in everything[:limit]]
                assert [deed.record.id for deed in answer.deeds] == expected
                assert answer.more == (limit < 400)

        play(script)

    def test_what_is_not_on_disk_yet_counts(self, play: Play) -> None:
        async def script(gateway: Parts) -> None:
            await make_files(gateway.storage, b"a", b"b", b"c")
            await delete(gateway, b"a")
            await gateway.journal.drain()
            await delete(gateway, b"b")
            await delete(gateway, b"c", SOMEBODY_ELSE)
            answer = await ask(gateway, limit=2)
            assert [deed.path for deed in answer.deeds] == [b"c", b"b"]
            assert answer.more
            assert not (await ask(gateway, limit=3)).more

        play(script)

    def test_hundred_thousand_lines_of_others_cost_no_memory(self, play: Play) -> None:
        """[audit-1]."""

        async def script(gateway: Parts) -> None:
            domain = await gateway.domain()
            for start in range(0, 100_000, 10_000):
                lines = (a_record(n, b"x/%d" % n).line() for n in range(start, start + 10_000))
                await append(domain, HOUR, "000a", b"".join(lines))
            await write(gateway, [a_record(100_001, b"y/f")])
            answer = await ask(gateway, b"y")
            assert [deed.path for deed in answer.deeds] == [b"y/f"]
            answer = await ask(gateway, limit=3)
            assert [deed.path for deed in answer.deeds] == [b"y/f", b"x/99999", b"x/99998"]

        play(script)


class TestEvents:
    def test_are_counted_across_hours_and_what_is_not_on_disk(self, play: Play) -> None:
        """[audit-7]: who, from when to when, how many, how much."""

        async def script(gateway: Parts) -> None:
            await make_dirs(gateway.storage, b"d")
            await make_files(gateway.storage, b"d/a", b"d/bb", b"c")
            await delete_tree(gateway, b"d")
            await gateway.journal.drain()
            attr = await gateway.storage.getattr(gateway.storage.root)
            was = Was(b"d/x.tmp", layout.Ino(0), b"", attr, "file")
            gateway.audit.bypassed(was, WHO, Bypass("policy", "temporary"))
            await delete(gateway, b"c", SOMEBODY_ELSE)
            found = await trail(gateway).events(OPERATOR, Question())
            assert not found.more
            theirs, mine = found.events
            assert (mine.names, mine.size, mine.not_kept) == (4, len("d/ad/bb"), 1)
            assert (mine.path, mine.newest.pid) == (b"d/x.tmp", WHO.pid)
            assert mine.first_ns < mine.last_ns < theirs.first_ns == theirs.last_ns
            assert (theirs.names, theirs.path) == (1, b"c")
            (part,) = (await trail(gateway).events(OPERATOR, Question(path=b"d/a"))).events
            assert (part.names, part.newest.event) == (1, mine.newest.event)

        play(script)

    def test_newest_are_whole_whatever_the_limit(self, play: Play) -> None:
        """[audit-7]: some go on for hours, among many others."""
        hour_ns = layout.HOUR_S * 1_000_000_000

        def records(instance: str) -> Iterator[Record]:
            for n in range(600):
                after_ns = n * hour_ns // 200 + (instance == "000b")
                began_ns = 2 if n % 3 == 0 else after_ns + 1
                event = f"{START_NS + began_ns:016x}.{instance}"
                yield a_record(after_ns, b"%d" % n, instance=instance, event=event, size=1)

        async def script(gateway: Parts) -> None:
            for instance in ("000a", "000b"):
                for record in records(instance):
                    await write(gateway, [record])
            everything = (await trail(gateway).events(OPERATOR, Question())).events
            assert [event.names for event in everything[:6]] == [1, 1, 1, 1, 200, 200]
            assert len(everything) == 2 * (400 + 1)
            for limit in (1, 5, 6, 400, 801, 802):
                found = await trail(gateway).events(OPERATOR, Question(limit=limit))
                assert found.events == everything[:limit]
                assert found.more == (limit < 802)

        play(script)

    def test_what_is_being_written_is_counted_once(self, play: Play) -> None:
        """[audit-7]: it is in memory until it is on disk for sure."""

        async def script(gateway: Parts) -> None:
            records = [a_record(n, b"x", event=f"{START_NS:016x}.000a") for n in range(3)]
            remember(gateway, records)
            await write(gateway, records)
            (event,) = (await trail(gateway).events(OPERATOR, Question())).events
            assert event.names == 3
            assert len((await ask(gateway)).deeds) == 3

        play(script)

    def test_users_count_what_they_may_know_of(self, play: Play) -> None:
        """[audit-4], [audit-7]."""

        async def script(gateway: Parts) -> None:
            event = f"{START_NS:016x}.000a"
            owners = [ANN.uid, BOB.uid, BOB.uid]
            records = [a_record(n, b"x", owner=uid, event=event) for n, uid in enumerate(owners)]
            await write(gateway, [*records, a_record(9, b"before events")])
            for cred, names in ((ANN, 1), (BOB, 2)):
                found = await trail(gateway).events(Caller(cred, everything=False), Question())
                assert [one.names for one in found.events] == [names]

        play(script)


START_NS = 1_795_572_749_000_000_000
HOUR = layout.hour_name(START_NS)


def a_record(
    after_ns: int, path: bytes, *, kind: str = "file", instance: str = "000a", **more: Any
) -> Record:
    """Return a delete that was some time after the beginning."""
    entry_id = f"{START_NS + after_ns:016x}.{instance}"
    record = Record(entry_id, path, 0, 0, 1, "rm", kind, 7, b"", 5, owner=0, host="a-host")
    return dataclasses.replace(record, **more)


def ns_of(record: Record) -> int:
    return int(record.id[:16], 16)


def remember(gateway: Parts, records: list[Record]) -> None:
    """Have the journal take records, and write none."""
    for record in records:
        gateway.journal.record(gateway.storage.root.ino, ns_of(record), record)


async def write(gateway: Parts, records: list[Record]) -> None:
    """Write records of one instance and hour, as its gateway would."""
    hour = layout.hour_name(ns_of(records[0]))
    instance = records[0].id.rpartition(".")[2]
    data = b"".join(record.line() for record in records)
    await append(await gateway.domain(), hour, instance, data)


def test_old_journals_are_kept_for_the_audit(play: Play, ground: PosixGround) -> None:
    """[audit-6]: as long after the data has expired as it is set."""

    async def script(gateway: Parts) -> None:
        domain = await gateway.domain()
        directory: Path = ground.directory / ".trashbin/journal"
        now_h = 24 * (7 + 90)
        for hours in (now_h - 2, now_h + 2):
            hour = layout.hour_name(hours_ago(hours)())
            await append(domain, hour, "0001", b"{}\n")
        await gateway.expiry.once()
        (left,) = await journals_of(domain)
        assert left == JournalName(layout.hour_name(hours_ago(now_h - 2)()), "0001")
        assert os.listdir(directory) == [os.fsdecode(left.raw)]

    play(script)
