"""Mounts that use the lane. That they answer the same is shown by other suites, with it on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, ceph_gateway, posix_gateway
from tests.waiting import wait_until

_FILES = 500
_WAIT_S = 30.0
_OURS = ("lookup", "getattr", "open", "read", "opendir", "readdir")


@pytest.fixture(scope="module")
def gateway(cluster: CephCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Mount with the lane."""
    base = tmp_path_factory.mktemp("lane")
    with ceph_gateway(cluster, base, "lane=on").mounted() as gateway:
        yield gateway


@pytest.fixture
def top(gateway: Gateway, request: pytest.FixtureRequest) -> Path:
    """Make a directory for one test."""
    top = gateway.path / request.node.name
    top.mkdir()
    return top


def _answered(gateway: Gateway, op: str) -> float:
    return gateway.metric(f'lane_answered_total{{op="{op}"}}')


def _in_python(gateway: Gateway, op: str) -> float:
    return gateway.metric(f'fuse_op_duration_seconds_count{{op="{op}"}}')


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
