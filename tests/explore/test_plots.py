"""Plots: what they draw, that labels keep apart, and that the SVG is the same every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macloom.errors import MacloomError
from macloom.explore.labels import Box, place
from macloom.explore.pareto_plot import Point, accuracy_energy, accuracy_energy_points, front_of
from macloom.explore.plots import energy_bars, latency_bars, roofline, value_strips
from macloom.explore.result import DemoResult
from macloom.explore.style import eng, figure_of, format_styles, new_axes, svg_text


def _texts(ax) -> list[str]:
    return [t.get_text() for t in ax.texts]


def _ends(ax, rows: int) -> list[float]:
    """Return where the stacked bar of each row ends."""
    bars = [(round(p.get_y() + p.get_height() / 2), p.get_x() + p.get_width()) for p in ax.patches]
    return [max(end for row, end in bars if row == i) for i in range(rows)]


def test_points_are_every_run_of_the_model_itself(result: DemoResult) -> None:
    points = accuracy_energy_points(result, "tiny-outlier")
    assert len(points) == len(result.runs_of("tiny-outlier", "prefill"))
    int4 = [p for p in points if p.format == "int4"]
    assert all(p.collapsed for p in int4)
    assert {p.accelerator for p in int4} == {"int8-sa", "olive-sa", "fp16-sa"}


def test_collapsed_points_are_on_no_front() -> None:
    points = [
        Point(format="a", accelerator="x", energy_j=1.0, error=5.0, collapsed=True),
        Point(format="b", accelerator="x", energy_j=2.0, error=1.0),
        Point(format="c", accelerator="x", energy_j=3.0, error=0.5),
        Point(format="d", accelerator="x", energy_j=4.0, error=0.7),
    ]
    assert [p.format for p in front_of(points)] == ["b", "c"]


def test_accuracy_energy_names_each_format_once(result: DemoResult) -> None:
    ax = accuracy_energy(accuracy_energy_points(result, "tiny-outlier"))
    assert sorted(_texts(ax)) == sorted(f.name for f in result.formats)
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == ["Pareto front", "fp16-sa", "int8-sa", "olive-sa", "collapsed (not ranked)"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_latency_bars_add_up_to_the_latency(result: DemoResult) -> None:
    runs = result.runs_of("opt-6.7b", "decode")[:4]
    ax = latency_bars(runs)
    assert _ends(ax, 4) == pytest.approx([r.seconds for r in runs])
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"{r.format} on {r.accelerator}" for r in runs]


def test_energy_bars_add_up_and_leave_out_what_no_run_has(result: DemoResult) -> None:
    runs = result.runs_of("opt-6.7b", "prefill")[:3]
    ax = energy_bars(runs)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["MAC", "decoder", "SRAM", "DRAM", "vector unit"]
    assert _ends(ax, 3) == pytest.approx([r.energy_j for r in runs])
    without = [replace(r, energy=r.energy | {"decoder_j": 0.0}) for r in runs]
    assert "decoder" not in [t.get_text() for t in energy_bars(without).get_legend().get_texts()]


def test_roofline_has_every_product_under_the_roof(result: DemoResult) -> None:
    runs = [r for p in ("prefill", "decode") if (r := result.run("ovp4", "olive-sa", "opt-6.7b", p))]
    ax = roofline(runs)
    (roof,) = [line for line in ax.lines if str(line.get_label()).startswith("roof: ")]
    assert list(roof.get_ydata())[-1] == runs[0].peak_macs_per_s
    points = [tuple(p) for c in ax.collections for p in c.get_offsets()]
    assert len(points) == sum(1 for r in runs for op in r.ops if op.macs)
    bandwidth = runs[0].dram_bits_per_s / 8
    assert all(y <= min(runs[0].peak_macs_per_s, x * bandwidth) * 1.001 for x, y in points)


def test_roofline_lowers_the_roof_for_fused_elements(result: DemoResult) -> None:
    run = result.run("int8", "olive-sa", "opt-6.7b", "prefill")
    assert run is not None
    fused = replace(run, ops=tuple(replace(op, pes_per_mac=4) for op in run.ops))
    (roof,) = [line for line in roofline([fused]).lines if str(line.get_label()).startswith("roof: ")]
    assert list(roof.get_ydata())[-1] == run.peak_macs_per_s / 4


def test_roofline_of_two_accelerators_is_refused(result: DemoResult) -> None:
    runs = [r for r in result.runs_of("opt-6.7b", "prefill") if r.format == "int8"]
    with pytest.raises(MacloomError, match=r"^roofline: must get runs of one accelerator, not several"):
        roofline(runs)


def test_value_strips_have_one_row_per_format(result: DemoResult) -> None:
    ax = value_strips(result.values[0])
    assert [t.get_text() for t in ax.get_yticklabels()] == [s.format for s in result.values[0].strips]
    assert {"25.0%", "24.0"} <= set(_texts(ax))


def test_plots_draw_on_the_axes_they_are_given(result: DemoResult) -> None:
    runs = result.runs_of("opt-6.7b", "prefill")[:2]
    same = [r for r in runs if r.accelerator == runs[0].accelerator]
    for draw in (
        lambda ax: latency_bars(runs, ax),
        lambda ax: energy_bars(runs, ax),
        lambda ax: roofline(same, ax),
        lambda ax: value_strips(result.values[0], ax),
        lambda ax: accuracy_energy(accuracy_energy_points(result, "tiny"), ax),
    ):
        ax = new_axes()
        assert draw(ax) is ax


@pytest.mark.parametrize("draw", [latency_bars, energy_bars, roofline])
def test_nothing_to_draw_is_refused(draw) -> None:
    with pytest.raises(MacloomError, match=r"^plot: must have at least one run to draw$"):
        draw([])


def test_no_point_and_no_strip_is_refused(result: DemoResult) -> None:
    with pytest.raises(MacloomError, match=r"^plot: must have at least one point to draw$"):
        accuracy_energy([])
    with pytest.raises(MacloomError, match=r"^plot: must have at least one format to draw$"):
        value_strips(replace(result.values[0], strips=()))


def test_styles_do_not_depend_on_other_plots_and_do_not_repeat() -> None:
    names = [f"format{i}" for i in range(24)]
    styles = format_styles(names)
    assert len({(s.colour, s.marker) for s in styles.values()}) == 24
    assert len({s.colour for s in list(styles.values())[:12]}) == 12


def test_svg_is_well_formed_and_carries_no_time(result: DemoResult) -> None:
    svg = svg_text(figure_of(value_strips(result.values[0])), "p-", 'a "label" & more')
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == 'a "label" & more'
    assert root.attrib["role"] == "img"
    assert not re.search(r"\b20\d\d-\d\d-\d\d|<metadata", svg, re.IGNORECASE)
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert len(ids) == len(set(ids))
    assert all(i.startswith("p-") for i in ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', svg)) <= set(ids)


def test_ink_follows_the_page(result: DemoResult) -> None:
    svg = svg_text(figure_of(latency_bars(result.runs_of("tiny", "prefill")[:2])))
    assert "var(--plot-ink, #1B1F24)" in svg
    assert not re.search(r"(?<!, )#1b1f24", svg, re.IGNORECASE)


SCRIPT = """
import hashlib
from macloom.explore.pareto_plot import Point, accuracy_energy
from macloom.explore.style import figure_of, svg_text
points = [Point(format=f"f{i}", accelerator="ab"[i % 2], energy_j=1 + i, error=1 / (1 + i)) for i in range(6)]
print(hashlib.sha256(svg_text(figure_of(accuracy_energy(points))).encode()).hexdigest())
"""


def test_svg_is_the_same_in_another_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), min_size=1, max_size=12, unique=True))
def test_labels_overlap_neither_points_nor_each_other_where_there_is_room(cells: list[tuple[int, int]]) -> None:
    points = [(100.0 + 120 * x, 100.0 + 120 * y) for x, y in cells]
    obstacles = [Box(x0=x - 4, x1=x + 4, y0=y - 4, y1=y + 4) for x, y in points]
    boxes = place(points, [(60.0, 12.0)] * len(points), Box(x0=0, y0=0, x1=2600, y1=2600), obstacles)
    for i, box in enumerate(boxes):
        assert all(box.overlap(o) == 0 for o in obstacles)
        assert all(box.overlap(other) == 0 for other in boxes[:i])


def test_a_label_without_room_takes_the_spot_of_least_overlap() -> None:
    wall = Box(x0=-1000, x1=1000, y0=-1000, y1=0)
    (box,) = place([(0.0, 0.0)], [(40.0, 10.0)], Box(x0=-1000, y0=-1000, x1=1000, y1=1000), [wall])
    assert box.y0 >= 0


@pytest.mark.parametrize(
    ("value", "text"), [(999.6, "1 kB"), (0.9996, "1 B"), (1e18, "1e+18 B"), (12345.0, "12.3 kB"), (3e-13, "300 fB")]
)
def test_engineering_prefixes(value: float, text: str) -> None:
    assert eng(value, "B") == text
