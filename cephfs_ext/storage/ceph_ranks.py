"""Which MDS rank has a directory's content: the subtrees that each rank says are its own.

A rename from a directory of one rank into one of another waits for both to journal, which took up
to 10 s on an idle cluster, where a rename within a rank takes less than a millisecond. So what is
deleted goes to a shard of the rank that it comes from. The map may be out of date for some
seconds, or missing where the key may not ask: then a rename is slow, and nothing else.

Source: `get subtrees` and `perf dump` of the MDS; the key needs `mds 'allow *'`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from typing import Any

import trio

from c_ext._libcephfs import ffi, lib
from cephfs_ext.core.errors import FSError, check
from cephfs_ext.core.ports import Load
from cephfs_ext.core.types import Rank

_log = logging.getLogger(__name__)

_FRESH_S = 5.0
_ANSWER_S = 1.0
"""How long a delete waits for a newer map, at most once in `_FRESH_S`."""


class RankMap:
    """The subtrees of a file system, asked for when they are needed."""

    def __init__(self, mount: Any, ranks: int) -> None:
        self._mount = mount
        self._ranks = ranks
        self._subtrees: dict[bytes, Rank] = {}
        self._asked = float("-inf")
        self._told = False
        self._told_of_load = False
        self._limiter = trio.CapacityLimiter(1)

    async def rank_of(self, path: bytes) -> Rank:
        """Return the rank that has a directory's content.

        Args:
            path: absolute in the file system.
        """
        if self._ranks > 1 and time.monotonic() - self._asked > _FRESH_S:
            self._asked = time.monotonic()
            with trio.move_on_after(_ANSWER_S):
                await trio.to_thread.run_sync(
                    self._refresh, limiter=self._limiter, abandon_on_cancel=True
                )
        return longest_prefix(self._subtrees, path)

    async def load(self, rank: Rank) -> Load | None:
        """Return what a rank has still to do; None where the key may not ask."""
        try:
            return parse_load(
                await trio.to_thread.run_sync(
                    lambda: _ask(self._mount, rank, "perf dump"),
                    limiter=self._limiter,
                    abandon_on_cancel=True,
                )
            )
        except (FSError, ValueError, KeyError, TypeError) as exc:
            if not self._told_of_load:
                _log.warning("what the ranks have still to do is not known: %s", exc)
            self._told_of_load = True
            return None

    def _refresh(self) -> None:
        """Ask every rank; blocks."""
        subtrees: dict[bytes, Rank] = {}
        try:
            for rank in range(self._ranks):
                subtrees.update(parse_subtrees(_ask(self._mount, rank, "get subtrees")))
        except (FSError, ValueError, KeyError, TypeError) as exc:
            if not self._told:
                _log.warning("the ranks' subtrees are not known: %s", exc)
            self._told = True
            return
        self._subtrees, self._told = subtrees, False


def longest_prefix(subtrees: dict[bytes, Rank], path: bytes) -> Rank:
    """Return the rank of the nearest subtree at or above a path; rank 0 if none is known."""
    path = path.rstrip(b"/")
    while path:
        if path in subtrees:
            return subtrees[path]
        path = path.rpartition(b"/")[0]
    return subtrees.get(b"", Rank(0))


def parse_subtrees(raw: bytes) -> Iterable[tuple[bytes, Rank]]:
    """Read the answer to `get subtrees`: paths of the rank's own subtrees, the root's is empty."""
    for subtree in json.loads(raw.decode("utf-8", "surrogateescape")):
        if subtree["is_auth"]:
            path = subtree["dir"]["path"].encode("utf-8", "surrogateescape")
            yield path.rstrip(b"/"), Rank(subtree["auth_first"])


def parse_load(raw: bytes) -> Load:
    """Read the answer to `perf dump`."""
    counters = json.loads(raw)
    strays, purging = counters["mds_cache"]["num_strays"], counters["purge_queue"]
    return Load(int(strays), int(purging["pq_item_in_journal"]))


def _ask(mount: Any, rank: int, command_name: str) -> bytes:
    request = json.dumps({"prefix": command_name, "format": "json"}).encode()
    words = [ffi.new("char[]", request)]
    command = ffi.new("const char *[]", words)
    out, out_size = ffi.new("char **"), ffi.new("size_t *")
    text, text_size = ffi.new("char **"), ffi.new("size_t *")
    spec = str(rank).encode()
    rc = lib.ceph_mds_command(mount, spec, command, 1, ffi.NULL, 0, out, out_size, text, text_size)
    answer = bytes(ffi.buffer(out[0], out_size[0])) if rc == 0 else b""
    for buffer in (out[0], text[0]):
        lib.ceph_buffer_free(buffer)
    check(rc, command_name)
    return answer
