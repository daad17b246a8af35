"""What the daemon offers over HTTP: the wire types and the Protocol behind them.

Names and paths are text. One that isn't UTF-8 has backslash escapes in its text and the exact
bytes, base64, in the field that ends in `_raw`. Paths are relative to the mount's root.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import AsyncGenerator
from typing import Annotated, Literal, Protocol

import msgspec

from cephfs_ext.core.errors import ExitCode, UserError
from cephfs_ext.core.types import Credentials
from trashbin.progress import Progress

SCHEMA_VERSION = 1
Conflict = Literal["fail", "skip", "keep-both", "replace"]


class Caller(msgspec.Struct, frozen=True):
    """Who asks; `everything` is true on the operators' socket only."""

    cred: Credentials
    everything: bool


class Text(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bytes as text, and exactly where the text isn't exact."""

    text: str
    raw: str | None = None


def to_text(data: bytes) -> Text:
    """Encode a name or path."""
    try:
        return Text(data.decode())
    except UnicodeDecodeError:
        return Text(data.decode(errors="backslashreplace"), base64.b64encode(data).decode())


def from_base64(text: str) -> bytes:
    """Decode a path relative to the mount's root.

    Raises:
        UserError: it isn't base64.
    """
    try:
        return base64.b64decode(text, validate=True).strip(b"/")
    except binascii.Error as exc:
        raise UserError(f"{text!r} is not base64", ExitCode.USAGE) from exc


def rfc3339(time_s: float) -> str:
    """Return a time as documents have it: UTC, to the second."""
    when = datetime.datetime.fromtimestamp(time_s, datetime.UTC)
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")


class Check(msgspec.Struct, frozen=True):
    """One check of health."""

    name: str
    ok: bool
    reason: str = ""


class ErrorBody(msgspec.Struct, frozen=True):
    """Why a request failed."""

    code: str
    message: str


class TrashSpace(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is, and how much of it is trash."""

    size_bytes: int
    """Of what is in the trash."""
    entries: int
    held_bytes: int
    """Of what somebody holds."""
    used_bytes: int
    """Trash and all, in the quota of the served directory, else its pool or disk."""
    total_bytes: int
    used_ratio: float
    """Of bytes or files, whichever is scarcer, where it is scarcest."""
    hourly_bytes: int | None
    """Deleted in an hour of the last day; null: not known yet."""
    guaranteed_s: float | None
    """How long what is deleted stays at this rate; null: not known yet."""
    is_helpless: bool
    """True while it is too full, and nothing more may be let go."""
    age_s: float
    """How old these figures are."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is running."""

    schema_version: int = SCHEMA_VERSION
    version: str
    source: str
    mountpoint: str
    pid: int
    instance: str
    uptime_s: float
    read_only: bool
    trash_enabled: bool
    retention_s: float
    storage: dict[str, str | int | bool]
    background_storage: dict[str, str | int | bool]
    nodes: int
    handles: int
    trash: TrashSpace | None = None
    """Null until it is known."""
    rss_bytes: int = 0
    """Memory of the daemon."""
    threads: int = 0


class TrashQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which trees to list or restore, the newest first."""

    below: str | None = None
    """Path, base64."""
    since_ns: int | None = None
    deleter_uid: int | None = None
    glob: str | None = None
    limit: int | None = None
    held: bool = False
    """Only what somebody holds."""
    event: str | None = None
    """Delete event that took it away, or a part of it."""
    last: bool = False
    """Only the newest that the caller deleted; nothing else counts then."""


class HeldBy(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a tree, and why."""

    uid: int
    at: str
    reason: str


class TrashItem(msgspec.Struct, frozen=True, kw_only=True):
    """One tree in the trash."""

    id: str
    path: str | None
    path_raw: str | None = None
    kind: str
    deleted_at: str
    deleted_ns: int
    deleter_uid: int
    owner_uid: int
    entries: int | None
    """Names in the tree, its top among them; null where that would take long to count."""
    size_bytes: int | None
    expires_at: str | None
    """Null while all of it is held."""
    held: bool = False
    """Whether somebody holds it, or a part of it."""
    held_entries: int = 0
    """How many of the names that were deleted one by one are held."""
    held_by: HeldBy | None = None
    pid: int | None = None
    command: str | None = None
    event: str | None = None
    """Delete event that took away its top."""


class DamagedItem(msgspec.Struct, frozen=True):
    """Something in the trash that can't be read; it is never deleted."""

    path: str
    reason: str


class ListingEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What comes behind the trees of a listing, as `TrashListing` has it."""

    damaged: list[DamagedItem]
    more: bool
    error: ErrorBody | None = None


class TrashListing(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the trash."""

    schema_version: int = SCHEMA_VERSION
    items: list[TrashItem]
    """A line of the answer each: they are sent as they are found."""
    damaged: list[DamagedItem]
    """Of what was looked at."""
    more: bool = False
    """True if the limit left something out."""
    error: ErrorBody | None = None
    """Why it ends here, where not all could be read."""


class TrashDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One tree, and what is in it."""

    schema_version: int = SCHEMA_VERSION
    item: TrashItem
    mode: int
    children: list[Text]
    more: int


class RestoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to restore."""

    ids: list[str] = []
    paths: list[str] = []
    """Paths, base64."""
    last: bool = False
    query: TrashQuery | None = None
    """All that fits; of several that had one path the newest is the first."""
    to: str | None = None
    """Directory, base64."""
    on_conflict: Conflict = "fail"
    dry_run: bool = False


class MadeDirectory(msgspec.Struct, frozen=True, kw_only=True):
    """A missing parent that a restore made, or would make."""

    path: str
    path_raw: str | None = None
    mode: int
    uid: int
    gid: int


class RestoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one."""

    id: str | None
    asked: str
    target: str | None
    target_raw: str | None = None
    outcome: str
    message: str
    made: list[MadeDirectory] = []
    """The topmost first."""


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a restore."""

    schema_version: int = SCHEMA_VERSION
    items: list[RestoredItem]


class RequestProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a long request is."""

    schema_version: int = SCHEMA_VERSION
    done: int
    """Entries of the trash."""
    total: int | None
    """Null until it is known."""
    stopping: bool
    """True if it has been told to stop, and can."""


class PurgeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to remove for good."""

    ids: list[str] = []
    older_than_s: float | None = None
    all: bool = False
    dry_run: bool = False


class PurgeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed for good."""

    schema_version: int = SCHEMA_VERSION
    dry_run: bool
    trees: list[TrashItem]
    not_found: list[str]
    files: int
    dirs: int
    failures: int
    held: list[str] = []
    """Ids of what was named and isn't removed, because somebody holds it."""


class HoldRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to hold, or to release."""

    ids: list[str]
    reason: str = ""
    """Why it is held; nothing for a release."""


class HeldItem(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one."""

    id: str
    outcome: str
    """held, released, partly, denied, not_found or failed."""
    entries: int = 0
    """How many of its entries are held, or released, now."""
    message: str = ""


class HoldReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a hold or a release."""

    schema_version: int = SCHEMA_VERSION
    items: list[HeldItem]


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of what to say what a delete would do."""

    path: str
    """Base64."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What a delete would do."""

    schema_version: int = SCHEMA_VERSION
    kept: bool
    reason: str
    """Why it would really be removed, as in `trash_bypasses_total`; empty if it would be kept."""
    rule: str
    """Name of the rule that decides, `mark` for a mark; empty if none does."""
    why: str
    retention_s: float | None
    """From the end of the hour; null if it would not be kept."""
    versions: int | None
    """How many versions of it are kept; null for all."""
    protected: bool
    """True if it can't be deleted: a directory above is marked."""


class AllowRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to let delete what isn't theirs without a limit."""

    uid: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    duration_s: Annotated[float, msgspec.Meta(gt=0, le=86400)]


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """Until when somebody is."""

    schema_version: int = SCHEMA_VERSION
    until: str


class AuditQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which deletes to tell of, the newest first."""

    path: str | None = None
    """Path, base64: of it, of what was below it, and of trees that held it."""
    since_ns: int | None = None
    uid: int | None = None
    """Who deleted."""
    event: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] = 100
    """How many at most; the daemon has a limit of its own."""


class AuditItem(msgspec.Struct, frozen=True, kw_only=True):
    """One delete, and what has become of it."""

    id: str
    event: str | None
    path: str
    path_raw: str | None = None
    kind: str
    deleted_at: str
    deleted_ns: int
    uid: int
    gid: int
    pid: int | None
    """Null where the process is hidden from the gateway."""
    command: str | None
    host: str | None
    """Of the gateway, and of the process."""
    pod: str | None
    container: str | None
    owner_uid: int | None
    size_bytes: int | None
    became: str
    """`in_trash`, `restored`, `purged`, `expired`, `outdated`, `not_kept` or `unknown`."""
    expires_at: str | None = None
    """When what is in the trash begins to leave it; null if it is held."""
    why: str | None = None
    """Why it was not kept."""
    rule: str | None = None
    """Which rule says so."""
    became_at: str | None = None
    """When it was restored, purged, or expired."""
    became_by: int | None = None
    """Uid of who restored or purged it."""
    became_on: str | None = None
    """Host of the gateway that did it."""
    target: str | None = None
    """Where it was restored to, with the tree that it was in."""
    target_raw: str | None = None


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """Who deleted what."""

    schema_version: int = SCHEMA_VERSION
    items: list[AuditItem]
    more: bool = False
    """True if there may be older ones, which were left out."""


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One delete event: what of it fits what was asked for."""

    event: str
    first_at: str
    last_at: str
    uid: int
    gid: int
    pid: int | None
    command: str | None
    """At the end of the event."""
    host: str | None
    pod: str | None
    container: str | None
    names: int
    """How many were deleted, or truncated."""
    size_bytes: int
    """Of the files."""
    not_kept: int
    """How many of the names were not kept."""
    path: str
    """What went last: of an `rm -r`, its top."""
    path_raw: str | None = None


class AuditEventReport(msgspec.Struct, frozen=True, kw_only=True):
    """Delete events."""

    schema_version: int = SCHEMA_VERSION
    events: list[AuditEvent]
    more: bool = False
    """True if there may be older ones, which were left out."""


class Service(Protocol):
    """What the daemon does for its callers; FSError and UserError become HTTP errors."""

    async def live(self) -> list[Check]:
        """Check that the daemon itself works; never depends on the storage."""
        ...

    async def ready(self) -> list[Check]:
        """Check that the mount can serve."""
        ...

    async def status(self) -> Status:
        """Say what is running."""
        ...

    def metrics(self) -> tuple[bytes, str]:
        """Return the metrics and their content type."""
        ...

    def trash_list(
        self, caller: Caller, query: TrashQuery
    ) -> AsyncGenerator[TrashItem | ListingEnd]:
        """List what the caller may see, newest first; the end is the last."""
        ...

    async def trash_show(self, caller: Caller, entry_id: str) -> TrashDetail:
        """Show one tree."""
        ...

    async def trash_restore(
        self, caller: Caller, request: RestoreRequest, progress: Progress
    ) -> RestoreReport:
        """Bring trees back."""
        ...

    async def trash_purge(
        self, caller: Caller, request: PurgeRequest, progress: Progress
    ) -> PurgeReport:
        """Remove trees for good."""
        ...

    async def trash_explain(self, caller: Caller, request: ExplainRequest) -> Explanation:
        """Say what a delete would do."""
        ...

    async def trash_allow(self, caller: Caller, request: AllowRequest) -> Allowed:
        """Lift the brake on deletes for a user."""
        ...

    async def trash_hold(self, caller: Caller, request: HoldRequest) -> HoldReport:
        """Exempt trees from expiry and pressure."""
        ...

    async def trash_release(self, caller: Caller, request: HoldRequest) -> HoldReport:
        """Let trees expire as they would have."""
        ...

    async def audit(self, caller: Caller, query: AuditQuery) -> AuditReport:
        """Say who deleted what, as far as the caller may know of it."""
        ...

    async def audit_events(self, caller: Caller, query: AuditQuery) -> AuditEventReport:
        """Say in which delete events, and how much each took away."""
        ...

    def stop(self) -> None:
        """Begin to unmount."""
        ...
