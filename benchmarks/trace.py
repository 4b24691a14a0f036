"""Measure the tracer: `python benchmarks/trace.py`.

Writes one table to benchmarks/results/trace.md. Every model is traced in a fresh process with one thread: the time is
CPU time, of the trace alone (build, run on the meta device, convert) and of the whole process with its imports; memory
is the process's peak. The best of several processes counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

RESULT = Path(__file__).parent / "results" / "trace.md"

_PROGRAM = """
import json, resource, sys, time
from macloom.workloads.trace.tracer import trace_workload
from macloom.workloads import load_workload
import transformers
transformers.AutoConfig, transformers.PreTrainedModel, transformers.AttentionInterface, transformers.DynamicCache
name, given = json.loads(sys.argv[1])
start = time.process_time()
workload = trace_workload(name, **given)
seconds = time.process_time() - start
computed = load_workload(name, **given)
assert (workload.macs, workload.parameters) == (computed.macs, computed.parameters), name
print(json.dumps({
    "seconds": seconds,
    "process": time.process_time(),
    "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "macs": workload.macs,
    "parameters": workload.parameters,
    "ops": len(workload.ops),
}))
"""


class Case(NamedTuple):
    """One model to trace, and what the project set itself for it."""

    name: str
    given: dict[str, Any]
    goal: str = ""


CASES = [
    Case("llama-2-7b", {"sequence": 2048}, "<= 1 s"),
    Case("opt-6.7b", {"sequence": 2048}, "<= 1 s"),
    Case("mistral-7b", {"sequence": 2048}, "<= 1 s"),
    Case("llama-3-8b", {"sequence": 2048}),
    Case("mixtral-8x7b", {"sequence": 2048}, "<= 2 s"),
    Case("llama-2-7b", {"phase": "decode", "context": 2048}, "<= 1 s"),
    Case("mixtral-8x7b", {"phase": "decode", "context": 2048}, "<= 2 s"),
    Case("llama-3-70b", {"sequence": 2048}),
    Case("bart-large", {"sequence": 1024}),
    Case("swin-base", {}),
    Case("mamba-2.8b", {"sequence": 2048}),
]


def measure(case: Case, runs: int) -> dict[str, Any]:
    """Return the best of several fresh processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    found = []
    for _ in range(runs):
        argument = json.dumps([case.name, case.given])
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, argument], env=environment, capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: min(run[key] for run in found) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the tracer.")
    parser.add_argument("--runs", type=int, default=3, help="processes for each model (3)")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the table")
    options = parser.parse_args()
    lines = [
        "# Tracing models without weights",
        "",
        f"`python benchmarks/trace.py`, Python {platform.python_version()}, torch {version('torch')}, transformers "
        f"{version('transformers')}; CPU seconds of one thread, the best of {options.runs} processes.",
        "MACs and parameters equal the formula's in every row; the run stops where they do not. The first trace of a",
        "process also loads the modeling file of its architecture; `process` includes all imports.",
        "",
        "| model | phase | parameters, 10^9 | 10^9 MACs | operations | trace, s | goal | process, s | peak, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        row = measure(case, options.runs)
        phase = case.given.get("phase", "prefill")
        length = case.given.get("sequence", case.given.get("context", "an image"))
        lines.append(
            f"| `{case.name}` | {phase}, {length} | {row['parameters'] / 1e9:.3f} | {row['macs'] / 1e9:,.3f} | "
            f"{row['ops']} | {row['seconds']:.2f} | {case.goal} | {row['process']:.2f} | {row['mib']:.0f} |"
        )
        print(lines[-1], file=sys.stderr)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
