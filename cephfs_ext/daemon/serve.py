"""Runs a gateway: from the mount to the last flush.

Order of the start: storages, trash, mount, control server; then the mount answers. Order of the
end, which loses nothing: dirty pages of mapped files are written, the mount goes (at once if
nothing is open on it, else it is detached and open files are served until they are closed or the
grace time is over), open files are flushed, the journal is written, the storages are closed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from subprocess import PIPE

import msgspec
import pyfuse3
import trio

from cephfs_ext.control.state import (
    State,
    process_start_time,
    remove_state,
    write_state,
)
from cephfs_ext.core.config import Config, Source
from cephfs_ext.core.errors import FSError, UserError
from cephfs_ext.core.ports import Lane
from cephfs_ext.daemon import attach, detach, mounts
from cephfs_ext.daemon.loops import repeat, until_done
from cephfs_ext.daemon.wiring import (
    Gateway,
    Identity,
    build,
    new_identity,
    open_domains,
    open_storages,
    version,
)
from cephfs_ext.vfs.filesystem import FileSystem
from trashbin.recover import recover

_log = logging.getLogger(__name__)

_REQUESTS_AT_ONCE = 256
"""Tasks that pyfuse3 may have; the kernel queues what goes beyond."""

_GRACE_S = 30.0
"""How long open files are served after the mount was detached."""

_PRESSURE_S = 60.0
"""Longest pause between two looks at how full the storage is."""

_POLL_S = 0.05

_NODES_S = 1.0
"""How often is looked at how many inodes the lane has learned."""


async def serve(
    config: Config,
    source: Source,
    mountpoint: str,
    runtime: str,
    predecessor: State | None,
    ready: Callable[[], None],
) -> None:
    """Serve until a signal, an unmount or the control server ends it.

    Args:
        runtime: directory of the state and the sockets.
        predecessor: what a dead daemon at the same mountpoint left behind.
        ready: called once the mount answers.

    Raises:
        UserError: it can't be started; nothing is mounted.
    """
    identity = new_identity(predecessor)
    write_state(runtime, _state(source, mountpoint, identity, predecessor))
    try:
        await _serve(config, source, mountpoint, runtime, identity, ready)
    except (UserError, BaseExceptionGroup) as exc:
        error = _user_error(exc)
        if error is None:
            raise  # a bug; the state tells a successor what to bring to an end
        _take_back_state(runtime, predecessor)
        raise error from error.__cause__
    remove_state(runtime)


def _user_error(error: BaseException) -> UserError | None:
    """Return why a start failed, out of the groups that nurseries make; None for a bug."""
    if isinstance(error, UserError):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next(filter(None, map(_user_error, inner)), None)


async def _serve(
    config: Config,
    source: Source,
    mountpoint: str,
    runtime: str,
    identity: Identity,
    ready: Callable[[], None],
) -> None:
    stopping = trio.Event()
    async with (
        open_storages(config, source, identity) as storages,
        open_domains(config, *storages) as domains,
    ):
        gateway = build(
            config, source, mountpoint, runtime, identity, storages, domains, stopping.set
        )
        _mount(config, gateway, source, mountpoint)
        try:
            await _run(config, source, mountpoint, runtime, identity, gateway, stopping, ready)
        finally:
            with trio.CancelScope(shield=True):
                await _end(gateway, mountpoint)


async def _end(gateway: Gateway, mountpoint: str) -> None:
    """Flush what is open; the mount is gone already unless something went wrong."""
    pyfuse3.close(unmount=False)
    if gateway.lane is not None:
        await gateway.lane.stop()
    if await trio.to_thread.run_sync(mounts.is_stale, mountpoint):
        await trio.to_thread.run_sync(mounts.unmount_stale, mountpoint)
    await gateway.filesystem.close()
    try:
        await gateway.ancestors.drain()
        await gateway.journal.drain()
    except FSError as exc:
        _log.warning("the last delete records are lost, the data is not: %s", exc)


def _take_back_state(runtime: str, predecessor: State | None) -> None:
    """Leave the state as it was before a start that failed."""
    if predecessor is None:
        remove_state(runtime)
    else:
        write_state(runtime, predecessor)


def _state(source: Source, mountpoint: str, identity: Identity, predecessor: State | None) -> State:
    """Build the first state: it still names the predecessor's sessions, until they are gone."""
    return State(
        pid=os.getpid(),
        start_time=process_start_time(os.getpid()),
        source=str(source),
        mountpoint=os.path.abspath(mountpoint),
        instance=identity.instance,
        dead_instances=list(identity.dead_instances),
        uuids=[*identity.uuids, *(predecessor.uuids if predecessor else [])],
        version=version(),
    )


def _mount(config: Config, gateway: Gateway, source: Source, mountpoint: str) -> None:
    attached = attach.attach(config.mount, source, mountpoint)
    try:
        if gateway.lane is not None:
            attached = attach.serve_through(gateway.lane, attached)
        pyfuse3.init(gateway.operations, attached.mountpoint, attached.options)
    except UserError:
        attach.detach_failed(attached, mountpoint)
        raise
    except RuntimeError as exc:
        attach.detach_failed(attached, mountpoint)
        raise attach.denied(mountpoint, exc) from exc


async def _run(
    config: Config,
    source: Source,
    mountpoint: str,
    runtime: str,
    identity: Identity,
    gateway: Gateway,
    stopping: trio.Event,
    ready: Callable[[], None],
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve_kernel, nursery.cancel_scope)
        await nursery.start(gateway.control.run)
        device = await trio.to_thread.run_sync(_device_of, mountpoint)
        ahead_bytes = config.mount.read_ahead_bytes
        await trio.to_thread.run_sync(attach.set_read_ahead, device, ahead_bytes)
        state = _state(source, mountpoint, identity, None)
        state = msgspec.structs.replace(state, dev=device)
        write_state(runtime, state)

        def recovered() -> None:
            write_state(runtime, msgspec.structs.replace(state, dead_instances=[]))

        _start_loops(nursery, config, gateway, identity, recovered)
        nursery.start_soon(_stop_on_signal, stopping)
        nursery.start_soon(_unmount_when, stopping, mountpoint, gateway.filesystem)
        ready()


async def _end_with(lane: Lane) -> None:
    """End the session when the kernel has told the lane that the mount is gone."""
    await lane.ended()
    if lane.error:
        _log.error("nothing can be read from the kernel any more: %s", os.strerror(lane.error))
    pyfuse3.terminate()


async def _serve_kernel(scope: trio.CancelScope) -> None:
    """Answer requests until the mount is gone, then end everything else."""
    await pyfuse3.main(max_tasks=_REQUESTS_AT_ONCE)
    scope.cancel()


def _device_of(mountpoint: str) -> int:
    return os.stat(mountpoint).st_dev


def _start_loops(
    nursery: trio.Nursery,
    config: Config,
    gateway: Gateway,
    identity: Identity,
    recovered: Callable[[], None],
) -> None:
    meter = gateway.meter

    async def invalidate() -> None:
        await repeat("invalidate", gateway.invalidations.once, meter, interval_s=0)

    async def write_journal() -> None:
        await repeat("journal", gateway.journal.once, meter, interval_s=0)

    async def look_up() -> None:
        await repeat("ancestors", gateway.ancestors.once, meter, interval_s=0)

    async def recover_all() -> None:
        for domain in await gateway.background_domains.all():
            await recover(domain, identity.dead_instances)
        recovered()

    async def recover_then_expire() -> None:
        await until_done("recovery", recover_all, meter)
        interval_s = config.trash.expire_interval_s
        await repeat("expiry", gateway.expiry.once, meter, interval_s=interval_s)

    async def relieve() -> None:
        interval_s = min(config.trash.expire_interval_s, _PRESSURE_S)
        await repeat("pressure", gateway.pressure.once, meter, interval_s=interval_s)

    async def keep_registered() -> None:
        await repeat("peers", gateway.deleting.peers.once, meter, interval_s=0)

    async def carry_out_jobs() -> None:
        await repeat("jobs", gateway.deleting.worker.once, meter, interval_s=0)

    async def carry_out_pending() -> None:
        await repeat("pending", gateway.pending.once, meter, interval_s=0)

    async def take_over() -> None:
        await repeat("unlinks", gateway.filesystem.take_over, meter, interval_s=0)

    async def drop_journals() -> None:
        interval_s = config.trash.expire_interval_s
        await repeat("expiry", gateway.expiry.once_disabled, meter, interval_s=interval_s)

    async def limit_nodes() -> None:
        await repeat("nodes", look_at_nodes, meter, interval_s=_NODES_S)

    async def look_at_nodes() -> None:
        gateway.filesystem.limit_nodes()

    nursery.start_soon(gateway.health.run)
    if gateway.lane is not None:
        nursery.start_soon(limit_nodes)
        nursery.start_soon(_end_with, gateway.lane)
        nursery.start_soon(take_over)
    nursery.start_soon(invalidate)
    if config.trash.enabled and not config.mount.read_only:
        nursery.start_soon(write_journal)
        nursery.start_soon(look_up)
        nursery.start_soon(recover_then_expire)
        nursery.start_soon(relieve)
        nursery.start_soon(keep_registered)
        nursery.start_soon(carry_out_jobs)
        nursery.start_soon(carry_out_pending)
    elif config.trash.audit_s > 0 and not config.mount.read_only:
        nursery.start_soon(write_journal)
        nursery.start_soon(drop_journals)


async def _stop_on_signal(stopping: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for _ in signals:
            stopping.set()


async def _unmount_when(stopping: trio.Event, mountpoint: str, filesystem: FileSystem) -> None:
    """Unmount once asked to; the kernel ends the session, which ends everything."""
    await stopping.wait()
    _log.info("unmounting %s", mountpoint)
    try:
        detaching = await _start_detaching(mountpoint)
    except OSError as exc:
        _log.error("%s can't be unmounted: %s; use umount(8) as root", mountpoint, exc)
        await trio.sleep_forever()
    end = trio.current_time() + _GRACE_S
    await _until_closed(filesystem, end)
    await detaching.aclose()
    await trio.sleep_until(end)  # the kernel is faster, unless somebody's directory is there
    _log.warning("%s is still in use after %.0f s", mountpoint, _GRACE_S)
    pyfuse3.terminate()


async def _start_detaching(mountpoint: str) -> trio.abc.SendStream:
    """Have the mount taken away, see `daemon.detach`; what is returned is closed to let it go.

    Waits for ever where the session ends by itself, because nothing was open.
    """
    command = [sys.executable, "-P", "-m", detach.__name__, mountpoint]
    process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    if not await process.stdout.receive_some():
        said = (await process.stderr.receive_some()).decode(errors="replace").strip()
        if said:
            raise OSError(said)
        await trio.sleep_forever()
    return process.stdin


async def _until_closed(filesystem: FileSystem, end: float) -> None:
    """Wait until nothing but the root is open, which is held for us, but not for ever."""
    while trio.current_time() < end:
        if filesystem.open_handles <= 1:
            return
        await trio.sleep(_POLL_S)
