"""How far a long command is: a bar on the terminal, which is gone in the end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from cephfs_ext.control.client import Tell
from cephfs_ext.control.service import RequestProgress

ShowProgress = Callable[[int, int | None, str], None]
"""Shows how much is done, out of how much (None if nobody knows), and a remark."""


@contextlib.contextmanager
def bar(what: str, *, wanted: bool) -> Iterator[ShowProgress | None]:
    """Lend what shows how far something is; None if nobody would see it.

    Args:
        what: what is being done.
        wanted: False for output that programs read.
    """
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None, remark="")

        def show(done: int, total: int | None, remark: str) -> None:
            progress.update(task, completed=done, total=total, remark=remark)

        yield show


@contextlib.contextmanager
def bar_of_request(what: str, *, wanted: bool) -> Iterator[Tell | None]:
    """Lend the same for a request of which the daemon says how far it is."""
    with bar(what, wanted=wanted) as show:

        def tell(progress: RequestProgress) -> None:
            if show is not None:
                show(progress.done, progress.total, _remark(progress))

        yield None if show is None else tell


def _remark(progress: RequestProgress) -> str:
    if progress.stopping:
        return "stopping"
    return "looking through the trash" if progress.total is None else ""
