"""How far a long command is, on a line of the terminal that is gone in the end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from cephfs_ext.control.client import Tell
from cephfs_ext.control.service import RequestProgress


@contextlib.contextmanager
def bar(verb: str, *, wanted: bool) -> Iterator[Tell | None]:
    """Lend what shows how far something is; None if nobody would see it.

    Args:
        verb: what is being done, as in `restored 3 of 7 entries`.
        wanted: False for output that programs read.
    """
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    begun_s = time.monotonic()

    def tell(progress: RequestProgress) -> None:
        _write(line(verb, progress, time.monotonic() - begun_s))

    try:
        yield tell
    finally:
        _write("")


def line(verb: str, progress: RequestProgress, took_s: float) -> str:
    """Say how far something is, and how fast."""
    if progress.total is None:
        return "looking through the trash"
    percent = 100 * progress.done // max(1, progress.total)
    rate = int(progress.done / took_s) if took_s > 0 else 0
    text = f"{verb} {progress.done} of {progress.total} entries, {percent}%, {rate}/s"
    return f"{text}; stopping" if progress.stopping else text


def _write(text: str) -> None:
    """Put a text in the place of the one before."""
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()
