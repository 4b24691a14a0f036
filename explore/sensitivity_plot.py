"""The sensitivity map as a heat map: groups of operations down, formats and operand roles across."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from macloom.explore.style import (
    INK,
    MUTED,
    PAPER,
    axes_or_new,
    figure_of,
    new_axes,
    plot_style,
    power_of_ten,
    require_data,
    svg_text,
)
from macloom.explore.text_table import COLLAPSED_SIGN
from macloom.workloads.groups import layer_of, stack_of

if TYPE_CHECKING:
    from macloom.workloads.sensitivity_map import SensitivityMap

COLOURS = "magma_r"  # even steps of lightness, also for colour-blind readers; dark is harm
DECADES = 5  # that the colours cover, down from the worst cell
GAP = 0.35  # between formats, in cells
SHORT = {"activation": "act.", "probability": "prob."}


def sensitivity_heat(found: SensitivityMap, ax: Any = None) -> Any:
    """Draw the KL divergence that each group alone causes, on a logarithmic scale of colours.

    A group without operands of a role is blank; a cell that collapsed carries a dagger.
    """
    require_data(found.cells, "cell")
    width, height = figure_size(found)
    ax = axes_or_new(ax, width, height)
    rows, columns = found.groups, [(fmt, role) for fmt in found.formats for role in found.roles]
    left = [i + GAP * found.formats.index(fmt) for i, (fmt, _) in enumerate(columns)]
    levels = np.full((len(rows), len(columns)), math.nan)
    with plot_style():
        for y, group in enumerate(rows):
            for x, (fmt, role) in enumerate(columns):
                cell = found.cell(group, role, fmt)
                if cell is not None:
                    levels[y, x] = cell.kl_nats
        _draw(ax, levels, left, found.unit)
        for y, group in enumerate(rows):
            for x, (fmt, role) in enumerate(columns):
                cell = found.cell(group, role, fmt)
                if cell is not None and cell.collapsed:
                    ax.text(left[x] + 0.5, y + 0.5, COLLAPSED_SIGN, ha="center", va="center", color=PAPER, fontsize=8)
        _label(ax, found, columns, left)
    return ax


def _draw(ax: Any, levels: np.ndarray, left: list[float], unit: str) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    finite = levels[np.isfinite(levels) & (levels > 0)]
    top = 10.0 ** math.ceil(math.log10(finite.max())) if finite.size else 1.0
    bounds = np.geomspace(top * 10.0**-DECADES, top, 4 * DECADES + 1)
    norm = BoundaryNorm(bounds, 256, extend="min")
    shown = np.where(np.isinf(levels), top, np.clip(levels, bounds[0] / 2, top * (1 - 1e-9)))
    meshes = [
        ax.pcolormesh(
            [start, start + 1], range(len(levels) + 1), shown[:, x : x + 1], cmap=colormaps[COLOURS], norm=norm,
            edgecolors=PAPER, linewidth=0.4,
        )
        for x, start in enumerate(left)
    ]  # fmt: skip
    bar = figure_of(ax).colorbar(meshes[0], ax=ax, pad=0.02, fraction=0.05, aspect=28)
    ticks = [top * 10.0**-i for i in range(DECADES + 1)]
    bar.set_ticks(ticks, labels=[power_of_ten(t) for t in ticks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=2)
    bar.outline.set_visible(False)
    bar.set_label(f"KL, nats per {unit}")


def _label(ax: Any, found: SensitivityMap, columns: list[tuple[str, str]], left: list[float]) -> None:
    ax.set_xlim(0, left[-1] + 1)
    ax.set_ylim(len(found.groups), 0)
    ax.set_yticks([y + 0.5 for y in range(len(found.groups))], [short_name(g) for g in found.groups])
    ax.set_xticks([x + 0.5 for x in left], [SHORT.get(role, role) for _, role in columns], rotation=90)
    ax.tick_params(length=0)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    count = len(found.roles)
    for i, fmt in enumerate(found.formats):
        centre = (left[i * count] + left[i * count + count - 1] + 1) / 2
        ax.annotate(
            fmt, (centre, 0), (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=9, color=INK,
            fontweight="bold",
        )  # fmt: skip
    layers = [_layer(group) for group in found.groups]
    for y, (above, below) in enumerate(pairwise(layers), 1):
        if above != below and len(set(layers)) < len(layers):
            ax.axhline(y, color=MUTED, linewidth=0.9)


def short_name(group: str) -> str:
    """Return a group's name from its layer's number on.

    >>> short_name("model.layers.0.mlp.up_proj"), short_name("lm_head")
    ('0.mlp.up_proj', 'lm_head')
    """
    stack = stack_of(f"{group}.x")
    return group.removeprefix(f"{stack}.") if stack else group


def _layer(group: str) -> str | None:
    return layer_of(f"{group}.x")


def figure_size(found: SensitivityMap) -> tuple[float, float]:
    """Return width and height in inches for cells that can be told apart."""
    columns = len(found.formats) * (len(found.roles) + GAP)
    return max(4.0, 2.8 + 0.30 * columns), max(3.0, 1.3 + 0.17 * len(found.groups))


def sensitivity_figure(found: SensitivityMap) -> str:
    """Return the heat map as SVG text with a white page, the same text for the same map."""
    ax = sensitivity_heat(found, new_axes(*figure_size(found)))
    figure_of(ax).set_facecolor("white")
    return svg_text(figure_of(ax), label=f"sensitivity of {found.model} to {', '.join(found.formats)}")
