"""A trash with very many entries of one hour: what it costs to delete, to list and to restore.

TRASH_ENTRIES says how many; `pytest -s` shows the figures.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.conftest import STORAGES
from tests.gateway import Gateway, ceph_gateway, posix_gateway
from tests.soak.filling import Filling, fill

ENTRIES = int(os.environ.get("TRASH_ENTRIES") or 1_000_000)
_FEW = 20_000
_DELETES = 200
_LOOK_LINES = 500
"""After so many lines the memory of the command is looked at: what wait4 says is that of pytest, of
which it was forked."""

_GROWTH_KIB = 200 * 1024


class Site:
    """Two gateways over one storage: the trash of one gets very full, that of the other doesn't."""

    def __init__(self, full: Gateway, empty: Gateway, cluster: CephCluster | None) -> None:
        self.full, self.empty, self.cluster = full, empty, cluster

    def fill(self, entries: int) -> None:
        """Fill the hour that now is."""
        top = self.full.path / "many"
        top.mkdir()
        source = self.full.source.partition(":")[2]
        start_ns = time.time_ns() - entries * 200_000
        hour_ns = time.time_ns() // 3_600_000_000_000 * 3_600_000_000_000
        ino = (self.full.path / "many").stat().st_ino
        if self.cluster is None:
            ino = os.stat(f"{source}/many").st_ino
        start_ns = max(start_ns, hour_ns)
        fill(self.cluster, Filling(f"{source}/.trashbin", start_ns, entries, ino, "many"))


@pytest.fixture(params=STORAGES)
def site(request: pytest.FixtureRequest, base: Path) -> Iterator[Site]:
    """Mount two gateways."""
    if request.param == "ceph":
        cluster = request.getfixturevalue("cluster")
        gateways = [ceph_gateway(cluster, base / name) for name in ("full", "empty")]
    else:
        cluster = None
        gateways = [posix_gateway(base / name) for name in ("full", "empty")]
    with gateways[0].mounted(), gateways[1].mounted():
        yield Site(gateways[0], gateways[1], cluster)


@pytest.mark.parametrize(
    "entries", [_FEW, pytest.param(ENTRIES, marks=pytest.mark.soak, id="many")]
)
def test_what_very_many_entries_cost(site: Site, entries: int) -> None:
    """[trash-17], and the answer to `trash ls --last` doesn't depend on them."""
    site.fill(entries)
    figures: dict[str, float] = {}
    steps = (
        lambda: _deletes(site),
        lambda: {"last_s": _last(site.full)},
        lambda: _listing(site.full, entries),
    )
    for step in steps:
        some = step()
        figures.update(some)
        print({name: round(figure, 4) for name, figure in some.items()}, flush=True)
    assert figures["daemon_kib"] < _GROWTH_KIB
    assert figures["cli_kib"] < _GROWTH_KIB
    if entries > _FEW:
        assert figures["last_s"] < 2
        assert figures["full_s"] < 1.5 * figures["empty_s"]
        assert figures["worst_s"] < 0.25


def _deletes(site: Site) -> dict[str, float]:
    """Delete in turns at an empty trash and at a full one; return seconds."""
    took: dict[str, list[float]] = {"empty": [], "full": []}
    for number in range(_DELETES):
        for kind, gateway in (("empty", site.empty), ("full", site.full)):
            path = gateway.path / f"x{number}"
            path.touch()
            begun = time.perf_counter()
            path.unlink()
            took[kind].append(time.perf_counter() - begun)
    return {
        "empty_s": statistics.median(took["empty"]),
        "full_s": statistics.median(took["full"]),
        "worst_s": max(took["full"]),
        "worst_empty_s": max(took["empty"]),
    }


def _last(gateway: Gateway) -> float:
    """Ask for what was deleted last; return seconds."""
    begun = time.monotonic()
    items = gateway.json("trash", "ls", "--last", str(gateway.path))["items"]
    took_s = time.monotonic() - begun
    assert [item["path"] for item in items] == [f"x{_DELETES - 1}"]
    return took_s


def _listing(gateway: Gateway, entries: int) -> dict[str, float]:
    """List everything; return seconds, and how much memory it needed, KiB."""
    pid = gateway.state.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    before_kib, begun = _memory_kib(pid), time.monotonic()
    command = gateway.command("trash", "ls", str(gateway.path))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as lister:
        assert lister.stdout is not None
        first = lister.stdout.readline()
        first_s, lines, peak_kib = time.monotonic() - begun, 1, 0
        for _ in lister.stdout:
            lines += 1
            if lines % _LOOK_LINES == 0:
                with contextlib.suppress(OSError, AssertionError):  # it has just ended
                    peak_kib = _memory_kib(lister.pid, "VmHWM")
    assert lister.returncode == 0
    assert first.endswith(b"x%d\n" % (_DELETES - 1))
    assert lines == entries + _DELETES
    return {
        "first_line_s": first_s,
        "listing_s": time.monotonic() - begun,
        "daemon_kib": _memory_kib(pid, "VmHWM") - before_kib,
        "cli_kib": peak_kib,
    }


def _memory_kib(pid: int, which: str = "VmRSS") -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(which + ":"):
            return int(line.split()[1])
    raise AssertionError(f"no {which}")
