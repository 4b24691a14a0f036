"""Matrix products on tensor cores: chains of blocks for all outputs, promoted and split as the record says."""

from __future__ import annotations

import numpy as np

from macloom.formats.accumulators.integer import IntegerAccumulator
from macloom.formats.accumulators.segments import common_segment
from macloom.formats.gemm_report import GemmReport
from macloom.formats.operand import Operand
from macloom.formats.policy import Rounding
from macloom.formats.tensor_core.operands import NO_EXPONENT, Side, check, dealt, grouped_side, pad, side_of
from macloom.formats.tensor_core.record import FP16, FP32, INT32, SplitOrder, SplitSum, TensorCoreAccumulator
from macloom.formats.threads import run_rows

# What the hardware returns for NaN (mmasim): all mantissa bits set.
CANONICAL_NAN = np.uint32(0x7FFFFFFF).view(np.float32)
CANONICAL_HALF_NAN = np.uint32(0x7FFFE000).view(np.float32)
# Lanes add eight terms of up to 2**(fraction + 2) units in int32.
LANE_FRACTION_BITS = 25
FLOAT64_MANTISSA = 52
# Sums of a block that one pass adds in int32 and rounds through float32.
MOST_IN_ONE_PASS = 2**30


def product(tc: TensorCoreAccumulator, a: Operand, b: Operand, report: GemmReport) -> np.ndarray:
    """Return the product of two operands that `check` has let through; scales outside the instruction applied."""
    if tc.register is INT32:
        return IntegerAccumulator(bits=32).product(a, b, report)
    depth = a.units.shape[-1]
    if tc.group > 1:
        result = _by_parts(tc, _Grouped(tc, a, b), depth)
    elif tc.scale_block or (segment := common_segment(a, b)) >= depth:
        result = _by_parts(tc, _Plain(tc, side_of(tc, a), side_of(tc, b)), depth)
    else:
        return _by_segment(tc, a, b, segment, report)
    _count(result, report)
    if not tc.scale_block:
        with np.errstate(all="ignore"):
            result *= a.scales[..., :, :1]
            result *= np.swapaxes(b.scales[..., :, :1], -1, -2)
    return _canonical(tc, result)


def multiply_add(tc: TensorCoreAccumulator, a: Operand, b: Operand, c: np.ndarray) -> np.ndarray:
    """Return a times b plus c as one chain of instructions gives it; promotion, splits and outer scales play no part.

    Args:
        a, b: operands that the instruction takes, (..., M, K) and (..., N, K).
        c: float32 (..., M, N), exact in the register.
    """
    check(tc, a, b)
    products = _Grouped(tc, a, b) if tc.group > 1 else _Plain(tc, side_of(tc, a), side_of(tc, b))
    return _canonical(tc, products.chain(None, np.asarray(c, np.float32)))


def _by_segment(tc: TensorCoreAccumulator, a: Operand, b: Operand, segment: int, report: GemmReport) -> np.ndarray:
    """Return the float32 sum, in ascending order, of what the instruction gives for each segment, times its scales."""
    left, right = side_of(tc, a), side_of(tc, b)
    total = np.zeros((*a.units.shape[:-1], b.units.shape[-2]), np.float32)
    for start in range(0, a.units.shape[-1], segment):
        part = slice(start, start + segment)
        term = _by_parts(tc, _Plain(tc, left.part(part), right.part(part)), segment)
        _count(term, report)
        with np.errstate(all="ignore"):
            term *= a.scales[..., :, start // a.block, None]
            term *= b.scales[..., None, :, start // b.block]
            total += term
    return _canonical(tc, total)


def _count(sums: np.ndarray, report: GemmReport) -> None:
    """Count infinite sums as overflows, whether they come from the operands or from the register."""
    infinite = np.isinf(sums)
    report.overflows += int(np.count_nonzero(infinite))
    if report.locate:
        report.where = infinite if report.where is None else report.where | infinite


def _canonical(tc: TensorCoreAccumulator, result: np.ndarray) -> np.ndarray:
    np.copyto(result, CANONICAL_HALF_NAN if tc.register is FP16 else CANONICAL_NAN, where=np.isnan(result))
    return result


class _Plain:
    """Products without groups."""

    def __init__(self, tc: TensorCoreAccumulator, left: Side, right: Side) -> None:
        self.tc, self.left, self.right = tc, left, right

    def chain(self, index: np.ndarray | None, start: np.ndarray | None = None) -> np.ndarray:
        """Return the chains of blocks over some elements of K, all for None; see `chains` for `start`."""
        left, right = (side if index is None else side.part(index) for side in (self.left, self.right))
        if self.tc.run:
            depth = left.values.shape[-1]
            order = dealt(self.tc, depth)
            left, right = (side.padded(len(order) - depth).part(order) for side in (left, right))
        return chains(self.tc, left, right, start)


class _Grouped:
    """Products whose groups are summed exactly and share scales, multiplied inside the instruction."""

    def __init__(self, tc: TensorCoreAccumulator, a: Operand, b: Operand) -> None:
        self.tc = tc
        self.left, self.right = grouped_side(tc, a), grouped_side(tc, b)

    def chain(self, index: np.ndarray | None, start: np.ndarray | None = None) -> np.ndarray:
        """Return the chains of blocks over some elements of K, all for None; see `chains` for `start`."""
        from macloom.formats.tensor_core.groups import chain_of_groups

        tc, left, right = self.tc, self.left, self.right
        if index is not None:
            left, right = left.part(index, tc), right.part(index, tc)
        batch = left.units.shape[:-2]
        shape = (*batch, left.units.shape[-2], right.units.shape[-2])
        out = np.zeros(shape, np.float32) if start is None else start.copy()
        groups = (tc.group, tc.block // tc.group)
        for i in np.ndindex(*batch):
            one = (left.units[i], left.masks[i], left.significands[i], left.exponents[i])
            other = (right.units[i], right.masks[i], right.significands[i], right.exponents[i])
            run_rows(
                chain_of_groups, out.shape[-2], out[i].size * left.units.shape[-1] // 8,
                *one, *(np.ascontiguousarray(x.T) for x in other),
                groups, left.unit + right.unit, tc.fraction, tc.lowest, out[i],
            )  # fmt: skip
            out[i][left.broken[i].any(axis=-1)] = np.nan
            out[i][:, right.broken[i].any(axis=-1)] = np.nan
        return out


def _by_parts(tc: TensorCoreAccumulator, products: _Plain | _Grouped, depth: int) -> np.ndarray:
    """Return the sum over the parts of a split of the sums over promoted stretches of chains."""
    if tc.split == 1 and (not tc.promote or tc.promote >= depth):
        return products.chain(None)
    return _reduce(tc, [_promoted(tc, products, index) for index in _parts(tc, depth)])


def _parts(tc: TensorCoreAccumulator, depth: int) -> list[np.ndarray]:
    """Return which elements along K each part of a split gets, without the parts that get none."""
    index = np.arange(depth)
    tiles = index // tc.tile
    if tc.split == 1:
        return [index]
    if tc.order is SplitOrder.INTERLEAVED:
        owners = tiles % tc.split
    else:
        owners = tiles // -(-(int(tiles[-1]) + 1) // tc.split)
    return [index[owners == part] for part in range(int(owners.max()) + 1)]


def _promoted(tc: TensorCoreAccumulator, products: _Plain | _Grouped, index: np.ndarray) -> np.ndarray:
    if not tc.promote:
        return products.chain(index)
    total: np.ndarray | None = None
    for start in range(0, len(index), tc.promote):
        term = products.chain(index[start : start + tc.promote])
        total = term if total is None else late_sum(tc, total, term)
    assert total is not None
    return total


def late_sum(tc: TensorCoreAccumulator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the sum of two float32 arrays as the register of promoted sums holds it; `x` is changed in place.

    Sums of half precision numbers may round in float32 first, whose 24 digits are 2 x 11 + 2 (Figueroa 1995).
    """
    total = _add(x, y)
    if tc.late is FP16:
        with np.errstate(all="ignore"):
            total[:] = total.astype(np.float16)
    return total


def _add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.add(x, y, out=x)


def _reduce(tc: TensorCoreAccumulator, sums: list[np.ndarray]) -> np.ndarray:
    last = len(sums) - 1
    if tc.sum is SplitSum.PAIRWISE and last:
        h = -(-len(sums) // 2)
        pairs = [_add(sums[i], sums[i + h]) if i + h < last else sums[i] for i in range(h)]
        sums = [pairs[0], sums[last], *pairs[1:]]
    total = sums[0]
    for term in sums[1:]:
        total = _add(total, term)
    return total


def _numbers(tc: TensorCoreAccumulator) -> tuple[int, int, bool, int, int, int, int, bool]:
    """Return what the integer kernel knows of a record."""
    register = tc.register
    return (
        tc.block,
        tc.fraction,
        tc.align is Rounding.NEAREST_EVEN,
        tc.lowest,
        register.mantissa_bits,
        register.min_exponent,
        register.max_exponent,
        tc.rounding is Rounding.NEAREST_EVEN,
    )


def lanes_are_exact(tc: TensorCoreAccumulator, left: Side, right: Side) -> bool:
    """Return whether float32 and int32 lanes give the record's sums of finite values exactly, exponents apart.

    Products have at most 24 significand bits, and eight terms below 2**(fraction + 2) units fit int32.
    """
    return (
        tc.align is Rounding.TOWARD_ZERO
        and tc.fraction <= LANE_FRACTION_BITS
        and left.mantissa_bits + right.mantissa_bits <= 22
    )


def values_are_exact(tc: TensorCoreAccumulator, left: Side, right: Side) -> bool:
    """Return whether lanes may multiply values, because nothing leaves the normal range of float32.

    A product of exponent e is below 2**(e + 2), and its last bit at least 2**(e - 22). A sum that is not zero is at
    least 2**(e - fraction) for the smallest e, so that no largest exponent need be below that; it is less
    than the number of products times the largest of them. All powers of two from there to 2**(fraction - e) exist.
    """
    low, high = left.span[0] + right.span[0], left.span[1] + right.span[1]
    return (
        low >= 2 * tc.fraction - 126
        and min(left.span[0], right.span[0]) >= -126
        and max(left.span[1], right.span[1]) <= 126
        and high + 2 + left.values.shape[-1].bit_length() <= 126
    )


def chains(tc: TensorCoreAccumulator, left: Side, right: Side, start: np.ndarray | None = None) -> np.ndarray:
    """Return the chains of blocks of all outputs, (..., M, N), in lanes where they are exact.

    Outputs of rows with infinities or NaN, and everything where lanes may be inexact, are made in integers.

    Args:
        start: float32 (..., M, N), the sums so far, exact in the register; None for zeros.
    """
    batch = left.values.shape[:-2]
    first = np.zeros((*batch, left.values.shape[-2], right.values.shape[-2]), np.float32) if start is None else start
    out = first.copy()
    in_lanes = lanes_are_exact(tc, left, right)
    if in_lanes:
        _lanes(tc, left, right, out, near=start is None and values_are_exact(tc, left, right))
    every_row, every_column = np.arange(out.shape[-2]), np.arange(out.shape[-1])
    for i in np.ndindex(*batch):
        rows = np.flatnonzero(left.special[i]) if in_lanes else every_row
        columns = np.flatnonzero(right.special[i]) if in_lanes else every_column[:0]
        if rows.size:
            out[i][rows] = _integers(tc, left, right, i, rows, every_column, first)
        if columns.size:
            out[i][:, columns] = _integers(tc, left, right, i, every_row, columns, first)
    return out


def _integers(
    tc: TensorCoreAccumulator,
    left: Side,
    right: Side,
    batch: tuple[int, ...],
    rows: np.ndarray,
    columns: np.ndarray,
    start: np.ndarray,
) -> np.ndarray:
    from macloom.formats.tensor_core.integers import chain_in_integers

    a, b = (pad(side.significands[batch][of], tc.block) for side, of in ((left, rows), (right, columns)))
    e_a, e_b = (pad(side.exponents[batch][of], tc.block, NO_EXPONENT) for side, of in ((left, rows), (right, columns)))
    with np.errstate(invalid="ignore"):  # signalling NaN
        out = start[batch][np.ix_(rows, columns)].astype(np.float64)
    bits = left.mantissa_bits + right.mantissa_bits
    run_rows(chain_in_integers, len(rows), out.size * a.shape[-1], a, e_a, b, e_b, bits, _numbers(tc), out)
    with np.errstate(all="ignore"):
        return out.astype(np.float32)


def _lanes(tc: TensorCoreAccumulator, left: Side, right: Side, out: np.ndarray, near: bool) -> None:
    from macloom.formats.tensor_core.lanes import chain_in_lanes

    register = tc.register
    width = -(-tc.block // 4) * 4  # lanes take four products at a time
    a, b = (_blocks(side.scaled if near else side.fractions, tc.block, width, 0) for side in (left, right))
    e_a, e_b = (_blocks(side.short_exponents, tc.block, width, NO_EXPONENT) for side in (left, right))
    floor = max(tc.lowest, left.span[0] + right.span[0] - tc.fraction) if near else tc.lowest
    single = register.max_exponent == FP32.max_exponent and tc.rounding is Rounding.TOWARD_ZERO
    kept = ~((1 << (FLOAT64_MANTISSA - register.mantissa_bits)) - 1) if near and single else 0
    fits = tc.block * 2 ** (tc.fraction + 2) + 2 ** (tc.fraction + 1) < MOST_IN_ONE_PASS
    fused = bool(kept) and register is FP32 and width in (4, 8) and fits
    rounding = (
        register.mantissa_bits,
        register.min_exponent,
        2.0 ** (register.max_exponent + 1),
        tc.rounding is Rounding.NEAREST_EVEN,
    )
    flat = out.reshape(-1, *out.shape[-2:])
    run_rows(
        chain_in_lanes, flat.shape[0] * flat.shape[1], out.size * a.shape[-1] // 8,
        a.reshape(-1, *a.shape[-2:]), e_a.reshape(-1, *a.shape[-2:]), _turned(b), _turned(e_b),
        width, tc.fraction, floor, kept, rounding, near, fused, flat,
    )  # fmt: skip


def _turned(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1, *x.shape[-2:])
    return np.ascontiguousarray(np.swapaxes(flat, -1, -2))


def _blocks(x: np.ndarray, block: int, width: int, fill: int) -> np.ndarray:
    """Return the array with its last axis padded to whole blocks, and each block to `width`."""
    x = pad(x, block, fill)
    if width == block:
        return x
    blocks = pad(x.reshape(*x.shape[:-1], -1, block), width, fill)
    return np.ascontiguousarray(blocks.reshape(*x.shape[:-1], -1))
