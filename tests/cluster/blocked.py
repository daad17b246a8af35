"""MDSs that block themselves, and what an operator does about it.

An MDS 16.2 that gives an inode, whose first name was deleted, the home of its other name renames
it out of its own directory of strays. Beside changes of the directory that the other name is in
that may end in a deadlock within the MDS (seen once in some 15 runs of all tests on a loaded
machine): its own request and those of the clients wait for each other's locks for ever. Failing
that MDS over ends it; the clients notice nothing but the pause.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster.ceph import CephCluster, ClusterError

_PAUSE_S = 5.0
_BLOCKED_S = 25.0
"""No request of an MDS's own takes that long, but for such a deadlock."""

_TIMEOUT_S = 5.0


@contextlib.contextmanager
def freed(cluster: CephCluster) -> Iterator[None]:
    """Fail over MDSs that have blocked themselves, while the body runs.

    By a process of its own: some tests count the descriptors of theirs.
    """
    command = [sys.executable, "-m", "tests.cluster.blocked", str(cluster.directory)]
    watcher = subprocess.Popen(command)
    try:
        yield
    finally:
        watcher.terminate()
        watcher.wait()


def watch(cluster: CephCluster) -> None:
    """Look at the MDSs for as long as there is somebody who wants it."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(_PAUSE_S)
        for socket_path in (cluster.directory / "run").glob("mds.*.asok"):
            _look_at(cluster, socket_path)


def _look_at(cluster: CephCluster, socket_path: Path) -> None:
    with contextlib.suppress(OSError, ValueError, struct.error, ClusterError):  # starting, or going
        if any(map(is_own_and_blocked, _ask(socket_path, "dump_blocked_ops").get("ops", []))):
            name = socket_path.name.split(".")[1]
            print(f"mds.{name} has blocked itself; a standby takes over", flush=True)
            cluster.ceph("mds", "fail", name)


def is_own_and_blocked(op: dict[str, Any]) -> bool:
    """Tell whether an operation is a request of an MDS's own that waits far too long."""
    return op["age"] > _BLOCKED_S and op["description"].startswith("client_request(mds.")


def _ask(socket_path: Path, command: str) -> dict[str, Any]:
    """Ask a daemon through its admin socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_TIMEOUT_S)
        sock.connect(str(socket_path))
        sock.sendall(json.dumps({"prefix": command}).encode() + b"\0")
        with sock.makefile("rb") as stream:
            (length,) = struct.unpack(">I", stream.read(4))
            answer: dict[str, Any] = json.loads(stream.read(length))
    return answer


if __name__ == "__main__":
    watch(CephCluster(Path(sys.argv[1])))
