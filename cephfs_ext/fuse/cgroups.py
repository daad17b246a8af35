"""Which container and which Kubernetes pod a process belongs to, told by its control group. Pure.

The lines of `/proc/<pid>/cgroup` are `<hierarchy>:<controllers>:<path>`, one alone in version 2.
Container runtimes put pod and container into the path, by two drivers:

    cgroupfs    /kubepods/burstable/pod<uid>/<container>
    systemd     /kubepods.slice/…/kubepods-burstable-pod<uid with _>.slice/cri-containerd-<id>.scope
    docker      /docker/<id>, /system.slice/docker-<id>.scope

Source: cgroups(7); Kubernetes' `pkg/kubelet/cm`, names of pod cgroups.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_POD = re.compile(
    rb"(?:/|-)pod([0-9a-f]{8}([-_])[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{12}"
    rb"|[0-9a-f]{32})(?=[/.:\n]|\Z)"
)
"""A static pod, which the kubelet reads from a file, has a hash for its uid."""

_CONTAINER = re.compile(rb"[/:-]([0-9a-f]{64})(?=\.scope|[/:\n]|\Z)")
_CONTAINER_SHOWN = 12


class Workload(NamedTuple):
    """What a process is a part of; empty where it is in none."""

    pod: str = ""
    """Uid of the pod."""
    container: str = ""
    """Id of the container, as `docker ps` shows it: the first 12 digits."""


def workload_of(cgroup: bytes) -> Workload:
    """Read the control groups of a process; the innermost pod and container count."""
    pods = _POD.findall(cgroup)
    containers = _CONTAINER.findall(cgroup)
    pod = pods[-1][0].replace(b"_", b"-").decode() if pods else ""
    container = containers[-1][:_CONTAINER_SHOWN].decode() if containers else ""
    return Workload(pod, container)
