"""Plots and tables of a calibration study and of continuations of a prompt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

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
from macloom.explore.text_table import COLLAPSED_SIGN, Cell, Column, Mark, Table, significant

if TYPE_CHECKING:
    from macloom.workloads.calibration_study import CalibrationStudy
    from macloom.workloads.generation import Generation

KL_FLOOR = 1e-7
SIZE = 7.4, 4.2


def calibration_spread(found: CalibrationStudy, ax: Any = None) -> Any:
    """Draw the perplexity of every run: recipes side by side, numbers of windows within, texts by colour.

    A line joins the means of a text. A collapsed run is a cross.
    """
    require_data(found.runs, "run")
    ax = axes_or_new(ax, *SIZE)
    texts, counts = [t.name for t in found.texts], list(found.counts)
    step = len(counts) + 1
    with plot_style():
        ax.set_yscale("log")
        for i, recipe in enumerate(found.recipes):
            for j, text in enumerate(texts):
                colour, marker = PALETTE[j % len(PALETTE)], MARKERS[j % len(MARKERS)]
                shift = 0.5 * ((j + 0.5) / len(texts) - 0.5)
                means = []
                for k, count in enumerate(counts):
                    x = i * step + k + shift
                    runs = [r for r in found.runs if (r.recipe, r.text, r.windows) == (recipe.name, text, count)]
                    alive = [r.perplexity for r in runs if not r.collapsed]
                    dead = [min(r.perplexity, 1e6) for r in runs if r.collapsed]
                    ax.scatter([x] * len(alive), alive, s=16, marker=marker, color=colour, alpha=0.75, linewidths=0)
                    ax.scatter([x] * len(dead), dead, s=20, marker="x", color=colour, linewidths=0.9)
                    means.append((x, math.fsum(alive + dead) / len(runs)))
                ax.plot(*zip(*means, strict=True), color=colour, linewidth=1.0)
            ax.annotate(
                recipe.name, ((i * step + (len(counts) - 1) / 2), 1), (0, 3), ha="center", va="bottom", color=INK,
                xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=9, fontweight="bold",
            )  # fmt: skip
        for j, text in enumerate(texts):
            ax.scatter([], [], s=24, marker=MARKERS[j % len(MARKERS)], color=PALETTE[j % len(PALETTE)], label=text)
        if any(r.collapsed for r in found.runs):
            ax.scatter([], [], s=24, marker="x", color=MUTED, label="collapsed")
        ax.axhline(
            found.reference_perplexity, color=MUTED, linewidth=0.9, linestyle="--", label="unquantized", zorder=1
        )
        places = [(i * step + k, str(c)) for i in range(len(found.recipes)) for k, c in enumerate(counts)]
        ax.set_xticks([x for x, _ in places], [c for _, c in places])
        ax.set_xlabel("windows of the calibration text")
        ax.set_ylabel(f"perplexity per {found.unit}")
        ax.grid(False, axis="x")
        _ticks(ax)
        legend_below(ax, 6)
    return ax


def _ticks(ax: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    low, high = ax.get_ylim()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_major_formatter(plain)
    ax.yaxis.set_minor_formatter(plain if high / low < 10 else NullFormatter())


def calibration_figure(found: CalibrationStudy) -> str:
    """Return the study as SVG text with a white page, the same text for the same study."""
    ax = calibration_spread(found, new_axes(*SIZE))
    figure_of(ax).set_facecolor("white")
    return svg_text(figure_of(ax), label=f"perplexity of {found.model} under several calibration texts")


def calibration_table(found: CalibrationStudy) -> Table:
    """Return a row for every recipe, text and number of windows: mean, spread and what collapsed."""
    rows = []
    for s in (*found.spreads(), *(found.spread(r.name) for r in found.recipes)):
        mark = Mark.COLLAPSED if s.collapsed else Mark.PLAIN
        deviation = "-" if s.deviation is None else significant(s.deviation, 2)
        words = (s.recipe, s.text or "all", str(s.windows or "all"), str(s.runs))
        numbers = (significant(s.mean), deviation, significant(s.low), significant(s.high), significant(s.kl_nats, 3))
        cells = [*(Cell(text=w) for w in words), *(Cell(text=n, mark=mark) for n in numbers)]
        rows.append((*cells, Cell(text=str(s.collapsed))))
    caption = [
        f"Perplexity per {found.unit} on {found.text}, {found.windows} windows of {found.context} {found.unit}s, the "
        f"mean KL from the unquantized model in nats; unquantized {found.reference_perplexity:.4f}."
    ]
    if any(r.collapsed for r in found.runs):
        caption.append(f"{COLLAPSED_SIGN} holds runs no better than with blocks zeroed, or than guessing.")
    titles = ("recipe", "text", "windows", "runs", "mean", "deviation", "least", "largest", "KL", "collapsed")
    return Table(
        title=f"Calibration of {found.model}",
        columns=tuple(Column(title=t, left=t in ("recipe", "text")) for t in titles),
        rows=tuple(rows),
        caption=tuple(caption),
    )


def divergence_steps(found: Generation, ax: Any = None) -> Any:
    """Draw the divergence of every recipe at each token of the unquantized model's continuation.

    A mark on the line shows the token at which the recipe's own text departs.
    """
    require_data(found.continuations[1:], "recipe")
    ax = axes_or_new(ax, *SIZE)
    with plot_style():
        ax.set_yscale("log")
        for i, c in enumerate(found.continuations[1:]):
            levels = [min(max(kl, KL_FLOOR), 1e3) for kl in c.kl_nats]
            colour = PALETTE[i % len(PALETTE)]
            name = c.name + (" (collapsed)" if c.collapsed else "")
            ax.plot(range(len(levels)), levels, color=colour, linewidth=1.1, drawstyle="steps-mid", label=name)
            if c.departs is not None:
                ax.scatter([c.departs], [levels[c.departs]], s=40, color=colour, zorder=4)
        ax.scatter([], [], s=40, color=MUTED, label="its text departs here")
        powers_of_ten(ax.yaxis)
        ax.set_xlabel("token of the unquantized model's continuation")
        ax.set_ylabel("KL from the unquantized model, nats")
        legend_below(ax, 5)
    return ax
