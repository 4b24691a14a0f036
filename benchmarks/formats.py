"""Measure how fast tensors are quantized, encoded and decoded: `python benchmarks/formats.py`.

Writes benchmarks/results/formats.md: input GB/s of each conversion and of every installed peer, with memcpy
into a preallocated buffer timed between them, run by run. One thread is timed in CPU time, which other load
on the machine disturbs least, two threads in wall time. Peak memory is what is allocated during a call,
over the size of the input. About two minutes on an idle machine.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import platform
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peers.codecs import ROW, peers_of

from macloom.formats import get_format, set_threads

SEED = 0
PEER_SECONDS = 2.0  # for the timed runs of one conversion of a peer
FIRST_CALLS = ("fp8_e4m3:none", "mxfp4", "ovp4")
# How far ahead of the best peer a conversion should be.
AHEAD = {
    "fp8_e4m3:none -> values": 10.0,
    "fp8_e5m2:none -> values": 10.0,
    "fp6_e3m2:none -> values": 10.0,
    "fp4_e2m1:none -> values": 10.0,
    "mxfp4 -> values, dynamic": 50.0,
    "posit8_0 -> values": 100.0,
}
BOUNDS = (
    "Values: 4 bytes read and 4 written for each element, as for memcpy. Ratios above 1 are results that are written "
    "past the caches (from 32 MiB on) while input is asked for 8 KiB ahead; a bare loop that does both and computes "
    "nothing reached 1.4 to 1.5 times memcpy where this was written, one that does neither 0.9.",
    "Codes: 4 bytes read, 1 written. Packed: the codes are written, read again and written packed.",
    "Dynamic scales of blocks: the input is read from memory once, from the first-level cache twice. Those of whole "
    "tensors (int8, nvfp4): twice from memory.",
    "Codebooks: one look-up for each element where thresholds have few mantissa bits (posit8_0, flint4, hif8), "
    "else two.",
    "Stochastic rounding: about half of the time is numpy's generator, whose words have a fixed order. PCG64, its "
    "default, is advanced to where each thread's part begins; of other generators a second thread draws ahead.",
    "Without out=: the system clears the pages of a fresh array, which takes more time than the conversion and gains "
    "less from a second thread; numpy's copy below them has no second thread to do it.",
    "Fresh codes take no fresh pages up to 16 MiB, where the allocator gives out again what was freed before.",
    "Two threads share the memory bus: compare their gain with that of memcpy above.",
)


@dataclass(frozen=True)
class Case:
    """One line: what is called, on how many elements, and the ratio to memcpy that is the goal."""

    name: str
    call: Callable[[], Any]
    elements: int
    goal: float | None = None
    most_memory: float | None = None


@dataclass(frozen=True)
class Timing:
    """Input GB/s of every run and the ratio to the memcpy of the same run."""

    speeds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


def values(text: str, x: np.ndarray, out: np.ndarray, goal: float | None = None, static: bool = True) -> Case:
    """Quantize to `out`; with `static` the scales are given."""
    fmt = get_format(text)
    scale = fmt.calibrate(x) if static else None
    rng = np.random.default_rng(SEED) if "stochastic" in text else None
    label = f"{text} -> values{'' if static else ', dynamic'}"
    return Case(label, lambda: fmt.quantize(x, scale=scale, out=out, rng=rng), x.size, goal, 0.05)


def codes(text: str, x: np.ndarray, goal: float | None = None, static: bool = True, packed: bool = False) -> Case:
    """Encode, one code per byte unless `packed`."""
    fmt = get_format(text)
    scale = fmt.calibrate(x) if static else None
    label = f"{text} -> {'packed codes and scales' if packed else 'codes'}{'' if static else ', dynamic'}"
    if packed:
        return Case(label, lambda: fmt.encode(x, scale=scale).codes, x.size, goal)
    return Case(label, lambda: fmt.encode(x, scale=scale), x.size, goal)


def decoding(text: str, x: np.ndarray, out: np.ndarray | None, packed: bool = False) -> Case:
    """Decode to `out` or to a fresh tensor, from one code per byte or from packed codes."""
    encoded = get_format(text).encode(x)
    fresh = ", without out=" if out is None else ""
    if not packed:
        return Case(f"{text}, codes -> values{fresh}", lambda: encoded.decode(out=out), x.size)
    parts = encoded.codes, encoded.scales, encoded.shape, float(encoded.outer)
    fmt = encoded.format
    return Case(f"{text}, packed codes -> values{fresh}", lambda: fmt.from_packed(*parts).decode(out=out), x.size)


def own_cases(x: np.ndarray, out: np.ndarray) -> Iterator[Case]:
    for name in ("fp8_e4m3:none", "fp8_e5m2:none", "fp6_e3m2:none", "fp4_e2m1:none"):
        yield values(name, x, out, 0.85)
    for rounding, goal in (("nearest_away", 0.7), ("toward_zero", 0.7), ("to_odd", 0.7), ("stochastic", 0.2)):
        yield values(f"fp8_e4m3:none,rounding={rounding}", x, out, goal)
    yield values("bf16", x, out)
    yield values("int4:group=128", x, out, 0.85)
    yield values("int4:group=128", x, out, static=False)
    for name in ("fp8_e4m3:none", "int4:group=128"):
        yield codes(name, x, 0.7)
    for name in ("int8", "int8:token"):
        yield values(name, x, out, 0.5, static=False)
    for name in ("mxfp4", "mxfp6", "mxfp8", "mxint8"):
        yield values(name, x, out, 0.8, static=False)
    for name in ("mxfp4", "mxfp6", "mxfp8"):
        yield codes(name, x, 0.5, static=False, packed=True)
    yield values("nvfp4", x, out, static=False)
    yield codes("nvfp4", x, 0.3, static=False, packed=True)
    for name in ("bfp4", "bfp8", "msfp12"):
        yield values(name, x, out, 0.8, static=False)
    for name in ("posit8_0", "posit8_1", "flint4", "nf4", "hif8"):
        yield values(name, x, out, 0.15)
        yield codes(name, x, 0.4)
    for name in ("ovp4", "ovp4:normal=flint4", "ovp8"):
        yield codes(name, x, 0.8)
        yield values(name, x, out)
    for name in ("fp8_e4m3:none", "int4:group=128", "mxfp4", "nvfp4", "posit8_1", "bf16", "ovp4"):
        yield from (decoding(name, x, into) for into in (out, None))
    for name in ("mxfp4", "mxfp6"):
        yield from (decoding(name, x, into, packed=True) for into in (out, None))
    fresh = get_format("fp8_e4m3:none")
    yield Case("fp8_e4m3:none -> values, without out=", lambda: fresh.quantize(x), x.size, None, 1.05)
    yield Case("numpy copy, without out=", x.copy, x.size)
    some = x[: max(1, (1 << 20) // ROW)].copy()
    for name in ("ovp4", "ovp4:token", "ovp8"):
        fmt = get_format(name)
        yield Case(f"{name}, scale search", lambda f=fmt: f.calibrate(some), some.size)


def measure(
    call: Callable[[], Any], elements: int, copy: Callable[[], Any], size: int, runs: int, clock: Callable[[], float]
) -> Timing:
    """Time a call and memcpy in turn."""
    call()
    copy()
    timing = Timing()
    for _ in range(runs):
        start = clock()
        copy()
        between = clock()
        call()
        seconds = clock() - between
        timing.speeds.append(4 * elements / seconds / 1e9)
        timing.ratios.append((between - start) / size * elements / seconds)
    return timing


def traced_peak(call: Callable[[], Any], elements: int) -> float:
    """Return the peak of what numpy allocates during a call over the bytes of the input."""
    tracemalloc.start()
    call()
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return highest / (4 * elements)


def resident(name: str) -> int:
    """Return the process's resident bytes, `VmRSS` now or `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def resident_peak(call: Callable[[], Any], elements: int) -> float | None:
    """Return by how much a call raises the resident memory over the bytes of the input; None where it is not told."""
    try:
        call()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest
        before = resident("VmRSS")
        call()
        return max(0.0, (resident("VmHWM") - before) / (4 * elements))
    except (OSError, AttributeError, StopIteration):
        return None


def processor() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def spread(numbers: list[float], digits: int = 2) -> str:
    """Return the median and the extremes."""
    return f"{statistics.median(numbers):.{digits}f} ({min(numbers):.{digits}f} to {max(numbers):.{digits}f})"


def memory(case: Case) -> str:
    peak = traced_peak(case.call, case.elements)
    kept = case.most_memory is None or peak <= case.most_memory
    return f"{peak:.2f}{'' if kept else ' (!)'}"


def table(cases: list[Case], copy: Callable[[], Any], size: int, runs: int, speeds: dict[str, float]) -> Iterator[str]:
    yield "| conversion | GB/s, 1 thread | of memcpy | goal | met | GB/s, 2 threads (wall) | gain | peak memory |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in cases:
        set_threads(1)
        one = measure(case.call, case.elements, copy, size, runs, time.process_time)
        alone = measure(case.call, case.elements, copy, size, runs, time.perf_counter)
        set_threads(2)
        two = measure(case.call, case.elements, copy, size, runs, time.perf_counter)
        speeds[case.name] = statistics.median(one.speeds)
        met = "" if case.goal is None else ("yes" if statistics.median(one.ratios) >= case.goal else "no")
        print(f"{case.name:50} {spread(one.speeds)} {spread(one.ratios)} {met}", file=sys.stderr, flush=True)
        yield (
            f"| {case.name} | {spread(one.speeds)} | {spread(one.ratios)} | "
            f"{'' if case.goal is None else f'{case.goal:.2f}'} | {met} | {spread(two.speeds)} | "
            f"{max(two.speeds) / max(alone.speeds):.2f} | {memory(case)} |"
        )
    set_threads(None)


def peer_table(
    x: np.ndarray, copy: Callable[[], Any], size: int, runs: int, speeds: dict[str, float]
) -> tuple[list[str], list[str], list[str]]:
    """Return the peers' table, the table of how far ahead of the best of them we are, and notes on the peers."""
    cases, notes = peers_of(x)
    lines = ["| peer | GB/s, 1 thread | of memcpy | peak memory | ours over it |", "|---|---|---|---|---|"]
    best: dict[str, tuple[float, str]] = {}
    copies: dict[str, float] = {}
    for peer in cases:
        start = time.perf_counter()
        peer.call()
        own_runs = max(3, min(runs, int(PEER_SECONDS / (time.perf_counter() - start))))
        timing = measure(peer.call, peer.elements, copy, size, own_runs, time.process_time)
        speed = statistics.median(timing.speeds)
        peak = resident_peak(peer.call, peer.elements) if peer.elements * 4 >= 1 << 22 else None
        peak = traced_peak(peer.call, peer.elements) if peak is None else peak
        ratio = f"{speeds[peer.ours] / speed:.1f}" if peer.ours in speeds else ""
        copies[peer.name] = 1 / statistics.median(timing.ratios)
        if peer.ours in speeds:
            best[str(peer.ours)] = max(best.get(str(peer.ours), (0.0, "")), (speed, peer.name))
        print(f"{peer.name:50} {spread(timing.speeds, 4)} {ratio}", file=sys.stderr, flush=True)
        lines.append(
            f"| {peer.name} | {spread(timing.speeds, 4)} | {spread(timing.ratios, 4)} | {peak:.2f} | {ratio} |"
        )
    ahead = ["| conversion | best peer | ahead by | goal | met | memcpy over that peer |", "|---|---|---|---|---|---|"]
    for name, (speed, peer_name) in best.items():
        factor, goal = speeds[name] / speed, AHEAD.get(name)
        met = "" if goal is None else ("yes" if factor >= goal else "no")
        shown = "" if goal is None else f"{goal:.0f}"
        ahead.append(f"| {name} | {peer_name} | {factor:.1f} | {shown} | {met} | {copies[peer_name]:.1f} |")
    return lines, ahead, notes


def first_call(text: str) -> float:
    """Return the seconds of the first call in a fresh process, numba's import included, compiled before."""
    code = (
        "import time, numpy as np\nfrom macloom.formats import get_format\nx = np.ones((4, 128), np.float32)\n"
        f"start = time.perf_counter()\nget_format({text!r}).quantize(x)\nprint(time.perf_counter() - start)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(4)]
    return statistics.median(float(run.stdout) for run in runs[1:])


def doubled_copy(x: np.ndarray, out: np.ndarray) -> Callable[[], None]:
    """Return memcpy by two threads, each of its half."""
    half = len(x) // 2

    def copy() -> None:
        other = threading.Thread(target=np.copyto, args=(out[:half], x[:half]))
        other.start()
        np.copyto(out[half:], x[half:])
        other.join()

    return copy


def report(elements: int, runs: int, only: str = "") -> str:
    """Return the whole report, or with `only` the lines of the conversions whose names hold that."""
    rows = max(2, elements // ROW)
    x = np.random.default_rng(SEED).standard_normal((rows, ROW)).astype(np.float32)
    out = np.empty_like(x)

    def copy() -> None:
        np.copyto(out, x)

    copy()
    memcpy = measure(copy, x.size, copy, x.size, runs, time.process_time)
    alone = measure(copy, x.size, copy, x.size, runs, time.perf_counter)
    double = measure(doubled_copy(x, out), x.size, copy, x.size, runs, time.perf_counter)
    plain = measure(lambda: np.multiply(x, np.float32(2), out=out), x.size, copy, x.size, runs, time.process_time)
    speeds: dict[str, float] = {}
    cases = [case for case in own_cases(x, out) if only in case.name]
    if only:
        return "\n".join(table(cases, copy, x.size, runs, speeds))
    own = list(table(cases, copy, x.size, runs, speeds))
    peers, ahead, notes = peer_table(x, copy, x.size, runs, speeds)
    first = ", ".join(f"{text} {first_call(text):.2f} s" for text in FIRST_CALLS)
    versions = ", ".join(f"{n} {importlib.import_module(n).__version__}" for n in ("numpy", "numba"))
    lines = [
        "# Formats: speed",
        "",
        f"`python benchmarks/formats.py --elements {elements} --runs {runs}` on {processor()}, "
        f"Python {platform.python_version()}, {versions}.",
        "",
        f"Input: {rows} x {ROW} normal float32. memcpy into a preallocated buffer: {spread(memcpy.speeds)} GB/s of "
        "input, one thread; a second thread gains "
        f"{max(double.speeds) / max(alone.speeds):.2f}. Numbers are medians (extremes) of all runs; one thread in CPU "
        "time; every ratio is to the memcpy timed just before. The gain of two threads is that of the best runs. Peak "
        "memory is what numpy allocates, over the input; codes are fresh arrays, values go to `out=` unless a line "
        f"says otherwise. numpy's multiplication by a constant into `out` reaches {spread(plain.ratios)} of memcpy: "
        "it reads each line of `out` before it writes it, which memcpy and our kernels for large results do not.",
        "",
        f"First call in a fresh process, kernels cached, numba's import included (goal 1 s): {first}.",
        "",
        *own,
        "",
        "## Peers",
        "",
        "One thread, CPU time. Some are timed on fewer elements, which then stay in the caches. Their peak memory "
        "is the growth of the process. " + "; ".join(notes) + ".",
        "",
        *peers,
        "",
        "## Ahead of the best peer",
        "",
        "The last column is where a conversion would stand that took as long as memcpy: no goal much above it can be "
        "met by any program that reads the input and writes the values once.",
        "",
        *ahead,
        "",
        "## What bounds each line",
        "",
        *(f"- {line}" for line in BOUNDS),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=1 << 24, help="float32 values in the input")
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each line")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "formats.md")
    parser.add_argument("--only", default="", help="print the conversions whose names hold this; write no file")
    chosen = parser.parse_args(arguments)
    text = report(chosen.elements, chosen.runs, chosen.only)
    if chosen.only:
        print(text)
        return 0
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
