"""Matrix products on encoded operands: every output bit is what the declared hardware gives.

C[m, n] = sum over segments s of fp32((sum over k in s of a[m, k] * b[n, k]) * scale_a[m, s] * scale_b[n, s]),
where the inner sum is the accumulator's and the outer one is float32, in ascending order. A segment
is a stretch of K on which the scales of both operands are constant; with one segment nothing is
added. Each multiplication by a scale rounds to float32: first A's, then B's, then the tensors' own.

Outliers that an operand stores apart, exactly, are multiplied apart: first A's with all values of B, then
B's with the dense values of A, each product and each sum rounded to float32, in ascending order of K;
both sums are added to the dense result in this order.

Zero points of affine operands are taken out of the integer sums exactly; the accumulator's register
holds the corrected sum.

The fast path is chosen by proof: matrix products of the linear algebra library are used only where
the largest possible partial sum is exact in their type, whatever the order of summation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.accumulator import (
    WIDEST_UNIT,
    Accumulator,
    ExactAccumulator,
    FloatAccumulator,
    IntegerAccumulator,
    IntegerOverflow,
    default_accumulator,
    get_accumulator,
)
from macloom.formats.tensor import Encoded, Operand

# Data of formats without integer units are taken in units of their own last digit, if that is within these limits.
MOST_DIGITS = 100
SMALLEST_UNIT = -60


@dataclass
class GemmReport:
    """What happened inside a GEMM.

    Attributes:
        accumulator: the accumulator that was used.
        outputs: accumulations done (outputs times segments).
        overflows: how many of them did not fit the integer register.
    """

    accumulator: str = ""
    outputs: int = 0
    overflows: int = 0


def gemm(
    a: Encoded, b: Encoded, accumulator: Accumulator | str | None = None, report: GemmReport | None = None
) -> np.ndarray:
    """Return the product of two encoded matrices, (..., M, K) and (..., N, K), as float32 (..., M, N).

    Args:
        a, b: encoded tensors; a row of `b` is one output channel. Leading axes must agree.
        accumulator: record or name; None takes `default_accumulator`.
        report: receives the accumulator's name and overflow counts.

    Raises:
        MacloomError: the shapes do not fit, or an accumulator with overflow `error` overflows.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> fmt = get_format("int4")
    >>> gemm(fmt.encode(np.float32([[7, -3]])), fmt.encode(np.float32([[2, 7]])))
    array([[-7.]], dtype=float32)
    """
    if len(a.shape) < 2 or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-1]:
        raise MacloomError(f"gemm: needs shapes (..., M, K) and (..., N, K), not {a.shape} and {b.shape}")
    chosen = get_accumulator(accumulator) if isinstance(accumulator, str) else accumulator
    chosen = chosen or default_accumulator(a.format, b.format)
    return gemm_operands(a.operand(), b.operand(), chosen, report or GemmReport())


def gemm_operands(a: Operand, b: Operand, accumulator: Accumulator, report: GemmReport) -> np.ndarray:
    """Return the product of two operands; see `gemm`."""
    if not isinstance(accumulator, FloatAccumulator):
        a, b = _in_integers(a, accumulator), _in_integers(b, accumulator)
    if not isinstance(accumulator, IntegerAccumulator):
        a, b = a.centred(), b.centred()
    depth = a.units.shape[-1]
    segment = _common_segment(a.block, b.block, depth)
    edges = range(0, depth, segment)
    report.accumulator = accumulator.name
    report.outputs += len(edges) * a.units[..., 0].size * b.units.shape[-2]
    unit = np.ldexp(1.0, a.unit_exponent + b.unit_exponent)
    bound = _reach(a) * _reach(b) * segment
    fits = isinstance(accumulator, ExactAccumulator) or (
        isinstance(accumulator, IntegerAccumulator) and bound < 2.0 ** (accumulator.bits - 1)
    )
    if len(edges) > 1 and fits and bound < 2.0**53:
        from macloom.formats.kernels.dot import segmented_float32

        result = segmented_float32(a.centred(), b.centred(), segment, unit, double=bound >= 2.0**24)
    else:
        result = _by_segment(a, b, edges, accumulator, report, unit)
    if a.outer != 1 or b.outer != 1:
        result *= np.float32(a.outer * b.outer)
    if a.sparse is not None or b.sparse is not None:
        from macloom.formats.outliers.sparse import add_sparse_products

        add_sparse_products(a, b, result)
    return result


def _in_integers(operand: Operand, accumulator: Accumulator) -> Operand:
    """Return the operand with integer units; float32 and bfloat16, whose range is too wide for that, come as values."""
    if operand.max_unit < WIDEST_UNIT:
        return operand
    if isinstance(accumulator, IntegerAccumulator):
        raise MacloomError(
            f"gemm: accumulator {accumulator.name!r} needs integers, which float32 and bfloat16 are not; "
            "use 'exact' or 'fp32'"
        )
    used = operand.units[operand.units != 0]
    if not used.size:
        return operand
    mantissa, exponent = np.frexp(used)
    whole = np.abs(np.ldexp(mantissa, 24)).astype(np.int64)
    lowest = int((exponent - 24 + np.frexp((whole & -whole).astype(np.float64))[1] - 1).min())
    if int(exponent.max()) - lowest > MOST_DIGITS or lowest < SMALLEST_UNIT:
        raise MacloomError(
            f"gemm: exact sums of values from 2**{lowest} to 2**{int(exponent.max())} are not supported; "
            "use the accumulator 'fp32'"
        )
    return replace(operand, units=np.ldexp(operand.units, -lowest), unit_exponent=lowest)


def _by_segment(
    a: Operand, b: Operand, edges: range, accumulator: Accumulator, report: GemmReport, unit: float
) -> np.ndarray:
    """Return the scaled sum over segments, one whole matrix product per segment."""
    result: np.ndarray | None = None
    for start in edges:
        inner = _inner(a, b, slice(start, start + edges.step), accumulator, report, unit)
        inner *= a.scales[..., :, start // a.block, None]
        inner *= b.scales[..., None, :, start // b.block]
        result = inner if result is None else np.add(result, inner, out=result)
    assert result is not None
    return result


def _common_segment(block_a: int, block_b: int, k: int) -> int:
    small, large = sorted((min(block_a, k), min(block_b, k)))
    if large % small and large != k:
        raise MacloomError(
            f"gemm: scale blocks of {block_a} and {block_b} elements along K do not nest; "
            "choose sizes of which one divides the other"
        )
    return small


def _largest(units: np.ndarray) -> float:
    return float(max(units.max(initial=0), -units.min(initial=0)))


def _reach(operand: Operand) -> float:
    """Return a bound on the magnitude of every unit, whether its zero point has been subtracted or not."""
    return _largest(operand.units) + (0.0 if operand.zeros is None else _largest(operand.zeros))


def _zero_points(a: Operand, b: Operand, part: slice) -> np.ndarray | float:
    """Return what turns the sum of products of units into that of units less their zero points.

    sum((qa - za) * (qb - zb)) = sum(qa * qb) - za * sum(qb) - zb * sum(qa) + K * za * zb, with the zero
    points constant over the segment. All terms are integers, exact in float64.
    """
    correction: np.ndarray | float = 0.0
    za = None if a.zeros is None else a.zeros[..., :, part.start // a.block, None].astype(np.float64)
    zb = None if b.zeros is None else b.zeros[..., None, :, part.start // b.block].astype(np.float64)
    if za is not None:
        correction = correction - za * b.units[..., None, :, part].sum(axis=-1, dtype=np.float64)
    if zb is not None:
        correction = correction - zb * a.units[..., :, None, part].sum(axis=-1, dtype=np.float64)
    if za is not None and zb is not None:
        correction = correction + za * zb * a.units[..., part].shape[-1]
    return correction


def _inner(
    a: Operand, b: Operand, part: slice, accumulator: Accumulator, report: GemmReport, unit: float
) -> np.ndarray:
    """Return the accumulator's sum over one segment, as float32 in real units (before scales)."""
    left, right = a.units[..., part], b.units[..., part]
    if isinstance(accumulator, FloatAccumulator):
        from macloom.formats.kernels.dot import sequential_float32

        total = sequential_float32(left, right)
        total *= np.float32(unit)
        return total
    length = left.shape[-1]
    bound = _largest(left) * _largest(right) * length
    if a.zeros is not None or b.zeros is not None:
        bound = max(bound, _reach(a) * _reach(b) * length)
    if bound < 2.0**24:
        total = np.matmul(left, np.swapaxes(right, -1, -2))
    elif bound < 2.0**53:
        total = np.matmul(left.astype(np.float64), np.swapaxes(right.astype(np.float64), -1, -2))
    elif isinstance(accumulator, ExactAccumulator):
        from macloom.formats.kernels.dot import exact_float32

        total = exact_float32(left, right)
    else:
        raise MacloomError(f"gemm: sums of {length} such products need more than 53 bits; use 'exact' or 'fp32'")
    if a.zeros is not None or b.zeros is not None:
        total = total + _zero_points(a, b, part)
    if isinstance(accumulator, IntegerAccumulator) and bound >= 2.0 ** (accumulator.bits - 1):
        total = _fit(total, accumulator, report)
    # One rounding to float32; the unit is a power of two.
    scaled = total.astype(np.float32, copy=False)
    scaled *= np.float32(unit)
    return scaled


def _fit(total: np.ndarray, accumulator: IntegerAccumulator, report: GemmReport) -> np.ndarray:
    """Apply the register's width to exact integer sums held in floats."""
    half = 2.0 ** (accumulator.bits - 1)
    outside = (total < -half) | (total >= half)
    count = int(outside.sum())
    if count == 0:
        return total
    report.overflows += count
    match accumulator.overflow:
        case IntegerOverflow.ERROR:
            raise MacloomError(
                f"gemm: {count} of {total.size} sums overflow the {accumulator.bits}-bit accumulator; "
                "widen it or choose 'wrap' or 'saturate'"
            )
        case IntegerOverflow.SATURATE:
            return np.clip(total, -half, half - 1)
        case IntegerOverflow.WRAP:
            return np.mod(total.astype(np.float64) + half, 2 * half) - half
