"""`python -m bench.trees`: deleting whole trees by one rename, whatever their size.

A small and a large tree are deleted in turns, each in several ways, and restored again. What is
printed are medians, and how many times as long the large one took.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from tests.cluster.ceph import CephCluster
from tests.gateway import COMMAND, Gateway, ceph_gateway, file_system, posix_gateway

_PER_DIRECTORY = 1000
_CLIENTS = 8
_SMALL = 300
_RECOGNISED = ("-o", "asyncdelete.recognise_rm=true")

Way = Callable[[Gateway, Path], None]


def _rm(gateway: Gateway, top: Path) -> None:
    gateway.run("rm", "-r", str(top), check=True)


def _mv(_: Gateway, top: Path) -> None:
    subprocess.run(["mv", top, top.parent / ".trashbin/"], check=True)


def _rm_rf(_: Gateway, top: Path) -> None:
    subprocess.run(["rm", "-rf", top], check=True)


WAYS: dict[str, Way] = {
    "cephfs-ext rm -r": _rm,
    "mv DIR .trashbin/": _mv,
    "rm -rf, recognised": _rm_rf,
}


def _make_on_ceph(cluster: CephCluster, top: str, files: int) -> None:
    """Make a tree through several clients of Ceph's own binding."""

    def make(share: int) -> None:
        with file_system(cluster) as fs:
            for number in range(share, files, _CLIENTS * _PER_DIRECTORY):
                _make_directories(fs, top, range(number, min(files, number + _PER_DIRECTORY)))

    with file_system(cluster) as fs:
        fs.mkdir(top, 0o755)
    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(make, range(0, _CLIENTS * _PER_DIRECTORY, _PER_DIRECTORY)))


def _make_directories(fs: Any, top: str, numbers: range) -> None:
    directory = f"{top}/{numbers.start // _PER_DIRECTORY}"
    fs.mkdir(directory, 0o755)
    for number in numbers:
        fs.close(fs.open(f"{directory}/{number}", os.O_CREAT | os.O_WRONLY, 0o644))


def _make_here(top: Path, files: int) -> None:
    for number in range(files):
        directory = top / str(number // _PER_DIRECTORY)
        if number % _PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        (directory / str(number)).touch()


@contextlib.contextmanager
def _gateway(storage: str, base: Path, sizes: dict[str, int]) -> Iterator[Gateway]:
    """Lend a mounted gateway over trees of these sizes, by name."""
    if storage == "posix":
        gateway = posix_gateway(base)
        for name, files in sizes.items():
            _make_here(base / "source" / name, files)
        with gateway.mounted(*_RECOGNISED):
            yield gateway
        return
    cluster = CephCluster()
    was_running = cluster.running()
    cluster.up()
    try:
        gateway = ceph_gateway(cluster, base)
        for name, files in sizes.items():
            _make_on_ceph(cluster, f"{gateway.source.removeprefix('ceph:')}/{name}", files)
        with gateway.mounted(*_RECOGNISED):
            yield gateway
    finally:
        if not was_running:
            cluster.down()


def _sample(gateway: Gateway, way: Way, name: str) -> float:
    """Delete a tree, and bring it back."""
    top = gateway.path / name
    os.stat(top)
    begun_s = time.monotonic()
    way(gateway, top)
    took_s = time.monotonic() - begun_s
    assert not top.exists()
    (newest,) = gateway.json("trash", "ls", str(gateway.path), "--limit", "1")["items"]
    gateway.run("trash", "restore", newest["id"], check=True)
    return took_s


@click.command()
@click.option("--storage", default="ceph", type=click.Choice(["ceph", "posix"]))
@click.option("--files", default=300_000, show_default=True, help="Of the large tree.")
@click.option("--rounds", default=7, show_default=True)
def main(storage: str, files: int, rounds: int) -> None:
    """Compare deleting a large tree with deleting a small one."""
    sizes = {"small": _SMALL, "large": files}
    with tempfile.TemporaryDirectory(prefix="cx-bench-", ignore_cleanup_errors=True) as name:
        base = Path(name)
        base.chmod(0o755)
        print(f"making trees of {_SMALL} and {files} files", file=sys.stderr)
        with _gateway(storage, base, sizes) as gateway:
            subprocess.run([COMMAND, "--version"], check=True, stdout=subprocess.DEVNULL)
            for what, way in WAYS.items():
                times: dict[str, list[float]] = {tree: [] for tree in sizes}
                for _ in range(rounds):
                    for tree in sizes:
                        times[tree].append(_sample(gateway, way, tree))
                small_s, large_s = (statistics.median(times[tree]) for tree in sizes)
                print(
                    f"{storage}: {what}: {small_s * 1e3:.0f} ms for {_SMALL} files, "
                    f"{large_s * 1e3:.0f} ms for {files}: {large_s / small_s:.2f} times"
                )


if __name__ == "__main__":
    main()
