"""Deletes in bulk, answered before they have been carried out: docs/semantics.md [pending-1] ff."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cephfs_ext.control.state import State, is_alive
from tests.conftest import STORAGES
from tests.gateway import Gateway, ceph_gateway, posix_gateway
from tests.waiting import wait_until

_WAIT_S = 90.0
"""A name that libcephfs leaves marked is freed after 15 s; several may be, one after the other."""
_FILES = 200
_AFTER = "asyncdelete.pending=true,asyncdelete.pending_after=1"


@pytest.fixture
def eager(unmounted: Gateway) -> Iterator[Gateway]:
    """Return a gateway for which the first delete of a process is one of many."""
    with unmounted.mounted("-o", _AFTER):
        yield unmounted


def _fill(directory: Path, count: int = _FILES) -> list[Path]:
    directory.mkdir()
    paths = [directory / f"f{number}" for number in range(count)]
    for path in paths:
        path.write_text(path.name)
    return paths


def _answered(gateway: Gateway) -> float:
    return gateway.metric("pending_answered_total")


def _wait_for_all(gateway: Gateway) -> None:
    wait_until(lambda: gateway.metric("pending_deletes") == 0, within_s=_WAIT_S)


def _rm(directory: Path) -> None:
    subprocess.run(["rm", "-rf", str(directory)], check=True)


def _find(directory: Path) -> None:
    subprocess.run(["find", str(directory), "-delete"], check=True)


@pytest.mark.parametrize("delete", [_rm, shutil.rmtree, _find])
def test_tree_is_gone_at_once_and_can_be_restored_at_once(
    unmounted: Gateway, delete: Callable[[Path], None]
) -> None:
    """[pending-1], [pending-2], [pending-6]: with the other settings as they are."""
    with unmounted.mounted("-o", "asyncdelete.pending=true"):
        top = unmounted.path / "top"
        top.mkdir()
        for number in range(3):
            _fill(top / f"d{number}")
        delete(top)
        assert os.listdir(unmounted.path) == []
        assert not top.exists()
        assert _answered(unmounted) > 3 * _FILES / 2
        unmounted.run("trash", "restore", str(top), check=True)
        assert sorted(os.listdir(top)) == ["d0", "d1", "d2"]
        for number in range(3):
            inside = top / f"d{number}"
            assert {p.name for p in inside.iterdir()} == {f"f{n}" for n in range(_FILES)}
            assert all(p.read_text() == p.name for p in inside.iterdir())
        assert unmounted.json("trash", "ls", str(unmounted.path))["items"] == []


def test_what_goes_together_is_whole_whatever_it_is(eager: Gateway) -> None:
    """[pending-6]: long names, links, empty files and directories among many others."""
    top = eager.path / "top"
    _fill(top)
    for number in range(40):
        (top / f"{number}{'x' * 240}").write_text(str(number))
        (top / f"link{number}").symlink_to(f"{number}")
        (top / f"empty{number}").touch()
        (top / f"dir{number}").mkdir()
        os.link(top / f"f{number}", top / f"other{number}")

    def shape() -> dict[str, tuple[int, int, str]]:
        found = {path.name: (path, path.lstat()) for path in top.iterdir()}
        return {
            name: (stats.st_mode, stats.st_nlink, os.readlink(path) if path.is_symlink() else "")
            for name, (path, stats) in found.items()
        }

    before = shape()
    _rm(top)
    assert os.listdir(eager.path) == []
    eager.run("trash", "restore", str(top), check=True)
    assert shape() == before
    for number in range(40):
        assert (top / f"{number}{'x' * 240}").read_text() == str(number)
        assert (top / f"f{number}").samefile(top / f"other{number}")


def test_only_many_deletes_of_one_process_are_answered_early(unmounted: Gateway) -> None:
    """[pending-1]."""
    with unmounted.mounted("-o", "asyncdelete.pending=true"):
        paths = _fill(unmounted.path / "d", 80)
        for path in paths[:40]:
            subprocess.run(["rm", str(path)], check=True)
        assert _answered(unmounted) == 0
        for path in paths[40:]:
            path.unlink()
        assert 0 < _answered(unmounted) <= 9


def test_a_setting_turns_it_off(unmounted: Gateway) -> None:
    """[pending-1]."""
    with unmounted.mounted("-o", "asyncdelete.pending_after=1"):
        _fill(unmounted.path / "d")
        _rm(unmounted.path / "d")
        assert _answered(unmounted) == 0


def test_lookups_and_listings_hide_what_is_pending(eager: Gateway) -> None:
    """[pending-1]: names, inodes, errors."""
    top = eager.path / "d"
    paths = _fill(top)
    with os.scandir(top) as listing:
        next(listing)
        for number, path in enumerate(paths):
            path.unlink()
            with pytest.raises(FileNotFoundError):
                path.stat()
            if number % 20 == 0:
                assert {p.name for p in top.iterdir()} == {p.name for p in paths[number + 1 :]}
            with pytest.raises(FileNotFoundError):
                path.unlink()
    assert _answered(eager) == _FILES
    top.rmdir()
    assert os.listdir(eager.path) == []
    with pytest.raises(FileNotFoundError):
        top.rmdir()


def test_errors_are_those_of_unlink_and_rmdir(eager: Gateway) -> None:
    """[pending-2]."""
    top = eager.path / "d"
    (file, *_) = _fill(top, 2)
    for act, wanted in (
        (top.rmdir, errno.ENOTEMPTY),
        (top.unlink, errno.EISDIR),
        (file.rmdir, errno.ENOTDIR),
        ((top / "none").unlink, errno.ENOENT),
    ):
        with pytest.raises(OSError, match=re.escape(os.strerror(wanted))):
            act()
    file.unlink()
    with pytest.raises(OSError, match="not empty"):
        top.rmdir()
    assert len(os.listdir(top)) == 1


def test_times_of_the_directory_move(eager: Gateway) -> None:
    """[pending-1], [time-2]: at once, and never back."""
    top = eager.path / "d"
    paths = _fill(top, 30)
    before = top.stat()
    for path in paths:
        path.unlink()
        now = top.stat()
        assert now.st_mtime_ns >= before.st_mtime_ns
        before = now
    _wait_for_all(eager)
    wait_until(lambda: top.stat().st_mtime_ns >= before.st_mtime_ns, within_s=_WAIT_S)


def _make(path: Path) -> None:
    path.write_text("new")


def _link(path: Path) -> None:
    other = path.parent.with_name("other")
    other.write_text("new")
    path.hardlink_to(other)


def _rename(path: Path) -> None:
    other = path.parent.with_name("other")
    other.write_text("new")
    other.rename(path)


@pytest.mark.parametrize("make", [_make, _link, _rename, Path.mkdir,
                                  lambda path: path.symlink_to("x"),
                                  lambda path: os.mkfifo(path)])  # fmt: skip
def test_a_pending_name_can_be_made_anew(eager: Gateway, make: Callable[[Path], None]) -> None:
    """[pending-3]: what was deleted is in the trash, what is new stays."""
    for path in _fill(eager.path / "d", 20):
        path.unlink()
        make(path)
        assert path.is_symlink() or path.exists()
    _wait_for_all(eager)
    assert len(os.listdir(eager.path / "d")) == 20
    assert len(eager.trash()) >= 20


def test_a_directory_can_be_made_anew_over_a_pending_one(eager: Gateway) -> None:
    """[pending-3]."""
    top = eager.path / "top"
    for _ in range(3):
        _fill(top, 50)
        shutil.rmtree(top)
    _fill(top, 1)
    assert os.listdir(top) == ["f0"]
    assert eager.metric('trash_moves_total{kind="dir"}') == 3


def test_a_renamed_directory_takes_nothing_along_that_was_deleted(eager: Gateway) -> None:
    """[pending-3]: nor does one that replaces it, or is moved into the trash whole."""
    top = eager.path / "top"
    paths = _fill(top, 60)
    for path in paths[:30]:
        path.unlink()
    top.rename(top.with_name("moved"))
    assert len(os.listdir(eager.path / "moved")) == 30
    for path in (eager.path / "moved").iterdir():
        path.unlink()
    (eager.path / "empty").mkdir()
    (eager.path / "empty").rename(eager.path / "moved")
    assert os.listdir(eager.path / "moved") == []
    paths = _fill(top, 20)
    for path in paths[:10]:
        path.unlink()
    top.rename(eager.path / ".trashbin/top")
    eager.run("trash", "restore", str(top), check=True)
    assert len(os.listdir(top)) == 20


def test_fsync_of_the_directory_makes_deletes_durable(unmounted: Gateway) -> None:
    """[pending-3], [pending-5]: what was synced is in the trash after a crash."""
    with unmounted.mounted("-o", _AFTER):
        top = unmounted.path / "d"
        paths = _fill(top, 50)
        os.sync()
        for path in paths[:25]:
            path.unlink()
        fd = os.open(top, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        unmounted.kill()
        unmounted.mount()
        assert {p.name for p in top.iterdir()} == {p.name for p in paths[25:]}


def test_a_crash_brings_names_back_and_loses_none(unmounted: Gateway) -> None:
    """[pending-5]."""
    with unmounted.mounted("-o", _AFTER):
        top = unmounted.path / "d"
        paths = _fill(top)
        fd = os.open(top, os.O_RDONLY)
        for path in paths:
            sync = os.open(path, os.O_RDONLY)
            os.fsync(sync)
            os.close(sync)
        os.close(fd)
        shutil.rmtree(top)
        unmounted.kill()
        unmounted.mount()
        there = {p.name for p in top.iterdir()} if top.exists() else set()
        if there:
            shutil.rmtree(top)
        unmounted.run("trash", "restore", str(top), "--on-conflict", "skip", check=True)
        assert {p.name for p in top.iterdir()} == {p.name for p in paths}
        assert all(p.read_text() == p.name for p in top.iterdir())


def test_unmounting_carries_everything_out(unmounted: Gateway) -> None:
    """[pending-5]: by umount, and by a signal."""
    for end in (unmounted.umount, lambda: os.kill(unmounted.state.pid, signal.SIGTERM)):
        with unmounted.mounted("-o", _AFTER):
            _fill(unmounted.path / "d")
            shutil.rmtree(unmounted.path / "d")
            state = unmounted.state
            end()
            wait_until(functools.partial(_is_over, state), within_s=_WAIT_S)
            unmounted.mount()
            assert os.listdir(unmounted.path) == []
            unmounted.run("trash", "restore", str(unmounted.path / "d"), check=True)
            assert len(os.listdir(unmounted.path / "d")) == _FILES
            unmounted.run("rm", "-r", "--now", str(unmounted.path / "d"), check=True)


def _is_over(state: State) -> bool:
    return not is_alive(state)


def test_strict_directories_locks_and_open_files_are_never_early(eager: Gateway) -> None:
    """[pending-4]."""
    top = eager.path / "d"
    top.mkdir()
    os.setxattr(top, "user.cephfs_ext.strict", b"1")
    for path in _fill(top / "below", 5):
        path.unlink()
    (top / "below").rmdir()
    for name in ("a.lock", ".LOCK", "b.lck", "daemon.pid"):
        (eager.path / name).write_text("locked")
        (eager.path / name).unlink()
    with (eager.path / "open").open("w+") as file:
        file.write("content")
        file.flush()
        (eager.path / "open").unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        file.seek(0)
        assert file.read() == "content"
    one, two = eager.path / "one", eager.path / "two"
    one.write_text("content")
    two.hardlink_to(one)
    one.unlink()
    assert two.stat().st_nlink == 1
    assert _answered(eager) == 0
    os.removexattr(top, "user.cephfs_ext.strict")
    wait_until(lambda: _is_early(eager, top / "later"), within_s=_WAIT_S)


def _is_early(gateway: Gateway, path: Path) -> bool:
    before = _answered(gateway)
    path.write_text("content")
    path.unlink()
    return _answered(gateway) > before


def test_views_and_the_audit_know_what_is_pending(eager: Gateway) -> None:
    """[pending-6]."""
    top = eager.path / "d"
    paths = _fill(top, 50)
    for path in paths:
        path.unlink()
    hours = os.listdir(top / ".trashbin")
    names = {name for hour in hours for name in os.listdir(top / ".trashbin" / hour)}
    assert names == {path.name for path in paths}
    for path in _fill(top / "e", 50):
        path.unlink()
    assert len(eager.json("audit", str(top / "e"))["items"]) == 50


def test_the_content_of_a_pending_file_can_still_be_changed(eager: Gateway) -> None:
    """[pending-3]: by who got hold of it before; the file stays deleted."""
    for number, act in enumerate([_truncate, _write, _chmod]):
        path = eager.path / f"f{number}"
        path.write_text("content" * 2000)
        fd = os.open(path, os.O_PATH)
        path.unlink()
        act(f"/proc/self/fd/{fd}")
        os.close(fd)
        assert not path.exists()
    _wait_for_all(eager)
    assert os.listdir(eager.path) == []
    assert len(eager.trash()) >= 3


def _truncate(path: str) -> None:
    os.truncate(path, 0)


def _write(path: str) -> None:
    Path(path).write_text("x")


def _chmod(path: str) -> None:
    os.chmod(path, 0o600)


@contextlib.contextmanager
def _two_gateways(
    storage: str, base: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Gateway, Gateway]]:
    cluster = request.getfixturevalue("cluster") if storage == "ceph" else None
    gateway = ceph_gateway(cluster, base) if cluster else posix_gateway(base)
    conf = cluster.conf if cluster else None
    other = Gateway(gateway.source, base / "other", base / "run", conf=conf)
    with gateway.mounted("-o", _AFTER), other.mounted():
        yield gateway, other


@pytest.mark.parametrize("storage", STORAGES)
def test_a_directory_in_which_another_gateway_makes_something_is_there_again(
    storage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """[pending-5], [pending-7]: it is counted and logged, and the next deletes aren't early."""
    with _two_gateways(storage, tmp_path, request) as (gateway, other):
        made = next(filter(None, (_make_in_pending(gateway, other, n) for n in range(20))))
        assert (gateway.path / made).read_text() == "theirs"
        assert gateway.metric('pending_failures_total{errno="ENOTEMPTY"}') == 1
        assert "is there again: its delete has failed" in gateway.log
        before = _answered(gateway)
        (gateway.path / made).unlink()
        (gateway.path / made).parent.rmdir()
        assert _answered(gateway) == before


def _make_in_pending(gateway: Gateway, other: Gateway, number: int) -> str:
    """Make something in a directory that was deleted and isn't gone; nothing if it has gone."""
    name = f"e{number}"
    (gateway.path / name).mkdir()
    (other.path / name).stat()
    made = ""
    with _in_flight(gateway, []):
        (gateway.path / name).rmdir()
        with contextlib.suppress(FileNotFoundError):
            (other.path / name / "made").write_text("theirs")
            made = f"{name}/made"
    _wait_for_all(gateway)
    shutil.rmtree(gateway.path / "busy")
    return made


@pytest.mark.parametrize("storage", STORAGES)
def test_another_gateway_sees_names_go_and_keeps_what_it_makes(
    storage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """[pending-7]: what it has put in the place of a pending name stays."""
    with _two_gateways(storage, tmp_path, request) as (gateway, other):
        paths = _fill(gateway.path / "d", 30)
        for path in paths:
            assert (other.path / "d" / path.name).exists()
        with _in_flight(gateway, paths):
            for path in paths:
                new = other.path / f"new{path.name}"
                new.write_text("theirs")
                new.rename(other.path / "d" / path.name)
        _wait_for_all(gateway)
        wait_until(
            lambda: _are_theirs(gateway, paths),
            lambda: _who_sees_what(gateway, other, paths),
            within_s=_WAIT_S,
        )
        assert all((other.path / "d" / p.name).read_text() == "theirs" for p in paths)


def _who_sees_what(gateway: Gateway, other: Gateway, paths: list[Path]) -> str:
    """Say of each name that isn't theirs what the gateways and the trash have."""
    lines = [f"trash: {[item['path'] for item in gateway.trash()]}"]
    for name in (path.name for path in paths if not _are_theirs(gateway, [path])):
        for one in (gateway, other):
            path = one.path / "d" / name
            listed = name in os.listdir(path.parent)
            content = path.read_text() if path.exists() else None
            lines.append(f"{path}: {content!r}, listed: {listed}")
    return "\n".join(lines)


def _are_theirs(gateway: Gateway, paths: list[Path]) -> bool:
    found = {p.name for p in paths if p.exists() and p.read_text() == "theirs"}
    return found == {p.name for p in paths}


@contextlib.contextmanager
def _in_flight(gateway: Gateway, paths: list[Path]) -> Iterator[None]:
    """Delete names, and go on deleting others so that they stay pending in the body."""
    ended = threading.Event()
    busy = gateway.path / "busy"
    busy.mkdir()

    def go_on() -> None:
        while not ended.is_set():
            (busy / "f").touch()
            (busy / "f").unlink()

    thread = threading.Thread(target=go_on)
    for path in paths:
        path.unlink()
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
