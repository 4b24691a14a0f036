"""Figures of docs/language-models.md, as SVG files that are the same every time."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from macloom.workloads.lm.evidence import Evidence

# Okabe and Ito 2008, "Color universal design".
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
INK, MUTED, GRID = "#1B1F24", "#5B636D", "#D8DCE1"
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "macloom",
}


def _svg(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.5g}", stream.getvalue().decode())
    return ("\n".join(line.rstrip() for line in text.splitlines()) + "\n").encode()


def _loss(found: Sequence[Evidence]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.add_subplot()
    for e, colour in zip(found, COLOURS, strict=False):
        losses = e.model.training.get("loss_every_10_steps", [])
        axes.plot([10 * i + 5 for i in range(len(losses))], losses, color=colour, lw=1.2, label=e.model.name)
        axes.axhline(
            e.whole.nats, color=colour, lw=1.0, ls=(0, (4, 3)), label=f"{e.model.name}, held-out, after training"
        )
    axes.set(xlabel="training step", ylabel="loss, nats per byte", ylim=(0.8, 4.0))
    axes.legend()
    return figure


def _channels(found: Sequence[Evidence]) -> Figure:
    """One row per model, one column per layer."""
    from matplotlib.figure import Figure

    layers = found[0].model.config.num_hidden_layers
    figure = Figure(figsize=(8.4, 1.7 * len(found) + 0.4), layout="constrained")
    grid = figure.subplots(len(found), layers, sharex=True, sharey=True, squeeze=False)
    for row, e, colour in zip(grid, found, COLOURS, strict=False):
        inputs = [s for s in e.inputs if s.name.endswith("q_proj")]
        for layer, (axes, s) in enumerate(zip(row, inputs, strict=True)):
            axes.stairs(s.channel_max, color=colour, fill=True, lw=0)
            axes.set(yscale="log", xlim=(0, len(s.channel_max)))
            axes.set_title(f"{e.model.name}, layer {layer}")
        row[0].set_ylabel("absolute maximum")
    for axes in grid[-1]:
        axes.set_xlabel("channel")
    return figure


def _deletion(found: Sequence[Evidence]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(6.4, 0.5 + 1.1 * len(found)))
    axes = figure.add_subplot()
    rows: list[str] = []
    for e in found:
        count = len(e.strongest.channels)
        groups = [
            ("undamaged", [e.whole], "o", COLOURS[0]),
            (f"{count} random channels, {len(e.random)} draws", [d.score for d in e.random], "d", COLOURS[2]),
            (
                f"{count} {'outlier' if e.by_construction else 'largest'} channels",
                [e.strongest.score],
                "s",
                COLOURS[1],
            ),
        ]
        for label, scores, marker, colour in groups:
            x = [s.perplexity for s in scores]
            axes.plot(x, [-len(rows)] * len(x), marker, color=colour, ms=6, mec="white", mew=0.6, clip_on=False)
            axes.annotate(f"{max(x):.2f}", (max(x), -len(rows)), (7, 0), textcoords="offset points", va="center")
            rows.append(f"{e.model.name}: {label}")
    axes.set(xscale="log", xlabel="perplexity per byte on held-out text", ylim=(0.5 - len(rows), 0.5))
    axes.set_yticks([-i for i in range(len(rows))], rows)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    ticks = [t for t in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000) if low <= t <= high]
    axes.set_xticks(ticks)
    axes.grid(axis="y", visible=False)
    return figure


def draw_figures(found: Sequence[Evidence]) -> dict[str, bytes]:
    """Return the SVG file of every figure by name."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        drawn = {"lm-loss.svg": _loss, "lm-channels.svg": _channels, "lm-deletion.svg": _deletion}
        return {name: _svg(draw(found)) for name, draw in drawn.items()}
