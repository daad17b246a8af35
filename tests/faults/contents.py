"""Files that a round must not lose: each content is its own, synced, and has a number of names."""

from __future__ import annotations

import base64
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cephfs_ext.control.client import Client
from cephfs_ext.control.service import (
    RestoreReport,
    RestoreRequest,
    TrashListing,
    TrashQuery,
)
from tests.gateway import Gateway

DIRECTORIES = 6
FILES = 8


class Names(NamedTuple):
    """How many names a content must have, in place and in the trash together."""

    least: int
    most: int


Contents = dict[str, Names]

_ONE, _TWO = Names(1, 1), Names(2, 2)


def write(path: Path, content: str) -> None:
    """Write a file, synced."""
    with path.open("x") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def plant(top: Path, mark: str) -> Contents:
    """Make a tree with files, symbolic links, and hard links within and across directories."""
    contents: Contents = {}
    for number in range(DIRECTORIES):
        directory = top / f"d{number}" / "below"
        directory.mkdir(parents=True)
        for file in range(FILES):
            content = f"{mark}:{top.name}-{number}-{file}"
            write(directory / f"f{file}", content)
            contents[content] = _ONE
        target = f"{mark}:{top.name}-{number}-link"
        (directory / "symlink").symlink_to(target)
        contents[target] = _ONE
    for number in range(DIRECTORIES):
        content = f"{mark}:{top.name}-{number}-0"
        other = top / f"d{(number + number % 2) % DIRECTORIES}" / f"linked{number}"
        other.hardlink_to(top / f"d{number}" / "below/f0")
        contents[content] = _TWO
    return contents


class Found(NamedTuple):
    """One name that has been found."""

    path: str
    ino: int


def find(gateway: Gateway, mark: str) -> dict[str, list[Found]]:
    """Read everything of a round; what is in the trash is restored beside the rest before."""
    back = gateway.path / f"back-{mark}"
    back.mkdir()
    client = Client(str(gateway.directory / "admin.sock"))
    try:
        listing = client.post("/v1/trash/list", TrashQuery(), TrashListing)
        assert not listing.damaged, listing.damaged
        if listing.items:
            _restore(client, [item.id for item in listing.items], back)
        left = client.post("/v1/trash/list", TrashQuery(), TrashListing).items
        assert not left, left
    finally:
        client.close()
    found: dict[str, list[Found]] = defaultdict(list)
    for top in os.listdir(gateway.path):
        if top in (mark, back.name):
            for content, name in read(gateway.path / top, mark):
                found[content].append(name)
        else:
            assert top.startswith(("back-", "round", "rehearsal")), top
    return found


def _restore(client: Client, ids: list[str], back: Path) -> None:
    to = base64.b64encode(back.name.encode()).decode()
    request = RestoreRequest(ids=ids, to=to, on_conflict="keep-both")
    report = client.post("/v1/trash/restore", request, RestoreReport)
    bad = [item for item in report.items if item.outcome != "restored"]
    assert not bad, bad


def read(top: Path, mark: str) -> Iterator[tuple[str, Found]]:
    """Yield every content of a round below a directory, and where it is."""
    for directory, dirs, files in os.walk(top):
        for name in (*dirs, *files):
            path = os.path.join(directory, name)
            stats = os.lstat(path)
            if stat.S_ISREG(stats.st_mode):
                with open(path) as file:
                    content = file.read()
            else:
                content = os.readlink(path) if stat.S_ISLNK(stats.st_mode) else ""
            if content.startswith(f"{mark}:"):
                yield content, Found(path, stats.st_ino)


def check(wanted: Contents, found: dict[str, list[Found]]) -> None:
    """Check that nothing is lost, nothing in two places, and linked what was linked."""
    problems = []
    for content, names in wanted.items():
        there = found.get(content, [])
        if not names.least <= len(there) <= names.most:
            problems.append(f"{content} has {len(there)} names, not {names.least}: {there}")
        if len({name.ino for name in there}) > 1:
            problems.append(f"{content} is in several inodes: {there}")
    assert not problems, "\n".join(problems[:20])
