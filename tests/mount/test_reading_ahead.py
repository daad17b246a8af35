"""How large the requests are with which the kernel reads a file in order."""

from __future__ import annotations

import os
from pathlib import Path

from tests.gateway import Gateway

_MIB = 1 << 20
_READS = 'fuse_op_duration_seconds_count{op="read"}'


def _ahead_kib(path: Path) -> int:
    device = os.stat(path).st_dev
    name = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    return int(Path(name).read_text())


def test_files_are_read_by_the_mebibyte(unmounted: Gateway) -> None:
    content = os.urandom(16 * _MIB)
    with unmounted.mounted():
        (unmounted.path / "f").write_bytes(content)
    with unmounted.mounted():
        assert _ahead_kib(unmounted.path) == 1024
        before = unmounted.metric(_READS)
        assert (unmounted.path / "f").read_bytes() == content
        assert unmounted.metric(_READS) - before <= 40


def test_how_far_ahead_can_be_set(unmounted: Gateway) -> None:
    with unmounted.mounted("-o", "read_ahead_bytes=4194304"):
        assert _ahead_kib(unmounted.path) == 4096
    with unmounted.mounted("-o", "read_ahead_bytes=0"):
        assert _ahead_kib(unmounted.path) == 128
