"""Which versions are more than is to be kept: [policy-7]."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cephfs_ext.storage.posix import PosixStorage
from tests.property.gateways import SilentMeter
from trashbin import layout, versions
from trashbin.domains import Domains
from trashbin.layout import EntryName, Term
from trashbin.versions import Versions

_ONE = Term(versions=1)
_Find = Callable[[], list[bytes]]


@pytest.fixture
def find(tmp_path: Path) -> _Find:
    """Return what finds the surplus of a trash in which one version of each name is kept."""

    def found() -> list[bytes]:
        async def main() -> list[bytes]:
            storage = await PosixStorage.connect(str(tmp_path))
            domains = Domains(storage, owner_uid=os.geteuid(), shards_per_rank=1, terms=[_ONE])
            meter = SilentMeter()
            domain = await domains.root()
            names = [one.name async for one in Versions(meter).surplus(domain)]
            domains.close()
            await storage.close()
            return names

        return trio.run(main)

    found()  # which sets the trash up
    return found


def _entry(top: Path, name: bytes, ago_s: float) -> Path:
    """Lay a file into the trash that was deleted so long ago."""
    deleted_ns = time.time_ns() - int(ago_s * 1e9)
    entry = EntryName(deleted_ns, "0001", 0, os.stat(top).st_ino, name)  # type: ignore[arg-type]
    hour = top / ".trashbin" / f"r0.00{_ONE.suffix.decode()}" / os.fsdecode(entry.hour)
    hour.mkdir(exist_ok=True)
    path = hour / os.fsdecode(entry.path[0])
    path.write_bytes(name)
    return path


def test_older_ones_are_surplus(tmp_path: Path, find: _Find) -> None:
    old, _, _ = (_entry(tmp_path, name, ago) for name, ago in [(b"f", 9), (b"f", 0), (b"g", 1)])
    assert find() == [os.fsencode(old.name)]


def test_what_a_rename_may_not_replace_after_all_is_no_version(tmp_path: Path, find: _Find) -> None:
    """Its link is taken back if the rename fails; the version before it must be there then."""
    old = _entry(tmp_path, b"f", 300)
    in_place = tmp_path / "f"
    in_place.hardlink_to(_entry(tmp_path, b"f", 0))
    assert find() == []
    in_place.unlink()
    assert find() == [os.fsencode(old.name)]


def test_names_beyond_a_limit_keep_all(
    tmp_path: Path, find: _Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "VERSIONS_COUNTED", 1)
    for name, ago in [(b"f", 0), (b"f", 9), (b"g", 20), (b"g", 30)]:
        _entry(tmp_path, name, ago)
    parsed = [layout.parse_entry(name) for name in find()]
    assert [entry and entry.name for entry in parsed] == [b"f"]
