"""Pressure: what is let go before its time, and what never is; how much of the space is trash."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cephfs_ext.core.errors import ExitCode
from tests.cluster.ceph import CephCluster
from tests.conftest import STORAGES
from tests.faults.storage import Back
from tests.gateway import Gateway, ceph_gateway, file_system
from tests.posix.actors import errno_of
from tests.waiting import wait_until

_MIB = 1 << 20
_ROOM = 40 * _MIB
_WAIT_S = 60.0
_wait_until = functools.partial(wait_until, within_s=_WAIT_S)
_ROUNDS = 4
_EACH = 4 * _MIB
_HOURS = [f"2026-01-01T0{number}" for number in range(6)]
_OPTIONS = (
    "trash.expire_interval_s=1,trash.retention_s=3650d,trash.guaranteed_s=1h,"
    "trash.high_watermark=0.85,trash.low_watermark=0.75"
)


class Site(NamedTuple):
    gateway: Gateway
    back: Back
    other: Gateway
    """A second one over the same storage."""


@contextlib.contextmanager
def _disk(base: Path, options: str) -> Iterator[Gateway]:
    """Return a gateway over a directory of a small disk."""
    (base / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", base / "disk"], check=True)
    try:
        (base / "disk/source").mkdir()
        yield Gateway(f"posix:{base / 'disk/source'}", base / "mnt", base / "run")
    finally:
        subprocess.run(["umount", base / "disk"], check=True)


@contextlib.contextmanager
def _quota(cluster: CephCluster, base: Path) -> Iterator[Gateway]:
    """Return a gateway over a directory of the cluster that has a quota."""
    gateway = ceph_gateway(cluster, base)
    with file_system(cluster) as fs:
        path = gateway.source.partition(":")[2]
        fs.setxattr(path, "ceph.quota.max_bytes", b"%d" % _ROOM, 0)
    yield gateway


@pytest.fixture(params=STORAGES)
def small(request: pytest.FixtureRequest, base: Path) -> Iterator[Site]:
    """Return a gateway with little room, set up and not mounted, on each storage."""
    cluster: CephCluster | None = None
    with contextlib.ExitStack() as stack:
        if request.param == "ceph":
            cluster = request.getfixturevalue("cluster")
            gateway = stack.enter_context(_quota(cluster, base))
        else:
            gateway = stack.enter_context(_disk(base, f"size={_ROOM}"))
        with gateway.mounted():
            gateway.umount()
        back = stack.enter_context(Back.of(gateway.source, cluster))
        conf = None if cluster is None else cluster.conf
        beside = gateway.path.with_name("other")
        yield Site(gateway, back, Gateway(gateway.source, beside, gateway.runtime, conf=conf))


def _entry(number: int) -> str:
    return f"1886747fb8b4{number:04x}.0001.0.1.old"


def _fill(site: Site, hours: list[str]) -> None:
    """Lay a file into each hour, and one beside the trash: nine tenths are used."""
    for number, hour in enumerate(hours):
        site.back.put(hour, _entry(number), _EACH)
    with site.gateway.mounted("-o", "trash.retention_s=3650d,trash.high_watermark=0"):
        rest = 36 * _MIB - len(hours) * _EACH
        (site.gateway.path / "live").write_bytes(bytes(rest))


def _left(site: Site) -> list[str]:
    return sorted(name for name in site.back.names("r0.00") if name != "fresh")


def _wait_for_rounds(gateway: Gateway) -> None:
    """Wait until pressure has had some looks."""
    for _ in range(_ROUNDS):
        before = _last_round(gateway)
        _wait_until(lambda before=before: _last_round(gateway) > before)  # type: ignore[misc]


def _last_round(gateway: Gateway) -> float:
    return gateway.metric('background_last_success_timestamp_seconds{loop="pressure"}')


def _space(gateway: Gateway) -> dict[str, Any]:
    """Return what status says of the space, once it is known."""
    _wait_until(lambda: gateway.json("status", str(gateway.path))["trash"] is not None)
    space: dict[str, Any] = gateway.json("status", str(gateway.path))["trash"]
    return space


class TestPressure:
    def test_oldest_go_first_and_no_more_than_needed(self, small: Site) -> None:
        """[pressure-1], [pressure-3]: 36 of 40 MiB are used; two hours of 4 bring it to 28."""
        _fill(small, _HOURS)
        with small.gateway.mounted("-o", _OPTIONS) as gateway:
            _wait_until(lambda: _left(small) != _HOURS, lambda: gateway.log)
            _wait_until(lambda: not small.back.names("purging"))
            _wait_for_rounds(gateway)
            assert _left(small) == _HOURS[2:]
            assert gateway.metric("trash_pressure_hours_total") == 2
            assert gateway.metric("trash_pressure_helpless") == 0
            assert (gateway.path / "live").stat().st_size == 12 * _MIB

    def test_what_is_guaranteed_stays(self, small: Site) -> None:
        """[pressure-2]: and the log says that nothing helps."""
        _fill(small, _HOURS)
        with small.gateway.mounted("-o", f"{_OPTIONS},trash.guaranteed_s=3650d") as gateway:
            _wait_until(lambda: gateway.metric("trash_pressure_helpless") == 1)
            _wait_for_rounds(gateway)
            assert _left(small) == _HOURS
            assert "isn't enough" in gateway.log
            assert _space(gateway)["is_helpless"] is True
            assert "nothing more may be let go" in gateway.run("status", str(gateway.path)).stdout

    def test_it_can_be_turned_off(self, small: Site) -> None:
        """[pressure-1]"""
        _fill(small, _HOURS)
        with small.gateway.mounted("-o", f"{_OPTIONS},trash.high_watermark=0") as gateway:
            _wait_for_rounds(gateway)
            assert _left(small) == _HOURS

    def test_two_gateways_release_no_more_than_one(self, small: Site) -> None:
        """[pressure-3]"""
        _fill(small, _HOURS)
        first, second = small.gateway, small.other
        with first.mounted("-o", _OPTIONS), second.mounted("-o", _OPTIONS):
            _wait_until(lambda: _left(small) != _HOURS, lambda: first.log)
            for gateway in (first, second):
                _wait_for_rounds(gateway)
            assert _left(small) == _HOURS[2:]


def test_directory_with_a_quota_is_judged_by_that(cluster: CephCluster, base: Path) -> None:
    """[pressure-1]: it has a trash of its own, and the rest of the tree isn't touched."""
    gateway = ceph_gateway(cluster, base)
    nested = Back.of(f"{gateway.source}/home", cluster)
    with Back.of(gateway.source, cluster) as around, nested as inside:
        with gateway.mounted():
            for name in ("home/file", "file"):
                (gateway.path / name).parent.mkdir(exist_ok=True)
                if name == "home/file":
                    os.setxattr(gateway.path / "home", "ceph.quota.max_bytes", b"%d" % _ROOM)
                (gateway.path / name).touch()
                (gateway.path / name).unlink()
        for back in (around, inside):
            for number, hour in enumerate(_HOURS):
                back.put(hour, _entry(number), _EACH)
            before = set(back.names("r0.00"))
            assert before >= set(_HOURS)
        with gateway.mounted("-o", f"{_OPTIONS},trash.high_watermark=0.5,low_watermark=0.45"):
            _wait_until(lambda: _HOURS[0] not in inside.names("r0.00"), lambda: gateway.log)
            _wait_for_rounds(gateway)
            left = set(inside.names("r0.00")) & set(_HOURS)
            assert left == set(_HOURS[2:])
            assert set(around.names("r0.00")) >= set(_HOURS)


def _plant_in_domains(cluster: CephCluster, gateway: Gateway, quotas: dict[str, int]) -> None:
    """Set quotas and lay a file into each hour of each trash."""
    with gateway.mounted():
        for name, files in quotas.items():
            (gateway.path / name).mkdir(exist_ok=True)
            if files:
                os.setxattr(gateway.path / name, "ceph.quota.max_files", b"%d" % files)
            (gateway.path / name / "file").touch()
            (gateway.path / name / "file").unlink()
    for name in quotas:
        with Back.of(f"{gateway.source}/{name}", cluster) as back:
            for number, hour in enumerate(_HOURS):
                back.put(hour, _entry(number), 1)


def _left_below(cluster: CephCluster, gateway: Gateway, name: str) -> set[str]:
    with Back.of(f"{gateway.source}/{name}", cluster) as back:
        return set(back.names("r0.00")) & set(_HOURS)


def test_pool_is_relieved_of_what_lies_below_quotas(cluster: CephCluster, base: Path) -> None:
    """[pressure-1]: which have room enough themselves."""
    gateway = ceph_gateway(cluster, base)
    quotas = {"": 0, "home": 10**12}
    _plant_in_domains(cluster, gateway, quotas)
    with gateway.mounted("-o", f"{_OPTIONS},trash.high_watermark=0.0000001"):
        for name in quotas:
            _wait_until(
                lambda name=name: not _left_below(cluster, gateway, name),  # type: ignore[misc]
                lambda: gateway.log,
            )
        assert gateway.metric("trash_pressure_hours_total") >= 2 * len(_HOURS)


def test_quota_is_relieved_of_what_lies_below_quotas_in_it(
    cluster: CephCluster, base: Path
) -> None:
    """[pressure-1]: and nothing beside it is touched."""
    gateway = ceph_gateway(cluster, base)
    _plant_in_domains(cluster, gateway, {"outer": 80, "outer/inner": 10**12, "beside": 10**12})
    with gateway.mounted("-o", f"{_OPTIONS},trash.high_watermark=0.5,low_watermark=0.4"):
        _wait_until(lambda: not _left_below(cluster, gateway, "outer/inner"), lambda: gateway.log)
        _wait_for_rounds(gateway)
    assert _left_below(cluster, gateway, "beside") == set(_HOURS)


class TestShare:
    def test_status_and_metrics_say_how_much_is_trash(self, small: Site) -> None:
        """[space-1], [space-2]: df counts the trash as used."""
        _fill(small, _HOURS)
        with small.gateway.mounted("-o", "trash.expire_interval_s=1,trash.retention_s=3650d,"
                                         "trash.high_watermark=0") as gateway:  # fmt: skip

            def is_known() -> bool:
                space = _space(gateway)  # on ceph figures come late, each by itself
                used = 36 * _MIB <= space["used_bytes"] < 38 * _MIB
                return bool(used and 24 * _MIB <= space["size_bytes"] < 25 * _MIB)

            _wait_until(is_known, lambda: _space(gateway))
            space = _space(gateway)
            assert space["entries"] >= len(_HOURS)
            assert space["total_bytes"] == pytest.approx(_ROOM, rel=0.02)
            assert space["age_s"] < _WAIT_S
            assert 24 * _MIB <= gateway.metric("trash_bytes") < 25 * _MIB
            assert gateway.metric("storage_used_ratio") == pytest.approx(0.9, abs=0.03)
            stats = os.statvfs(gateway.path)
            used = (stats.f_blocks - stats.f_bfree) * stats.f_frsize
            assert used == pytest.approx(36 * _MIB, abs=4 * _MIB)
            assert "% of what is used" in gateway.run("status", str(gateway.path)).stdout

    def test_prediction_is_unknown_at_first(self, gateway: Gateway) -> None:
        """[pressure-4]"""
        _wait_until(lambda: _last_round(gateway) > 0)
        assert _space(gateway)["guaranteed_s"] is None
        assert gateway.metric("trash_guaranteed_seconds") == -1
        assert "not known before" in gateway.run("status", str(gateway.path)).stdout

    def test_prediction_is_by_what_was_deleted_in_an_hour(self, small: Site) -> None:
        """[pressure-4]: of 40 MiB 34 may be used, 12 are no trash, 4 went in the last hour."""
        last = time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() - 3600))
        _fill(small, [last])
        with small.gateway.mounted("-o", _OPTIONS) as gateway:
            space = _space(gateway)
            assert space["hourly_bytes"] >= _EACH // 2  # an hour may end meanwhile
            assert 3600 <= space["guaranteed_s"] <= 12 * 3600
            status = gateway.run("status", str(gateway.path)).stdout
            assert "days are guaranteed" in status


class TestFullDisk:
    @pytest.fixture
    def disk(self, base: Path) -> Iterator[Gateway]:
        with _disk(base, "nr_inodes=80") as gateway:
            yield gateway

    def fill(self, gateway: Gateway) -> None:
        """Plant, and take all inodes: the trash can't even make an hour."""
        for name in ("file", "old", "new", "here"):
            (gateway.path / name).write_text(name)
        (gateway.path / "dir").mkdir()
        (gateway.path / "tree").mkdir()
        number = 0
        with contextlib.suppress(OSError):
            while True:
                (gateway.path / f"filler{number}").touch()
                number += 1
        assert number

    def deletes(self, gateway: Gateway) -> list[int]:
        top = gateway.path
        acts = (
            (top / "file").unlink,
            (top / "dir").rmdir,
            lambda: (top / "new").rename(top / "old"),
        )
        return [errno_of(act) for act in acts]

    def test_refuses_what_it_cannot_keep(self, disk: Gateway) -> None:
        """[full-1]"""
        with disk.mounted() as gateway:
            self.fill(gateway)
            assert self.deletes(gateway) == [errno.ENOSPC] * 3
            assert (gateway.path / "old").read_text() == "old"
            assert (gateway.path / "file").exists()
            assert (gateway.path / "dir").exists()

    def test_deletes_it_if_that_is_wanted(self, disk: Gateway) -> None:
        """[full-2]: but for a tree, which can't be removed in one step."""
        with disk.mounted("-o", "trash.when_full=delete") as gateway:
            self.fill(gateway)
            tree = gateway.path / "tree"
            refused = errno_of(lambda: tree.rename(gateway.path / ".trashbin/tree"))
            assert refused == errno.ENOSPC
            assert self.deletes(gateway) == [0, 0, 0]
            assert (gateway.path / "old").read_text() == "new"
            assert not (gateway.path / "file").exists()
            counted = gateway.metric('trash_bypasses_total{reason="full"}')
            kept = {item["path"] for item in gateway.trash()}
            assert counted + len(kept) == 3  # the first that goes leaves an inode for the hour
            assert counted >= 1
            told = gateway.json("audit", str(gateway.path))["items"]  # [audit-2]: from memory
            assert sum(item["why"] == "full" for item in told) == counted
            assert "what is deleted now is gone" in gateway.log


def test_setting_that_makes_no_sense_is_refused(unmounted: Gateway) -> None:
    done = unmounted.run("mount", unmounted.source, str(unmounted.path), "-o", "when_full=never")
    assert (done.returncode, "refuse, delete" in done.stderr) == (ExitCode.USAGE, True)
