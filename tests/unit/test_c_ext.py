"""What Python calls in C is there: nothing else would tell before it is called."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from c_ext import _lane, _libcephfs, _posix

_SOURCES = Path(__file__).parents[2] / "cephfs_ext"


@pytest.mark.parametrize("module", [_lane, _libcephfs, _posix])
def test_every_function_that_is_called_exists(module: Any) -> None:
    importing = re.compile(rf"^from {re.escape(module.__name__)} import .*\blib\b", re.MULTILINE)
    callers = [path for path in _SOURCES.rglob("*.py") if importing.search(path.read_text())]
    assert callers
    called = {name for path in callers for name in re.findall(r"\blib\.(\w+)", path.read_text())}
    assert [name for name in sorted(called) if not hasattr(module.lib, name)] == []
