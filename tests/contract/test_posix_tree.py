"""What the posix storage promises beyond the port: it stays in its tree, and keeps its descriptors.

Each test breaks something outside of the storage: descriptors run out, a file system is mounted
below, names are swapped under its hands.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from cephfs_ext.core.errors import FSError, NotFoundError, UserError
from cephfs_ext.core.ports import Created, Found, Storage
from cephfs_ext.core.types import GATEWAY, AttrChange
from cephfs_ext.storage import posix_calls
from cephfs_ext.storage.posix import PosixStorage
from tests.contract.tree import OWNER, STRANGER, fails, pages


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Return a directory to serve, with something beside it that must not be reached."""
    umask = os.umask(0)
    (tmp_path / "served").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    yield tmp_path / "served"
    os.umask(umask)


@pytest.fixture
def served(directory: Path) -> Iterator[Storage]:
    """Return a storage over it that must have no descriptor too many in the end."""
    before = descriptors()
    storage = trio.run(PosixStorage.connect, str(directory))
    yield storage
    trio.run(storage.close)
    assert descriptors() == before


def descriptors() -> int:
    """Count what this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def found(storage: Storage, name: bytes) -> Found:
    """Look a name of the root up."""
    return await storage.lookup(storage.root, name)


# the tree


async def test_links_that_lead_out_are_not_followed(served: Storage, directory: Path) -> None:
    (directory / "out").symlink_to("../outside")
    (directory / "file").symlink_to("../outside/secret")
    (directory / "absolute").symlink_to("/etc")
    storage = served
    for name, inside in ((b"out", b"secret"), (b"absolute", b"passwd")):
        link = await found(storage, name)
        assert link.attr.is_symlink
        with fails(errno.ENOTDIR):
            await storage.lookup(link.node, inside)
        with fails(errno.ENOTDIR):
            await storage.unlink(link.node, inside, GATEWAY)
        storage.forget(link.node)
    link = await found(storage, b"file")
    with fails(errno.ELOOP):
        await storage.open(link.node, os.O_RDONLY, GATEWAY)
    with fails(errno.ESTALE):
        await storage.create(storage.root, b"file", 0o644, os.O_WRONLY | os.O_TRUNC, GATEWAY)
    with fails(errno.EOPNOTSUPP):
        await storage.setattr(link.node, AttrChange(mode=0o777), GATEWAY)
    with fails(errno.EINVAL):
        await storage.setattr(link.node, AttrChange(size=0), GATEWAY)
    await storage.setattr(link.node, AttrChange(uid=OWNER.uid, mtime_ns=5), GATEWAY)
    storage.forget(link.node)
    secret = directory.parent / "outside" / "secret"
    assert secret.read_text() == "secret"
    assert secret.stat().st_uid == 0
    assert secret.stat().st_mtime_ns != 5


async def test_directory_swapped_for_a_link_leads_nowhere_else(
    served: Storage, directory: Path
) -> None:
    (directory / "d").mkdir()
    node = (await found(served, b"d")).node
    (directory / "d").rename(directory / "moved")
    (directory / "d").symlink_to("../outside")
    made = await served.mkdir(node, b"new", 0o755, GATEWAY)
    assert (directory / "moved" / "new").is_dir()
    assert os.listdir(directory.parent / "outside") == ["secret"]
    served.forget(made.node)
    served.forget(node)


SWAPPER = """
import os, sys
os.chdir(sys.argv[1])
print("ready", flush=True)
while True:
    os.rename("real", "d")
    os.rename("d", "real")
    os.rename("evil", "d")
    os.rename("d", "evil")
"""


@pytest.fixture
def swapped(directory: Path) -> Iterator[bytes]:
    """Return a name that is a directory and a link that leads out, in fast alternation."""
    (directory / "real").mkdir()
    (directory / "evil").symlink_to("../outside")
    words = [sys.executable, "-c", SWAPPER, str(directory)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        yield b"d"
        swapper.kill()


async def test_directory_is_never_left_by_a_name_that_is_swapped(
    served: Storage, swapped: bytes
) -> None:
    tried = 0
    while tried < 200:
        try:
            entry = await found(served, swapped)
        except NotFoundError:
            continue
        tried += 1
        with fails(errno.ENOENT, errno.ENOTDIR):
            await served.lookup(entry.node, b"secret")
        served.forget(entry.node)


@pytest.fixture
def mounted_below(directory: Path) -> Iterator[bytes]:
    """Mount another file system on a directory of the served one; return its name."""
    (directory / "mnt").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(directory / "mnt")], check=True)
    (directory / "mnt" / "inside").write_text("")
    yield b"mnt"
    subprocess.run(["umount", str(directory / "mnt")], check=True)


async def test_another_file_system_below_is_refused_alone(
    served: Storage, directory: Path, mounted_below: bytes
) -> None:
    (directory / "f").write_text("")
    with fails(errno.EXDEV):
        await served.lookup(served.root, mounted_below)
    handle = await served.opendir(served.root)
    listed = await pages(served, handle, plus=True)
    await served.releasedir(handle)
    by_name = {one.entry.name: one.found for one in listed}
    assert by_name[mounted_below] is None
    entry = by_name[b"f"]
    assert entry is not None
    served.forget(entry.node)


async def test_an_entry_that_can_not_be_opened_does_not_hide_the_others(
    served: Storage, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (directory / f"{number:02}").write_text("")
    original = posix_calls.open_path
    numbers = iter([errno.EACCES, errno.ELOOP, errno.EIO, errno.ESTALE])

    def refuse_some(parent: int, name: bytes) -> int:
        if name.endswith((b"3", b"7")) and (number := next(numbers, 0)):
            raise OSError(number, "refused")
        return original(parent, name)

    monkeypatch.setattr(posix_calls, "open_path", refuse_some)
    handle = await served.opendir(served.root)
    listed = await pages(served, handle, plus=True)
    await served.releasedir(handle)
    assert len(listed) == 20
    for one in listed:
        assert (one.found is None) == one.entry.name.endswith((b"3", b"7"))
        if one.found is not None:
            served.forget(one.found.node)


# descriptors

RESERVED: list[int] = []
"""Fills the gaps between open descriptors, so that the next ones are the last."""


@pytest.fixture
def few_descriptors(served: Storage) -> Iterator[None]:
    """Let this process open only a few more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    while RESERVED:
        os.close(RESERVED.pop())


def allow(limit: int) -> None:
    """Limit the numbers of descriptors of this process."""
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )


def leave(count: int) -> None:
    """Allow `count` more descriptors."""
    listed = [int(fd) for fd in os.listdir("/proc/self/fd")]  # and what it was listed through
    taken = {fd for fd in listed if Path(f"/proc/self/fd/{fd}").is_symlink()}
    highest = max(taken)
    free = set(range(highest)) - taken
    allow(highest + 1)
    RESERVED.extend(os.open("/", os.O_PATH) for _ in free)
    allow(highest + 1 + count)


@pytest.mark.usefixtures("few_descriptors")
async def test_a_listing_that_runs_out_of_descriptors_fails_and_keeps_none(
    served: Storage, directory: Path
) -> None:
    """Entries that nobody could open for lack of descriptors must not look as if they were gone."""
    for number in range(300):
        (directory / str(number)).write_text("")
    handle = await served.opendir(served.root)
    leave(100)
    before = descriptors()
    with fails(errno.EMFILE):
        await served.readdir(handle, 0, limit=300, plus=True)
    allow(4096)
    assert descriptors() == before
    assert served.describe()["nodes"] == 0
    listed = await pages(served, handle, plus=True)
    assert len(listed) == 300
    for one in listed:
        assert one.found is not None
        served.forget(one.found.node)
    await served.releasedir(handle)


Make = Callable[[Storage, bytes], Awaitable[Found | Created]]
MAKING: dict[str, Make] = {
    "mkdir": lambda s, name: s.mkdir(s.root, name, 0o755, GATEWAY),
    "mknod": lambda s, name: s.mknod(s.root, name, stat.S_IFREG | 0o644, 0, GATEWAY),
    "symlink": lambda s, name: s.symlink(s.root, name, b"x", GATEWAY),
    "create": lambda s, name: s.create(s.root, name, 0o644, os.O_RDWR | os.O_EXCL, GATEWAY),
}


@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.parametrize("make", MAKING.values(), ids=MAKING.keys())
async def test_without_descriptors_nothing_is_made(
    served: Storage, directory: Path, make: Make
) -> None:
    await served.getattr(served.root)  # its thread is there
    succeeded = []
    for free in range(4):
        name, number = f"new-{free}", 0
        leave(free)
        try:
            result = await make(served, name.encode())
        except FSError as exc:
            number = exc.errno
        allow(4096)
        assert number in (0, errno.EMFILE)
        succeeded.append(number == 0)
        assert (name in os.listdir(directory)) == succeeded[-1]
        if succeeded[-1]:
            served.forget(result.node)
            if isinstance(result, Created):
                await served.release(result.handle)
    assert succeeded[0] is False
    assert succeeded[-1] is True


async def test_failing_calls_keep_no_descriptor(served: Storage, directory: Path) -> None:
    (directory / "d").mkdir()
    (directory / "d" / "f").write_text("data")
    (directory / "d" / "f").chmod(0o600)
    os.mkfifo(directory / "fifo")
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(directory / "socket"))
    (directory / "locked").mkdir(mode=0o700)
    root = served.root
    node = (await found(served, b"d")).node
    locked = (await found(served, b"locked")).node
    file = await served.lookup(node, b"f")
    before = descriptors(), served.describe()["nodes"]
    for call in (
        lambda: served.lookup(root, b"missing"),
        lambda: served.mkdir(root, b"d", 0o755, GATEWAY),
        lambda: served.mkdir(locked, b"x", 0o755, STRANGER),
        lambda: served.mknod(locked, b"x", stat.S_IFREG, 0, STRANGER),
        lambda: served.create(root, b"fifo", 0o644, os.O_RDWR, GATEWAY),
        lambda: served.create(root, b"socket", 0o644, os.O_RDWR, GATEWAY),
        lambda: served.create(root, b"d", 0o644, os.O_RDWR, GATEWAY),
        lambda: served.create(node, b"f", 0o644, os.O_RDWR, STRANGER),
        lambda: served.create(node, b"f", 0o644, os.O_RDWR | os.O_EXCL, GATEWAY),
        lambda: served.open(file.node, os.O_WRONLY, STRANGER),
        lambda: served.opendir(file.node),
        lambda: served.find(node.ino, served.token(file.node)),
        lambda: served.try_exclusive(file.node),
    ):
        with pytest.raises(FSError):
            await call()
        assert (descriptors(), served.describe()["nodes"]) == before
    for one in (node, locked, file.node):
        served.forget(one)


async def test_forgetting_too_often_closes_nothing_of_others(served: Storage) -> None:
    made = await served.mkdir(served.root, b"d", 0o755, GATEWAY)
    served.forget(made.node)
    with pytest.raises(ValueError, match="more often"):
        served.forget(made.node)
    again = await found(served, b"d")
    assert (await served.getattr(again.node)).ino == made.attr.ino
    served.forget(again.node)


# the process


async def test_directory_that_can_not_be_served(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = descriptors()
    for name in ("missing", "file"):
        with pytest.raises(UserError, match=name):
            await PosixStorage.connect(str(tmp_path / name))
    assert descriptors() == before


@pytest.fixture
def spawn() -> Iterator[Callable[[], None]]:
    """Return what starts a child process that inherits what can be inherited."""
    children: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        children.append(subprocess.Popen(["sleep", "60"], close_fds=False))

    yield start
    for child in children:
        child.kill()
        child.wait()


async def test_lock_is_not_inherited(served: Storage, spawn: Callable[[], None]) -> None:
    """A child of the daemon must not keep a lock that its parent has let go."""
    async with served.exclusive(served.root):
        spawn()
    lock = await served.try_exclusive(served.root)
    assert lock is not None
    async with lock:
        pass


UNPRIVILEGED = textwrap.dedent(
    """
    import os, sys, trio
    os.setgroups([]); os.setgid(30001); os.setuid(30001)
    from cephfs_ext.core.errors import FSError
    from cephfs_ext.core.types import GATEWAY, AttrChange, Credentials
    from cephfs_ext.storage.posix import PosixStorage

    async def main():
        storage = await PosixStorage.connect(sys.argv[1])
        root = storage.root
        made = await storage.mkdir(root, b"mine", 0o755, Credentials(5, 5))
        assert (made.attr.uid, made.attr.gid) == (30001, 30001)
        assert not storage.describe()["acts_for_users"]
        found = await storage.find(made.node.ino, storage.token(made.node))
        assert found.node is made.node
        created = await storage.create(root, b"f", 0o600, os.O_RDWR, GATEWAY)
        await storage.write(created.handle, 0, b"data")
        await storage.release(created.handle)
        try:
            await storage.setattr(created.node, AttrChange(uid=0), GATEWAY)
        except FSError as exc:
            assert exc.errno == 1
        else:
            raise AssertionError("gave a file to root")
        await storage.close()
        print("done")

    trio.run(main)
    """
)


def test_a_daemon_that_is_not_root_acts_as_itself(directory: Path) -> None:
    os.chown(directory, 30001, 30001)
    for path in directory.parents:
        if path.owner() == "root" and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "done\n", done.stderr
