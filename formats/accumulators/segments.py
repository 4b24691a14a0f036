"""Products by segments, stretches of K on which the scales of both operands are constant, and by tiles."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.accumulators.base import Accumulator
from macloom.formats.accumulators.sums import bound, stretches
from macloom.formats.digits import byte_products
from macloom.formats.gemm_report import GemmReport
from macloom.formats.operand import Operand

# Formats of a wider range than this have no table of integer units (`ElementFormat.units`).
WIDEST_UNIT = 1 << 120
# Sums of a tile of this many rows and columns stay in the second-level cache between chunks; between segments,
# where less is done with them, more may.
TILE = 256
SEGMENT_TILE = 384
# 8-bit matrix products of segments up to this length are slower than a loop. So are those of longer ones where a
# matrix has rows enough to earn back how the loop reads the other one, and few outputs or bytes for the loop, too.
SHORT_SEGMENT = 32
ENOUGH_ROWS = 128
FEW_OUTPUTS = 1 << 15
# Without segments or chunks a tile is read once, and long rows make the product faster.
WIDE_TILE = 4096


def common_segment(a: Operand, b: Operand) -> int:
    """Return the length of the stretches of K on which the scales of both operands are constant.

    Raises:
        MacloomError: the blocks of the operands do not nest.
    """
    depth = a.units.shape[-1]
    small, large = sorted((min(a.block, depth), min(b.block, depth)))
    if large % small and large != depth:
        raise MacloomError(
            f"gemm: scale blocks of {a.block} and {b.block} elements along K do not nest ({a.label} and {b.label}); "
            "choose sizes of which one divides the other"
        )
    return small


def product_unit(a: Operand, b: Operand) -> float:
    """Return the value of one unit of a product."""
    return float(np.ldexp(1.0, a.unit_exponent + b.unit_exponent))


class Register(Protocol):
    """What a register holds at the end of a segment, for the outputs of one tile."""

    # How many rows and columns of the result a tile should have, and whether `where` is ever set.
    tile: tuple[int, int]
    overflows: bool

    def __call__(self, rows: slice, columns: slice, part: slice, where: np.ndarray) -> tuple[np.ndarray, float]:
        """Return sums (rows, columns) and the real value of one unit of them.

        Args:
            part: the segment of K.
            where: bool (rows, columns), is set where the register overflowed.
        """
        ...


# Adds the sums of a segment to the running total of a tile: (sums, unit, scales of A, scales of B, total).
Outer = Callable[[np.ndarray, float, np.ndarray, np.ndarray, np.ndarray], None]


class SegmentAccumulator(Accumulator):
    """An accumulator that starts anew with every segment; the sums of segments are scaled and added outside."""

    @abstractmethod
    def register(self, a: Operand, b: Operand, segment: int) -> Register:
        """Return the register for the products of two operands of two axes."""

    def product(self, a: Operand, b: Operand, report: GemmReport) -> np.ndarray:
        from macloom.formats.kernels.accumulate import drain

        return by_matrix(a, b, report, lambda x, y, where: by_tile(x, y, self, drain, report, where))


def exact_float32(a: Operand, b: Operand, report: GemmReport) -> np.ndarray:
    """Return the product of two operands whose sums over a segment are all below 2**53, each rounded once.

    The sums of segments are scaled and added in float32, in ascending order. Nothing overflows.
    """
    from macloom.formats.kernels.accumulate_segments import segmented_float32

    if report.locate:
        report.where = np.zeros((*a.units.shape[:-1], b.units.shape[-2]), bool)
    segment, unit = common_segment(a, b), product_unit(a, b)
    x, y = a.centred(), b.centred()
    return segmented_float32(x, y, segment, unit, double=bound(x, y, segment) >= 2.0**24)


def in_segments(a: Operand, b: Operand) -> bool:
    """Say whether the compiled loop over segments is the fastest way to a product of exact sums, and one at all."""
    from macloom.formats.kernels.accumulate_segments import has_byte_products

    segment, depth = common_segment(a, b), a.units.shape[-1]
    if bound(a.centred(), b.centred(), segment) >= 2.0**53:
        return False
    rows, columns = a.units.shape[-2], b.units.shape[-2]
    if segment <= SHORT_SEGMENT:
        return True
    if segment == depth:
        return False
    if max(a.largest, b.largest) > 127 or byte_products(rows * columns * depth) is None:
        return True
    return rows >= ENOUGH_ROWS and (rows * columns <= FEW_OUTPUTS or has_byte_products())


def by_matrix(
    a: Operand, b: Operand, report: GemmReport, product: Callable[[Operand, Operand, np.ndarray | None], np.ndarray]
) -> np.ndarray:
    """Return the products of all pairs of matrices in two operands, (..., M, N).

    `product` gets both matrices and, where the report asks for it, a bool (M, N) to mark overflows in.
    """
    shape = (*a.units.shape[:-1], b.units.shape[-2])
    matrices = len(a.matrices)
    where = np.zeros((matrices, *shape[-2:]), bool) if report.locate else None
    results = [
        product(x, y, None if where is None else where[i])
        for i, (x, y) in enumerate(zip(a.matrices, b.matrices, strict=True))
    ]
    if where is not None:
        report.where = where.reshape(shape)
    return results[0].reshape(shape) if matrices == 1 else np.stack(results).reshape(shape)


def by_tile(
    a: Operand,
    b: Operand,
    inner: SegmentAccumulator,
    outer: Outer,
    report: GemmReport,
    where: np.ndarray | None,
    descending: bool = False,
) -> np.ndarray:
    """Return the product of two matrices, tile by tile and segment by segment in ascending (or descending) order."""
    (rows, depth), columns, segment = a.units.shape, len(b.units), common_segment(a, b)
    register = inner.register(a, b, segment)
    parts = list(stretches(0, depth, segment))[:: -1 if descending else 1]
    scales_a, scales_b = np.ascontiguousarray(a.scales.T), np.ascontiguousarray(b.scales.T)
    result = np.zeros((rows, columns), np.float32)
    for top in stretches(0, rows, register.tile[0]):
        for left in stretches(0, columns, register.tile[1]):
            total = np.ascontiguousarray(result[top, left])
            flags = np.zeros(total.shape, bool)
            for part in parts:
                sums, unit = register(top, left, part, flags)
                if register.overflows and (count := int(np.count_nonzero(flags))):
                    report.overflows += count
                    if where is not None:
                        where[top, left] |= flags
                    flags.fill(False)
                outer(sums, unit, scales_a[part.start // a.block, top], scales_b[part.start // b.block, left], total)
            if not np.shares_memory(total, result):
                result[top, left] = total
    return result
