"""Measure how fast exact products are: `python benchmarks/gemm.py`.

Writes benchmarks/results/gemm.md: GOPS (2 per multiply-accumulate) of every kind of accumulator and of the
peers, in the same run, one thread, in CPU time; the share of outputs whose register overflowed; and what
encoding the operands and turning them into integers costs besides.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from macloom._files import write_atomically
from macloom.formats import Encoded, GemmReport, IntegerAccumulator, gemm, get_accumulator, get_format, set_threads
from macloom.formats.accumulators import reference

SEED = 0
PEER_SIZE = 128  # for peers that take nanoseconds and more per product
GOALS = {"wrap": 300.0, "chunk": 150.0, "mac": 20.0, "block": 60.0, "ovp": 150.0, "tc": 5.0}


@dataclass(frozen=True)
class Case:
    """One line: two formats, what the tensors hold, the accumulator, and the goal it counts for."""

    pair: tuple[str, str]
    accumulator: str
    data: str = "normal"
    goal: str = ""


CASES = (
    Case(("int8", "int8"), "int32:wrap", "uniform", "wrap"),
    Case(("int8", "int8"), "int20:wrap", "uniform", "wrap"),
    Case(("int8", "int8"), "exact", "uniform", "wrap"),
    Case(("int8", "int8"), "int20:saturate", "uniform"),
    Case(("int8", "int8"), "int24:saturate,every=64", "uniform", "chunk"),
    Case(("int8", "int8"), "int20:saturate,every=64", "uniform", "chunk"),
    Case(("int8", "int8"), "int16:saturate,every=64", "uniform", "chunk"),
    Case(("int8", "int8"), "int24:saturate,every=mac", "uniform", "mac"),
    Case(("int8", "int8"), "int20:saturate,every=mac", "uniform", "mac"),
    Case(("int8", "int8"), "int18:saturate,every=mac", "uniform", "mac"),
    Case(("int8", "int8"), "int16:saturate,every=mac", "uniform", "mac"),
    Case(("int8:token", "int8:channel"), "int17:saturate,every=mac", "normal", "mac"),
    Case(("affine8", "int8:channel"), "int32:wrap"),
    Case(("ovp4", "ovp4"), "int32:wrap", "normal", "ovp"),
    Case(("ovp4", "ovp4"), "int16:saturate,every=mac", "normal", "mac"),
    Case(("mxfp4", "mxfp4"), "int32:wrap", "normal", "block"),
    Case(("mxint8", "mxint8"), "int32:wrap", "normal", "block"),
    Case(("bfp8", "bfp8"), "exact", "normal", "block"),
    Case(("int4:group=128", "int4:group=128"), "int32:wrap", "normal", "block"),
    Case(("nvfp4", "nvfp4"), "exact"),
    Case(("mxfp8_e4m3", "mxfp8_e4m3"), "exact"),
    Case(("mxfp8_e5m2", "mxfp8_e5m2"), "exact"),
    Case(("mxfp4", "mxfp4"), "block:bf16", "normal", "block"),
    Case(("mxfp4", "mxfp4"), "block:fp16"),
    Case(("fp16", "fp16"), "exact"),
    Case(("bf16", "bf16"), "exact"),
    Case(("posit16_2", "posit16_2"), "exact"),
    Case(("dfp16", "dfp16"), "dfp16:spill=2"),
    Case(("fp8_e4m3", "fp8_e4m3"), "fp32"),
    Case(("fp8_e4m3", "fp8_e4m3"), "bf16"),
    Case(("fp8_e4m3", "fp8_e4m3"), "e5m10"),
    Case(("fp4_e2m1", "fp4_e2m1"), "e5m10"),
    Case(("fp16", "fp16"), "e5m10:toward_zero"),
    Case(("fp16", "fp16"), "tc:ampere-fp16", "normal", "tc"),
    Case(("fp16", "fp16"), "tc:hopper-fp16", "normal", "tc"),
    Case(("fp8_e4m3", "fp8_e4m3"), "tc:hopper-fp8", "normal", "tc"),
)


def tensors(data: str, size: int, name: str, seed: int) -> Encoded:
    """Return an encoded matrix: normal values, or integers spread evenly over the format's range."""
    rng, fmt = np.random.default_rng([SEED, seed]), get_format(name)
    if data == "uniform":
        return fmt.encode(rng.integers(-127, 128, (size, size)).astype(np.float32), scale=np.float32(1))
    return fmt.encode(rng.normal(size=(size, size)).astype(np.float32))


def seconds(call: Callable[[], Any], runs: int) -> list[float]:
    """Return the CPU seconds of several calls after one that is not counted."""
    call()
    found = []
    for _ in range(runs):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return found


def gops(size: int, times: list[float]) -> tuple[float, float]:
    """Return the best and the median."""
    return 2e-9 * size**3 / min(times), 2e-9 * size**3 / statistics.median(times)


def own_lines(size: int, runs: int, speeds: dict[str, float]) -> Iterator[str]:
    yield "| operands | accumulator | data | GOPS, best | median | goal | met | overflowed | encode, operand, product |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in CASES:
        accumulator = get_accumulator(case.accumulator)
        a, b = (tensors(case.data, size, name, i) for i, name in enumerate(case.pair))
        report = GemmReport()
        gemm(a, b, accumulator, report)
        times = seconds(lambda a=a, b=b, acc=accumulator: gemm(a, b, acc), runs)
        best, median = gops(size, times)
        goal = GOALS.get(case.goal)
        met = "" if goal is None else "yes" if best >= goal else "no"
        x = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
        made = min(seconds(lambda n=case.pair[0], x=x: get_format(n).encode(x), runs))
        read = min(seconds(lambda a=a: operand_cost(a), runs))
        speeds[f"{case.pair[0]} {case.accumulator}"] = best
        shown = "" if goal is None else f"{goal:g}"
        print(f"{'*'.join(case.pair):28} {case.accumulator:28} {best:8.1f} {met}", file=sys.stderr, flush=True)
        yield (
            f"| {case.pair[0]} x {case.pair[1]} | `{case.accumulator}` | {case.data} | {best:.1f} | {median:.1f} | "
            f"{shown} | {met} | {100 * report.overflows / report.outputs:.1f} % | "
            f"{2e3 * made:.1f}, {2e3 * read:.1f}, {1e3 * min(times):.1f} |"
        )


def operand_cost(encoded: Encoded) -> None:
    """Turn codes into what a product needs, as the first product of a tensor does."""
    operand = encoded.format.operand_of(encoded)
    _ = operand.row_norms, operand.digits


def peer_lines(size: int, runs: int, speeds: dict[str, float]) -> Iterator[str]:
    yield "| peer | what | GOPS, best | result |"
    yield "|---|---|---|---|"
    x, y = np.random.default_rng(0).normal(size=(2, size, size)).astype(np.float32)
    for kind in (np.float32, np.float64):
        p, q = x.astype(kind), y.astype(kind)
        best = gops(size, seconds(lambda p=p, q=q: p @ q.T, runs))[0]
        yield f"| numpy | {np.dtype(kind).name} product, no accumulator | {best:.1f} | order of the library |"
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    t, u = torch.from_numpy(x), torch.from_numpy(y)
    best = gops(size, seconds(lambda: torch.mm(t, u.T), runs))[0]
    yield f"| torch {torch.__version__} | float32 product, no accumulator | {best:.1f} | order of the library |"
    i, j = (torch.from_numpy((v * 30).clip(-127, 127).astype(np.int8)) for v in (x, y))
    best = gops(size, seconds(lambda: torch._int_mm(i, j.T), runs))[0]
    speeds["torch._int_mm"] = best
    yield f"| torch {torch.__version__} | `_int_mm`, int8 to int32 alone | {best:.1f} | exact, below 2**31 |"
    yield from apytypes_lines(runs, speeds)
    yield from mmasim_lines(speeds)


def apytypes_lines(runs: int, speeds: dict[str, float]) -> Iterator[str]:
    try:
        apy: Any = importlib.import_module("apytypes")
    except ImportError:
        yield "| apytypes | not installed | | |"
        return
    n = PEER_SIZE
    a, b = (np.random.default_rng(s).integers(-127, 128, (n, n)) for s in (0, 1))
    left, right = (apy.APyFixedArray.from_float(v.tolist(), int_bits=8, frac_bits=0) for v in (a, b.T))
    for name, mode in (("wrap", apy.OverflowMode.WRAP), ("saturate", apy.OverflowMode.SAT)):
        accumulator = IntegerAccumulator(bits=18, overflow=name, every="mac")  # type: ignore[arg-type]

        def product(mode: Any = mode) -> Any:
            with apy.APyFixedAccumulatorContext(int_bits=18, frac_bits=0, overflow=mode):
                return left @ right

        best = gops(n, seconds(product, min(runs, 3)))[0]
        got = product().to_numpy()
        want = np.array([[reference.integer((p * q).tolist(), accumulator)[0] for q in b] for p in a])
        wrong = int(np.count_nonzero(got != want))
        key = "int8 int18:saturate,every=mac"
        ahead = f", {speeds[key] / best:.0f} times slower than ours" if name == "saturate" and key in speeds else ""
        speeds[f"apytypes {name}"] = best
        yield (
            f"| apytypes {apy.__version__} | 18-bit accumulator, {name} ({n}^3) | {best:.3f}{ahead} | "
            f"{wrong} of {want.size} outputs not as defined |"
        )


def mmasim_lines(speeds: dict[str, float]) -> Iterator[str]:
    try:
        importlib.import_module("mmasim")
        oracles: Any = importlib.import_module("macloom.formats.tensor_core.oracles")
        mma = oracles.Instruction("WGMMA", "Hopper", "m64n8k16.f32.{a}.{b}", "fp16", "fp16")
    except (ImportError, AttributeError, TypeError, ValueError):
        yield "| mmasim | not installed | | |"
        return
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float16).view(np.uint16) for shape in ((64, 16), (8, 16)))
    start, calls = time.process_time(), 0
    mma(a, b, np.zeros((64, 8), np.float32))
    start = time.process_time()
    while time.process_time() - start < 2:
        mma(a, b, np.zeros((64, 8), np.float32))
        calls += 1
    best = 2e-9 * calls * 64 * 8 * 16 / (time.process_time() - start)
    ours = speeds.get("fp16 tc:hopper-fp16", 0.0)
    slower = f"{best:.4f}, {ours / best:.0f} times slower than ours"
    yield f"| mmasim | Hopper wgmma m64n8k16, fp16 | {slower} | the oracle of `tc:` |"


def processor() -> str:
    """Return the processor's model name and whether it has 8-bit dot products."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    model = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    return model + (" with 8-bit dot products (VNNI)" if "vnni" in text else " without 8-bit dot products")


def report(size: int, runs: int) -> str:
    set_threads(1)
    importlib.import_module("torch").set_num_threads(1)
    speeds: dict[str, float] = {}
    own, peers = list(own_lines(size, runs, speeds)), list(peer_lines(size, runs, speeds))
    versions = ", ".join(f"{n} {importlib.import_module(n).__version__}" for n in ("numpy", "numba", "torch"))
    return "\n".join(
        [
            "# Products: speed",
            "",
            f"`python benchmarks/gemm.py --size {size} --runs {runs}` on {processor()}, Python "
            f"{platform.python_version()}, {versions}.",
            "",
            f"{size} x {size} x {size}, one thread, CPU time, {runs} runs; GOPS count 2 operations per product. "
            "`uniform` are integers spread evenly over -127 to 127, `normal` normal values encoded with the format's "
            "own scales. Overflowed is the share of registers that wrapped or saturated. The last column has "
            "milliseconds for encoding both tensors, for turning both tensors' codes into units and 8-bit digits (once "
            "per tensor), and for the product.",
            "",
            *own,
            "",
            "## Peers, in the same run",
            "",
            *peers,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gemm.md")
    arguments = parser.parse_args()
    write_atomically(arguments.out, report(arguments.size, arguments.runs))


if __name__ == "__main__":
    main()
