"""Who makes a request, from what FUSE says and /proc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from cephfs_ext.core.types import Credentials
from cephfs_ext.fuse import callers as module
from cephfs_ext.fuse.callers import Callers, credentials
from tests.posix.actors import SUPPLEMENTARY, spawn
from trashbin.put import Deleter


class Request(NamedTuple):
    uid: int
    gid: int
    pid: int


def deleter(callers: Callers, request: Request, *, destroys: bool = True) -> Deleter:
    async def ask() -> Deleter:
        return await callers.deleter(request, destroys=destroys)

    return trio.run(ask)


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
    who = deleter(Callers(), Request(1000, 1001, 0))
    assert who.cred == Credentials(1000, 1001, ())
    assert (who.pid, who.command, who.started, who.pod, who.container) == (0, "", 0, "", "")


def test_process_that_is_gone_has_no_groups() -> None:
    with spawn(lambda: None) as child:
        child.result()
    assert credentials(Request(1000, 1000, child.pid)).groups == ()


def test_thread_stands_for_its_process() -> None:
    """[audit-1]: FUSE says which thread it was; all threads of a process delete as one."""
    callers, said = Callers(), []

    def ask() -> None:
        said.append(deleter(callers, Request(0, 0, threading.get_native_id())))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    ask()
    assert said[0] == said[1]
    assert said[0].pid == os.getpid()
    assert said[0].started == _started(os.getpid()) > 0


def _started(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[19])


def _wait_for_its_program(pid: int) -> None:
    deadline = time.monotonic() + 30
    while not Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_name_of_a_process_is_not_taken_for_what_follows_it(tmp_path: Path) -> None:
    """The name of a program can hold anything, also what looks like the end of one."""
    program = tmp_path / "a) R 1\n2 (b"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as child:
        try:
            _wait_for_its_program(child.pid)
            who = deleter(Callers(), Request(0, 0, child.pid))
            assert (who.pid, who.started) == (child.pid, _started(child.pid))
            assert who.command == f"{program} 60"
        finally:
            child.kill()


def test_only_what_destroys_asks_for_the_process() -> None:
    who = deleter(Callers(), Request(0, 0, os.getpid()), destroys=False)
    assert (who.command, who.started) == ("", 0)


def test_command_is_that_of_the_process() -> None:
    command = deleter(Callers(), Request(0, 0, os.getpid())).command
    assert command.split()[0].endswith(os.path.basename(sys.executable)) or "pytest" in command
    assert len(command.encode()) <= 256


@pytest.mark.parametrize("processes", [1, 30])
def test_nobody_waits_for_a_command_that_hangs(
    monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """Who deletes holds the lock of its memory: what it is called is left out, soon at once."""
    over = threading.Event()
    monkeypatch.setattr(module, "_read_command", lambda _: str(over.wait()))

    async def ask() -> list[Deleter]:
        callers = Callers()
        return [await callers.deleter(Request(7, 7, 1 << 30 | n)) for n in range(processes)]

    begun_s = time.monotonic()
    try:
        assert [who.command for who in trio.run(ask)] == [""] * processes
    finally:
        over.set()
    assert time.monotonic() - begun_s < 5


def test_user_whose_commands_hang_hides_those_of_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """[audit-1]: there are threads left for others."""
    over = threading.Event()
    read = module._read_command
    mine = os.getpid()
    monkeypatch.setattr(
        module, "_read_command", lambda pid: read(pid) if pid == mine else str(over.wait())
    )

    async def ask() -> Deleter:
        callers = Callers()
        for number in range(30):
            await callers.deleter(Request(7, 7, 1 << 30 | number))
        return await callers.deleter(Request(0, 0, mine))

    try:
        assert trio.run(ask).command == read(mine)
    finally:
        over.set()


def test_program_stands_for_a_command_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """[audit-1]: its name can be read at any time."""
    over = threading.Event()
    monkeypatch.setattr(module, "_read_command", lambda _: str(over.wait()))
    try:
        command = deleter(Callers(), Request(0, 0, os.getpid())).command
    finally:
        over.set()
    assert command == f"[{Path('/proc/self/comm').read_text().strip()}]"
