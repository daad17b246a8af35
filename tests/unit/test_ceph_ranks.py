"""Which MDS rank has a path: subtrees as the MDS says them, the nearest at or above counts."""

from __future__ import annotations

import json

import pytest

from cephfs_ext.core.types import Rank
from cephfs_ext.storage.ceph_ranks import longest_prefix, parse_subtrees

SUBTREES = {
    b"": Rank(0),
    b"/a": Rank(1),
    b"/a/b/c": Rank(0),
    b"/ab": Rank(2),
    b"/\xff": Rank(3),
}


@pytest.mark.parametrize(
    ("path", "rank"),
    [
        (b"", 0),
        (b"/", 0),
        (b"/x", 0),
        (b"/a", 1),
        (b"/a/", 1),
        (b"/a/b", 1),
        (b"/a/b/c", 0),
        (b"/a/b/c/d/e", 0),
        (b"/a/b/cd", 1),
        (b"/ab", 2),
        (b"/ab/x", 2),
        (b"/abc", 0),
        (b"/A", 0),
        (b"/\xff/x", 3),
    ],
)
def test_nearest_subtree_counts(path: bytes, rank: int) -> None:
    assert longest_prefix(SUBTREES, path) == rank


def test_without_subtrees_it_is_rank_0() -> None:
    assert longest_prefix({}, b"/a/b") == 0
    assert longest_prefix({}, b"") == 0
    assert longest_prefix({b"/a": Rank(1)}, b"/b") == 0


def answer(*subtrees: tuple[str, int, bool]) -> bytes:
    """Return what an MDS says: path, authority, whether it is this MDS."""
    return json.dumps(
        [
            {
                "is_auth": is_auth,
                "auth_first": rank,
                "auth_second": -2,
                "export_pin": -1,
                "dir": {"path": path, "dirfrag": "0x1"},
            }
            for path, rank, is_auth in subtrees
        ]
    ).encode()


def test_only_what_is_the_ranks_own_counts() -> None:
    raw = answer(("", 0, True), ("/b", 1, False), ("/c/d", 0, True), ("~mds0", 0, True))
    assert dict(parse_subtrees(raw)) == {b"": 0, b"/c/d": 0, b"~mds0": 0}


def test_no_subtree() -> None:
    assert dict(parse_subtrees(b"[]")) == {}


def test_path_with_a_slash_at_the_end_is_the_same() -> None:
    assert dict(parse_subtrees(answer(("/b/", 1, True)))) == {b"/b": 1}


def test_path_of_any_characters() -> None:
    assert dict(parse_subtrees(answer(("/ä b", 1, True)))) == {"/ä b".encode(): 1}


def test_path_that_is_no_utf8() -> None:
    """The MDS writes the bytes as they are."""
    raw = answer(("/x", 1, True)).replace(b"/x", b"/\xff\xfe")
    assert dict(parse_subtrees(raw)) == {b"/\xff\xfe": 1}


@pytest.mark.parametrize("raw", [b"", b"{", b"[{}]", b"[1]", b"1", b'[{"is_auth": true}]'])
def test_answer_that_makes_no_sense_is_an_error_that_is_expected(raw: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        dict(parse_subtrees(raw))
