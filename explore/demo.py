"""The demo: formats x accelerators x models, from encoded operands to one table and a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from threading import Lock

from macloom import __version__
from macloom.arch import load_accelerator
from macloom.errors import MacloomError
from macloom.explore.cost import (
    Simulated,
    accelerator_info,
    constants_of,
    simulate_all,
    workload_info,
)
from macloom.explore.files import config_toml, ops_csv, write_together
from macloom.explore.measure import Progress, TextCut, format_info, measure
from macloom.explore.perfetto import Timed, trace_json, trace_of
from macloom.explore.report import render_report
from macloom.explore.result import SCHEMA, DemoResult, dump_result
from macloom.explore.summary import headline, showcase, summary_table
from macloom.explore.text_table import Table
from macloom.workloads import Recipe, Workload, load_model, load_recipe, load_workload

FORMATS = (
    "fp16", "int8", "int4", "int4:group=128", "mxfp8", "mxfp4", "nvfp4", "bfp4", "ovp8", "ovp4", "ovp4:normal=flint4",
)  # fmt: skip
MODELS = ("tiny", "tiny-outlier")
ACCELERATORS = ("int8-sa", "olive-sa", "fp16-sa")
COST_MODEL = "opt-6.7b"
COST_LENGTH = 2048
# Distributions whose version may change a bit of a result.
VERSIONED = ("numpy", "torch", "numba")

PURPOSES = {
    "report.html": "the whole story: open it in a browser",
    "result.json": "every number, for programs",
    "ops.csv": "every operation of every run",
    "trace.json": "timelines: open it at https://ui.perfetto.dev",
    "config.toml": "the resolved configuration",
}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A finished demo: its result, its table, and the files it wrote. `seconds` is in no file."""

    result: DemoResult
    table: Table
    files: tuple[Path, ...]
    seconds: float

    def closing_lines(self) -> tuple[str, ...]:
        """Return what to say under the table: the findings, the files, what to type next."""
        width = max(len(str(f)) for f in self.files)
        by_name = {f.name: str(f).ljust(width) for f in self.files}
        return (
            "",
            *headline(self.result),
            "",
            f"Wrote in {self.seconds:.0f} s:",
            *(f"  {by_name[name]}  {what}" for name, what in PURPOSES.items()),
            "",
            "Next:",
            *next_steps(self.result),
        )


def next_steps(result: DemoResult) -> tuple[str, ...]:
    """Return commands that go on from here, with this result's own names."""
    run = min(result.runs, key=lambda r: r.edp)
    last, model, workload = result.formats[-1].name, result.models[-1].name, result.cost_workload()
    steps = {
        f"macloom show {last}": "the values of a format",
        f"macloom evaluate --model {model} --recipe {last}": "accuracy of one format",
        f"macloom simulate --workload {workload} --accelerator {run.accelerator} --recipe {run.format}": "its cost",
    }
    width = max(map(len, steps))
    return tuple(f"  {command.ljust(width)}  # {what}" for command, what in steps.items())


def run_demo(
    out_dir: str | Path = "runs/demo",
    seed: int = 0,
    progress: Progress | None = None,
    *,
    models: Sequence[str | Path] = MODELS,
    formats: Sequence[str | Path | Recipe] = FORMATS,
    accelerators: Sequence[str | Path] = ACCELERATORS,
    cost_model: str | Path = COST_MODEL,
    cost_length: int = COST_LENGTH,
    cut: TextCut | None = None,
) -> Demo:
    """Measure every format on every model, simulate it on every accelerator, and write the files.

    Nothing is printed. Files appear in `out_dir` only when all of them are whole; an interrupted run
    leaves the former ones. The same seed and versions give the same bytes in every file.

    Args:
        seed: draws the calibration data; kept in the result.
        progress: called with (text, steps done, steps in all), by one thread at a time.
        models: embedded models or checkpoint directories; accuracy, and cost of their own trace.
        formats: formats, recipes or recipe files.
        cost_model: the larger model whose prefill of `cost_length` tokens, and decode of one token
            against as many keys, is simulated.
        cut: the text that accuracy is measured on.

    Raises:
        MacloomError: an unknown or repeated name, or `out_dir` is a file.
    """
    begun = time.perf_counter()
    if Path(out_dir).exists() and not Path(out_dir).is_dir():
        raise MacloomError(f"out: must be a directory, not the file {str(out_dir)!r}")
    recipes = [load_recipe(f) for f in formats]
    machines = [load_accelerator(a) for a in accelerators]
    language_models = [load_model(m) for m in models]
    for kind, names in (("formats", [r.name for r in recipes]), ("accelerators", [m.name for m in machines])):
        _require_distinct(kind, names)
    workloads = [w for m in models for w in _phases(m)] + _phases(cost_model, cost_length)

    total = len(recipes) * (len(language_models) + 1) + 3
    done = 0

    turn = Lock()

    def step(text: str) -> None:
        nonlocal done
        with turn:
            if progress is not None:
                progress(text, done, total)
            done += 1

    simulated = simulate_all(workloads, machines, recipes, step)
    measured = measure(language_models, recipes, cut or TextCut(), seed, step)
    result = DemoResult(
        schema=SCHEMA,
        version=__version__,
        versions=_versions(),
        seed=seed,
        text=measured.text,
        formats=tuple(format_info(r) for r in recipes),
        models=measured.models,
        accelerators=tuple(accelerator_info(m) for m in machines),
        workloads=tuple(workload_info(w) for w in workloads),
        accuracy=measured.cells,
        runs=simulated.runs,
        unsupported=simulated.unsupported,
        values=measured.pictures,
        constants=constants_of(machines),
        checks=simulated.checks,
        recipes={r.name: r.to_dict() for r in recipes},
    )
    step("report")
    contents = file_contents(result, simulated)
    step(f"writing {out_dir}")
    files = write_together(out_dir, contents)
    return Demo(result=result, table=summary_table(result), files=files, seconds=time.perf_counter() - begun)


def file_contents(result: DemoResult, simulated: Simulated) -> dict[str, str]:
    """Return the text of every file of a demo by name, the one that marks a complete set last."""
    about = {"version": result.version, "seed": result.seed}
    return {
        "config.toml": config_toml(result),
        "ops.csv": ops_csv(simulated.results.values()),
        "trace.json": trace_json(trace_of(_traced(result, simulated), about)),
        "report.html": render_report(result),
        "result.json": dump_result(result),
    }


def _traced(result: DemoResult, simulated: Simulated) -> Mapping[str, Timed]:
    """Choose the runs of the trace: both phases of the format that shows each accelerator best."""
    runs = [run for a in result.accelerators for run in showcase(result, a.name)]
    return {f"{r.workload} {r.phase}, {r.format} on {r.accelerator}": simulated.results[r.key] for r in runs}


def _phases(model: str | Path, length: int | None = None) -> list[Workload]:
    return [
        load_workload(model, phase="prefill", sequence=length, head_tokens="last"),
        load_workload(model, phase="decode", context=length),
    ]


def _require_distinct(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise MacloomError(f"{kind}: must name each once, not {name!r} twice")


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **{name: metadata.version(name) for name in VERSIONED}}
