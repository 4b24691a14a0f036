"""Accuracy against energy, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from macloom.explore.labels import label_points
from macloom.explore.pareto import pareto_front
from macloom.explore.result import DemoResult
from macloom.explore.style import (
    MARKERS,
    MUTED,
    PAPER,
    Style,
    axes_or_new,
    format_styles,
    legend_below,
    plot_style,
    powers_of_ten,
    require_data,
)

KL_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class Point:
    """One format on one accelerator: energy to the right, error upwards. Collapsed points are on no front."""

    format: str
    accelerator: str
    energy_j: float
    error: float
    collapsed: bool = False


def accuracy_energy_points(result: DemoResult, model: str, phase: str = "prefill") -> list[Point]:
    """Return a point for every pair that ran: energy of the model's own trace, KL on the same model."""
    points = []
    for run in result.runs_of(model, phase):
        cell = result.cell(run.format, model)
        if cell is not None and cell.kl_nats is not None:
            points.append(
                Point(
                    format=run.format,
                    accelerator=run.accelerator,
                    energy_j=run.energy_j,
                    error=max(cell.kl_nats, KL_FLOOR),
                    collapsed=cell.collapsed,
                )
            )
    return points


def front_of(points: Sequence[Point]) -> list[Point]:
    """Return the points that did not collapse and that no other such point beats, by energy."""
    alive = [p for p in points if not p.collapsed]
    front = [alive[i] for i in pareto_front([(p.energy_j, p.error) for p in alive])]
    return sorted(front, key=lambda p: (p.energy_j, p.error))


def accuracy_energy(points: Sequence[Point], ax: Any = None, *, styles: Mapping[str, Style] | None = None) -> Any:
    """Scatter accuracy loss over energy, both logarithmic, with the Pareto front as a line.

    Colour stands for the format, shape for the accelerator. Each format is named once, at its point of
    lowest energy. Collapsed points are hollow.
    """
    require_data(points, "point")
    names = list(dict.fromkeys(p.format for p in points))
    accelerators = sorted({p.accelerator for p in points})
    styles = styles or format_styles(names)
    ax = axes_or_new(ax, 7.4, 4.6)
    with plot_style():
        ax.set_xscale("log")
        ax.set_yscale("log")
        front = front_of(points)
        corners = _staircase([(p.energy_j, p.error) for p in front])
        if corners:
            ax.plot(*zip(*corners, strict=True), color=MUTED, linewidth=1.2, zorder=2, label="Pareto front")
        for p in points:
            colour = styles[p.format].colour
            ax.scatter(
                [p.energy_j], [p.error], s=46, marker=MARKERS[accelerators.index(p.accelerator) % len(MARKERS)],
                facecolors="none" if p.collapsed else colour, edgecolors=colour if p.collapsed else PAPER,
                linewidths=1.2 if p.collapsed else 0.7, zorder=3,
            )  # fmt: skip
        for i, name in enumerate(accelerators):
            ax.scatter([], [], s=40, marker=MARKERS[i % len(MARKERS)], color=MUTED, label=name)
        if any(p.collapsed for p in points):
            ax.scatter([], [], s=40, facecolors="none", edgecolors=MUTED, label="collapsed (not ranked)")
        _widen(ax, [p.energy_j for p in points], [p.error for p in points])
        _energy_axis(ax.xaxis)
        powers_of_ten(ax.yaxis)
        ax.set_xlabel("energy (modelled)")
        ax.set_ylabel("KL from the unquantized model, nats per byte")
        legend_below(ax, 5)
        named = [min((p for p in points if p.format == n), key=lambda p: p.energy_j) for n in names]
        named.sort(key=lambda p: (p not in front, p.energy_j))
        places = [(p.energy_j, p.error) for p in named]
        label_points(ax, places, [p.format for p in named], [(p.energy_j, p.error) for p in points], lines=[corners])
    return ax


def _staircase(front: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of the line that bounds what the points of a front dominate."""
    corners = list(front[:1])
    for (x, y), (_, former) in zip(front[1:], front, strict=False):
        corners += [(x, former), (x, y)]
    return corners


def _widen(ax: Any, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Leave room for labels around logarithmic data."""
    for values, setter in ((xs, ax.set_xlim), (ys, ax.set_ylim)):
        low, high = min(values), max(values)
        margin = max((high / low) ** 0.12, 1.35)
        setter(low / margin, high * margin)


def _energy_axis(axis: Any) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axis.set_major_formatter(EngFormatter(unit="J"))
    axis.set_minor_formatter(NullFormatter())
