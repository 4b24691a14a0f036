"""`macloom verify arithmetic`: every accumulator against its definition in Python integers and fractions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.accumulators.base import Accumulator
from macloom.formats.gemm_report import GemmReport
from macloom.formats.tensor import Encoded, TensorFormat

# One pair for every kind of operand: integers, zero points, group scales, blocks of different sizes, floats of
# every width, posits, outlier-victim pairs.
PAIRS = (
    ("int8:token", "int8:channel"),
    ("affine8:token", "int4:channel"),
    ("affine4:group=8", "affine8:group=16"),
    ("int4:group=16", "int8:group=48"),
    ("mxfp4", "mxfp8_e4m3"),
    ("nvfp4", "mxfp4"),
    ("bfp8", "mxint8"),
    ("mxfp8_e5m2", "mxfp6_e3m2"),
    ("fp8_e4m3", "fp8_e5m2"),
    ("ovp4", "ovp4"),
    ("ovp8", "int8"),
    ("dfp16", "dfp12"),
    ("fp16", "posit8_1"),
    ("bf16", "posit16_2"),
    ("fp32", "bf16"),
)
# Accumulators by what they add to the width of one product; {n} is that width.
NAMES = (
    "exact",
    "fp32",
    "int{n}",
    "int{n}:saturate",
    "int{n}:saturate,every=mac",
    "int{n}:saturate,every=7",
    "int{n1}:wrap,every=16",
    "int{n2}:saturate,every=mac",
    "int{n3}:saturate,every=16",
    "e5m10",
    "e4m3:saturate",
    "e8m7",
    "e8m7:toward_zero",
    "e5m10:fused",
    "e6m9:nearest_away,order=descending",
    "e8m12:to_odd,fused",
    "block:bf16",
    "block:fp16,size=16",
    "block:e8m10:toward_zero,order=descending",
    "block:fp32,size=8,inner=int{n1}:saturate,every=mac",
    "dfp16:spill=2",
    "dfp16:spill=4,saturate",
)
DEPTHS = (1, 5, 48, 96)
ROWS, COLUMNS = 2, 3


def accumulators_for(a: TensorFormat, b: TensorFormat) -> Iterator[str]:
    """Yield the names of accumulators whose registers hold a product of two formats, most of them barely."""
    width = (a.max_unit * b.max_unit).bit_length() + 1
    for name in NAMES:
        yield name.format(n=width, n1=width + 1, n2=width + 2, n3=width + 3)


def tensors(kind: str, depth: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two matrices of one kind of data, (ROWS, depth) and (COLUMNS, depth)."""
    x, y = rng.normal(size=(ROWS, depth)), rng.normal(size=(COLUMNS, depth))
    match kind:
        case "spread":  # magnitudes over many powers of two
            x, y = x * np.exp2(rng.integers(-9, 10, x.shape)), y * np.exp2(rng.integers(-9, 10, y.shape))
        case "cancellation":  # what was added is taken away again
            x[:, depth // 2 :] = -x[:, : depth - depth // 2]
            y[:, depth // 2 :] = y[:, : depth - depth // 2]
        case "largest":  # every product is the largest, so that sums overflow as early as they can
            x, y = np.ones(x.shape), np.ones(y.shape)
        case "alternating":
            x, y = np.where(np.arange(depth) % 2, 1.0, -1.0) * np.ones(x.shape), np.ones(y.shape)
        case "first":  # overflow in the first steps only, or in the last ones
            x[:, 3:] *= 0.01
            x[:, :3], y[:, :3] = 1, 1
        case "last":
            x[:, :-3] *= 0.01
            x[:, -3:], y[:, -3:] = 1, -1
        case "zeros":  # whole blocks and a whole row
            x[:, : depth // 2], x[0], y[1] = 0, 0, 0
    return x.astype(np.float32), y.astype(np.float32)


KINDS = ("normal", "spread", "cancellation", "largest", "alternating", "first", "last", "zeros")


def encoded(pair: tuple[str, str], kind: str, depth: int, seed: int) -> tuple[Encoded, Encoded]:
    """Return two encoded matrices of one kind of data; K is rounded up to what group scales need."""
    from macloom.formats.grammar import get_format

    a, b = (get_format(name) for name in pair)
    grouped = [f.block for f in (a, b) if f.block and "group" in f.name]
    step = max(grouped, default=1)
    rng = np.random.default_rng([seed, depth, KINDS.index(kind)])
    x, y = tensors(kind, -(-depth // step) * step, rng)
    return a.encode(x), b.encode(y)


def differs(a: Encoded, b: Encoded, accumulator: Accumulator) -> int:
    """Return how many outputs, or marks of overflow, are not what the definition gives."""
    from macloom.formats.accumulators.reference import product
    from macloom.formats.gemm import gemm_operands

    report = GemmReport(locate=True)
    with np.errstate(over="ignore", invalid="ignore"):
        got = gemm_operands(a.operand(), b.operand(), accumulator, report)
        want, where = product(a.operand(), b.operand(), accumulator)
        outer = a.operand().outer * b.operand().outer
        want = want * np.float32(outer) if outer != 1 else want
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    assert report.where is not None
    return int(np.count_nonzero(~same | (report.where != where)))


def _check(pair: tuple[str, str], name: str, exhaustive: bool, seed: int) -> object:
    from macloom.formats.accumulator import get_accumulator
    from macloom.verification import Check

    start, cases, wrong, refused = time.process_time(), 0, 0, ""
    accumulator = get_accumulator(name)
    for round_ in range(4 if exhaustive else 1):
        for kind in KINDS:
            for depth in DEPTHS if exhaustive else DEPTHS[2:3]:
                a, b = encoded(pair, kind, depth, seed + round_)
                try:
                    wrong += differs(a, b, accumulator)
                    cases += ROWS * COLUMNS
                except MacloomError as error:
                    refused = str(error).removeprefix("gemm: ").partition(";")[0]
    return Check(
        subject=f"{accumulator.name} on {pair[0]} x {pair[1]}",
        against="Python integers and fractions",
        cases=cases,
        mismatches=wrong,
        seconds=time.process_time() - start,
        note=f"some data refused: {refused}" if refused else "",
    )


def checks(options: object) -> Iterator[object]:
    """Yield one check for every pair of formats and accumulator (`macloom.verification`)."""
    from macloom.formats.grammar import get_format
    from macloom.verification import Options

    assert isinstance(options, Options)
    calls = [
        partial(_check, pair, name, options.exhaustive, options.seed)
        for pair in PAIRS
        for name in accumulators_for(*(get_format(n) for n in pair))
        if takes(pair, name)
    ]
    options.expect(len(calls))
    yield from options.spread(calls)  # type: ignore[arg-type]


def takes(pair: tuple[str, str], name: str) -> bool:
    """Say whether an accumulator takes the products of two formats."""
    from macloom.formats.accumulator import get_accumulator

    a, b = encoded(pair, "normal", 48, 0)
    try:
        get_accumulator(name).check(a.operand(), b.operand())
    except MacloomError:
        return False
    return True
