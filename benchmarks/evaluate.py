"""What evaluation costs against that of the same model in fp32: `python benchmarks/evaluate.py [--out FILE.md]`.

Process CPU time of one thread, best of several, every recipe beside fp32 in the same run. An evaluation is
the forward pass of all windows and the scoring of the logits; weights are encoded in it. The scale search,
once per model and recipe, is timed apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from macloom._files import write_atomically
from macloom.formats import set_threads
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.recipe import load_recipe
from macloom.workloads.scoring import divergence

RESULTS = Path(__file__).parent / "results" / "evaluate.md"
GOAL = 3.0
CASES = (
    ("int4", None, "float"),
    ("int4", "int16:saturate", "float"),
    ("int4", "int16:saturate,every=mac", "float"),
    ("ovp4", None, "float"),
    ("ovp4", "int16:saturate", "float"),
    ("int4:group=32", None, "float"),
    ("mxfp4", None, "float"),
    ("nvfp4", None, "float"),
    ("int8", None, "float"),
    ("int4", None, "exact"),
    ("int4", None, "exact:bf16"),
    ("int4", None, "exact:fixed16"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recipe: seconds of its evaluation, of fp32's just before and after it, and of its scale search."""

    recipe: str
    accumulator: str
    vector: str
    seconds: float
    float_seconds: float
    search_seconds: float

    @property
    def ratio(self) -> float:
        return self.seconds / self.float_seconds


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(evaluator: Evaluator, recipe: str, accumulator: str | None, vector: str, repeats: int) -> Row:
    resolved = load_recipe(recipe).with_accumulator(accumulator)
    reference, operations = evaluator.reference, evaluator.operations(vector)
    evaluator.samples(vector)
    search = cpu_seconds(lambda: evaluator.plan(resolved, exact=vector != "float"))
    plan = evaluator.plan(resolved, exact=vector != "float")

    def score(logits: torch.Tensor) -> None:
        scores = F.log_softmax(logits, -1)
        evaluator.nats(scores)
        divergence(reference, scores)

    quantized, floating = [], []
    score(evaluator.quantized_logits(resolved, plan, vector=operations)[1])  # kernels compile
    for _ in range(repeats):
        floating.append(cpu_seconds(lambda: score(evaluator.float_logits())))
        quantized.append(cpu_seconds(lambda: score(evaluator.quantized_logits(resolved, plan, vector=operations)[1])))
    return Row(
        recipe=recipe,
        accumulator=accumulator or "default",
        vector=vector,
        seconds=min(quantized),
        float_seconds=min(floating),
        search_seconds=search,
    )


def markdown(rows: list[Row], evaluator: Evaluator) -> str:
    lines = [
        "# Evaluation against fp32",
        "",
        f"Made by `python benchmarks/evaluate.py` with PyTorch {torch.__version__}, numpy {np.__version__}: model",
        f"`{evaluator.model.name}`, {evaluator.windows} windows of {evaluator.context} bytes, process CPU seconds of",
        "one thread, best of several, both columns in the same run. Attention, norms and softmax are included; the",
        f"scale search runs once per model and recipe. Goal: W4A4 at most {GOAL:g} times fp32.",
        "",
        "| recipe | accumulator | vector | evaluation | fp32 beside it | ratio | scale search |",
        "| --- | --- | --- | --: | --: | --: | --: |",
    ]
    lines += [
        f"| `{r.recipe}` | `{r.accumulator}` | `{r.vector}` | {r.seconds:.3f} | {r.float_seconds:.3f} | {r.ratio:.2f} "
        f"| {r.search_seconds:.2f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="recipes that begin so")
    parser.add_argument("--out", type=Path, nargs="?", const=RESULTS, help=f"write the table ({RESULTS.name})")
    options = parser.parse_args()
    torch.set_num_threads(1)
    set_threads(1)
    evaluator = Evaluator(options.model, windows=options.windows, context=256)
    rows = []
    for recipe, accumulator, vector in CASES:
        if options.only is None or recipe.startswith(options.only):
            rows.append(measure(evaluator, recipe, accumulator, vector, options.repeats))
            r = rows[-1]
            print(f"{recipe:14} {r.accumulator:26} {vector:14} {r.seconds:.3f} s  {r.ratio:.2f} x fp32", flush=True)
    if options.out:
        print("wrote", write_atomically(options.out, markdown(rows, evaluator)))


if __name__ == "__main__":
    main()
