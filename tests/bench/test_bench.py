"""A tiny slice of the benchmarks, as `make bench` runs them: no figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bench.metadata
import bench.programs
import bench.throughput  # noqa: F401  (each registers its workloads)
from bench.workload import WORKLOADS
from tests.cluster.ceph import CephCluster

_CHECKOUT = Path(__file__).resolve().parents[2]
_SLICE = "create,stat_cold,unlink,replace,readdir_warm,rm_rf,write_1g"
_PEERS = {"ceph": ["gateway", "ceph-fuse"], "posix": ["gateway", "local", "bindfs"]}


def _bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *words]
    return subprocess.run(command, cwd=_CHECKOUT, capture_output=True, text=True, timeout=200)


def test_a_small_run_prints_ratios_and_writes_every_sample(cluster: CephCluster, base: Path):
    file = base / "result.json"
    done = _bench("--size", "small", "--rounds", "1", "--only", _SLICE, "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    for heading in ("ceph: gateway / peer", "posix: gateway / peer", "/ ceph-fuse", "/ bindfs"):
        assert heading in done.stdout
    document = json.loads(file.read_text())
    assert document["versions"]["ceph-fuse"]
    assert document["machine"]["kernel"]
    assert "client_acl_type=posix_acl" in document["options"]["ceph"]["ceph-fuse"]
    for storage, peers in _PEERS.items():
        results = [result for result in document["results"] if result["storage"] == storage]
        assert sorted(result["workload"] for result in results) == sorted(_SLICE.split(","))
        for result in results:
            assert not result["failure"]
            assert list(result["samples"]) == peers
            for peer in peers:
                (sample,) = result["samples"][peer]
                assert sample["seconds"] > 0
                assert sample["units"] > 0
            assert all(ratio > 0 for ratio in result["ratio"].values())


def test_an_unknown_workload_is_refused_with_the_nearest_name():
    done = _bench("--only", "unlnk")
    assert done.returncode == 2
    assert "did you mean unlink?" in done.stderr


def test_list_names_every_workload():
    done = _bench("--list")
    assert done.returncode == 0
    for name in ("create", "git_status", "read_1g"):
        assert name in done.stdout


def test_the_document_has_the_workloads_as_they_are():
    text = (_CHECKOUT / "docs/benchmarks.md").read_text().split("\n## Workloads", 1)[1]
    rows = [line for line in text.split("\n## ", 1)[0].splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{name}` | {workload.about} | {workload.unit} | {workload.cache.value} |"
        for name, workload in WORKLOADS.items()
    ]
