"""Nodes of the posix storage: one descriptor per inode, as long as there is a reference."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cephfs_ext.core.errors import CrossDomainError
from cephfs_ext.storage.posix_nodes import PosixNodes


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[PosixNodes]:
    """Return the nodes of a directory; no descriptor may be left of them."""
    before = len(os.listdir("/proc/self/fd"))
    nodes = PosixNodes(os.open(tmp_path, os.O_PATH))
    yield nodes
    nodes.close()
    assert len(os.listdir("/proc/self/fd")) == before


def opened(path: Path) -> int:
    """Open a path for its inode; makes the file."""
    path.touch()
    return os.open(path, os.O_PATH | os.O_NOFOLLOW)


def is_open(fd: int) -> bool:
    """Tell whether a descriptor is open."""
    return os.path.islink(f"/proc/self/fd/{fd}")


def test_one_node_for_each_inode(nodes: PosixNodes, tmp_path: Path) -> None:
    first, attr = nodes.adopt(opened(tmp_path / "f"))
    (tmp_path / "g").hardlink_to(tmp_path / "f")
    spare = opened(tmp_path / "g")
    again, _ = nodes.adopt(spare)
    assert again is first
    assert not is_open(spare)
    assert first.ino == attr.ino == (tmp_path / "f").stat().st_ino
    assert len(nodes) == 1


def test_descriptor_goes_with_the_last_reference(nodes: PosixNodes, tmp_path: Path) -> None:
    node, _ = nodes.adopt(opened(tmp_path / "f"))
    for _ in range(3):
        nodes.adopt(opened(tmp_path / "f"))
    nodes.forget(node, 3)
    assert is_open(node.fd)
    nodes.forget(node, 1)
    assert not is_open(node.fd)
    assert len(nodes) == 0


def test_forgotten_node_comes_back_as_another(nodes: PosixNodes, tmp_path: Path) -> None:
    node, _ = nodes.adopt(opened(tmp_path / "f"))
    nodes.forget(node, 1)
    again, _ = nodes.adopt(opened(tmp_path / "f"))
    assert again is not node
    assert again.references == 1


def test_one_time_too_many_closes_nothing(nodes: PosixNodes, tmp_path: Path) -> None:
    node, _ = nodes.adopt(opened(tmp_path / "f"))
    nodes.forget(node, 1)
    other, _ = nodes.adopt(opened(tmp_path / "f"))
    assert other.fd == node.fd  # the kernel gives the lowest number that is free
    with pytest.raises(ValueError, match="more often"):
        nodes.forget(node, 1)
    assert is_open(other.fd)
    assert len(nodes) == 1


def test_root_stays(nodes: PosixNodes, tmp_path: Path) -> None:
    node, _ = nodes.adopt(os.open(tmp_path, os.O_PATH))
    assert node is nodes.root
    nodes.forget(node, 100)
    assert is_open(nodes.root.fd)
    assert len(nodes) == 0


def test_another_file_system_is_refused(nodes: PosixNodes) -> None:
    fd = os.open("/proc", os.O_PATH)
    with pytest.raises(CrossDomainError):
        nodes.adopt(fd)
    assert not is_open(fd)
    assert len(nodes) == 0


def test_number_is_not_given_away_while_there_is_a_node(nodes: PosixNodes, tmp_path: Path) -> None:
    node, _ = nodes.adopt(opened(tmp_path / "f"))
    (tmp_path / "f").unlink()
    for number in range(500):
        (tmp_path / str(number)).touch()
        assert (tmp_path / str(number)).stat().st_ino != node.ino
        (tmp_path / str(number)).unlink()
    assert os.fstat(node.fd).st_nlink == 0


def test_after_the_end_there_is_nothing_to_give_back(nodes: PosixNodes, tmp_path: Path) -> None:
    node, _ = nodes.adopt(opened(tmp_path / "f"))
    nodes.close()
    other = os.open(tmp_path, os.O_PATH)
    nodes.forget(node, 1)
    assert is_open(other)
    os.close(other)
    nodes.close()


def test_threads_adopt_and_forget_at_once(nodes: PosixNodes, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(300):
                node, attr = nodes.adopt(opened(tmp_path / str((thread + number) % 5)))
                assert os.fstat(node.fd).st_ino == attr.ino == node.ino
                nodes.forget(node, 1)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(nodes) == 0
