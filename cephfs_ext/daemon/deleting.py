"""Puts together what removes trees in the background, of a gateway and of `cephfs-ext worker`."""

from __future__ import annotations

import dataclasses
import os
import secrets

from asyncdelete.give_back import Giving
from asyncdelete.jobs import Job
from asyncdelete.peers import GATEWAY_LEASE_S, WORKER_LEASE_S, About, Peers
from asyncdelete.rights import RightsOf
from asyncdelete.service import Jobs
from asyncdelete.task import Tools
from asyncdelete.throttle import Throttle
from asyncdelete.walk import Walk
from asyncdelete.worker import Worker
from cephfs_ext.core.clock import MonotonicNs
from cephfs_ext.core.config import Config
from cephfs_ext.core.ports import Meter, Storage
from trashbin.audit import Audit
from trashbin.domain import Domain
from trashbin.domains import Domains
from trashbin.spare import Spare


@dataclasses.dataclass(frozen=True, slots=True)
class Deleting:
    """What removes trees."""

    peers: Peers
    worker: Worker
    jobs: Jobs


def build_deleting(
    config: Config,
    storage: Storage,
    domains: Domains,
    audit: Audit,
    meter: Meter,
    *,
    instance: str,
    clock: MonotonicNs,
    users: Storage | None = None,
) -> Deleting:
    """Build a worker.

    Args:
        storage: the session for background work, to which `domains` belong.
        instance: 4 hex digits, in the ids of jobs.
        users: the session of users, where it belongs to a gateway.
    """
    host = os.uname().nodename
    name = instance + secrets.token_hex(4)  # those of two workers must never be the same
    sessions = (*storage.sessions, *(() if users is None else users.sessions))
    about = About(host=host, pid=os.getpid(), sessions=sessions)
    lease_s = WORKER_LEASE_S if users is None else GATEWAY_LEASE_S
    peers = Peers(storage, domains, meter, about, name=name, lease_s=lease_s)

    throttle = Throttle(
        meter,
        in_flight=config.asyncdelete.in_flight,
        latency_factor=config.asyncdelete.latency_factor,
        max_rate=config.asyncdelete.max_rate,
        window=config.asyncdelete.window,
        pulse=storage if storage.kind == "ceph" else None,
    )

    def new_walk(domain: Domain, job: Job) -> Walk:
        rights = RightsOf(storage, job.cred) if job.is_checked else None
        spare = Spare(domain)
        return Walk(storage, meter, spare, throttle=throttle, owner=job.uid, rights=rights)

    giving = Giving(audit, instance=instance, clock=clock)
    tools = Tools(peers, new_walk, giving, meter, name, host)
    worker = Worker(
        domains, tools, instance=instance, clock=clock, kept_s=config.asyncdelete.jobs_kept_s
    )
    return Deleting(peers, worker, Jobs(domains, worker))
