"""What is taken for an MDS that has blocked itself."""

from __future__ import annotations

from tests.cluster.blocked import is_own_and_blocked

_OWN = "client_request(mds.0:52 rename #0x1000000086a/n2 #0x607/1000000087a caller_uid=0)"
_OF_A_CLIENT = "client_request(client.4235:528 create #0x1000000086a/n1 caller_uid=0)"


def test_own_requests_that_wait_long_are() -> None:
    assert is_own_and_blocked({"age": 60.6, "description": _OWN})


def test_others_and_younger_ones_are_not() -> None:
    assert not is_own_and_blocked({"age": 3.0, "description": _OWN})
    assert not is_own_and_blocked({"age": 60.6, "description": _OF_A_CLIENT})
