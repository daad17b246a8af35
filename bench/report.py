"""The table for people and the document for programs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine, describe_versions
from bench.peers import GATEWAY, Peer
from bench.run import Result, Sample
from bench.workload import WORKLOADS

SCHEMA_VERSION = 1


def workload_table() -> Table:
    """List the workloads."""
    table = Table("workload", "what is measured", "per", "begins with")
    for workload in WORKLOADS.values():
        table.add_row(workload.name, workload.about, workload.unit, workload.cache.value)
    return table


def result_table(storage: str, peers: Sequence[str], results: Sequence[Result]) -> Table:
    """Compare the gateway with its peers; below 1 the gateway is the faster one."""
    others = [peer for peer in peers if peer != GATEWAY]
    table = Table(title=f"{storage}: gateway / peer, medians per unit")
    table.add_column("workload", no_wrap=True)
    table.add_column("per", no_wrap=True)
    for peer in peers:
        table.add_column(peer, justify="right", no_wrap=True)
    for peer in others:
        table.add_column(f"/ {peer}", justify="right", no_wrap=True)
        table.add_column("rounds", justify="right", no_wrap=True)
    for result in results:
        row = [result.workload.name, result.workload.unit]
        row += [_duration(result.median_s(peer)) for peer in peers]
        for peer in others:
            row += [_ratio(result.ratio(peer)), _spread(result.ratios(peer))]
        table.add_row(*row, style="red" if result.failure else None)
    return table


def cost_table(storage: str, results: Sequence[Result]) -> Table:
    """Show what one unit costs inside the gateway, and at the MDS for each peer."""
    table = Table(title=f"{storage}: requests per unit")
    for heading in ("workload", "peer", "FUSE", "in handlers", "MDS"):
        table.add_column(heading)
    for result in results:
        for peer, samples in result.samples.items():
            total: Counter[str] = Counter()
            for sample in samples:
                total.update(sample.counters)
            units = sum(sample.units for sample in samples)
            if total and units:
                table.add_row(result.workload.name, peer, *_costs(total, units))
    return table


def _costs(total: Counter[str], units: int) -> tuple[str, str, str]:
    seconds = sum(value for name, value in total.items() if name.startswith("fuse_seconds."))
    handlers = _duration(seconds / units) if seconds else ""
    return _requests(total, units, "fuse."), handlers, _requests(total, units, "mds.")


def _requests(total: Counter[str], units: int, prefix: str) -> str:
    parts = [
        f"{name.removeprefix(prefix)} {count / units:.2f}"
        for name, count in total.most_common()
        if name.startswith(prefix) and count / units >= 0.01
    ]
    return ", ".join(parts)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.2g}"


def _spread(ratios: Sequence[float]) -> str:
    return f"{_ratio(min(ratios))}-{_ratio(max(ratios))}" if ratios else "-"


def print_failures(console: Console, results: Sequence[Result]) -> None:
    """Say what went wrong, one line each."""
    for result in results:
        if result.failure:
            console.print(f"failed: {result.workload.name} on {result.storage}: {result.failure}")


def document(
    *,
    begun: str,
    rounds: int,
    size: str,
    uid: int,
    mounts: dict[str, list[Peer]],
    results: list[Result],
) -> dict[str, Any]:
    """Build what is written as JSON: everything, raw samples included."""
    return {
        "schema_version": SCHEMA_VERSION,
        "begun": begun,
        "rounds": rounds,
        "size": size,
        "uid": uid,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "options": {
            storage: {peer.name: peer.options for peer in peers}
            for storage, peers in mounts.items()
        },
        "results": [_result(result) for result in results],
    }


def _result(result: Result) -> dict[str, Any]:
    workload = result.workload
    others = [peer for peer in result.samples if peer != GATEWAY]
    return {
        "storage": result.storage,
        "workload": workload.name,
        "about": workload.about,
        "unit": workload.unit,
        "cache": workload.cache.value,
        "failure": result.failure,
        "median_s": {peer: result.median_s(peer) for peer in result.samples},
        "ratio": {peer: result.ratio(peer) for peer in others},
        "samples": {peer: _samples(samples) for peer, samples in result.samples.items()},
    }


def _samples(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(sample) for sample in samples]
