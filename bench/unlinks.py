"""`python -m bench.unlinks`: removing trees for good, beside clients that do nothing but unlink.

Two questions. How fast is a walk that nothing holds back, compared with 16 clients of libcephfs
that have read their directories before the time begins and then call nothing but unlink, in C? And
what does somebody who works on the same cluster feel of a walk that is throttled?

Rounds are interleaved, since the machine may be busy with other things; every tree is new.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click
import trio

from asyncdelete.throttle import Throttle
from asyncdelete.walk import Walk
from c_ext._libcephfs import ffi, lib
from cephfs_ext.core.config import CephConfig
from cephfs_ext.core.types import GATEWAY
from cephfs_ext.storage.ceph import CephStorage
from cephfs_ext.storage.ceph_session import Identities, connect
from tests.cluster.ceph import CephCluster
from tests.gateway import file_system
from tests.property.gateways import SilentMeter

_CLIENTS = 16
_BATCH = 64
_FOREGROUND_S = 20.0


def _config(cluster: CephCluster) -> CephConfig:
    return CephConfig(conf=str(cluster.conf), id="admin")


class _Client:
    """A session of libcephfs of its own, without the gateway's code around it."""

    def __init__(self, cluster: CephCluster) -> None:
        name = f"bench-{uuid.uuid4()}"
        self.mount = connect(_config(cluster), "/", uuid=name, predecessors=(), options={})
        self.perms = Identities().of(GATEWAY)

    def close(self) -> None:
        lib.ceph_unmount(self.mount)
        lib.ceph_release(self.mount)

    def root(self) -> Any:
        out = ffi.new("Inode **")
        assert lib.ceph_ll_lookup_root(self.mount, out) == 0
        return out[0]

    def _call(self, function: Callable[..., int], *arguments: Any) -> Any:
        out, stx = ffi.new("Inode **"), ffi.new("struct ceph_statx *")
        rc = function(self.mount, *arguments, out, stx, 0, 0, self.perms)
        assert rc == 0, os.strerror(-rc)
        return out[0]

    def look(self, parent: Any, name: bytes) -> Any:
        return self._call(lib.ceph_ll_lookup, parent, name)

    def mkdir(self, parent: Any, name: bytes) -> Any:
        return self._call(lib.ceph_ll_mkdir, parent, name, 0o755)

    def mknod(self, parent: Any, name: bytes) -> None:
        node = self._call(lib.ceph_ll_mknod, parent, name, 0o100644, 0)
        lib.ceph_ll_put(self.mount, node)

    def names(self, directory: Any) -> list[bytes]:
        stream, entry = ffi.new("struct ceph_dir_result **"), ffi.new("struct dirent *")
        assert lib.ceph_ll_opendir(self.mount, directory, stream, self.perms) == 0
        names = []
        while lib.ceph_readdir_r(self.mount, stream[0], entry) > 0:
            names.append(bytes(ffi.string(entry.d_name)))
        lib.ceph_ll_releasedir(self.mount, stream[0])
        return [name for name in names if name not in (b".", b"..")]

    def unlink(self, directory: Any, names: Sequence[bytes]) -> None:
        for at in range(0, len(names), _BATCH):
            some = names[at : at + _BATCH]
            errors, done = ffi.new("int[]", len(some)), ffi.new("size_t *")
            packed = b"".join(name + b"\0" for name in some)
            arguments = (packed, len(some), self.perms, errors, done)
            lib.cx_unlink_many(self.mount, directory, *arguments)
            assert not any(ffi.unpack(errors, len(some)))


def _at_once(calls: Sequence[Callable[[], None]]) -> float:
    threads = [threading.Thread(target=call) for call in calls]
    begun_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun_s


@contextmanager
def _clients(cluster: CephCluster, count: int) -> Iterator[list[_Client]]:
    clients = [_Client(cluster) for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


def _make(cluster: CephCluster, dirs: int, files: int) -> bytes:
    """Make a tree of `dirs` directories of `files` files each, through one client; name its top."""
    top = b"unlinks-" + uuid.uuid4().hex[:12].encode()
    with _clients(cluster, 1) as (client,):
        above = client.mkdir(client.root(), top)
        nodes = [client.mkdir(above, b"%d" % number) for number in range(dirs)]

        def fill(share: int) -> None:
            for node in nodes[share::4]:
                for number in range(files):
                    client.mknod(node, b"file-%06d" % number)

        _at_once([lambda share=share: fill(share) for share in range(4)])  # type: ignore[misc]
        for node in (above, *nodes):
            lib.ceph_ll_put(client.mount, node)
        lib.ceph_sync_fs(client.mount)
    return top


def _by_clients(cluster: CephCluster, top: bytes, dirs: int) -> float:
    """Unlink all files of a tree; return how long it took, listing not counted."""
    with _clients(cluster, _CLIENTS) as clients:
        work: list[list[tuple[Any, list[bytes]]]] = []
        for share, client in enumerate(clients):
            above = client.look(client.root(), top)
            mine = [client.look(above, b"%d" % number) for number in range(share, dirs, _CLIENTS)]
            work.append([(node, client.names(node)) for node in mine])

        def unlink(share: int) -> None:
            for node, names in work[share]:
                clients[share].unlink(node, names)

        calls = [lambda share=share: unlink(share) for share in range(_CLIENTS)]  # type: ignore[misc]
        return _at_once(calls)


def _walk(cluster: CephCluster, top: bytes, throttle: Callable[[], Throttle] | None) -> float:
    """Remove a tree, directories and listing included; return how long it took."""

    async def main() -> float:
        name = f"bench-{uuid.uuid4()}"
        storage = await CephStorage.connect(_config(cluster), "/", uuid=name, background=True)
        try:
            held_back = None if throttle is None else throttle()
            walk = Walk(storage, SilentMeter(), throttle=held_back)
            begun_s = time.perf_counter()
            removed = await walk.remove(storage.root, top)
            took_s = time.perf_counter() - begun_s
            assert not removed.failures
            if held_back is not None:
                _print_trace(held_back, removed.files / took_s)
            return took_s
        finally:
            await storage.close()

    return trio.run(main)


def _print_trace(throttle: Throttle, rate: float) -> None:
    steps = throttle.trace
    print(f"throttled: {rate:.0f} files/s; trace (s, batches allowed, µs an entry, at best, why):")
    for step in steps[:: max(1, len(steps) // 30)]:
        at_s = step.at_s - steps[0].at_s
        figures = f"{step.latency_s * 1e6:6.0f} {step.baseline_s * 1e6:6.0f}"
        print(f"  {at_s:6.1f} {step.limit:5.2f} {figures} {step.reason}")


def _foreground(cluster: CephCluster, until: Callable[[], bool]) -> list[float]:
    """Ask for a name that isn't there and make it, again and again; return what each pair took."""
    import cephfs

    took: list[float] = []
    with file_system(cluster) as fs:
        top = f"/foreground-{uuid.uuid4().hex[:8]}"
        fs.mkdir(top, 0o755)
        while not until():
            path = f"{top}/{len(took)}"
            begun_s = time.perf_counter()
            with suppress(cephfs.ObjectNotFound):
                fs.stat(path)
            fs.close(fs.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
            took.append(time.perf_counter() - begun_s)
            time.sleep(0.002)
    return took


def _percentiles(took: Sequence[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(took, n=100)
    return cuts[49] * 1e3, cuts[98] * 1e3


def _felt(cluster: CephCluster, dirs: int, files: int, throttle: str) -> None:
    """Print what a foreground loop takes alone, then beside a walk in a process of its own."""
    top = _make(cluster, dirs, files)
    ends_s = time.monotonic() + _FOREGROUND_S
    idle = _percentiles(_foreground(cluster, lambda: time.monotonic() > ends_s))
    command = [sys.executable, "-m", "bench.unlinks", "--only-walk", top.decode()]
    with subprocess.Popen([*command, "--throttle", throttle]) as walk:
        busy = _percentiles(_foreground(cluster, lambda: walk.poll() is not None))
    print(
        f"stat+create, walk {throttle}: p50 {idle[0]:.1f} -> {busy[0]:.1f} ms, "
        f"p99 {idle[1]:.1f} -> {busy[1]:.1f} ms: {busy[1] / idle[1]:.2f} times",
        flush=True,
    )


@click.command()
@click.option("--dirs", default=32, show_default=True)
@click.option("--files", default=250, show_default=True, help="Of each directory.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--only-walk", default="", hidden=True)
@click.option("--throttle", default="", type=click.Choice(["", "on", "off"]), hidden=True)
@click.option("--felt/--not-felt", default=True, help="Measure what others feel, too.")
def main(dirs: int, files: int, rounds: int, only_walk: str, throttle: str, *, felt: bool) -> None:
    """Compare a walk with clients that do nothing but unlink."""
    cluster = CephCluster()
    if only_walk:
        make = (lambda: Throttle(SilentMeter())) if throttle == "on" else None
        _walk(cluster, only_walk.encode(), make)
        return
    rates: dict[str, list[float]] = {"clients": [], "walk": []}
    for _ in range(rounds):
        took_s = _by_clients(cluster, _make(cluster, dirs, files), dirs)
        rates["clients"].append(dirs * files / took_s)
        rates["walk"].append(dirs * files / _walk(cluster, _make(cluster, dirs, files), None))
        print({name: round(values[-1]) for name, values in rates.items()}, flush=True)
    clients, walk = (statistics.median(rates[name]) for name in rates)
    print(f"files/s: {_CLIENTS} clients {clients:.0f}, walk {walk:.0f}: {walk / clients:.2f} times")
    if felt:
        for how in ("on", "off"):
            _felt(cluster, dirs, files, how)


if __name__ == "__main__":
    main()
