"""What a daemon says of itself on disk, and whether it can be believed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from cephfs_ext.control.state import (
    State,
    all_states,
    daemon_dir,
    is_alive,
    process_start_time,
    read_state,
    remove_state,
    write_state,
)
from cephfs_ext.core.errors import ExitCode, UserError


def own_state(**changes: object) -> State:
    """Return the state of this process, as if it were a daemon."""
    state = State(
        pid=os.getpid(),
        start_time=process_start_time(os.getpid()),
        source="posix:/data",
        mountpoint="/mnt/data",
        instance="a7f8",
        version="0.1.0",
    )
    return msgspec.structs.replace(state, **changes)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "0123456789ab")


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_round_trip(directory: str) -> None:
    state = own_state(dev=44, uuids=["a", "b"], dead_instances=["0001"])
    write_state(directory, state)
    assert read_state(directory) == state
    assert os.listdir(directory) == ["state.json"]


def test_written_again(directory: str) -> None:
    write_state(directory, own_state())
    write_state(directory, own_state(instance="beef"))
    state = read_state(directory)
    assert state is not None
    assert state.instance == "beef"


def test_everybody_finds_the_sockets(directory: str) -> None:
    umask = os.umask(0o077)
    try:
        write_state(directory, own_state())
    finally:
        os.umask(umask)
    assert mode_of(directory) == 0o755
    assert mode_of(os.path.dirname(directory)) == 0o755


def test_nobody_else_writes_the_state(directory: str) -> None:
    umask = os.umask(0)
    try:
        write_state(directory, own_state())
    finally:
        os.umask(umask)
    assert mode_of(os.path.join(directory, "state.json")) & 0o022 == 0


def test_runtime_directory_of_others_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    write_state(str(tmp_path / "0123456789ab"), own_state())
    assert mode_of(str(tmp_path)) == 0o1777


def test_directory_of_somebody_else_is_refused(directory: str) -> None:
    os.makedirs(directory)
    os.chown(directory, 12345, 12345)
    with pytest.raises(UserError, match="is of uid 12345") as caught:
        write_state(directory, own_state())
    assert caught.value.exit_code == ExitCode.DENIED
    assert os.listdir(directory) == []


def test_link_in_place_of_the_directory_is_refused(directory: str, tmp_path: Path) -> None:
    os.makedirs(os.path.dirname(directory))
    os.symlink(tmp_path, directory)
    with pytest.raises(UserError, match=r"set control.runtime_dir"):
        write_state(directory, own_state())


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"set control.runtime_dir") as caught:
        write_state(str(tmp_path / "file" / "0123456789ab"), own_state())
    assert caught.value.exit_code == ExitCode.DENIED


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff"])
def test_torn_state_is_none(directory: str, content: bytes) -> None:
    os.makedirs(directory)
    Path(directory, "state.json").write_bytes(content)
    assert read_state(directory) is None


def test_no_state_is_none(directory: str) -> None:
    assert read_state(directory) is None
    assert all_states(directory) == []


def test_remove(directory: str) -> None:
    write_state(directory, own_state())
    remove_state(directory)
    assert not os.path.exists(directory)
    remove_state(directory)


def test_id_follows_the_place_not_its_spelling(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to("mnt")
    plain = daemon_dir("/run/x", str(tmp_path / "mnt"))
    assert daemon_dir("/run/x", str(tmp_path / "mnt") + "/") == plain
    assert daemon_dir("/run/x", str(tmp_path / "link")) == plain
    assert daemon_dir("/run/x", str(tmp_path)) != plain
    assert len(os.path.basename(plain)) == 12


def test_id_of_a_name_that_is_not_utf8() -> None:
    assert daemon_dir("/run/x", os.fsdecode(b"/mnt/\xff")).startswith("/run/x/")


class TestAlive:
    def test_this_process(self) -> None:
        assert is_alive(own_state())

    def test_whatever_the_clock_says(self) -> None:
        began = own_state().start_time
        assert 0 < began < time.clock_gettime(time.CLOCK_BOOTTIME)

    def test_other_process_with_the_pid(self) -> None:
        state = own_state()
        assert not is_alive(own_state(start_time=state.start_time - 10))

    def test_ended_process(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        state = own_state(pid=child.pid, start_time=process_start_time(child.pid))
        assert is_alive(state)
        child.communicate()
        assert not is_alive(state)

    def test_ended_process_that_nobody_reaped(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        state = own_state(pid=child.pid, start_time=process_start_time(child.pid))
        assert child.stdin is not None
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        try:
            assert not is_alive(state)
        finally:
            child.wait()


def test_all_states_are_those_that_run(tmp_path: Path) -> None:
    runtime = str(tmp_path)
    write_state(f"{runtime}/aaaaaaaaaaaa", own_state())
    write_state(f"{runtime}/bbbbbbbbbbbb", own_state(start_time=1.0))
    (tmp_path / "cccccccccccc").mkdir()
    (tmp_path / "aaaaaaaaaaaa.log").write_text("")
    assert all_states(runtime) == [(f"{runtime}/aaaaaaaaaaaa", own_state())]
