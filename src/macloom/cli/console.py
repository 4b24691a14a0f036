"""What a verb prints: data on stdout, notes and progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


def jsonable(value: Any) -> Any:
    """Return `value` as strict JSON can hold it: NaN becomes null, infinities the strings "inf" and "-inf".

    >>> jsonable({"codes": (1.0, float("nan"), float("-inf"))})
    {'codes': [1.0, None, '-inf']}
    """
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


@dataclass(frozen=True, kw_only=True)
class Console:
    """Where a verb speaks: `verbosity` is -1 with `-q`, 1 with `-v`, else 0."""

    json: bool = False
    verbosity: int = 0
    seed: int = 0

    def emit(self, data: Any, show: Callable[[], None]) -> None:
        """Print `data` as JSON if the user asked for it, else call `show`, which prints it for reading."""
        if self.json:
            print(json.dumps(jsonable(data), indent=2, allow_nan=False))
        else:
            show()

    def note(self, text: str, *, detail: bool = False) -> None:
        """Print a line on stderr, unless `-q`; a `detail` only with `-v`."""
        if self.verbosity >= (1 if detail else 0):
            print(text, file=sys.stderr)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show on a terminal's stderr that something slow is under way; elsewhere note it once."""
        if self.verbosity < 0:
            yield
        elif sys.stderr.isatty():
            from rich.console import Console as RichConsole

            with RichConsole(stderr=True).status(text):
                yield
        else:
            self.note(text)
            yield

    @contextmanager
    def progress(self, title: str) -> Iterator[Callable[[str, int, int], None]]:
        """Yield a function (text, steps done, steps in all) that shows progress on stderr.

        A terminal shows a bar, anything else one line per step, and `-q` nothing.
        """
        if self.verbosity < 0:
            yield lambda text, done, total: None
        elif sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            left = TimeRemainingColumn(elapsed_when_finished=True)
            columns = (BarColumn(), MofNCompleteColumn(), left, TextColumn("left  {task.description}"))
            with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
                task = bar.add_task(title, total=None)
                yield lambda text, done, total: bar.update(task, description=text, completed=done, total=total)
        else:
            yield lambda text, done, total: self.note(f"{title}: step {done + 1} of {total}: {text}")

    def table(
        self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: Container[str]
    ) -> None:
        """Print a table on stdout; the columns named in `left` hold words, the others numbers."""
        from macloom.explore.text_table import Cell, Column, Table, print_table

        print_table(
            Table(
                title=title,
                columns=tuple(Column(title=column, left=column in left) for column in columns),
                rows=tuple(tuple(Cell(text=str(cell)) for cell in row) for row in rows),
            )
        )

    def lines(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Print `name  value` lines on stdout with the values in one column."""
        pairs = list(pairs)
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            print(f"{name:<{width}}  {value}")
