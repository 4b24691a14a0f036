"""Rebuild the measured parts of two pages: `python docs/rebuild_arithmetic.py [accumulator-width] [vector-units]`."""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from macloom._files import write_atomically
from macloom.explore.accumulator_plot import widths_figure
from macloom.formats.vector import get_vector_unit, list_vector_units
from macloom.formats.vector.error import vector_errors
from macloom.workloads import AccumulatorWidths, Evaluator, accumulator_width

DOCS = Path(__file__).resolve().parent
BEGIN, END = "<!-- begin generated -->", "<!-- end generated -->"
WINDOWS, CONTEXT = 16, 256
MODELS, RECIPES = ("tiny", "tiny-outlier"), ("int4", "ovp4", "int8")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], words: int = 1) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * words + " --: |" * (len(columns) - words)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def versions() -> str:
    return f"PyTorch {torch.__version__}, numpy {np.__version__}, Python {sys.version.split()[0]}"


def accumulator_widths() -> str:
    parts = [
        f"Made by `python docs/rebuild_arithmetic.py accumulator-width` with {versions()}: {WINDOWS} windows of "
        f"{CONTEXT} bytes of the held-out text. Perplexity is per byte."
    ]
    for model in MODELS:
        evaluator = Evaluator(model, windows=WINDOWS, context=CONTEXT)
        swept = [accumulator_width(evaluator, r, range(7, 25), every=("end", "mac")) for r in RECIPES]
        write_atomically(DOCS / f"figures/accumulator-width-{model}.svg", widths_figure(swept))
        parts += [
            f"### {model}: perplexity {evaluator.reference_perplexity:.3f} unquantized",
            f"![Perplexity against accumulator width, {model}](figures/accumulator-width-{model}.svg)",
            needed(swept),
            losses(swept),
        ]
        layers = swept[-1]
        parts.append(by_layer(layers))
    return "\n\n".join(parts)


def register(overflow: str, every: str) -> str:
    moments = {"end": "at the end", "mac": "every MAC"}
    return overflow if overflow == "wrap" else f"{overflow}, {moments[every]}"


def needed(swept: Sequence[AccumulatorWidths]) -> str:
    rows = [
        (
            f"`{w.recipe.name}`", register(*key), f"{w.unlimited_perplexity:.3f}", w.product_bits, w.safe_bits,
            w.lossless_bits(*key), w.sufficient_bits(*key),
        )
        for w in swept
        for key in w.curves()
    ]  # fmt: skip
    columns = ("recipe", "register", "perplexity, unlimited", "one product", "any sum", "no overflow", "within 1 %")
    return table(columns, rows, 2)


def losses(swept: Sequence[AccumulatorWidths]) -> str:
    """Return perplexity at the widths where something happens: two below and one above that without overflow."""
    rows = []
    for w in swept:
        for key, cells in w.curves().items():
            lossless = w.lossless_bits(*key) or 0
            rows += [
                (f"`{w.recipe.name}`", register(*key), c.bits, f"{c.perplexity:.3f}", f"{c.overflow_count:,}",
                 f"{c.overflow_count / c.sums:.1e}")
                for c in cells
                if c.perplexity is not None and lossless - 4 <= c.bits <= lossless
            ]  # fmt: skip
    return table(("recipe", "register", "bits", "perplexity", "overflows", "of all sums"), rows, 2)


def by_layer(widths: AccumulatorWidths) -> str:
    cells = [c for c in widths.curves()["saturate", "end"] if c.overflow_count]
    layers = sorted({layer for c in cells for layer in c.overflows_by_layer()})
    rows = [(c.bits, *(f"{c.overflows_by_layer().get(layer, 0):,}" for layer in layers)) for c in cells]
    head = f"Overflows of `{widths.recipe.name}` by layer, saturating at the end:\n\n"
    return head + table(("bits", *(f"`{layer}`" for layer in layers)), rows, 0)


def vector_units() -> str:
    units = list_vector_units()
    found = {name: vector_errors(get_vector_unit(name)) for name in units}
    operations = [e.operation for e in found[units[0]]]
    rows = [
        (op, *(f"{found[name][i].largest:.1e} / {found[name][i].mean:.1e}" for name in units))
        for i, op in enumerate(operations)
    ]
    parts = [
        f"Made by `python docs/rebuild_arithmetic.py vector-units` with {versions()}.",
        "### Largest and mean absolute error against float64",
        table(("operation", *(f"`{u}`" for u in units)), rows),
        "### What they cost a model",
        f"{WINDOWS} windows of {CONTEXT} bytes; perplexity per byte; KL in nats per byte.",
    ]
    rows = []
    for model in MODELS:
        evaluator = Evaluator(model, windows=WINDOWS, context=CONTEXT)
        for recipe in ("fp16", "int8", "ovp4"):
            for name in units:
                a = evaluator.run(recipe, vector=f"exact:{name}")
                assert a.vector_cost is not None
                rows.append(
                    (model, f"`{recipe}`", f"`{name}`", f"{a.vector_cost.float_perplexity:.4f}", f"{a.perplexity:.4f}",
                     f"{a.kl_nats:.5f}", f"{a.vector_cost.kl_nats:.5f}", f"{100 * a.vector_cost.top1_agreement:.2f} %")
                )  # fmt: skip
    columns = (
        "model",
        "recipe",
        "unit",
        "float vector",
        "exact vector",
        "KL to unquantized",
        "KL to float vector",
        "top-1",
    )
    return "\n\n".join([*parts, table(columns, rows, 3)])


PAGES: dict[str, Callable[[], str]] = {"accumulator-width": accumulator_widths, "vector-units": vector_units}


def main() -> None:
    for name in sys.argv[1:] or PAGES:
        page = DOCS / f"{name}.md"
        block = f"{BEGIN}\n\n{PAGES[name]()}\n\n{END}"
        write_atomically(page, re.sub(f"{BEGIN}.*?{END}", lambda _, b=block: b, page.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
