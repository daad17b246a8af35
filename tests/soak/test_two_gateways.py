"""Two gateways on one directory of a CephFS: their answers fit together, and nothing is lost.

[multi-client-7]. SOAK_S and SOAK_SEED choose how long, and what.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.ceph import CephCluster
from tests.gateway import Gateway, ceph_gateway
from tests.soak.rounds import Round

ROUND_S = 15.0
SOAK_S = float(os.environ.get("SOAK_S") or 300.0)
SEED = int(os.environ.get("SOAK_SEED") or 1)


@pytest.fixture
def gateways(cluster: CephCluster, base: Path) -> Iterator[dict[str, Gateway]]:
    """Mount one directory twice."""
    first = ceph_gateway(cluster, base / "A")
    second = Gateway(first.source, base / "B/mnt", base / "B/run", conf=cluster.conf)
    with contextlib.ExitStack() as stack:
        for gateway in (first, second):
            stack.enter_context(gateway.mounted())
        yield {"A": first, "B": second}


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """Let modes be what was asked for: directories are known by them."""
    umask = os.umask(0)
    yield
    os.umask(umask)


def test_answers_of_two_gateways_fit_together(
    cluster: CephCluster, gateways: dict[str, Gateway]
) -> None:
    _play(Round(cluster, gateways, "slice", SEED))


@pytest.mark.soak
def test_answers_of_two_gateways_fit_together_for_minutes(
    cluster: CephCluster, gateways: dict[str, Gateway]
) -> None:
    for number in range(math.ceil(SOAK_S / ROUND_S)):
        _play(Round(cluster, gateways, f"soak-{number}", SEED + 100 + number))


def _play(played: Round) -> None:
    report = played.play(ROUND_S)
    print(report)
    if report.problems:
        pytest.fail("\n".join(report.problems[:20]), pytrace=False)
