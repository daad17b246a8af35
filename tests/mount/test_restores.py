"""Restores of many trees: interrupted, killed, with errors on the way, and undone again."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cephfs_ext.core.errors import ExitCode
from tests.faults.storage import Back
from tests.gateway import Gateway
from tests.waiting import wait_until

_WAIT_S = 30.0
_TREES = 4
_FILES = 120


def _plant(gateway: Gateway) -> list[Path]:
    """Make trees and delete them, one event each."""
    tops = [gateway.path / f"t{number}" for number in range(_TREES)]
    for top in tops:
        (top / "below").mkdir(parents=True)
        for number in range(_FILES):
            (top / "below" / f"{number}").write_text(f"{top.name}/{number}")
        subprocess.run(["rm", "-r", str(top)], check=True)
    return tops


def _is_whole(top: Path) -> bool:
    names = {path.name: path.read_text() for path in (top / "below").glob("*")}
    return names == {f"{number}": f"{top.name}/{number}" for number in range(_FILES)}


@contextlib.contextmanager
def _restoring(gateway: Gateway, back: Back, tops: list[Path]) -> Iterator[subprocess.Popen[str]]:
    """Start to restore trees, and lend the command once it is at it."""
    command = gateway.command("trash", "restore", *map(str, tops))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            wait_until(
                lambda: child.poll() is not None or bool(back.names("restoring")), within_s=_WAIT_S
            )
            yield child
        finally:
            child.kill()


def test_interrupted_one_says_what_is_back(gateway: Gateway, back: Back) -> None:
    """[trash-15]: ctrl-C; and it can be repeated."""
    tops = _plant(gateway)
    with _restoring(gateway, back, tops) as child:
        child.send_signal(signal.SIGINT)
        said, failed = child.communicate(timeout=_WAIT_S)
    for top in tops:
        is_back = f"restored: {top.name}\n" in said
        assert is_back or f"stopped: {top.name}: " in failed, (said, failed)
        assert _is_whole(top) if is_back else not top.exists()
    left = {item["path"].partition("/")[0] for item in gateway.trash()}
    assert left == {top.name for top in tops if not top.exists()}
    some, none = ExitCode.PARTIAL, ExitCode.OTHER
    assert child.returncode == (0 if not left else none if len(left) == len(tops) else some)
    if left:
        again = [str(top) for top in tops if top.name in left]
        gateway.run("trash", "restore", *again, check=True)
    assert all(map(_is_whole, tops))


def test_killed_one_can_be_repeated(unmounted: Gateway, back: Back) -> None:
    """[trash-16]: with the same command, after the gateway was killed in the middle of it."""
    with unmounted.mounted() as gateway:
        tops = _plant(gateway)
        with _restoring(gateway, back, tops) as child:
            gateway.kill()
            child.communicate(timeout=_WAIT_S)
        gateway.mount()
        wait_until(lambda: not gateway.state.dead_instances, within_s=_WAIT_S)
        done = gateway.run("trash", "restore", *map(str, tops))
        assert done.returncode in (ExitCode.OK, ExitCode.PARTIAL, ExitCode.NOT_FOUND), done
        assert all(map(_is_whole, tops)), done
        assert gateway.trash() == []
        assert back.names("restoring") == []


def test_goes_on_after_an_error_and_reports_each(gateway: Gateway) -> None:
    """[trash-16]"""
    tops = _plant(gateway)
    tops[1].write_text("in the way")
    nothing = gateway.path / "nothing"
    done = gateway.run("trash", "restore", str(nothing), *map(str, tops))
    assert done.returncode == ExitCode.PARTIAL
    assert done.stdout.splitlines() == [f"restored: {tops[n].name}" for n in (0, 2, 3)]
    first, second = done.stderr.splitlines()
    assert first.startswith("not found: nothing: ")
    assert second == "conflict: t1: the name is taken"
    assert [_is_whole(top) for top in tops] == [True, False, True, True]


def test_undone_by_deleting_or_restoring_again(gateway: Gateway) -> None:
    """[trash-5]: what came back goes as anything does, and what was replaced comes back."""
    (top, *_) = _plant(gateway)
    top.mkdir()
    (top / "other").write_text("other")
    gateway.run("trash", "restore", "--on-conflict", "replace", str(top), check=True)
    assert _is_whole(top)
    gateway.run("trash", "restore", "--on-conflict", "replace", str(top), check=True)
    assert os.listdir(top) == ["other"]
    subprocess.run(["rm", "-r", str(top)], check=True)
    gateway.run("trash", "restore", str(top), check=True)
    assert (top / "other").read_text() == "other"
    subprocess.run(["rm", "-r", str(top)], check=True)
    ids = [item["id"] for item in gateway.trash() if item["path"] == top.name]
    gateway.run("trash", "restore", ids[1], check=True)
    assert _is_whole(top)


def test_terminal_shows_how_far_it_is(gateway: Gateway) -> None:
    """[trash-15]: on a line that is gone in the end; what is no terminal gets none."""
    tops = _plant(gateway)
    ours, theirs = pty.openpty()
    command = gateway.command("trash", "restore", *map(str, tops))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as child:
        os.close(theirs)
        shown = _read_all(ours)
        said = child.communicate(timeout=_WAIT_S)[0]
    assert said.splitlines() == [f"restored: {top.name}" for top in tops]
    assert "restoring" in shown
    assert "\x1b[2K" in shown.rpartition("restoring")[2], "the bar is still there"
    assert all(map(_is_whole, tops))


def _read_all(fd: int) -> str:
    """Read what is written to the other end of a terminal until nobody has it any more."""
    data = b""
    with contextlib.suppress(OSError):  # EIO is the end
        while part := os.read(fd, 4096):
            data += part
    os.close(fd)
    return data.decode()
