"""An open directory of a view: first what the view knows of it, then what lies in it, page by page.

Positions in the first part are numbers of a range that storages don't use; the others are the
storage's. What a page holds is pinned until a reply has it or it is given back.

Concurrency: belongs to one open directory; the kernel serialises reads of one.
"""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Callable, Sequence

from cephfs_ext.core.limits import READDIR_PAGE
from cephfs_ext.core.ports import DirHandle, Found, Listed, Storage
from cephfs_ext.core.types import Attr, DirEntry, Ino
from cephfs_ext.vfs.nodes import NodeId
from cephfs_ext.vfs.viewnodes import ViewNode, ViewNodes
from trashbin.layout import TRASH_NAME

_FIRST = (1 << 62) + 16
"""Position behind the first name."""

Made = tuple[bytes, Callable[[], tuple[ViewNode, Attr]]]
"""A name, and what pins the thing that has it."""


class ViewStream:
    """What `cephfs_ext.vfs.handles.DirStream` is for other directories."""

    def __init__(
        self,
        storage: Storage,
        views: ViewNodes,
        node_id: NodeId,
        parent: NodeId,
        made: Sequence[Made] = (),
        handle: DirHandle | None = None,
        lying: Callable[[bytes, Found], ViewNode] | None = None,
    ) -> None:
        self.node_id = node_id
        self.parent = parent
        self.handle = handle
        """None if nothing lies in it."""
        self._storage = storage
        self._views = views
        self._made = made
        self._lying = lying
        self._ahead: Sequence[Listed] = ()
        self._ahead_cookie = 0

    async def page(self, cookie: int) -> Sequence[Listed]:
        """Return entries after `cookie`, pinned; what isn't used goes back with `put_back`."""
        ahead, self._ahead = self._ahead, ()
        if ahead and cookie == self._ahead_cookie:
            return ahead
        self._unpin(ahead)
        at = 0 if cookie == 0 else cookie - _FIRST + 1
        if 0 <= at < len(self._made):
            return self._page_of_made(at)
        return await self._page_of_lying(0 if at == len(self._made) else cookie)

    def _page_of_made(self, at: int) -> list[Listed]:
        page = []
        for number, (name, pin) in enumerate(self._made[at : at + READDIR_PAGE], at):
            view, attr = pin()
            page.append(_listed(name, view, attr, _FIRST + number))
        return page

    async def _page_of_lying(self, cookie: int) -> list[Listed]:
        if self.handle is None or self._lying is None:
            return []
        while page := await self._storage.readdir(
            self.handle, cookie, limit=READDIR_PAGE, plus=True
        ):
            result = []
            for entry, found in page:
                if found is None or entry.name == TRASH_NAME:
                    if found is not None:
                        self._storage.forget(found.node)
                    continue
                view = self._lying(entry.name, found)
                result.append(_listed(entry.name, view, found.attr, entry.cookie))
            if result:
                return result
            cookie = page[-1].entry.cookie
        return []

    def put_back(self, cookie: int, rest: Sequence[Listed]) -> None:
        """Keep the entries after `cookie` that didn't fit, for the next call."""
        self._ahead, self._ahead_cookie = rest, cookie

    def unlisted(self, found: Found) -> None:
        """Give back an entry that no reply will hold."""
        self._views.unpin(self._views[NodeId(found.attr.ino)])

    def _unpin(self, entries: Sequence[Listed]) -> None:
        for entry in entries:
            if entry.found is not None:
                self.unlisted(entry.found)

    async def close(self) -> None:
        """Close the directory."""
        self._unpin(self._ahead)
        self._ahead = ()
        if self.handle is not None:
            await self._storage.releasedir(self.handle)


def _listed(name: bytes, view: ViewNode, attr: Attr, cookie: int) -> Listed:
    attr = dataclasses.replace(attr, ino=Ino(view.node_id))
    return Listed(DirEntry(name, attr.ino, stat.S_IFMT(attr.mode), cookie), Found(view, attr))
