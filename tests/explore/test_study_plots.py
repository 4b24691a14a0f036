"""Plots of a calibration study and of continuations: every run and token drawn, what collapsed marked."""

from __future__ import annotations

import dataclasses
import math

import pytest

from macloom.errors import MacloomError
from macloom.explore.study_plots import calibration_figure, calibration_spread, calibration_table, divergence_steps
from macloom.explore.style import figure_of
from macloom.workloads.calibration_study import CalibrationRun, CalibrationStudy
from macloom.workloads.generation import Continuation, Generation
from macloom.workloads.lm.data import Text
from macloom.workloads.recipe import load_recipe


def run(recipe: str, text: str, windows: int, perplexity: float) -> CalibrationRun:
    return CalibrationRun(
        recipe=recipe, text=text, windows=windows, seed=0, perplexity=perplexity, kl_nats=0.1, top1_agreement=0.9,
        collapsed=perplexity > 200,
    )  # fmt: skip


STUDY = CalibrationStudy(
    model="m", model_sha256="", text="t", text_sha256="", windows=1, context=1, reference_perplexity=4.0,
    recipes=(load_recipe("int4"), load_recipe("int8")), texts=(Text(name="a", data=b"a"), Text(name="b", data=b"b")),
    counts=(1, 4), seeds=(0,),
    runs=tuple(
        run(recipe, text, windows, 4.0 + windows / 10 if recipe == "int8" else 300.0)
        for recipe in ("int4", "int8") for text in "ab" for windows in (1, 4)
    ),
)  # fmt: skip


def test_every_run_is_a_point_and_collapsed_ones_are_crosses() -> None:
    ax = calibration_spread(STUDY)
    figure_of(ax).draw_without_rendering()
    points = [tuple(p) for c in ax.collections for p in c.get_offsets() if not any(map(math.isnan, p))]
    assert len(points) == 8
    assert sorted({y for _, y in points}) == [4.1, 4.4, 300.0]
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels == ["a", "b", "collapsed", "unquantized"]
    assert [t.get_text() for t in ax.texts] == ["int4", "int8"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "4", "1", "4"]
    assert calibration_figure(STUDY) == calibration_figure(STUDY)


def test_the_table_has_every_spread_and_the_overall_ones() -> None:
    table = calibration_table(STUDY)
    assert [row[0].text for row in table.rows] == ["int4"] * 4 + ["int8"] * 4 + ["int4", "int8"]
    assert [c.shown for c in table.rows[0]] == [
        "int4",
        "a",
        "1",
        "1",
        "†300.0",
        "†-",
        "†300.0",
        "†300.0",
        "†0.100",
        "1",
    ]
    assert [c.shown for c in table.rows[-1]][:6] == ["int8", "all", "all", "4", "4.250", "0.17"]
    assert "holds runs no better than" in table.plain()


def continuation(name: str, kl: tuple[float, ...], departs: int | None) -> Continuation:
    return Continuation(
        name=name, recipe=None, tokens=(1,) * len(kl), text="x", departs=departs, kl_nats=kl,
        collapsed=math.isinf(kl[0]),
    )  # fmt: skip


def test_divergences_are_lines_with_a_mark_where_the_text_departs() -> None:
    found = Generation(
        model="m", model_sha256="", prompt="p", temperature=0.0, seed=0,
        continuations=(
            continuation("unquantized", (0.0,) * 3, None), continuation("int8", (0.1, 1e-9, 0.2), 2),
            continuation("int4", (math.inf,) * 3, None),
        ),
    )  # fmt: skip
    ax = divergence_steps(found)
    figure_of(ax).draw_without_rendering()
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.1, 1e-7, 0.2], [1e3] * 3]
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels == ["int8", "int4 (collapsed)", "its text departs here"]
    marked = [tuple(c.get_offsets()[0]) for c in ax.collections if len(c.get_offsets())]
    assert (2.0, 0.2) in marked
    with pytest.raises(MacloomError, match="at least one recipe to draw"):
        divergence_steps(dataclasses.replace(found, continuations=found.continuations[:1]))
