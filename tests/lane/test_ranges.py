"""What the lane answers beyond lookups and data: space, names of attributes, ranges of files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.conftest import short_directory
from tests.gateway import Gateway, ceph_gateway
from tests.posix.libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from tests.waiting import wait_until

_MIB = 1 << 20
_COLLAPSE = 8
"""FALLOC_FL_COLLAPSE_RANGE."""
_WAIT_S = 30.0


@pytest.fixture(scope="module")
def gateway(cluster: CephCluster) -> Iterator[Gateway]:
    """Mount with the lane."""
    with short_directory() as base, ceph_gateway(cluster, base, "lane=on").mounted() as gateway:
        yield gateway


@pytest.fixture
def path(gateway: Gateway, request: pytest.FixtureRequest) -> Path:
    """Make a file for one test."""
    path = gateway.path / request.node.name
    path.write_bytes(os.urandom(100_000))
    return path


def _answers(gateway: Gateway, op: str, ask: Callable[[], object]) -> None:
    """Do something that the lane has to answer, and Python hasn't."""
    name = f'lane_answered_total{{op="{op}"}}'
    before = gateway.metric(name)
    ask()
    assert gateway.metric(name) > before


def test_a_range_is_allocated(gateway: Gateway, path: Path) -> None:
    """[fallocate-1]."""
    content = path.read_bytes()
    with path.open("r+b") as file:
        fd = file.fileno()
        _answers(gateway, "fallocate", lambda: fallocate(fd, 0, 50_000, 100_000))
        assert os.fstat(fd).st_size == 150_000
        fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, _MIB)
        assert os.fstat(fd).st_size == 150_000
    assert path.read_bytes() == content + bytes(50_000)


def test_a_range_is_punched_out(path: Path) -> None:
    """[fallocate-1]."""
    content = path.read_bytes()
    with path.open("r+b") as file:
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        fallocate(file.fileno(), mode, 10_000, 20_000)
        assert file.read() == content[:10_000] + bytes(20_000) + content[30_000:]
        with pytest.raises(OSError, match="not supported") as refused:
            fallocate(file.fileno(), _COLLAPSE, 0, 4096)
        assert refused.value.errno == errno.EOPNOTSUPP
        fallocate(file.fileno(), 0, 0, 200_000)  # what was refused changes nothing for others
    assert path.stat().st_size == 200_000


def test_what_python_has_opened_is_allocated_as_well(gateway: Gateway, path: Path) -> None:
    """[fallocate-1]: a file that was opened with O_TRUNC."""
    with path.open("wb") as file:
        _answers(gateway, "fallocate", lambda: fallocate(file.fileno(), 0, 0, 5000))
    assert path.read_bytes() == bytes(5000)


def test_ranges_are_copied(gateway: Gateway, path: Path) -> None:
    """[lane-1]: copy_file_range(2); more than is done at once, and to the end of the file."""
    data = os.urandom(_MIB) * 20 + b"end"
    path.write_bytes(data)
    copied = 0
    with path.open("rb") as source, path.with_name("copy").open("w+b") as copy:
        while step := os.copy_file_range(source.fileno(), copy.fileno(), 2 * len(data)):
            copied += step
        assert copied == len(data)
        assert copy.read() == b""
        copy.seek(0)
        assert copy.read() == data
        ends = source.fileno(), copy.fileno()
        _answers(gateway, "copy_file_range", lambda: os.copy_file_range(*ends, 5000, 100, 7))
        copy.seek(7)
        assert copy.read(5000) == data[100:5100]


def test_space_is_told(gateway: Gateway, path: Path) -> None:
    """[statfs-1], [lane-1]: as Python tells it, of each file the same."""
    os.setxattr(gateway.path, "ceph.quota.max_bytes", str(400 * _MIB).encode())
    _answers(gateway, "statfs", lambda: os.statvfs(path))
    wait_until(lambda: os.statvfs(path).f_blocks == 100, within_s=_WAIT_S)
    told = os.statvfs(path)
    assert told[:2] == os.statvfs(gateway.path)[:2]
    gateway.umount()
    gateway.mount("-o", "lane=off")
    without = os.statvfs(path)
    gateway.umount()
    gateway.mount()
    os.setxattr(gateway.path, "ceph.quota.max_bytes", b"0")
    for field in ("f_bsize", "f_frsize", "f_blocks", "f_ffree", "f_favail", "f_namemax", "f_flag"):
        assert getattr(told, field) == getattr(without, field), field


def test_names_of_attributes_are_listed(gateway: Gateway, path: Path) -> None:
    """[xattr-1], [xattr-2], [lane-1]: but not those that CephFS makes up, nor the trash's own."""
    assert os.listxattr(path) == []
    names = ["user.a", "user." + "b" * 200, "trusted.c"]
    for name in names:
        os.setxattr(path, name, b"x")
    os.setxattr(path, "trusted.cephfs_ext.promised", b"1")
    _answers(gateway, "listxattr", lambda: os.listxattr(path))
    assert sorted(os.listxattr(path)) == sorted(names)
