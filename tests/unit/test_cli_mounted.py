"""`rm`, `mount`, `umount` and paths, on a real mount over a local directory."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cephfs_ext.cli.main import cli, run
from cephfs_ext.control.client import Client
from cephfs_ext.control.service import RestoreReport, RestoreRequest
from cephfs_ext.control.state import is_alive, process_start_time, read_state
from cephfs_ext.core.errors import ExitCode
from tests.gateway import COMMAND, Gateway, posix_gateway

_HELPER = str(Path(sys.executable).with_name("mount.fuse.cephfs-ext"))
_RESTORE = str(Path(sys.executable).with_name("trash-restore"))


@pytest.fixture(scope="module")
def mounted() -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        gateway = posix_gateway(Path(name))
        with gateway.mounted():
            yield gateway


@pytest.fixture
def place(mounted: Gateway, request: pytest.FixtureRequest) -> Path:
    """Return a directory of the test's own on the mount."""
    path = mounted.path / uuid.uuid4().hex[:8]
    path.mkdir()
    return path


def call(
    gateway: Gateway, *words: str, cwd: Path | None = None, uid: int = 0, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Carry out a command as a user who finds the gateway through the environment."""
    environment = {**os.environ, "CEPHFS_EXT_CONTROL_RUNTIME_DIR": str(gateway.runtime)}
    return subprocess.run(
        [COMMAND, *words],
        capture_output=True,
        text=True,
        cwd=cwd or "/",
        env=environment,
        user=uid,
        group=uid,
        extra_groups=[],
        timeout=timeout_s,
    )


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    assert done.returncode == code, done
    assert done.stderr.count("\n") == 1, done.stderr
    for part in said:
        assert part in done.stderr


def restore_at_once(gateway: Gateway, path: Path) -> str:
    """Ask for a path without the time that a command takes to start; return the outcome."""
    with contextlib.closing(Client(str(gateway.directory / "admin.sock"))) as client:
        raw = base64.b64encode(os.fsencode(path.relative_to(gateway.path))).decode()
        request = RestoreRequest(paths=[raw])
        return client.post("/v1/trash/restore", request, RestoreReport).items[0].outcome


class TestRm:
    def test_tree_is_one_line_in_the_trash(self, mounted: Gateway, place: Path) -> None:
        (place / "tree" / "deep").mkdir(parents=True)
        (place / "tree" / "deep" / "file").write_text("x")
        done = call(mounted, "rm", "-r", str(place / "tree"))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert not (place / "tree").exists()
        below = [item for item in mounted.trash() if place.name in item["path"]]
        assert [(item["path"], item["entries"]) for item in below] == [(f"{place.name}/tree", 3)]

    def test_file_link_and_empty_directory(self, mounted: Gateway, place: Path) -> None:
        (place / "file").write_text("x")
        (place / "directory").mkdir()
        (place / "link").symlink_to("directory")
        names = ["file", "link", "directory/"]
        assert call(mounted, "rm", "-r", *names, cwd=place).returncode == ExitCode.OK
        assert list(place.iterdir()) == []

    def test_link_is_deleted_not_followed(self, mounted: Gateway, place: Path) -> None:
        (place / "kept").mkdir()
        (place / "link").symlink_to("kept")
        assert call(mounted, "rm", "-r", "link", cwd=place).returncode == ExitCode.OK
        assert [path.name for path in place.iterdir()] == ["kept"]

    def test_names_that_need_care(self, mounted: Gateway, place: Path) -> None:
        for name in (b"-rf", b"\xff\n", b"x" * 255):
            os.mkdir(os.fsencode(place) + b"/" + name)
        names = [os.fsdecode(name) for name in os.listdir(os.fsencode(place))]
        assert call(mounted, "rm", "-r", "--", *names, cwd=place).returncode == ExitCode.OK
        assert list(place.iterdir()) == []

    def test_directory_without_r(self, mounted: Gateway, place: Path) -> None:
        (place / "tree").mkdir()
        assert_refused(call(mounted, "rm", str(place / "tree")), ExitCode.USAGE, "add -r")
        assert (place / "tree").exists()

    def test_missing(self, mounted: Gateway, place: Path) -> None:
        assert_refused(
            call(mounted, "rm", str(place / "none")), ExitCode.NOT_FOUND, "none: no such"
        )
        done = call(mounted, "rm", "-f", str(place / "none"))
        assert (done.returncode, done.stderr) == (ExitCode.OK, "")

    @pytest.mark.parametrize("name", [".", "..", "/", "tree/.", "tree/..", "", "./", "//"])
    def test_what_nobody_means(self, mounted: Gateway, place: Path, name: str) -> None:
        (place / "tree").mkdir()
        done = call(
            mounted, "rm", "-rf", name, cwd=place / "tree" if name in (".", "..") else place
        )
        assert done.returncode in (ExitCode.USAGE, ExitCode.OK)
        assert (done.returncode == ExitCode.OK) == (name == "")
        assert (place / "tree").exists()

    def test_mountpoint(self, mounted: Gateway) -> None:
        done = call(mounted, "rm", "-r", str(mounted.path))
        assert_refused(done, ExitCode.USAGE, "it is a mountpoint")

    def test_elsewhere(self, mounted: Gateway, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        assert_refused(call(mounted, "rm", str(tmp_path / "file")), ExitCode.USAGE, "use rm")
        assert (tmp_path / "file").exists()

    def test_goes_on_after_an_error(self, mounted: Gateway, place: Path) -> None:
        (place / "a").mkdir()
        (place / "b").mkdir()
        done = call(mounted, "rm", "-r", "a", "none", "b", cwd=place)
        assert_refused(done, ExitCode.PARTIAL, "none")
        assert list(place.iterdir()) == []

    def test_dry_run(self, mounted: Gateway, place: Path) -> None:
        (place / "tree").mkdir()
        done = call(mounted, "rm", "-r", "-n", "tree", cwd=place)
        assert (done.returncode, done.stdout) == (ExitCode.OK, "would delete tree\n")
        assert (place / "tree").exists()

    def test_json(self, mounted: Gateway, place: Path) -> None:
        (place / "tree").mkdir()
        done = call(mounted, "rm", "-r", "--json", "tree", "none", cwd=place)
        assert done.returncode == ExitCode.PARTIAL
        assert json.loads(done.stdout) == {
            "schema_version": 1,
            "dry_run": False,
            "items": [
                {"path": "tree", "deleted": True, "message": "", "exit_code": 0, "job": None},
                {
                    "path": "none",
                    "deleted": False,
                    "message": "no such file or directory",
                    "exit_code": ExitCode.NOT_FOUND,
                    "job": None,
                },
            ],
        }

    def test_rights_are_those_of_the_caller(self, mounted: Gateway, place: Path) -> None:
        (place / "tree").mkdir()
        done = call(mounted, "rm", "-r", str(place / "tree"), uid=12345)
        assert_refused(done, ExitCode.DENIED, "Permission denied")
        assert (place / "tree").exists()

    def test_own_tree_without_root(self, mounted: Gateway, place: Path) -> None:
        os.chown(place, 12345, 12345)
        (place / "tree").mkdir()
        os.chown(place / "tree", 12345, 12345)
        assert call(mounted, "rm", "-r", str(place / "tree"), uid=12345).returncode == ExitCode.OK
        assert call(mounted, "trash", "restore", "tree", cwd=place, uid=12345).returncode == 0
        assert (place / "tree").stat().st_uid == 12345

    def test_dots_behind_a_link(self, mounted: Gateway, place: Path) -> None:
        for name in ("here/b", "there/d", "there/b"):
            (place / name).mkdir(parents=True)
        (place / "here" / "link").symlink_to("../there/d")
        call(mounted, "rm", "-r", "link/../b", cwd=place / "here")  # rm(1): there/b
        assert (place / "here" / "b").exists()

    def test_link_with_a_slash(self, mounted: Gateway, place: Path) -> None:
        (place / "kept").mkdir()
        (place / "link").symlink_to("kept")
        call(mounted, "rm", "-r", "link/", cwd=place)
        assert (place / "link").is_symlink()


class TestPaths:
    """A PATH is understood wherever the mount is seen from."""

    def deleted(self, gateway: Gateway, place: Path, name: str = "file") -> Path:
        (place / name).write_text("content")
        (place / name).unlink()
        return place / name

    def test_absolute(self, mounted: Gateway, place: Path) -> None:
        file = self.deleted(mounted, place)
        assert call(mounted, "trash", "restore", str(file)).returncode == ExitCode.OK
        assert file.read_text() == "content"

    def test_relative(self, mounted: Gateway, place: Path) -> None:
        file = self.deleted(mounted, place)
        assert call(mounted, "trash", "restore", "file", cwd=place).returncode == ExitCode.OK
        assert file.read_text() == "content"

    def test_parents_are_gone_too(self, mounted: Gateway, place: Path) -> None:
        (place / "a" / "b").mkdir(parents=True)
        subprocess.run(["rm", "-r", str(place / "a")], check=True)
        done = call(mounted, "trash", "restore", str(place / "a"))
        assert done.returncode == ExitCode.OK, done
        assert (place / "a" / "b").is_dir()

    def test_at_once(self, mounted: Gateway, place: Path) -> None:
        (place / "file").write_text("content")
        (place / "file").unlink()
        assert restore_at_once(mounted, place / "file") == "restored"

    def test_trash_restore_is_the_same(self, mounted: Gateway, place: Path) -> None:
        file = self.deleted(mounted, place)
        environment = {**os.environ, "CEPHFS_EXT_CONTROL_RUNTIME_DIR": str(mounted.runtime)}
        subprocess.run([_RESTORE, str(file)], env=environment, check=True)
        assert file.exists()

    def test_list_below(self, mounted: Gateway, place: Path) -> None:
        self.deleted(mounted, place)
        done = call(mounted, "trash", "ls", "--json", str(place))
        assert [item["path"] for item in json.loads(done.stdout)["items"]] == [f"{place.name}/file"]

    def test_all_that_fits(self, mounted: Gateway, place: Path) -> None:
        for name in ("one.py", "two.py", "three.txt"):
            self.deleted(mounted, place, name)
        words = ("trash", "restore", "--below", str(place), "--match", "*.py", "--since", "1h")
        assert call(mounted, *words).returncode == ExitCode.OK
        assert sorted(os.listdir(place)) == ["one.py", "two.py"]

    def test_newest_of_one_path_comes_back(self, mounted: Gateway, place: Path) -> None:
        for content in ("old", "new"):
            (place / "file").write_text(content)
            (place / "file").unlink()
        words = ("trash", "restore", "--below", str(place))
        assert call(mounted, *words).returncode == ExitCode.PARTIAL
        assert (place / "file").read_text() == "new"

    def test_nothing_that_fits(self, mounted: Gateway, place: Path) -> None:
        self.deleted(mounted, place)
        done = call(mounted, "trash", "restore", "--below", str(place), "--match", "x*")
        assert done.returncode == ExitCode.NOT_FOUND
        assert "nothing that fits" in done.stderr

    def test_of_somebody_else(self, mounted: Gateway, place: Path) -> None:
        file = self.deleted(mounted, place)
        done = call(mounted, "trash", "restore", str(file), uid=12345)
        assert_refused(done, ExitCode.NOT_FOUND, "yours to restore")
        assert not file.exists()

    def test_elsewhere(self, mounted: Gateway, tmp_path: Path) -> None:
        done = call(mounted, "trash", "restore", str(tmp_path / "file"))
        assert_refused(done, ExitCode.NOT_FOUND, "is on no gateway mount; there is")

    def test_conflict(self, mounted: Gateway, place: Path) -> None:
        file = self.deleted(mounted, place)
        file.write_text("new")
        assert_refused(call(mounted, "trash", "restore", str(file)), ExitCode.CONFLICT, "file")
        assert file.read_text() == "new"

    def test_to(self, mounted: Gateway, place: Path) -> None:
        file = self.deleted(mounted, place)
        (place / "back").mkdir()
        done = call(mounted, "trash", "restore", str(file), "--to", str(place / "back"))
        assert done.returncode == ExitCode.OK
        assert (place / "back" / "file").read_text() == "content"

    def test_name_with_two_dots(self, mounted: Gateway) -> None:
        file = self.deleted(mounted, mounted.path, f"..{uuid.uuid4().hex}")
        assert call(mounted, "trash", "restore", str(file)).returncode == ExitCode.OK

    def test_through_a_link(self, mounted: Gateway, place: Path, tmp_path: Path) -> None:
        file = self.deleted(mounted, place)
        (tmp_path / "home").symlink_to(place)
        call(mounted, "trash", "restore", str(tmp_path / "home" / "file"))
        assert file.exists()

    def test_through_a_bind_mount_of_a_directory(
        self, mounted: Gateway, place: Path, base: Path
    ) -> None:
        file = self.deleted(mounted, place)
        (base / "data").mkdir()
        with bound(place, base / "data"):
            call(mounted, "trash", "restore", str(base / "data" / "file"))
        assert file.exists()


@contextlib.contextmanager
def bound(source: Path, at: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(source), str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


def mount_at_bad_address(gateway: Gateway) -> subprocess.CompletedProcess[str]:
    """Fail late, when everything else runs; return when the daemon has ended."""
    flags = ["-o", "metrics_listen=nowhere"]
    done = call(gateway, "mount", gateway.source, str(gateway.path), *flags)
    until_ended(gateway)
    return done


def until_ended(gateway: Gateway) -> None:
    state = read_state(str(gateway.directory))
    while state is not None and is_alive(state):
        time.sleep(0.01)


class TestMount:
    @pytest.fixture
    def gateway(self, base: Path) -> Iterator[Gateway]:
        """Return a gateway of the test's own, not mounted yet."""
        gateway = posix_gateway(base)
        gateway.path.mkdir()
        yield gateway
        gateway.close()

    def test_source_that_is_not_understood(self, gateway: Gateway) -> None:
        done = call(gateway, "mount", "nfs:/x", str(gateway.path))
        assert_refused(done, ExitCode.USAGE, "write posix:DIR or ceph:/SUBDIR")

    def test_source_missing(self, gateway: Gateway) -> None:
        done = call(gateway, "mount", "posix:/nowhere", str(gateway.path))
        assert_refused(done, ExitCode.NOT_FOUND, "/nowhere")

    def test_source_is_a_file(self, gateway: Gateway, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        done = call(gateway, "mount", f"posix:{tmp_path / 'file'}", str(gateway.path))
        assert_refused(done, ExitCode.USAGE, "directory")

    def test_source_around_the_mountpoint(self, gateway: Gateway, base: Path) -> None:
        done = call(gateway, "mount", f"posix:{base}", str(gateway.path))
        assert_refused(done, ExitCode.USAGE, "mount somewhere else")

    def test_source_inside_the_mountpoint(self, gateway: Gateway, base: Path) -> None:
        done = call(gateway, "mount", gateway.source, str(base))
        assert_refused(done, ExitCode.USAGE, "mount somewhere else")

    def test_mountpoint_missing(self, gateway: Gateway) -> None:
        done = call(gateway, "mount", gateway.source, str(gateway.path / "none"))
        assert_refused(done, ExitCode.NOT_FOUND, "create the mountpoint first")

    def test_mountpoint_is_a_file(self, gateway: Gateway, base: Path) -> None:
        (base / "file").write_text("")
        done = call(gateway, "mount", gateway.source, str(base / "file"))
        assert_refused(done, ExitCode.USAGE, "not a directory")

    def test_mountpoint_not_empty(self, gateway: Gateway) -> None:
        (gateway.path / "file").write_text("")
        done = call(gateway, "mount", gateway.source, str(gateway.path))
        assert_refused(done, ExitCode.CONFLICT, "is not empty")

    def test_mounted_already(self, gateway: Gateway) -> None:
        with gateway.mounted():
            done = call(gateway, "mount", gateway.source, str(gateway.path))
            assert_refused(done, ExitCode.CONFLICT, "cephfs-ext umount")

    def test_bad_configuration(self, gateway: Gateway) -> None:
        done = call(gateway, "mount", gateway.source, str(gateway.path), "-o", "retention=1d")
        assert_refused(done, ExitCode.USAGE, "did you mean retention_s?")

    def test_bad_address(self, gateway: Gateway) -> None:
        assert_refused(mount_at_bad_address(gateway), ExitCode.USAGE, "write HOST:PORT")
        assert not gateway.path.is_mount()

    def test_start_that_fails_leaves_nothing(self, gateway: Gateway) -> None:
        mount_at_bad_address(gateway)
        assert not gateway.directory.exists()

    @pytest.mark.parametrize("where", ["log.file=/nowhere/x.log", "runtime_dir=/proc/x"])
    def test_places_that_cannot_be_written(self, gateway: Gateway, where: str) -> None:
        done = call(gateway, "mount", gateway.source, str(gateway.path), "-o", where)
        assert done.returncode != ExitCode.OK
        assert "Traceback" not in done.stderr

    def test_relative_mountpoint(self, gateway: Gateway, base: Path) -> None:
        name = f"cx-{uuid.uuid4().hex}"  # not there in /, so that nothing else is mounted over
        (base / name).mkdir()
        done = call(gateway, "mount", gateway.source, name, cwd=base)
        try:
            assert done.returncode == ExitCode.OK
            assert (base / name).is_mount()
        finally:
            call(gateway, "umount", str(base / name))

    def test_as_mount_8_calls_it(self, gateway: Gateway) -> None:
        flags = ["-n", "-o", f"rw,_netdev,noatime,control.runtime_dir={gateway.runtime}"]
        subprocess.run([_HELPER, gateway.source, str(gateway.path), *flags], check=True)
        assert gateway.path.is_mount()
        gateway.umount()

    @pytest.mark.parametrize(
        "flags", [["-nv"], ["-N", "/proc/self/ns/mnt"], ["-o", "sync,dirsync"]]
    )
    def test_other_options_of_mount_8(self, gateway: Gateway, flags: list[str]) -> None:
        runtime = ["-o", f"control.runtime_dir={gateway.runtime}"]
        command = [_HELPER, gateway.source, str(gateway.path), *flags, *runtime]
        assert subprocess.run(command, capture_output=True).returncode == ExitCode.OK

    def test_fake_mount_checks_the_options_only(self, gateway: Gateway) -> None:
        command = [_HELPER, gateway.source, str(gateway.path), "-f", "-o"]
        assert subprocess.run([*command, "ro"]).returncode == ExitCode.OK
        assert subprocess.run([*command, "tro"], capture_output=True).returncode == ExitCode.USAGE
        assert not gateway.path.is_mount()

    def test_namespace_that_is_none(self, gateway: Gateway) -> None:
        command = [_HELPER, gateway.source, str(gateway.path), "-N", "/nowhere"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert_refused(done, ExitCode.NOT_FOUND, "name a process")

    def test_in_another_namespace(self, gateway: Gateway) -> None:
        words = ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo; read line"]
        other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert other.stdout is not None
        other.stdout.readline()
        flags = ["-N", str(other.pid), "-o", f"control.runtime_dir={gateway.runtime}"]
        try:
            subprocess.run([_HELPER, gateway.source, str(gateway.path), *flags], check=True)
            there = Path(f"/proc/{other.pid}/mountinfo").read_text()
            assert str(gateway.path) in there
            assert not gateway.path.is_mount()
        finally:
            other.communicate()
            os.kill(gateway.state.pid, signal.SIGTERM)
            until_ended(gateway)

    @pytest.mark.parametrize("flag", ["ro", "read_only", "mount.read_only=yes"])
    def test_read_only(self, gateway: Gateway, flag: str) -> None:
        with gateway.mounted("-o", flag), pytest.raises(OSError, match="Read-only"):
            (gateway.path / "file").write_text("x")


class TestUmount:
    @pytest.fixture
    def gateway(self, base: Path) -> Iterator[Gateway]:
        gateway = posix_gateway(base)
        gateway.mount()
        yield gateway
        gateway.close()

    def test_waits_for_the_end(self, gateway: Gateway) -> None:
        pid = gateway.state.pid
        done = call(gateway, "umount", str(gateway.path))
        assert (done.returncode, done.stdout, done.stderr) == (ExitCode.OK, "", "")
        assert not gateway.path.is_mount()
        assert process_start_time(pid) == 0  # ended, whether its parent has taken note or not
        assert not gateway.directory.exists()

    def test_twice(self, gateway: Gateway) -> None:
        gateway.umount()
        done = call(gateway, "umount", str(gateway.path))
        assert_refused(done, ExitCode.NOT_FOUND, "is no gateway mount")

    @pytest.mark.parametrize("place", ["/", "/proc", "/nowhere"])
    def test_no_gateway_mount(self, mounted: Gateway, place: str) -> None:
        assert_refused(call(mounted, "umount", place), ExitCode.NOT_FOUND, "is no gateway mount")

    def test_is_for_operators(self, mounted: Gateway) -> None:
        done = call(mounted, "umount", str(mounted.path), uid=12345)
        assert_refused(done, ExitCode.DENIED, "only an operator")
        assert mounted.path.is_mount()

    def test_force_is_for_operators(self, mounted: Gateway) -> None:
        done = call(mounted, "umount", "--force", str(mounted.path), uid=12345)
        assert_refused(done, ExitCode.DENIED)

    def test_force(self, gateway: Gateway) -> None:
        assert call(gateway, "umount", "--force", str(gateway.path)).returncode == ExitCode.OK
        assert not gateway.path.is_mount()
        until_ended(gateway)

    def test_dead_daemon(self, gateway: Gateway) -> None:
        gateway.kill()
        assert call(gateway, "umount", str(gateway.path)).returncode == ExitCode.OK
        assert not os.path.ismount(gateway.path)

    def test_force_with_a_daemon_that_hangs(self, gateway: Gateway) -> None:
        with stopped(gateway):
            time.sleep(1.5)  # until the kernel has nothing to answer with
            call(gateway, "umount", "--force", str(gateway.path), timeout_s=10)
        until_ended(gateway)

    def test_daemon_that_hangs_is_named(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CEPHFS_EXT_CONTROL_RUNTIME_DIR", str(gateway.runtime))
        monkeypatch.setattr("cephfs_ext.cli.mount._ANSWER_S", 0.3)
        monkeypatch.setattr("cephfs_ext.cli.status._TIMEOUT_S", 0.3)
        with stopped(gateway):
            for words in (["umount", str(gateway.path)], ["status"]):
                assert run(cli, words, "cephfs-ext") == ExitCode.TEMPORARY
                said = capsys.readouterr().err
                assert said.count("\n") == 1
                assert f"kill -9 {gateway.state.pid}" in said
        until_ended(gateway)  # it had been asked

    def test_ends_when_what_is_open_has_been_closed(self, gateway: Gateway) -> None:
        with (gateway.path / "file").open("w") as stream:
            umount = subprocess.Popen([COMMAND, "umount", str(gateway.path), *runtime(gateway)])
            while gateway.path.is_mount():
                time.sleep(0.01)
            stream.write("last words")
        assert umount.wait(timeout=20) == ExitCode.OK
        assert Path(gateway.source.removeprefix("posix:"), "file").read_text() == "last words"


def runtime(gateway: Gateway) -> list[str]:
    return ["-o", f"control.runtime_dir={gateway.runtime}"]


_AS_A_USER = """
set -e
mount --bind "$1/fuse.conf" /etc/fuse.conf
mount --bind "$1/fuse" /dev/fuse
exec setpriv --reuid nobody --regid nogroup --clear-groups sh -ec '
    "$0" mount "posix:$1/source" "$1/mnt"
    echo content > "$1/mnt/file"
    rm "$1/mnt/file"
    "$0" trash restore "$1/mnt/file"
    cat "$1/mnt/file"
    "$0" umount "$1/mnt"
    ! mountpoint -q "$1/mnt"
' "$0" "$1"
"""


_NOBODY = (65534, 65534)
"""fusermount3 wants a user who has a name."""


def test_user_without_rights_mounts_restores_and_unmounts(base: Path) -> None:
    for name in ("source", "mnt", "run"):
        (base / name).mkdir()
        os.chown(base / name, *_NOBODY)
    (base / "fuse.conf").write_text("user_allow_other\n")
    os.mknod(base / "fuse", 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    os.chown(base / "fuse", *_NOBODY)
    words = ["unshare", "-m", "--propagation", "private", "sh", "-c", _AS_A_USER]
    environment = {**os.environ, "CEPHFS_EXT_CONTROL_RUNTIME_DIR": str(base / "run")}
    done = subprocess.run(
        [*words, COMMAND, str(base)], capture_output=True, text=True, env=environment, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.splitlines()[-1] == "content"


@contextlib.contextmanager
def stopped(gateway: Gateway) -> Iterator[None]:
    """Have the daemon hang."""
    pid = gateway.state.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
