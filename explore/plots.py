"""The plots of a demo: each a function `(data, ax=None) -> Axes` that opens no window and keeps no state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from macloom.errors import MacloomError
from macloom.explore.labels import label_points
from macloom.explore.records import ENERGY_PARTS, OpRow, Run, ValuePicture
from macloom.explore.style import (
    INK,
    MARKERS,
    MUTED,
    PAPER,
    PARTS,
    Style,
    axes_or_new,
    eng,
    format_styles,
    legend_below,
    plot_style,
    powers_of_ten,
    require_data,
)


def _bars(ax: Any, names: Sequence[str], parts: Mapping[str, Sequence[float]], unit: str, label: str) -> None:
    """Draw horizontal stacked bars, first name on top, with the total behind each bar."""
    from matplotlib.ticker import EngFormatter

    rows = range(len(names))
    left = [0.0] * len(names)
    for colour, (part, values) in zip(PARTS, parts.items(), strict=False):
        ax.barh(rows, values, left=left, height=0.68, color=colour, label=part, edgecolor=PAPER, linewidth=0.4)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for row, total in enumerate(left):
        ax.annotate(
            eng(total, unit),
            (total, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    ax.set_yticks(list(rows), list(names))
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlim(0, max(left) * 1.16)
    ax.xaxis.set_major_formatter(EngFormatter(unit=unit))
    ax.set_xlabel(label)
    legend_below(ax, len(parts))


def _run_names(runs: Sequence[Run]) -> list[str]:
    return [f"{r.format} on {r.accelerator}" for r in runs]


def latency_bars(runs: Sequence[Run], ax: Any = None) -> Any:
    """Stack the latency of each run: cycles that compute, that wait for memory, that the vector unit takes."""
    require_data(runs, "run")
    ax = axes_or_new(ax, 5.6, 1.2 + 0.27 * len(runs))
    parts = {
        part: [sum(getattr(op, f"{part}_cycles") for op in r.ops) * r.seconds / max(1, r.cycles) for r in runs]
        for part in ("compute", "stall", "vector")
    }
    with plot_style():
        _bars(ax, _run_names(runs), parts, "s", "latency (modelled)")
    return ax


def energy_bars(runs: Sequence[Run], ax: Any = None) -> Any:
    """Stack the energy of each run: MAC, decoder, SRAM, DRAM, vector unit and, where modelled, leakage."""
    require_data(runs, "run")
    ax = axes_or_new(ax, 5.6, 1.2 + 0.27 * len(runs))
    present = [k for k in ENERGY_PARTS if any(r.energy.get(k) for r in runs)]
    with plot_style():
        parts = {ENERGY_PARTS[k]: [r.energy.get(k, 0.0) for r in runs] for k in present}
        _bars(ax, _run_names(runs), parts, "J", "energy (modelled)")
    return ax


def roofline(runs: Sequence[Run], ax: Any = None) -> Any:
    """Place each matrix product of `runs`, all on one accelerator, under its peak and its DRAM bandwidth.

    Right: MACs per byte of DRAM traffic. Up: MACs per second reached. The roof is that of the runs'
    own peak, which depends on the width of the operands. Products at one place share a label.
    """
    require_data(runs, "run")
    if len({r.accelerator for r in runs}) > 1:
        raise MacloomError("roofline: must get runs of one accelerator, not several; each has its own roof")
    from matplotlib.ticker import EngFormatter, NullFormatter

    ax = axes_or_new(ax, 5.6, 4.4)
    with plot_style():
        ax.set_xscale("log")
        ax.set_yscale("log")
        products = [
            (i, op, *_rates(run, op)) for i, run in enumerate(runs) for op in run.ops if op.macs and op.dram_bits
        ]
        require_data(products, "matrix product with DRAM traffic")
        peak = max(r.peak_macs_per_s / op.pes_per_mac for r in runs for op in r.ops if op.unit == "array")
        bandwidth = runs[0].dram_bits_per_s / 8
        ridge = peak / bandwidth
        x0, x1 = min(ridge, *(p[2] for p in products)) / 3, max(ridge, *(p[2] for p in products)) * 6
        roof = [(x0, x0 * bandwidth), (ridge, peak), (x1, peak)]
        label = f"roof: {eng(peak, 'MAC/s')}, DRAM {eng(bandwidth, 'B/s')}"
        ax.plot(*zip(*roof, strict=True), color=INK, linewidth=1.4, zorder=2, label=label)
        for i, run in enumerate(runs):
            look = {
                "s": 34, "marker": MARKERS[i % len(MARKERS)], "zorder": 3, "linewidths": 1.2,
                "edgecolors": PARTS[i], "facecolors": PARTS[i] if run.phase == "prefill" else "none",
            }  # fmt: skip
            here = [(x, y) for j, _, x, y in products if j == i]
            ax.scatter(*zip(*here, strict=True), label=f"{run.workload} {run.phase}, {run.format}", **look)
        ax.set_xlim(x0, x1)
        ax.set_ylim(min(x0 * bandwidth, *(p[3] for p in products)) / 2, peak * 2.5)
        powers_of_ten(ax.xaxis)
        ax.yaxis.set_major_formatter(EngFormatter(unit="MAC/s"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("MACs per byte of DRAM traffic")
        ax.set_ylabel("MACs per second")
        legend_below(ax, 1)
        groups = _neighbours([((x, y), _short(op)) for _, op, x, y in products])
        label_points(
            ax, [p for p, _ in groups], [t for _, t in groups], [p[2:] for p in products], lines=[roof], size=7.5
        )
    return ax


def _rates(run: Run, op: OpRow) -> tuple[float, float]:
    """Return MACs per byte of DRAM traffic, and MACs per second."""
    return op.macs / (op.dram_bits / 8), op.macs / (op.cycles * run.seconds / run.cycles)


def _short(op: OpRow) -> str:
    return op.name.rsplit(".", 1)[-1] + ("" if op.unit == "array" else " (vector unit)")


def _neighbours(
    labelled: Sequence[tuple[tuple[float, float], str]], ratio: float = 1.25
) -> list[tuple[tuple[float, float], str]]:
    """Join labels of points that lie within a factor of `ratio` of the first one; names in order, each once."""
    groups: list[tuple[tuple[float, float], list[str]]] = []
    for point, text in labelled:
        for first, texts in groups:
            if all(max(a / b, b / a) <= ratio for a, b in zip(point, first, strict=True)):
                texts.append(text)
                break
        else:
            groups.append((point, [text]))
    joined = []
    for point, texts in groups:
        names = list(dict.fromkeys(texts))
        lines = [", ".join(names[i : i + 3]) for i in range(0, len(names), 3)]
        joined.append((point, "\n".join(lines)))
    return joined


def value_strips(picture: ValuePicture, ax: Any = None, *, styles: Mapping[str, Style] | None = None) -> Any:
    """Draw a real tensor's magnitudes and, below, a strip of ticks per format where its values are.

    Behind each strip stand the fraction of values that became zero and the signal to noise ratio.
    """
    require_data(picture.strips, "format")
    strips = picture.strips
    styles = styles or format_styles([s.format for s in strips])
    histogram_height = 0.55 * len(strips)
    ax = axes_or_new(ax, 7.4, 1.2 + 0.36 * len(strips) + 0.2 * len(strips))
    with plot_style():
        ax.set_xscale("log")
        top = max(picture.counts) or 1
        heights = [histogram_height * c / top for c in picture.counts]
        ax.stairs(heights, picture.edges, fill=True, color=MUTED, alpha=0.35, linewidth=0)
        ax.stairs(heights, picture.edges, color=MUTED, linewidth=1.0)
        low, high = picture.edges[0], picture.edges[-1]
        reach = max(high, *(max(s.magnitudes, default=high) for s in strips)) * 1.15
        ax.set_xlim(low, reach)
        for row, strip in enumerate(strips):
            y = -row - 0.5
            colour = styles[strip.format].colour
            ax.axhspan(y - 0.3, y + 0.3, color=colour, alpha=0.13, linewidth=0)
            shown = [m for m in strip.magnitudes if low <= m <= reach]
            ax.vlines(shown, y - 0.32, y + 0.32, color=colour, linewidth=1.0)
            noise = "" if strip.sqnr_db is None else f"{strip.sqnr_db:.1f}"
            for x, text in ((1.09, f"{strip.zeroed:.1%}"), (1.2, noise)):
                ax.annotate(
                    text, (x, y), xycoords=("axes fraction", "data"), va="center", ha="right", fontsize=8.5, color=INK
                )
        for x, text in ((1.09, "became\nzero"), (1.2, "SQNR\ndB")):
            ax.annotate(
                text, (x, 0.1), xycoords=("axes fraction", "data"), va="bottom", ha="right", fontsize=8.5, color=MUTED
            )
        ax.set_ylim(-len(strips), histogram_height * 1.08)
        ax.set_yticks([-row - 0.5 for row in range(len(strips))], [s.format for s in strips])
        ax.tick_params(axis="y", length=0)
        ax.grid(False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.annotate(
            f"{picture.tensor}\n{picture.elements} values", (0.012, 0.985), xycoords="axes fraction", va="top",
            fontsize=8.5, color=INK,
        )  # fmt: skip
        powers_of_ten(ax.xaxis)
        ax.set_xlabel("magnitude")
    return ax
