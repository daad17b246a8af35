"""Storage sessions on a directory of their own, without a mount."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator

from cephfs_ext.core.config import CephConfig
from cephfs_ext.storage.ceph import CephStorage
from tests.cluster.ceph import CephCluster
from tests.gateway import file_system


def fresh_directory(cluster: CephCluster) -> str:
    """Make a directory of the file system and return its path."""
    path = f"/t-{uuid.uuid4().hex[:12]}"
    with file_system(cluster) as fs:
        fs.mkdir(path, 0o755)
    return path


@contextlib.asynccontextmanager
async def sessions(cluster: CephCluster, count: int) -> AsyncIterator[list[CephStorage]]:
    """Open several sessions on a fresh directory."""
    config = CephConfig(conf=str(cluster.conf), id="gateway")
    path = fresh_directory(cluster)
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for _ in range(count):
            storage = await CephStorage.connect(config, path, uuid=f"test-{uuid.uuid4()}")
            stack.push_async_callback(storage.close)
            opened.append(storage)
        yield opened
