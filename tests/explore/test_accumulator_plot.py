"""The plot of a width sweep shows every register, and what it concludes."""

from __future__ import annotations

import pytest

from macloom.errors import MacloomError
from macloom.explore.accumulator_plot import GUESSING, accumulator_widths, widths_figure
from macloom.explore.style import PALETTE
from macloom.workloads.accumulator_widths import AccumulatorWidths, WidthCell
from macloom.workloads.recipe import load_recipe


def result(recipe: str, levels: dict[int, float | None], every: str = "end") -> AccumulatorWidths:
    cells = [
        WidthCell(
            bits=bits, overflow="saturate", every=every, perplexity=level, kl_nats=0.1, top1_agreement=0.9, sums=100,
            overflows={"model.layers.0.mlp.up_proj": 0 if level == 4.0 else 7},
            skipped="narrower than one product" if level is None else None,
        )
        for bits, level in levels.items()
    ]  # fmt: skip
    return AccumulatorWidths(
        model="m", model_sha256="", recipe=load_recipe(recipe), vector="float", text="t", text_sha256="", windows=1,
        context=1, seed=0, reference_perplexity=3.9, unlimited_perplexity=4.0, product_bits=7, safe_bits=16,
        cells=tuple(cells),
    )  # fmt: skip


def test_every_register_is_a_line_over_the_widths_that_ran() -> None:
    ax = accumulator_widths([result("int4", {6: None, 7: 90.0, 8: 4.03, 9: 4.0}), result("int8", {15: 5.0, 16: 4.0})])
    lines = [line for line in ax.lines if line.get_color() in PALETTE and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in lines] == [[7, 8, 9], [15, 16]]
    assert list(lines[0].get_ydata()) == [90.0, 4.03, 4.0]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["int4", "int8", "saturate, at the end", "no overflow from here on", "within 1 %", "unquantized"]
    marked = [tuple(points.get_offsets()[0]) for points in ax.collections if len(points.get_offsets())]
    assert marked == [(8.0, 4.03), (9.0, 4.0), (16.0, 4.0), (16.0, 4.0)]


def test_perplexities_beyond_guessing_are_cut_off() -> None:
    ax = accumulator_widths([result("int4", {7: 5e4, 8: 4.0}, "16")])
    assert ax.get_ylim()[1] < 3 * GUESSING
    assert "saturate, every 16 products" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_equal_results_give_equal_figures() -> None:
    swept = [result("int4", {7: 90.0, 9: 4.0})]
    assert widths_figure(swept) == widths_figure(swept)
    assert widths_figure(swept).startswith("<svg")


def test_nothing_to_draw() -> None:
    with pytest.raises(MacloomError, match="^plot: must have at least one sweep to draw"):
        accumulator_widths([])
