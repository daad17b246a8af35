"""`python -m bench`: see docs/benchmarks.md."""

from __future__ import annotations

import contextlib
import datetime
import difflib
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console

import bench.metadata
import bench.programs
import bench.throughput  # noqa: F401  (each registers its workloads)
from bench.peers import Peer, ceph_peers, posix_peers
from bench.report import (
    cost_table,
    document,
    print_failures,
    result_table,
    workload_table,
)
from bench.run import Bench, Result
from bench.workload import WORKLOADS, Workload
from tests.cluster.ceph import CephCluster

_RESULTS = Path(__file__).parent / "results"
_WIDTH = 110
"""Columns of a table that doesn't go to a terminal."""


def _chosen(names: tuple[str, ...]) -> list[Workload]:
    """Return the workloads of `--only`, in the order of the registry; all if there are none."""
    wanted = {part for name in names for part in name.split(",") if part}
    for name in sorted(wanted - set(WORKLOADS)):
        near = difflib.get_close_matches(name, WORKLOADS, n=1)
        hint = f"did you mean {near[0]}?" if near else "--list shows them"
        raise click.UsageError(f"no workload {name}; {hint}")
    return [workload for name, workload in WORKLOADS.items() if not wanted or name in wanted]


@contextlib.contextmanager
def _running_cluster(storages: list[str]) -> Iterator[CephCluster | None]:
    """Lend the cluster if it is needed; one that isn't running is started and stopped again."""
    if "ceph" not in storages:
        yield None
        return
    cluster = CephCluster()
    running = cluster.running()
    if not running:
        cluster.up(say=print)
    try:
        yield cluster
    finally:
        if not running:
            cluster.down(say=print)


@contextlib.contextmanager
def _base(parent: str | None) -> Iterator[Path]:
    """Make a short directory that everything local is in."""
    path = Path(tempfile.mkdtemp(prefix="cx-bench-", dir=parent))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _check_rights() -> None:
    if os.geteuid() != 0:
        raise click.ClickException(
            "mounting and dropping caches needs root; use sudo, or `make bench`"
        )
    if shutil.which("bindfs") is None or shutil.which("ceph-fuse") is None:
        raise click.ClickException("bindfs or ceph-fuse is not installed; run `make deps-test`")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--only", multiple=True, metavar="NAME[,…]", help="Run these workloads only.")
@click.option("--storage", "storages", multiple=True, type=click.Choice(["ceph", "posix"]),
              help="Run on one storage only.")  # fmt: skip
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1),
              help="Samples of each workload on each peer.")  # fmt: skip
@click.option("--size", default="full", show_default=True, type=click.Choice(["small", "full"]),
              help="small: a hundredth of the work, to see that all runs.")  # fmt: skip
@click.option("--uid", default=1000, show_default=True, type=click.IntRange(min=0),
              help="Who does the work; root, 0, is spared checks that users pay for.")  # fmt: skip
@click.option("--dir", "parent", metavar="DIR", type=click.Path(exists=True, file_okay=False),
              help="Local disk to work on.  [default: the temporary directory]")  # fmt: skip
@click.option("--json", "file", metavar="FILE", type=click.Path(dir_okay=False),
              help="Where the result goes.  [default: bench/results/TIME.json]")  # fmt: skip
@click.option("--profile", is_flag=True,
              help="Also count requests; on ceph, with nobody else on the cluster.")  # fmt: skip
@click.option("--lane", is_flag=True,
              help="On ceph: with the lane on; a gateway without it is a peer, too.")  # fmt: skip
@click.option("--pending", is_flag=True,
              help="Have the gateway answer deletes in bulk early.")  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="List the workloads.")
def main(
    only: tuple[str, ...],
    storages: tuple[str, ...],
    rounds: int,
    size: str,
    uid: int,
    parent: str | None,
    file: str | None,
    profile: bool,
    lane: bool,
    pending: bool,
    listing: bool,
) -> None:
    """Run the gateway beside ceph-fuse, a local directory and bindfs, and compare them."""
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    if listing:
        console.print(workload_table())
        return
    workloads = _chosen(only)
    _check_rights()
    begun = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%SZ")
    wanted = list(dict.fromkeys(storages)) or ["ceph", "posix"]
    results: list[Result] = []
    mounts: dict[str, list[Peer]] = {}
    with _running_cluster(wanted) as cluster:
        for storage in wanted:
            options = ["asyncdelete.pending=true"] if pending else []
            mounting = functools.partial(_peers, storage, cluster, lane=lane, options=options)
            with _base(parent) as base, mounting(base) as peers:
                mounts[storage] = peers
                counted_on = cluster if storage == "ceph" else None
                scratch = base / "scratch"
                scratch.mkdir()
                os.chown(scratch, uid, uid)
                runner = Bench(storage, peers, scratch, rounds=rounds, small=size == "small",
                               uid=uid, counted_on=counted_on, counting=profile)  # fmt: skip
                found = runner.run(workloads, _say_done)
            console.print(result_table(storage, [peer.name for peer in peers], found))
            if profile:
                console.print(cost_table(storage, found))
            print_failures(console, found)
            results += found
    made = document(begun=begun, rounds=rounds, size=size, uid=uid, mounts=mounts, results=results)
    _write(Path(file) if file else _RESULTS / f"{begun}.json", made)
    sys.exit(any(result.failure for result in results))


def _peers(
    storage: str, cluster: CephCluster | None, base: Path, *, lane: bool, options: Sequence[str]
) -> contextlib.AbstractContextManager[list[Peer]]:
    if cluster is None or storage == "posix":
        return posix_peers(base, options)
    return ceph_peers(cluster, base, options, lane=lane)


def _say_done(result: Result) -> None:
    state = "failed" if result.failure else "done"
    print(f"{result.storage}: {result.workload.name}: {state}", file=sys.stderr, flush=True)


def _write(path: Path, made: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
