"""Mounts that use the lane. That they answer the same is shown by other suites, with it on."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cephfs_ext.vfs import marks
from tests.cluster.ceph import CephCluster
from tests.conftest import short_directory
from tests.gateway import Gateway, ceph_gateway, posix_gateway
from tests.posix import acl
from tests.posix.actors import OWNER, STRANGER, SUPPLEMENTARY, as_user
from tests.waiting import wait_until

_FILES = 500
_WAIT_S = 30.0
_OURS = ("lookup", "getattr", "open", "read", "opendir", "readdir")


@pytest.fixture(scope="module")
def gateway(cluster: CephCluster) -> Iterator[Gateway]:
    """Mount with the lane, where all users may go."""
    with short_directory() as base, ceph_gateway(cluster, base, "lane=on").mounted() as gateway:
        yield gateway


@pytest.fixture
def top(gateway: Gateway, request: pytest.FixtureRequest) -> Path:
    """Make a directory for one test."""
    top = gateway.path / request.node.name
    top.mkdir()
    return top


def _count(gateway: Gateway, name: str) -> float:
    """Read a metric; what has never been counted isn't there."""
    for line in gateway.get("/metrics").splitlines():
        if line.startswith(f"cephfs_ext_{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def _answered(gateway: Gateway, op: str) -> float:
    return _count(gateway, f'lane_answered_total{{op="{op}"}}')


def _in_python(gateway: Gateway, op: str) -> float:
    return _count(gateway, f'fuse_op_duration_seconds_count{{op="{op}"}}')


def test_what_needs_no_decision_never_comes_to_python(gateway: Gateway, top: Path) -> None:
    """[lane-1]."""
    path = top / "file"
    path.write_bytes(b"x" * 100_000)
    written = _answered(gateway, "write"), _in_python(gateway, "write")
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"y" * 5000, 95_000)
    assert _answered(gateway, "write") > written[0]
    assert _in_python(gateway, "write") == written[1]
    before = {op: (_answered(gateway, op), _in_python(gateway, op)) for op in _OURS}
    assert path.read_bytes() == b"x" * 95_000 + b"y" * 5000
    assert os.listdir(top) == ["file"]
    wait_until(lambda: path.exists() and _asked(gateway, before), within_s=_WAIT_S)
    for op in _OURS:
        assert _answered(gateway, op) > before[op][0], op
        assert _in_python(gateway, op) == before[op][1], op


def test_changes_that_decide_nothing_never_come_to_python(gateway: Gateway, top: Path) -> None:
    """[lane-1]."""
    changes: dict[str, Callable[[], object]] = {
        "create": lambda: (top / "file").write_bytes(b"x" * 5000),
        "mkdir": lambda: (top / "dir").mkdir(),
        "mknod": lambda: os.mkfifo(top / "fifo"),
        "symlink": lambda: (top / "link").symlink_to("file"),
        "setattr": lambda: (top / "file").chmod(0o640),
    }
    for op, change in changes.items():
        before = _answered(gateway, op), _in_python(gateway, op)
        change()
        assert _answered(gateway, op) == before[0] + 1, op
        assert _in_python(gateway, op) == before[1], op
    os.utime(top / "file", ns=(1_000_000_001, 2_000_000_002))
    os.chown(top / "file", 30001, 30002)
    status = (top / "file").stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert (status.st_uid, status.st_gid, status.st_size) == (30001, 30002, 5000)
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    assert stat.S_ISFIFO((top / "fifo").stat().st_mode)
    assert (top / "link").read_bytes() == b"x" * 5000
    assert sorted(os.listdir(top)) == ["dir", "fifo", "file", "link"]
    with pytest.raises(FileExistsError):
        (top / "dir").mkdir()


def test_renames_and_writers_are_allowed_in_a_directory_for_a_while(
    gateway: Gateway, top: Path
) -> None:
    """[lane-1]: once Python has found that it isn't protected."""
    for number in range(4):
        (top / f"f{number}").write_text(str(number))
    time.sleep(marks._FRESH_S)  # what was read of the directories above, by other tests, has aged
    (top / "f0").rename(top / "g0")
    ops = ("rename", "open")
    before = {op: (_answered(gateway, op), _in_python(gateway, op)) for op in ops}
    (top / "f1").rename(top / "g1")
    with (top / "g1").open("r+") as file:
        file.write("new")
    assert (top / "g1").read_text() == "new"
    for op in ops:
        assert _answered(gateway, op) > before[op][0], op
        assert _in_python(gateway, op) == before[op][1], op
    (top / "f2").rename(top / "g1")
    assert (top / "g1").read_text() == "2"
    assert f"{top.name}/g1" in {item["path"] for item in gateway.trash()}
    with pytest.raises(FileNotFoundError):
        (top / "f2").rename(top / "none")
    assert sorted(os.listdir(top)) == ["f3", "g0", "g1"]


def test_what_was_allowed_is_forbidden_at_once(gateway: Gateway, top: Path) -> None:
    """[protect-1]: by a mark, or where a directory is moved below one."""
    (top / "outside/d").mkdir(parents=True)
    (top / "protected").mkdir()
    os.setxattr(top / "protected", "user.cephfs_ext.protect", b"1")
    for name in ("a", "b"):
        (top / "outside/d" / name).touch()
    place = top / "outside/d"
    (place / "a").rename(place / "c")
    place.rename(top / "protected/d")
    place = top / "protected/d"
    acts = (lambda: (place / "b").rename(place / "e"), lambda: (place / "b").write_text("x"))
    for act in acts:
        with pytest.raises(PermissionError):
            act()
    os.removexattr(top / "protected", "user.cephfs_ext.protect")
    acts[0]()
    os.setxattr(top, "user.cephfs_ext.protect", b"1")
    for act in (
        lambda: (place / "e").rename(place / "b"),
        lambda: (place / "e").open("r+").close(),
    ):
        with pytest.raises(PermissionError):
            act()
    os.removexattr(top, "user.cephfs_ext.protect")


def _asked(gateway: Gateway, before: dict[str, tuple[float, float]]) -> bool:
    """Tell whether the kernel has asked for attributes again: it remembers them for a second."""
    return all(_answered(gateway, op) > before[op][0] for op in ("lookup", "getattr"))


def test_a_listing_of_any_size_is_whole(top: Path) -> None:
    """[lane-1]: also where entries don't fit into a reply."""
    names = {f"{number:03}" + "n" * (number % 200) for number in range(_FILES)}
    for name in names:
        (top / name).write_bytes(b"x" * len(name))
    for _ in range(2):
        found = {entry.name: entry.stat().st_size for entry in os.scandir(top)}
        assert found == {name: len(name) for name in names}
    with os.scandir(top) as some:
        next(some)
        for name in names:
            (top / name).unlink()
    assert os.listdir(top) == []


def test_appends_of_many_threads_are_all_there(top: Path) -> None:
    """[lane-1]: each write that appends goes to the end."""
    path = top / "log"

    def write(mark: bytes) -> None:
        with path.open("ab", buffering=0) as file:
            for _ in range(50):
                file.write(mark * 100)

    threads = [threading.Thread(target=write, args=(mark,)) for mark in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = path.read_bytes()
    records = [content[i : i + 100] for i in range(0, len(content), 100)]
    assert sorted(records) == sorted([m * 100 for m in (b"a", b"b", b"c")] * 50)


def test_what_was_learned_in_c_is_deleted_and_comes_back(gateway: Gateway, top: Path) -> None:
    """[lane-1]: paths, hard links and directories that Python has never been asked for."""
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/b/c/file").write_text("content")
    os.link(top / "a/b/c/file", top / "a/other")
    gateway.umount()
    gateway.mount()
    for directory, _, names in os.walk(top):
        for name in names:
            (Path(directory) / name).stat()
    (top / "a/b/c/file").unlink()
    assert (top / "a/other").stat().st_nlink == 1
    assert "a/b/c/file" in {item["path"].partition("/")[2] for item in gateway.trash()}
    gateway.run("trash", "restore", str(top / "a/b/c/file"), check=True)
    assert (top / "a/b/c/file").read_text() == "content"
    wait_until(lambda: (top / "a/other").stat().st_nlink == 2, within_s=_WAIT_S)


def test_a_file_that_is_read_here_is_not_exchanged(gateway: Gateway, top: Path) -> None:
    """[truncate-2]: who has it open sees it empty; without a reader the content is kept."""
    path = top / "file"
    for reads in (True, False):
        path.write_bytes(b"x" * 10_000)
        reader = os.open(path, os.O_RDONLY)
        assert os.pread(reader, 10, 0) == b"x" * 10
        if not reads:
            os.close(reader)
        kept = gateway.metric('trash_moves_total{kind="truncated"}')
        os.truncate(path, 0)
        assert gateway.metric('trash_moves_total{kind="truncated"}') == kept + (not reads)
        if reads:
            assert os.pread(reader, 10, 0) == b""
            os.close(reader)


def test_what_another_wrote_is_synced_through_a_reader(gateway: Gateway, top: Path) -> None:
    """[lane-1]: fsync of a file, and of a directory, that the lane has open."""
    path = top / "file"
    path.write_bytes(b"x" * 10_000)
    for opened in (path, top):
        fd = os.open(opened, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    gateway.kill()
    gateway.mount()
    assert path.read_bytes() == b"x" * 10_000


def test_what_is_made_here_is_pythons_when_it_has_to_decide(gateway: Gateway, top: Path) -> None:
    """[lane-1], [truncate-1]: fsync and ftruncate of a file that the lane has made and open."""
    path = top / "file"
    with path.open("xb", buffering=0) as file:
        file.write(b"x" * 10_000)
        os.fsync(file.fileno())
        written = _answered(gateway, "write"), _in_python(gateway, "write")
        file.write(b"y" * 10_000)
        assert _answered(gateway, "write") > written[0]
        assert _in_python(gateway, "write") == written[1]
        kept = gateway.metric('trash_moves_total{kind="truncated"}')
        file.truncate(0)
        assert gateway.metric('trash_moves_total{kind="truncated"}') == kept + 1
        file.seek(0)
        file.write(b"new")
        file.truncate(2)
    assert path.read_bytes() == b"ne"
    (entry,) = [item for item in gateway.trash() if item["path"].endswith(f"{top.name}/file")]
    (top / "old").mkdir()
    gateway.run("trash", "restore", entry["id"], "--to", str(top / "old"), check=True)
    assert (top / "old/file").read_bytes() == b"x" * 10_000 + b"y" * 10_000
    gateway.kill()
    gateway.mount()
    assert path.read_bytes() == b"ne"


def test_a_file_without_write_permission_goes_on_to_be_written(top: Path) -> None:
    """[perm-1]: by who has made it, and has it open."""
    os.chown(top, STRANGER.uid, STRANGER.gid)

    def act() -> None:
        with os.fdopen(os.open(top / "file", os.O_CREAT | os.O_RDWR, 0o400), "wb") as file:
            file.write(b"content")
            file.flush()
            os.ftruncate(file.fileno(), 3)
            os.fchmod(file.fileno(), 0o440)

    as_user(STRANGER, act)
    status = (top / "file").stat()
    assert (status.st_uid, status.st_size, stat.S_IMODE(status.st_mode)) == (
        STRANGER.uid,
        3,
        0o440,
    )


def test_umask_and_default_lists_count_as_elsewhere(top: Path) -> None:
    """[perm-2]."""
    before = os.umask(0o027)
    try:
        (top / "plain").mkdir()
        (top / "plain/file").touch()
        acl.write(top / "plain", acl.extended(0o770, acl.Entry(acl.USER, 7, 30009)), acl.DEFAULT)
        (top / "plain/inherits").touch()
        (top / "plain/dir").mkdir()
    finally:
        os.umask(before)
    assert stat.S_IMODE((top / "plain").stat().st_mode) == 0o750
    assert stat.S_IMODE((top / "plain/file").stat().st_mode) == 0o640
    assert stat.S_IMODE((top / "plain/inherits").stat().st_mode) == 0o660
    assert acl.DEFAULT in os.listxattr(top / "plain/dir")


def test_groups_count_as_the_process_has_them(gateway: Gateway, top: Path) -> None:
    """[perm-3]: at this moment, those of `/proc` among them."""
    os.chown(top, 0, OWNER.gid)
    top.chmod(0o2770)
    before = _answered(gateway, "create")
    as_user(SUPPLEMENTARY, (top / "file").touch)
    assert _answered(gateway, "create") == before + 1
    assert (top / "file").stat().st_gid == OWNER.gid
    with pytest.raises(PermissionError):
        as_user(STRANGER, (top / "other").touch)


def test_nothing_is_made_in_a_directory_that_was_deleted(gateway: Gateway, top: Path) -> None:
    """[unlink-3]: nor below one, as long as somebody has it open; elsewhere Python makes it."""
    (top / "d/e").mkdir(parents=True)
    fd = os.open(top / "d/e", os.O_RDONLY | os.O_DIRECTORY)
    (top / "d").rename(top / ".trashbin" / "d")
    for make in (
        lambda: os.mkdir("x", dir_fd=fd),
        lambda: os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)),
        lambda: os.symlink("x", "x", dir_fd=fd),
    ):
        with pytest.raises(PermissionError):
            make()
    (top / "elsewhere").mkdir()
    os.close(fd)
    assert os.listdir(top) == ["elsewhere"]


def test_names_are_changed_by_one_at_a_time(gateway: Gateway, top: Path) -> None:
    """What a restore brings back, and what is made at the same moment, under one name."""
    for _ in range(30):
        path = top / "file"
        path.write_text("deleted")
        path.unlink()
        restore = threading.Thread(
            target=lambda: gateway.run("trash", "restore", "--last", str(top))
        )
        restore.start()
        while restore.is_alive():
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                break
        restore.join()
        assert path.exists()
        path.unlink()


def _reads_from_pages(gateway: Gateway, path: Path) -> bool:
    """Tell whether the kernel had a file: what was written lately may count as one more change."""
    before = _answered(gateway, "read")
    path.read_bytes()
    return _answered(gateway, "read") == before


def test_pages_are_kept_until_somebody_writes(
    cluster: CephCluster, gateway: Gateway, top: Path, tmp_path: Path
) -> None:
    """[cache-3]: also if it is another gateway that does."""
    other = Gateway(gateway.source, tmp_path / "other", tmp_path / "run", conf=cluster.conf)
    path = top / "file"
    path.write_bytes(b"x" * 10_000)
    with other.mounted():
        theirs = other.path / path.relative_to(gateway.path)
        for number, written in enumerate([path, theirs, path, theirs]):
            content = bytes([number]) * 10_000
            with written.open("r+b") as file:
                file.write(content)
            assert path.read_bytes() == content
            wait_until(lambda: _reads_from_pages(gateway, path), within_s=_WAIT_S)


def test_it_is_used_where_it_can_be(gateway: Gateway, tmp_path: Path) -> None:
    """[lane-2]."""
    assert gateway.json("status", str(gateway.path))["storage"]["lane"] is True
    posix = posix_gateway(tmp_path)
    posix.path.mkdir()
    done = posix.run("mount", posix.source, str(posix.path), "-o", "lane=on")
    assert done.returncode != 0
    assert "lane=auto" in done.stderr
    with posix.mounted("-o", "lane=auto"):
        (posix.path / "file").write_text("content")
        assert (posix.path / "file").read_text() == "content"
