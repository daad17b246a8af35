"""The inodes of a posix storage that somebody has a reference to.

Owns their `O_PATH` descriptors: one per inode, closed with the last reference. While there is one
the file system keeps the inode, and so can't give its number to another. Safe to use from worker
threads and the event loop at once.
"""

from __future__ import annotations

import logging
import os
import threading

from cephfs_ext.core.errors import CrossDomainError
from cephfs_ext.core.types import Attr, Ino
from cephfs_ext.storage.posix_calls import attr_of

_log = logging.getLogger(__name__)


class PosixNode:
    """A counted reference to an inode."""

    __slots__ = ("fd", "ino", "references")

    def __init__(self, fd: int, ino: Ino) -> None:
        self.fd = fd
        """`O_PATH` descriptor."""
        self.ino = ino
        self.references = 1


class PosixNodes:
    """All nodes of one storage."""

    def __init__(self, root_fd: int) -> None:
        stat = os.fstat(root_fd)
        self._device = stat.st_dev
        self._lock = threading.Lock()
        self.root = PosixNode(root_fd, Ino(stat.st_ino))
        self._nodes: dict[Ino, PosixNode] = {self.root.ino: self.root}
        self._closed = False

    def __len__(self) -> int:
        """Count the nodes, the root not included."""
        return len(self._nodes) - 1

    def adopt(self, fd: int) -> tuple[PosixNode, Attr]:
        """Return the node of a fresh `O_PATH` descriptor, which is owned here from now on.

        Raises:
            CrossDomainError: the inode is on another file system, mounted below ours.
        """
        try:
            stat = self._stat_here(fd)
        except BaseException:
            os.close(fd)
            raise
        ino = Ino(stat.st_ino)
        with self._lock:
            node = self._nodes.get(ino)
            if node is None:
                node = self._nodes[ino] = PosixNode(fd, ino)
            else:
                node.references += 1
        if node.fd != fd:
            os.close(fd)
        return node, attr_of(stat)

    def _stat_here(self, fd: int) -> os.stat_result:
        stat = os.fstat(fd)
        if stat.st_dev != self._device:
            _log.warning(
                "a file system is mounted below the served directory; mount it separately "
                "(device %d:%d)",
                os.major(stat.st_dev),
                os.minor(stat.st_dev),
            )
            raise CrossDomainError(what="another file system is mounted here")
        return stat

    def forget(self, node: PosixNode, count: int) -> None:
        """Give back references. After `close` there is nothing left to give back.

        Raises:
            ValueError: more than there were; the descriptor may be somebody else's by now.
        """
        if node is self.root:
            return
        with self._lock:
            if self._nodes.get(node.ino) is not node:
                if self._closed:
                    return
                raise ValueError(f"inode {node.ino} was forgotten more often than it was found")
            node.references -= count
            if node.references > 0:
                return
            del self._nodes[node.ino]
        os.close(node.fd)

    def close(self) -> None:
        """Close all descriptors."""
        with self._lock:
            self._closed = True
            nodes = list(self._nodes.values())
            self._nodes.clear()
        for node in nodes:
            os.close(node.fd)
