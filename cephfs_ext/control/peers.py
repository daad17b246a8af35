"""Connections of peers that can't be trusted to read or to end.

A server that sends waits for its peer to read. Here it waits for some time only, also when it is
shielded from cancellation: each send has a deadline, and at the end of the daemon what is still
sending is cut off after a moment.

Concurrency: everything runs in the event loop; a `Peer` is used by the tasks of one connection.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Hashable, Iterator

import trio

_log = logging.getLogger(__name__)

_SEND_S = 30.0
"""How long a peer may take to read one answer."""

_END_S = 1.0
"""How long answers under way may take when the daemon ends."""

_CONNECTIONS = 64
"""Connections that one user may have at once; more are closed."""


class Peer:
    """One connection: what hypercorn uses of a stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self._sending = trio.Lock()

    async def send_all(self, data: bytes) -> None:
        """Send.

        Raises:
            trio.BrokenResourceError: the peer is gone, or doesn't read.
            trio.ClosedResourceError: the connection was cut off.
        """
        with trio.move_on_after(_SEND_S) as sending:
            async with self._sending:
                await self._stream.send_all(data)
        if sending.cancelled_caught:
            self.cut()
            raise trio.BrokenResourceError("the peer doesn't read")

    async def receive_some(self, max_bytes: int) -> bytes:
        """Receive; nothing at the end."""
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """Say that nothing more will come.

        Raises:
            trio.BusyResourceError: something is being sent.
        """
        if self._sending.locked():
            raise trio.BusyResourceError("something is being sent")
        async with self._sending:
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close."""
        await self._stream.aclose()

    def cut(self) -> None:
        """Close at once: whoever waits for the peer gets an error."""
        self.socket.close()


class Peers:
    """All connections of a server."""

    def __init__(self) -> None:
        self._of: Counter[Hashable] = Counter()
        self._open: set[Peer] = set()
        self._left = trio.Event()

    @contextlib.contextmanager
    def served(self, stream: trio.SocketStream, who: Hashable) -> Iterator[Peer | None]:
        """Lend a connection; None if its user has too many."""
        if self._of[who] >= _CONNECTIONS:
            _log.debug("%s has more than %d connections; one is closed", who, _CONNECTIONS)
            stream.socket.close()
            yield None
            return
        peer = Peer(stream)
        self._of[who] += 1
        self._open.add(peer)
        try:
            yield peer
        finally:
            self._open.discard(peer)
            self._of[who] -= 1
            self._left.set()
            peer.cut()

    async def let_go_at_the_end(self) -> None:
        """Wait to be cancelled, then let answers under way arrive, or cut them off."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(_END_S, shield=True):
                while self._open:
                    self._left = trio.Event()
                    await self._left.wait()
            for peer in self._open:
                peer.cut()
