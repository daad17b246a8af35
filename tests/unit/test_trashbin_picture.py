"""What an hour of the trash looks like, to whom, and how much of it is read."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from cephfs_ext.core.errors import FSError
from cephfs_ext.core.types import Credentials, Ino
from tests.property.gateways import (
    OPERATOR,
    WHO,
    Parts,
    PosixGround,
    delete,
    delete_tree,
    hours_ago,
    make_dirs,
    make_files,
    names_below,
    parts,
)
from tests.property.scenarios import newest
from trashbin import hours, layout, picture, service
from trashbin.hours import Ref, Viewer
from trashbin.picture import Pictures, Place, Seen
from trashbin.put import Deleter

Script = Callable[[PosixGround], Awaitable[None]]
Play = Callable[[Script], None]

ME = Viewer(WHO.cred.uid)
SOMEBODY = Viewer(4711)
TOP = Place(b"", Ino(0))


def pictures(gateway: Parts) -> Pictures:
    return Pictures(gateway.domains, gateway.domains, gateway.journal, gateway.meter)


async def nothing(name: bytes) -> bool:
    return False


async def names(
    looked: Pictures, hour: bytes, place: Place = TOP, top: Ref | None = None, viewer: Viewer = ME
) -> dict[bytes, Seen]:
    return await looked.names(hour, b"", place, viewer, top, nothing)


def at_hours(*hours: float) -> Callable[[], int]:
    """Return a clock that says these times, in hours since the beginning of one, 1 ns apart."""
    start_ns = (hours_ago(0)() // 10**9 // 3600 - 30) * 3600 * 10**9
    times: Iterator[int] = iter(start_ns + int(hour * 3600e9) for hour in hours)
    return lambda: next(times)


class TestTrees:
    def test_one_that_went_over_the_hour_is_whole_in_the_hour_of_its_top(self, play: Play) -> None:
        """[view-2]: and what went before is seen in its own hour as well."""

        async def script(ground: PosixGround) -> None:
            clock = at_hours(0.999, 0.9995, 1.001, 1.002)
            async with parts(ground, "0001", clock) as gateway:
                await make_dirs(gateway.storage, b"t", b"t/u")
                await make_files(gateway.storage, b"t/1", b"t/u/2")
                for path in (b"t/1", b"t/u/2", b"t/u", b"t"):
                    await delete(gateway, path)
                looked = pictures(gateway)
                first, second = await looked.hours(b"", TOP, ME)
                assert set(await names(looked, second)) == {b"t"}
                seen = (await names(looked, second))[b"t"]
                assert seen.ref is not None
                assert set(await inside(gateway, looked, second, seen.ref)) == {b"1", b"u"}
                assert set(await names(looked, first, Place(b"t", Ino(0)))) == {b"1", b"u"}

        play(script)

    def test_older_deletes_of_the_same_second_are_numbered(self, play: Play) -> None:
        """[view-2]: by age, so that names stay as they are when something is added."""

        async def script(ground: PosixGround) -> None:
            second = 1 / 3600
            clock = at_hours(*(second + number * second / 10 for number in range(4)))
            async with parts(ground, "0001", clock) as gateway:
                looked, before = pictures(gateway), set[bytes]()
                for _ in range(4):
                    await make_files(gateway.storage, b"f")
                    await delete(gateway, b"f")
                    (hour,) = await looked.hours(b"", TOP, ME)
                    shown = set(await names(looked, hour))
                    assert before < shown
                    before = shown
                suffixes = (b"~%s0001%s" % (hour[-2:], number) for number in (b"", b".2", b".3"))
                assert before == {b"f", *(b"f" + suffix for suffix in suffixes)}

        play(script)


async def inside(gateway: Parts, looked: Pictures, hour: bytes, ref: Ref) -> dict[bytes, Seen]:
    """Return what was taken out of a deleted directory."""
    domain = await gateway.domain()
    found = await gateway.storage.lookup(domain.directories[ref.above], hour)
    entry = await gateway.storage.lookup(found.node, ref.raw)
    for node in (found.node, entry.node):
        gateway.storage.forget(node)
    return await names(looked, hour, Place(ref.entry.name, entry.attr.ino), ref)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list that grows by the name of each hour that is read."""
    names: list[bytes] = []
    real = picture.read_hour

    async def counted(domain: Any, name: bytes, *rest: Any, **limits: Any) -> Any:
        names.append(name)
        return await real(domain, name, *rest, **limits)

    monkeypatch.setattr(picture, "read_hour", counted)
    return names


class TestReading:
    def test_hour_is_read_once_until_something_is_deleted(
        self, play: Play, read: list[bytes]
    ) -> None:
        async def script(ground: PosixGround) -> None:
            async with parts(ground, "0001") as gateway:
                await make_files(gateway.storage, b"1", b"2")
                await delete(gateway, b"1")
                looked = pictures(gateway)
                (hour,) = await looked.hours(b"", TOP, ME)
                for _ in range(5):
                    assert set(await names(looked, hour)) == {b"1"}
                assert read == [hour]
                await delete(gateway, b"2")
                assert set(await names(looked, hour)) == {b"1", b"2"}
                assert read == [hour, hour]

        play(script)

    def test_other_hours_are_not_read(self, play: Play, read: list[bytes]) -> None:
        async def script(ground: PosixGround) -> None:
            for ago in range(5, 10):
                async with parts(ground, f"000{ago}", hours_ago(ago)) as gateway:
                    await make_files(gateway.storage, b"f%d" % ago)
                    await delete(gateway, b"f%d" % ago)
                    await gateway.journal.drain()
            async with parts(ground, "0001") as gateway:
                hour = layout.hour_name(hours_ago(7)())
                assert set(await names(pictures(gateway), hour)) == {b"f7"}
                assert read == [hour]

        play(script)

    def test_nothing_of_others_is_seen(self, play: Play) -> None:
        """[view-5]: neither an hour nor a name."""

        async def script(ground: PosixGround) -> None:
            async with parts(ground, "0001") as gateway:
                await make_dirs(gateway.storage, b"t")
                await make_files(gateway.storage, b"t/1")
                await delete_tree(gateway, b"t")
                looked = pictures(gateway)
                (hour,) = await looked.hours(b"", TOP, ME)
                assert await looked.hours(b"", TOP, SOMEBODY) == []
                assert await names(looked, hour, viewer=SOMEBODY) == {}
                assert set(await names(looked, hour, viewer=Viewer(0, everything=True))) == {b"t"}

        play(script)

    def test_owner_of_what_somebody_deleted_sees_it(self, play: Play) -> None:
        """[view-5]."""
        who = Deleter(Credentials(SOMEBODY.uid, SOMEBODY.uid), 1, "rm")

        async def script(ground: PosixGround) -> None:
            async with parts(ground, "0001") as gateway:
                await make_files(gateway.storage, b"1")
                await delete(gateway, b"1", who)
                looked = pictures(gateway)
                for viewer in (ME, SOMEBODY):
                    (hour,) = await looked.hours(b"", TOP, viewer)
                    assert set(await names(looked, hour, viewer=viewer)) == {b"1"}
                assert await looked.hours(b"", TOP, Viewer(4712)) == []

        play(script)


class TestLimits:
    """[view-8]."""

    @pytest.mark.parametrize("limit", ["VIEW_NAMES", "VIEW_LISTED"])
    def test_what_is_too_much_says_so(
        self, play: Play, monkeypatch: pytest.MonkeyPatch, limit: str
    ) -> None:
        monkeypatch.setattr(picture, limit, 3)

        async def script(ground: PosixGround) -> None:
            async with parts(ground, "0001") as gateway:
                looked = pictures(gateway)
                for number in range(4):
                    await make_files(gateway.storage, b"%d" % number)
                    await delete(gateway, b"%d" % number)
                (hour,) = await looked.hours(b"", TOP, ME)
                with pytest.raises(FSError) as refused:
                    await names(looked, hour)
                assert refused.value.errno == errno.EFBIG
                counted = gateway.meter.counts["view_limit_reached_total", (("kind", "names"),)]
                assert counted >= 1

        play(script)

    def test_tree_of_too_many_entries_is_not_put_together(
        self, play: Play, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service, "VIEW_RESTORED", 3)

        async def script(ground: PosixGround) -> None:
            async with parts(ground, "0001") as gateway:
                root = gateway.storage.root
                token = gateway.storage.token(root)
                for name, files in ((b"large", 3), (b"small", 2)):
                    await make_dirs(gateway.storage, name)
                    await make_files(gateway.storage, *(b"%s/%d" % (name, n) for n in range(files)))
                    await delete_tree(gateway, name)
                large, small = [
                    (await newest(gateway, name)).tree.top.entry.id for name in (b"large", b"small")
                ]
                with pytest.raises(FSError) as refused:
                    await gateway.service.restore_as(OPERATOR, large, root.ino, token, b"back")
                assert refused.value.errno == errno.EFBIG
                await gateway.service.restore_as(OPERATOR, small, root.ino, token, b"back")
                there = await names_below(gateway.storage, root)
                assert set(there) == {b"back", b"back/0", b"back/1"}

        play(script)

    def test_many_small_hours_take_turns(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(picture, "VIEW_NAMES", 3)

        async def script(ground: PosixGround) -> None:
            for ago in range(1, 6):
                async with parts(ground, f"000{ago}", hours_ago(ago)) as gateway:
                    await make_files(gateway.storage, b"a%d" % ago, b"b%d" % ago)
                    await delete(gateway, b"a%d" % ago)
                    await delete(gateway, b"b%d" % ago)
                    await gateway.journal.drain()
            async with parts(ground, "0009") as gateway:
                looked = pictures(gateway)
                listed = await looked.hours(b"", TOP, ME)
                assert [len(await names(looked, hour)) for hour in listed] == [2] * 5

        play(script)


class TestOwners:
    @pytest.mark.parametrize("few", [64, 1])
    def test_those_of_many_are_found_by_a_listing(
        self, play: Play, monkeypatch: pytest.MonkeyPatch, few: int
    ) -> None:
        """[view-5]: the same as those of few."""
        monkeypatch.setattr(hours, "_FEW_OWNERS", few)
        mine, theirs = (Deleter(Credentials(uid, uid), 1, "rm") for uid in (ME.uid, SOMEBODY.uid))

        async def script(ground: PosixGround) -> None:
            async with parts(ground, "0001") as gateway:
                for number in range(6):
                    name = b"%d" % number
                    await make_files(gateway.storage, name)
                    if number % 2:
                        os.chown(ground.directory / str(number), SOMEBODY.uid, 0)
                    await delete(gateway, name, mine if number < 4 else theirs)
                looked = pictures(gateway)
                (hour,) = await looked.hours(b"", TOP, ME)
                seen = {
                    viewer: set(await names(looked, hour, viewer=viewer))
                    for viewer in (ME, SOMEBODY, Viewer(4712))
                }
                assert seen[ME] == {b"0", b"1", b"2", b"3", b"4"}
                assert seen[SOMEBODY] == {b"1", b"3", b"4", b"5"}
                assert seen[Viewer(4712)] == set()

        play(script)
