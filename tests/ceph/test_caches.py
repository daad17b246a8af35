"""What a session keeps of what it lists, as the metadata servers see it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import trio

from cephfs_ext.core.config import CephConfig
from cephfs_ext.storage.ceph import CephStorage
from tests.ceph.sessions import fresh_directory
from tests.cluster.ceph import CephCluster
from tests.gateway import file_system
from trashbin.files import listing

_FILES = 9_000
_FEW = 6_000
"""More than a session keeps of what passes, fewer than there are."""
_WAIT_S = 30.0
_LOOK_S = 0.5


def test_what_passes_is_not_kept(cluster: CephCluster) -> None:
    path = fresh_directory(cluster)
    with file_system(cluster) as fs:
        fs.chdir(path)
        for number in range(_FILES):
            fs.mknod(f"{number}", 0o100644)

    async def run() -> None:
        config = CephConfig(conf=str(cluster.conf), id="gateway")
        storage = await CephStorage.connect(config, path, uuid=f"test-{uuid.uuid4()}")
        try:
            await _list(storage)
            await _wait_until(lambda: _known(cluster, storage) >= _FILES)
            with storage.passing():
                await _list(storage)
                await _wait_until(lambda: _known(cluster, storage) < _FEW)
            await _list(storage)
            await _wait_until(lambda: _known(cluster, storage) >= _FILES)
        finally:
            await storage.close()

    trio.run(run)


async def _list(storage: CephStorage) -> None:
    async with listing(storage, storage.root, plus=True) as entries:
        async for listed in entries:
            assert listed.found is not None
            storage.forget(listed.found.node)


def _known(cluster: CephCluster, storage: CephStorage) -> int:
    """Return for how many inodes the session has capabilities."""
    return sum(
        session["num_caps"]
        for rank in ("mds.0", "mds.1")
        for session in cluster.ceph("tell", rank, "client", "ls")
        if session["client_metadata"].get("uuid") in storage.sessions
    )


async def _wait_until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(_WAIT_S):
        while not await trio.to_thread.run_sync(holds):  # noqa: ASYNC110
            await trio.sleep(_LOOK_S)
