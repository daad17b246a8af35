"""What commands print."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Collection, Sequence

import click


def printable(text: str) -> str:
    """Return text that stays in its line and its cell, and tells the terminal nothing.

    Names can hold any character; `--json` has them exactly.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def print_json(document: object) -> None:
    """Print a document of the wire types."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())


def human_time(time_s: float) -> str:
    """Return a time as people read it where they are, to the second.

    Args:
        time_s: seconds since the epoch.
    """
    return datetime.datetime.fromtimestamp(time_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def human_duration(seconds: float) -> str:
    """Return a duration as people read it, in the largest unit that it is a multiple of."""
    for unit, length_s in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds and seconds % length_s == 0:
            return f"{seconds / length_s:g} {unit}"
    return f"{seconds:g} s"


class Rows:
    """A table for people; lines with tabs, without headings, for programs.

    Printed in parts: the first decides how wide columns are.
    """

    def __init__(self, headings: Sequence[str], *, long: Collection[str]) -> None:
        """Begin one.

        Args:
            long: headings of what may be folded.
        """
        self._headings = headings
        self._long = long
        self._widths: list[int] = []

    @property
    def is_for_people(self) -> bool:
        """Whether it goes to a terminal."""
        return sys.stdout.isatty()

    def print(self, rows: Sequence[Sequence[str]]) -> None:
        """Print some rows, of cells that are printable."""
        if not self.is_for_people:
            for row in rows:
                click.echo("\t".join(row))
            return
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        is_first = not self._widths
        if is_first:
            columns = zip(self._headings, *rows, strict=True)
            self._widths = [max(map(cell_len, column)) for column in columns]
        table = Table(box=None, pad_edge=False, show_header=is_first)
        for heading, width in zip(self._headings, self._widths, strict=True):
            if heading in self._long:
                table.add_column(heading)
            else:
                table.add_column(heading, no_wrap=True, min_width=width)
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)


def print_rows(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, long: Collection[str]
) -> None:
    """Print a whole table; see `Rows`."""
    Rows(headings, long=long).print(rows)


def human_size(size: int | None) -> str:
    """Return a size as people read it."""
    if size is None:
        return "?"
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
