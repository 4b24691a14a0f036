"""`macloom verify vector`: compiled vector operations against the scalar reference on integers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from macloom.formats.vector import reference
from macloom.formats.vector.arrays import activate, add, encode, multiply, norm, rotate, softmax
from macloom.formats.vector.number import Fixed, Number, Pair, pair_of
from macloom.formats.vector.operations import Curve, Encode
from macloom.formats.vector.unit import VectorUnit, get_vector_unit, list_vector_units

if TYPE_CHECKING:
    from macloom.verification import Check, Options

LARGEST, THETA, EPS = 12.0, 10000.0, 1e-5
ORACLE = "scalar reference on integers"


def checks(options: Options) -> Iterator[Check]:
    """Yield a check for every operation of every unit: samples, or all inputs of 16 bits if exhaustive."""
    calls = [
        partial(check, name, operation, options.exhaustive, options.seed)
        for name in list_vector_units()
        for operation in OPERATIONS
    ]
    options.expect(len(calls))
    yield from options.spread(calls)


def check(name: str, operation: str, exhaustive: bool, seed: int) -> Check:
    """Compare one operation of one unit."""
    from macloom.verification import Check

    start = time.process_time()
    unit, rng = get_vector_unit(name), np.random.default_rng(seed)
    got, want, note = OPERATIONS[operation](unit, inputs(unit, exhaustive, rng), rng)
    exact = np.array([float(p.fraction) for p in want]).astype(np.float32)
    # Bits, not values: -0 is no result of a vector unit.
    wrong = np.ascontiguousarray(got, np.float32).reshape(-1).view(np.uint32) != exact.view(np.uint32)
    return Check(
        subject=f"{name}: {operation}",
        against=ORACLE,
        cases=exact.size,
        mismatches=int(wrong.sum()),
        worst=float(np.abs(got.reshape(-1)[wrong].astype(np.float64) - exact[wrong]).max(initial=0)),
        seconds=time.process_time() - start,
        note=note,
    )


def lane_values(unit: VectorUnit, largest: float) -> np.ndarray:
    """Return every finite number of a 16-bit lane as float32, the fixed-point ones placed for `largest`."""
    number = unit.number(largest)
    codes = np.arange(1 << 16, dtype=np.uint32)
    if isinstance(number, Fixed):
        return ((codes.astype(np.int64) - (1 << 15)) * 2.0**-number.fraction).astype(np.float32)
    if number.exponent_bits == 8:
        values = (codes << 16).view(np.float32)
    else:
        values = codes.astype(np.uint16).view(np.float16).astype(np.float32)
    return values[np.isfinite(values)]


def pairs(values: Any) -> list[Pair]:
    """Return floats as exact pairs, in row-major order."""
    return [pair_of(float(v)) for v in np.asarray(values).reshape(-1)]


def inputs(unit: VectorUnit, exhaustive: bool, rng: np.random.Generator) -> np.ndarray:
    """Return rows of 256 lane numbers: every number of a 16-bit lane in random order, or a sample of magnitudes."""
    if exhaustive and _bits(unit.lane) == 16:
        values = lane_values(unit, LARGEST)
    else:
        count = 256 * (256 if exhaustive else 8)
        values = (rng.normal(size=count) * rng.choice([1e-3, 1.0, 4.0], count)).astype(np.float32)
    values = rng.permutation(values)
    return np.resize(values, (-(-len(values) // 256), 256))


def _bits(number: Number) -> int:
    return number.bits if isinstance(number, Fixed) else 1 + number.exponent_bits + number.mantissa_bits


Result = tuple[np.ndarray, Sequence[Pair], str]


def _softmax(unit: VectorUnit, x: np.ndarray, rng: np.random.Generator) -> Result:
    op, scale = unit.softmax_for(LARGEST), 0.17677669529663687
    counts = rng.integers(1, 257, len(x))
    want: list[Pair] = []
    for row, count in zip(x, counts, strict=True):
        want += reference.softmax(op, scale, pairs(row[:count])) + [Pair(0, 0)] * (256 - count)
    return softmax(x, op, scale, counts), want, "rows of 1 to 256 scores"


def _norm(unit: VectorUnit, x: np.ndarray, rng: np.random.Generator) -> Result:
    gain, op = rng.normal(size=256).astype(np.float32), unit.norm_for(LARGEST, 4.0, 16.0)
    want = [y for row in x for y in reference.norm(op, EPS, pairs(row), pairs(gain))]
    return norm(x, op, gain, EPS), want, "rows of 256"


def _rope(unit: VectorUnit, x: np.ndarray, rng: np.random.Generator) -> Result:
    op = unit.rope_for(LARGEST)
    table = reference.rope_table(op, len(x), 256, THETA)
    want: list[Pair] = []
    for t, row in enumerate(x):
        a, b = pairs(row[:128]), pairs(row[128:])
        turned = [reference.rotate(op, a[j], b[j], *table[j][t]) for j in range(128)]
        want += [p for p, _ in turned] + [q for _, q in turned]
    return rotate(x, op, THETA), want, f"positions 0 to {len(x) - 1}"


def _curve(curve: Curve, unit: VectorUnit, x: np.ndarray, rng: np.random.Generator) -> Result:
    op = unit.activation_for(LARGEST, LARGEST)
    return activate(x, op, curve), [reference.activate(op, curve, p) for p in pairs(x)], ""


def _add(unit: VectorUnit, x: np.ndarray, rng: np.random.Generator) -> Result:
    op, y = unit.sum_for(LARGEST, LARGEST, 16.0), rng.permutation(x.reshape(-1)).reshape(x.shape)
    return add(x, y, op), [reference.add(op, a, b) for a, b in zip(pairs(x), pairs(y), strict=True)], ""


def _multiply(unit: VectorUnit, x: np.ndarray, rng: np.random.Generator) -> Result:
    op, y = unit.product_for(LARGEST, LARGEST, 100.0), rng.permutation(x.reshape(-1)).reshape(x.shape)
    return multiply(x, y, op), [reference.multiply(op, a, b) for a, b in zip(pairs(x), pairs(y), strict=True)], ""


def _encode(unit: VectorUnit, x: np.ndarray, rng: np.random.Generator) -> Result:
    op = Encode(input=unit.number(LARGEST), output=Fixed(bits=8, fraction=0))
    want = [Pair(0, reference.encode(op, 0.0937, p)) for p in pairs(x)]
    return encode(x, op, 0.0937).astype(np.float32) + np.float32(0), want, "int8 codes"


OPERATIONS = {
    "softmax": _softmax,
    "RMSNorm": _norm,
    "rope": _rope,
    **{curve.value: partial(_curve, curve) for curve in Curve},
    "residual add": _add,
    "multiply": _multiply,
    "encode": _encode,
}
