"""What a workload costs inside: FUSE requests, time in handlers, requests to the MDS.

The requests come from the gateway's own metrics, those to the MDS from the daemons' counters; the
latter count all clients of the cluster, so they mean something only while nobody else works on it.
"""

from __future__ import annotations

import json
import re
import socket
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from bench.peers import GatewayPeer, Peer
from tests.cluster.ceph import CephCluster

_OP = re.compile(r'cephfs_ext_fuse_op_duration_seconds_(count|sum)\{op="(\w+)"\} (\S+)')
_REQUEST = re.compile(r"req_(\w+)_latency")


class Counters:
    """Totals at one moment, by name; the difference of two is what happened between them."""

    def __init__(self, peer: Peer, cluster: CephCluster | None) -> None:
        self._peer = peer
        self._cluster = cluster

    def read(self) -> Counter[str]:
        """Read all counters: `fuse.OP`, `fuse_seconds.OP`, `mds.REQUEST`."""
        totals: Counter[str] = Counter()
        if isinstance(self._peer, GatewayPeer):
            totals.update(_fuse_counters(self._peer.gateway.directory / "control.sock"))
        if self._cluster is not None:
            for path in sorted((self._cluster.directory / "run").glob("mds.*.asok")):
                totals.update(_mds_counters(path))
        return totals


def _fuse_counters(control: Path) -> dict[str, Any]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(control))) as client:
        text = client.get("http://gateway/metrics").text
    groups = {"count": "fuse", "sum": "fuse_seconds"}
    return {f"{groups[kind]}.{op}": float(value) for kind, op, value in _OP.findall(text)}


def _mds_counters(path: Path) -> dict[str, Any]:
    answer = _ask(path, {"prefix": "perf dump"})
    return {
        f"mds.{match[1]}": value["avgcount"]
        for name, value in answer.get("mds_server", {}).items()
        if (match := _REQUEST.fullmatch(name)) is not None
    }


def _ask(path: Path, command: dict[str, str]) -> Any:
    """Carry out a command on an admin socket of Ceph.

    It takes JSON with a zero behind it, and answers with a length and JSON.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(json.dumps(command).encode() + b"\0")
        with connection.makefile("rb") as stream:
            (length,) = struct.unpack(">I", stream.read(4))
            return json.loads(stream.read(length))
