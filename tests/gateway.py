"""A gateway for tests: a real mount in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cephfs_ext.control.state import State, daemon_dir, is_alive, read_state
from tests.cluster.ceph import CephCluster

_ON_ANY_MACHINE = {"CEPHFS_EXT_TRASH_HIGH_WATERMARK": "0"}
"""Nothing goes because the disk of the machine happens to be full, but where a test wants it."""

COMMAND = str(Path(sys.executable).with_name("cephfs-ext"))


class Gateway:
    """One mount. `mount`, `umount` and `kill` can be called again and again."""

    def __init__(
        self,
        source: str,
        mountpoint: Path,
        runtime: Path,
        *,
        conf: Path | None = None,
        key: str = "gateway",
        options: tuple[str, ...] = (),
    ) -> None:
        self.around: tuple[str, ...] = ()
        """A command that carries out the one that mounts: it starts the daemon."""
        self.source = source
        self.path = mountpoint
        self.runtime = runtime
        self._options = [f"control.runtime_dir={runtime}", *options]
        if conf is not None:
            self._options += [f"ceph.conf={conf}", f"ceph.id={key}"]

    def mount(self, *options: str) -> None:
        """Mount; fails the test if that fails."""
        with contextlib.suppress(FileExistsError):  # a dead mount, too, is there
            os.makedirs(self.path)
        words = ("mount", self.source, str(self.path), *options)
        done = self._run([*self.around, *self.command(*words)], environment=_ON_ANY_MACHINE)
        self._check(words, done)

    def umount(self) -> None:
        """Unmount gracefully."""
        self.run("umount", str(self.path), check=True)

    def kill(self) -> None:
        """End the daemon as a crash would; the mount stays behind, dead."""
        state = self.state
        os.kill(state.pid, signal.SIGKILL)
        while is_alive(state):
            time.sleep(0.01)

    @property
    def state(self) -> State:
        """What the daemon says of itself."""
        state = read_state(daemon_dir(str(self.runtime), str(self.path)))
        assert state is not None, "no daemon"
        return state

    @property
    def directory(self) -> Path:
        """Where the sockets are."""
        return Path(daemon_dir(str(self.runtime), str(self.path)))

    @property
    def log(self) -> str:
        """What the daemon has logged."""
        with contextlib.suppress(FileNotFoundError):
            return Path(f"{self.directory}.log").read_text()
        return ""

    def command(self, *words: str) -> list[str]:
        """Return a command line of cephfs-ext for this gateway."""
        return [COMMAND, *words, "-o", ",".join(self._options)]

    def run(
        self, *words: str, check: bool = False, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Carry out a command line of cephfs-ext."""
        done = self._run(self.command(*words), timeout_s)
        if check:
            self._check(words, done)
        return done

    def _run(
        self,
        command: list[str],
        timeout_s: float = 120.0,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **(environment or {})},
        )

    def _check(self, words: tuple[str, ...], done: subprocess.CompletedProcess[str]) -> None:
        if done.returncode:
            raise AssertionError(f"{words}: {done.returncode}: {done.stderr}\n{self.log[-4000:]}")

    def json(self, *words: str) -> Any:
        """Carry out a command line that must succeed, and read its JSON."""
        return json.loads(self.run(*words, "--json", check=True).stdout)

    def trash(self) -> list[dict[str, Any]]:
        """List the trash, newest first."""
        items: list[dict[str, Any]] = self.json("trash", "ls", str(self.path))["items"]
        return items

    def get(self, path: str) -> str:
        """Ask the daemon, as a probe does."""
        import httpx

        transport = httpx.HTTPTransport(uds=str(self.directory / "control.sock"))
        with httpx.Client(transport=transport) as client:
            return client.get(f"http://gateway{path}").text

    def metric(self, name: str) -> float:
        """Read one metric, with its labels as Prometheus writes them."""
        for line in self.get("/metrics").splitlines():
            if line.startswith(f"cephfs_ext_{name} "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name}")

    @contextlib.contextmanager
    def mounted(self, *options: str) -> Iterator[Gateway]:
        """Mount while the body runs; a bug in a handler fails the test."""
        self.mount(*options)
        try:
            yield self
        finally:
            self.close()
        assert "a bug in" not in self.log, self.log

    def close(self) -> None:
        """Leave nothing behind, in whatever state the gateway is."""
        state = read_state(str(self.directory))
        if state is not None and is_alive(state):
            self.run("umount", str(self.path), check=True)
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True)


def posix_gateway(base: Path, *options: str) -> Gateway:
    """Return a gateway over a fresh local directory; not mounted yet."""
    (base / "source").mkdir(parents=True, exist_ok=True)
    os.chmod(base / "source", 0o755)
    return Gateway(f"posix:{base / 'source'}", base / "mnt", base / "run", options=options)


def ceph_gateway(cluster: CephCluster, base: Path, *options: str, key: str = "gateway") -> Gateway:
    """Return a gateway over a fresh directory of the cluster; not mounted yet."""
    subdir = f"/t-{uuid.uuid4().hex[:12]}"
    with file_system(cluster) as fs:
        fs.mkdir(subdir, 0o755)
    source, conf = f"ceph:{subdir}", cluster.conf
    return Gateway(source, base / "mnt", base / "run", conf=conf, key=key, options=options)


@contextlib.contextmanager
def file_system(cluster: CephCluster) -> Iterator[Any]:
    """Return the CephFS of a cluster through Ceph's own binding, as its administrator."""
    import cephfs

    fs = cephfs.LibCephFS(conffile=str(cluster.conf), auth_id="admin")
    fs.mount()
    try:
        yield fs
    finally:
        fs.shutdown()
