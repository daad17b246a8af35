"""How many references a storage has handed out for an inode; looks behind the port."""

from __future__ import annotations

from typing import Any, cast

from cephfs_ext.core.ports import Node, Storage
from cephfs_ext.storage.ceph import CephStorage
from cephfs_ext.storage.posix_nodes import PosixNode


def references_of(storage: Storage, node: Node) -> int:
    """Return the count; the node still has it afterwards.

    On ceph it is found by giving references back until the last is gone, and looking again: no
    other call may use the node meanwhile.
    """
    if isinstance(storage, CephStorage):
        return _ceph_references(storage, cast(Any, node))
    return cast(PosixNode, node).references


def _ceph_references(storage: CephStorage, node: Any) -> int:
    from c_ext._libcephfs import ffi, lib

    mount, count = storage._mount, 0
    number = ffi.new("inodeno_t *", {"val": node.ino})[0]
    out = ffi.new("Inode **")
    assert lib.ceph_ll_lookup_inode(mount, number, out) == 0  # one that keeps it alive
    assert out[0] == node.raw
    while not lib.ceph_ll_forget(mount, node.raw, 1):
        count += 1
    for _ in range(count):
        assert lib.ceph_ll_lookup_inode(mount, number, out) == 0
    return count
