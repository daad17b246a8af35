"""Storages under test, and tests that are coroutines.

A session is opened once for all tests of a storage, since ending one takes a second on a cluster;
each test has a fresh directory in it. A test that leaves a reference, a handle or a descriptor
behind fails.
"""

from __future__ import annotations

import functools
import inspect
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from cephfs_ext.core.config import CephConfig
from cephfs_ext.core.ports import Storage
from cephfs_ext.core.types import GATEWAY
from cephfs_ext.storage.ceph import CephStorage
from cephfs_ext.storage.posix import PosixStorage
from tests.cluster.ceph import CephCluster
from tests.conftest import STORAGES
from tests.contract.tree import Tree
from tests.gateway import file_system


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    trio.run(functools.partial(pyfuncitem.obj, **arguments))
    return True


class Place:
    """A directory that can be served, on one kind of storage."""

    def __init__(self, kind: str, path: str, cluster: CephCluster | None) -> None:
        self.kind = kind
        self.path = path
        self.cluster = cluster

    async def connect(self, path: str = "", *, predecessors: Sequence[str] = ()) -> Storage:
        """Open a session of its own on it, or on another directory of the same kind.

        Args:
            predecessors: uuids of sessions that died, which everybody would wait for otherwise.
        """
        if self.cluster is None:
            return await PosixStorage.connect(path or self.path)
        return await CephStorage.connect(
            CephConfig(conf=str(self.cluster.conf), id="gateway"),
            path or self.path,
            uuid=f"contract-{uuid.uuid4()}",
            predecessors=predecessors,
        )

    def below(self, name: str) -> str:
        """Return the path, on the storage, of a directory that is made in the place."""
        return os.path.join(self.path, name)


@pytest.fixture(scope="package", params=STORAGES)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """Return a fresh directory on each kind of storage."""
    umask = os.umask(0)
    try:
        yield _place(request, tmp_path_factory.mktemp("contract"))
    finally:
        os.umask(umask)  # a posix storage sets it for the process


def _place(request: pytest.FixtureRequest, directory: Path) -> Place:
    if request.param == "posix":
        return Place("posix", str(directory), None)
    cluster: CephCluster = request.getfixturevalue("cluster")
    subdir = f"/c-{uuid.uuid4().hex[:12]}"
    with file_system(cluster) as fs:
        fs.mkdir(subdir, 0o755)
    return Place("ceph", subdir, cluster)


@pytest.fixture(scope="package")
def session(place: Place) -> Iterator[Storage]:
    """Return the session that all tests of a storage share."""
    storage = trio.run(place.connect)
    yield storage
    trio.run(storage.close)


@pytest.fixture(scope="package")
def peer(place: Place) -> Iterator[Storage]:
    """Return another session on the same directory, as another gateway would have."""
    storage = trio.run(place.connect)
    yield storage
    trio.run(storage.close)


@pytest.fixture
def storage(session: Storage) -> Iterator[Storage]:
    """Return a storage, and check that the test leaves nothing open in it."""
    before = _open_things(session)
    yield session
    assert _open_things(session) == before, "the test left a reference or a descriptor behind"


def _open_things(storage: Storage) -> tuple[Any, ...]:
    if storage.kind != "posix":
        return ()
    return storage.describe()["nodes"], len(os.listdir("/proc/self/fd"))


@pytest.fixture
def tree(storage: Storage, request: pytest.FixtureRequest) -> Iterator[Tree]:
    """Return a fresh directory, open to everybody."""
    name = f"{request.node.name[:60]}-{uuid.uuid4().hex[:8]}".replace("/", "_")
    make = functools.partial(storage.mkdir, storage.root, name.encode(), 0o777, GATEWAY)
    tree = Tree(storage, trio.run(make).node, name)
    yield tree
    tree.give_back()
