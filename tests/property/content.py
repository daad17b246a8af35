"""What a file may contain after its gateway was killed.

What was synced is there for certain. Of what was written since, each byte may have arrived or not,
and so may each size that the file had; a hole, or what was cut off and written again, may read as
zeros. Reading the file after the crash settles what it contains.
"""

from __future__ import annotations


class Content:
    """The bytes of one file."""

    def __init__(self, data: bytes = b"") -> None:
        self.now = data
        self._synced = b""
        self._since: list[bytes] = [data] if data else []
        self.is_certain = True

    def change(self, data: bytes) -> None:
        """Contain something else; not durable."""
        self.now = data
        self._since.append(data)

    def sync(self) -> None:
        """Be durable."""
        self._synced = self.now
        self._since.clear()

    def crash(self) -> None:
        """Lose what isn't durable, perhaps."""
        self.is_certain = self.is_certain and not self._since

    def accepts(self, data: bytes) -> bool:
        """Tell whether the file may contain this."""
        if self.is_certain:
            return data == self.now
        states = [self._synced, *self._since]
        shortest = min(map(len, states))
        if len(data) not in map(len, states):
            return False
        for at, byte in enumerate(data):
            may_be_zero = at >= shortest and byte == 0
            if not may_be_zero and not any(s[at : at + 1] == bytes([byte]) for s in states):
                return False
        return True

    def settle(self, data: bytes) -> None:
        """Contain what was read, which is durable if it was read after a crash."""
        if not self.is_certain:
            self.is_certain, self.now = True, data
            self.sync()

    def take_over(self) -> Content:
        """Leave the bytes to another content, and contain nothing."""
        taken = Content()
        taken.now, taken._synced, taken._since = self.now, self._synced, list(self._since)
        self.now, self._synced = b"", b""
        self._since.clear()
        return taken
