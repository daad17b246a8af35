"""The tour: what a gateway does, step by step, each step checked.

`python -m tests.tour posix|ceph DIR` mounts a gateway below DIR, plays the tour, and leaves the
mount up; `python -m tests.tour stop DIR` unmounts it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cephfs_ext.control.state import is_alive, read_state
from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, file_system


class TourError(Exception):
    """A step did not do what it should."""


def _gateway(kind: str, base: Path) -> Gateway:
    if kind == "posix":
        (base / "data").mkdir(parents=True, exist_ok=True)
        return Gateway(f"posix:{base / 'data'}", base / "mnt", base / "run")
    cluster = CephCluster()
    with file_system(cluster) as fs:
        fs.mkdirs("/tour", 0o755)
    mountpoint = base / "ceph-mnt"
    return Gateway("ceph:/tour", mountpoint, base / "run", conf=cluster.conf)


def _is_up(gateway: Gateway) -> bool:
    state = read_state(str(gateway.directory))
    return state is not None and is_alive(state) and gateway.path.is_mount()


def _expect(truth: bool, what: str) -> None:
    if not truth:
        raise TourError(what)


class Tour:
    """Plays the steps on one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._top = gateway.path / "tour"

    def play(self) -> None:
        """Play every step; raise at the first that fails."""
        if self._top.exists():
            self._gateway.run("rm", "-r", str(self._top), check=True)
        self._top.mkdir()
        steps: list[tuple[str, Callable[[], None]]] = [
            ("write a file, delete it with rm, find it in the trash", self._delete),
            ("restore it: cephfs-ext trash restore PATH", self._restore),
            ("rm -rf a tree of 60 files; the trash shows one line", self._delete_tree),
            ("restore the tree, hard links and all", self._restore_tree),
            ("mv the tree into .trashbin/: one rename, whatever its size", self._move_tree),
            ("restore what was deleted last: --last", self._restore_last),
        ]
        for number, (title, step) in enumerate(steps, 1):
            print(f"  {number}. {title}", flush=True)
            step()

    def _delete(self) -> None:
        file = self._top / "report.txt"
        file.write_text("three weeks of work\n")
        subprocess.run(["rm", str(file)], check=True)
        _expect(not file.exists(), "rm did not remove the file")
        _expect(self._listed("tour/report.txt") == 1, "the file is not in the trash")

    def _listed(self, path: str) -> int:
        return sum(item["path"] == path for item in self._gateway.trash())

    def _restore(self) -> None:
        file = self._top / "report.txt"
        self._gateway.run("trash", "restore", str(file), check=True)
        _expect(file.read_text() == "three weeks of work\n", "the file is not back")

    def _delete_tree(self) -> None:
        for number in range(60):
            directory = self._top / "project" / f"part{number % 6}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"file{number}").write_text(f"content {number}\n")
        (self._top / "project/link").hardlink_to(self._top / "project/part0/file0")
        subprocess.run(["rm", "-rf", str(self._top / "project")], check=True)
        _expect(not (self._top / "project").exists(), "rm -rf did not remove the tree")
        items = [item for item in self._gateway.trash() if item["path"] == "tour/project"]
        _expect(bool(items) and items[0]["entries"] == 68, f"one line of 68 entries, not {items}")

    def _restore_tree(self) -> None:
        project = self._top / "project"
        self._gateway.run("trash", "restore", str(project), check=True)
        files = [path for path in project.rglob("file*") if path.is_file()]
        _expect(len(files) == 60, f"60 files, not {len(files)}")
        same = (project / "link").stat().st_ino == (project / "part0/file0").stat().st_ino
        _expect(same, "the hard link is a file of its own")

    def _move_tree(self) -> None:
        project = self._top / "project"
        subprocess.run(["mv", str(project), str(self._top / ".trashbin") + "/"], check=True)
        _expect(not project.exists(), "mv did not remove the tree")

    def _restore_last(self) -> None:
        self._gateway.run("trash", "restore", "--last", "--mount", str(self._top), check=True)
        _expect((self._top / "project/part3/file3").exists(), "the tree is not back")


def _play(kind: str, base: Path) -> None:
    gateway = _gateway(kind, base)
    if _is_up(gateway):
        print(f"already mounted: {gateway.path}")
    else:
        print(f"mounting {gateway.source} at {gateway.path}")
        gateway.mount()
    Tour(gateway).play()
    other = f"\n  export CEPHFS_EXT_CONTROL_RUNTIME_DIR={gateway.runtime}"
    print(
        f"The tour has passed. The mount stays up; try:{other}\n"
        f"  cd {gateway.path} && rm tour/report.txt\n"
        f"  {Path(sys.executable).parent}/cephfs-ext trash ls\n"
        f"  {Path(sys.executable).parent}/cephfs-ext trash restore --last\n"
        f"  {Path(sys.executable).parent}/cephfs-ext status\n"
        "Stop it with: make stop"
    )


def _stop(base: Path) -> None:
    for mountpoint in (base / "mnt", base / "ceph-mnt"):
        gateway = Gateway("posix:/", mountpoint, base / "run")
        if _is_up(gateway):
            print(f"unmounting {mountpoint}")
            gateway.umount()


def main(arguments: list[str]) -> int:
    """Carry out one command."""
    try:
        match arguments:
            case ["posix" | "ceph" as kind, base]:
                _play(kind, Path(base))
            case ["stop", base]:
                _stop(Path(base))
            case _:
                print("usage: python -m tests.tour posix|ceph|stop DIR", file=sys.stderr)
                return 2
    except (TourError, AssertionError, subprocess.CalledProcessError) as exc:
        print(f"tour: failed: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
