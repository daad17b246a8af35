"""Acting as ordinary users: by commands, or for a while."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator


def run_as(uid: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Carry out a command as a user with one group, of the same number; errors are in English."""
    return subprocess.run(
        ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Be a user with one group, of the same number, while the body runs.

    Root, who calls this, has nothing to do to be root.
    """
    if uid == os.geteuid():
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
