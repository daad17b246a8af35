"""How many inodes a session of libcephfs keeps, and less of them for a while.

libcephfs keeps what it has listed, some 2.7 KB an inode, until there are more than
`client_cache_size`; it looks once a second, and what the kernel knows it never drops. So a listing
of a million names that nobody will ask for again would fill it, and push all else out.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from c_ext._libcephfs import lib


class CacheSize:
    """The size of one session's cache. Safe from any thread."""

    def __init__(self, mount: Any, size: int) -> None:
        self._mount = mount
        self._sizes = [size]
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def limited(self, size: int) -> Iterator[None]:
        """Keep no more than so many inodes while the body runs; of several, the least counts."""
        with self._lock:
            self._sizes.append(size)
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._sizes.remove(size)
                self._set()

    def _set(self) -> None:
        lib.ceph_conf_set(self._mount, b"client_cache_size", b"%d" % min(self._sizes))
