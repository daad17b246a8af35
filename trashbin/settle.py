"""Waiting no longer than needed for what other sessions have just done on the same storage.

On CephFS a session that looks at a file which another one has written a moment ago has that one
give its capabilities back, and then waits until the metadata server has journalled what that
changed. Nothing tells the server that somebody waits, so it does that with its next tick: up to
5 s later, and again for the next file. A listing of ten files that had just been written and
deleted took 45 s. While `settling`, servers are made to write their journals all the time.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cephfs_ext.core.errors import FSError
from trashbin.domain import Domain
from trashbin.tasks import beside

_log = logging.getLogger(__name__)

_PAUSE_S = 0.025
"""Between two times: what a wait takes. What ends sooner costs nothing."""


@asynccontextmanager
async def settling(domain: Domain) -> AsyncIterator[None]:
    """Have every metadata server that the trash is on write its journal while the body runs."""
    async with beside(lambda: _settle_often(domain)):
        yield


async def _settle_often(domain: Domain) -> None:
    one_of_each = {shard.key.rank: shard.node for shard in domain.shards()}
    try:
        while True:
            await trio.sleep(_PAUSE_S)
            for node in one_of_each.values():
                await domain.storage.settle(node)
    except FSError as exc:
        _log.warning("metadata servers can't be made to write their journals: %s", exc)
