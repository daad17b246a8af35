"""Workloads of large files."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from bench.workload import Cache, Place, workload

_MIB = 1024 * 1024
_MIBS = (1_024, 16)
_PAGE = 4_096
_PAGES = (32_768, 512)
_READERS = 16
_PARTS = (2_048, 64)


def _path(place: Place) -> str:
    return os.fspath(place.path / "large")


def _write(place: Place, count: int, block: bytes, *, durable: bool) -> int:
    fd = os.open(_path(place), os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        for _ in range(count):
            assert os.write(fd, block) == len(block)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    return count


def _write_mibs(place: Place, *, durable: bool) -> int:
    return _write(place, place.scaled(*_MIBS), os.urandom(_MIB), durable=durable)


def _release_space(place: Place) -> None:
    """Delete the file really: a trash would keep 1 GiB per round, and the cluster is in memory."""
    os.setxattr(place.path, "user.cephfs_ext.trash", b"off")
    os.unlink(_path(place))


@workload("write 1 GiB by 1 MiB, fsync, close", unit="MiB", cleanup=_release_space)
def write_1g(place: Place) -> int:
    return _write_mibs(place, durable=True)


@workload("the same without fsync", unit="MiB", cleanup=_release_space)
def write_1g_unsynced(place: Place) -> int:
    return _write_mibs(place, durable=False)


@workload("write 128 MiB by 4 KiB, fsync, close", unit="write", cleanup=_release_space)
def write_4k(place: Place) -> int:
    return _write(place, place.scaled(*_PAGES), os.urandom(_PAGE), durable=True)


def _large_file(place: Place) -> None:
    _write_mibs(place, durable=True)


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


def _parts(place: Place) -> None:
    data = os.urandom(64 * 1024)
    for path in place.files(place.scaled(*_PARTS)):
        with open(path, "wb") as file:
            file.write(data)


def _read_some(paths: list[str]) -> int:
    size = 0
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            size += len(file.readall())
    return size


@workload("16 readers, each of its own 64 KiB files", unit="file", cache=Cache.COLD, setup=_parts,
          kept=True)  # fmt: skip
def readers_16(place: Place) -> int:
    paths = place.files(place.scaled(*_PARTS))
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = pool.map(_read_some, [paths[i::_READERS] for i in range(_READERS)])
    assert sum(sizes) == len(paths) * 64 * 1024
    return len(paths)
