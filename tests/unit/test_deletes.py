"""What happens between two steps of a delete, above the trash."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.config import PolicyRule
from cephfs_ext.core.errors import ExchangedError
from cephfs_ext.core.types import GATEWAY
from cephfs_ext.storage.posix import PosixStorage
from cephfs_ext.vfs.brake import Brake
from cephfs_ext.vfs.deletes import Deletes
from cephfs_ext.vfs.marks import Marks
from cephfs_ext.vfs.nodes import ROOT, NodeTable
from trashbin.domains import Domains
from trashbin.put import Deleter, Put

_WHO = Deleter(GATEWAY, 0, "")


class _Nothing:
    """Journal and meter of no interest."""

    def __getattr__(self, _: str) -> Any:
        return lambda *args, **kwargs: None


def _deletes(storage: PosixStorage, domains: Domains) -> Deletes:
    nothing: Any = _Nothing()
    nodes = NodeTable(storage)
    return Deletes(
        storage,
        nodes,
        domains,
        Put(storage, nothing, nothing, instance="0001", clock=MonotonicNs()),
        nothing,
        Marks(storage, nodes),
        Brake(nothing, per_minute=0),
        nothing,
        rules=[PolicyRule("temporary", keep=False, match=("*.tmp",))],
        enabled=True,
        shadow=False,
        deletes_when_full=False,
    )


@pytest.mark.parametrize("how", ["unlinked", "replaced"])
def test_exempt_name_stays_with_what_is_kept_by_another_at_the_same_time(
    tmp_path: Path, how: str
) -> None:
    """[policy-1], [link-3]: the exempt name turns out to be the last."""

    async def main() -> None:
        storage = await PosixStorage.connect(str(tmp_path))
        domains = Domains(storage, owner_uid=os.geteuid(), shards_per_rank=2)
        deletes: Any = _deletes(storage, domains)
        (tmp_path / "exempt.tmp").write_text("content")
        (tmp_path / "kept").hardlink_to(tmp_path / "exempt.tmp")
        explain = deletes.explain

        async def explained(parent: Any, name: bytes, victim: Any) -> Any:
            verdict = await explain(parent, name, victim)
            deletes.explain = explain
            await deletes.unlink(ROOT, b"kept", _WHO)
            return verdict

        deletes.explain = explained
        if how == "unlinked":
            await deletes.unlink(ROOT, b"exempt.tmp", _WHO)
        else:
            await _replace(storage, deletes)
        domains.close()
        await storage.close()

    trio.run(main)
    assert (tmp_path / "exempt.tmp").exists() == (how == "replaced")
    (content,) = (tmp_path / ".trashbin").rglob("*.exempt.tmp")
    assert content.read_text() == "content"


async def _replace(storage: PosixStorage, deletes: Deletes) -> None:
    """Rename over the exempt name, as the vfs does: anew if something has changed meanwhile."""
    created = await storage.create(storage.root, b"new", 0o644, os.O_WRONLY, GATEWAY)
    await storage.release(created.handle)

    async def rename() -> None:
        await storage.rename(storage.root, b"new", storage.root, b"exempt.tmp", GATEWAY)

    for attempt in range(2):
        victim = await storage.lookup(storage.root, b"exempt.tmp")
        with contextlib.suppress(ExchangedError):
            await deletes.replace(ROOT, b"exempt.tmp", victim, _WHO, rename)
            assert attempt == 1
            return


def test_exempt_name_of_several_is_really_removed(tmp_path: Path) -> None:
    """[policy-1]."""

    async def main() -> None:
        storage = await PosixStorage.connect(str(tmp_path))
        domains = Domains(storage, owner_uid=os.geteuid(), shards_per_rank=2)
        (tmp_path / "exempt.tmp").write_text("content")
        (tmp_path / "kept").hardlink_to(tmp_path / "exempt.tmp")
        await _deletes(storage, domains).unlink(ROOT, b"exempt.tmp", _WHO)
        domains.close()
        await storage.close()

    trio.run(main)
    assert not (tmp_path / "exempt.tmp").exists()
    assert (tmp_path / "kept").stat().st_nlink == 1
