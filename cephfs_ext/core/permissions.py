"""Who may do what, decided from attributes alone, as the kernel would.

Pure functions. Used where the gateway acts with its own identity for a user: before a rename into
the trash, and before a restore.

Source: path_resolution(7), acl(5), unlink(2); acl_permission_check in fs/namei.c;
docs/semantics.md [perm-1], [perm-2].
"""

from __future__ import annotations

import stat
import struct

from cephfs_ext.core.types import Attr, Credentials

READ = 4
WRITE = 2
SEARCH = 1

ACL_XATTR = b"system.posix_acl_access"
_ACL_HEADER = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


def parse_acl(raw: bytes) -> list[tuple[int, int, int]] | None:
    """Decode `system.posix_acl_access` into (tag, permission bits, id).

    Returns:
        None if there is no ACL in it (empty, or not of version 2).
    """
    body = raw[_ACL_HEADER.size :]
    if len(raw) < _ACL_HEADER.size or _ACL_HEADER.unpack_from(raw)[0] != _ACL_VERSION:
        return None
    if not body or len(body) % _ACL_ENTRY.size:
        return None
    return list(_ACL_ENTRY.iter_unpack(body))


def _acl_bits(acl: list[tuple[int, int, int]], attr: Attr, cred: Credentials, want: int) -> bool:
    mask = next((perm for tag, perm, _ in acl if tag == _MASK), 7)
    for tag, perm, ident in acl:
        if tag == _USER_OBJ and cred.uid == attr.uid:
            return perm & want == want
        if tag == _USER and cred.uid == ident:
            return perm & mask & want == want
    groups = [
        perm & mask
        for tag, perm, ident in acl
        if (tag == _GROUP_OBJ and cred.in_group(attr.gid))
        or (tag == _GROUP and cred.in_group(ident))
    ]
    if groups:
        return any(perm & want == want for perm in groups)
    return any(tag == _OTHER and perm & want == want for tag, perm, _ in acl)


def permits(attr: Attr, cred: Credentials, want: int, acl: bytes = b"") -> bool:
    """Tell whether `cred` may READ, WRITE or SEARCH (or-ed in `want`) an inode.

    A list whose mask grants nothing is not looked at, as in the kernel: named users and groups
    are then others.
    """
    if cred.uid == 0:
        return attr.is_dir or not want & SEARCH or bool(attr.mode & 0o111)
    entries = parse_acl(acl) if attr.mode & stat.S_IRWXG else None
    if entries is not None:
        return _acl_bits(entries, attr, cred, want)
    if cred.uid == attr.uid:
        bits = attr.mode >> 6
    elif cred.in_group(attr.gid):
        bits = attr.mode >> 3
    else:
        bits = attr.mode
    return bits & want == want


def without_privileges(mode: int) -> int:
    """Return permission bits as a write by somebody else leaves them: no setuid, no setgid.

    Setgid without the group's execute bit is no privilege and stays.
    """
    gone = stat.S_ISUID
    if mode & stat.S_IXGRP:
        gone |= stat.S_ISGID
    return stat.S_IMODE(mode) & ~gone


def sticky_forbids(parent: Attr, victim: Attr, cred: Credentials) -> bool:
    """Tell whether the sticky bit of `parent` keeps `cred` from removing `victim`."""
    return is_sticky_for(parent, cred) and cred.uid != victim.uid


def is_sticky_for(parent: Attr, cred: Credentials) -> bool:
    """Tell whether the sticky bit of `parent` lets `cred` remove only what they own."""
    return bool(parent.mode & stat.S_ISVTX) and cred.uid not in (0, parent.uid)
