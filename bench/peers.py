"""The mounts that are compared.

All of a storage are up at the same time, each over a fresh directory of its own at the same depth.
The gateway has its defaults; ceph-fuse and bindfs have theirs, ceph-fuse with POSIX ACLs on as the
gateway has them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tests.cluster.ceph import CephCluster, ClusterError
from tests.gateway import Gateway, file_system

_log = logging.getLogger(__name__)

GATEWAY = "gateway"
WITHOUT_LANE = "no lane"
_CEPH_FUSE_OPTIONS = ("--client_acl_type=posix_acl",)


class Peer(Protocol):
    """One file system under comparison."""

    name: str
    path: Path
    """Where its workloads run."""
    options: str
    """What it was mounted with, for the record."""

    def remount(self) -> None:
        """Have the mount forget all that it knows."""
        ...

    def discard(self, path: Path) -> None:
        """Delete a directory of samples; it isn't measured."""
        ...


class GatewayPeer:
    """A gateway, over either storage."""

    def __init__(self, gateway: Gateway, name: str = GATEWAY, *, options: str = "defaults") -> None:
        self.name = name
        self.gateway = gateway
        self.path = gateway.path
        self.options = f"cephfs-ext mount {gateway.source.partition(':')[0]}:…, {options}"

    def remount(self) -> None:
        """Unmount and mount."""
        self.gateway.umount()
        self.gateway.mount()

    def discard(self, path: Path) -> None:
        """Move it into the trash by one rename."""
        path.rename(path.parent / ".trashbin" / path.name)


class CephFusePeer:
    """ceph-fuse on the same cluster."""

    name = "ceph-fuse"

    def __init__(self, cluster: CephCluster, path: Path, source: str) -> None:
        self.path = path
        self.options = f"ceph-fuse {' '.join(_CEPH_FUSE_OPTIONS)}, else defaults"
        self._cluster = cluster
        self._source = source
        self._mounted = contextlib.ExitStack()

    def mount(self) -> None:
        """Mount it."""
        self._mounted.enter_context(
            self._cluster.ceph_fuse(self.path, self._source, *_CEPH_FUSE_OPTIONS)
        )

    def close(self) -> None:
        """Unmount it, if it is mounted."""
        self._mounted.close()

    def remount(self) -> None:
        """Unmount and mount."""
        self.close()
        self.mount()

    def discard(self, path: Path) -> None:
        """Delete it."""
        _remove(path)


class LocalPeer:
    """A directory of the local disk: what a gateway over one has to be measured by."""

    name = "local"
    options = "a directory on the disk that the gateway serves"

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self) -> None:
        """Do nothing: it has no cache but the kernel's, which the caller drops."""

    def discard(self, path: Path) -> None:
        """Delete it."""
        _remove(path)


class BindfsPeer:
    """bindfs over a local directory: the same job, no trash, in C."""

    name = "bindfs"
    options = "bindfs, defaults"

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self._source = source

    def mount(self) -> None:
        """Mount it."""
        subprocess.run(["bindfs", self._source, self.path], check=True)

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", self.path], check=True)

    def remount(self) -> None:
        """Unmount and mount."""
        self.close()
        self.mount()

    def discard(self, path: Path) -> None:
        """Delete it."""
        _remove(path)


def _remove(path: Path) -> None:
    subprocess.run(["rm", "-rf", "--", os.fspath(path)], check=True)


@contextlib.contextmanager
def ceph_peers(
    cluster: CephCluster, base: Path, options: Sequence[str], *, lane: bool
) -> Iterator[list[Peer]]:
    """Mount a gateway and ceph-fuse on one cluster; leaves nothing behind on it.

    Args:
        options: settings of the gateway.
        lane: the gateway has it on, and one without it is a peer, too.
    """
    top = f"/bench-{uuid.uuid4().hex[:12]}"
    names = [GATEWAY, *([WITHOUT_LANE] if lane else [])]
    with file_system(cluster) as fs:
        for name in (*names, "ceph-fuse"):
            fs.mkdirs(f"{top}/{name}", 0o755)
    fuse = CephFusePeer(cluster, base / "ceph-fuse", f"{top}/ceph-fuse")
    with contextlib.ExitStack() as mounted:
        mounted.callback(_remove_from, cluster, top, base / "all")
        peers: list[Peer] = []
        for name in names:
            given = ("lane=on" if lane and name == GATEWAY else "lane=off", *options)
            places = (f"ceph:{top}/{name}", base / name, base / "run")
            gateway = Gateway(*places, conf=cluster.conf, options=given)
            mounted.enter_context(gateway.mounted())
            peers.append(GatewayPeer(gateway, name, options=",".join(given)))
        mounted.enter_context(contextlib.closing(fuse))
        fuse.mount()
        yield [*peers, fuse]


def _remove_from(cluster: CephCluster, top: str, mountpoint: Path) -> None:
    try:
        with cluster.ceph_fuse(mountpoint) as root:
            _remove(root / top.lstrip("/"))
    except ClusterError as exc:  # what has been measured is good all the same
        _log.warning("%s stays on the cluster: %s", top, exc)


@contextlib.contextmanager
def posix_peers(base: Path, options: Sequence[str]) -> Iterator[list[Peer]]:
    """Mount a gateway and bindfs over directories beside a plain one; the caller removes `base`."""
    for name in ("gateway.source", "bindfs.source", "bindfs", "local"):
        (base / name).mkdir()
    places = (f"posix:{base / 'gateway.source'}", base / "gateway", base / "run")
    gateway = Gateway(*places, options=tuple(options))
    bindfs = BindfsPeer(base / "bindfs", base / "bindfs.source")
    bindfs.mount()
    with contextlib.closing(bindfs), gateway.mounted():
        yield [GatewayPeer(gateway), LocalPeer(base / "local"), bindfs]
