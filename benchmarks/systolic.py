"""Measure the systolic simulator: `python benchmarks/systolic.py`.

Writes one table to benchmarks/results/systolic.md. Everything is CPU time of one process with one thread
(two for the register machine), which other load on the machine disturbs least, and the best of several
runs where a run is short. SCALE-Sim, if installed, simulates the same layer in the same minute.
Models run in fresh processes: their time is all that such a process takes, imports included, and what
`simulate` takes in it; peak memory is that of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RESULT = Path(__file__).parent / "results" / "systolic.md"
SCORES = "Q K^T of one head of OPT-6.7B, 2048 x 2048 x 128"


class Row(NamedTuple):
    """One line of the table; goals are those that the project set itself."""

    what: str
    result: str
    goal: str = ""
    how: str = ""


def best(call: Callable[[], Any], runs: int) -> float:
    """Return the least CPU time of several calls, after one that compiles."""
    call()
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def scalesim_rows(peers: str) -> Iterator[Row]:
    """Compatible mode against SCALE-Sim itself, 128 x 128, 512, 512 and 256 KiB."""
    from macloom.sim.scalesim import Config, Gemm, simulate_layer
    from macloom.sim.scalesim.oracle import scalesim_report

    layer = Gemm(m=2048, n=2048, k=128)
    for dataflow, mode in (("ws", "CALC"), ("os", "CALC"), ("is", "CALC"), ("ws", "USER")):
        config = Config(
            rows=128, cols=128, dataflow=dataflow, ifmap_kb=512, filter_kb=512, ofmap_kb=256, mode=mode,
            bw_ifmap=64, bw_filter=64, bw_ofmap=64,
        )  # fmt: skip
        mine = best(lambda config=config: simulate_layer(layer, config), 20)
        result, how = f"{1e3 * mine:.2f} ms", "all 32 columns"
        if dataflow in peers and mode == "CALC" and find_spec("scalesim"):
            start = time.process_time()
            theirs = scalesim_report(layer, config)
            seconds = time.process_time() - start
            equal = theirs == dict(simulate_layer(layer, config))
            result += f", {seconds / mine:,.0f} x SCALE-Sim's {seconds:.1f} s"
            how = f"SCALE-Sim 3.0.0 in the same run; reports {'equal' if equal else 'DIFFER'}"
        yield Row(f"SCALE-Sim mode, {SCORES}, {dataflow}, {mode}", result, ">= 1000 x", how)
    for name, sizes in (("q/k/v/o", (2048, 4096, 4096)), ("fc1", (2048, 16384, 4096))):
        for mode in ("CALC", "USER"):
            config = Config(
                rows=128, cols=128, dataflow="ws", ifmap_kb=512, filter_kb=512, ofmap_kb=256, mode=mode,
                bw_ifmap=64, bw_filter=64, bw_ofmap=64,
            )  # fmt: skip
            m, n, k = sizes
            mine = best(lambda config=config, m=m, n=n, k=k: simulate_layer(Gemm(m=m, n=n, k=k), config), 3)
            yield Row(f"SCALE-Sim mode, {name} of OPT-6.7B, prefill 2048, ws, {mode}", f"{1e3 * mine:.1f} ms")


def analytic_rows(points: int) -> Iterator[Row]:
    """Design points per second, cycles alone and with memory and energy."""
    from macloom.arch import load_accelerator
    from macloom.sim import map_gemm
    from macloom.sim.analytic import design_cycles, price_points
    from macloom.sim.tiling import Tiling
    from macloom.workloads import load_recipe, load_workload

    rng = np.random.default_rng(0)
    sizes = [rng.integers(0, 3, points), *rng.integers(1, 5000, (3, points)), *rng.integers(1, 257, (2, points))]
    out = np.empty(points, np.int64)
    seconds = best(lambda: design_cycles(*sizes, out=out), 5)
    yield Row(
        "analytic, cycles of random points (M, N, K, R, C, dataflow)",
        f"{points / seconds / 1e6:.1f} M points/s",
        ">= 5 M points/s",
        f"{points:,} points into `out`",
    )
    base, recipe = load_accelerator("int8-sa"), load_recipe("int8")
    sides = [(rows, cols) for rows in (16, 32, 48, 64, 96, 128) for cols in (16, 32, 64, 128, 256)]
    chips = [replace(base, array=replace(base.array, rows=rows, cols=cols)) for rows, cols in sides]
    ops = load_workload("opt-6.7b").gemms[:8]

    def mapped() -> list[Any]:
        return [
            (map_gemm(op, chip, recipe, tiling=Tiling(m=128, n=64, k=min(op.k, 512), order="mnk")), chip)
            for chip in chips
            for op in ops
        ]

    count = len(chips) * len(ops)
    start, repeats = best(mapped, 5), 40
    many = mapped() * repeats
    pricing = best(lambda: price_points(many), 5) / repeats
    yield Row(
        "analytic with memory and energy, tiling stated",
        f"{count / pricing / 1e3:.0f} k op-points/s; {count / (start + pricing) / 1e3:.1f} k with mapping",
        ">= 10 k op-points/s",
        f"{len(ops)} products of OPT-6.7B on {len(chips)} arrays",
    )


def cycle_rows() -> Iterator[Row]:
    """Registers of processing elements stepped per second, values flowing."""
    from macloom.arch import Array, Dataflow, ProcessingElement
    from macloom.formats import get_format
    from macloom.sim.cycle import run

    rng = np.random.default_rng(0)
    a, b = (get_format("int8").encode(rng.standard_normal((size, 2048)).astype(np.float32)) for size in (512, 512))
    for side in (32, 128):
        for dataflow in ("os", "ws"):
            array = Array(rows=side, cols=side, pe=ProcessingElement(significand_bits=8), dataflow=Dataflow(dataflow))
            updates = run(a, b, array).updates
            taken = []
            for _ in range(3):
                wall, cpu = time.perf_counter(), time.process_time()
                run(a, b, array)
                taken.append((time.perf_counter() - wall, time.process_time() - cpu))
            walls, cpus = (min(times) for times in zip(*taken, strict=True))
            yield Row(
                f"cycle, 512 x 512 x 2048 int8 on {side} x {side}, {dataflow}",
                f"{updates / walls / 1e9:.2f} G element updates/s; {updates / cpus / 1e9:.2f} G per CPU second",
                ">= 1 G/s on two cores",
                "wall time with two threads, which other load disturbs; and CPU time of all threads",
            )


def big_machine() -> Any:
    """Return int8-sa with 128 x 128 elements, WS, and buffers of 512, 512 and 256 KiB."""
    from macloom.arch import Buffers, load_accelerator

    base = load_accelerator("int8-sa")
    kib = 8 * 1024
    buffers = base.buffers
    return replace(
        base,
        array=replace(base.array, rows=128, cols=128, dataflow="ws"),
        buffers=Buffers(
            operand_a=replace(buffers.operand_a, size_bits=512 * kib),
            operand_b=replace(buffers.operand_b, size_bits=512 * kib),
            output=replace(buffers.output, size_bits=256 * kib),
        ),
    )


def peak_mb() -> float:
    """Return the peak resident memory of this program; getrusage would tell that of the parent, if larger."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def model_case(case: str) -> dict[str, Any]:
    """Simulate one decoder layer or the whole model in this process, and return what it took."""
    from macloom.sim import simulate
    from macloom.workloads import load_workload

    machine = big_machine()
    phases = {"layer": [{"sequence": 2048}], "model": [{"sequence": 2048}, {"phase": "decode", "context": 2048}]}[case]
    cycles, joules, start = [], 0.0, time.process_time()
    for options in phases:
        workload = load_workload("opt-6.7b", **options)
        if case == "layer":
            ops = tuple(replace(op, repeat=op.repeat // 32) for op in workload.ops if op.repeat >= 32)
            workload = replace(workload, ops=ops)
        result = simulate(workload, machine, recipe="int8")
        cycles.append(result.cycles)
        joules += result.energy_j
    return {
        "simulate_s": time.process_time() - start,
        "cpu_s": time.process_time(),
        "rss_mb": peak_mb(),
        "cycles": cycles,
        "joules": joules,
    }


def model_rows(runs: int) -> Iterator[Row]:
    """Cold runs of a decoder layer and of the whole model, stalls, DRAM and energy included."""
    for case, name, goal in (
        ("layer", "one OPT-6.7B decoder layer, prefill 2048, 128 x 128", "<= 1 s, <= 300 MB"),
        ("model", "OPT-6.7B, prefill 2048 and decode at 2048, 128 x 128", "<= 3 s"),
    ):
        command = [sys.executable, __file__, "--case", case]
        done = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(runs)]
        found = [json.loads(each.stdout) for each in done]
        one = min(found, key=lambda each: each["cpu_s"])
        cycles = " and ".join(f"{count:,}" for count in one["cycles"])
        yield Row(
            name,
            f"{one['simulate_s']:.2f} s in simulate, {one['cpu_s']:.2f} s in all, {one['rss_mb']:.0f} MB",
            goal,
            f"cold process, best of {runs}; {cycles} cycles, {one['joules']:.3g} J",
        )


def table(rows: list[Row], command: str) -> str:
    """Return the page."""
    import numba

    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    lines = [
        "# Systolic simulator: speed",
        "",
        f"`{command}` on {cpu}, Python {platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}.",
        "",
        "CPU seconds unless wall time is said; best of several runs.",
        "",
        "| what | result | goal | how |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=5_000_000, help="random design points (5000000)")
    parser.add_argument("--runs", type=int, default=5, help="cold runs of each model (5)")
    parser.add_argument(
        "--peers", default="ws", help="dataflows that SCALE-Sim runs, half a minute or more each; none for no peer (ws)"
    )
    parser.add_argument("--case", choices=("layer", "model"), help="run one case in this process and print JSON")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(model_case(options.case)))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: list[Row] = []
    for found in (
        scalesim_rows(options.peers),
        model_rows(options.runs),
        analytic_rows(options.points),
        cycle_rows(),
    ):
        for row in found:
            print(*row, sep=" | ", file=sys.stderr)
            rows.append(row)
    command = " ".join(["python benchmarks/systolic.py", *sys.argv[1:]])
    RESULT.write_text(table(rows, command), encoding="utf-8")


if __name__ == "__main__":
    main()
