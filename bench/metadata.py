"""Workloads of names and attributes: one call of one kind, again and again."""

from __future__ import annotations

import contextlib
import os
import subprocess

from bench.workload import Cache, Place, workload

_FILES = (1_000, 50)
_LARGE = (5_000, 200)
_BYTES = 4_096


def _paths(place: Place) -> list[str]:
    return place.files(place.scaled(*_FILES))


def _write(paths: list[str], data: bytes) -> None:
    for path in paths:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
        if data:
            os.write(fd, data)
        os.close(fd)


def _small_files(place: Place) -> None:
    _write(_paths(place), b"x" * _BYTES)


def _known_files(place: Place) -> None:
    """Make files and look at each, as a shell does that expands `*` or `rm` that lists."""
    _write(_paths(place), b"")
    _stat(_paths(place))


def _stat(paths: list[str]) -> int:
    for path in paths:
        os.stat(path)
    return len(paths)


def _large_directory(place: Place) -> None:
    _write(place.files(place.scaled(*_LARGE)), b"")


@workload("open(O_CREAT), close; empty files in one directory", unit="file")
def create(place: Place) -> int:
    _write(_paths(place), b"")
    return len(_paths(place))


@workload("open(O_CREAT), write 4 KiB, close", unit="file")
def create_write(place: Place) -> int:
    _small_files(place)
    return len(_paths(place))


@workload("stat by path", unit="stat", cache=Cache.WARM, setup=_small_files, kept=True)
def stat_warm(place: Place) -> int:
    return _stat(_paths(place))


@workload("stat by path", unit="stat", cache=Cache.DROPPED, setup=_small_files, kept=True)
def stat_cold(place: Place) -> int:
    return _stat(_paths(place))


@workload("stat of names that aren't there, beside files that are", unit="stat",
          cache=Cache.WARM, setup=_small_files, kept=True)  # fmt: skip
def missing(place: Place) -> int:
    for path in _paths(place):
        with contextlib.suppress(FileNotFoundError):
            os.stat(path + ".no")
    return len(_paths(place))


def _read_all(place: Place) -> int:
    for path in _paths(place):
        fd = os.open(path, os.O_RDONLY)
        assert len(os.read(fd, 2 * _BYTES)) == _BYTES
        os.close(fd)
    return len(_paths(place))


@workload("open, read 4 KiB, close", unit="file", cache=Cache.WARM, setup=_small_files, kept=True)
def open_read_warm(place: Place) -> int:
    return _read_all(place)


@workload("open, read 4 KiB, close", unit="file", cache=Cache.COLD, setup=_small_files, kept=True)
def open_read_cold(place: Place) -> int:
    return _read_all(place)


@workload("chmod of files just seen", unit="file", setup=_known_files)
def chmod(place: Place) -> int:
    for path in _paths(place):
        os.chmod(path, 0o600)
    return len(_paths(place))


@workload("utimensat of files just seen", unit="file", setup=_known_files)
def utime(place: Place) -> int:
    for path in _paths(place):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return len(_paths(place))


@workload("mkdir in one directory", unit="dir")
def mkdir(place: Place) -> int:
    for path in _paths(place):
        os.mkdir(path)
    return len(_paths(place))


@workload("rename of files just seen, to new names beside them", unit="file", setup=_known_files)
def rename(place: Place) -> int:
    for path in _paths(place):
        os.rename(path, path + ".new")
    return len(_paths(place))


def _known_pairs(place: Place) -> None:
    _known_files(place)
    _write([path + ".new" for path in _paths(place)], b"")


@workload("rename of new files over files just seen, as editors save", unit="file",
          setup=_known_pairs)  # fmt: skip
def replace(place: Place) -> int:
    for path in _paths(place):
        os.rename(path + ".new", path)
    return len(_paths(place))


@workload("unlink of files just seen", unit="file", setup=_known_files)
def unlink(place: Place) -> int:
    for path in _paths(place):
        os.unlink(path)
    return len(_paths(place))


def _list(place: Place) -> int:
    names = os.listdir(place.path)
    assert len(names) == place.scaled(*_LARGE), len(names)
    return len(names)


@workload("names of a large directory", unit="name", cache=Cache.WARM, setup=_large_directory,
          kept=True)  # fmt: skip
def readdir_warm(place: Place) -> int:
    return _list(place)


@workload("names of a large directory", unit="name", cache=Cache.DROPPED, setup=_large_directory,
          kept=True)  # fmt: skip
def readdir_cold(place: Place) -> int:
    return _list(place)


@workload("ls -l of a large directory", unit="name", cache=Cache.DROPPED, setup=_large_directory,
          kept=True)  # fmt: skip
def ls_l(place: Place) -> int:
    command = ["ls", "-l", os.fspath(place.path)]
    done = subprocess.run(command, check=True, capture_output=True)
    count = done.stdout.count(b"\n") - 1
    assert count == place.scaled(*_LARGE), count
    return count
