"""System calls of the posix storage: whose identity a thread has, and what each call answers."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cephfs_ext.core.errors import DeniedError, ExistsError, FSError, NotFoundError
from cephfs_ext.core.types import GATEWAY, AttrChange, Credentials
from cephfs_ext.storage import posix_calls as calls

USER = Credentials(30001, 30002, (30003, 30004))


def identity_of_thread() -> dict[str, str]:
    """Return who the calling thread is."""
    status = Path(f"/proc/self/task/{threading.get_native_id()}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return {
        "uid": fields["Uid"].split()[3],
        "gid": fields["Gid"].split()[3],
        "groups": fields["Groups"].strip(),
        "capabilities": fields["CapEff"],
    }


@pytest.fixture
def opened() -> Iterator[Callable[[Path], int]]:
    """Return what opens a path for its inode, closed in the end."""
    fds: list[int] = []

    def open_it(path: Path, flags: int = os.O_PATH | os.O_NOFOLLOW) -> int:
        fds.append(os.open(path, flags))
        return fds[-1]

    yield open_it
    for fd in fds:
        os.close(fd)


# identities


def test_a_thread_that_acts_for_a_user_has_no_right_of_its_own() -> None:
    with calls.acting_as(USER, GATEWAY):
        identity = identity_of_thread()
    assert identity == {
        "uid": "30001",
        "gid": "30002",
        "groups": "30003 30004",
        "capabilities": "0000000000000000",
    }


def test_a_thread_is_itself_again() -> None:
    before = identity_of_thread()
    for _ in range(3):
        with calls.acting_as(USER, GATEWAY):
            pass
        with pytest.raises(ZeroDivisionError), calls.acting_as(USER, GATEWAY):
            raise ZeroDivisionError
        assert identity_of_thread() == before | {"groups": ""}


def test_root_of_another_group_stays_root() -> None:
    before = identity_of_thread()
    with calls.acting_as(Credentials(0, 5, (6,)), GATEWAY):
        identity = identity_of_thread()
    assert identity == before | {"gid": "5", "groups": "6"}


def test_other_threads_stay_who_they_are() -> None:
    before = identity_of_thread()
    with ThreadPoolExecutor(1) as other:
        inside, done = threading.Event(), threading.Event()

        def act() -> None:
            with calls.acting_as(USER, GATEWAY):
                inside.set()
                done.wait(10)

        acting = other.submit(act)
        assert inside.wait(10)
        assert identity_of_thread() == before
        done.set()
        acting.result()
        assert other.submit(identity_of_thread).result() == before | {"groups": ""}


def test_a_process_that_is_not_root_is_not_asked_to_be_somebody_else() -> None:
    before = identity_of_thread()
    with calls.acting_as(USER, Credentials(30001, 30001)):
        assert identity_of_thread() == before


def test_many_groups() -> None:
    groups = tuple(range(100_000, 100_500))
    with calls.acting_as(Credentials(1, 1, groups), GATEWAY):
        assert identity_of_thread()["groups"] == " ".join(map(str, groups))


def without_return(returns: list[int]) -> types.SimpleNamespace:
    """Return system calls among which being root again answers as given, then for real."""
    real, rest = calls.lib, iter(returns)

    def again() -> int:
        return next(rest, None) or real.cx_be_root_again()

    return types.SimpleNamespace(cx_act_as=real.cx_act_as, cx_be_root_again=again)


def test_a_short_lack_of_memory_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity_of_thread()
    monkeypatch.setattr(calls, "lib", without_return([-errno.ENOMEM] * 3))
    with calls.acting_as(USER, GATEWAY):
        pass
    assert identity_of_thread() == before | {"groups": ""}


def test_a_thread_that_stays_somebody_else_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    aborted = []
    monkeypatch.setattr(calls, "lib", without_return([-errno.EPERM] * 1000))
    monkeypatch.setattr(calls, "_RETURN_PAUSE_S", 0)
    monkeypatch.setattr(os, "abort", lambda: aborted.append(identity_of_thread()["uid"]))
    with caplog.at_level(logging.CRITICAL), calls.acting_as(USER, GATEWAY):
        pass
    monkeypatch.undo()
    assert calls.lib.cx_be_root_again() == 0
    assert aborted == ["30001"]
    assert "the process ends" in caplog.text


REFUSED = textwrap.dedent(
    """
    import errno, os
    from cephfs_ext.core.errors import DeniedError
    from cephfs_ext.core.types import GATEWAY, Credentials
    from cephfs_ext.storage.posix_calls import acting_as

    for _ in range(3):
        try:
            with acting_as(Credentials(30001, 30002), GATEWAY):
                raise AssertionError("is somebody else")
        except DeniedError as exc:
            assert exc.errno == errno.EPERM
    os.close(os.open("/root", os.O_RDONLY))
    print("itself")
    """
)


def test_where_the_kernel_refuses_the_thread_stays_itself() -> None:
    """A container may have taken the right to change groups away."""
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-setgid", sys.executable, "-c", REFUSED],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "itself\n", done.stderr


def test_own_identity() -> None:
    assert calls.own_identity() == GATEWAY


# names


def test_error_of_the_system_gets_its_class() -> None:
    with pytest.raises(NotFoundError), calls.translated():
        os.stat("/no/such/file")
    with pytest.raises(FSError) as caught, calls.translated():
        raise OSError
    assert caught.value.errno == errno.EIO


def test_a_name_is_opened_and_not_what_it_points_to(
    tmp_path: Path, opened: Callable[..., int]
) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    fd = calls.open_path(opened(tmp_path), b"link")
    try:
        assert stat.S_ISLNK(os.fstat(fd).st_mode)
        assert calls.read_link(fd) == b"nowhere"
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_only_links_have_a_target(tmp_path: Path, opened: Callable[..., int], kind: str) -> None:
    path = tmp_path / "x"
    path.mkdir() if kind == "directory" else path.touch()
    with pytest.raises(FSError) as caught:
        calls.read_link(opened(path))
    assert caught.value.errno == errno.EINVAL


def test_rename_without_replacing(tmp_path: Path, opened: Callable[..., int]) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    fd = opened(tmp_path)
    with pytest.raises(ExistsError):
        calls.rename(fd, b"a", fd, b"b", 1)
    calls.rename(fd, b"a", fd, b"c", 1)
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


@pytest.mark.parametrize("user", [GATEWAY, USER], ids=["root", "user"])
def test_link_of_a_symlink_names_the_symlink(
    tmp_path: Path, opened: Callable[..., int], user: Credentials
) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "link").symlink_to("target")
    os.chown(tmp_path / "link", USER.uid, USER.gid, follow_symlinks=False)
    source, above = opened(tmp_path / "link"), opened(tmp_path)
    with calls.acting_as(user, GATEWAY):
        calls.link(source, above, b"again")
    assert os.readlink(tmp_path / "again") == "target"
    assert os.lstat(tmp_path / "again").st_nlink == 2


def test_mode_bits_are_added_to_a_directory_only(
    tmp_path: Path, opened: Callable[..., int]
) -> None:
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "f").touch(mode=0o640)
    (tmp_path / "l").symlink_to("d")
    fd = opened(tmp_path)
    calls.add_mode(fd, b"d", 0o2000)
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o2750
    for name in (b"f", b"l"):
        with pytest.raises(NotADirectoryError):
            calls.add_mode(fd, name, 0o2000)


# attributes


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (AttrChange(mode=0o4751), {"mode": 0o104751}),
        (AttrChange(uid=5), {"uid": 5}),
        (AttrChange(gid=6), {"gid": 6}),
        (AttrChange(size=3), {"size": 3}),
        (AttrChange(atime_ns=-1), {"atime_ns": -1}),
        (AttrChange(mtime_ns=1_500_000_001), {"mtime_ns": 1_500_000_001}),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_one_attribute_is_changed(
    tmp_path: Path, opened: Callable[..., int], change: AttrChange, changed: dict[str, int]
) -> None:
    (tmp_path / "f").write_text("data")
    (tmp_path / "f").chmod(0o600)
    fd = opened(tmp_path / "f")
    before = calls.attr_of(os.fstat(fd))
    calls.change(fd, change, None)
    after = calls.attr_of(os.fstat(fd))
    for field in ("mode", "uid", "gid", "size", "atime_ns", "mtime_ns"):
        if not (field == "mtime_ns" and "size" in changed):
            assert getattr(after, field) == changed.get(field, getattr(before, field)), field


def test_attributes_of_a_symlink_are_its_own(tmp_path: Path, opened: Callable[..., int]) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "l").symlink_to("f")
    before = (tmp_path / "f").stat()
    calls.change(opened(tmp_path / "l"), AttrChange(uid=5, gid=6, mtime_ns=7), None)
    link = os.lstat(tmp_path / "l")
    assert (link.st_uid, link.st_gid, link.st_mtime_ns) == (5, 6, 7)
    assert (tmp_path / "f").stat() == before


def test_size_through_what_is_open_needs_no_right(
    tmp_path: Path, opened: Callable[..., int]
) -> None:
    (tmp_path / "f").write_text("data")
    (tmp_path / "f").chmod(0o600)
    fd, writable = opened(tmp_path / "f"), opened(tmp_path / "f", os.O_WRONLY)
    with calls.acting_as(USER, GATEWAY):
        with pytest.raises(PermissionError):
            calls.change(fd, AttrChange(size=1), None)
        calls.change(fd, AttrChange(size=2), writable)
    assert (tmp_path / "f").read_text() == "da"


# listings


def test_a_page_is_never_longer_than_its_limit(tmp_path: Path, opened: Callable[..., int]) -> None:
    for number in range(50):
        (tmp_path / f"{number:02}").touch()
    fd, seen = opened(tmp_path, os.O_RDONLY), []
    while page := calls.read_page(fd, 7):
        assert len(page) <= 7
        seen += page
    assert sorted(entry.name for entry in seen) == [b"%02d" % number for number in range(50)]
    assert {entry.kind for entry in seen} == {stat.S_IFREG}
    assert calls.read_page(fd, 7) == []


# handles of inodes


def test_token_leads_back(tmp_path: Path, opened: Callable[..., int]) -> None:
    (tmp_path / "f").touch()
    token = calls.token_of(opened(tmp_path / "f"))
    assert 4 < len(token) <= 128
    (tmp_path / "f").rename(tmp_path / "g")
    fd = calls.open_token(opened(tmp_path, os.O_RDONLY), token)
    try:
        assert os.fstat(fd).st_ino == (tmp_path / "g").stat().st_ino
    finally:
        os.close(fd)


def test_token_of_what_is_gone(tmp_path: Path, opened: Callable[..., int]) -> None:
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_WRONLY)
    token = calls.token_of(fd)
    os.close(fd)
    (tmp_path / "f").unlink()
    with pytest.raises(FSError) as caught:
        calls.open_token(opened(tmp_path, os.O_RDONLY), token)
    assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("token", [b"", b"abcd", b"x" * 200, b"\x01\x00\x00\x00" + bytes(8)])
def test_token_that_is_none(tmp_path: Path, opened: Callable[..., int], token: bytes) -> None:
    with pytest.raises(FSError):
        calls.open_token(opened(tmp_path, os.O_RDONLY), token)


def test_there_is_no_token_where_the_file_system_has_none(opened: Callable[..., int]) -> None:
    assert calls.token_of(opened(Path("/proc/self"))) == b""


def test_lies_below(tmp_path: Path, opened: Callable[..., int]) -> None:
    (tmp_path / "top" / "a" / "b").mkdir(parents=True)
    (tmp_path / "top2").mkdir()
    top, deep = opened(tmp_path / "top"), opened(tmp_path / "top" / "a" / "b")
    assert calls.lies_below(top, top)
    assert calls.lies_below(deep, top)
    for other in (tmp_path / "top2", tmp_path, Path("/"), Path("/proc")):
        assert not calls.lies_below(opened(other), top)
    (tmp_path / "top" / "a").rename(tmp_path / "top2" / "a")
    assert not calls.lies_below(deep, top)


# data


def test_reads_until_the_end(tmp_path: Path, opened: Callable[..., int]) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    fd = opened(tmp_path / "f", os.O_RDONLY)
    assert calls.read_all(fd, 3, 4) == b"3456"
    assert calls.read_all(fd, 8, 100) == b"89"
    assert calls.read_all(fd, 10, 5) == b""


def test_pieces_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file system may read and write them."""
    content = bytearray(b"0123456789")

    def write(fd: int, data: bytes, off: int) -> int:
        step = min(3, len(data))
        content[off : off + step] = data[:step]
        return step

    monkeypatch.setattr(os, "pread", lambda fd, size, off: bytes(content[off : off + min(3, size)]))
    monkeypatch.setattr(os, "pwrite", write)
    assert calls.read_all(0, 1, 8) == b"12345678"
    assert calls.write_all(0, 1, b"abcdefgh") == 8
    assert content == b"0abcdefgh9"


def failing_after(count: int, outcome: int) -> Callable[..., int]:
    """Return a write that takes one byte at a time, then fails or writes nothing."""
    left = iter(range(count))

    def write(fd: int, data: bytes, off: int) -> int:
        if next(left, None) is not None:
            return 1
        if outcome:
            raise OSError(outcome, os.strerror(outcome))
        return 0

    return write


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_halfway_says_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "pwrite", failing_after(2, number))
    assert calls.write_all(0, 0, b"data") == 2
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        calls.write_all(0, 0, b"data")
    assert caught.value.errno == number


def test_a_write_that_gets_nowhere_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", failing_after(1, 0))
    assert calls.write_all(0, 0, b"data") == 1


# what the file system can


def test_noreplace_is_believed_of_file_systems_that_have_it(
    tmp_path: Path, opened: Callable[..., int]
) -> None:
    assert calls.supports_noreplace(opened(tmp_path))
    assert calls.supports_noreplace(opened(Path("/dev/shm")))
    assert not calls.supports_noreplace(opened(Path("/proc")))
    assert not calls.supports_noreplace(-1)


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    first = calls.try_lock(str(tmp_path))
    assert first is not None
    assert not os.get_inheritable(first)
    assert calls.try_lock(str(tmp_path)) is None
    os.close(first)
    again = calls.try_lock(str(tmp_path))
    assert again is not None
    os.close(again)


def test_only_directories_are_locked(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(NotADirectoryError):
        calls.try_lock(str(tmp_path / "f"))


def test_spare_descriptor_is_there_and_free_afterwards() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with calls.spare_descriptor():
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    assert set(os.listdir("/proc/self/fd")) == before


def test_refused_is_an_error_of_its_own() -> None:
    with pytest.raises(DeniedError), calls.translated():
        raise PermissionError(errno.EACCES, "")
