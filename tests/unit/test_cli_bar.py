"""What a terminal shows of a long command, and that nothing else is shown it."""

from __future__ import annotations

import io
import sys

import pytest

from cephfs_ext.cli.bar import bar_of_request
from cephfs_ext.control.service import RequestProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def far(done: int, total: int | None, *, stopping: bool = False) -> RequestProgress:
    return RequestProgress(done=done, total=total, stopping=stopping)


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        (far(0, None), ["restoring", "looking through the trash"]),
        (far(3, 7), ["restoring", "3/7"]),
        (far(1, 2, stopping=True), ["1/2", "stopping"]),
    ],
)
def test_bar_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, progress: RequestProgress, shown: list[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with bar_of_request("restoring", wanted=True) as tell:
        assert tell is not None
        tell(progress)
    for text in shown:
        assert text in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K"), "the bar is still there"


@pytest.mark.parametrize(("screen", "wanted"), [(io.StringIO(), True), (Terminal(), False)])
def test_nothing_else_is_shown_it(
    monkeypatch: pytest.MonkeyPatch, screen: io.StringIO, wanted: bool
) -> None:
    """Neither what is no terminal, nor who asks for JSON."""
    monkeypatch.setattr(sys, "stderr", screen)
    with bar_of_request("restored", wanted=wanted) as tell:
        assert tell is None
    assert screen.getvalue() == ""
