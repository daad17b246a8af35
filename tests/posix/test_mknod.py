"""mknod(2), mkfifo(3), and sockets in the file system."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.posix.actors import STRANGER, as_user, elsewhere, spawn
from tests.posix.nodes import KINDS, fails, kind_of, make, make_dir, make_socket, mode_of, opened

NUMBERS = [(0, 0), (1, 3), (8, 255), (259, 1), (4095, 256), (255, 1_048_575)]


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["char", "block"])
@pytest.mark.parametrize(("major", "minor"), NUMBERS)
def test_device_numbers_are_kept(target: Path, kind: int, major: int, minor: int) -> None:
    os.mknod(target / "it", kind | 0o640, os.makedev(major, minor))
    found = os.lstat(target / "it")
    assert stat.S_IFMT(found.st_mode) == kind
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (major, minor)
    assert mode_of(target / "it") == 0o640


def test_regular_file_without_a_type(target: Path) -> None:
    os.mknod(target / "f", 0o600)
    os.mknod(target / "g", stat.S_IFREG | 0o600)
    (target / "f").write_bytes(b"works")
    assert (target / "f").read_bytes() == b"works"
    assert kind_of(target / "g") == "file"


def test_directory_cannot_be_made_this_way(target: Path) -> None:
    with fails(errno.EPERM, errno.EINVAL):
        os.mknod(target / "d", stat.S_IFDIR | 0o755)
    assert os.listdir(target) == []


@pytest.mark.parametrize("kind", KINDS)
def test_existing_name_is_refused(target: Path, kind: str) -> None:
    make(kind, target / "it")
    with fails(errno.EEXIST):
        os.mkfifo(target / "it")
    with fails(errno.EEXIST):
        os.mknod(target / "it", stat.S_IFCHR | 0o600, os.makedev(1, 3))


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["char", "block"])
def test_devices_are_for_root(target: Path, kind: int) -> None:
    mine = make_dir(target / "d", owner=STRANGER)
    with fails(errno.EPERM):
        as_user(STRANGER, lambda: os.mknod(mine / "it", kind | 0o600, os.makedev(1, 3)))
    assert os.listdir(mine) == []


def test_fifos_are_for_everybody(target: Path) -> None:
    mine = make_dir(target / "d", owner=STRANGER)
    as_user(STRANGER, lambda: os.mkfifo(mine / "fifo", 0o600))
    found = os.lstat(mine / "fifo")
    assert (stat.S_ISFIFO(found.st_mode), found.st_uid) == (True, STRANGER.uid)


def test_fifo_carries_data_between_processes(target: Path) -> None:
    os.mkfifo(target / "fifo")

    def send() -> None:
        with opened(target / "fifo", os.O_WRONLY) as fd:
            os.write(fd, b"hello")

    with spawn(send) as child:
        with opened(target / "fifo") as fd:
            assert os.read(fd, 10) == b"hello"
            assert os.read(fd, 10) == b""
        child.result()
    assert os.lstat(target / "fifo").st_size == 0


def test_fifo_works_under_a_new_name_and_after_unlink(target: Path) -> None:
    os.mkfifo(target / "fifo")
    os.rename(target / "fifo", target / "moved")
    with opened(target / "moved", os.O_RDWR) as fd:
        os.unlink(target / "moved")
        os.write(fd, b"x")
        assert os.read(fd, 1) == b"x"


def test_socket_accepts_connections_by_its_name(target: Path) -> None:
    def serve() -> bytes:
        os.chdir(target)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
            server.listen()
            elsewhere(connect)
            with server.accept()[0] as peer:
                return peer.recv(10)

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("socket")
            client.send(b"hello")

    assert elsewhere(serve) == b"hello"
    assert kind_of(target / "socket") == "socket"


def test_socket_nobody_listens_on_refuses(target: Path) -> None:
    make_socket(target / "socket")

    def connect() -> None:
        os.chdir(target)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("socket")

    with fails(errno.ECONNREFUSED):
        elsewhere(connect)


def test_bound_name_is_taken(target: Path) -> None:
    make_socket(target / "socket")
    with fails(errno.EADDRINUSE):
        make_socket(target / "socket")
