"""Compiles C sources of the lane for tests: into a library for cffi, or a program to run."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from functools import cache
from pathlib import Path

LANE = Path(__file__).parents[2] / "c_ext" / "lane"
HERE = Path(__file__).parent

_STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-pthread")
_BUILD_S = 120
_RUN_S = 120
_FOUND = 99
"""How a program ends of which a sanitizer has found something to report."""

_COMMON = f"exitcode={_FOUND}:halt_on_error=1"
_ENVIRONMENT = {
    "ASAN_OPTIONS": f"{_COMMON}:detect_leaks=1",
    "LSAN_OPTIONS": f"exitcode={_FOUND}",
    "TSAN_OPTIONS": _COMMON,
    "UBSAN_OPTIONS": _COMMON,
}

PLAIN = ("-O1",)
MEMORY = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
"""AddressSanitizer, which looks for leaks too, and UndefinedBehaviorSanitizer."""
THREADS = ("-O1", "-g", "-fsanitize=thread")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    printed: str
    reported: str
    """What it wrote to stderr; the sanitizers write there."""

    @property
    def is_reported(self) -> bool:
        return self.code == _FOUND


class Builds:
    """Builds each thing once; what it built is in a directory of its own."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._built: dict[tuple[str, ...], Path] = {}

    def library(self, *sources: str) -> Path:
        """Return a shared library of sources of the lane."""
        flags = (*PLAIN, "-D_GNU_SOURCE", "-fPIC", "-shared")
        return self._build(*flags, *(str(LANE / source) for source in sources))

    def program(self, main: str, *sources: str, flags: tuple[str, ...]) -> Path:
        """Return a program: `main` is in this directory.

        The other sources are the lane's, unless their path is absolute.
        """
        objects = (
            self._object(flags, path) for path in (HERE / main, *map(LANE.joinpath, sources))
        )
        return self._build(*flags, *objects)

    def _object(self, flags: tuple[str, ...], source: Path) -> str:
        compiling = (flag for flag in flags if not flag.startswith("-Wl,"))
        return str(self._build(*compiling, "-c", str(source), suffix=".o"))

    def _build(self, *arguments: str, suffix: str = "") -> Path:
        if arguments not in self._built:
            target = self._top / f"built-{len(self._built)}{suffix}"
            command = ("gcc", *_STRICT, f"-I{LANE}", *arguments, "-o", str(target))
            done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_S)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
            self._built[arguments] = target
        return self._built[arguments]


def run(program: Path, *arguments: str) -> Ended:
    """Run a program to its end.

    Raises:
        subprocess.TimeoutExpired: it hangs; it has been killed.
    """
    done = subprocess.run(
        (*_at_fixed_addresses(), str(program), *arguments),
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_RUN_S,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@cache
def _at_fixed_addresses() -> tuple[str, ...]:
    """Return what to run programs with where random addresses can be turned off.

    ThreadSanitizer can't start where a kernel randomizes more bits than it expects
    (vm.mmap_rnd_bits over 28); containers may forbid to turn that off, and needn't have it.
    """
    fixed = ("setarch", "-R")
    return fixed if subprocess.run((*fixed, "true"), capture_output=True).returncode == 0 else ()


def declarations(header: str) -> str:
    """Return what a header of the lane declares, for `cdef` of cffi."""
    text = (LANE / header).read_text()
    for name, number in re.findall(r"^#define (\w+) (\d+)u?$", text, re.MULTILINE):
        text = re.sub(rf"\b{name}\b", number, text)
    return re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
