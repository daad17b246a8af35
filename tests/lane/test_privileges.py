"""Writes that don't ask for the privileges of a file, and take them all the same."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.conftest import short_directory
from tests.gateway import Gateway, ceph_gateway
from tests.posix.actors import OWNER, STRANGER, User, as_user
from tests.posix.nodes import mode_of, opened

Change = Callable[[Path], None]

_CAPABILITY = "security.capability"
_NET_BIND_SERVICE = struct.pack("<IIIII", 0x0200_0001, 1 << 10, 0, 0, 0)
_BLOCK = bytes(4_096)


@pytest.fixture(scope="module")
def gateway(cluster: CephCluster) -> Iterator[Gateway]:
    """Mount with the lane."""
    with short_directory() as base, ceph_gateway(cluster, base, "lane=on").mounted() as gateway:
        yield gateway


@pytest.fixture
def path(gateway: Gateway) -> Iterator[Path]:
    path = gateway.path / "program"
    path.write_bytes(b"program")
    yield path
    path.unlink()


def _fallocate(path: Path) -> None:
    with opened(path, os.O_WRONLY) as fd:
        os.posix_fallocate(fd, 0, 10_000)


def _copy(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.copy_file_range(fd, fd, 3, 0, 4)


@pytest.mark.parametrize("change", [_fallocate, _copy])
@pytest.mark.parametrize("user", [OWNER, STRANGER], ids=["owner", "stranger"])
def test_ranges_clear_suid_and_sgid(path: Path, user: User, change: Change) -> None:
    """[perm-6]: which the kernel leaves to us."""
    os.chown(path, OWNER.uid, OWNER.gid)
    path.chmod(0o6777)
    with opened(path) as fd:
        as_user(user, lambda: change(path))
        assert mode_of(path) == os.fstat(fd).st_mode & 0o7777 == 0o777


def test_a_lock_bit_is_no_privilege(path: Path) -> None:
    """[perm-6]: set-group-ID of what the group can't execute means something else."""
    os.chown(path, OWNER.uid, OWNER.gid)
    path.chmod(0o6766)
    as_user(OWNER, lambda: _write(path))
    assert mode_of(path) == 0o2766


def _asked(gateway: Gateway) -> float:
    """Return how often the kernel has asked for an attribute."""
    names = ("lane_answered_total", "lane_passed_total")
    return sum(gateway.metric(f'{name}{{op="getxattr"}}') for name in names)


def test_not_each_write_asks_for_capabilities(gateway: Gateway, path: Path) -> None:
    before = _asked(gateway)
    with path.open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(_BLOCK)
    assert _asked(gateway) - before < 10


def _write(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(b"x")


def _write_twice(path: Path) -> None:
    """Write when the kernel knows of no capability, and when there is one."""
    with path.open("r+b", buffering=0) as file:
        os.removexattr(path, _CAPABILITY)
        file.write(b"x")
        os.setxattr(path, _CAPABILITY, _NET_BIND_SERVICE)
        file.write(b"x")


def _truncate(path: Path) -> None:
    os.truncate(path, 3)


def _chown(path: Path) -> None:
    os.chown(path, 1, 1)


@pytest.mark.parametrize("change", [_write, _write_twice, _truncate, _chown])
def test_a_change_takes_the_capabilities(path: Path, change: Change) -> None:
    """[perm-6]: also of a file that the kernel has just found to have none."""
    _write(path)
    os.setxattr(path, _CAPABILITY, _NET_BIND_SERVICE)
    assert os.listxattr(path) == [_CAPABILITY]
    change(path)
    assert os.listxattr(path) == []
