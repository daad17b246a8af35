"""Fixtures that unit tests share."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.property.gateways import PosixGround


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[PosixGround]:
    """Return a fresh directory for gateways; they set the umask, which is given back."""
    umask = os.umask(0)
    yield PosixGround(tmp_path)
    os.umask(umask)


@pytest.fixture
def play(ground: PosixGround) -> Callable[[Callable[[PosixGround], Awaitable[None]]], None]:
    """Run a script on the ground."""

    def played(script: Callable[[PosixGround], Awaitable[None]]) -> None:
        trio.run(script, ground)

    return played
