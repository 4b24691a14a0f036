"""Heat maps of the array: how busy each element is, over a run and in its products, and each operation in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from macloom.arch import Array
from macloom.explore.style import INK, MUTED, axes_or_new, plot_style, require_data
from macloom.sim.heat import ArrayMap, MappedOp, element_map, run_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "viridis", 40  # even steps of lightness, also for colour-blind readers; few enough to stay vectors in SVG
GAP = 0.04  # between arrays of one chip, in widths of one
MOST_PRODUCTS = 4  # drawn beside the whole run
SAME = 0.02  # of utilisation: closer colours look the same


def array_heat(found: ArrayMap, ax: Any = None, *, bar: bool = True) -> Any:
    """Draw the fraction of all cycles in which each element multiplies; several arrays stand side by side.

    Neighbours that are equally busy share a rectangle, so that a large array draws as fast as a small one.
    """
    ax = axes_or_new(ax, 4.2, 3.8)
    count, rows, cols = found.active.shape
    with plot_style():
        mesh = None
        for place, utilisation in enumerate(found.utilisation):
            y, x = _edges(utilisation), _edges(utilisation.T)
            left = place * (1 + GAP) * cols
            mesh = ax.pcolormesh(
                left + x, y, utilisation[np.ix_(y[:-1], x[:-1])], cmap=_colours(), vmin=0, vmax=1, antialiased=False
            )
        ax.set_aspect("equal")
        ax.set_xlim(0, (count + (count - 1) * GAP) * cols)
        ax.set_ylim(rows, 0)
        ax.set_xticks([0, cols])
        ax.set_yticks([0, rows])
        ax.grid(False)
        ax.tick_params(length=2)
        for spine in ax.spines.values():
            spine.set_visible(False)
        name = found.name.rsplit(".", 1)[-1]
        ax.set_title(f"{name}: {100 * found.utilisation.mean():.3g} %", fontsize=8, fontweight="normal")
        if bar:
            _bar(ax, mesh)
    return ax


def operation_heat(ops: Sequence[MappedOp], array: Array, ax: Any = None) -> Any:
    """Draw when each operation runs, coloured by the utilisation of the array in it; repeats follow one another."""
    require_data(ops, "operation")
    ax = axes_or_new(ax, 5.6, 1.1 + 0.2 * len(ops))
    from matplotlib.ticker import PercentFormatter

    colours = _colours()
    total = sum(op.cycles for op in ops)
    with plot_style():
        start = 0
        for row, op in enumerate(ops):
            busy = float(element_map(op, array).utilisation.mean())
            ax.barh(
                row, op.cycles / total, left=start / total, height=0.78, color=colours(busy), edgecolor=MUTED,
                linewidth=0.4,
            )  # fmt: skip
            end = (start + op.cycles) / total
            right = end < 0.8
            ax.annotate(
                f"{100 * busy:.3g} %" if op.unit == "array" else "vector unit",
                (end if right else start / total, row),
                xytext=(3 if right else -3, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                fontsize=7,
                color=INK if op.unit == "array" else MUTED,
            )
            start += op.cycles
        names = [op.name + (f" x {op.repeat}" if op.repeat > 1 else "") for op in ops]
        ax.set_yticks(range(len(ops)), names, fontsize=7.5)
        ax.invert_yaxis()
        ax.set_ylim(len(ops) - 0.4, -0.6)
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.set_xlabel("share of all cycles; repeats of an operation in one piece")
    return ax


def heat_figure(ops: Sequence[MappedOp], array: Array, title: str = "") -> Figure:
    """Draw a run: its operations in time, the array over the whole run, and over the products that take longest.

    Of products that look the same one is drawn.
    """
    require_data(ops, "operation")
    from matplotlib.figure import Figure

    whole, longest = run_map(ops, array), _longest(ops, array)
    height = max(4.2, 1.2 + 0.2 * len(ops))
    with plot_style():
        figure = Figure(figsize=(8.6, height), layout="constrained")
        left, right = cast("Any", figure.subfigures(1, 2, width_ratios=(1.25, 1)))
        times = left.subplots()
        operation_heat(ops, array, times)
        times.set_title(title)
        grid = right.add_gridspec(4, 2)
        main = right.add_subplot(grid[:2, :] if longest else grid[:, :])
        array_heat(whole, main, bar=False)
        for place, found in enumerate(longest):
            array_heat(found, right.add_subplot(grid[2 + place // 2, place % 2]), bar=False)
        _bar(main, main.collections[0], right.axes)
    return figure


def _colours() -> Any:
    import matplotlib

    name, steps = COLOURS
    return matplotlib.colormaps[name].resampled(steps)


def _bar(ax: Any, mesh: Any, others: Any = None) -> None:
    from matplotlib.ticker import PercentFormatter

    bar = ax.figure.colorbar(mesh, ax=ax if others is None else others, shrink=0.7, pad=0.03, aspect=28)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    bar.set_label("cycles in which an element multiplies")
    bar.outline.set_visible(False)


def _edges(values: np.ndarray) -> np.ndarray:
    """Return where rows begin that differ from the one before, and the number of rows."""
    changes = np.flatnonzero((values[1:] != values[:-1]).any(axis=1)) + 1
    return np.concatenate([[0], changes, [len(values)]]).astype(np.int64)


def _longest(ops: Sequence[MappedOp], array: Array) -> list[ArrayMap]:
    found: list[ArrayMap] = []
    for op in sorted(ops, key=lambda op: -op.cycles):
        if op.unit != "array":
            continue
        one = element_map(op, array)
        if not any(np.allclose(one.utilisation, other.utilisation, atol=SAME) for other in found):
            found.append(one)
        if len(found) == MOST_PRODUCTS:
            break
    return found
