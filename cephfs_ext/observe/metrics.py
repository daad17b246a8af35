"""All metrics, in one table, and the meter that fills them.

Label values are closed sets: a value that isn't in the table is counted as `other`. Paths, users,
inodes and pods are never labels. Everything is exported as 0 from the start. docs/operations.md
has the same table, compared by a test.
"""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cephfs_ext.core.ports import LANE_OPERATIONS

OPERATIONS = [
    "lookup",
    "getattr",
    "setattr",
    "readlink",
    "mknod",
    "mkdir",
    "symlink",
    "link",
    "unlink",
    "rmdir",
    "rename",
    "open",
    "create",
    "read",
    "write",
    "flush",
    "fsync",
    "release",
    "opendir",
    "readdir",
    "releasedir",
    "fsyncdir",
    "statfs",
    "getxattr",
    "setxattr",
    "listxattr",
    "removexattr",
    "forget",
]
ERRNOS = [
    "EPERM",
    "ENOENT",
    "EIO",
    "EACCES",
    "EBUSY",
    "EEXIST",
    "EXDEV",
    "ENOTDIR",
    "EISDIR",
    "EINVAL",
    "EFBIG",
    "ENOSPC",
    "EROFS",
    "EMLINK",
    "ENAMETOOLONG",
    "ENOTEMPTY",
    "ENODATA",
    "EOPNOTSUPP",
    "EDQUOT",
    "ESTALE",
    "other",
]
LOOPS = [
    "expiry", "pressure", "journal", "ancestors", "invalidate", "recovery", "peers", "jobs",
    "pending", "unlinks", "nodes",
]  # fmt: skip
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0)


class Metric(NamedTuple):
    """One row of the table."""

    kind: str
    name: str
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()


def _one(label: str, values: list[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ((label, tuple(values)),)


TABLE = (
    Metric(
        "histogram", "fuse_op_duration_seconds", "Time that handlers take.", _one("op", OPERATIONS)
    ),
    Metric(
        "counter",
        "fuse_op_errors_total",
        "Requests answered with an error.",
        (("op", tuple(OPERATIONS)), ("errno", tuple(ERRNOS))),
    ),
    Metric(
        "counter",
        "fuse_bugs_total",
        "Bugs in handlers, answered with EIO.",
        _one("op", OPERATIONS),
    ),
    Metric(
        "counter",
        "io_bytes_total",
        "Bytes read and written.",
        _one("direction", ["read", "write"]),
    ),
    Metric(
        "counter",
        "lane_answered_total",
        "Requests that the lane has answered.",
        _one("op", LANE_OPERATIONS),
    ),
    Metric(
        "counter",
        "lane_seconds_total",
        "Time that it took, waiting for the storage included.",
        _one("op", LANE_OPERATIONS),
    ),
    Metric(
        "counter",
        "lane_passed_total",
        "Requests that the lane has passed on to Python, though it knows their kind.",
        _one("op", LANE_OPERATIONS),
    ),
    Metric("gauge", "lane_locks_waiting", "Requests for locks that wait."),
    Metric(
        "counter",
        "lane_locks_refused_total",
        "Requests for locks that were refused (ENOLCK), since 4,096 others waited.",
    ),
    Metric(
        "counter",
        "trash_moves_total",
        "Names that went into the trash.",
        _one("kind", ["file", "dir", "symlink", "link", "replaced", "truncated", "tree"]),
    ),
    Metric(
        "counter",
        "trash_bypasses_total",
        "Names and contents that were really removed.",
        _one(
            "reason",
            [
                "special",
                "disabled",
                "policy",
                "shadow",
                "small",
                "links",
                "opened",
                "moved",
                "full",
                "now",
                "other",
            ],
        ),
    ),
    Metric(
        "counter",
        "trash_failures_total",
        "Deletes that failed because of the trash.",
        _one("errno", ERRNOS),
    ),
    Metric(
        "counter",
        "trash_restores_total",
        "Restores, by what became of them.",
        _one("result", ["restored", "partly_restored", "skipped", "conflict", "denied", "failed"]),
    ),
    Metric("counter", "trash_refusals_total", "Deletes beyond the limit for what isn't theirs."),
    Metric(
        "counter",
        "trash_expired_total",
        "Hours of a shard, and of tombstones, that expired; versions beyond a limit.",
        _one("kind", ["hours", "tombs", "versions"]),
    ),
    Metric(
        "counter",
        "versions_limit_reached_total",
        "Files whose versions weren't counted, because there were too many names.",
    ),
    Metric("counter", "trash_pressure_hours_total", "Hours of a shard that pressure let go."),
    Metric(
        "gauge",
        "trash_pressure_helpless",
        "1 while the storage is too full and pressure may let nothing more go.",
    ),
    Metric("gauge", "trash_guaranteed_seconds", "How long what is deleted stays; -1: not known."),
    Metric("gauge", "trash_bytes", "Bytes of what is in the trash."),
    Metric("gauge", "trash_entries", "Names in the trash."),
    Metric("gauge", "storage_used_ratio", "Used part of the fullest quota, pool or disk."),
    Metric(
        "counter",
        "trash_holds_refused_total",
        "Holds refused because a user held as much as one may.",
    ),
    Metric("gauge", "trash_damaged_entries", "Things in the trash that can't be read."),
    Metric(
        "counter",
        "purge_removed_total",
        "Files and directories removed for good.",
        _one("kind", ["file", "dir"]),
    ),
    Metric(
        "counter",
        "purge_failures_total",
        "Entries that could not be removed for good.",
        _one("errno", ERRNOS),
    ),
    Metric("gauge", "pending_deletes", "Deletes answered, and not carried out yet."),
    Metric("counter", "pending_answered_total", "Deletes answered before they were carried out."),
    Metric(
        "counter",
        "pending_failures_total",
        "Deletes that failed after they were answered: the name is there again.",
        _one("errno", ERRNOS),
    ),
    Metric(
        "counter",
        "pending_limit_reached_total",
        "Deletes that had to wait because too many were pending.",
    ),
    Metric("counter", "intents_total", "Trees of an `rm -rf` that went by one rename."),
    Metric("gauge", "jobs", "Jobs that are not over."),
    Metric(
        "counter",
        "jobs_ended_total",
        "Jobs that came to an end here, or got stuck.",
        _one("state", ["done", "kept", "cancelled", "stuck"]),
    ),
    Metric("counter", "workers_lost_total", "Workers that died or stalled, found by this one."),
    Metric(
        "counter",
        "purge_held_back_total",
        "Times that the throttle has made removal slower, or wait.",
        _one("reason", ["latency", "strays", "purge_queue", "rate", "window"]),
    ),
    Metric("gauge", "purge_batches_allowed", "Batches of removal that may be under way."),
    Metric("counter", "journal_records_total", "Lines written into journals."),
    Metric(
        "counter",
        "journal_dropped_total",
        "Records lost of what is in the trash; the data is not.",
    ),
    Metric(
        "counter",
        "audit_dropped_total",
        "Records lost of what was not kept, and of what became of what was.",
    ),
    Metric(
        "counter",
        "ancestors_dropped_total",
        "Directories lost of which a restore would need to know what they were like.",
    ),
    Metric(
        "counter",
        "event_limit_reached_total",
        "Times that there were too many delete events at once, so that one ended early.",
    ),
    Metric(
        "counter",
        "invalidations_total",
        "Invalidations sent to the kernel.",
        _one("kind", ["entry", "inode"]),
    ),
    Metric(
        "counter", "invalidations_dropped_total", "Invalidations beyond the limit of the queue."
    ),
    Metric("gauge", "nodes", "Inodes that the kernel knows."),
    Metric(
        "counter", "node_limit_reached_total", "Times that inodes were taken back from the kernel."
    ),
    Metric(
        "counter",
        "view_limit_reached_total",
        "Times that a view of the trash has met one of its limits.",
        _one("kind", ["names", "nodes", "restored"]),
    ),
    Metric("gauge", "handles", "Open files and directories."),
    Metric(
        "counter",
        "open_limit_reached_total",
        "Times that no more could be opened, because so much was open.",
        _one("kind", ["file", "dir"]),
    ),
    Metric(
        "counter",
        "background_failures_total",
        "Failed rounds of background loops.",
        _one("loop", LOOPS),
    ),
    Metric(
        "gauge",
        "background_last_success_timestamp_seconds",
        "When a background loop last did its work.",
        _one("loop", LOOPS),
    ),
    Metric("gauge", "build_info", "1; the version is the label.", (("version", ("",)),)),
)


class PrometheusMeter:
    """Fills the table; implements `cephfs_ext.core.ports.Meter`."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._allowed: dict[str, dict[str, frozenset[str]]] = {}
        self._children: dict[tuple[object, ...], Counter | Gauge | Histogram] = {}
        """By name and labels of the table, since Prometheus takes longer to find them."""
        self._metrics = {row.name: self._make(row) for row in TABLE}
        self._allowed["build_info"]["version"] = frozenset({version})
        self.set("build_info", 1, version=version)

    def _make(self, row: Metric) -> Counter | Gauge | Histogram:
        names = [label for label, _ in row.labels]
        arguments = ("cephfs_ext_" + row.name, row.help, names)
        metric: Counter | Gauge | Histogram
        if row.kind == "histogram":
            metric = Histogram(*arguments, buckets=_SECONDS, registry=self.registry)
        else:
            make = Counter if row.kind == "counter" else Gauge
            metric = make(*arguments, registry=self.registry)
        self._allowed[row.name] = {label: frozenset(values) for label, values in row.labels}
        if len(row.labels) == 1:
            for value in filter(None, row.labels[0][1]):
                metric.labels(value)
        return metric

    def _labelled(self, name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        metric = self._metrics[name]
        if not labels:
            return metric
        key = (name, *labels.items())
        child = self._children.get(key)
        if child is None:
            allowed = self._allowed[name]
            closed = {
                label: value if value in allowed[label] else "other"
                for label, value in labels.items()
            }
            child = metric.labels(**closed)
            if closed == labels:
                self._children[key] = child
        return child

    def count(self, metric: str, n: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        self._labelled(metric, labels).inc(n)  # type: ignore[union-attr]

    def observe(self, metric: str, seconds: float, /, **labels: str) -> None:
        """Add an observation to a histogram."""
        self._labelled(metric, labels).observe(seconds)  # type: ignore[union-attr]

    def set(self, metric: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        self._labelled(metric, labels).set(value)  # type: ignore[union-attr]

    def expose(self) -> tuple[bytes, str]:
        """Return the text format of Prometheus, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
