"""Whether the cluster still lets a session in, and how it gets in again.

An operator, or an MDS that a client doesn't answer, evicts the session: the OSDs refuse it from
then on (the address is blocklisted), and every call ends with ESHUTDOWN. libcephfs drops what it
had not written yet; it can come back under another address (`client_reconnect_stale`), but at most
once in half an hour, and if it may do so before it knows that it is blocklisted, it keeps what it
had not written and writes it later, over what others have written meanwhile. So it may only once
it does know, which shows in that it refuses to ask an MDS; and until it has.

Source: client/Client.cc of ceph 16.2.15 (`tick`, `handle_osd_map`, `ms_handle_remote_reset`).
"""

from __future__ import annotations

import errno
import logging
from typing import Any

import trio

from c_ext._libcephfs import ffi, lib
from cephfs_ext.storage.ceph_lane import CephLane

_log = logging.getLogger(__name__)

_MAY_RETURN = b"client_reconnect_stale"


class Admission:
    """Whether one session is let in; its methods belong to the event loop."""

    def __init__(self, mount: Any, root: Any, perms: Any, whose: str) -> None:
        self._mount = mount
        self._root = root
        self._perms = perms
        self._whose = whose
        self._address = self._find_address()
        self._is_out = False
        self._asking = False
        self.lane: CephLane | None = None
        """What is told when the session is shut out, and when it is back."""
        self.generation = 0
        """How often the session has come back; files that were open before have to be reopened."""

    @property
    def is_in(self) -> bool:
        """Whether the session isn't known to be shut out."""
        return not self._is_out

    async def note_refused(self) -> None:
        """Note that a call ended with ESHUTDOWN, and have libcephfs come back once it may."""
        if self._is_out or self._asking:
            return
        self._asking = True
        try:
            self._is_out = await trio.to_thread.run_sync(self._is_refused)
        finally:
            self._asking = False
        if self._is_out:
            if self.lane is not None:
                self.lane.shut_out()
            _log.error(
                "the cluster has shut the session of %s out: %s is evicted or blocklisted; what "
                "was not synced is lost; it comes back within seconds, or half an hour after the "
                "last time that it did, or the machine started: unmount and mount to be faster",
                self._whose,
                self._address,
            )
            lib.ceph_conf_set(self._mount, _MAY_RETURN, b"true")

    def look(self) -> None:
        """Notice that the session has come back."""
        if not self._is_out or (address := self._find_address()) == self._address:
            return
        lib.ceph_conf_set(self._mount, _MAY_RETURN, b"false")
        self._is_out, self._address = False, address
        self.generation += 1
        if self.lane is not None:
            self.lane.let_in()
        _log.warning("the session of %s is back, as %s", self._whose, address)

    def _is_refused(self) -> bool:
        """Tell whether libcephfs knows: the root would have to be asked for, and isn't."""
        stx = ffi.new("struct ceph_statx *")
        arguments = (self._root, stx, lib.CEPH_STATX_BASIC_STATS, 0, self._perms)
        return bool(lib.ceph_ll_getattr(self._mount, *arguments) == -errno.ESHUTDOWN)

    def _find_address(self) -> str:
        out = ffi.new("char **")
        if lib.ceph_getaddrs(self._mount, out) < 0:
            return ""
        address = bytes(ffi.string(out[0])).decode()
        lib.ceph_buffer_free(out[0])
        return address
