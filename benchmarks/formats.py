"""Measure how fast tensors are quantized and encoded: `python benchmarks/formats.py`.

Writes one table to benchmarks/results/formats.md: input GB/s of each conversion and of every installed
peer, with memcpy into a preallocated buffer timed between them, run by run. One thread is timed in CPU
time, which other load on the machine disturbs least, two threads in wall time. Peak memory is what
numpy allocates during a call, over the size of the input; what torch allocates is not seen.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from macloom.formats import get_format, set_threads

ROW = 4096
SLOW = 1 << 16  # elements for peers that take microseconds per element
SEED = 0


@dataclass(frozen=True)
class Case:
    """One line: what is called, on how many elements, and the ratio to memcpy that is the goal."""

    name: str
    call: Callable[[], Any]
    elements: int
    goal: float | None = None
    threads: bool = True


@dataclass(frozen=True)
class Timing:
    """Input GB/s of every run and the ratio to the memcpy of the same run."""

    speeds: list[float]
    ratios: list[float]


def values(text: str, x: np.ndarray, out: np.ndarray, goal: float | None = None, static: bool = True) -> Case:
    """Quantize to `out`; with `static` the scales are given."""
    fmt = get_format(text)
    scale = fmt.calibrate(x) if static else None
    rng = np.random.default_rng(SEED) if "stochastic" in text else None
    label = f"{text} -> values{'' if static else ', dynamic'}"
    return Case(label, lambda: fmt.quantize(x, scale=scale, out=out, rng=rng), x.size, goal)


def codes(text: str, x: np.ndarray, goal: float | None = None, static: bool = True, packed: bool = False) -> Case:
    """Encode, one code per byte unless `packed`."""
    fmt = get_format(text)
    scale = fmt.calibrate(x) if static else None
    label = f"{text} -> {'packed codes and scales' if packed else 'codes'}{'' if static else ', dynamic'}"
    if packed:
        return Case(label, lambda: fmt.encode(x, scale=scale).codes, x.size, goal)
    return Case(label, lambda: fmt.encode(x, scale=scale), x.size, goal)


def own_cases(x: np.ndarray, out: np.ndarray) -> Iterator[Case]:
    for name in ("fp8_e4m3:none", "fp8_e5m2:none", "fp6_e3m2:none", "fp4_e2m1:none"):
        yield values(name, x, out, 0.85)
    for rounding, goal in (("nearest_away", 0.7), ("toward_zero", 0.7), ("to_odd", 0.7), ("stochastic", 0.2)):
        yield values(f"fp8_e4m3:none,rounding={rounding}", x, out, goal)
    yield values("bf16", x, out)
    yield codes("fp8_e4m3:none", x, 0.7)
    yield values("int4:group=128", x, out, 0.85)
    yield values("int4:group=128", x, out, None, static=False)
    yield codes("int4:group=128", x, 0.7)
    yield values("int8", x, out, 0.5, static=False)
    yield values("int8:token", x, out, 0.5, static=False)
    for name in ("mxfp4", "mxfp6", "mxfp8"):
        yield values(name, x, out, 0.8, static=False)
        yield codes(name, x, 0.5, static=False, packed=True)
    yield values("nvfp4", x, out, None, static=False)
    yield codes("nvfp4", x, 0.3, static=False, packed=True)
    for name in ("bfp4", "bfp8"):
        yield values(name, x, out, 0.8, static=False)
    for name in ("posit8_1", "flint4", "nf4"):
        yield values(name, x, out, 0.15)
        yield codes(name, x, 0.4)
    yield codes("ovp4", x, 0.8)
    yield values("ovp4", x, out)
    yield codes("ovp8", x, 0.8)


def ml_dtypes_cases(module: Any, x: np.ndarray, out: np.ndarray) -> Iterator[Case]:
    for name in ("float8_e4m3fn", "float8_e5m2", "float6_e3m2fn", "float4_e2m1fn", "int4"):
        kind = getattr(module, name, None)
        if kind is not None:
            yield Case(f"ml_dtypes {name} -> codes", lambda k=kind: x.astype(k), x.size, threads=False)
            yield Case(
                f"ml_dtypes {name} -> values", lambda k=kind: x.astype(k).astype(np.float32), x.size, threads=False
            )


def torch_cases(torch: Any, x: np.ndarray, out: np.ndarray) -> Iterator[Case]:
    torch.set_num_threads(1)
    tensor, target = torch.from_numpy(x), torch.from_numpy(out)
    for name in ("float8_e4m3fn", "float8_e5m2", "bfloat16"):
        kind = getattr(torch, name)
        yield Case(f"torch {name} -> codes", lambda k=kind: tensor.to(k), x.size, threads=False)
        yield Case(f"torch {name} -> values", lambda k=kind: target.copy_(tensor.to(k)), x.size, threads=False)
    yield Case(
        "torch fake_quantize int8 -> values",
        lambda: torch.fake_quantize_per_tensor_affine(tensor, 0.03, 0, -127, 127),
        x.size,
        threads=False,
    )


def gfloat_cases(gfloat: Any, x: np.ndarray, out: np.ndarray) -> Iterator[Case]:
    part = x.reshape(-1)[:SLOW].copy()
    catalog = importlib.import_module("gfloat.formats")
    for name in ("ocp_e4m3", "ocp_e2m1"):
        info = getattr(catalog, f"format_info_{name}")
        yield Case(
            f"gfloat {name} -> values", lambda i=info: gfloat.round_ndarray(i, part, sat=True), part.size, threads=False
        )


def torchao_cases(torchao: Any, x: np.ndarray, out: np.ndarray) -> Iterator[Case]:
    torch = importlib.import_module("torch")
    mx = importlib.import_module("torchao.prototype.mx_formats.mx_tensor")
    tensor = torch.from_numpy(x.reshape(-1)[: SLOW * 16].reshape(-1, ROW).copy())
    for name, kind in (("mxfp8", torch.float8_e4m3fn), ("mxfp4", getattr(torch, "float4_e2m1fn_x2", None))):
        if kind is not None:
            yield Case(
                f"torchao {name} -> codes", lambda k=kind: mx.to_mx(tensor, k, 32), tensor.numel(), threads=False
            )


def brevitas_cases(brevitas: Any, x: np.ndarray, out: np.ndarray) -> Iterator[Case]:
    torch = importlib.import_module("torch")
    scalar = importlib.import_module("brevitas.core.quant").RescalingIntQuant
    inject = importlib.import_module("brevitas.quant").Int8ActPerTensorFloat
    quantizer = importlib.import_module("brevitas.nn").QuantIdentity(act_quant=inject)
    quantizer.eval()
    tensor = torch.from_numpy(x)
    assert scalar is not None
    yield Case("brevitas int8 -> values", lambda: quantizer(tensor), x.size, threads=False)


PEERS: dict[str, Callable[[Any, np.ndarray, np.ndarray], Iterator[Case]]] = {
    "ml_dtypes": ml_dtypes_cases,
    "torch": torch_cases,
    "gfloat": gfloat_cases,
    "torchao": torchao_cases,
    "brevitas": brevitas_cases,
}


def peer_cases(x: np.ndarray, out: np.ndarray) -> tuple[list[Case], list[str]]:
    """Return the cases of every peer that is installed, and why others are missing."""
    cases, notes = [], []
    for name, build in PEERS.items():
        try:
            module = importlib.import_module(name)
        except ImportError:
            notes.append(f"{name}: not installed, skipped")
            continue
        try:
            cases += build(module, x, out)
        except (AttributeError, ImportError, RuntimeError) as error:
            notes.append(f"{name}: skipped, {type(error).__name__}: {error}")
    return cases, notes


def measure(case: Case, copy: Callable[[], Any], size: int, runs: int, clock: Callable[[], float]) -> Timing:
    """Time a case and memcpy in turn."""
    case.call()
    copy()
    speeds, ratios = [], []
    for _ in range(runs):
        start = clock()
        copy()
        between = clock()
        case.call()
        seconds = clock() - between
        speeds.append(4 * case.elements / seconds / 1e9)
        ratios.append((between - start) / size * case.elements / seconds)
    return Timing(speeds, ratios)


def peak(case: Case) -> float:
    """Return the peak of memory allocated during a call over the bytes of the input."""
    tracemalloc.start()
    case.call()
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return highest / (4 * case.elements)


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


def table(cases: list[Case], copy: Callable[[], Any], size: int, runs: int) -> Iterator[str]:
    yield "| conversion | GB/s, 1 thread | of memcpy | goal | GB/s, 2 threads (wall) | gain (wall) | peak memory |"
    yield "|---|---|---|---|---|---|---|"
    for case in cases:
        set_threads(1)
        one = measure(case, copy, size, runs, time.process_time)
        alone = measure(case, copy, size, runs, time.perf_counter) if case.threads else None
        set_threads(2)
        two = measure(case, copy, size, runs, time.perf_counter) if case.threads else None
        gain = "" if two is None or alone is None else f"{max(two.speeds) / max(alone.speeds):.2f}"
        goal = "" if case.goal is None else f"{case.goal:.2f}"
        yield (
            f"| {case.name} | {spread(one.speeds)} | {spread(one.ratios)} | {goal} | "
            f"{'' if two is None else spread(two.speeds)} | {gain} | {peak(case):.2f} |"
        )
    set_threads(None)


def report(elements: int, runs: int) -> str:
    rows = max(1, elements // ROW)
    x = np.random.default_rng(SEED).standard_normal((rows, ROW)).astype(np.float32)
    out = np.empty_like(x)
    peers, notes = peer_cases(x, out)

    def copy() -> None:
        np.copyto(out, x)

    copy()
    memcpy = measure(Case("memcpy", copy, x.size), copy, x.size, runs, time.process_time)
    scaled = Case("x * 2", lambda: np.multiply(x, np.float32(2), out=out), x.size)
    plain = measure(scaled, copy, x.size, runs, time.process_time)
    versions = ", ".join(f"{n} {importlib.import_module(n).__version__}" for n in ("numpy", "numba"))
    lines = [
        "# Formats: speed",
        "",
        f"`python benchmarks/formats.py --elements {elements} --runs {runs}` on {processor()}, "
        f"Python {platform.python_version()}, {versions}.",
        "",
        f"Input: {rows} x {ROW} normal float32. memcpy into a preallocated buffer: {spread(memcpy.speeds)} GB/s of "
        "input, one thread. Numbers are medians (extremes) of all runs; one thread in CPU time; every ratio is to the "
        "memcpy timed just before. The gain of two threads is that of the best runs. Peak memory is what numpy "
        "allocates, over the input; codes are fresh arrays, values go to `out=`. numpy's multiplication by a "
        f"constant into `out` reaches {spread(plain.ratios)} of memcpy.",
        "",
        *table([*own_cases(x, out), *peers], copy, x.size, runs),
    ]
    if notes:
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=1 << 23, help="float32 values in the input")
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each line")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "formats.md")
    chosen = parser.parse_args(arguments)
    text = report(chosen.elements, chosen.runs)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
