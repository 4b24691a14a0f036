"""Measure how fast circuits run: `python benchmarks/rtl_speed.py`.

Writes one table to benchmarks/results/rtl_speed.md. Simulations run in PyRTL's compiled simulation, through its raw
buffers. Times are CPU time of one process with one thread, the C compiler's included where compiling is timed, and
the best of several runs where a run is short. Takes a minute or two, nearly all of it in the C compiler.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from macloom._files import write_atomically
from macloom.arch import Dataflow
from macloom.formats import get_format
from macloom.rtl.array.design import ArrayDesign
from macloom.rtl.array.run import ArraySimulation
from macloom.rtl.catalog import build
from macloom.rtl.simulation import CompiledCircuit, some_inputs
from macloom.rtl.toolchain import tool_version
from macloom.rtl.unit import Unit, elaborate

RESULT = Path(__file__).parent / "results" / "rtl_speed.md"
ARRAYS = (("int8", 8, "os"), ("int8", 16, "os"), ("int8", 16, "ws"), ("ovp4", 16, "os"))
UNITS = (("ovp4", "decoder"), ("ovp4", "pe"), ("fp8_e4m3", "pe"), ("mxfp4", "block-dot"))


class Row(NamedTuple):
    """One line of the table; goals are those that the project set itself."""

    what: str
    result: str
    goal: str = ""
    how: str = ""


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def compiled(unit: Unit) -> tuple[CompiledCircuit, float, int]:
    """Return the compiled circuit, the seconds that it took to make it, and the nets of the circuit."""
    start = cpu_seconds()
    block = elaborate(unit)
    circuit = CompiledCircuit(block)
    return circuit, cpu_seconds() - start, len(block.logic)


def rate(call: Callable[[], Any], cycles: int, runs: int) -> float:
    """Return cycles per CPU second, the best of several calls."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return cycles / min(times)


def bits_of(unit: Unit, cycles: int) -> dict[str, np.ndarray]:
    """Return the unit's own stimuli, as bits and for exactly so many cycles."""
    inputs = some_inputs(unit, cycles)
    return {port.name: np.resize(port.bits_of(inputs[port.name]), cycles) for port in unit.inputs}


def unit_rows(cycles: int, runs: int) -> Iterator[Row]:
    """Single units on their own stimuli."""
    for name, kind in UNITS:
        unit = build(get_format(name), kind)
        circuit, seconds, nets = compiled(unit)
        inputs = bits_of(unit, cycles)
        found = rate(lambda circuit=circuit, inputs=inputs: circuit.run(inputs), cycles, runs)
        yield Row(f"{kind} of {name}", f"{found / 1e3:,.0f} k cycles/s", "", f"{nets} nets, {seconds:.1f} s to compile")


def array_rows(cycles: int, runs: int) -> Iterator[Row]:
    """Arrays: the circuit alone on random products, and whole products with their operands and sums."""
    rng = np.random.default_rng(0)
    for name, side, dataflow in ARRAYS:
        fmt = get_format(name)
        simulation = ArraySimulation(ArrayDesign(a=fmt, b=fmt, rows=side, cols=side, dataflow=Dataflow(dataflow)))
        what, goal = f"array of {name}, {side} x {side}, {dataflow}", ">= 50 k cycles/s" if side == 16 else ""
        start = cpu_seconds()
        circuit = simulation.circuit
        seconds = cpu_seconds() - start
        a, b = (fmt.encode(rng.standard_normal((4 * side, 1024)).astype(np.float32)) for _ in range(2))
        count = simulation.run(a, b).cycles
        whole = rate(lambda run=simulation.run, a=a, b=b: run(a, b), count, runs)
        inputs = bits_of(simulation.unit, cycles)
        alone = rate(lambda circuit=circuit, inputs=inputs: circuit.run(inputs), cycles, runs)
        yield Row(what, f"{alone / 1e3:,.0f} k cycles/s", goal, f"{cycles:,} cycles; {seconds:.0f} s to compile")
        yield Row(
            f"{what}, whole products",
            f"{whole / 1e3:,.0f} k cycles/s",
            goal,
            f"{4 * side} x {4 * side} x 1024 in {count:,} cycles, operands fed, schedule checked and sums read",
        )


def table(rows: list[Row], command: str) -> str:
    """Return the page."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    lines = [
        "# Simulation of circuits: speed",
        "",
        f"`{command}` on {cpu}, Python {platform.python_version()}, pyrtl {tool_version('pyrtl')}.",
        "",
        "CPU seconds of one thread; best of several runs.",
        "",
        "| what | result | goal | how |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=100_000, help="cycles of a run (100000)")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the best counts (5)")
    options = parser.parse_args()
    rows: list[Row] = []
    for found in (unit_rows(options.cycles, options.runs), array_rows(options.cycles, options.runs)):
        for row in found:
            print(*row, sep=" | ", file=sys.stderr, flush=True)
            rows.append(row)
    command = " ".join(["python benchmarks/rtl_speed.py", *sys.argv[1:]])
    write_atomically(RESULT, table(rows, command))


if __name__ == "__main__":
    main()
