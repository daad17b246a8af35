"""Long requests: whoever has made one can ask how far it is, and have it stopped.

A request that says a token in the header `Request-Token` is listed under it while it lasts. The
token is chosen by who asks, and known to nobody else. No more requests are listed than users may
have connections (`cephfs_ext.control.peers`).

Concurrency: within the event loop; every method is atomic.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from cephfs_ext.control.service import Caller
from cephfs_ext.core.errors import ExistsError, ExitCode, NotFoundError, UserError
from trashbin.progress import Progress

HEADER = "Request-Token"

_TOKEN = re.compile(r"[0-9a-f]{16,64}")


class _Request(NamedTuple):
    caller: Caller
    progress: Progress


class UnderWay:
    """The long requests of a server."""

    def __init__(self) -> None:
        self._requests: dict[str, _Request] = {}

    @contextlib.contextmanager
    def listed(self, token: str | None, caller: Caller) -> Iterator[Progress]:
        """List a request while the body runs; one without a token isn't.

        Raises:
            UserError: the token is none.
            ExistsError: another request has it.
        """
        progress = Progress()
        if token is None:
            yield progress
            return
        if _TOKEN.fullmatch(token) is None:
            raise UserError(f"{HEADER} has 16 to 64 hexadecimal digits", ExitCode.USAGE)
        if token in self._requests:
            raise ExistsError(what="another request has this token")
        self._requests[token] = _Request(caller, progress)
        try:
            yield progress
        finally:
            del self._requests[token]

    def of(self, token: str, caller: Caller) -> Progress:
        """Return how far a request is.

        Raises:
            NotFoundError: there is none, or it is somebody else's.
        """
        request = self._requests.get(token)
        is_mine = request is not None and request.caller.cred.uid == caller.cred.uid
        if request is None or not (is_mine or caller.everything):
            raise NotFoundError(what="no such request is under way")
        return request.progress
