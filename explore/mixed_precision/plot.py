"""The frontier of a precision search: loss over cost, as predicted from single groups and as measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from macloom.explore.labels import label_points
from macloom.explore.mixed_precision.costs import COSTS
from macloom.explore.pareto import pareto_front
from macloom.explore.style import (
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    axes_or_new,
    figure_of,
    legend_below,
    new_axes,
    plot_style,
    powers_of_ten,
    require_data,
    svg_text,
)

if TYPE_CHECKING:
    from macloom.explore.mixed_precision.result import PrecisionPoint, PrecisionSearch

FLOOR = 1e-7  # nats; what is below is drawn here
SIZE = 7.4, 4.6
AXES = {"kl": "KL from the unquantized model", "loss": "increase of the loss"}


def frontier(found: PrecisionSearch, ax: Any = None) -> Any:
    """Draw the points of every method and of every format alone, measured ones filled and predicted ones hollow.

    A dotted line joins the two where they are apart, and a stepped one the measured points that no other one beats.
    Without measurements only predictions are drawn; collapsed recipes are crosses. Points of several methods at one
    place stay visible: those of earlier methods are larger and lie below.
    """
    require_data(found.points, "point")
    ax = axes_or_new(ax, *SIZE)
    methods = list(dict.fromkeys(p.method for p in found.points))
    with plot_style():
        ax.set_yscale("log")
        for i, method in enumerate(methods):
            points = [p for p in found.points if p.method == method]
            _series(ax, points, PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], method, below=len(methods) - i)
        _series(ax, found.uniform, INK, "X", "one format everywhere")
        front = _front([_measured(p) for p in found.points + found.uniform if not p.collapsed])
        ax.plot(
            *zip(*front, strict=True), color=MUTED, linewidth=1.0, drawstyle="steps-post", zorder=1, label="frontier"
        )
        ax.scatter([], [], s=30, facecolors="none", edgecolors=MUTED, label="predicted")
        if any(p.collapsed for p in found.points + found.uniform):
            ax.scatter([], [], s=30, marker="x", color=MUTED, label="collapsed (not ranked)")
        _axes(ax, found)
        names = [f"{next(iter(p.formats.values()))}" for p in found.uniform]
        places = [_measured(p) for p in found.uniform]
        others = [_measured(p) for p in found.points]
        legend_below(ax, 5)
        corners = [(b[0], a[1]) for a, b in pairwise(front)]
        line = sorted([*front, *corners], key=lambda place: (place[0], -place[1]))
        label_points(ax, places, names, [*places, *others], lines=[line] if len(line) > 1 else [])
    return ax


def _front(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return sorted(places[i] for i in pareto_front(places))


def _series(ax: Any, points: Sequence[PrecisionPoint], colour: str, marker: str, label: str, *, below: int = 0) -> None:
    """Draw the points of one method; `below` is how many others may lie on top of them."""
    measured, predicted = [_measured(p) for p in points], [_predicted(p) for p in points]
    for there, here in zip(predicted, measured, strict=True):
        ax.plot(*zip(there, here, strict=True), color=colour, linewidth=0.7, linestyle=":", zorder=2)
    size, depth = 16 * 2**below, 4 - below / 100
    ax.scatter(*zip(*predicted, strict=True), s=size, marker=marker, facecolors="none", edgecolors=colour,
               linewidths=0.9, zorder=depth - 1)  # fmt: skip
    alive = [place for place, p in zip(measured, points, strict=True) if not p.collapsed]
    dead = [place for place, p in zip(measured, points, strict=True) if p.collapsed]
    ax.scatter([x for x, _ in alive], [y for _, y in alive], s=size, marker=marker, color=colour, zorder=depth,
               linewidths=0.6, edgecolors="white", label=label)  # fmt: skip
    if dead:
        ax.scatter(*zip(*dead, strict=True), s=size, marker="x", color=colour, zorder=depth)


def _predicted(point: PrecisionPoint) -> tuple[float, float]:
    return point.predicted_cost, max(FLOOR, min(point.predicted_loss_nats, 1e3))


def _measured(point: PrecisionPoint) -> tuple[float, float]:
    if point.measured_loss_nats is None or point.measured_cost is None:
        return _predicted(point)
    return point.measured_cost, max(FLOOR, min(point.measured_loss_nats, 1e3))


def _axes(ax: Any, found: PrecisionSearch) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter

    cost = COSTS.get(found.cost)
    ax.xaxis.set_major_formatter(EngFormatter(unit=cost.unit))
    ax.margins(0.08, 0.12)
    low, high = ax.get_ylim()
    powers_of_ten(ax.yaxis)
    if high / low < 30:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        ax.yaxis.set_minor_formatter(NullFormatter())
    where = f" on {found.machine['accelerator']}" if found.machine["accelerator"] else ""
    ax.set_xlabel(f"{cost.label}, {found.map.model}{where}")
    ax.set_ylabel(f"{AXES[found.loss]}, nats per {found.map.unit}")


def frontier_figure(found: PrecisionSearch) -> str:
    """Return the frontier as SVG text with a white page, the same text for the same search."""
    ax = frontier(found, new_axes(*SIZE))
    figure_of(ax).set_facecolor("white")
    return svg_text(figure_of(ax), label=f"mixed precision of {found.map.model}: loss against {found.cost}")
