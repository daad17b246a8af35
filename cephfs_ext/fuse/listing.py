"""Fills the reply to a READDIRPLUS.

A position in a listing is what the storage calls cookie, with two values of our own for the
positions behind `.` and `..`, which storages don't list. Entries in the reply count as looked up,
`.` and `..` don't (the kernel ignores them). What doesn't fit is kept for the next reply.

Source: fs/fuse/readdir.c, fuse_direntplus_link.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

import pyfuse3

from cephfs_ext.core.ports import Listed
from cephfs_ext.core.types import Attr, Ino
from cephfs_ext.fuse.attrs import entry_to_fuse
from cephfs_ext.vfs.filesystem import Entry, FileSystem
from cephfs_ext.vfs.handles import FileHandle
from cephfs_ext.vfs.nodes import NodeId
from trashbin.layout import TRASH_NAME

_BEHIND_DOT = (1 << 62) + 1
_BEHIND_DOTDOT = (1 << 62) + 2


class Listing:
    """One reply under construction."""

    def __init__(
        self,
        filesystem: FileSystem,
        fh: FileHandle,
        token: pyfuse3.ReaddirToken,
        *,
        entry_timeout_s: float,
        attr_timeout_s: float,
    ) -> None:
        self._fs = filesystem
        self._fh = fh
        self._token = token
        # known for the whole reply: the kernel lets nobody change names while it lists
        lasts = filesystem.may_be_remembered
        self._entry_timeout_s = entry_timeout_s * (lasts and filesystem.are_names_sure(fh))
        self._attr_timeout_s = attr_timeout_s * lasts

    async def fill(self, start: int) -> None:
        """Put in what there is behind `start`, as far as it fits."""
        node_id, parent = self._fs.stream_ids(self._fh)
        if start == 0 and not self._dot(b".", node_id, _BEHIND_DOT):
            return
        if start in (0, _BEHIND_DOT) and not self._dot(b"..", parent, _BEHIND_DOTDOT):
            return
        cookie = 0 if start in (0, _BEHIND_DOT, _BEHIND_DOTDOT) else start
        while page := await self._fs.readdir(self._fh, cookie):
            taken = self._take(page)
            if taken < len(page):
                behind = page[taken - 1].entry.cookie if taken else cookie
                self._fs.readdir_rest(self._fh, behind, page[taken:])
                return
            cookie = page[-1].entry.cookie

    def _take(self, page: Sequence[Listed]) -> int:
        """Put entries in until one doesn't fit; return how many did."""
        for number, listed in enumerate(page):
            if not self._entry(listed):
                return number
        return len(page)

    def _entry(self, listed: Listed) -> bool:
        name, found = listed.entry.name, listed.found
        if found is None:
            return True
        if name == TRASH_NAME:
            self._fs.unlisted(found)
            return True
        entry = self._fs.entry_of(found)
        if not self._reply(name, entry, listed.entry.cookie):
            return False
        self._fs.listed(self._fh, name, found)
        return True

    def _dot(self, name: bytes, node_id: NodeId, behind: int) -> bool:
        attr = Attr(Ino(node_id), stat.S_IFDIR, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        return self._reply(name, Entry(node_id, attr), behind)

    def _reply(self, name: bytes, entry: Entry, behind: int) -> bool:
        fuse = entry_to_fuse(
            entry, entry_timeout_s=self._entry_timeout_s, attr_timeout_s=self._attr_timeout_s
        )
        fits: bool = pyfuse3.readdir_reply(self._token, name, fuse, behind)
        return fits
