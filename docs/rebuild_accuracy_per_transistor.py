"""Rebuild docs/rtl-accuracy.md: `python docs/rebuild_accuracy_per_transistor.py [--measure]`.

Costs come from `arch/rtl_costs.toml`, accuracies from `docs/rtl-accuracy.csv`, which `--measure` makes anew
(some minutes): every format, weights and activations alike, on both embedded models, with the same search.
"""

from __future__ import annotations

import argparse
import csv
import io
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from macloom._files import write_atomically
from macloom.arch.gate_costs import GateCost, base_cost, gate_costs, load_unit_costs, row_of
from macloom.explore.labels import label_points
from macloom.explore.pareto import pareto_front
from macloom.explore.style import MUTED, PALETTE, plot_style, svg_text
from macloom.formats import get_format

DOCS = Path(__file__).resolve().parent
MEASURED, PAGE, FIGURE = DOCS / "rtl-accuracy.csv", DOCS / "rtl-accuracy.md", DOCS / "figures" / "rtl-accuracy.svg"
MODELS = ("tiny", "tiny-outlier")
WINDOWS, CONTEXT = 16, 256
FORMATS = (
    *("ternary", "pot4", "apot4", "flint4", "int4", "int4:group=32", "bfp4", "fp4_e2m1", "mxfp4", "nvfp4", "llm_fp4"),
    *("ovp4", "ovp4:normal=flint4", "nf4", "fp6_e2m3", "mxfp6_e2m3", "fp6_e3m2", "mxfp6_e3m2"),
    *("int8", "mxint8", "bfp8", "fp8_e4m3", "mxfp8_e4m3", "posit8_0", "adaptivfloat8", "ovp8"),
)
COLUMNS: tuple[str, ...] = (
    "format",
    "model",
    "perplexity",
    "unquantized",
    "kl_nats",
    "top1_agreement",
    "text",
    "torch",
    "python",
)


def measure() -> list[dict[str, str]]:
    """Return one row for each format and model, in the order of `FORMATS`."""
    import torch

    from macloom.workloads.evaluator import Evaluator

    rows = []
    for model in MODELS:
        evaluator = Evaluator(model, windows=WINDOWS, context=CONTEXT)
        for name in FORMATS:
            found = evaluator.run(name)
            row = {
                "format": name,
                "model": model,
                "perplexity": f"{found.perplexity:.4f}",
                "unquantized": f"{found.reference_perplexity:.4f}",
                "kl_nats": f"{found.kl_nats:.5f}",
                "top1_agreement": f"{found.top1_agreement:.4f}",
                "text": evaluator.text.sha256[:12],
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
            print(*row.values(), flush=True)
            rows.append(row)
    return rows


def csv_text(rows: Iterable[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_measured() -> dict[tuple[str, str], dict[str, str]]:
    """Return the committed rows by format and model."""
    with MEASURED.open(encoding="utf-8", newline="") as file:
        return {(row["format"], row["model"]): row for row in csv.DictReader(file)}


def span(values: Sequence[float], digits: int = 0) -> str:
    """Return what both mapping styles give, as one number where they agree."""
    low, high = (f"{value:,.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low}-{high}"


def cost_cells(name: str) -> list[str]:
    """Return the cost columns of a format: decoder, encoder and element, as the committed table has them."""
    row = row_of(get_format(name))
    assert row is not None, name
    units = gate_costs(row)
    mac, base = units["mac"], base_cost()
    cells = [f"`{row}`"]
    for unit in ("decoder", "encoder"):
        cost = units.get(unit)
        cells += [span(cost.transistors), span(cost.depth)] if cost else ["", ""]
    return [
        *cells,
        span(mac.transistors),
        str(mac.flip_flops),
        span(mac.depth),
        span(mac.ratio(base, "area_transistors"), 2),
        span(mac.ratio(base, "switching"), 2),
    ]


def dot_cells() -> list[list[str]]:
    """Return a row for each dot-product unit of a measured block format: its size, and one product beside int8's."""
    measured, base, rows = read_measured(), base_cost(), []
    for name, cost in load_unit_costs().items():
        fmt, _, register = name.partition(" block:")
        if fmt not in FORMATS or not register:
            continue
        each = [
            span([ratio / cost.elements for ratio in cost.ratio(base, figure)], 2)
            for figure in ("area_transistors", "switching")
        ]
        scores = [f"{float(measured[fmt, model]['kl_nats']):.4f}" for model in MODELS]
        size = [str(cost.elements), span(cost.transistors), str(cost.flip_flops), span(cost.depth)]
        rows.append([f"`{fmt}`", f"`block:{register}`", *size, *each, *scores])
    return rows


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * words + " --: |" * (len(columns) - words)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def relative_area(name: str) -> float:
    """Return the transistors of a format's element, flip-flops included, over those of the int8 element."""
    row = row_of(get_format(name))
    assert row is not None, name
    cost: GateCost = gate_costs(row)["mac"]
    return cost.relative(base_cost(), "area_transistors")[1]


def front_of(measured: dict[tuple[str, str], dict[str, str]], model: str) -> list[str]:
    """Return the formats that no other beats in both size of the element and KL, smallest first."""
    names = [name for name in FORMATS if (name, model) in measured]
    points = [(relative_area(n), float(measured[n, model]["kl_nats"])) for n in names]
    return sorted((names[i] for i in pareto_front(points)), key=relative_area)


INTRODUCTION = """<!-- Made by docs/rebuild_accuracy_per_transistor.py. Change the script, not this page. -->

# Accuracy per transistor

What each format's hardware costs in gates, beside what the format does to the two embedded models. Costs are those
of the [generated hardware](rtl.md), the rows of `arch/rtl_costs.toml` that `simulate` charges, too
(`macloom.arch.gate_costs`); formats whose codes have the same values share a row. Two numbers are the two mapping
styles of yosys."""

NOTES = """Transistors are those of two-input NAND, NOR and inverters without flip-flops. *Area to int8* counts a
flip-flop as {flip_flop:.1f} transistors (NanGate 45 nm: DFF_X1 4.522 um2, NAND2_X1 0.798 um2). *Switching to int8*
is the energy of one multiply-accumulate over that of int8 on tensors of `tiny-outlier`, without clock and wires. An
encoder turns one fp16 value into a code. What a block adds is in no column of this first table: finding and storing
its scale, and multiplying by it, so that `nvfp4` and `mxfp4` look as cheap as `fp4_e2m1`. Dot-product units have all of
it but the encoder. The output head and what passes between operations stay fp16. Ratios
are good to about 20 %, so that smaller differences mean nothing. The registers are 32 bits, or wider where one
product needs it.

Perplexity is per byte, {windows} windows of {context} bytes of held-out text; KL is in nats per byte from the
unquantized model. Weights, activations, keys and values all have the format; every scale is searched in the same
way (`macloom evaluate --recipe`). The models are small and trained once: rankings are about these two models ([what
they show](language-models.md)). `tan4` and `log4` hold magnitudes only, so that no weights can be stored in them."""

BLOCKS = """A dot-product unit multiplies a whole block: decoders of all codes, multipliers, an exact tree of adders,
rounding, both scales, and a float register, where an int8 element has a multiplier and an integer register of 32 bits.
Everything after the tree is shared by the products of the block. `bfp8` has the unit of `mxint8`."""

READING = """The line is the Pareto front: nothing to the left of it is more accurate. Sizes are those of the
element alone, because a decoder serves a whole row or column of the array; [Hardware and its
constants](hardware.md) has the areas of arrays."""


def page() -> str:
    """Return the whole page from the two committed tables."""
    from macloom.arch.gate_costs import FLIP_FLOP_TRANSISTORS

    measured = read_measured()
    cost_columns = (
        *("format", "row", "decoder transistors", "depth", "encoder transistors", "depth"),
        *("element transistors", "flip-flops", "depth", "area to int8", "switching to int8"),
    )
    dot_columns = (
        *("format", "register", "products", "transistors", "flip-flops", "depth"),
        *("area of one, to int8", "switching of one, to int8", *(f"KL, `{model}`" for model in MODELS)),
    )
    score_columns = ["format"]
    for model in MODELS:
        score_columns += [f"perplexity, `{model}`", f"KL, `{model}`", f"top-1, `{model}`"]
    first = measured[FORMATS[0], MODELS[0]]
    scores = []
    for name in FORMATS:
        cells = [f"`{name}`"]
        for model in MODELS:
            row = measured[name, model]
            cells += [f"{float(row['perplexity']):.3f}", f"{float(row['kl_nats']):.4f}", row["top1_agreement"][:5]]
        scores.append(cells)
    unquantized = "; ".join(f"`{m}` {float(measured[FORMATS[0], m]['unquantized']):.3f}" for m in MODELS)
    fronts = "; ".join(f"`{m}`: " + ", ".join(f"`{n}`" for n in front_of(measured, m)) for m in MODELS)
    parts = [
        INTRODUCTION,
        "## Accuracy against the size of the element",
        "![KL from the unquantized model against the area of a processing element](figures/rtl-accuracy.svg)",
        f"{READING} On the front, smallest first: {fronts}.",
        "## Cost",
        table(cost_columns, ([f"`{name}`", *cost_cells(name)] for name in FORMATS), 2),
        "## Blocks, with their scales",
        BLOCKS,
        table(dot_columns, dot_cells(), 2),
        "## Accuracy",
        table(score_columns, scores, 1),
        f"Unquantized: {unquantized}. Measured with PyTorch {first['torch']} and Python {first['python']}; sha256 of "
        f"the text `{first['text']}`.",
        "## How to read the numbers",
        NOTES.format(flip_flop=FLIP_FLOP_TRANSISTORS, windows=WINDOWS, context=CONTEXT),
    ]
    return "\n\n".join(parts) + "\n"


def figure() -> Any:
    """Return the scatter plot: a panel for each model, both axes logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    measured = read_measured()
    with plot_style():
        drawn = Figure(figsize=(9.4, 4.6), layout="constrained")
        panels = drawn.subplots(1, len(MODELS), sharex=True, sharey=True)
        drawn.set_facecolor("white")
    for ax, model in zip(panels, MODELS, strict=True):
        with plot_style():
            _panel(ax, model, measured)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_xticks([0.3, 0.5, 1, 2])
    with plot_style():
        panels[0].set_ylabel("KL from the unquantized model, nats per byte")
    for ax, model in zip(panels, MODELS, strict=True):
        points = [(relative_area(n), float(measured[n, model]["kl_nats"])) for n in FORMATS]
        label_points(ax, points, FORMATS, lines=[_corners(model, measured)], size=6.5)
    return drawn


def _corners(model: str, measured: dict[tuple[str, str], dict[str, str]]) -> list[tuple[float, float]]:
    front = [(relative_area(n), float(measured[n, model]["kl_nats"])) for n in front_of(measured, model)]
    corners = front[:1]
    for (x, y), (_, former) in zip(front[1:], front, strict=False):
        corners += [(x, former), (x, y)]
    return corners


def _panel(ax: Any, model: str, measured: dict[tuple[str, str], dict[str, str]]) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_title(model)
    ax.plot(*zip(*_corners(model, measured), strict=True), color=MUTED, linewidth=1.0, zorder=1)
    for name in FORMATS:
        bits = min(8, get_format(name).element.bits)  # type: ignore[union-attr]
        colour = PALETTE[{2: 4, 4: 0, 6: 1, 8: 3}[bits]]
        ax.scatter([relative_area(name)], [float(measured[name, model]["kl_nats"])], s=22, color=colour, zorder=3)
    for bits, place in ((2, 4), (4, 0), (6, 1), (8, 3)):
        ax.scatter([], [], s=22, color=PALETTE[place], label=f"{bits} bits")
    ax.legend(loc="upper right")
    ax.set_xlabel("area of the element, int8 = 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--measure", action="store_true", help="evaluate every format anew")
    if parser.parse_args().measure:
        write_atomically(MEASURED, csv_text(measure()))
    label = "accuracy of formats against the size of their processing element"
    write_atomically(FIGURE, svg_text(figure(), label=label))
    write_atomically(PAGE, page())


if __name__ == "__main__":
    main()
