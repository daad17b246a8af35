"""The suite's own tools: children that report, fail, hang or die."""

from __future__ import annotations

import errno
import inspect
import os
import re
import signal
import time
from importlib import import_module

import pytest

from tests.posix.actors import STRANGER, ActorError, as_user, elsewhere, spawn
from tests.posix.deviations import CEPH_FUSE, CEPH_MOUNT, DEVIATIONS
from tests.posix.nodes import fails


def test_child_hands_its_value_back() -> None:
    assert elsewhere(lambda: {"big": "x" * 200_000})["big"] == "x" * 200_000


def test_child_acts_as_the_user() -> None:
    def identity() -> tuple[tuple[int, ...], tuple[int, ...], list[int]]:
        return os.getresuid(), os.getresgid(), os.getgroups()

    uid, gid, groups = as_user(STRANGER, identity)
    assert uid == (STRANGER.uid,) * 3
    assert gid == (STRANGER.gid,) * 3
    assert groups == list(STRANGER.groups)


def test_errno_of_the_child_is_raised_here() -> None:
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.open("/etc/shadow", os.O_RDONLY))


def test_bug_in_the_child_is_an_error_with_its_traceback() -> None:
    with pytest.raises(ActorError, match="ZeroDivisionError"):
        elsewhere(lambda: 1 // 0)


def test_hung_child_is_killed() -> None:
    with spawn(lambda: time.sleep(60)) as child, pytest.raises(ActorError, match="hung"):
        child.result(timeout_s=0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_dead_child_is_an_error() -> None:
    with pytest.raises(ActorError, match="died"):
        elsewhere(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_no_zombie_is_left() -> None:
    with spawn(lambda: time.sleep(60)) as child:
        pass
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)


def test_wrong_errno_fails_a_test() -> None:
    with pytest.raises(AssertionError, match="expected ENOENT, got EACCES"), fails(errno.ENOENT):
        raise PermissionError(errno.EACCES, "denied")


def test_every_deviation_names_a_test() -> None:
    for target_id, deviations in DEVIATIONS.items():
        for pattern in deviations:
            module, _, function = re.sub(r"\(.*\)$", "", pattern).partition("::")
            found = getattr(import_module(f"tests.posix.{module}"), function, None)
            assert inspect.isfunction(found), f"{target_id}: {pattern} names no test"


def test_deviations_stay_within_their_limits() -> None:
    assert DEVIATIONS.keys() <= {"ceph-fuse", "ceph-mount"}
    assert CEPH_MOUNT.keys() <= CEPH_FUSE.keys()
