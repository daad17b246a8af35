"""What goes on when the daemon is killed.

A work prepares files and starts a program that deletes, restores, moves, replaces or purges them.
The program fails when its daemon dies; what it prints before says how far it got.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.faults.contents import Contents, Names, plant
from tests.gateway import Gateway

_REPLACE = """
import os, sys, time
top, mark, linked, pause_s = sys.argv[1:]
for number in range(10_000):
    with open(f"{top}/new", "w") as file:
        file.write(f"{mark}:{number}")
        file.flush()
        os.fsync(file.fileno())
    if linked == "linked":
        os.link(f"{top}/new", f"{top}/other/{number}")
    print(number, flush=True)
    os.rename(f"{top}/new", f"{top}/f")
    time.sleep(float(pause_s))
"""
_MOVE = 'for d in "$0"/*; do mv "$d" "$0"/.trashbin/; done'


class Play:
    """A program under way, and what must not get lost by it."""

    def __init__(self, command: list[str], contents: Contents) -> None:
        self._contents = contents
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def is_over(self) -> bool:
        """Tell whether the program has ended by itself."""
        return self._process.poll() is not None

    @property
    def failed(self) -> bool:
        """Whether the program has ended with an error, other than by `stop`."""
        return (self._process.poll() or 0) > 0

    def stop(self) -> None:
        """End the program, if it doesn't by itself."""
        self._process.terminate()

    def end(self) -> Contents:
        """Wait for the program; return what must be found."""
        printed = self._process.communicate(timeout=120)[0]
        return self._contents | self.contents_of(printed.split())

    def contents_of(self, words: list[str]) -> Contents:
        """Return what the program has made, from what it printed."""
        return {}


class _Replacing(Play):
    def __init__(self, top: Path, mark: str, linked: str, pause_s: float = 0) -> None:
        self._mark = mark
        self._names = 2 if linked else 1
        arguments = [str(top), mark, linked, str(pause_s)]
        super().__init__([sys.executable, "-c", _REPLACE, *arguments], {})

    def contents_of(self, words: list[str]) -> Contents:
        return {f"{self._mark}:{word}": Names(self._names, self._names) for word in words}


def remove(gateway: Gateway, top: Path, mark: str) -> Play:
    contents = plant(top, mark)
    return Play(["rm", "-rf", str(top)], contents)


def restore(gateway: Gateway, top: Path, mark: str) -> Play:
    contents = plant(top, mark)
    subprocess.run(["rm", "-rf", str(top)], check=True)
    return Play(gateway.command("trash", "restore", str(top)), contents)


def restore_moved(gateway: Gateway, top: Path, mark: str) -> Play:
    contents = plant(top, mark)
    subprocess.run(["sh", "-c", _MOVE, str(top)], check=True)
    paths = [str(top / f"d{number}") for number in range(6)]
    return Play(gateway.command("trash", "restore", *paths), contents)


def move(gateway: Gateway, top: Path, mark: str) -> Play:
    contents = plant(top, mark)
    return Play(["sh", "-c", _MOVE, str(top)], contents)


def replace(gateway: Gateway, top: Path, mark: str) -> Play:
    top.mkdir()
    return _Replacing(top, mark, "")


def replace_slowly(gateway: Gateway, top: Path, mark: str) -> Play:
    top.mkdir()
    return _Replacing(top, mark, "", pause_s=0.2)


def replace_linked(gateway: Gateway, top: Path, mark: str) -> Play:
    (top / "other").mkdir(parents=True)
    return _Replacing(top, mark, "linked")


def purge(gateway: Gateway, top: Path, mark: str) -> Play:
    """Purge one tree of two; what another name keeps, in place or in the trash, stays."""
    kept, gone = plant(top / "kept", mark), plant(top / "gone", mark)
    held = f"{mark}:gone-1-1"
    (top / "held").hardlink_to(top / "gone/d1/below/f1")
    for tree in ("gone", "kept"):
        subprocess.run(["rm", "-rf", str(top / tree)], check=True)
    ids = [item["id"] for item in gateway.trash() if item["path"] == f"{top.name}/gone"]
    assert len(ids) == 1
    may_be_gone = {content: Names(0, names.most) for content, names in gone.items()}
    return Play(
        gateway.command("trash", "purge", *ids, "--yes"),
        kept | may_be_gone | {held: Names(1, 2)},
    )


def hold(gateway: Gateway, top: Path, mark: str) -> Play:
    """Hold what was deleted; each entry of it is held or not, and none is gone."""
    contents = plant(top, mark)
    subprocess.run(["rm", "-rf", str(top)], check=True)
    (entry_id,) = [item["id"] for item in gateway.trash() if item["path"] == top.name]
    return Play(gateway.command("trash", "hold", entry_id), contents)


Work = Callable[[Gateway, Path, str], Play]

WORKS: dict[str, Work] = {
    "rm": remove,
    "restore": restore,
    "restore of moved trees": restore_moved,
    "mv": move,
    "replace": replace,
    "replace linked": replace_linked,
    "purge": purge,
    "hold": hold,
}
