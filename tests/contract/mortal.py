"""A process with a session of its own that holds something of a storage until it is killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import trio

from tests.contract.conftest import Place
from tests.contract.tree import Tree

_SCRIPT = textwrap.dedent(
    """
    import sys, trio
    from cephfs_ext.core.config import CephConfig
    from cephfs_ext.core.types import Ino

    async def main(conf, path, ino, token, uuid):
        if conf:
            from cephfs_ext.storage import ceph
            config = CephConfig(conf=conf, id="gateway")
            storage = await ceph.CephStorage.connect(config, path, uuid=uuid)
        else:
            from cephfs_ext.storage.posix import PosixStorage
            storage = await PosixStorage.connect(path)
        node = (await storage.find(Ino(int(ino)), bytes.fromhex(token))).node
        async with {held}:
            print("held", flush=True)
            await trio.sleep_forever()

    trio.run(main, *sys.argv[1:])
    """
)


def session_of(tree: Tree) -> str:
    """Return the name of the session of such a process."""
    return f"mortal-{tree.top.ino}"


@contextlib.contextmanager
def holding(held: str, tree: Tree, place: Place) -> Iterator[subprocess.Popen[str]]:
    """Lend a process that holds something of the top directory; it dies in the end.

    Args:
        held: what, as Python with `storage`, `node` and `uuid` (`session_of`).
    """
    conf = str(place.cluster.conf) if place.cluster else ""
    session = session_of(tree)
    words = [conf, place.path, str(tree.top.ino), tree.storage.token(tree.top).hex(), session]
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT.format(held=held), *words],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        trio.run(_take_over, place, session)


async def _take_over(place: Place, session: str) -> None:
    """End the session of a dead process; the next ones would wait for it."""
    successor = await place.connect(predecessors=[session])
    await successor.close()
