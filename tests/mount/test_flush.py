"""Closing a file asks the gateway only where it has something to do then."""

from __future__ import annotations

from tests.gateway import Gateway

_CLOSES = 20


def _flushes(gateway: Gateway) -> float:
    return gateway.metric('fuse_op_duration_seconds_count{op="flush"}')


def test_close_asks_a_ceph_storage_at_most_once(gateway: Gateway):
    for number in range(_CLOSES):
        (gateway.path / f"file{number}").write_bytes(b"content")
    if gateway.source.startswith("ceph:"):  # with the lane never
        assert _flushes(gateway) <= 1
    else:
        assert _flushes(gateway) == _CLOSES
    assert (gateway.path / "file7").read_bytes() == b"content"
