"""The FUSE face: one thin handler per operation of pyfuse3.

Translates values, counts lookups, and nothing else; what an operation means is in
`cephfs_ext.vfs.filesystem`. Every handler wears the guard of `cephfs_ext.fuse.handler`.
"""

# mypy: disable-error-code="override"
# pyfuse3 names its integer types for itself; ours say the same and go through all layers.
# ruff: noqa: ARG002
# The signatures are pyfuse3's, whether an argument is needed or not.

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import pyfuse3

from cephfs_ext.core.errors import DeniedError
from cephfs_ext.core.ports import Meter
from cephfs_ext.core.types import Attr, AttrChange
from cephfs_ext.fuse.attrs import change_from_fuse, entry_to_fuse, statfs_to_fuse
from cephfs_ext.fuse.callers import Callers, credentials
from cephfs_ext.fuse.handler import handler
from cephfs_ext.fuse.listing import Listing
from cephfs_ext.vfs.filesystem import Entry, FileSystem
from cephfs_ext.vfs.handles import FileHandle
from cephfs_ext.vfs.nodes import NodeId
from cephfs_ext.vfs.requests import Requests
from trashbin.put import Deleter

_log = logging.getLogger(__name__)


class Operations(pyfuse3.Operations):
    """What pyfuse3 calls."""

    enable_writeback_cache = False
    enable_acl = True

    def __init__(
        self,
        filesystem: FileSystem,
        callers: Callers,
        requests: Requests,
        meter: Meter,
        *,
        entry_timeout_s: float,
        attr_timeout_s: float,
    ) -> None:
        super().__init__()
        self.meter = meter
        self.requests = requests
        self._fs = filesystem
        self._callers = callers
        self._entry_timeout_s = entry_timeout_s
        self._attr_timeout_s = attr_timeout_s

    def _entry(self, entry: Entry) -> pyfuse3.EntryAttributes:
        lasts = self._fs.may_be_remembered
        return entry_to_fuse(
            entry,
            entry_timeout_s=self._entry_timeout_s * lasts,
            attr_timeout_s=self._attr_timeout_s * lasts,
        )

    def _attr(self, node_id: NodeId, attr: Attr) -> pyfuse3.EntryAttributes:
        return self._entry(Entry(node_id, attr))

    def forget(self, inode_list: Sequence[tuple[NodeId, int]]) -> None:
        """Take lookups back; a bug here must not end the mount either."""
        try:
            for node_id, lookups in inode_list:
                self._fs.forget(node_id, lookups)
        except Exception:
            _log.exception("a bug in forget")
            self.meter.count("fuse_bugs_total", op="forget")

    @handler
    async def lookup(
        self, parent: NodeId, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Resolve a name."""
        viewer = self._callers.viewer(parent, ctx)
        return self._entry(await self._fs.lookup(parent, name, viewer))

    @handler
    async def getattr(
        self, node_id: NodeId, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Read attributes."""
        viewer = self._callers.viewer(node_id, ctx)
        return self._attr(node_id, await self._fs.getattr(node_id, viewer))

    @handler
    async def setattr(
        self,
        node_id: NodeId,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandle | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Change attributes."""
        change = change_from_fuse(attr, fields)
        who = await self._callers.deleter(ctx, destroys=change.size == 0)
        try:
            changed = await self._fs.setattr(node_id, change, who, fh)
        except DeniedError:
            changed = await self._set_times_now(node_id, change, who, fh)
        return self._attr(node_id, changed)

    async def _set_times_now(
        self, node_id: NodeId, change: AttrChange, who: Deleter, fh: FileHandle | None
    ) -> Attr:
        """Repeat a refused change of times as one to the present.

        pyfuse3 doesn't say whether times came from the clock. The kernel lets somebody who may
        write, but isn't the owner, set them to the present only: so that is what it was.
        """
        now = AttrChange(
            atime_now=change.atime_ns is not None, mtime_now=change.mtime_ns is not None
        )
        others = (change.mode, change.uid, change.gid, change.size)
        if any(value is not None for value in others) or not (now.atime_now or now.mtime_now):
            raise DeniedError()
        return await self._fs.setattr(node_id, now, who, fh)

    @handler
    async def readlink(self, node_id: NodeId, ctx: pyfuse3.RequestContext) -> bytes:
        """Read the target of a symbolic link."""
        return await self._fs.readlink(node_id, self._callers.viewer(node_id, ctx))

    @handler
    async def mknod(
        self, parent: NodeId, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Make a regular or special file."""
        cred = credentials(ctx)
        return self._entry(await self._fs.mknod(parent, name, mode, ctx.umask, rdev, cred))

    @handler
    async def mkdir(
        self, parent: NodeId, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Make a directory."""
        return self._entry(await self._fs.mkdir(parent, name, mode, ctx.umask, credentials(ctx)))

    @handler
    async def symlink(
        self, parent: NodeId, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Make a symbolic link."""
        return self._entry(await self._fs.symlink(parent, name, target, credentials(ctx)))

    @handler
    async def link(
        self, node_id: NodeId, new_parent: NodeId, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Give an inode another name."""
        return self._entry(await self._fs.link(node_id, new_parent, new_name, credentials(ctx)))

    @handler
    async def unlink(self, parent: NodeId, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove a name that is no directory."""
        await self._fs.unlink(parent, name, await self._callers.deleter(ctx))

    @handler
    async def rmdir(self, parent: NodeId, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove an empty directory."""
        await self._fs.rmdir(parent, name, await self._callers.deleter(ctx))

    @handler
    async def rename(
        self,
        parent: NodeId,
        name: bytes,
        new_parent: NodeId,
        new_name: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """Rename."""
        who = await self._callers.deleter(ctx)
        viewer = self._callers.viewer(parent, ctx)
        await self._fs.rename(parent, name, new_parent, new_name, flags, who, viewer)

    @handler
    async def open(
        self, node_id: NodeId, flags: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        """Open a regular file; its pages are dropped, so that another client's writes show."""
        who = await self._callers.deleter(ctx, destroys=bool(flags & os.O_TRUNC))
        fh = await self._fs.open(node_id, flags, who, self._callers.viewer(node_id, ctx))
        return pyfuse3.FileInfo(fh=fh, keep_cache=False)

    @handler
    async def create(
        self, parent: NodeId, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Make and open a regular file."""
        who = await self._callers.deleter(ctx, destroys=bool(flags & os.O_TRUNC))
        opened = await self._fs.create(parent, name, mode, ctx.umask, flags, who)
        return pyfuse3.FileInfo(fh=opened.fh, keep_cache=False), self._entry(opened.entry)

    @handler
    async def read(self, fh: FileHandle, off: int, size: int) -> bytes:
        """Read."""
        return await self._fs.read(fh, off, size)

    @handler
    async def write(self, fh: FileHandle, off: int, buf: bytes) -> int:
        """Write."""
        return await self._fs.write(fh, off, buf)

    @handler
    async def flush(self, fh: FileHandle) -> None:
        """A descriptor was closed."""
        await self._fs.flush(fh)

    @handler
    async def fsync(self, fh: FileHandle, datasync: bool) -> None:
        """Make what was written durable."""
        await self._fs.fsync(fh, datasync=datasync)

    @handler
    async def release(self, fh: FileHandle) -> None:
        """Close an open file."""
        await self._fs.release(fh)

    @handler
    async def opendir(self, node_id: NodeId, ctx: pyfuse3.RequestContext) -> FileHandle:
        """Open a directory."""
        return await self._fs.opendir(node_id, self._callers.viewer(node_id, ctx))

    @handler
    async def readdir(self, fh: FileHandle, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a directory, from where the last reply ended."""
        listing = Listing(
            self._fs,
            fh,
            token,
            entry_timeout_s=self._entry_timeout_s,
            attr_timeout_s=self._attr_timeout_s,
        )
        await listing.fill(start_id)

    @handler
    async def releasedir(self, fh: FileHandle) -> None:
        """Close a directory."""
        await self._fs.releasedir(fh)

    @handler
    async def fsyncdir(self, fh: FileHandle, datasync: bool) -> None:
        """Make the names of a directory durable."""
        await self._fs.fsyncdir(fh)

    @handler
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Read space and names left."""
        return statfs_to_fuse(await self._fs.statfs())

    @handler
    async def getxattr(self, node_id: NodeId, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Read an extended attribute."""
        return await self._fs.getxattr(node_id, name, self._callers.viewer(node_id, ctx))

    @handler
    async def setxattr(
        self, node_id: NodeId, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """Set an extended attribute."""
        await self._fs.setxattr(node_id, name, value, credentials(ctx))

    @handler
    async def listxattr(self, node_id: NodeId, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """List the names of extended attributes."""
        return await self._fs.listxattr(node_id, self._callers.viewer(node_id, ctx))

    @handler
    async def removexattr(self, node_id: NodeId, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove an extended attribute."""
        await self._fs.removexattr(node_id, name, credentials(ctx))
