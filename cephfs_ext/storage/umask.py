"""The umask of a request, in the one thread that makes something for it.

Whether a umask counts is for the file system to say: it plays no part where the directory has a
default access control list. So the mode that was asked for goes down as it is, and the thread
takes the umask.

Source: acl(5), "Object creation and default ACLs"; unshare(2), CLONE_FS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from c_ext._posix import lib


@contextlib.contextmanager
def with_umask(mode: int, umask: int) -> Iterator[int]:
    """Have what is made in the body obey a umask; yields the mode to ask for.

    Where threads can't have a umask of their own (a sandbox that forbids unshare), it is applied
    to the mode at once, which takes more away than it should below a default list, never less.
    """
    if lib.cx_umask(umask) != 0:
        yield mode & ~umask
        return
    try:
        yield mode
    finally:
        lib.cx_umask(0)
