"""Between our values and pyfuse3's. Pure functions."""

from __future__ import annotations

import pyfuse3

from cephfs_ext.core.types import Attr, AttrChange, StatFs
from cephfs_ext.vfs.filesystem import Entry
from cephfs_ext.vfs.nodes import NodeId, is_virtual


def to_fuse(
    node_id: NodeId,
    attr: Attr,
    *,
    generation: int = 0,
    entry_timeout_s: float,
    attr_timeout_s: float,
) -> pyfuse3.EntryAttributes:
    """Build a reply; a virtual trash is never cached."""
    if is_virtual(node_id):
        entry_timeout_s = attr_timeout_s = 0.0
    fuse = pyfuse3.EntryAttributes()
    fuse.st_ino = node_id
    fuse.generation = generation
    fuse.st_mode = attr.mode
    fuse.st_nlink = attr.nlink
    fuse.st_uid = attr.uid
    fuse.st_gid = attr.gid
    fuse.st_rdev = attr.rdev
    fuse.st_size = attr.size
    fuse.st_blocks = attr.blocks
    fuse.st_blksize = attr.blksize
    fuse.st_atime_ns = attr.atime_ns
    fuse.st_mtime_ns = attr.mtime_ns
    fuse.st_ctime_ns = attr.ctime_ns
    fuse.entry_timeout = entry_timeout_s
    fuse.attr_timeout = attr_timeout_s
    return fuse


def entry_to_fuse(
    entry: Entry, *, entry_timeout_s: float, attr_timeout_s: float
) -> pyfuse3.EntryAttributes:
    """Build the reply to a lookup."""
    return to_fuse(
        entry.node_id,
        entry.attr,
        generation=entry.generation,
        entry_timeout_s=entry_timeout_s,
        attr_timeout_s=attr_timeout_s,
    )


def change_from_fuse(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> AttrChange:
    """Read what a setattr changes."""
    return AttrChange(
        mode=attr.st_mode & 0o7777 if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
    )


def statfs_to_fuse(stats: StatFs) -> pyfuse3.StatvfsData:
    """Build the reply to a statfs."""
    fuse = pyfuse3.StatvfsData()
    fuse.f_bsize = stats.bsize
    fuse.f_frsize = stats.frsize
    fuse.f_blocks = stats.blocks
    fuse.f_bfree = stats.bfree
    fuse.f_bavail = stats.bavail
    fuse.f_files = stats.files
    fuse.f_ffree = stats.ffree
    fuse.f_favail = stats.favail
    fuse.f_namemax = stats.namemax
    return fuse
