"""Matrix products on encoded operands: every output bit is what the declared hardware gives.

C[m, n] = sum over segments s of fp32((sum over k in s of a[m, k] * b[n, k]) * scale_a[m, s] * scale_b[n, s]),
where the inner sum is the accumulator's and the outer one is float32, in ascending order, unless the
accumulator says otherwise. A segment is a stretch of K on which the scales of both operands are constant;
with one segment nothing is added. Each multiplication by a scale rounds to float32: first A's, then B's,
then the tensors' own.

Outliers that an operand stores apart, exactly, are multiplied apart: first A's with all values of B, then
B's with the dense values of A, each product and each sum rounded to float32, in ascending order of K;
both sums are added to the dense result in this order.

Zero points of affine operands are taken out of the integer sums exactly; the accumulator's register
holds the corrected sum.

The fast path is chosen by proof: matrix products of the linear algebra library are used only where
the largest possible partial sum is exact in their type, whatever the order of summation.
"""

from __future__ import annotations

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.accumulator import Accumulator, default_accumulator, get_accumulator
from macloom.formats.accumulators.segments import common_segment
from macloom.formats.gemm_report import GemmReport
from macloom.formats.tensor import Encoded, Operand

__all__ = ["GemmReport", "gemm", "gemm_operands"]


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
    check_operands(a, b)
    chosen = get_accumulator(accumulator) if isinstance(accumulator, str) else accumulator
    if chosen is None:
        chosen = default_accumulator(a.format, b.format)
    if not isinstance(chosen, Accumulator):
        raise MacloomError(f"gemm.accumulator: must be a name such as 'int32' or an Accumulator, not {chosen!r}")
    return gemm_operands(a.operand(), b.operand(), chosen, report or GemmReport())


def check_operands(a: Encoded, b: Encoded) -> None:
    """Raise unless two encoded tensors are matrices, or batches of them, with one K.

    Raises:
        MacloomError: with both formats and shapes, or what is not an encoded tensor.
    """
    for name, tensor in (("a", a), ("b", b)):
        if not isinstance(tensor, Encoded):
            raise MacloomError(
                f"gemm.{name}: must be an encoded tensor, not {type(tensor).__name__}; use get_format(...).encode(x)"
            )
    if len(a.shape) < 2 or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-1]:
        raise MacloomError(
            f"gemm: needs shapes (..., M, K) and (..., N, K), not {a.shape} ({a.format.name!r}) and {b.shape} "
            f"({b.format.name!r})"
        )


def gemm_operands(a: Operand, b: Operand, accumulator: Accumulator, report: GemmReport) -> np.ndarray:
    """Return the product of two operands; see `gemm`."""
    for operand in (a, b):
        if not accumulator.adds_specials and not np.isfinite(operand.largest):
            bad = int(np.count_nonzero(~np.isfinite(operand.units)))
            raise MacloomError(
                f"gemm: {bad} codes of {operand.label} (in the product of {a.label} and {b.label}) are NaN or "
                "infinite, which no accumulator adds; replace them before"
            )
    segments = -(-a.units.shape[-1] // common_segment(a, b))
    accumulator.check(a, b)
    report.accumulator = accumulator.name
    report.outputs += segments * a.units[..., 0].size * b.units.shape[-2]
    report.where = None
    result = accumulator.product(a, b, report)
    if a.outer != 1 or b.outer != 1:
        result *= np.float32(a.outer * b.outer)
    if a.sparse is not None or b.sparse is not None:
        from macloom.formats.outliers.sparse import add_sparse_products

        add_sparse_products(a, b, result)
    return result
