"""Tensor cores by definition, one output at a time on exact fractions; everything fast must equal this.

Sources of the definition: Fasi, Higham, Mikaitis and Pranesh 2021 (PeerJ Computer Science 7:e330), Khattak and Mikaitis
(arXiv:2512.07004) and Xie et al. (arXiv:2511.10909); what they leave open was found by asking mmasim 2.1.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from macloom.formats.policy import Rounding
from macloom.formats.tensor_core.record import Register, SplitOrder, SplitSum, TensorCoreAccumulator

Scale = tuple[float, int]


def exponent(value: float, min_exponent: int) -> int:
    """Return the exponent that a finite value of a format with this smallest normal exponent is stored with."""
    return max(math.frexp(value)[1] - 1, min_exponent)


def cut(x: Fraction, rounding: Rounding) -> int:
    """Round to an integer.

    >>> cut(Fraction(-7, 4), Rounding.TOWARD_ZERO), cut(Fraction(-7, 4), Rounding.NEAREST_EVEN)
    (-1, -2)
    """
    return int(x) if rounding is Rounding.TOWARD_ZERO else round(x)


def into(register: Register, x: Fraction, rounding: Rounding) -> float:
    """Round a sum to a register; what is too large becomes infinite, and zero is +0."""
    if not x:
        return 0.0
    magnitude = abs(x)
    e = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    e -= magnitude < Fraction(2) ** e
    step = Fraction(2) ** (max(e, register.min_exponent) - register.mantissa_bits)
    rounded = cut(x / step, rounding) * step
    if abs(rounded) >= Fraction(2) ** (register.max_exponent + 1):
        return math.inf if x > 0 else -math.inf
    return float(rounded) if rounded else 0.0


def block(
    tc: TensorCoreAccumulator,
    a: Sequence[float],
    b: Sequence[float],
    c: float,
    min_exponents: tuple[int, int],
    scale: Scale = (1.0, 0),
) -> float:
    """Return c plus the products of one block, as the adder gives it.

    Args:
        a, b: values of the operands, exact in their formats.
        c: the sum so far, exact in the register.
        min_exponents: exponents of the smallest normal values of the operands' formats.
        scale: product of the scales of both operands: its value and the sum of the two exponents.
    """
    if tc.reads is not None:
        min_exponents = tc.reads.min_exponent, tc.reads.min_exponent
    special: set[float] = {c} if not math.isfinite(c) else set()
    terms: list[tuple[Fraction, int]] = []  # value and exponent of what is not zero
    if not math.isfinite(scale[0]):
        special.add(math.nan)
    for x, y in zip(a, b, strict=True):
        if not math.isfinite(x) or not math.isfinite(y):
            special.add(math.nan if not x or not y else x * y)
        elif x and y and math.isfinite(scale[0]) and scale[0]:
            e = exponent(x, min_exponents[0]) + exponent(y, min_exponents[1]) + scale[1]
            terms.append((Fraction(x) * Fraction(y) * Fraction(scale[0]), e))
    if special:
        return special.pop() if len(special) == 1 else math.nan
    return aligned_sum(tc, terms, c)


def aligned_sum(tc: TensorCoreAccumulator, terms: list[tuple[Fraction, int]], c: float) -> float:
    """Return c plus all terms, aligned to the largest exponent, cut off, added and rounded."""
    if c:
        terms = [*terms, (Fraction(c), exponent(c, tc.register.min_exponent))]
    largest = max([tc.lowest, *(e for _, e in terms)])
    unit = Fraction(2) ** (largest - tc.fraction)
    return into(tc.register, sum(cut(value / unit, tc.align) for value, _ in terms) * unit, tc.rounding)


def grouped_block(
    tc: TensorCoreAccumulator, a: Sequence[float], b: Sequence[float], c: float, scales: Sequence[Scale]
) -> float:
    """Return c plus the products of one block, summed exactly in groups before they are scaled and aligned.

    A group whose products cancel keeps its exponent, the sum of the exponents of its scales; one without products
    other than zero has none.
    """
    if not all(math.isfinite(value) for value, _ in scales):
        return math.nan
    if not math.isfinite(c):
        return c
    terms = []
    for start, (value, e) in zip(range(0, len(a), tc.group), scales, strict=True):
        products = [Fraction(a[i]) * Fraction(b[i]) for i in range(start, start + tc.group)]
        if value and any(products):
            terms.append((sum(products, Fraction(0)) * Fraction(value), e))
    return aligned_sum(tc, terms, c)


def chain(
    tc: TensorCoreAccumulator,
    a: Sequence[float],
    b: Sequence[float],
    min_exponents: tuple[int, int],
    scales: Sequence[Scale] = (),
) -> float:
    """Return the sum of products that consecutive blocks give, the first one starting from zero.

    Args:
        scales: one for each stretch of `tc.scale_block` elements, or `tc.group` where there are groups.
    """
    c = 0.0
    if tc.run:
        a, b = dealt(tc, a), dealt(tc, b)
    for start in range(0, len(a), tc.block):
        left, right = list(a[start : start + tc.block]), list(b[start : start + tc.block])
        left += [0.0] * (tc.block - len(left))
        right += [0.0] * (tc.block - len(right))
        if tc.group > 1:
            part = [*scales[start // tc.group : (start + tc.block) // tc.group]]
            part += [(1.0, 0)] * (tc.block // tc.group - len(part))
            c = grouped_block(tc, left, right, c, part)
        else:
            scale = scales[start // tc.scale_block] if scales else (1.0, 0)
            c = block(tc, left, right, c, min_exponents, scale)
    return c


def dealt(tc: TensorCoreAccumulator, x: Sequence[float]) -> list[float]:
    """Return the elements of whole instructions, zeros at the end, in the order in which blocks take them."""
    full = [*x, *[0.0] * (-len(x) % tc.k)]
    blocks = tc.k // tc.block
    return [
        full[start + i]
        for start in range(0, len(full), tc.k)
        for turn in range(blocks)
        for i in range(tc.k)
        if i // tc.run % blocks == turn
    ]


def parts(tc: TensorCoreAccumulator, length: int) -> list[list[range]]:
    """Return which stretches of K each part of a split gets."""
    tiles = [range(start, min(start + tc.tile, length)) for start in range(0, length, tc.tile)]
    if tc.split == 1:
        return [[range(length)]]
    if tc.order is SplitOrder.INTERLEAVED:
        return [tiles[part :: tc.split] for part in range(tc.split)]
    size = -(-len(tiles) // tc.split)
    return [tiles[part * size : (part + 1) * size] for part in range(tc.split)]


def dot(
    tc: TensorCoreAccumulator,
    a: Sequence[float],
    b: Sequence[float],
    min_exponents: tuple[int, int],
    scales: Sequence[Scale] = (),
) -> float:
    """Return one output of a matrix product: chains of blocks, promoted and split as the record says.

    >>> from macloom.formats.accumulator import get_accumulator
    >>> dot(get_accumulator("tc:volta-fp16"), [1.0, 2.0**-12, 2.0**-12], [1.0, 2.0**-12, 2.0**-12], (-14, -14))
    1.0
    """
    if tc.register.name == "int32":
        return float(np.int64(sum(int(x) * int(y) for x, y in zip(a, b, strict=True))).astype(np.int32))
    sums = []
    for part in parts(tc, len(a)):
        index = [i for tile in part for i in tile]
        step = tc.promote or max(len(index), 1)
        total = np.float32(0)
        for start in range(0, len(index), step):
            chosen = index[start : start + step]
            picked = scales
            if scales:
                width = tc.group if tc.group > 1 else tc.scale_block
                picked = [scales[i // width] for i in chosen[::width]]
            value = chain(tc, [a[i] for i in chosen], [b[i] for i in chosen], min_exponents, picked)
            total = np.float32(value) if not tc.promote else _late(tc, total, value)
        sums.append(total)
    return float(_reduce(tc, sums))


def _late(tc: TensorCoreAccumulator, x: np.float32, y: float) -> np.float32:
    """Return the sum in the register of promoted sums, rounded to nearest even once."""
    if not (math.isfinite(x) and math.isfinite(y)):
        return _add(x, y)
    return np.float32(into(tc.late, Fraction(float(x)) + Fraction(y), Rounding.NEAREST_EVEN))


def _add(x: np.float32, y: float) -> np.float32:
    with np.errstate(all="ignore"):
        return np.float32(x + np.float32(y))


def _reduce(tc: TensorCoreAccumulator, sums: list[np.float32]) -> np.float32:
    last = len(sums) - 1
    if tc.sum is SplitSum.PAIRWISE and last:
        h = -(-len(sums) // 2)
        pairs = [_add(sums[i], float(sums[i + h])) if i + h < last else sums[i] for i in range(h)]
        sums = [pairs[0], sums[last], *pairs[1:]]
    total = sums[0]
    for term in sums[1:]:
        total = _add(total, float(term))
    return total
