"""The cluster shuts a gateway out: its session is evicted, its address blocklisted.

Only idle sessions are evicted here: an MDS 16.2.15 may crash otherwise (SessionMap.cc).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cephfs_ext.core.errors import FSError
from cephfs_ext.storage.ceph import CephStorage
from tests.ceph.sessions import sessions
from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, ceph_gateway, file_system

_BACK_S = 20.0
CONTENT = b"content" * 10_000


@pytest.fixture
def gateway(cluster: CephCluster, base: Path) -> Iterator[Gateway]:
    """Return a mounted gateway, on a machine that seems to have been up for an hour.

    libcephfs takes the start of the machine for the last time that it came back.
    """
    gateway = ceph_gateway(cluster, base)
    gateway.around = ("unshare", "--time", "--monotonic", "3600", "--fork")
    with gateway.mounted():
        yield gateway


def wait_for_return(gateway: Gateway, sessions: int = 1) -> float:
    """Wait until sessions that were shut out are back; return how long that took."""
    begun = time.monotonic()
    while gateway.log.count("is back") < sessions or "[-]" in gateway.get("/readyz"):
        assert time.monotonic() < begun + _BACK_S, gateway.log
        time.sleep(0.1)
    return time.monotonic() - begun


def sync(fd: int) -> int:
    """Sync a file; return the error."""
    try:
        os.fsync(fd)
    except OSError as exc:
        return exc.errno or 0
    return 0


def behind(cluster: CephCluster, gateway: Gateway, name: str) -> bytes:
    """Read a file as another client does."""
    with file_system(cluster) as fs:
        fd = fs.open(f"{gateway.source.partition(':')[2]}/{name}", os.O_RDONLY)
        try:
            data: bytes = fs.read(fd, 0, 2 * len(CONTENT))
        finally:
            fs.close(fd)
    return data


def test_evicted_gateway_comes_back_by_itself(cluster: CephCluster, gateway: Gateway) -> None:
    """[multi-client-5]: both sessions, and what is open for reading."""
    file = gateway.path / "file"
    file.write_bytes(CONTENT)
    with file.open("rb", buffering=0) as held:
        os.fsync(held.fileno())
        for uuid in gateway.state.uuids:
            cluster.evict(uuid)
        print(f"back after {wait_for_return(gateway, 2):.1f} s")
        file.unlink()
        gateway.run("trash", "restore", str(file), check=True)
        os.posix_fadvise(held.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert held.read() == file.read_bytes() == CONTENT
    assert "evicted or blocklisted" in gateway.log


@pytest.mark.parametrize("when", ["at once", "when it is back"])
def test_fsync_confirms_nothing_that_an_eviction_has_dropped(
    cluster: CephCluster, gateway: Gateway, when: str
) -> None:
    """[durability-1], [multi-client-5]: libcephfs says 0 when it has dropped what it had."""
    fd = os.open(gateway.path / "file", os.O_CREAT | os.O_RDWR)
    try:
        os.write(fd, CONTENT)
        cluster.evict(gateway.state.uuids[0])
        if when == "when it is back":
            wait_for_return(gateway)
            assert sync(fd) == errno.EIO
        else:
            assert sync(fd) in (errno.ESHUTDOWN, errno.EIO)
            wait_for_return(gateway)
            sync(fd)
        assert os.pwrite(fd, CONTENT, 0) == len(CONTENT)
        assert sync(fd) == 0
        assert behind(cluster, gateway, "file") == CONTENT
    finally:
        os.close(fd)


async def _lock_again_and_again(storage: CephStorage) -> None:
    """The OSDs may not have heard of a blocklisting yet."""
    while True:
        async with storage.exclusive(storage.root):
            pass


def test_locks_work_again_after_their_connection_was_blocklisted(cluster: CephCluster) -> None:
    async def run() -> None:
        async with sessions(cluster, 1) as (storage,):
            async with storage.exclusive(storage.root):
                pass
            addresses = storage._locks._cluster.get_addrs()
            cluster.ceph("osd", "blocklist", "add", addresses.strip("[]").split(",")[0])
            with pytest.raises(FSError) as caught, trio.fail_after(_BACK_S):
                await _lock_again_and_again(storage)
            assert caught.value.errno == errno.ESHUTDOWN
            async with storage.exclusive(storage.root):
                pass

    trio.run(run)


@pytest.fixture
def no_blocklist(cluster: CephCluster) -> Iterator[None]:
    """Have the MDSs evict without blocklisting, as some clusters are set up."""
    setting = ("config", "set", "mds_session_blocklist_on_evict")
    for rank in (0, 1):
        cluster.ceph("tell", f"mds.{rank}", *setting, "false")
    yield
    for rank in (0, 1):
        cluster.ceph("tell", f"mds.{rank}", *setting, "true")


@pytest.mark.faults
@pytest.mark.usefixtures("no_blocklist")
def test_what_hangs_is_said_and_ended_by_a_new_mount(
    cluster: CephCluster, gateway: Gateway
) -> None:
    """Nothing tells a client that is evicted without being blocklisted: it waits for ever."""
    (gateway.path / "file").write_bytes(CONTENT)
    with (gateway.path / "file").open("rb") as file:
        os.fsync(file.fileno())
    cluster.evict(gateway.state.uuids[0])
    until = time.monotonic() + 120
    while "[-]storage no answer for" not in gateway.get("/readyz"):
        assert time.monotonic() < until
        time.sleep(1)
    assert "the storage doesn't answer" in gateway.log
    gateway.kill()
    gateway.mount()
    assert (gateway.path / "file").read_bytes() == CONTENT


def test_locks_that_an_eviction_has_ended_are_said_to_be_lost(
    cluster: CephCluster, base: Path
) -> None:
    """[lock-6]: and others have them; other files can be locked."""
    gateway = ceph_gateway(cluster, base, "lane=on")
    gateway.around = ("unshare", "--time", "--monotonic", "3600", "--fork")
    with gateway.mounted(), (gateway.path / "file").open("w+") as file:
        os.fsync(file.fileno())
        fcntl.lockf(file, fcntl.LOCK_EX)
        cluster.evict(gateway.state.uuids[0])
        wait_for_return(gateway)
        there = Gateway(
            gateway.source, base / "other", base / "run2", conf=cluster.conf, options=("lane=on",)
        )
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with there.mounted(), (there.path / "file").open("r+") as theirs:
            fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (gateway.path / "other").open("w") as other:
            fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
