"""The table's layout, against what it must look like in a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from macloom.errors import MacloomError
from macloom.explore.text_table import Cell, Column, Mark, Table, print_table, significant


def _table() -> Table:
    columns = (
        Column(title="format", left=True),
        Column(title="ppl", group="tiny"),
        Column(title="KL", unit="nats", group="tiny"),
        Column(title="on", left=True, group="opt"),
        Column(title="energy", unit="J", group="opt", gap=1),
    )
    rows = (
        (Cell(text="int4"), *(Cell(text=t, mark=Mark.COLLAPSED) for t in ("300.0", "4.0")), Cell(text="sa"),
         Cell(text="1.5", mark=Mark.BEST)),
        (Cell(text="fp16"), Cell(text="3.0"), Cell(text="0.0"), Cell(text="big-sa", notes="ab"),
         Cell(text="-", mark=Mark.MISSING)),
    )  # fmt: skip
    return Table(
        title="Cost", columns=columns, rows=rows, caption=("Lower is better.",), notes=(("a", "no"), ("b", "why"))
    )


def test_plain_layout_is_aligned_grouped_and_annotated() -> None:
    assert _table().plain() == (
        "Cost\n"
        "\n"
        "        --- tiny ---  ----- opt ------\n"
        "format     ppl    KL  on        energy\n"
        "                nats                 J\n"
        "--------------------------------------\n"
        "int4    †300.0  †4.0  sa           1.5\n"
        "fp16       3.0   0.0  big-sa ab      -\n"
        "\n"
        "Lower is better.\n"
        "a  no\n"
        "b  why"
    )


def test_every_line_of_the_grid_fits_the_stated_width() -> None:
    table = _table()
    assert max(len("".join(text for text, _ in line)) for line in table.lines()) == table.width


def test_rich_prints_the_same_text() -> None:
    file = io.StringIO()
    Console(file=file, width=120).print(_table())
    assert [line.rstrip() for line in file.getvalue().splitlines()] == [
        line.rstrip() for line in _table().plain("─").splitlines()
    ]


def test_an_ascii_terminal_gets_ascii_rules() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    Console(file=file, width=120).print(_table())
    file.seek(0)
    assert "-----" in file.read()


def test_print_table_writes_table_and_closing_lines_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(_table(), "Next:", "  [not markup]")
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[-2:] == ["Next:", "  [not markup]"]
    assert "†300.0" in printed.out


def test_a_long_caption_wraps_at_the_width_of_the_table() -> None:
    table = Table(title="t", columns=(Column(title="a"),), rows=((Cell(text="1"),),), caption=("word " * 60,))
    assert len(table.legend()) > 1
    assert max(map(len, table.legend())) <= 80


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(MacloomError, match=r"^table\.rows\[0\]: must hold 1 cells, not 2$"):
        Table(title="t", columns=(Column(title="a"),), rows=((Cell(text="1"), Cell(text="2")),))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "inf"), (0.0, "0"), (9.99999, "10.000"), (123456.0, "123456"), (1e7, "1.00e+07"), (-0.5, "-0.5000")],
)
def test_significant_digits(value: float | None, text: str) -> None:
    assert significant(value) == text
