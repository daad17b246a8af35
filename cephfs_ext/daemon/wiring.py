"""Puts a gateway together: the only place that names concrete classes.

Everything is complete when it has been built; nothing is assigned afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import metadata

from asyncdelete.bulk import Bulk
from asyncdelete.discard import Discard
from asyncdelete.pending import Pending
from cephfs_ext.control.server import ControlServer
from cephfs_ext.control.service import Status
from cephfs_ext.control.state import State
from cephfs_ext.core import mountinfo
from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.config import Config, PolicyRule, Source
from cephfs_ext.core.errors import DeniedError, ExitCode, FSError, UserError
from cephfs_ext.core.ports import Lane, Storage
from cephfs_ext.core.types import Ino
from cephfs_ext.daemon import attach
from cephfs_ext.daemon.answers import Answers
from cephfs_ext.daemon.deleting import Deleting, build_deleting
from cephfs_ext.daemon.health import Health
from cephfs_ext.daemon.job_answers import JobAnswers
from cephfs_ext.fuse.callers import Callers
from cephfs_ext.fuse.invalidations import Invalidations
from cephfs_ext.fuse.operations import Operations
from cephfs_ext.observe.metrics import PrometheusMeter
from cephfs_ext.storage.posix import PosixStorage
from cephfs_ext.vfs.brake import Brake
from cephfs_ext.vfs.bulk import BulkDeletes, KnownDirectories
from cephfs_ext.vfs.deletes import Deletes
from cephfs_ext.vfs.discards import Discards
from cephfs_ext.vfs.explain import Explanations
from cephfs_ext.vfs.filesystem import FileSystem
from cephfs_ext.vfs.handles import DirStreams, OpenFiles
from cephfs_ext.vfs.intents import Intents
from cephfs_ext.vfs.lane_nodes import LaneNodes
from cephfs_ext.vfs.marks import Marks
from cephfs_ext.vfs.nodes import NodeTable
from cephfs_ext.vfs.requests import Requests
from cephfs_ext.vfs.seen import Seen
from cephfs_ext.vfs.truncations import Truncations
from cephfs_ext.vfs.view import View
from trashbin.ancestors import Ancestors
from trashbin.audit import Audit
from trashbin.domain import TrashUnusableError, unusable
from trashbin.domains import Domains
from trashbin.event_ids import EventIds
from trashbin.expire import Expiry, Remover
from trashbin.journal import Journal
from trashbin.picture import Pictures
from trashbin.policy import DEFAULT_RULES, names_exempted, terms
from trashbin.pressure import Pressure, Watermarks
from trashbin.put import Put
from trashbin.restore import Restore
from trashbin.service import TrashService
from trashbin.trail import Trail


def version() -> str:
    """Return the version of the installed package."""
    return metadata.version("cephfs-ext")


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who this run of the gateway is, and whose place it takes."""

    instance: str
    """4 hex digits, in the name of everything that this run deletes."""
    uuids: tuple[str, str]
    """Names of the storage sessions: that of users, that of background work."""
    dead_instances: tuple[str, ...]
    dead_uuids: tuple[str, ...]


def new_identity(predecessor: State | None) -> Identity:
    """Choose an identity that differs from the predecessor's."""
    dead: tuple[str, ...] = ()
    if predecessor is not None:
        dead = (predecessor.instance, *predecessor.dead_instances)
    instance = secrets.token_hex(2)
    while instance in dead:
        instance = secrets.token_hex(2)
    unique = secrets.token_hex(8)
    uuids = (f"cephfs-ext-{unique}-users", f"cephfs-ext-{unique}-background")
    return Identity(instance, uuids, dead, tuple(predecessor.uuids) if predecessor else ())


@dataclasses.dataclass(frozen=True)
class Gateway:
    """Everything that runs."""

    operations: Operations
    filesystem: FileSystem
    control: ControlServer
    health: Health
    journal: Journal
    ancestors: Ancestors
    expiry: Expiry
    pressure: Pressure
    pending: Pending
    invalidations: Invalidations
    deleting: Deleting
    background_domains: Domains
    meter: PrometheusMeter
    lane: Lane | None


@contextlib.asynccontextmanager
async def open_storages(
    config: Config, source: Source, identity: Identity
) -> AsyncIterator[tuple[Storage, Storage]]:
    """Open the session of users and that of background work, and close both in the end.

    Raises:
        UserError: the source can't be served.
    """
    users = await connect(config, source, identity, background=False)
    try:
        if not (await users.getattr(users.root)).is_dir:
            raise UserError(f"{source} is not a directory; name one", ExitCode.USAGE)
        background = await connect(config, source, identity, background=True)
        try:
            yield users, background
        finally:
            await background.close()
    finally:
        await users.close()


async def connect(
    config: Config, source: Source, identity: Identity, *, background: bool
) -> Storage:
    """Open one session.

    Raises:
        UserError: the source can't be served.
    """
    if source.kind == "posix":
        return await PosixStorage.connect(source.path, background=background)
    try:
        from cephfs_ext.storage.ceph import CephStorage
    except ImportError as exc:
        raise UserError(
            f"ceph storage is not installed ({exc}); install libcephfs-dev, python3-rados and "
            "build cephfs-ext again",
            ExitCode.OTHER,
        ) from exc
    return await CephStorage.connect(
        config.ceph,
        source.path,
        uuid=identity.uuids[background],
        predecessors=() if background else identity.dead_uuids,
        background=background,
    )


@contextlib.asynccontextmanager
async def open_domains(
    config: Config, users: Storage, background: Storage
) -> AsyncIterator[tuple[Domains, Domains]]:
    """Open the trash through both sessions, set up if it is missing.

    Raises:
        UserError: the trash at the root is not ours to use.
    """
    wanted = config.trash.enabled and not config.mount.read_only
    relief = background if background.kind == "ceph" else None
    async with (
        _domains(config, background, wanted=wanted) as mine,
        _domains(config, users, wanted=wanted, relief=relief) as theirs,
    ):
        yield theirs, mine


def open_background_domains(
    config: Config, background: Storage
) -> contextlib.AbstractAsyncContextManager[Domains]:
    """Open the trash through the session for background work only; as `open_domains`."""
    return _domains(config, background, wanted=True)


@contextlib.asynccontextmanager
async def _domains(
    config: Config, storage: Storage, *, wanted: bool, relief: Storage | None = None
) -> AsyncIterator[Domains]:
    domains = Domains(
        storage,
        owner_uid=0 if storage.kind == "ceph" else os.geteuid(),
        shards_per_rank=config.trash.shards,
        terms=terms(_rules(config)),
        relief=relief,
    )
    try:
        if wanted:
            await _open_root(domains)
        yield domains
    finally:
        domains.close()


async def _open_root(domains: Domains) -> None:
    try:
        await domains.root()
    except TrashUnusableError as exc:
        raise unusable(exc, "the trash can't be used") from exc
    except FSError as exc:
        denied = isinstance(exc, DeniedError) or exc.errno == errno.EROFS
        raise UserError(
            f"the trash can't be set up: {exc}; make the source writable and leave it some room, "
            "or mount with -o ro or -o trash.enabled=false",
            ExitCode.DENIED if denied else ExitCode.OTHER,
        ) from exc


def build(
    config: Config,
    source: Source,
    mountpoint: str,
    runtime: str,
    identity: Identity,
    storages: tuple[Storage, Storage],
    domains: tuple[Domains, Domains],
    stop: Callable[[], None],
) -> Gateway:
    """Build a gateway over open storages."""
    users, background = storages
    meter = PrometheusMeter(version())
    clock = MonotonicNs()
    journal = Journal(domains[1], background, identity.instance, meter)
    lane = _lane(config, users)
    nodes = NodeTable(users) if lane is None else LaneNodes(users, lane)
    ancestors = Ancestors(users, journal, meter)
    audit = build_audit(config, journal, ancestors, users.root.ino, meter, identity, clock)
    put = Put(users, audit, meter, instance=identity.instance, clock=clock)
    marks = Marks(users, nodes, lane)
    brake = Brake(meter, per_minute=config.trash.foreign_deletes_per_minute)
    deletes = Deletes(
        users,
        nodes,
        domains[0],
        put,
        audit,
        marks,
        brake,
        meter,
        rules=_rules(config),
        enabled=config.trash.enabled,
        shadow=config.trash.mode == "shadow",
        deletes_when_full=config.trash.when_full == "delete",
    )
    files, requests = OpenFiles(lane), Requests()
    truncations = Truncations(
        users,
        nodes,
        files,
        requests,
        deletes,
        min_bytes=config.trash.truncated_min_bytes,
    )
    invalidations = Invalidations(meter, lane)
    deleting = build_deleting(
        config,
        background,
        domains[1],
        audit,
        meter,
        instance=identity.instance,
        clock=clock,
        users=users,
    )
    expiry = _expiry(config, domains[1], deleting.worker, meter, audit, identity, clock)
    pressure = Pressure(
        domains[1],
        expiry,
        meter,
        Watermarks(
            config.trash.high_watermark,
            min(config.trash.low_watermark, config.trash.high_watermark),
            config.trash.guaranteed_s,
        ),
        retention_s=config.trash.retention_s,
    )

    def forget(parent: Ino, name: bytes, inos: Sequence[Ino]) -> None:
        known = [node_id for ino in inos if (node_id := nodes.unhide_links(ino)) is not None]
        invalidations.inodes([*known, nodes.id_of(parent)])
        invalidations.entry(nodes.id_of(parent), name)

    service = TrashService(
        background,
        domains[1],
        Restore(background, instance=identity.instance, clock=clock),
        expiry,
        Put(background, audit, meter, instance=identity.instance, clock=clock),
        journal,
        ancestors,
        audit,
        meter,
        forget,
        event_gap_s=config.trash.event_gap_s,
        held_max=config.trash.held_max,
    )

    discard = Discard(
        users, domains[1], deleting.worker.wake, instance=identity.instance, clock=clock
    )
    view = View(
        users,
        nodes,
        Pictures(domains[0], domains[1], journal, meter),
        service.restore_as,
        deletes.acl,
        invalidations.entry,
        meter,
        is_there=config.trash.enabled and not config.mount.read_only,
    )
    pins = KnownDirectories(nodes)
    pending = Pending(
        pins,
        meter,
        limit=config.asyncdelete.pending_max,
        in_flight=config.asyncdelete.pending_in_flight,
    )
    listed, callers, place = DirStreams(lane), Callers(), mountinfo.mountpoint_of(mountpoint)
    bulk = _bulk(
        config, users, nodes, files, listed, deletes, pending, pins, lane, meter, invalidations
    )
    filesystem = FileSystem(
        users,
        nodes,
        files,
        listed,
        deletes,
        bulk,
        Intents(
            users,
            nodes,
            deletes,
            bulk,
            meter,
            callers.rm,
            lambda: _device_at(place),
            invalidations.entry,
            is_on=config.asyncdelete.recognise_rm and not config.mount.read_only,
        ),
        truncations,
        marks,
        view,
        Discards(users, nodes, deletes, discard),
        meter,
        invalidations.entry,
        second=background if background.kind == "ceph" else None,
        lane=lane,
        read_only=config.mount.read_only,
    )

    def metrics() -> tuple[bytes, str]:
        meter.set("nodes", len(nodes) + len(view))
        meter.set("handles", filesystem.open_handles)
        meter.set("pending_deletes", filesystem.pending)
        if lane is not None:
            _count_lane(meter, lane)
        return meter.expose()

    health = Health({"storage": users, "background_storage": background})
    answers = Answers(
        service,
        pressure,
        Trail(domains[1], journal, expiry),
        filesystem,
        Explanations(users, nodes, deletes, marks),
        brake,
        users,
        background,
        health,
        metrics,
        stop,
        _about(config, source, mountpoint, identity),
    )
    operations = Operations(
        filesystem,
        callers,
        requests,
        meter,
        entry_timeout_s=config.mount.entry_timeout_s,
        attr_timeout_s=config.mount.attr_timeout_s,
    )
    control = ControlServer(
        answers,
        JobAnswers(deleting.jobs, read_only=config.mount.read_only),
        runtime,
        metrics_listen=config.control.metrics_listen,
    )
    return Gateway(
        operations,
        filesystem,
        control,
        health,
        journal,
        ancestors,
        expiry,
        pressure,
        pending,
        invalidations,
        deleting,
        domains[1],
        meter,
        lane,
    )


def _count_lane(meter: PrometheusMeter, lane: Lane) -> None:
    for cost in lane.costs():
        meter.count("lane_answered_total", cost.answered, op=cost.op)
        meter.count("lane_passed_total", cost.passed, op=cost.op)
        meter.count("lane_seconds_total", cost.seconds, op=cost.op)
    for direction, count in zip(("read", "write"), lane.data(), strict=True):
        meter.count("io_bytes_total", count, direction=direction)
    waiting, refused = lane.locks()
    meter.set("lane_locks_waiting", waiting)
    meter.count("lane_locks_refused_total", refused)


def _lane(config: Config, users: Storage) -> Lane | None:
    """Make what answers the kernel without Python, if it is wanted and can be had."""
    mount = config.mount
    if mount.lane == "off":
        return None
    lane = None
    if attach.may_mount():
        timeouts = {
            "entry_timeout_s": mount.entry_timeout_s,
            "attr_timeout_s": mount.attr_timeout_s,
        }
        lane = users.lane(**timeouts)
    if lane is None and mount.lane == "on":
        raise UserError(
            f"there is no lane for {users.kind} storage, or without CAP_SYS_ADMIN; mount with "
            "-o lane=auto, or as root"
        )
    if lane is not None and config.asyncdelete.recognise_rm:
        lane.pass_opendir()  # a tree that was taken away lists empty
    if lane is not None:
        lane.exempt(names_exempted(_rules(config)))
    if lane is not None and mount.read_only:
        lane.pass_changes(on=True)
    return lane


def _device_at(place: str) -> int | None:
    mount = mountinfo.mount_at(place)
    return None if mount is None else mount.device


def _bulk(
    config: Config,
    users: Storage,
    nodes: NodeTable,
    files: OpenFiles,
    listed: DirStreams,
    deletes: Deletes,
    pending: Pending,
    pins: KnownDirectories,
    lane: Lane | None,
    meter: PrometheusMeter,
    invalidations: Invalidations,
) -> BulkDeletes:
    fresh_s = min(config.mount.entry_timeout_s, config.mount.attr_timeout_s)
    return BulkDeletes(
        users,
        nodes,
        files,
        listed,
        Seen(fresh_s=fresh_s, lane=lane),
        deletes,
        pending,
        Bulk(after=config.asyncdelete.pending_after),
        pins,
        lane,
        meter,
        invalidations.entry,
        is_on=config.asyncdelete.pending and config.trash.enabled,
        fresh_s=fresh_s,
    )


def _rules(config: Config) -> tuple[PolicyRule, ...]:
    return (*config.trash.policy, *(DEFAULT_RULES if config.trash.default_policy else ()))


def build_audit(
    config: Config,
    journal: Journal,
    ancestors: Ancestors,
    root: Ino,
    meter: PrometheusMeter,
    identity: Identity,
    clock: MonotonicNs,
) -> Audit:
    """Build what writes the journal of one running gateway or worker."""
    gap_s, instance = config.trash.event_gap_s, identity.instance
    return Audit(
        journal,
        EventIds(meter, instance=instance, clock=clock, gap_s=gap_s),
        ancestors,
        root=root,
        host=os.uname().nodename,
        instance=instance,
        clock=clock,
        wanted=config.trash.audit_s > 0 and not config.mount.read_only,
    )


def _expiry(
    config: Config,
    domains: Domains,
    remover: Remover,
    meter: PrometheusMeter,
    audit: Audit,
    identity: Identity,
    clock: MonotonicNs,
) -> Expiry:
    return Expiry(
        domains,
        remover,
        meter,
        audit,
        retention_s=config.trash.retention_s,
        audit_s=config.trash.audit_s,
        instance=identity.instance,
        clock=clock,
    )


def _about(config: Config, source: Source, mountpoint: str, identity: Identity) -> Status:
    return Status(
        version=version(),
        source=str(source),
        mountpoint=mountpoint,
        pid=os.getpid(),
        instance=identity.instance,
        uptime_s=0.0,
        read_only=config.mount.read_only,
        trash_enabled=config.trash.enabled,
        retention_s=config.trash.retention_s,
        storage={},
        background_storage={},
        nodes=0,
        handles=0,
    )
