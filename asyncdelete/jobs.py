"""What a job is: a tree on its way out, and what is known of it.

A job is the directory `.trashbin/jobs/<id>/`, the tree that it removes is `purging/<claim>`:

    job.json             what is removed, and for whom; written once, before the tree is claimed
    <worker>.json        what one worker has removed of it so far, written by that worker alone
    paused, cancelled    what somebody has asked for
    closing              what is left is being given back to the trash
    result.json          how it ended

Nothing is ever changed by two: the state is what these files say together (`state_of`). What is
not there, or can't be read, says nothing. The tree is the truth: a claim without a job gets one,
and a job without a claim is over.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Collection, Mapping
from typing import Literal, TypeVar

import msgspec

from cephfs_ext.core.types import Credentials

ABOUT = b"job.json"
RESULT = b"result.json"
PAUSED = b"paused"
CANCELLED = b"cancelled"
CLOSING = b"closing"

FAILURES_KEPT = 100
"""How many failures a job remembers with their reasons; all are counted."""

FRESH_NS = 10_000_000_000
"""A worker that has not reported for this long is not counted on."""

Kind = Literal["tree", "purged", "expired"]
"""`tree`: what users delete without keeping; `purged`: entries of the trash, before their time;
`expired`: an hour whose time is over."""


class State(enum.Enum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    STUCK = "stuck"
    """Something can't be removed, and lies in `purging/`."""
    DONE = "done"
    KEPT = "kept"
    """What the requester may not delete is an entry of the trash again."""
    CANCELLED = "cancelled"
    """What was left is an entry of the trash again."""


class Verb(enum.Enum):
    """What may be asked of a job."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"


TRANSITIONS: Mapping[tuple[State, Verb], State] = {
    (State.QUEUED, Verb.PAUSE): State.PAUSED,
    (State.RUNNING, Verb.PAUSE): State.PAUSED,
    (State.STUCK, Verb.PAUSE): State.PAUSED,
    (State.PAUSED, Verb.RESUME): State.QUEUED,
    (State.QUEUED, Verb.CANCEL): State.CANCELLING,
    (State.RUNNING, Verb.CANCEL): State.CANCELLING,
    (State.PAUSED, Verb.CANCEL): State.CANCELLING,
    (State.STUCK, Verb.CANCEL): State.CANCELLING,
    (State.STUCK, Verb.RETRY): State.QUEUED,
}
"""What a request leads to; what isn't here is refused. Workers do the rest: a queued job is running
while one of them is at it, and ends as done, kept, cancelled or stuck."""

STOPPING = frozenset((PAUSED, CANCELLED, CLOSING))
"""Marks at which workers stop."""

OVER = frozenset((State.DONE, State.KEPT, State.CANCELLED))
"""States that don't change any more."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is removed, and for whom."""

    id: str
    """`<ns, 16 hex>.<instance>`, as of an entry of the trash: when it was asked for."""
    claim: bytes
    """Name in `purging/`."""
    kind: Kind
    path: bytes = b""
    """Where the tree was, relative to the domain's root; nothing if that isn't known."""
    parent: int = 0
    """Inode of the directory that it was in."""
    parent_token: bytes = b""
    name: bytes = b""
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    """Of whom it is removed for."""
    is_checked: bool = False
    """True if what they could not have deleted themselves is kept."""
    command: str = ""
    entries: int | None = None
    """How many names there were when it was claimed, its own not counted; None if unknown."""
    size: int | None = None
    """Bytes of the files."""

    @property
    def made_ns(self) -> int:
        """When it was asked for."""
        return int(self.id.partition(".")[0], 16)

    @property
    def cred(self) -> Credentials:
        """Who asked for it; root for what is the gateway's own business."""
        return Credentials(self.uid, self.gid, self.groups)


class Failure(msgspec.Struct, frozen=True):
    """Something that could not be removed."""

    path: bytes
    """Relative to the tree."""
    reason: str


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker has done for a job."""

    host: str
    pid: int
    began_ns: int
    updated_ns: int
    files: int = 0
    dirs: int = 0
    kept: int = 0
    """Links that became entries again, since a tombstone needs their inode."""
    failed: int = 0
    failures: tuple[Failure, ...] = ()
    has_ended: bool = False
    """True once the worker is no longer at it, for whatever reason."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended."""

    state: State
    ended_ns: int
    files: int
    dirs: int
    failed: int = 0
    failures: tuple[Failure, ...] = ()
    entry: str = ""
    """Id of the entry that holds what was given back; nothing if nothing was, or several do."""
    tries: int = 1
    """How often it has got stuck."""


def state_of(
    marks: Collection[bytes],
    result: Result | None,
    progress: Mapping[str, Progress],
    now_ns: int,
) -> State:
    """Say where a job stands; what comes first counts.

    Args:
        marks: names of the files that there are.
        progress: by worker.
    """
    if result is not None and result.state in OVER:
        return result.state
    if CANCELLED in marks:
        return State.CANCELLING
    if PAUSED in marks:
        return State.PAUSED
    if any(is_at_it(one, now_ns) for one in progress.values()):
        return State.RUNNING
    return State.QUEUED if result is None else result.state


def is_at_it(progress: Progress, now_ns: int) -> bool:
    """Tell whether a worker is believed to be working on a job."""
    return not progress.has_ended and abs(now_ns - progress.updated_ns) < FRESH_NS


def result_of(
    progress: Collection[Progress], state: State, before: Result | None, entry: str
) -> Result:
    """Put together how a job ended, from what its workers have done.

    Args:
        before: how it ended the last time, if it got stuck.
        entry: what holds what was given back.
    """
    failures = [failure for one in progress for failure in one.failures]
    is_whole = state is State.DONE
    return Result(
        state=state,
        ended_ns=time.time_ns(),
        files=sum(one.files for one in progress),
        dirs=sum(one.dirs for one in progress),
        failed=0 if is_whole else max((one.failed for one in progress), default=0),
        failures=() if is_whole else tuple(dict.fromkeys(failures))[:FAILURES_KEPT],
        entry=entry,
        tries=1 if before is None else before.tries + 1,
    )


T = TypeVar("T", Job, Progress, Result)


def encode(what: Job | Progress | Result) -> bytes:
    """Encode as JSON; bytes are base64."""
    return msgspec.json.encode(what)


def decode(raw: bytes, kind: type[T]) -> T | None:
    """Decode; None if it is torn or foreign. Fields of newer versions are ignored."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError:
        return None
