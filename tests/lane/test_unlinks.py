"""Unlinks of processes that delete in bulk, answered by the lane: docs/semantics.md [pending-1] ff.

All that tests/mount/test_pending.py says is true of them, too: it runs with the lane as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.conftest import short_directory
from tests.gateway import Gateway, ceph_gateway
from tests.posix.actors import OWNER, STRANGER, User, as_user, errno_of, spawn
from tests.waiting import wait_until

_FILES = 60
_WAIT_S = 30.0
_EARLY = "asyncdelete.pending=true,asyncdelete.pending_after=1"


@pytest.fixture(scope="module")
def gateway(cluster: CephCluster) -> Iterator[Gateway]:
    """Mount with the lane and deletes in bulk, where all users may go."""
    with short_directory() as base, ceph_gateway(cluster, base, "lane=on", _EARLY).mounted() as one:
        yield one


@pytest.fixture
def top(gateway: Gateway, request: pytest.FixtureRequest) -> Path:
    """Make a directory for one test."""
    top = gateway.path / request.node.name.partition("[")[0]
    top.mkdir(exist_ok=True)
    return top


def _fill(top: Path, count: int = _FILES, form: str = "f{}") -> list[Path]:
    top.mkdir(exist_ok=True)
    paths = [top / form.format(number) for number in range(count)]
    for path in paths:
        path.write_text(path.name)
    return paths


def _unlinked(gateway: Gateway) -> float:
    """Return how many unlinks the lane has answered."""
    return gateway.metric('lane_answered_total{op="unlink"}')


def _drained(gateway: Gateway) -> None:
    wait_until(lambda: gateway.metric("pending_deletes") == 0, within_s=_WAIT_S)


def _in_bulk(gateway: Gateway, top: Path) -> None:
    """Make files and delete them until the lane answers, which it goes on to do for a moment."""

    def is_answered() -> bool:
        paths = [top / f"bulk-{number}" for number in range(6)]
        for path in paths:
            path.touch()
        before = _unlinked(gateway)
        for path in paths:
            path.unlink()
        return _unlinked(gateway) > before

    wait_until(is_answered, within_s=_WAIT_S)


def test_what_the_lane_unlinks_is_kept(gateway: Gateway, top: Path) -> None:
    """[pending-1], [pending-6]: each once, under its path, with who did it."""
    paths = _fill(top)
    before = _unlinked(gateway)
    for path in paths:
        path.unlink()
    assert os.listdir(top) == []
    assert _unlinked(gateway) > before + _FILES // 2
    kept = [item for item in gateway.trash() if item["path"].startswith(f"{top.name}/")]
    assert sorted(item["path"] for item in kept) == sorted(f"{top.name}/{p.name}" for p in paths)
    assert {item["pid"] for item in kept} == {os.getpid()}
    gateway.run("trash", "restore", "--below", str(top), check=True)
    assert {p.name: p.read_text() for p in top.iterdir()} == {p.name: p.name for p in paths}


def test_a_name_that_looks_like_a_lock_or_is_exempt_is_asked_about(
    gateway: Gateway, top: Path
) -> None:
    """[pending-4]."""
    names = ("a.LOCK", "lckfile", "daemon.pid", "scratch.tmp", ".x.swp")
    for name in names:
        (top / name).write_text("content")
    for name in names:
        _in_bulk(gateway, top)
        before = _unlinked(gateway)
        (top / name).unlink()
        assert _unlinked(gateway) == before, name
    kept = {item["path"] for item in gateway.trash()}
    assert f"{top.name}/a.LOCK" in kept
    assert f"{top.name}/scratch.tmp" not in kept


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_TRUNC], ids=["lane", "python"])
def test_what_is_open_is_asked_about(gateway: Gateway, top: Path, flags: int) -> None:
    """[pending-4]: in the lane, or in Python, as what is opened with O_TRUNC."""
    (top / "open").write_text("content")
    descriptor = os.open(top / "open", flags)
    _in_bulk(gateway, top)
    before = _unlinked(gateway)
    (top / "open").unlink()
    assert _unlinked(gateway) == before
    assert os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)


def test_what_has_other_names_is_asked_about(gateway: Gateway, top: Path) -> None:
    """[pending-4]."""
    (top / "one").write_text("content")
    (top / "two").hardlink_to(top / "one")
    _in_bulk(gateway, top)
    before = _unlinked(gateway)
    (top / "one").unlink()
    assert _unlinked(gateway) == before
    assert (top / "two").stat().st_nlink == 1


def _after_bulk(gateway: Gateway, user: User, top: Path, change: Callable[[], object]) -> int:
    """Have a user delete in bulk, change something, and have them unlink `file`; return errno."""
    spares = [top / f"spare-{number}" for number in range(6)]
    for spare in spares:
        spare.touch()
        os.chown(spare, user.uid, user.gid)
    (is_done, done), (may_go, go) = os.pipe(), os.pipe()

    def delete() -> None:
        for spare in spares:
            spare.unlink()
        os.write(done, b"x")
        os.read(may_go, 1)
        (top / "file").unlink()

    before = _unlinked(gateway)
    with spawn(delete, user) as child:
        os.read(is_done, 1)
        assert _unlinked(gateway) > before
        change()
        os.write(go, b"x")
        number = errno_of(child.result)
    for descriptor in (is_done, done, may_go, go):
        os.close(descriptor)
    return number


def _protect(top: Path) -> None:
    os.setxattr(top, "user.cephfs_ext.protect", b"1")


def _close(top: Path) -> None:
    top.chmod(0o555)


def _give_away(top: Path) -> None:
    os.chown(top, 0, 0)


@pytest.mark.parametrize("change", [_protect, _close, _give_away])
def test_what_a_directory_says_counts_at_once(
    gateway: Gateway, top: Path, change: Callable[[Path], None]
) -> None:
    """[pending-2]: rights and marks that are changed through this mount."""
    inside = top / change.__name__
    inside.mkdir()
    os.chown(inside, OWNER.uid, OWNER.gid)
    (inside / "file").write_text("content")
    number = _after_bulk(gateway, OWNER, inside, lambda: change(inside))
    assert number in (errno.EACCES, errno.EPERM)
    assert (inside / "file").read_text() == "content"


def test_what_is_anothers_in_a_sticky_directory_stays(gateway: Gateway, top: Path) -> None:
    """[pending-2]: also for who may delete their own."""
    top.chmod(0o1777)
    (top / "file").write_text("content")
    assert _after_bulk(gateway, STRANGER, top, lambda: None) == errno.EPERM
    assert (top / "file").read_text() == "content"


def test_another_process_is_granted_nothing(gateway: Gateway, top: Path) -> None:
    """[pending-2]."""
    (top / "file").write_text("content")
    os.chown(top, OWNER.uid, OWNER.gid)

    def unlink_as_stranger() -> None:
        assert errno_of(lambda: as_user(STRANGER, (top / "file").unlink)) == errno.EACCES

    assert _after_bulk(gateway, OWNER, top, unlink_as_stranger) == 0


def test_the_tree_that_is_moved_away_is_deleted_in_no_more(gateway: Gateway, top: Path) -> None:
    """[pending-3]: what waits goes before, and no other unlink is answered there."""
    inside = top / "tree"
    inside.mkdir()
    (inside / "file").write_text("content")
    _in_bulk(gateway, inside)
    descriptor = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    inside.rename(top / ".trashbin" / "tree")
    with pytest.raises(OSError, match=r"."):
        os.unlink("file", dir_fd=descriptor)
    os.close(descriptor)
    gateway.run("trash", "restore", "--last", "--mount", str(gateway.path), check=True)
    assert "file" in os.listdir(inside)


def test_listings_never_show_what_was_unlinked_before(gateway: Gateway, top: Path) -> None:
    """[pending-1]: not while deletes are carried out, whenever the listing had been read."""
    rounds, gone, shown = 4, set[str](), list[str]()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            before = set(gone)
            with contextlib.suppress(FileNotFoundError):
                shown.extend(before.intersection(os.listdir(top)))

    for number in range(rounds):
        paths = _fill(top, 400, f"f{number}-{{}}")
        looker = threading.Thread(target=look)
        looker.start()
        for path in paths:
            path.unlink()
            gone.add(path.name)
        gateway.run("trash", "ls", "--last", str(gateway.path), check=True)  # carries them out
        _drained(gateway)
        time.sleep(0.2)
        is_over.set()
        looker.join()
        is_over.clear()
    assert shown == []
    assert os.listdir(top) == []


def test_a_pause_ends_what_was_granted(gateway: Gateway, top: Path) -> None:
    """[pending-1]: who pauses for a second doesn't delete in bulk."""
    (top / "file").write_text("content")
    _in_bulk(gateway, top)
    time.sleep(1.2)
    before = _unlinked(gateway)
    (top / "file").unlink()
    assert _unlinked(gateway) == before
