"""Commands of ordinary users."""

from __future__ import annotations

import os
import subprocess


def run_as(uid: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Carry out a command as a user with one group, of the same number; errors are in English."""
    return subprocess.run(
        ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
