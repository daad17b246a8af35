"""What the daemon offers over HTTP about jobs: the wire types and the Protocol behind them."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from cephfs_ext.control.service import SCHEMA_VERSION, Caller

JobVerb = Literal["pause", "resume", "cancel", "retry"]


class JobQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which jobs to list, the oldest first."""

    ids: list[str] = []
    """These only."""
    below: str | None = None
    """Those of trees that were here or below, base64."""
    since_ns: int | None = None
    """Those that were asked for since then."""
    over: bool = False
    """Also those that are over, as long as they are remembered."""


class JobFailure(msgspec.Struct, frozen=True, kw_only=True):
    """Something that could not be removed."""

    path: str
    """Relative to the tree."""
    path_raw: str | None = None
    reason: str


class JobItem(msgspec.Struct, frozen=True, kw_only=True):
    """One job."""

    id: str
    kind: str
    state: str
    path: str | None
    """Null if it isn't known where the tree was."""
    path_raw: str | None = None
    uid: int
    made_at: str
    ended_at: str | None
    workers: list[str]
    """Hosts and process ids of those who are at it."""
    files: int
    """Removed so far, here and below."""
    dirs: int
    entries_total: int | None
    """Names that there were; null if nobody knows."""
    size_total_bytes: int | None
    entries_left: int | None
    """Names that are still there; null if nobody knows."""
    size_left_bytes: int | None
    """Of the names that are still there. Space comes free later, when nobody has it open and the
    metadata server has purged it."""
    rate: float
    """Names in a second."""
    eta_s: float | None
    failed: int
    failures: list[JobFailure]
    """Some of those that could not be removed."""
    entry: str | None
    """Id of the entry of the trash that holds what was given back."""


class JobListing(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs."""

    schema_version: int = SCHEMA_VERSION
    items: list[JobItem]


class JobRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is asked of jobs."""

    ids: list[str]
    verb: JobVerb


class JobOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request for one job."""

    id: str
    outcome: str
    """Where the job stands now, or `denied`, `not_found`, `conflict`, `failed`."""
    message: str = ""
    entry: str | None = None


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request."""

    schema_version: int = SCHEMA_VERSION
    items: list[JobOutcome]


class JobService(Protocol):
    """What the daemon does for its callers; FSError and UserError become HTTP errors."""

    async def jobs_list(self, caller: Caller, query: JobQuery) -> JobListing:
        """List jobs that the caller may see."""
        ...

    async def jobs_ask(self, caller: Caller, request: JobRequest) -> JobReport:
        """Ask something of jobs; goes on after an error and answers for each."""
        ...
