"""What pressure decides: [pressure-1], [pressure-2], [pressure-4]."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable

import pytest
import trio

from cephfs_ext.core.types import Ino, StatFs, Weight
from tests.property.gateways import PosixGround, SilentMeter, parts
from trashbin import layout
from trashbin import pressure as module
from trashbin.domain import Domain
from trashbin.pressure import (
    Claimed,
    Pressure,
    Watermarks,
    _write_note,
    guaranteed_s,
    rate,
    shortage,
    to_claim,
    unseen,
)
from trashbin.space import (
    NOTHING,
    Capacity,
    HourWeight,
    Room,
    _files_of,
    _size_of,
    minus,
)

_NOW_S = 1_795_500_000 // 3600 * 3600 + 1800
"""Half past an hour."""
_DAY_S = 86400.0
_MIB = 1 << 20
_NO_LIMIT = Room(0, 0)
_MARKS = Watermarks(0.85, 0.8, _DAY_S)


def hour(ago: int, size: int, files: int = 1, above: bytes = b"r0.00") -> HourWeight:
    """Return an hour that began so many hours before the present one."""
    name = layout.hour_name((_NOW_S - ago * 3600) * 10**9)
    return HourWeight(above, name, Weight(size, files))


def capacity(used: int, total: int, *, files: Room = _NO_LIMIT) -> Capacity:
    return Capacity(Room(used, total), files, is_quota=True)


class TestShortage:
    def test_is_what_lies_above_the_mark(self) -> None:
        assert shortage(capacity(900, 1000), 0.8) == Weight(100, 0)
        assert shortage(capacity(800, 1000), 0.8) == Weight(0, 0)

    def test_of_files(self) -> None:
        full = capacity(1, 1000, files=Room(95, 100))
        assert (shortage(full, 0.8), full.share) == (Weight(0, 15), 0.95)

    def test_nothing_is_short_where_there_is_no_limit(self) -> None:
        assert shortage(capacity(10**15, 0), 0.8) == Weight(0, 0)


class TestWhatIsUnderWay:
    def claimed(self) -> Claimed:
        return Claimed(_NOW_S, size=100, files=10, used_size=900, used_files=90)

    @pytest.mark.parametrize(("used", "left"), [(900, 100), (850, 50), (800, 0), (700, 0)])
    def test_counts_as_free_until_it_shows(self, used: int, left: int) -> None:
        assert unseen(self.claimed(), capacity(used, 1000)).size == left

    def test_what_users_write_meanwhile_is_no_reason_to_claim_more(self) -> None:
        """The figures can't tell it from what doesn't show yet."""
        now = capacity(950, 1000)
        assert minus(shortage(now, 0.8), unseen(self.claimed(), now)).size == 50


class TestChoice:
    def chosen(self, hours: list[HourWeight], need: Weight, guarantee_s: float = 0) -> list[int]:
        some = to_claim(hours, need, now_s=_NOW_S, guaranteed_s=guarantee_s)
        return [one.weight.size for one in some]

    def test_first_ones_first_and_no_more_than_needed(self) -> None:
        hours = [hour(50, 10), hour(40, 20), hour(30, 40)]
        assert self.chosen(hours, Weight(10, 0)) == [10]
        assert self.chosen(hours, Weight(11, 0)) == [10, 20]
        assert self.chosen(hours, Weight(31, 0)) == [10, 20, 40]
        assert self.chosen(hours, Weight(0, 0)) == []

    def test_all_that_there_is_if_it_is_not_enough(self) -> None:
        assert self.chosen([hour(50, 10), hour(40, 20)], Weight(1000, 0)) == [10, 20]

    def test_files_count_as_bytes_do(self) -> None:
        hours = [hour(50, 10, files=1), hour(40, 0, files=5), hour(30, 7, files=5)]
        assert self.chosen(hours, Weight(0, 6)) == [10, 0]

    def test_an_hour_goes_with_all_its_shards(self) -> None:
        hours = [hour(50, 10), hour(50, 11, above=b"r0.01"), hour(50, 0, above=b"tombs")]
        assert self.chosen([*hours, hour(40, 5)], Weight(1, 0)) == [10, 11, 0]

    def test_of_other_domains_only_what_is_needed(self) -> None:
        other = hour(50, 11)._replace(root=Ino(7))
        assert self.chosen([hour(50, 10), other], Weight(1, 0)) == [10]

    def test_nothing_that_is_guaranteed_goes(self) -> None:
        hours = [hour(50, 10), hour(25, 20), hour(24, 30), hour(1, 40), hour(0, 50)]
        assert self.chosen(hours, Weight(1000, 0), _DAY_S) == [10, 20]

    def test_nor_an_hour_that_may_not_be_over_elsewhere(self) -> None:
        assert self.chosen([hour(1, 10), hour(0, 20)], Weight(1000, 0)) == [10]
        assert to_claim([hour(1, 10)], Weight(9, 0), now_s=_NOW_S - 1800, guaranteed_s=0) == []


class TestRate:
    def test_is_not_known_before_an_hour_is_over(self) -> None:
        assert rate([], now_s=_NOW_S) is None
        assert rate([hour(0, 100)], now_s=_NOW_S) is None

    def test_is_that_of_the_hours_there_are(self) -> None:
        assert rate([hour(3, 600), hour(1, 300), hour(0, 9999)], now_s=_NOW_S) == Weight(300, 0)

    def test_is_that_of_the_last_day(self) -> None:
        hours = [hour(500, 10**9), hour(25, 10**9), hour(24, 2400), hour(1, 2400)]
        assert rate(hours, now_s=_NOW_S) == Weight(200, 0)


class TestPrediction:
    def days(self, used: int, trash: int, hourly: int, marks: Watermarks = _MARKS) -> float:
        room = capacity(used, 1000 * _MIB)
        each = Weight(hourly, 0)
        return guaranteed_s(room, Weight(trash, 0), each, marks, 30 * _DAY_S) / _DAY_S

    def test_is_how_long_the_room_for_trash_lasts(self) -> None:
        """Of 1000 MiB 850 may be used, 370 are no trash, and 2 are deleted in an hour."""
        assert self.days(400 * _MIB, 30 * _MIB, 2 * _MIB) == 10

    def test_retention_is_the_most(self) -> None:
        assert self.days(400 * _MIB, 30 * _MIB, 1) == 30
        assert self.days(400 * _MIB, 30 * _MIB, 0) == 30

    def test_what_pressure_leaves_is_the_least(self) -> None:
        assert self.days(999 * _MIB, 0, 2 * _MIB) == 1

    def test_without_pressure_only_retention_counts(self) -> None:
        assert self.days(999 * _MIB, 0, 2 * _MIB, Watermarks(0, 0, 0)) == 30

    def test_files_may_be_what_is_scarce(self) -> None:
        room = capacity(0, 10**12, files=Room(100, 1000))
        lasts_s = guaranteed_s(room, Weight(0, 0), Weight(1, 10), _MARKS, 30 * _DAY_S)
        assert math.isclose(lasts_s / 3600, 75)


class TestFigures:
    def stats(self, **changes: int) -> StatFs:
        fields = {
            "bsize": 4096, "frsize": 4096, "blocks": 100, "bfree": 40, "bavail": 20,
            "files": 1000, "ffree": 600, "favail": 600, "namemax": 255,
        }  # fmt: skip
        return StatFs(**(fields | changes))

    def test_what_is_kept_for_root_is_no_room(self) -> None:
        assert _size_of(self.stats()) == Room(60 * 4096, 80 * 4096)

    def test_inodes(self) -> None:
        assert _files_of(self.stats()) == Room(400, 1000)

    @pytest.mark.parametrize(("files", "ffree"), [(0, 0), (5, 2**64 - 1), (7, 0)])
    def test_where_inodes_have_no_limit(self, files: int, ffree: int) -> None:
        """CephFS says how many there are and -1; others say nothing."""
        assert _files_of(self.stats(files=files, ffree=ffree, favail=ffree)) == _NO_LIMIT


class TestWhatStaysUsed:
    def play(
        self, ground: PosixGround, script: Callable[[Pressure, Domain], Awaitable[None]]
    ) -> None:
        async def main() -> None:
            async with parts(ground, "000a") as gateway:
                meter = SilentMeter()
                pressure = Pressure(
                    gateway.domains, gateway.expiry, meter, _MARKS, retention_s=7 * _DAY_S
                )
                await script(pressure, await gateway.domain())

        trio.run(main)

    def test_what_cannot_be_removed_is_not_about_to_come_free(
        self, ground: PosixGround, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """[pressure-3]: it is counted for some time, and again once it gets less."""

        async def script(pressure: Pressure, domain: Domain) -> None:
            purging = ground.directory / ".trashbin/purging"
            (purging / "stuck").write_bytes(bytes(8192))
            assert (await pressure._waiting(domain)).files == 1
            monkeypatch.setattr(module, "_STUCK_S", -1.0)
            assert await pressure._waiting(domain) == NOTHING
            monkeypatch.undo()
            (purging / "more").touch()
            assert (await pressure._waiting(domain)).files == 2

        self.play(ground, script)

    def test_no_claim_is_believed_for_ever(self, ground: PosixGround) -> None:
        """[pressure-3]: however much is being removed all the time."""

        async def script(pressure: Pressure, domain: Domain) -> None:
            now_s = time.time()
            for ago_s, size in ((60.0, 100), (2 * 3600.0, 0)):
                note = Claimed(now_s, 100, 1, 900, 9, claimed_s=now_s - ago_s)
                await _write_note(domain, note, is_quota=True)
                left = await pressure._unseen(domain, capacity(900, 1000), 60.0, is_removing=True)
                assert left.size == size

        self.play(ground, script)
