"""Heat maps of the array: what they draw is what the map holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from macloom.arch import Array, ProcessingElement, load_accelerator
from macloom.errors import MacloomError
from macloom.explore.heat_plot import array_heat, heat_figure, operation_heat
from macloom.explore.records import OpRow
from macloom.explore.result import DemoResult
from macloom.explore.style import new_axes, svg_text
from macloom.sim import Result, simulate
from macloom.sim.heat import ArrayMap, run_map


@pytest.fixture(scope="module")
def simulated() -> Result:
    base = load_accelerator("int8-sa")
    return simulate("tiny", replace(base, array=replace(base.array, rows=24, cols=20, count=2)), "int8")


def _painted(ax, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the value at the middle of each element, from the rectangles that were drawn."""
    found = np.full(shape, np.nan)
    for place, mesh in enumerate(ax.collections):
        corners, values = mesh.get_coordinates(), np.asarray(mesh.get_array())
        left = place * 1.04 * shape[2]
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                (x0, y0), (x1, y1) = corners[i, j], corners[i + 1, j + 1]
                found[place, int(y0) : int(y1), round(x0 - left) : round(x1 - left)] = value
    return found


def test_every_element_has_the_colour_of_its_utilisation(simulated: Result) -> None:
    found = run_map(simulated.ops, simulated.accelerator.array)
    ax = array_heat(found)
    assert np.array_equal(_painted(ax, (2, 24, 20)), found.utilisation)
    assert ax.get_title(loc="left") == f"whole run: {100 * simulated.utilisation:.3g} %"
    assert len(np.unique(found.utilisation)) > 1


def test_an_even_array_is_one_rectangle() -> None:
    even = ArrayMap(name="op", active=np.full((1, 256, 256), 5), cycles=10)
    (mesh,) = array_heat(even, bar=False).collections
    assert np.asarray(mesh.get_array()).tolist() == [[0.5]]


def test_operations_follow_one_another_and_fill_the_time(simulated: Result) -> None:
    ax = operation_heat(simulated.ops, simulated.accelerator.array)
    starts, ends = (
        [edge(p) for p in ax.patches] for edge in (lambda p: p.get_x(), lambda p: p.get_x() + p.get_width())
    )
    assert starts[0] == 0
    assert ends[-1] == pytest.approx(1)
    assert starts[1:] == pytest.approx(ends[:-1])
    shares = [op.cycles / simulated.cycles for op in simulated.ops]
    assert [p.get_width() for p in ax.patches] == pytest.approx(shares)
    texts = [t.get_text() for t in ax.texts]
    pes = simulated.accelerator.array.pes
    for op, text in zip(simulated.ops, texts, strict=True):
        assert text == (f"{100 * op.utilisation(pes):.3g} %" if op.unit == "array" else "vector unit")


def test_the_figure_shows_the_run_and_its_longest_products_once(simulated: Result) -> None:
    figure = heat_figure(simulated.ops, simulated.accelerator.array, "a title")
    times, whole, *products, bar = figure.axes
    assert times.get_title(loc="left") == "a title"
    assert whole.get_title(loc="left").startswith("whole run")
    assert 1 <= len(products) <= 4
    assert len({p.get_title(loc="left") for p in products}) == len(products)
    assert bar.get_ylabel() == "cycles in which an element multiplies"


def test_records_of_a_result_draw_the_same_way(result: DemoResult) -> None:
    run = result.runs[0]
    array = Array(rows=32, cols=32, pe=ProcessingElement(significand_bits=8))
    assert isinstance(run.ops[0], OpRow)
    first, second = (svg_text(heat_figure(run.ops, array)) for _ in range(2))
    assert first == second


def test_plots_draw_on_the_axes_they_are_given(simulated: Result) -> None:
    array, ax = simulated.accelerator.array, new_axes()
    assert operation_heat(simulated.ops, array, ax) is ax
    assert array_heat(run_map(simulated.ops, array), ax) is ax


def test_nothing_to_draw_is_refused(simulated: Result) -> None:
    for draw in (heat_figure, operation_heat):
        with pytest.raises(MacloomError, match=r"^plot: must have at least one operation to draw$"):
            draw([], simulated.accelerator.array)
