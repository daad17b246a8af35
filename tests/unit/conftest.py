"""Fixtures that unit tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from cephfs_ext.cli.main import cli, run
from tests.property.gateways import PosixGround
from tests.unit.command import Call, Done
from tests.unit.fake_gateway import FakeService, serving


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


@pytest.fixture
def service() -> FakeService:
    """Return a service that remembers what it is asked."""
    return FakeService()


@pytest.fixture
def call(
    service: FakeService,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Call]:
    """Carry out command lines against that service."""
    monkeypatch.setenv("CEPHFS_EXT_SOCKET", str(base / "control.sock"))

    def call(*words: str) -> Done:
        code = run(cli, words, "cephfs-ext")
        return Done(code, *capsys.readouterr())

    with serving(service, base):
        yield call
        gc.collect()
