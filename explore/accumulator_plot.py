"""Perplexity against accumulator width, one curve per recipe and register."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from macloom.explore.style import (
    INK,
    MUTED,
    PALETTE,
    axes_or_new,
    figure_of,
    legend_below,
    new_axes,
    plot_style,
    require_data,
    svg_text,
)

if TYPE_CHECKING:
    from macloom.workloads import AccumulatorWidths

LINES = {("wrap", "end"): ":", ("saturate", "end"): "--", ("saturate", "mac"): "-"}
OTHER_LINE = "-."
GUESSING = 256  # perplexity per byte of a model that knows nothing; what is beyond is cut off


def accumulator_widths(results: Sequence[AccumulatorWidths], ax: Any = None) -> Any:
    """Draw perplexity per byte, logarithmic, over register width.

    Colour stands for the recipe, dashes for what the register does on overflow. A filled dot is the
    smallest width without any overflow, a hollow one the smallest within the tolerance; a horizontal line
    is the model unquantized. Widths below that of one product are not drawn, nor perplexities beyond guessing.
    """
    require_data(results, "sweep")
    ax = axes_or_new(ax, 7.4, 4.4)
    with plot_style():
        ax.set_yscale("log")
        for i, result in enumerate(results):
            _draw(ax, result, PALETTE[i % len(PALETTE)])
        for level in sorted({round(r.reference_perplexity, 6) for r in results}):
            ax.axhline(level, color=MUTED, linewidth=0.9, zorder=1)
        registers = list(dict.fromkeys(key for r in results for key in r.curves()))
        for overflow, every in registers:
            label = overflow if overflow == "wrap" else f"{overflow}, {_moment(every)}"
            ax.plot([], [], LINES.get((overflow, every), OTHER_LINE), color=INK, linewidth=1.4, label=label)
        ax.scatter([], [], s=36, color=INK, label="no overflow from here on")
        ax.scatter([], [], s=36, facecolors="none", edgecolors=INK, label=f"within {100 * results[0].tolerance:g} %")
        ax.plot([], [], color=MUTED, linewidth=0.9, label="unquantized")
        ax.set_xlabel("accumulator width, bits")
        ax.set_ylabel("perplexity per byte")
        _ticks(ax)
        legend_below(ax, 4)
    return ax


def _draw(ax: Any, result: AccumulatorWidths, colour: str) -> None:
    for (overflow, every), cells in result.curves().items():
        drawn = [(c.bits, c.perplexity) for c in cells if c.perplexity is not None and c.perplexity < float("inf")]
        if not drawn:
            continue
        style = LINES.get((overflow, every), OTHER_LINE)
        ax.plot(*zip(*drawn, strict=True), style, color=colour, linewidth=1.6, marker=".", markersize=4, zorder=3)
        levels = dict(drawn)
        enough, lossless = result.sufficient_bits(overflow, every), result.lossless_bits(overflow, every)
        if enough in levels:
            ax.scatter([enough], [levels[enough]], s=36, facecolors="none", edgecolors=colour, zorder=4)
        if lossless in levels:
            ax.scatter([lossless], [levels[lossless]], s=36, color=colour, zorder=5)
    ax.plot([], [], color=colour, linewidth=3, label=result.recipe.name)


def _moment(every: str) -> str:
    return {"end": "at the end", "mac": "every MAC"}.get(every, f"every {every} products")


def _ticks(ax: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    low, high = ax.get_ylim()
    if low < GUESSING < high:
        high = 2 * GUESSING
        ax.set_ylim(low, high)
        ax.axhline(GUESSING, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        ax.annotate(
            "guessing", (1, GUESSING), (-2, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="bottom", fontsize=8, color=MUTED,
        )  # fmt: skip
    if high / low < 10:
        ax.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def widths_figure(results: Sequence[AccumulatorWidths]) -> str:
    """Return the figure as SVG text with a white page, the same text for the same results."""
    ax = accumulator_widths(results, new_axes(7.4, 4.4))
    figure_of(ax).set_facecolor("white")
    names = ", ".join(r.recipe.name for r in results)
    return svg_text(figure_of(ax), label=f"perplexity against accumulator width: {names}")
