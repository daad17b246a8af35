"""Workloads of whole programs, as people run them; the time to start them is in the figures."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from bench.workload import Cache, Place, workload

_DIRECTORIES = (100, 5)
_FILES_PER_DIRECTORY = 20
_MANY = (10_000, 200)
_PER_DIRECTORY = 1_000
_REPOSITORY_DIRECTORIES = (150, 5)
_MODULES = (200, 20)
_BYTES = 1_500
_NO_SETTINGS = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "HOME": "/nonexistent",
}
_PYTHON = "/usr/bin/python3"
"""Not ours: a user may not get into the directory that it is in."""
_AUTHOR = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]


def _archive(place: Place, directories: int) -> Path:
    """Return a tar archive of a source tree, made once per run."""
    path = place.scratch / f"tree-{directories}.tar"
    if not path.exists():
        with tarfile.open(path, mode="x") as archive:
            for number in range(directories):
                _add_directory(archive, number)
    return path


def _add_directory(archive: tarfile.TarFile, number: int) -> None:
    name = f"tree/part{number % 10}/dir{number}"
    for file in range(_FILES_PER_DIRECTORY):
        text = f"content of {name} {file}\n".encode()
        data = (text * (_BYTES // len(text) + 1))[:_BYTES]
        info = tarfile.TarInfo(f"{name}/file{file}.c")
        info.size, info.mode, info.mtime = len(data), 0o644, 1_700_000_000
        archive.addfile(info, BytesIO(data))


def _extract(place: Place, directories: int) -> int:
    archive = _archive(place, directories)
    subprocess.run(["tar", "-xf", archive, "-C", place.path], check=True)
    return directories * _FILES_PER_DIRECTORY


def _prepare_archive(place: Place) -> None:
    _archive(place, place.scaled(*_DIRECTORIES))


@workload("tar -xf of a tree of small files", unit="file", setup=_prepare_archive)
def untar(place: Place) -> int:
    return _extract(place, place.scaled(*_DIRECTORIES))


def _tree(place: Place) -> None:
    _extract(place, place.scaled(*_DIRECTORIES))


@workload("rm -rf of the same tree", unit="file", setup=_tree)
def rm_rf(place: Place) -> int:
    subprocess.run(["rm", "-rf", place.path / "tree"], check=True)
    return place.scaled(*_DIRECTORIES) * _FILES_PER_DIRECTORY


def _many(place: Place) -> None:
    for number in range(place.scaled(*_MANY)):
        directory = place.path / "tree" / f"dir{number // _PER_DIRECTORY}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file{number}").touch()


@workload("rm -rf of 10,000 files, until it returns", unit="file", setup=_many)
def rm_rf_many(place: Place) -> int:
    subprocess.run(["rm", "-rf", place.path / "tree"], check=True)
    return place.scaled(*_MANY)


@workload("the same, until all of them are in the trash", unit="file", setup=_many)
def rm_rf_many_done(place: Place) -> int:
    rm_rf_many(place)
    with contextlib.suppress(FileNotFoundError):  # others have none
        os.listdir(place.path / ".trashbin")  # it waits for what is pending
    return place.scaled(*_MANY)


def _git(place: Place, *words: str) -> str:
    command = ["git", "-C", os.fspath(place.path / "tree"), *_AUTHOR, *words]
    environment = {**os.environ, **_NO_SETTINGS}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout


def _repository(place: Place) -> None:
    _extract(place, place.scaled(*_REPOSITORY_DIRECTORIES))
    _git(place, "init", "-q")
    _git(place, "config", "core.fsync", "none")  # it is made to be read, not to last
    _git(place, "add", ".")
    _git(place, "commit", "-q", "-m", "tree")


@workload("git status of a clean repository", unit="file", cache=Cache.WARM, setup=_repository,
          kept=True)  # fmt: skip
def git_status(place: Place) -> int:
    assert _git(place, "status", "--porcelain") == ""
    return place.scaled(*_REPOSITORY_DIRECTORIES) * _FILES_PER_DIRECTORY


def _package(place: Place) -> None:
    """Write a package whose modules import each other's names, and have Python compile it."""
    package = place.path / "package"
    package.mkdir()
    modules = [f"module{number:03}" for number in range(place.scaled(*_MODULES))]
    for module in modules:
        (package / f"{module}.py").write_text(f"NAME = {module!r}\n\ndef f(x):\n    return x\n")
    lines = [f"from package.{module} import f as f_{module}\n" for module in modules]
    (package / "__init__.py").write_text("".join(lines))
    _import(place)


def _import(place: Place) -> None:
    # the environment may forbid Python to write what it compiles
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    program = f"import sys; sys.path.insert(0, {os.fspath(place.path)!r}); import package"
    subprocess.run([_PYTHON, "-S", "-c", program], check=True, env=environment)


@workload("python imports a compiled package", unit="module", cache=Cache.WARM, setup=_package,
          kept=True)  # fmt: skip
def import_warm(place: Place) -> int:
    _import(place)
    return place.scaled(*_MODULES)


@workload("python imports a compiled package", unit="module", cache=Cache.DROPPED,
          setup=_package, kept=True)  # fmt: skip
def import_cold(place: Place) -> int:
    _import(place)
    return place.scaled(*_MODULES)
