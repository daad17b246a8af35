"""Fixtures of tests that share a mount, each in a directory of its own."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import STORAGES
from tests.gateway import Gateway, ceph_gateway, posix_gateway


@pytest.fixture(scope="module", params=STORAGES)
def mounted(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """Return a gateway that the tests of a storage share."""
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        if request.param == "ceph":
            gateway = ceph_gateway(request.getfixturevalue("cluster"), Path(name))
        else:
            gateway = posix_gateway(Path(name))
        with gateway.mounted():
            yield gateway


@pytest.fixture(scope="module")
def other(mounted: Gateway, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """Return a second gateway over the same storage."""
    is_ceph = mounted.source.startswith("ceph:")
    conf = request.getfixturevalue("cluster").conf if is_ceph else None
    gateway = Gateway(mounted.source, mounted.path.with_name("other"), mounted.runtime, conf=conf)
    with gateway.mounted():
        yield gateway


@pytest.fixture
def place(mounted: Gateway) -> Path:
    """Return a directory of the test's own on the mount, which everybody may write to."""
    path = mounted.path / uuid.uuid4().hex[:8]
    path.mkdir()
    path.chmod(0o777)
    return path
