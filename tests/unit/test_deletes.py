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
from cephfs_ext.core.errors import ExchangedError, FullError
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


def _deletes(
    storage: PosixStorage, domains: Domains, *, shadow: bool = False, when_full: bool = False
) -> Deletes:
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
        shadow=shadow,
        deletes_when_full=when_full,
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


@pytest.mark.parametrize("mode", ["shadow", "full"])
def test_what_a_tombstone_promises_is_kept_where_nothing_else_is(tmp_path: Path, mode: str) -> None:
    """[link-4], [policy-5], [full-2]: the other name has been deleted and can be restored."""

    async def main() -> None:
        storage = await PosixStorage.connect(str(tmp_path))
        domains = Domains(storage, owner_uid=os.geteuid(), shards_per_rank=2)
        (tmp_path / "first").write_text("content")
        (tmp_path / "last").hardlink_to(tmp_path / "first")
        (tmp_path / "other").write_text("other")
        await _deletes(storage, domains).unlink(ROOT, b"first", _WHO)
        deletes: Any = _deletes(storage, domains, shadow=mode == "shadow", when_full=mode == "full")
        if mode == "full":
            deletes.in_domain = _full
            with pytest.raises(FullError):
                await deletes.unlink(ROOT, b"last", _WHO)
        else:
            await deletes.unlink(ROOT, b"last", _WHO)
        await deletes.unlink(ROOT, b"other", _WHO)
        domains.close()
        await storage.close()

    async def _full(*_: Any) -> None:
        raise FullError()

    trio.run(main)
    assert (tmp_path / "last").exists() == (mode == "full")
    assert not (tmp_path / "other").exists()
    kept = [path.name.rpartition(".")[2] for path in (tmp_path / ".trashbin").glob("r0.*/20*/*")]
    assert kept == (["last"] if mode == "shadow" else [])
