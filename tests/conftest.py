"""Fixtures that all tests share. What a test needs and doesn't find fails it; nothing skips."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.blocked import freed
from tests.cluster.ceph import CephCluster
from tests.faults.storage import Back
from tests.gateway import Gateway, ceph_gateway, posix_gateway

STORAGES = ("posix", "ceph")


@pytest.fixture(scope="session")
def cluster() -> Iterator[CephCluster]:
    """Return the cluster; one that isn't running is started, and stopped again."""
    cluster = CephCluster()
    running = cluster.running()
    cluster.up()
    with freed(cluster):
        yield cluster
    if not running:
        cluster.down()


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Lend a directory with a short path, since sockets are in it, that all users can reach."""
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def base() -> Iterator[Path]:
    """Return a short directory of its own."""
    with short_directory() as directory:
        yield directory


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """Give the umask back: a storage within this process takes it away."""
    before = os.umask(0)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(params=STORAGES)
def unmounted(request: pytest.FixtureRequest, base: Path) -> Iterator[Gateway]:
    """Return a gateway that isn't mounted yet, on each storage."""
    if request.param == "ceph":
        gateway = ceph_gateway(request.getfixturevalue("cluster"), base)
    else:
        gateway = posix_gateway(base)
    yield gateway
    gateway.close()


@pytest.fixture
def back(request: pytest.FixtureRequest, unmounted: Gateway) -> Iterator[Back]:
    """Return the storage as it is seen beside the gateway."""
    is_ceph = unmounted.source.startswith("ceph:")
    with Back.of(unmounted.source, request.getfixturevalue("cluster") if is_ceph else None) as back:
        yield back


@pytest.fixture
def gateway(unmounted: Gateway) -> Iterator[Gateway]:
    """Return a mounted gateway, on each storage."""
    with unmounted.mounted():
        yield unmounted
