"""Fixtures that unit tests share."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.property.gateways import PosixGround


@pytest.fixture
def ground(tmp_path: Path) -> PosixGround:
    """Return a fresh directory for gateways, which set the umask."""
    os.umask(0)
    return PosixGround(tmp_path)


@pytest.fixture
def play(ground: PosixGround) -> Callable[[Callable[[PosixGround], Awaitable[None]]], None]:
    """Run a script on the ground."""

    def played(script: Callable[[PosixGround], Awaitable[None]]) -> None:
        trio.run(script, ground)

    return played
