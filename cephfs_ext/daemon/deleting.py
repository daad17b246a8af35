"""Puts together what removes trees in the background, of a gateway and of `cephfs-ext worker`."""

from __future__ import annotations

import dataclasses
import os
import secrets

from asyncdelete.give_back import Giving
from asyncdelete.jobs import Job
from asyncdelete.peers import About, Peers
from asyncdelete.service import Jobs
from asyncdelete.task import Tools
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
) -> Deleting:
    """Build a worker.

    Args:
        storage: the session for background work, to which `domains` belong.
        instance: 4 hex digits, in the ids of jobs.
    """
    host = os.uname().nodename
    name = instance + secrets.token_hex(4)  # those of two workers must never be the same
    about = About(host=host, pid=os.getpid(), sessions=tuple(storage.sessions))
    peers = Peers(storage, domains, meter, about, name=name)

    def new_walk(domain: Domain, job: Job) -> Walk:
        del job
        return Walk(storage, meter, Spare(domain))

    giving = Giving(audit, instance=instance, clock=clock)
    tools = Tools(peers, new_walk, giving, meter, name, host)
    worker = Worker(
        domains, tools, instance=instance, clock=clock, kept_s=config.asyncdelete.jobs_kept_s
    )
    return Deleting(peers, worker, Jobs(domains, worker))
