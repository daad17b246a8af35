"""One mon, one mgr, two OSDs, three MDSs with two active ranks, cephx on, all on loopback.

Everything lies in one directory; every daemon is known by its pid file and is ended by pid, after
a look at its command line. Starting a healthy cluster again does nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[2]
_MDS = ("a", "b", "c")
_OSDS = (0, 1)
_WITHOUT_MDS = {"mon.m", "mgr.x", *(f"osd.{number}" for number in _OSDS)}
_BUSY_S = 10.0

_START_S = 90.0
_STOP_S = 15.0
_CAPS = {
    "client.gateway": [
        "mon", "allow r", "mds", "allow *", "osd", "allow rwx pool=cephfs.data",
    ],
    "client.plain": ["mon", "allow r", "mds", "allow rw", "osd", "allow rw pool=cephfs.data"],
}  # fmt: skip
_CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port},v1:127.0.0.1:{port1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {directory}/keyring.$name
run dir = {directory}/run
admin socket = {directory}/run/$name.$pid.asok
log file = {directory}/log/$name.log
debug default = 0
pid file = {directory}/run/$name.pid
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon warn on insecure global id reclaim = false
mon warn on insecure global id reclaim allowed = false
mon allow pool delete = true
mon data = {directory}/mon
mon cluster log file = {directory}/log/cluster.log
mon data avail warn = 1
mon tick interval = 1
mon data avail crit = 1
mon osd full ratio = 0.99
mon osd backfillfull ratio = 0.98
mon osd nearfull ratio = 0.97
mgr data = {directory}/mgr
mgr initial modules =
osd data = {directory}/osd.$id
osd objectstore = {store}
osd journal size = 100
memstore device bytes = 8589934592
bluestore block size = 10737418240
osd memory target = 939524096
mds data = {directory}/mds.$id
mds beacon interval = 1
mds beacon grace = 20
mds reconnect timeout = 15
# Who opens a file that another client has just closed waits until the MDS writes its journal, which
# it does for the next change, or at a tick: on a cluster with nothing else to do up to 5 s a file.
mds tick interval = 1
mds bal interval = 0
ms bind port min = {port_min}
ms bind port max = {port_max}
"""


_TROUBLES = (
    "not responding", "isn't responding", "slow request", "unresponsive", "laggy", "unavailable",
    "Standby daemon", "restarted",
)  # fmt: skip
"""Words of the lines of the cluster log that explain a test that has waited for too long."""

_TROUBLES_SHOWN = 20

_CRASH = re.compile(r"Caught signal|FAILED ceph_assert|suicide|respawn|^ \d+: ")
"""Lines of a daemon's own log that say how it ended, with its stack."""
_CRASH_SHOWN = 20


class ClusterError(Exception):
    """The cluster can't be used; the message says why."""


def default_directory() -> Path:
    """Return where the cluster of this checkout lies: short, since UNIX sockets are in it."""
    explicit = os.environ.get("CEPHFS_EXT_CLUSTER_DIR")
    if explicit:
        return Path(explicit)
    digest = hashlib.sha256(str(_CHECKOUT).encode()).hexdigest()[:8]
    return Path("/tmp") / f"cephfs-ext-{digest}"


class CephCluster:
    """The cluster in one directory."""

    def __init__(self, directory: Path | None = None, *, store: str = "memstore") -> None:
        self.directory = directory or default_directory()
        self.conf = self.directory / "ceph.conf"
        self._store = store
        digest = hashlib.sha256(str(self.directory).encode()).digest()
        self._port = 20_000 + int.from_bytes(digest[:2], "big") % 200 * 50

    # life cycle

    def up(self, *, say: Callable[[str], object] = lambda _: None) -> None:
        """Start it, or those of its MDSs that have ended: others may use it at this moment.

        Raises:
            ClusterError: it doesn't come up.
        """
        if dict(self.daemons()).keys() >= _WITHOUT_MDS:
            self.revive_mds()
            say(f"cluster: running, {self.conf}")
            return
        self.down()
        begun = time.monotonic()
        self._make_directory()
        self._start_mon()
        self._start("ceph-mgr", "mgr.x")
        for osd in _OSDS:
            self._make_osd(osd)
        self._make_file_system()
        for name in _MDS:
            self._make_mds(name)
        self._make_clients()
        self.wait_until_healthy()
        say(f"cluster: up in {time.monotonic() - begun:.0f} s, {self.conf}")

    def down(self, *, say: Callable[[str], object] = lambda _: None) -> None:
        """Stop every daemon and remove the directory."""
        pids = dict(self.daemons())
        for pid in pids.values():
            _signal(pid, signal.SIGTERM if self._store != "memstore" else signal.SIGKILL)
        for pid in pids.values():
            _wait_for_end(pid)
        if self._is_ours():
            shutil.rmtree(self.directory)
        say("cluster: down")

    def daemons(self) -> Iterator[tuple[str, int]]:
        """Yield the names and pids of the daemons that run."""
        for pid_file in sorted((self.directory / "run").glob("*.pid")):
            with contextlib.suppress(ValueError, OSError):
                pid = int(pid_file.read_text())
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if str(self.conf).encode() in command:
                    yield pid_file.stem, pid

    def running(self) -> bool:
        """Tell whether every daemon runs, whatever clients do; ranks may still be on their way."""
        return not self._ended()

    def _ended(self) -> set[str]:
        """Return the names of the daemons that should run and don't."""
        wanted = _WITHOUT_MDS | {f"mds.{name}" for name in _MDS}
        return wanted - dict(self.daemons()).keys()

    def wait_until_healthy(self) -> None:
        """Wait until two ranks are active and one stands by.

        Raises:
            ClusterError: after 90 s.
        """
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            with contextlib.suppress(ClusterError):
                if self.active_ranks() == 2:
                    return
            time.sleep(0.3)
        raise ClusterError(f"two ranks are not active after {_START_S:.0f} s; see {self.log_dir}")

    @property
    def log_dir(self) -> Path:
        """Where the daemons log."""
        return self.directory / "log"

    def status(self) -> dict[str, Any]:
        """Say what runs."""
        running = dict(self.daemons())
        ranks = self.active_ranks() if running else 0
        return {"conf": str(self.conf), "daemons": running, "active_ranks": ranks}

    def describe(self) -> list[str]:
        """Say what runs, for people."""
        status = self.status()
        if not status["daemons"]:
            return ["cluster: down"]
        lines = [f"cluster: {status['conf']}, {status['active_ranks']} active ranks"]
        lines += [f"  {name:<8}{pid}" for name, pid in status["daemons"].items()]
        for name in sorted(self._ended()):
            lines += [f"  {name:<8}has ended", *(f"    {line}" for line in self._last_words(name))]
        return lines + [f"  {line}" for line in self._troubles()[-_TROUBLES_SHOWN:]]

    def _last_words(self, name: str) -> list[str]:
        """Return what the log of a daemon has of its end."""
        log = self._read_log(name)
        return [line for line in log if _CRASH.search(line)][-_CRASH_SHOWN:]

    def _troubles(self) -> list[str]:
        """Return what the cluster log has of daemons and clients that did not answer."""
        log = self._read_log("cluster")
        return [line for line in log if any(word in line for word in _TROUBLES)]

    def _read_log(self, name: str) -> list[str]:
        try:
            return (self.log_dir / f"{name}.log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    # use

    def ceph(self, *words: str, timeout_s: float = 30.0) -> Any:
        """Carry out a command of the cluster and return what it answers.

        Raises:
            ClusterError: it fails, or takes too long.
        """
        command = ["ceph", "-c", str(self.conf), "-n", "client.admin", "-f", "json"]
        command += ["--connect-timeout", "10", *words]
        out = _run(command, timeout_s=timeout_s)
        return json.loads(out) if out.strip() else None

    def active_ranks(self) -> int:
        """Return how many MDS ranks are active."""
        return [info["state"] for info in self._mds_infos()].count("up:active")

    def _mds_infos(self) -> list[dict[str, Any]]:
        """Return what the monitors know of the MDSs that have a rank."""
        dump = self.ceph("fs", "dump")
        return [info for fs in dump["filesystems"] for info in fs["mdsmap"]["info"].values()]

    def fail_mds(self, rank: int) -> None:
        """Have a standby take a rank over."""
        self.ceph("mds", "fail", str(rank))

    def rank_of(self, name: str) -> int | None:
        """Return which rank an MDS, as `daemons` names it, is active for."""
        for info in self._mds_infos():
            if f"mds.{info['name']}" == name and info["state"] == "up:active":
                return int(info["rank"])
        return None

    def kill_mds(self, rank: int) -> None:
        """End the MDS of a rank as a crash would; `revive_mds` starts it again."""
        for name, pid in self.daemons():
            if name.startswith("mds.") and self.rank_of(name) == rank:
                _signal(pid, signal.SIGKILL)
                _wait_for_end(pid)
                return
        raise ClusterError(f"no MDS is active for rank {rank}")

    def revive_mds(self) -> None:
        """Start every MDS that doesn't run, and wait until two ranks are active."""
        for name in self._ended() - _WITHOUT_MDS:
            self._start("ceph-mds", name)
        self.wait_until_healthy()

    def evict(self, uuid: str) -> None:
        """End the session of a client, which is named by its uuid."""
        for session in self.ceph("tell", "mds.0", "client", "ls"):
            if session["client_metadata"].get("uuid") == uuid:
                self.ceph("tell", "mds.0", "client", "evict", f"id={session['id']}")
                return
        raise ClusterError(f"no session is called {uuid}")

    @contextlib.contextmanager
    def ceph_fuse(self, mountpoint: Path, path: str = "/", *options: str) -> Iterator[Path]:
        """Mount with ceph-fuse while the body runs."""
        mountpoint.mkdir(parents=True, exist_ok=True)
        pid_file = self.directory / "run" / f"fuse.{uuid.uuid4().hex[:8]}.pid"
        command = ["ceph-fuse", "-c", str(self.conf), "--id", "admin", "-r", path]
        command += ["--pid-file", str(pid_file), *options, str(mountpoint)]
        _run(command, timeout_s=60)
        try:
            yield mountpoint
        finally:
            _unmount(mountpoint)
            with contextlib.suppress(OSError, ValueError):
                _wait_for_end(int(pid_file.read_text()))

    # parts

    def _make_directory(self) -> None:
        if self.directory.exists() and not self._is_ours():
            raise ClusterError(f"{self.directory} is in the way; remove it")
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o700)
        for name in ("run", "log", "mon", "mgr"):
            (self.directory / name).mkdir()
        self._fsid = str(uuid.uuid4())
        self.conf.write_text(
            _CONF.format(
                fsid=self._fsid,
                directory=self.directory,
                port=self._port,
                port1=self._port + 1,
                port_min=self._port + 2,
                port_max=self._port + 49,
                store=self._store,
            )
        )

    def _is_ours(self) -> bool:
        return self.conf.exists() and str(self.directory) in self.conf.read_text()

    def _keyring(self, name: str) -> str:
        return str(self.directory / f"keyring.{name}")

    def _start_mon(self) -> None:
        mon, admin = self._keyring("mon.m"), self._keyring("client.admin")
        every = ["--cap", "mon", "allow *"]
        _run(["ceph-authtool", "--create-keyring", mon, "--gen-key", "-n", "mon.", *every])
        all_caps = [*every, "--cap", "mgr", "allow *", "--cap", "osd", "allow *"]
        all_caps += ["--cap", "mds", "allow *"]
        _run(
            [
                "ceph-authtool",
                "--create-keyring",
                admin,
                "--gen-key",
                "-n",
                "client.admin",
                *all_caps,
            ]
        )
        _run(["ceph-authtool", mon, "--import-keyring", admin])
        monmap = str(self.directory / "monmap")
        address = f"[v2:127.0.0.1:{self._port},v1:127.0.0.1:{self._port + 1}]"
        _run(["monmaptool", "--create", "--addv", "m", address, "--fsid", self._fsid, monmap])
        _run(["ceph-mon", "--mkfs", "-i", "m", "-c", str(self.conf), "--monmap", monmap,
              "--keyring", mon])  # fmt: skip
        self._start("ceph-mon", "mon.m")
        self._create_key("mgr.x", "mon", "allow profile mgr", "osd", "allow *", "mds", "allow *")

    def _create_key(self, name: str, *caps: str) -> None:
        command = ["ceph", "-c", str(self.conf), "-n", "client.admin", "--connect-timeout", "10"]
        _run([*command, "auth", "get-or-create", name, *caps, "-o", self._keyring(name)])

    def _start(self, program: str, name: str) -> None:
        kind, _, ident = name.partition(".")
        del kind
        _run([program, "-i", ident, "-c", str(self.conf)], timeout_s=60)

    def _make_osd(self, number: int) -> None:
        name, data = f"osd.{number}", self.directory / f"osd.{number}"
        data.mkdir()
        ident = str(uuid.uuid4())
        self._create_key(
            name, "mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *"
        )
        self.ceph("osd", "new", ident, str(number))
        shutil.copy(self._keyring(name), data / "keyring")
        _run(["ceph-osd", "-i", str(number), "-c", str(self.conf), "--mkfs", "--osd-uuid", ident],
             timeout_s=60)  # fmt: skip
        self._start("ceph-osd", name)

    def _make_file_system(self) -> None:
        for pool in ("cephfs.meta", "cephfs.data"):
            self.ceph("osd", "pool", "create", pool, "8")
        self.ceph("fs", "new", "cephfs", "cephfs.meta", "cephfs.data")
        self.ceph("fs", "set", "cephfs", "max_mds", "2")
        self.ceph("fs", "set", "cephfs", "allow_new_snaps", "true")

    def _make_mds(self, name: str) -> None:
        (self.directory / f"mds.{name}").mkdir()
        caps = ("mon", "allow profile mds", "mgr", "allow profile mds", "mds", "allow *")
        self._create_key(f"mds.{name}", *caps, "osd", "allow rwx")
        self._start("ceph-mds", f"mds.{name}")

    def _make_clients(self) -> None:
        for name, caps in _CAPS.items():
            self._create_key(name, *caps)


def _unmount(mountpoint: Path) -> None:
    """Unmount; somebody who looks at all mounts may hold it for a moment."""
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            _run(["umount", str(mountpoint)], timeout_s=60)
            return
        except ClusterError as exc:
            if "busy" not in str(exc) or time.monotonic() > until:
                raise
        time.sleep(0.1)


def _run(command: list[str], *, timeout_s: float = 30.0) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=True
        )
    except FileNotFoundError as exc:
        raise ClusterError(f"{command[0]} is not installed; run make deps-test") from exc
    except subprocess.TimeoutExpired as exc:
        raise ClusterError(f"{' '.join(command)}: no end after {timeout_s:.0f} s") from exc
    except subprocess.CalledProcessError as exc:
        raise ClusterError(
            f"{' '.join(command)}: {exc.stderr.strip() or exc.stdout.strip()}"
        ) from exc
    return done.stdout


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_for_end(pid: int) -> None:
    until = time.monotonic() + _STOP_S
    while Path(f"/proc/{pid}").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return
        if time.monotonic() > until:
            _signal(pid, signal.SIGKILL)
            until = time.monotonic() + _STOP_S
        time.sleep(0.05)
