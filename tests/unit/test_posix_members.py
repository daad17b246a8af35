"""Files that are members: whose lock decides, also between making and locking one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cephfs_ext.storage import posix_members as members


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_lives_as_long_as_it_is_locked(directory: int) -> None:
    fd = members.try_enter(directory, "one", b"about")
    assert fd is not None
    assert not os.get_inheritable(fd)
    assert members.names(directory) == ["one"]
    assert members.try_succeed(directory, "one") is None
    assert members.try_enter(directory, "one", b"another") is None
    os.close(fd)  # as its death would
    taken = members.try_succeed(directory, "one")
    assert taken is not None
    assert taken[1] == b"about"
    assert members.names(directory) == ["one"]
    members.leave(directory, "one", taken[0])
    assert members.names(directory) == []
    assert members.try_succeed(directory, "one") is None


def test_other_files_are_no_members(directory: int, tmp_path: Path) -> None:
    for name in ("pressure", "domain.1", "18ec27a2b29a3aea.b31b"):
        (tmp_path / name).touch()
    assert members.names(directory) == []


def test_who_comes_again_says_only_what_is_new(directory: int) -> None:
    first = members.try_enter(directory, "one", b"much that was said before")
    assert first is not None
    os.close(first)
    again = members.try_enter(directory, "one", b"new")
    assert again is not None
    os.close(again)
    taken = members.try_succeed(directory, "one")
    assert taken is not None
    assert taken[1] == b"new"
    os.close(taken[0])


def test_who_loses_the_name_before_it_is_locked_is_no_member(
    directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has taken the new file for that of a dead member."""
    lock = fcntl.flock

    def lock_late(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        taken = members.try_succeed(directory, "one")
        assert taken is not None
        assert taken[1] == b""
        members.leave(directory, "one", taken[0])
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    before = os.listdir("/proc/self/fd")
    assert members.try_enter(directory, "one", b"about") is None
    assert os.listdir("/proc/self/fd") == before
    fd = members.try_enter(directory, "one", b"about")
    assert fd is not None
    assert members.names(directory) == ["one"]
    os.close(fd)
