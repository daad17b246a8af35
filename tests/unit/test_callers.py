"""Who makes a request, from what FUSE says and /proc."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from cephfs_ext.core.types import Credentials
from cephfs_ext.fuse.callers import Callers, credentials
from tests.posix.actors import SUPPLEMENTARY, spawn


class Request(NamedTuple):
    uid: int
    gid: int
    pid: int


def test_supplementary_groups_are_those_of_the_process() -> None:
    """[perm-3]."""
    reading, writing = os.pipe()
    with spawn(lambda: os.read(reading, 1), SUPPLEMENTARY) as child:
        while True:  # until it has changed its identity
            who = credentials(Request(SUPPLEMENTARY.uid, SUPPLEMENTARY.gid, child.pid))
            if who.groups == SUPPLEMENTARY.groups:
                break
            assert not child.finished()
        os.write(writing, b"x")
        child.result()
    os.close(reading)
    os.close(writing)


def test_hidden_process_has_no_groups_and_no_command() -> None:
    """[perm-3]: FUSE says pid 0 of a process that the gateway can't see."""
    who = Callers().deleter(Request(1000, 1001, 0))
    assert who.cred == Credentials(1000, 1001, ())
    assert (who.pid, who.command) == (0, "")


def test_process_that_is_gone_has_no_groups() -> None:
    with spawn(lambda: None) as child:
        child.result()
    assert credentials(Request(1000, 1000, child.pid)).groups == ()


def test_command_is_that_of_the_process() -> None:
    command = Callers().deleter(Request(0, 0, os.getpid())).command
    assert command.split()[0].endswith(os.path.basename(sys.executable)) or "pytest" in command
    assert len(command.encode()) <= 256
