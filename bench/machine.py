"""What a result was taken on: kernel, processors, versions. Never fails: unknown is unknown."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[1]
_PACKAGES = ("cephfs-ext", "pyfuse3", "trio", "cffi")
_COMMANDS = {
    "git commit": ["git", "-C", str(_CHECKOUT), "describe", "--always", "--dirty"],
    "ceph-fuse": ["ceph-fuse", "--version"],
    "bindfs": ["bindfs", "--version"],
    "fusermount3": ["fusermount3", "--version"],
    "git": ["git", "--version"],
}
_VERSION = re.compile(r"\d+(?:\.\d+)+")


def describe_machine() -> dict[str, str | int]:
    """Say which machine this is."""
    return {
        "kernel": platform.release(),
        "processors": len(os.sched_getaffinity(0)),
        "processor": _field("/proc/cpuinfo", "model name"),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "load_average": os.getloadavg()[0].__format__(".2f"),
    }


def describe_versions() -> dict[str, str]:
    """Say which versions of everything are used."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    for name, command in _COMMANDS.items():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            text = done.stdout.strip() or done.stderr.strip()
            number = None if name == "git commit" else _VERSION.search(text)
            versions[name] = number[0] if number else text
    return versions


def _field(path: str, name: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return "unknown"
