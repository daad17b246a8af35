"""A program of its own that takes a mount away: `python -m cephfs_ext.daemon.detach MOUNTPOINT`.

Whoever unmounts, opens or syncs a FUSE mount waits for its daemon, and a thread that waits so can't
be killed. A daemon that waited for itself and was killed at that moment would hang for ever, and
its users with it: the kernel gives a mount up when the last thread of its daemon is gone. So
somebody else does it.

It ends at once if nothing was open on the mount. Else it detaches the mount, writes a line, and
lets the mount go when its standard input ends: only then the kernel's session can end.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

from cephfs_ext.daemon import mounts

_libc = ctypes.CDLL(None, use_errno=True)


def main(mountpoint: str) -> int:
    """Unmount; see the module. Returns the exit code."""
    try:
        if not _unmount_idle(mountpoint):
            root = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
            _sync(root)
            mounts.unmount(mountpoint, detach=True)
            print("detached", flush=True)
            sys.stdin.read()
            _sync(root)
    except OSError as exc:
        print(exc.strerror, file=sys.stderr)
        return 1
    return 0


def _unmount_idle(mountpoint: str) -> bool:
    """Unmount if nothing is open there; it flushes what is dirty."""
    try:
        mounts.unmount(mountpoint)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            return False
        if exc.errno != errno.EINVAL:  # else somebody was faster
            raise
    return True


def _sync(root: int) -> None:
    """Write the dirty pages of mapped files."""
    if _libc.syncfs(root) != 0:
        print(f"syncfs: {os.strerror(ctypes.get_errno())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
