"""Workloads of large files."""

from __future__ import annotations

import os

from bench.workload import Cache, Place, workload

_MIB = 1024 * 1024
_MIBS = (1_024, 16)


def _path(place: Place) -> str:
    return os.fspath(place.path / "large")


def _write(place: Place, *, durable: bool) -> int:
    count, block = place.scaled(*_MIBS), os.urandom(_MIB)
    fd = os.open(_path(place), os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        for _ in range(count):
            assert os.write(fd, block) == _MIB
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    return count


def _release_space(place: Place) -> None:
    """Empty the file first: a trash would keep 1 GiB per round, and the cluster is in memory."""
    os.truncate(_path(place), 0)
    os.unlink(_path(place))


@workload("write 1 GiB by 1 MiB, fsync, close", unit="MiB", cleanup=_release_space)
def write_1g(place: Place) -> int:
    return _write(place, durable=True)


def _large_file(place: Place) -> None:
    _write(place, durable=True)


@workload("read 1 GiB by 1 MiB", unit="MiB", cache=Cache.COLD, setup=_large_file,
          cleanup=_release_space, kept=True)  # fmt: skip
def read_1g(place: Place) -> int:
    fd = os.open(_path(place), os.O_RDONLY)
    try:
        size = 0
        while data := os.read(fd, _MIB):
            size += len(data)
    finally:
        os.close(fd)
    assert size == place.scaled(*_MIBS) * _MIB, size
    return size // _MIB
