"""Measure the systolic simulator: `python benchmarks/systolic.py`.

Writes one table to benchmarks/results/systolic.md. Everything is CPU time of one process with one thread, which
other load on the machine disturbs least, and the best of several runs where a run is short; the register machine is
also timed by the clock on the wall with two threads. SCALE-Sim, if installed, simulates the same layers in the same
run.
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
PEER_SIZE = (1024, 1024, 128)  # some seconds of SCALE-Sim in each dataflow


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


def peer_row(name: str, layer: Any, config: Any, runs: int, *, peer: bool, goal: str = "") -> Row:
    """Time the compatible mode on one layer, and SCALE-Sim on the same if asked to and installed."""
    from macloom.sim.scalesim import simulate_layer
    from macloom.sim.scalesim.oracle import scalesim_report

    mine = best(lambda: simulate_layer(layer, config), runs)
    result, how = f"{1e3 * mine:.2f} ms", "all 32 columns"
    if peer and find_spec("scalesim"):
        start = time.process_time()
        theirs = scalesim_report(layer, config)
        seconds = time.process_time() - start
        equal = theirs == dict(simulate_layer(layer, config))
        result += f", {seconds / mine:,.0f} x SCALE-Sim's {seconds:.1f} s"
        how = f"SCALE-Sim 3.0.0 in the same run; reports {'equal' if equal else 'DIFFER'}"
    return Row(f"SCALE-Sim mode, {name}, {config.dataflow}, {config.mode}", result, goal, how)


def scalesim_rows(peers: str) -> Iterator[Row]:
    """Compatible mode against SCALE-Sim itself, 128 x 128, 512, 512 and 256 KiB."""
    from macloom.sim.scalesim import Config, Gemm, simulate_layer

    def config(dataflow: str, mode: str) -> Config:
        return Config(
            rows=128, cols=128, dataflow=dataflow, ifmap_kb=512, filter_kb=512, ofmap_kb=256, mode=mode,
            bw_ifmap=64, bw_filter=64, bw_ofmap=64,
        )  # fmt: skip

    m, n, k = PEER_SIZE
    for dataflow in ("os", "ws", "is"):
        for mode in ("CALC", "USER"):
            peer = dataflow in peers and mode == "CALC"
            yield peer_row(f"{m} x {n} x {k}", Gemm(m=m, n=n, k=k), config(dataflow, mode), 20, peer=peer)
    for dataflow, mode in (("ws", "CALC"), ("os", "CALC"), ("is", "CALC"), ("ws", "USER")):
        peer = dataflow == "ws" and mode == "CALC" and "ws" in peers
        yield peer_row(SCORES, Gemm(m=2048, n=2048, k=128), config(dataflow, mode), 20, peer=peer, goal=">= 1000 x")
    for name, sizes in (("q/k/v/o", (2048, 4096, 4096)), ("fc1", (2048, 16384, 4096))):
        for mode in ("CALC", "USER"):
            layer, machine = Gemm(m=sizes[0], n=sizes[1], k=sizes[2]), config("ws", mode)
            mine = best(lambda layer=layer, machine=machine: simulate_layer(layer, machine), 3)
            yield Row(f"SCALE-Sim mode, {name} of OPT-6.7B, prefill 2048, ws, {mode}", f"{1e3 * mine:.1f} ms")


def analytic_rows(points: int) -> Iterator[Row]:
    """Design points per second, cycles alone and with memory and energy."""
    from macloom.arch import load_accelerator
    from macloom.sim import map_gemm
    from macloom.sim.analytic import design_cycles, price_points
    from macloom.sim.tile_search import best_tiling, ranked_tilings
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

    count, points_of = len(chips) * len(ops), mapped()
    both = best(lambda: price_points(mapped()), 10)
    pricing = best(lambda: price_points(points_of), 10)
    what = f"{len(ops)} products of OPT-6.7B on {len(chips)} arrays, all in one call"
    yield Row(
        "analytic with memory and energy, tiling stated, mapping included",
        f"{count / both / 1e3:.1f} k op-points/s",
        ">= 10 k op-points/s",
        what,
    )
    yield Row("the same without mapping", f"{count / pricing / 1e3:.1f} k op-points/s", "", what)

    def searched() -> None:
        best_tiling.cache_clear()
        ranked_tilings.cache_clear()
        for chip in chips[:6]:
            for op in ops:
                map_gemm(op, chip, recipe)

    search = best(searched, 3)
    yield Row(
        "search for tiles and loop order, nothing remembered",
        f"{6 * len(ops) / search / 1e3:.2f} k products/s",
        "",
        "some thousand candidates each; equal products are searched once per process",
    )


def cycle_rows(runs: int) -> Iterator[Row]:
    """Registers of processing elements stepped per second, values flowing."""
    from macloom.arch import Array, Dataflow, ProcessingElement
    from macloom.formats import get_format
    from macloom.formats.threads import set_threads
    from macloom.sim.cycle import run

    rng = np.random.default_rng(0)
    for shadow in (False, True):
        for side in (16, 32, 128):
            m, k = (512, 2048) if side > 16 else (256, 1024)
            a, b = (get_format("int8").encode(rng.standard_normal((m, k)).astype(np.float32)) for _ in range(2))
            for dataflow in Dataflow:
                pe = ProcessingElement(significand_bits=8)
                array = Array(rows=side, cols=side, pe=pe, dataflow=dataflow, shadow_registers=shadow)
                updates = run(a, b, array).updates
                rates = []
                for threads, clock in ((1, time.process_time), (2, time.perf_counter)):
                    set_threads(threads)
                    taken = []
                    for _ in range(runs):
                        start = clock()
                        run(a, b, array)
                        taken.append(clock() - start)
                    rates.append(updates / min(taken) / 1e9)
                set_threads(None)
                yield Row(
                    f"cycle, {m} x {m} x {k} int8 on {side} x {side}, {dataflow.value}"
                    + (", shadow registers" if shadow else ""),
                    f"{rates[0]:.2f} G element updates per CPU second of one thread; {rates[1]:.2f} G/s by two threads",
                    ">= 1 G/s on two cores",
                    "two threads by the clock on the wall, which other load disturbs",
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
        "--peers",
        default="os,ws,is",
        help="dataflows that SCALE-Sim runs, a minute in all; none for no peer (os,ws,is)",
    )
    parser.add_argument("--case", choices=("layer", "model"), help="run one case in this process and print JSON")
    parser.add_argument("--quick", action="store_true", help="no peer, few points and runs; prints, writes no table")
    options = parser.parse_args()
    if options.quick:
        options.points, options.runs, options.peers = 500_000, 1, "none"
    if options.case:
        print(json.dumps(model_case(options.case)))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: list[Row] = []
    for found in (
        scalesim_rows(options.peers),
        model_rows(options.runs),
        analytic_rows(options.points),
        cycle_rows(1 if options.quick else 3),
    ):
        for row in found:
            print(*row, sep=" | ", file=sys.stderr)
            rows.append(row)
    if options.quick:
        return
    command = " ".join(["python benchmarks/systolic.py", *sys.argv[1:]])
    RESULT.write_text(table(rows, command), encoding="utf-8")


if __name__ == "__main__":
    main()
