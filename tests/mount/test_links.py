"""The other names of a file that a rename has replaced one name of."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.gateway import Gateway

_JOURNALLED_S = 1.5
"""CephFS clients used to lose names a moment after the rename."""


def _linked_file(top: Path) -> None:
    """Make a file with three names in as many directories, and list these."""
    for name in ("here", "there", "elsewhere"):
        (top / name).mkdir(parents=True)
    (top / "here/file").write_text("content")
    for name in ("there", "elsewhere"):
        os.link(top / "here/file", top / name / "file")
    for name in ("here", "there", "elsewhere"):
        assert [path.name for path in (top / name).iterdir()] == ["file"]


def _check(top: Path) -> None:
    for name in ("here", "elsewhere"):
        assert [path.name for path in (top / name).iterdir()] == ["file"]
        assert (top / name / "file").read_text() == "content"
        assert (top / name / "file").stat().st_nlink == 2


def test_they_are_found_and_listed(gateway: Gateway) -> None:
    top = gateway.path / "top"
    _linked_file(top)
    (top / "new").write_text("other")
    os.rename(top / "new", top / "there/file")
    assert [path.name for path in (top / "there").iterdir()] == ["file"]
    _check(top)
    time.sleep(_JOURNALLED_S)
    _check(top)


def test_they_are_found_where_nothing_is_kept(unmounted: Gateway) -> None:
    with unmounted.mounted("-o", "trash.enabled=false"):
        top = unmounted.path / "top"
        _linked_file(top)
        (top / "new").write_text("other")
        os.rename(top / "new", top / "there/file")
        time.sleep(_JOURNALLED_S)
        _check(top)
