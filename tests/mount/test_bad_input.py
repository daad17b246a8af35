"""What bad input gets: one line with the fix in it, the documented exit code, and nothing lost.

Bad arguments on a local directory are in tests/unit/test_cli_mounted.py, bad configuration is in
tests/unit/test_config.py; here is what needs both storages, a cluster, or a broken machine.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import io
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from cephfs_ext.cli.main import cli, run
from cephfs_ext.control.client import Client
from cephfs_ext.control.service import RestoreReport, RestoreRequest, TrashListing, TrashQuery
from cephfs_ext.control.state import State, daemon_dir, write_state
from cephfs_ext.core.errors import ExitCode
from tests.cluster.ceph import CephCluster
from tests.conftest import STORAGES
from tests.gateway import Gateway, ceph_gateway, posix_gateway

SOMEBODY = 12345
_FULL = (errno.ENOSPC, errno.EDQUOT)

Done = subprocess.CompletedProcess[str]


def assert_refused(done: Done, code: int, *said: str) -> None:
    assert done.returncode == code, done
    assert done.stderr.count("\n") == 1, done.stderr
    for part in said:
        assert part in done.stderr


def mount(gateway: Gateway, *options: str) -> Done:
    gateway.path.mkdir(exist_ok=True)
    return gateway.run("mount", gateway.source, str(gateway.path), *options)


def here(gateway: Gateway, *words: str) -> Done:
    """Carry out a command in this process, without the time that Python takes to start."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(cli, gateway.command(*words)[1:], "cephfs-ext")
    return Done([*words], code, out.getvalue(), err.getvalue())


def as_somebody(gateway: Gateway, *words: str) -> Done:
    return subprocess.run(
        gateway.command(*words),
        capture_output=True,
        text=True,
        cwd="/",
        user=SOMEBODY,
        group=SOMEBODY,
        extra_groups=[],
    )


@contextlib.contextmanager
def asking(gateway: Gateway) -> Iterator[Client]:
    """Ask as the command line does, without the time that it takes to start."""
    with contextlib.closing(Client(str(gateway.directory / "admin.sock"))) as client:
        yield client


def _below(site: Site, path: Path) -> TrashQuery:
    inside = os.fsencode(path.relative_to(site.gateway.path))
    return TrashQuery(below=base64.b64encode(b"" if inside == b"." else inside).decode())


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """Return a directory that other users may enter, as the fixture `base`, for a module."""
    with tempfile.TemporaryDirectory(prefix="cx-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def behind_ceph(cluster: CephCluster) -> Iterator[Path]:
    """Return the whole CephFS through another client."""
    with temporary() as base, cluster.ceph_fuse(base / "all") as path:
        yield path


class Site(NamedTuple):
    """A gateway that isn't mounted yet, and its source without a gateway before it."""

    gateway: Gateway
    behind: Path

    @property
    def trash(self) -> Path:
        return self.behind / ".trashbin"


def _site(storage: str, base: Path, request: pytest.FixtureRequest, *options: str) -> Site:
    if storage == "posix":
        return Site(posix_gateway(base, *options), base / "source")
    gateway = ceph_gateway(request.getfixturevalue("cluster"), base, *options)
    everything: Path = request.getfixturevalue("behind_ceph")
    return Site(gateway, everything / gateway.source.removeprefix("ceph:/"))


@pytest.fixture(params=STORAGES)
def site(request: pytest.FixtureRequest, base: Path) -> Iterator[Site]:
    site = _site(request.param, base, request)
    yield site
    site.gateway.close()


@pytest.fixture(scope="module", params=STORAGES)
def shared(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Return a mounted gateway for tests that have a directory of their own."""
    with temporary() as base:
        site = _site(request.param, base, request)
        with site.gateway.mounted():
            yield site


class TestSource:
    def test_missing(self, site: Site) -> None:
        site.behind.rmdir()
        assert_refused(mount(site.gateway), ExitCode.NOT_FOUND, "create it first")

    @pytest.mark.parametrize("kind", ["file", "link"])
    def test_no_directory(self, site: Site, kind: str) -> None:
        site.behind.rmdir()
        if kind == "file":
            site.behind.write_text("content")
        else:
            site.behind.symlink_to("/dev/null")
        assert_refused(mount(site.gateway), ExitCode.USAGE, "is not a directory")
        site.behind.unlink()

    def test_read_only(self, base: Path) -> None:
        gateway = posix_gateway(base)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", base / "source"], check=True)
        try:
            assert_refused(mount(gateway), ExitCode.DENIED, "Read-only", "-o ro")
        finally:
            subprocess.run(["umount", base / "source"], check=True)


class TestFuse:
    """The machine has no FUSE, or not for this user."""

    def run(self, setup: str, gateway: Gateway, *, uid: int = 0) -> Done:
        """Carry out a mount with devices of its own."""
        gateway.path.mkdir()
        words = gateway.command("mount", gateway.source, str(gateway.path))
        who = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        script = f'{setup} && exec "$@"'
        private = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"]
        return subprocess.run([*private, *who, *words], capture_output=True, text=True, cwd="/")

    def device(self, base: Path, mode: int) -> str:
        os.mknod(base / "fuse", stat.S_IFCHR, os.makedev(10, 229))
        os.chmod(base / "fuse", mode)
        return f"mount --bind {base}/fuse /dev/fuse"

    def test_no_device(self, base: Path) -> None:
        done = self.run("mount -t tmpfs none /dev", posix_gateway(base))
        assert_refused(done, ExitCode.OTHER, "/dev/fuse is missing", "modprobe fuse")

    def test_device_without_driver(self, base: Path) -> None:
        os.mknod(base / "fuse", 0o600 | stat.S_IFCHR, os.makedev(10, 1000))
        done = self.run(f"mount --bind {base}/fuse /dev/fuse", posix_gateway(base))
        assert_refused(done, ExitCode.OTHER, "load the fuse module")

    def test_device_of_others(self, base: Path) -> None:
        done = self.run(self.device(base, 0o600), posix_gateway(base), uid=SOMEBODY)
        assert_refused(done, ExitCode.DENIED, "/dev/fuse: permission denied", "run as root")

    def test_user_who_may_not_mount(self, base: Path) -> None:
        for name in ("source", "run"):
            (base / name).mkdir()
            os.chown(base / name, SOMEBODY, SOMEBODY)
        done = self.run(self.device(base, 0o666), posix_gateway(base), uid=SOMEBODY)
        assert_refused(done, ExitCode.DENIED, "run as root", "user_allow_other")
        assert os.listdir(base / "run") == [next((base / "run").glob("*.log")).name]


class Spoilt:
    """The cluster, with something wrong in its configuration."""

    def __init__(self, cluster: CephCluster, base: Path) -> None:
        self._text = cluster.conf.read_text()
        self._base = base

    def gateway(self, name: str, changes: Mapping[str, str]) -> Gateway:
        text = self._text
        for key, value in changes.items():
            text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        conf = self._base / f"{name}.conf"
        conf.write_text(text)
        (self._base / name).mkdir()
        return Gateway("ceph:/", self._base / name, self._base / "run", conf=conf)

    def mount(self, *options: str, **changes: str) -> Done:
        """Mount; `_` in the name of a setting stands for a space."""
        named = {key.replace("_", " "): value for key, value in changes.items()}
        return mount(self.gateway("mnt", named), *options)


class Unreachable(NamedTuple):
    """A mount that waits for monitors, and how long it did."""

    command: list[str]
    ends: list[tuple[Done, float]]
    thread: threading.Thread


def _wait_for_monitors(gateway: Gateway) -> Unreachable:
    command = gateway.command("mount", gateway.source, str(gateway.path))
    ends: list[tuple[Done, float]] = []

    def run() -> None:
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        ends.append((done, time.monotonic() - begun))

    thread = threading.Thread(target=run)
    thread.start()
    return Unreachable(command, ends, thread)


@pytest.fixture(scope="module", autouse=True)
def unreachable(cluster: CephCluster) -> Iterator[list[Unreachable]]:
    """Begin what takes 20 s before all other tests: mounts with monitors that don't answer.

    The second one has the session of a dead daemon to get rid of, too.
    """
    with temporary() as base:
        spoilt = Spoilt(cluster, base)
        gateways = [
            spoilt.gateway("closed", {"mon host": "127.0.0.1:1"}),
            spoilt.gateway("silent", {"mon host": "192.0.2.1:6789"}),
        ]
        dead = State(
            pid=1,
            start_time=0.5,
            source="ceph:/",
            mountpoint=str(gateways[1].path),
            instance="a7f8",
            uuids=["cephfs-ext-dead-users", "cephfs-ext-dead-background"],
            version="0.1.0",
        )
        write_state(daemon_dir(str(base / "run"), str(gateways[1].path)), dead)
        waiting = [_wait_for_monitors(gateway) for gateway in gateways]
        yield waiting
        for one in waiting:
            one.thread.join()


class TestCluster:
    @pytest.fixture
    def spoilt(self, cluster: CephCluster, base: Path) -> Spoilt:
        return Spoilt(cluster, base)

    def test_no_configuration(self, spoilt: Spoilt) -> None:
        done = spoilt.mount("--ceph-conf", "/nowhere/ceph.conf")
        assert_refused(done, ExitCode.NOT_FOUND, "/nowhere/ceph.conf", "--ceph-conf")

    def test_configuration_of_something_else(self, spoilt: Spoilt, tmp_path: Path) -> None:
        (tmp_path / "x.toml").write_text("[[[")
        done = spoilt.mount("--ceph-conf", str(tmp_path / "x.toml"))
        assert_refused(done, ExitCode.USAGE, "no configuration of Ceph", "--ceph-conf")

    def test_monitor_without_address(self, spoilt: Spoilt) -> None:
        done = spoilt.mount(mon_host="no-such-host.invalid")
        assert_refused(done, ExitCode.USAGE, "check `mon host`")

    def test_no_keyring(self, spoilt: Spoilt) -> None:
        done = spoilt.mount(keyring="/nowhere/keyring")
        assert_refused(done, ExitCode.NOT_FOUND, "check `keyring`")

    def test_wrong_key(self, spoilt: Spoilt, tmp_path: Path) -> None:
        keyring = tmp_path / "keyring"
        words = ["ceph-authtool", "-C", str(keyring), "--gen-key", "-n", "client.gateway"]
        subprocess.run(words, check=True, capture_output=True)
        done = spoilt.mount(keyring=str(keyring))
        assert_refused(done, ExitCode.DENIED, "check the keyring", "client.gateway")

    def test_unknown_client(self, spoilt: Spoilt) -> None:
        done = spoilt.mount("--ceph-id", "nobody")
        assert_refused(done, ExitCode.NOT_FOUND, "client.nobody", "check `keyring`")

    def test_unknown_file_system(self, spoilt: Spoilt) -> None:
        done = spoilt.mount("-o", "fs_name=nofs")
        assert_refused(done, ExitCode.NOT_FOUND, "nofs", "ceph fs ls")


def _picture(top: Path) -> dict[str, tuple[int, int, str]]:
    """Describe everything below a directory but what goes meanwhile: gateways are at work."""
    picture = {}
    for path in sorted(top.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            picture[str(path.relative_to(top))] = _describe(path)
    return picture


def _describe(path: Path) -> tuple[int, int, str]:
    attr = path.lstat()
    content = ""
    if stat.S_ISLNK(attr.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(attr.st_mode):
        content = path.read_text()
    return attr.st_mode, attr.st_uid, content


def _link(trash: Path) -> None:
    (trash.parent / "elsewhere").mkdir()
    (trash.parent / "elsewhere" / "file").write_text("content")
    trash.symlink_to("elsewhere")


def _foreign(trash: Path) -> None:
    trash.mkdir()
    (trash / "file").write_text("content")
    os.chown(trash, SOMEBODY, SOMEBODY)


def _with_format(text: str) -> Callable[[Path], None]:
    def make(trash: Path) -> None:
        trash.mkdir(0o700)
        (trash / "format.json").write_text(text)

    return make


class TestTrashbin:
    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            pytest.param(_link, "is a symbolic link; remove it", id="link"),
            pytest.param(lambda trash: trash.write_text("x"), "move it away", id="file"),
            pytest.param(_foreign, f"belongs to uid {SOMEBODY}", id="foreign"),
            pytest.param(_with_format('{"version": 2}'), "use the newer gateway", id="newer"),
            pytest.param(_with_format("{"), 'restore it as {"version": 1}', id="torn"),
        ],
    )
    def test_that_is_not_ours(self, site: Site, spoil: Callable[[Path], None], said: str) -> None:
        spoil(site.trash)
        before = _picture(site.behind)
        assert_refused(mount(site.gateway), ExitCode.CONFLICT, ".trashbin", said)
        assert _picture(site.behind) == before
        assert not site.gateway.path.is_mount()
        assert not site.gateway.directory.exists()


_OLD = "2020-01-01T00"
_OLD_NS = "15e5a5f6f2980000"  # in that hour


def _damage(trash: Path, shard: Path, hour: str) -> dict[str, str]:
    """Leave things in an hour of the trash that are none of its entries; return them by path."""
    prefix = f"{_OLD_NS}.dead.0.1"
    (shard / hour).mkdir(exist_ok=True)
    (trash / "tombs" / hour).mkdir(exist_ok=True)
    files = {shard / hour / f"odd {hour}": "no entry", shard / hour / prefix: "no directory"}
    for path, content in files.items():
        path.write_text(content)
    tomb = trash / "tombs" / hour / prefix
    tomb.symlink_to("no tombstone")
    made = {**files, tomb: "no tombstone"}
    return {str(path.relative_to(trash)): content for path, content in made.items()}


def _contents(trash: Path) -> list[str]:
    return sorted(content for _, _, content in _picture(trash).values())


class TestDamage:
    """What in the trash doesn't parse is listed, and never deleted."""

    @pytest.fixture
    def spoilt(self, site: Site) -> Iterator[Site]:
        with site.gateway.mounted("-o", "trash.expire_interval_s=1"):
            (site.gateway.path / "file").write_text("content")
            (site.gateway.path / "file").unlink()
            yield site

    def shard(self, site: Site) -> Path:
        (entry,) = site.trash.glob("r*.*/*/*.file")
        return entry.parent.parent

    def listed(self, site: Site) -> set[str]:
        with asking(site.gateway) as client:
            listing = client.post("/v1/trash/list", TrashQuery(), TrashListing)
        return {damaged.path for damaged in listing.damaged}

    def test_is_listed_and_survives_a_purge(self, spoilt: Site) -> None:
        shard = self.shard(spoilt)
        (hour,) = set(os.listdir(shard)) - {"fresh"}
        damaged = _damage(spoilt.trash, shard, hour)
        (spoilt.trash / "odd").mkdir()
        (shard / "no hour").mkdir()
        (shard / _OLD).write_text("no directory")
        paths = {*damaged, "odd", f"{shard.name}/no hour", f"{shard.name}/{_OLD}"}
        assert self.listed(spoilt) == paths
        plain = here(spoilt.gateway, "trash", "ls", str(spoilt.gateway.path))
        assert plain.stderr.count("damaged: ") == len(paths)
        assert spoilt.gateway.metric("trash_damaged_entries") == len(paths)
        done = here(spoilt.gateway, "trash", "purge", "--all", "--yes")
        assert done.stdout.startswith("removed 1: "), done
        assert self.listed(spoilt) == paths
        for path, content in damaged.items():
            assert _picture(spoilt.trash)[path][2] == content

    def test_survives_expiry(self, spoilt: Site) -> None:
        shard = self.shard(spoilt)
        made = _damage(spoilt.trash, shard, _OLD)
        expired = shard / _OLD / f"{_OLD_NS}.dead.0.1.expired"
        expired.write_text("expired")
        until = time.monotonic() + 20
        hours, purging = (shard / _OLD, spoilt.trash / "tombs" / _OLD), spoilt.trash / "purging"
        while any(hour.exists() for hour in hours) or os.listdir(purging):
            assert time.monotonic() < until, "nothing expires"
            time.sleep(0.1)
        assert "expired" not in _contents(spoilt.trash)
        assert {"no entry", "no directory", "no tombstone"} <= set(_contents(spoilt.trash))
        assert len(self.listed(spoilt)) == len(made)


class TestRestore:
    @pytest.fixture
    def place(self, shared: Site, request: pytest.FixtureRequest) -> Path:
        path = shared.gateway.path / request.node.name.partition("[")[0]
        path.mkdir()
        return path

    def deleted(self, site: Site, path: Path) -> str:
        path.write_text("content")
        path.unlink()
        with asking(site.gateway) as client:
            listing = client.post("/v1/trash/list", _below(site, path), TrashListing)
        return listing.items[0].id

    def test_entry_that_is_not_there(self, shared: Site, place: Path) -> None:
        done = here(shared.gateway, "trash", "restore", "0000000000000000.0000")
        assert_refused(done, ExitCode.NOT_FOUND, "no entry 0000000000000000.0000")
        done = here(shared.gateway, "trash", "restore", str(place / "never"))
        assert_refused(done, ExitCode.NOT_FOUND, "nothing that was deleted there")
        done = here(shared.gateway, "trash", "show", "0000000000000000.0000")
        assert_refused(done, ExitCode.NOT_FOUND, "no entry")

    def test_entry_of_somebody_else(self, shared: Site, place: Path) -> None:
        ident = self.deleted(shared, place / "file")
        for words in (["restore", ident], ["show", ident], ["purge", "--yes", ident]):
            done = as_somebody(shared.gateway, "trash", *words)
            assert_refused(done, ExitCode.DENIED, "somebody else's")
        done = as_somebody(shared.gateway, "trash", "restore", str(place / "file"))
        assert_refused(done, ExitCode.NOT_FOUND, "yours to restore")
        assert here(shared.gateway, "trash", "restore", ident).returncode == ExitCode.OK
        assert (place / "file").read_text() == "content"

    def test_place_that_is_taken(self, shared: Site, place: Path) -> None:
        ident = self.deleted(shared, place / "file")
        (place / "file").write_text("new")
        assert_refused(
            here(shared.gateway, "trash", "restore", ident), ExitCode.CONFLICT, "the name is taken"
        )
        assert (place / "file").read_text() == "new"
        (place / "file").rename(place / "aside")
        assert here(shared.gateway, "trash", "restore", ident).returncode == ExitCode.OK
        assert (place / "file").read_text() == "content"

    def test_directory_to_restore_into_is_missing(self, shared: Site, place: Path) -> None:
        ident = self.deleted(shared, place / "file")
        done = here(shared.gateway, "trash", "restore", ident, "--to", str(place / "none"))
        assert_refused(done, ExitCode.NOT_FOUND, "create it first")

    def test_place_below_a_file(self, shared: Site, place: Path) -> None:
        (place / "dir").mkdir()
        ident = self.deleted(shared, place / "dir" / "file")
        (place / "dir").rmdir()
        (place / "dir").write_text("in the way")
        assert_refused(here(shared.gateway, "trash", "restore", ident), ExitCode.OTHER, "directory")
        (place / "dir").unlink()
        assert here(shared.gateway, "trash", "restore", ident).returncode == ExitCode.OK


def _plant(top: Path) -> list[str]:
    """Make what is deleted where nothing fits any more; return the contents of its files."""
    (top / "empty").mkdir()
    (top / "tree").mkdir()
    names = ["file", "old", "new", "linked", "tree/leaf", "back", "deep"]
    for name in names:
        (top / name).write_text(name)
    os.link(top / "linked", top / "link")
    return sorted([*names, "linked"])


_DELETES: dict[str, Callable[[Path], object]] = {
    "file": lambda top: (top / "file").unlink(),
    "empty": lambda top: (top / "empty").rmdir(),
    "old": lambda top: (top / "new").rename(top / "old"),
    "link": lambda top: (top / "link").unlink(),
    "tree": lambda top: (top / "tree").rename(top / ".trashbin" / "tree"),
}


def _delete_all(top: Path) -> None:
    """Delete; what fails says that there is no room, and has changed nothing."""
    for name, delete in _DELETES.items():
        before = _picture(top)
        try:
            delete(top)
        except OSError as exc:
            assert exc.errno in _FULL, f"{name}: {exc}"  # noqa: PT017
            assert _picture(top) == before, name


def _restore_all(site: Site, top: Path) -> None:
    with asking(site.gateway) as client:
        items = client.post("/v1/trash/list", _below(site, top), TrashListing).items
        if not items:
            return
        request = RestoreRequest(ids=[item.id for item in items], on_conflict="keep-both")
        report = client.post("/v1/trash/restore", request, RestoreReport)
    assert {item.outcome for item in report.items} == {"restored"}, report


def _assert_full_loses_nothing(
    site: Site, top: Path, fill: Callable[[], None], empty: Callable[[], None]
) -> None:
    planted = _plant(top)
    (top / "back").unlink()
    fill()
    done = here(site.gateway, "trash", "restore", str(top / "back"))
    if done.returncode != ExitCode.OK:
        assert_refused(done, ExitCode.OTHER, "No space left")
        assert not (top / "back").exists()
    _delete_all(top)
    empty()
    _delete_rest(top)
    _restore_all(site, top)
    assert (top / "empty").is_dir()
    assert _contents_of_files(top) == planted


def _delete_rest(top: Path) -> None:
    """With room everything goes."""
    for name, delete in _DELETES.items():
        if (top / ("new" if name == "old" else name)).exists():
            delete(top)


def _contents_of_files(top: Path) -> list[str]:
    return sorted(content for mode, _, content in _picture(top).values() if stat.S_ISREG(mode))


@contextlib.contextmanager
def _disk(base: Path, options: str) -> Iterator[Site]:
    """Return a gateway over a directory of a small disk."""
    (base / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", base / "disk"], check=True)
    try:
        source = base / "disk" / "source"
        source.mkdir()
        yield Site(Gateway(f"posix:{source}", base / "mnt", base / "run"), source)
    finally:
        subprocess.run(["umount", base / "disk"], check=True)


def _fill(disk: Site) -> None:
    """Fill a disk, beside the source."""
    filler = disk.behind.parent / "filler"
    filler.mkdir()
    try:
        for number in range(10_000):
            (filler / str(number)).write_bytes(b"x" * 4096)
    except OSError as exc:
        assert exc.errno == errno.ENOSPC  # noqa: PT017
    left = os.statvfs(filler)
    assert not left.f_bavail or not left.f_favail


def _empty(disk: Site) -> None:
    subprocess.run(["rm", "-r", str(disk.behind.parent / "filler")], check=True)


class TestFullDisk:
    @pytest.fixture(params=["size=1m", "nr_inodes=80"])
    def disk(self, request: pytest.FixtureRequest, base: Path) -> Iterator[Site]:
        with _disk(base, request.param) as disk, disk.gateway.mounted():
            yield disk

    def test_loses_nothing(self, disk: Site) -> None:
        _assert_full_loses_nothing(
            disk, disk.gateway.path, lambda: _fill(disk), lambda: _empty(disk)
        )

    def test_from_the_start(self, disk: Site) -> None:
        """The first delete ever: no hour, no journal."""
        planted = _plant(disk.gateway.path)
        _fill(disk)
        _delete_all(disk.gateway.path)
        _empty(disk)
        _restore_all(disk, disk.gateway.path)
        assert _contents_of_files(disk.gateway.path) == planted

    def test_at_mount(self, base: Path) -> None:
        with _disk(base, "nr_inodes=4") as disk:
            assert_refused(mount(disk.gateway), ExitCode.OTHER, "No space left", "some room")


@pytest.fixture(scope="module")
def ceph(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Return a gateway over CephFS for tests that change its quota."""
    with temporary() as base:
        site = _site("ceph", base, request)
        with site.gateway.mounted():
            yield site


class TestFullQuota:
    def full(self, site: Site, name: str, key: str) -> None:
        """Set a quota below what is there, and wait until the gateway's session knows."""
        os.setxattr(site.behind / name, f"ceph.quota.{key}", b"3")
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                (site.gateway.path / name / "filler").write_text("x" * 100)
            except OSError as exc:
                assert exc.errno == errno.EDQUOT  # noqa: PT017
                return
            finally:
                (site.behind / name / "filler").unlink(missing_ok=True)
        raise AssertionError("the quota has no effect")

    @pytest.mark.parametrize(("name", "key"), [("home", "max_files"), (".", "max_bytes")])
    def test_loses_nothing(self, ceph: Site, name: str, key: str) -> None:
        """Where a directory has its quota, and so a trash of its own, and at the top."""
        top = ceph.gateway.path / name / f"in {key}"
        top.mkdir(parents=True)
        os.setxattr(ceph.behind / name, f"ceph.quota.{key}", b"1000000")

        def freed() -> None:
            os.setxattr(ceph.behind / name, f"ceph.quota.{key}", b"1000000")

        _assert_full_loses_nothing(ceph, top, lambda: self.full(ceph, name, key), freed)


def test_trash_of_a_home_that_is_not_ours_stops_deletes_there_only(ceph: Site) -> None:
    """Somebody has put a link where the trash of their quota's directory would be."""
    for name in ("spoilt", "sound"):
        (ceph.behind / name).mkdir()
        os.setxattr(ceph.behind / name, "ceph.quota.max_files", b"1000")
        (ceph.gateway.path / name / "file").write_text("content")
    (ceph.behind / "spoilt" / ".trashbin").symlink_to("..")
    with pytest.raises(PermissionError):
        (ceph.gateway.path / "spoilt" / "file").unlink()
    assert (ceph.gateway.path / "spoilt" / "file").read_text() == "content"
    (ceph.gateway.path / "sound" / "file").unlink()
    assert "/spoilt" not in str(ceph.gateway.trash()[0]["path"])
    assert ".trashbin is a symbolic link; remove it" in ceph.gateway.log


_WITH_A_BUG = """
from cephfs_ext.cli.main import main
from cephfs_ext.vfs.filesystem import FileSystem

getxattr = FileSystem.getxattr

async def with_a_bug(self, node_id, name, *others):
    if name == b"user.bug":
        raise ZeroDivisionError("odd")
    return await getxattr(self, node_id, name, *others)

FileSystem.getxattr = with_a_bug
main()
"""


def test_bug_in_a_handler_is_eio_and_the_mount_survives(site: Site) -> None:
    gateway = site.gateway
    gateway.path.mkdir()
    words = gateway.command("mount", gateway.source, str(gateway.path))
    subprocess.run([sys.executable, "-c", _WITH_A_BUG, *words[1:]], check=True)
    (gateway.path / "file").write_text("content")
    with pytest.raises(OSError, match="Input/output error"):
        os.getxattr(gateway.path / "file", "user.bug")
    assert (gateway.path / "file").read_text() == "content"
    assert gateway.metric('fuse_bugs_total{op="getxattr"}') == 1
    (line,) = (line for line in map(json.loads, gateway.log.splitlines()) if "traceback" in line)
    assert line["msg"] == "a bug in getxattr"
    assert line["traceback"].endswith("ZeroDivisionError: odd")
    assert (line["op"], line["uid"], line["pid"]) == ("getxattr", 0, os.getpid())
    assert line["ino"] > 0


def test_monitors_that_do_not_answer_end_a_mount_in_time(unreachable: list[Unreachable]) -> None:
    for one in unreachable:
        one.thread.join()
        done, took_s = one.ends[0]
        assert_refused(done, ExitCode.TEMPORARY, "no monitor answered", "check `mon host`")
        assert took_s < 30
