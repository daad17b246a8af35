"""Runs a worker without a mount: one session, the jobs of all domains, metrics if wanted."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable

import trio
from prometheus_client import start_http_server

from asyncdelete.worker import Worker
from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.config import Config, Source
from cephfs_ext.core.errors import ExitCode, FSError, UserError
from cephfs_ext.daemon.deleting import build_deleting
from cephfs_ext.daemon.loops import repeat
from cephfs_ext.daemon.wiring import (
    build_audit,
    connect,
    new_identity,
    open_background_domains,
    version,
)
from cephfs_ext.observe.logs import setup_logging
from cephfs_ext.observe.metrics import PrometheusMeter
from trashbin.ancestors import Ancestors
from trashbin.journal import Journal

Step = Callable[[], Awaitable[None]]

_log = logging.getLogger(__name__)


def run_worker(config: Config, source: Source, *, until_idle: bool) -> None:
    """Remove what is claimed, in the foreground, until a signal ends it.

    Args:
        until_idle: end when nothing is left to do.

    Raises:
        UserError: the source can't be used.
    """
    setup_logging(config.log)
    trio.run(_run, config, source, until_idle)


async def _run(config: Config, source: Source, until_idle: bool) -> None:
    identity, meter, clock = new_identity(None), PrometheusMeter(version()), MonotonicNs()
    _listen(config.control.metrics_listen, meter)
    storage = await connect(config, source, identity, background=True)
    try:
        async with open_background_domains(config, storage) as domains:
            journal = Journal(domains, storage, identity.instance, meter)
            ancestors = Ancestors(storage, journal, meter)  # it deletes nothing
            root = storage.root.ino
            audit = build_audit(config, journal, ancestors, root, meter, identity, clock)
            deleting = build_deleting(
                config, storage, domains, audit, meter, instance=identity.instance, clock=clock
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_on_signal, nursery.cancel_scope)
                nursery.start_soon(_repeat, "peers", deleting.peers.once, meter)
                nursery.start_soon(_repeat, "journal", journal.once, meter)
                if until_idle:
                    await _until_idle(deleting.worker)
                    nursery.cancel_scope.cancel()
                else:
                    nursery.start_soon(_repeat, "jobs", deleting.worker.once, meter)
            with trio.CancelScope(shield=True), contextlib.suppress(FSError):
                await journal.drain()
    finally:
        with trio.CancelScope(shield=True):
            await storage.close()


def _listen(address: str, meter: PrometheusMeter) -> None:
    """Serve metrics, if there is an address for that."""
    if not address:
        return
    host, _, port = address.rpartition(":")
    try:
        start_http_server(int(port), host or "0.0.0.0", registry=meter.registry)
    except (OSError, ValueError) as exc:
        raise UserError(
            f"control.metrics_listen = {address!r}: {exc}; write HOST:PORT", ExitCode.USAGE
        ) from exc


async def _repeat(name: str, step: Step, meter: PrometheusMeter) -> None:
    await repeat(name, step, meter, interval_s=0)


async def _until_idle(worker: Worker) -> None:
    worker.wake()
    await worker.once()
    while worker.left:
        await worker.once()


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            _log.info("ending: what is not removed yet is left to others")
            scope.cancel()
