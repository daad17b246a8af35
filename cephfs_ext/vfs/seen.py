"""What lookups and listings have just shown of names, for as long as the kernel believes it.

A delete in bulk needs no further look at what the kernel looked at a moment ago. What is changed
through this gateway is forgotten at once.

Only inodes with one name are remembered. A lane, which answers lookups and changes attributes
without our knowing, looks at a name right before it asks us to unlink it.

Concurrency: no method has a checkpoint.
"""

from __future__ import annotations

import time

from cephfs_ext.core.limits import SEEN
from cephfs_ext.core.ports import Lane
from cephfs_ext.core.types import Attr
from cephfs_ext.vfs.nodes import NodeId


class Seen:
    """Attributes by name."""

    def __init__(self, *, fresh_s: float, lane: Lane | None = None) -> None:
        """Set for how long the kernel believes what it is told of a name and its attributes."""
        self._fresh_s = fresh_s
        self._lane = lane
        self._seen: dict[tuple[NodeId, bytes], tuple[float, Attr]] = {}

    def learned(self, parent: NodeId, name: bytes, attr: Attr) -> None:
        """Note what the kernel is told."""
        if self._lane is not None:
            return
        if attr.nlink != 1 or attr.is_dir:
            self._seen.pop((parent, name), None)
            return
        if len(self._seen) >= SEEN:
            self._seen.clear()
        self._seen[parent, name] = (time.monotonic() + self._fresh_s, attr)

    def get(self, parent: NodeId, name: bytes) -> Attr | None:
        """Return what the kernel knows of a name that isn't a directory's."""
        if self._lane is not None:
            return self._lane.looked(parent, name)
        until_s, attr = self._seen.get((parent, name), (0.0, None))
        return attr if time.monotonic() < until_s else None

    def forget(self, parent: NodeId, name: bytes) -> None:
        """A name, or the inode that was seen under it, is about to change or has changed."""
        self._seen.pop((parent, name), None)
