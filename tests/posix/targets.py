"""Where the suite runs: one registry of file systems under test.

To put another file system under test, write a context manager that mounts it, yields a directory
of it that root may write to and everybody may enter, and unmounts it again; then name it in
`TARGETS`. Each is entered once per run and gets a directory of its own per test.

What a target is known to do otherwise stands in `deviations.py` under the same id.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, ceph_gateway, posix_gateway

Mount = Callable[[pytest.FixtureRequest], AbstractContextManager[Path]]
"""Enters a target; through the request it may use fixtures of the session, such as a cluster."""


@contextlib.contextmanager
def fresh_directory(parent: Path | None = None) -> Iterator[Path]:
    """Make a directory that everybody may enter, and remove it with all that is in it."""
    path = Path(tempfile.mkdtemp(prefix="posix-", dir=parent))
    path.chmod(0o755)
    try:
        yield path
    finally:
        # Not shutil.rmtree: it recurses, and some trees here are deeper than its stack.
        subprocess.run(["rm", "-rf", "--", os.fspath(path)], check=True, timeout=300)


def _below(directory: Path | None, _: pytest.FixtureRequest) -> AbstractContextManager[Path]:
    return fresh_directory(directory)


@contextlib.contextmanager
def _posix_mount(*options: str) -> Iterator[Path]:
    with fresh_directory() as base:
        yield from _mounted(posix_gateway(base, *options))


@contextlib.contextmanager
def _ceph_mount(request: pytest.FixtureRequest) -> Iterator[Path]:
    cluster: CephCluster = request.getfixturevalue("cluster")
    with fresh_directory() as base:
        yield from _mounted(ceph_gateway(cluster, base))


def _mounted(gateway: Gateway) -> Iterator[Path]:
    with gateway.mounted():
        yield gateway.path


@contextlib.contextmanager
def _ceph_fuse(request: pytest.FixtureRequest) -> Iterator[Path]:
    cluster: CephCluster = request.getfixturevalue("cluster")
    with (
        fresh_directory() as base,
        cluster.ceph_fuse(base / "mnt", "/", "--client_acl_type=posix_acl") as mountpoint,
        fresh_directory(mountpoint) as path,
    ):
        yield path


TARGETS: dict[str, Mount] = {
    "local": partial(_below, None),
    "posix-mount": lambda _: _posix_mount(),
    "posix-mount-eager": lambda _: _posix_mount(
        "asyncdelete.pending=true,asyncdelete.pending_after=1"
    ),
    "ceph-mount": _ceph_mount,
    "ceph-fuse": _ceph_fuse,
}


def targets(directories: Sequence[str] = ()) -> Iterator[tuple[str, Mount]]:
    """Yield id and mount of every target of a run.

    Args:
        directories: `[ID=]DIR` as given on the command line; they replace the registry. Without
            an ID the path is the id.
    """
    for text in directories:
        target_id, _, directory = text.rpartition("=")
        yield target_id or directory, partial(_below, Path(directory))
    if not directories:
        yield from TARGETS.items()
