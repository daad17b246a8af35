"""Listings that go on while their directory changes: what the kernel learns is true, [cache-4]."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway import Gateway

COUNT = 600
FIRST = 5
"""What a program has taken before the change; the kernel has read some hundred."""
LATER = slice(300, 320)
"""What it hasn't read, but the gateway may have."""


@pytest.fixture
def directory(gateway: Gateway) -> Path:
    directory = gateway.path / "directory"
    directory.mkdir()
    for number in range(COUNT):
        (directory / f"file-{number:03d}").touch()
    return directory


@pytest.fixture
def later(directory: Path) -> list[str]:
    """Return names that a listing reaches late."""
    return os.listdir(directory)[LATER]


def begun(directory: Path) -> Iterator[os.DirEntry[str]]:
    """Return a listing of which a little has been read."""
    entries = os.scandir(directory)
    assert len(list(itertools.islice(entries, FIRST))) == FIRST
    return entries


def test_removed_name_is_gone_for_the_rest_of_a_listing(directory: Path, later: list[str]) -> None:
    listing = begun(directory)
    for name in later:
        (directory / name).unlink()
    list(listing)
    assert [name for name in later if (directory / name).exists()] == []


def test_size_is_that_of_the_last_write_after_a_listing(directory: Path, later: list[str]) -> None:
    with (directory / later[0]).open("ab", buffering=0) as stream:
        listing = begun(directory)
        stream.write(b"12345")
        list(listing)
        assert os.fstat(stream.fileno()).st_size == 5
        stream.write(b"678")
    assert (directory / later[0]).read_bytes() == b"12345678"


def test_mode_is_the_last_one_after_a_listing(directory: Path, later: list[str]) -> None:
    listing = begun(directory)
    (directory / later[0]).chmod(0o600)
    list(listing)
    assert (directory / later[0]).stat().st_mode & 0o777 == 0o600


def test_every_name_that_stays_is_listed_once(directory: Path, later: list[str]) -> None:
    listing = begun(directory)
    for name in later:
        (directory / name).unlink()
    seen = [entry.name for entry in listing]
    assert len(seen) == len(set(seen))
    assert len(set(seen) - set(later)) == COUNT - len(later) - FIRST
