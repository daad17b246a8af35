"""`python -m tests.cluster up|down|status`."""

from __future__ import annotations

import json
import sys

from tests.cluster.ceph import CephCluster, ClusterError


def main(arguments: list[str]) -> int:
    """Carry out one command."""
    cluster = CephCluster()
    try:
        match arguments:
            case ["up"]:
                cluster.up(say=print)
            case ["down"]:
                cluster.down(say=print)
            case ["status"]:
                for line in cluster.describe():
                    print(line)
            case ["status", "--json"]:
                print(json.dumps(cluster.status()))
            case _:
                print("usage: python -m tests.cluster up|down|status [--json]", file=sys.stderr)
                return 2
    except ClusterError as exc:
        print(f"cluster: error: {exc}", file=sys.stderr)
        return 1
    return 0


sys.exit(main(sys.argv[1:]))
