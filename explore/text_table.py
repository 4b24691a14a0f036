"""A table with grouped columns, marks and notes, laid out for terminals of fixed-width type.

The same record is printed by rich, written into the HTML report and compared in tests.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from macloom.errors import MacloomError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class Mark(StrEnum):
    """How a cell is set off."""

    PLAIN = "plain"
    BEST = "best"
    COLLAPSED = "collapsed"
    MISSING = "missing"


# What rich makes of a mark. Marks also change the text (a dagger), so that nothing hangs on colour.
RICH_STYLES = {Mark.PLAIN: "", Mark.BEST: "bold green", Mark.COLLAPSED: "dim", Mark.MISSING: "dim"}
COLLAPSED_SIGN = "†"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: `title` over `unit`, under the heading of its `group`, `gap` blanks after the column before it."""

    title: str
    unit: str = ""
    group: str = ""
    left: bool = False
    gap: int = 2


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Text with a mark and the footnotes it points to."""

    text: str
    mark: Mark = Mark.PLAIN
    notes: str = ""

    @property
    def shown(self) -> str:
        return (COLLAPSED_SIGN if self.mark is Mark.COLLAPSED else "") + self.text


@dataclass(frozen=True, kw_only=True)
class Table:
    """A titled table with a caption (sentences under it) and footnotes (letter to text).

    >>> print(Table(title="Cost", columns=(Column(title="format", left=True), Column(title="energy", unit="mJ")),
    ...             rows=((Cell(text="int4"), Cell(text="1.5", mark=Mark.BEST)),)).plain())
    Cost
    <BLANKLINE>
    format  energy
                mJ
    --------------
    int4       1.5
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise MacloomError(f"table.rows[{i}]: must hold {len(self.columns)} cells, not {len(row)}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Characters of each column, footnote letters included."""
        widths = [max(len(c.title), len(c.unit)) for c in self.columns]
        for row in self.rows:
            for i, cell in enumerate(row):
                widths[i] = max(widths[i], len(cell.shown) + (len(cell.notes) + 1 if cell.notes else 0))
        return tuple(widths)

    @property
    def width(self) -> int:
        return sum(self.widths) + sum(c.gap for c in self.columns[1:])

    def groups(self) -> Iterator[tuple[str, int, int]]:
        """Yield (heading, first column, one past the last) of each run of columns with one group."""
        start = 0
        for i in range(1, len(self.columns) + 1):
            if i == len(self.columns) or self.columns[i].group != self.columns[start].group:
                yield self.columns[start].group, start, i
                start = i

    def lines(self, dash: str = "-") -> Iterator[list[tuple[str, Mark | None]]]:
        """Yield the lines of the grid as (text, mark) pieces; headings have no mark."""
        widths = self.widths

        def line(texts: Sequence[str]) -> str:
            parts = [
                (" " * c.gap if i else "") + _align(t, w, c.left)
                for i, (t, c, w) in enumerate(zip(texts, self.columns, widths, strict=True))
            ]
            return "".join(parts).rstrip()

        if any(c.group for c in self.columns):
            heads = ""
            for heading, first, last in self.groups():
                span = sum(widths[first:last]) + sum(c.gap for c in self.columns[first + 1 : last])
                heads += " " * (self.columns[first].gap if first else 0)
                heads += f" {heading} ".center(span, dash) if heading else " " * span
            yield [(heads.rstrip(), None)]
        yield [(line([c.title for c in self.columns]), None)]
        if any(c.unit for c in self.columns):
            yield [(line([c.unit for c in self.columns]), None)]
        yield [(dash * self.width, None)]
        for row in self.rows:
            pieces: list[tuple[str, Mark | None]] = []
            for i, (cell, column, width) in enumerate(zip(row, self.columns, widths, strict=True)):
                text = cell.shown + (" " + cell.notes if cell.notes else "")
                aligned = text if i == len(row) - 1 and column.left else _align(text, width, column.left)
                pieces += [(" " * column.gap, Mark.PLAIN)] * (i > 0) + [(aligned, cell.mark)]
            yield pieces

    def legend(self) -> list[str]:
        """Return caption and footnotes, wrapped to the width of the table."""
        width = max(self.width, 80)
        lines = [line for sentence in self.caption for line in textwrap.wrap(sentence, width)]
        for letter, text in self.notes:
            lines += textwrap.wrap(f"{letter}  {text}", width, subsequent_indent="   ")
        return lines

    def plain(self, dash: str = "-") -> str:
        """Return the table as text without colours."""
        parts = [self.title, "", *("".join(t for t, _ in line) for line in self.lines(dash))]
        if self.caption or self.notes:
            parts += ["", *self.legend()]
        return "\n".join(parts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        dash = "-" if options.ascii_only else "─"
        yield Text(self.title, style="bold")
        yield Text("")
        for line in self.lines(dash):
            yield Text(no_wrap=True, overflow="ignore").join(
                Text(text, style="bold" if mark is None else RICH_STYLES[mark]) for text, mark in line
            )
        yield Text("")
        for text in self.legend():
            yield Text(text, style="dim", no_wrap=True, overflow="ignore")


def _align(text: str, width: int, left: bool) -> str:
    return text.ljust(width) if left else text.rjust(width)


def print_table(table: Table, *after: str) -> None:
    """Print `table` on stdout, then the lines of `after`; the lines keep their width in a file or a pipe.

    Colours appear on a terminal only, and not where `NO_COLOR` is set.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, width=max(table.width, 80))
    console.print(table)
    for text in after:
        console.print(text, markup=False)


def significant(value: float | None, digits: int = 4) -> str:
    """Write a number with `digits` significant digits, without an exponent where that stays short.

    >>> [significant(v) for v in (3.14159, 1234.56, 0.00123456, 98765432.0, 0.0, None)]
    ['3.142', '1235', '0.001235', '9.88e+07', '0', 'inf']
    """
    if value is None:
        return "inf"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 10**6:
        return f"{value:.2e}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, decimals)}f}"
