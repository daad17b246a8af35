"""What a gateway that died has left in `restoring/` and `purging/`, and a storage that fails."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.errors import FSError
from cephfs_ext.core.ports import Node
from cephfs_ext.storage.posix import PosixStorage
from tests.property.gateways import OPERATOR
from trashbin import layout
from trashbin.catalog import directories_of_hours
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.expire import Expiry
from trashbin.files import names_in
from trashbin.loading import load
from trashbin.recover import recover
from trashbin.runs import Plan

Script = Callable[[PosixStorage, Domains, Domain], Awaitable[None]]
Play = Callable[[Script], None]

_HOUR = b"2026-01-01T00"
_ENTRY = b"1886747fb8b40000.0001.0.1.name"


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def played(script: Script) -> None:
        async def main() -> None:
            storage = await PosixStorage.connect(str(tmp_path))
            domains = Domains(storage, owner_uid=os.geteuid(), shards_per_rank=1)
            await script(storage, domains, await domains.root())
            domains.close()
            await storage.close()

        trio.run(main)

    return played


@pytest.mark.parametrize("noreplace", [True, False], ids=["noreplace", "placeholder"])
def test_directory_that_has_appeared_stays(play: Play, tmp_path: Path, noreplace: bool) -> None:
    """It looks like a placeholder, but its run is over: the daemon died before it could tidy up."""

    async def script(storage: PosixStorage, domains: Domains, domain: Domain) -> None:
        storage.rename_noreplace = noreplace
        root = storage.root
        plan = Plan(b"r0.00", _HOUR, (_ENTRY,), root.ino, storage.token(root), b"restored")
        run = tmp_path / ".trashbin/restoring/1886747fb8b40000.0001"
        run.mkdir()
        os.symlink(plan.encode(), run / "plan")
        (tmp_path / "restored").mkdir(mode=0o700)
        await recover(domain, ["0001"])
        assert (tmp_path / "restored").is_dir()
        assert not run.exists()

    play(script)


class _Nothing:
    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def test_hour_whose_claim_is_still_there_holds_nothing_up(play: Play, tmp_path: Path) -> None:
    """[trash-7]: both are removed."""

    async def script(storage: PosixStorage, domains: Domains, domain: Domain) -> None:
        trash = tmp_path / ".trashbin"
        hour = trash / "r0.00" / os.fsdecode(_HOUR)
        stuck = trash / f"purging/r0.00.{os.fsdecode(_HOUR)}.0002"
        for directory in (hour, stuck):
            directory.mkdir()
            (directory / os.fsdecode(_ENTRY)).touch()
        seen: list[bytes] = []

        class Remover:
            async def hand_over(self, domain: Domain) -> None:
                seen.extend(await names_in(storage, domain.service(layout.PURGING)))

        nothing: Any = _Nothing()
        remover: Any = Remover()
        expiry = Expiry(
            domains,
            remover,
            nothing,
            nothing,
            retention_s=0,
            audit_s=0,
            instance="0002",
            clock=MonotonicNs(),
        )
        await expiry.once()
        assert len(seen) == 2
        assert os.fsencode(stuck.name) in seen
        assert not hour.exists()
        assert len(list((trash / "purging").iterdir())) == 2

    play(script)


def test_storage_that_fails_in_several_shards_is_one_error(play: Play) -> None:
    """Not a group of them, which the edges would take for a bug."""

    async def script(storage: PosixStorage, domains: Domains, domain: Domain) -> None:
        async def opendir(node: Node) -> Any:
            if node.ino != domain.trash.ino:
                raise FSError(what="broken")
            return await original(node)

        for above in directories_of_hours(domain):
            storage.forget(await domain.make(domain.directories[above], _HOUR))
        original, storage.opendir = storage.opendir, opendir  # type: ignore[method-assign]
        with pytest.raises(FSError, match="broken"):
            await load(domain, _HOUR, OPERATOR, dict, None, [])

    play(script)
