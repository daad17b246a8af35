"""Another gateway that goes on working while one is killed, and how long it has to wait."""

from __future__ import annotations

import subprocess
import sys

from tests.faults.contents import Contents, Names
from tests.gateway import Gateway

_LIMIT_S = 120

# Makes, reads, lists and deletes in the directories in turn, until its input ends. A word goes out
# when a content is synced under its name; at the end the slowest step.
_WORK = """
import os, select, sys, time
mark, pause_s, *directories = sys.argv[1:]
longest, number = 0.0, 0
while not select.select([sys.stdin], [], [], 0)[0]:
    directory = directories[number % len(directories)]
    path = f"{directory}/neighbour{number}"
    def make():
        with open(path, "x") as file:
            file.write(f"{mark}:neighbour-{number}")
            file.flush()
            os.fsync(file.fileno())
        print("made", number, flush=True)
    def look():
        for name in os.listdir(directory):
            try:
                os.stat(f"{directory}/{name}")
            except FileNotFoundError:
                pass
    def remove():
        if number % 2:
            os.unlink(path)
    for step in (make, look, remove):
        begun = time.monotonic()
        step()
        longest = max(longest, time.monotonic() - begun)
    time.sleep(float(pause_s))
    number += 1
print("longest", longest, flush=True)
"""


class Worker:
    """A program on the mount of the other gateway."""

    def __init__(
        self, neighbour: Neighbour, mark: str, directories: list[str], pause_s: float
    ) -> None:
        self._neighbour = neighbour
        self._mark = mark
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORK, mark, str(pause_s), *directories],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def end(self) -> Contents:
        """Stop the program, which must not have failed; return what it has made."""
        printed = self._process.communicate("stop\n", timeout=_LIMIT_S)[0]
        assert self._process.returncode == 0
        lines = [line.split() for line in printed.splitlines()]
        self._neighbour.waits_s += [float(last) for word, last in lines if word == "longest"]
        made = [number for word, number in lines if word == "made"]
        return {f"{self._mark}:neighbour-{number}": Names(1, 1) for number in made}


class Neighbour:
    """The other gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.waits_s: list[float] = []
        """The slowest step of each round."""

    def work(self, mark: str, directories: list[str], *, pause_s: float = 0) -> Worker:
        """Begin to work in some directories."""
        paths = [str(self._gateway.path / path) for path in directories]
        return Worker(self, mark, paths, pause_s)
