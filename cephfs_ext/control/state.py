"""Where a daemon says that it runs: `<runtime_dir>/<id>/state.json`, beside its sockets.

The id comes from the mountpoint, so a new daemon finds what a dead one left: its instance and the
names of its storage sessions, which it then has to get rid of.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator

import msgspec

from cephfs_ext.core import mountinfo
from cephfs_ext.core.errors import ExitCode, UserError

CONTROL_SOCKET = "control.sock"
ADMIN_SOCKET = "admin.sock"

_STATE = "state.json"
_DIR_MODE = 0o755
_FILE_MODE = 0o644

_DEAD = (b"Z", b"X")
_THREADS, _START_TIME = 17, 19
"""Fields of /proc/PID/stat, counted from the state of the process.

Its first thread may be dead while others still hold descriptors and locks.
"""

_TICK_S = 0.01


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a daemon says of itself."""

    pid: int
    start_time: float
    """Of the process, seconds since boot: another one with its pid isn't taken for it."""
    source: str
    mountpoint: str
    dev: int | None = None
    """st_dev of the mount; None until it answers."""
    instance: str
    dead_instances: list[str] = []
    """Predecessors whose leftovers have not been brought to an end yet."""
    uuids: list[str] = []
    version: str


def daemon_dir(runtime_dir: str, mountpoint: str) -> str:
    """Return the directory of the daemon at a mountpoint; never asks what is mounted there."""
    place = mountinfo.mountpoint_of(mountpoint)
    digest = hashlib.sha256(place.encode(errors="surrogateescape"))
    return os.path.join(os.path.abspath(runtime_dir), digest.hexdigest()[:12])


def process_start_time(pid: int) -> float:
    """Return when a process began, seconds since boot; 0 if there is none, or only its corpse.

    Unlike a time of day, the answer is the same after the clock was set.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat_file:
            fields = stat_file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    if fields[0] in _DEAD and int(fields[_THREADS]) <= 1:
        return 0.0
    return int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")


def make_shared_dir(path: str) -> None:
    """Make a directory that everybody may search, whatever the umask, with those above it.

    One that is there already is somebody's own and keeps its mode.

    Raises:
        UserError: it can't be made.
    """
    with _unwritable(path):
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for directory in reversed(missing):
            os.mkdir(directory)
            os.chmod(directory, _DIR_MODE)


@contextlib.contextmanager
def _unwritable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise UserError(
            f"{path}: {exc.strerror}; set control.runtime_dir to a directory you may write",
            ExitCode.DENIED,
        ) from exc


def write_state(directory: str, state: State) -> None:
    """Write the state of the daemon whose directory this is; everybody may read it.

    Raises:
        UserError: the directory can't be made or written, or is somebody else's.
    """
    make_shared_dir(os.path.dirname(directory))
    with _unwritable(directory):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        _check_owner(directory)
        os.chmod(directory, _DIR_MODE)
        staged = os.path.join(directory, _STATE + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(staged, flags, _FILE_MODE), "wb") as stream:
            os.fchmod(stream.fileno(), _FILE_MODE)
            stream.write(msgspec.json.encode(state))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(staged, os.path.join(directory, _STATE))


def _check_owner(directory: str) -> None:
    """Refuse a directory that somebody else has put there: its owner could swap our sockets."""
    attr = os.lstat(directory)
    if not stat.S_ISDIR(attr.st_mode) or attr.st_uid != os.geteuid():
        raise UserError(
            f"{directory} is of uid {attr.st_uid}, not of this gateway; remove it, or set "
            "control.runtime_dir to a directory of your own",
            ExitCode.DENIED,
        )


def read_state(directory: str) -> State | None:
    """Read a state; None if there is none, or it can't be read."""
    try:
        with open(os.path.join(directory, _STATE), "rb") as stream:
            return msgspec.json.decode(stream.read(), type=State)
    except (OSError, msgspec.DecodeError):
        return None


def is_alive(state: State) -> bool:
    """Tell whether the process of a state still runs."""
    began = process_start_time(state.pid)
    return began > 0 and abs(began - state.start_time) < _TICK_S


def remove_state(directory: str) -> None:
    """Remove a daemon's directory."""
    shutil.rmtree(directory, ignore_errors=True)


def all_states(runtime_dir: str) -> list[tuple[str, State]]:
    """Return the directories and states of all daemons that run."""
    found = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(runtime_dir)):
            directory = os.path.join(runtime_dir, name)
            state = read_state(directory)
            if state is not None and is_alive(state):
                found.append((directory, state))
    return found
