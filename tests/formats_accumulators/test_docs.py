"""The examples of docs/arithmetic.md run and print what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.formats import gemm, get_accumulator, get_format

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "arithmetic.md").read_text(encoding="utf-8")


def test_examples_print_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    codes, texts = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S) for kind in ("python", "text"))
    assert len(codes) == 2
    exec(codes[0], {})
    assert capsys.readouterr().out == texts[0]
    exec(codes[1], {})
    assert capsys.readouterr().out.count("[") == 5
    ones = np.ones((2, 64), np.float32)
    with pytest.raises(MacloomError) as error:
        gemm(get_format("int8").encode(ones), get_format("ovp4").encode(ones), "int12:wrap")
    assert str(error.value) == texts[1].strip()


def test_every_accumulator_in_the_table_has_the_name_that_it_is_given() -> None:
    table = re.search(r"\| name \| what the register is \|.*?\n\n", PAGE, re.S)
    assert table is not None
    rows = [line.split("|")[1] for line in table[0].splitlines()[2:] if line.strip()]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) >= 15
    for name in names:
        assert get_accumulator(get_accumulator(name).name) == get_accumulator(name)
