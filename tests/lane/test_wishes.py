"""The queue of requests for locks that have no answer yet."""

from __future__ import annotations

import errno
import re
from typing import Any

import pytest
from cffi import FFI

from tests.lane.building import Builds, declarations

_MOST = 3


class _Queue:
    def __init__(self, library: Any) -> None:
        self._lib = library
        self._wishes = library.cx_wishes_new(_MOST)

    def add(self, unique: int, inode: int = 1) -> Any:
        """Note a wish that is asked for."""
        return self._lib.cx_wishes_add(self._wishes, {"unique": unique, "id": inode})

    def wait(self, unique: int, inode: int = 1) -> int:
        """Note a wish, and have it wait; the errno if that can't be."""
        return -int(self._lib.cx_wishes_again(self._wishes, self.add(unique, inode)))

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._lib, f"cx_wishes_{name}")
        return lambda *arguments: call(self._wishes, *arguments)


@pytest.fixture(scope="module")
def library(builds: Builds) -> Any:
    """Return the functions of the queue."""
    ffi = FFI()
    ffi.cdef(re.sub(r"\bbool\b", "_Bool", declarations("wishes.h")))
    return ffi.dlopen(str(builds.library("wishes.c")))


@pytest.fixture
def queue(library: Any) -> _Queue:
    return _Queue(library)


def test_what_waits_is_due_again(queue: _Queue) -> None:
    assert queue.wait(2) == 0
    due = queue.due()
    assert due.unique == 2
    assert queue.again(due) == 0
    assert queue.due().unique == 2
    assert queue.waiting() == 1
    queue.end(due)
    assert queue.waiting() == 0


def test_more_than_there_is_room_for_are_refused(queue: _Queue) -> None:
    """[lock-4]: but nothing that has waited before."""
    assert [queue.wait(unique) for unique in range(2, 12, 2)] == [0] * _MOST + [errno.ENOLCK] * 2
    assert (queue.waiting(), queue.refused()) == (_MOST, 2)
    due = queue.due()
    assert queue.wait(20) == errno.ENOLCK
    assert queue.again(due) == 0


def test_what_was_interrupted_is_not_asked_for_again(queue: _Queue) -> None:
    """[lock-4]: while it waits, while it is asked for, and before it is noted."""
    assert queue.wait(2) == 0
    assert queue.interrupt(2).unique == 2
    asked = queue.add(4)
    assert not queue.interrupt(4)
    assert queue.again(asked) == -errno.EINTR
    assert not queue.interrupt(6)
    assert queue.wait(6) == errno.EINTR
    assert queue.wait(8) == 0


def test_what_was_granted_is_no_longer_interrupted(queue: _Queue) -> None:
    wish = queue.add(2)
    assert queue.grant(wish)
    assert not queue.interrupt(2)
    assert queue.granted().unique == 2


def test_nothing_waits_at_the_end(queue: _Queue) -> None:
    assert queue.wait(2) == 0
    asked = queue.add(4)
    queue.stop()
    assert not queue.due()
    assert not queue.granted()
    assert queue.again(asked) == -errno.ENOTCONN
    assert not queue.grant(asked)
    assert queue.any().unique == 2
    assert not queue.any()
