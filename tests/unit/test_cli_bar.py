"""What a terminal shows of a long command, and that nothing else is shown it."""

from __future__ import annotations

import io
import sys

import pytest

from cephfs_ext.cli.bar import bar, line
from cephfs_ext.control.service import RequestProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def far(done: int, total: int | None, *, stopping: bool = False) -> RequestProgress:
    return RequestProgress(done=done, total=total, stopping=stopping)


@pytest.mark.parametrize(
    ("progress", "took_s", "text"),
    [
        (far(0, None), 1.0, "looking through the trash"),
        (far(3, 7), 2.0, "restored 3 of 7 entries, 42%, 1/s"),
        (far(7, 7), 0.0, "restored 7 of 7 entries, 100%, 0/s"),
        (far(0, 0), 1.0, "restored 0 of 0 entries, 0%, 0/s"),
        (far(1, 2, stopping=True), 1.0, "restored 1 of 2 entries, 50%, 1/s; stopping"),
    ],
)
def test_line(progress: RequestProgress, took_s: float, text: str) -> None:
    assert line("restored", progress, took_s) == text


def test_line_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with bar("removed", wanted=True) as tell:
        assert tell is not None
        tell(far(1, 2))
    shown = screen.getvalue()
    assert "removed 1 of 2 entries" in shown
    assert shown.endswith("\r\x1b[K")


@pytest.mark.parametrize(("screen", "wanted"), [(io.StringIO(), True), (Terminal(), False)])
def test_nothing_else_is_shown_it(
    monkeypatch: pytest.MonkeyPatch, screen: io.StringIO, wanted: bool
) -> None:
    """Neither what is no terminal, nor who asks for JSON."""
    monkeypatch.setattr(sys, "stderr", screen)
    with bar("restored", wanted=wanted) as tell:
        assert tell is None
    assert screen.getvalue() == ""
