"""Rebuild the measured parts of docs/accuracy.md: `python docs/rebuild_accuracy.py [SECTION...]`.

Sections: intervals, map, generation, calibration, mixed. Each replaces what stands between its marks in the page.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from macloom._files import write_atomically
from macloom.arch import load_accelerator
from macloom.explore.mixed_precision.plot import frontier_figure
from macloom.explore.mixed_precision.result import PrecisionPoint, PrecisionSearch
from macloom.explore.mixed_precision.search import search_precision
from macloom.explore.sensitivity_plot import sensitivity_figure, short_name
from macloom.explore.study_plots import calibration_figure
from macloom.explore.text_table import significant
from macloom.units import format_quantity
from macloom.workloads import Evaluator, load_workload
from macloom.workloads.bootstrap import Interval, bootstrap
from macloom.workloads.calibration_study import calibration_study
from macloom.workloads.generation import generate
from macloom.workloads.replay import Playback, Tape
from macloom.workloads.sensitivity import sensitivity
from macloom.workloads.sensitivity_map import SensitivityMap

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "accuracy.md"
MODELS, FORMATS = ("tiny", "tiny-outlier"), ("int4", "ovp4", "int8")
WINDOWS, CONTEXT = 8, 128  # of the studies; intervals have their own
PROMPT = 'def read_lines(path):\n    """'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], words: int = 1) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * words + " --: |" * (len(columns) - words)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def made(what: str) -> str:
    return (
        f"Made by `python docs/rebuild_accuracy.py {what}` with PyTorch {torch.__version__}, numpy {np.__version__}, "
        f"Python {sys.version.split()[0]}"
    )


def intervals() -> str:
    windows, context, resamples = 48, 256, 2000
    rows = []
    for model in MODELS:
        evaluator = Evaluator(model, windows=windows, context=context)
        for recipe in FORMATS:
            accuracy = evaluator.run(recipe)
            assert accuracy.by_window is not None
            found = bootstrap(accuracy.by_window, resamples).intervals
            rows.append(
                (
                    f"`{model}`", f"`{recipe}`" + (" †" if accuracy.collapsed else ""),
                    *(written(found[name]) for name in ("perplexity", "perplexity_ratio", "kl_nats")),
                    f"{100 * found['top1_agreement'].value:.1f} %",
                )
            )  # fmt: skip
    columns = ("model", "recipe", "perplexity", "ratio to unquantized", "KL, nats", "top-1")
    text = f"{made('intervals')}: {windows} windows of {context} bytes, {resamples:,} resamples, 95 % (BCa)."
    return f"{text} † collapsed.\n\n{table(columns, rows, 2)}"


def written(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def sensitivities() -> str:
    parts = [f"{made('map')}: {WINDOWS} windows of {CONTEXT} bytes of the held-out text."]
    for model in MODELS:
        found = sensitivity(model, FORMATS, windows=WINDOWS, context=CONTEXT)
        write_atomically(DOCS / f"figures/sensitivity-{model}.svg", sensitivity_figure(found))
        parts += [
            f"### {model}",
            f"![Sensitivity of every operation, {model}](figures/sensitivity-{model}.svg)",
            worst(found),
        ]
    parts.append(shared())
    return "\n\n".join(parts)


def worst(found: SensitivityMap) -> str:
    rows = []
    for fmt in found.formats:
        cells = [c for c in found.cells if (c.format, c.role) == (fmt, "all")]
        total = sum(c.kl_nats for c in cells)
        for cell in sorted(cells, key=lambda c: -c.kl_nats)[:3]:
            by_role = {c.role: c.kl_nats for c in found.cells if (c.format, c.group) == (fmt, cell.group)}
            rows.append(
                (
                    f"`{fmt}`", f"`{short_name(cell.group)}`" + (" †" if cell.collapsed else ""),
                    significant(cell.kl_nats, 3), f"{100 * cell.kl_nats / total:.0f} %",
                    *(significant(by_role[r], 3) if r in by_role else "" for r in found.roles[1:]),
                )
            )  # fmt: skip
    return table(("format", "operation", "KL, nats", "of the sum", *found.roles[1:]), rows, 2)


def shared() -> str:
    """Time the map with and without replay, in one process, best of two."""
    evaluator = Evaluator("tiny", windows=4, context=CONTEXT)
    seconds = {True: 1e9, False: 1e9}
    built = Playback.__init__

    def whole(self: Playback, tape: Tape) -> None:
        built(self, tape)
        self.live = True

    cells = len(sensitivity(evaluator, ["int4"], roles=("all",)).cells)  # also loads what is compiled
    for _ in range(2):
        for replay in (True, False):
            Playback.__init__ = built if replay else whole  # type: ignore[method-assign]
            begun = time.process_time()
            sensitivity(evaluator, ["int4"], roles=("all",))
            seconds[replay] = min(seconds[replay], time.process_time() - begun)
    Playback.__init__ = built  # type: ignore[method-assign]
    return (
        f"A map of {cells} cells (`tiny`, `int4`, all operands, 4 windows of {CONTEXT} bytes, one thread) took "
        f"{1e3 * seconds[True] / cells:.0f} ms of processor time per cell, and {1e3 * seconds[False] / cells:.0f} ms "
        f"where every cell ran the whole model: {seconds[False] / seconds[True]:.1f} times as long."
    )


def generations() -> str:
    parts = [f"{made('generation')}: the 64 most probable bytes after `{PROMPT!r}`."]
    rows = []
    for model in MODELS:
        found = generate(model, FORMATS, PROMPT, 64)
        for c in found.continuations:
            departs = "" if c is found.reference else "never" if c.departs is None else str(c.departs + 1)
            kl = "" if c is found.reference else significant(c.mean_kl_nats, 3) + (" †" if c.collapsed else "")
            rows.append((f"`{model}`", f"`{c.name}`", f"`{c.text!r}`", departs, kl))
    parts.append(table(("model", "recipe", "text", "departs at", "mean KL"), rows, 3))
    return "\n\n".join(parts)


def calibrations() -> str:
    found = calibration_study("tiny-outlier", ("ovp4", "int8"), counts=(1, 4, 16), windows=WINDOWS, context=CONTEXT)
    write_atomically(DOCS / "figures/calibration-tiny-outlier.svg", calibration_figure(found))
    rows = []
    for s in (*(found.spread(r.name, t.name) for r in found.recipes for t in found.texts),
              *(found.spread(r.name) for r in found.recipes)):  # fmt: skip
        deviation = 0.0 if s.deviation is None else s.deviation
        rows.append(
            (
                f"`{s.recipe}`", s.text or "all", s.runs, f"{s.mean:.3f}", f"{deviation:.3f}", f"{s.low:.3f}",
                f"{s.high:.3f}", significant(s.kl_nats, 3), s.collapsed,
            )
        )  # fmt: skip
    text = (
        f"{made('calibration')}: `tiny-outlier`, {WINDOWS} windows of {CONTEXT} bytes of the held-out text, perplexity "
        f"{found.reference_perplexity:.3f} unquantized; 1, 4 and 16 calibration windows, 3 draws of each."
    )
    figure = "![Perplexity under calibration texts](figures/calibration-tiny-outlier.svg)"
    columns = ("recipe", "calibrated on", "runs", "mean", "deviation", "least", "largest", "mean KL", "collapsed")
    return "\n\n".join([text, figure, table(columns, rows, 2)])


def mixed() -> str:
    accelerator = load_accelerator("olive-sa")
    parts = [
        f"{made('mixed')}: sensitivities on {WINDOWS} windows of {CONTEXT} bytes of the training text, recipes on "
        "as many of the held-out text; latency of a prefill of 256 tokens with the logits of each on `olive-sa`, "
        "simulated."
    ]
    for model in MODELS:
        evaluator = Evaluator(model, windows=WINDOWS, context=CONTEXT)
        probe = Evaluator(evaluator.model, evaluator.calibration_text, windows=WINDOWS, context=CONTEXT)
        found = search_precision(
            evaluator, load_workload(model, sequence=256), FORMATS, accelerator, probe=probe, points=7,
            methods=("greedy", "integer", "evolutionary"),
        )  # fmt: skip
        write_atomically(DOCS / f"figures/mixed-precision-{model}.svg", frontier_figure(found))
        parts += [
            f"### {model}: perplexity {found.reference_perplexity:.3f} unquantized",
            f"![Loss against latency, {model}](figures/mixed-precision-{model}.svg)",
            frontier_table(found),
            methods(found),
        ]
    return "\n\n".join(parts)


def frontier_table(found: PrecisionSearch) -> str:
    def row(point: PrecisionPoint) -> tuple[object, ...]:
        counts = [list(point.formats.values()).count(f) for f in found.problem.formats]
        assert point.measured_cost is not None
        assert point.measured_perplexity is not None
        return (
            point.method + (" †" if point.collapsed else ""), *counts,
            format_quantity(point.predicted_cost, "s", 4), format_quantity(point.measured_cost, "s", 4),
            significant(point.predicted_loss_nats, 3), significant(point.measured_loss_nats, 3),
            f"{point.measured_perplexity:.3f}",
        )  # fmt: skip

    points = [*found.uniform, *(p for p in found.points if p.method == "integer")]
    formats = (f"`{f}`" for f in found.problem.formats)
    columns = ("choice", *formats, "latency", "simulated", "KL predicted", "KL measured", "perplexity")
    return table(columns, map(row, points))


def methods(found: PrecisionSearch) -> str:
    """Say how far the other methods are behind the integer program at equal budgets, and predictions from results."""
    exact = {p.budget: p.predicted_loss_nats for p in found.points if p.method == "integer"}
    texts = []
    for method in ("greedy", "evolutionary"):
        ratios = [
            p.predicted_loss_nats / min(v for b, v in exact.items() if b is not None and b <= p.budget)
            for p in found.points
            if p.method == method and p.budget is not None
        ]
        texts.append(f"{method} {min(ratios):.3f} to {max(ratios):.3f}")
    apart = [p.measured_loss_nats / p.predicted_loss_nats for p in found.points if p.measured_loss_nats is not None]
    return (
        f"Predicted KL over that of the integer program at the same budget: {', '.join(texts)}. Measured over "
        f"predicted KL of all {len(found.points)} chosen recipes: {min(apart):.2f} to {max(apart):.2f}."
    )


SECTIONS: dict[str, Callable[[], str]] = {
    "intervals": intervals,
    "map": sensitivities,
    "generation": generations,
    "calibration": calibrations,
    "mixed": mixed,
}


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for name in names or SECTIONS:
        text = SECTIONS[name]()
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        page = PAGE.read_text(encoding="utf-8")
        block = f"{begin}\n\n{text}\n\n{end}"
        page = re.sub(rf"{re.escape(begin)}.*?{re.escape(end)}", lambda _, block=block: block, page, flags=re.DOTALL)
        write_atomically(PAGE, page)


if __name__ == "__main__":
    main(sys.argv[1:])
