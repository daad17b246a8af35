"""What a posix storage has open: files, and directories with their position.

Concurrency: the lock of a directory is held while a page of it is read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from cephfs_ext.core.errors import NotFoundError
from cephfs_ext.core.types import Credentials, DirEntry
from cephfs_ext.storage import posix_calls as calls
from cephfs_ext.storage.posix_nodes import PosixNode

_UNKNOWN = -1
"""Stands for a position that can't be gone on from."""


class PosixHandle:
    """An open regular file."""

    __slots__ = ("cred", "fd", "node")

    def __init__(self, node: PosixNode, fd: int, cred: Credentials) -> None:
        self.node = node
        self.fd = fd
        self.cred = cred


class PosixDirHandle:
    """An open directory."""

    __slots__ = ("cookie", "fd", "lock", "node")

    def __init__(self, node: PosixNode, fd: int) -> None:
        self.node = node
        self.fd = fd
        self.cookie = 0
        """Where the descriptor stands."""
        self.lock = trio.Lock()

    def page(self, cookie: int, limit: int) -> Sequence[DirEntry]:
        """Read on behind `cookie`; blocks. A directory that has been removed is empty."""
        stands, self.cookie = self.cookie, _UNKNOWN
        if cookie != stands or cookie == 0:
            os.lseek(self.fd, cookie, os.SEEK_SET)
        try:
            entries = calls.read_page(self.fd, limit)
        except NotFoundError:
            return ()
        if entries:
            self.cookie = entries[-1].cookie
        return entries
