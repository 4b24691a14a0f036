"""Accumulators by their definition, one product at a time, on Python integers and fractions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import singledispatch

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.accumulators.base import Accumulator
from macloom.formats.accumulators.block import BlockAccumulator, SpillAccumulator
from macloom.formats.accumulators.exact import ExactAccumulator
from macloom.formats.accumulators.floating import FloatAccumulator, Order, SmallFloatAccumulator
from macloom.formats.accumulators.integer import END, MAC, IntegerAccumulator, IntegerOverflow
from macloom.formats.operand import Operand
from macloom.formats.policy import Rounding

FLOAT32 = SmallFloatAccumulator(exponent_bits=8, mantissa_bits=23)


def exact(products: Iterable[Fraction]) -> Fraction:
    """Return the sum of products."""
    return sum(products, Fraction(0))


def integer(products: Sequence[int], accumulator: IntegerAccumulator) -> tuple[int, bool]:
    """Return what an integer register holds at the end of a segment, and whether it overflowed.

    >>> from macloom.formats import get_accumulator
    >>> integer([100, 100, -100], get_accumulator("int8:saturate,every=mac"))
    (27, True)
    >>> integer([100, 100, -100], get_accumulator("int8:saturate"))
    (100, False)
    """
    low, high = -(1 << (accumulator.bits - 1)), (1 << (accumulator.bits - 1)) - 1
    wraps = accumulator.overflow is IntegerOverflow.WRAP
    if accumulator.every == END or wraps:
        length = max(len(products), 1)
    else:
        length = 1 if accumulator.every == MAC else int(accumulator.every)
    register, overflowed = 0, False
    for start in range(0, len(products), length):
        total = register + sum(products[start : start + length])
        overflowed |= not low <= total <= high
        register = (total - low) % (high - low + 1) + low if wraps else min(max(total, low), high)
    return register, overflowed


def nearest_float32(value: Fraction) -> Fraction | float:
    """Return a fraction rounded to float32, to nearest even; an infinity where it is too large.

    >>> nearest_float32(Fraction(1, 3)) == Fraction(11184811, 2**25)
    True
    """
    return to_register(value, FLOAT32)


def to_register(value: Fraction, accumulator: SmallFloatAccumulator) -> Fraction | float:
    """Return a fraction rounded to a float register's format; an infinity where it becomes that.

    >>> from macloom.formats import get_accumulator
    >>> to_register(Fraction(4097, 2), get_accumulator("e5m10")), to_register(Fraction(70000), get_accumulator("e5m10"))
    (Fraction(2048, 1), inf)
    """
    if not value:
        return value
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > size
    step = Fraction(2) ** (max(exponent, accumulator.smallest_exponent) - accumulator.mantissa_bits)
    steps, rest = divmod(size, step)
    match accumulator.rounding:
        case Rounding.NEAREST_EVEN:
            up = 2 * rest > step or (2 * rest == step and steps % 2 == 1)
        case Rounding.NEAREST_AWAY:
            up = 2 * rest >= step
        case Rounding.TO_ODD:
            up = rest > 0 and steps % 2 == 0
        case _:
            up = False
    rounded = Fraction(steps + up) * step
    if rounded > Fraction(accumulator.largest):
        if math.isinf(accumulator.beyond):
            return math.copysign(math.inf, value)
        rounded = Fraction(accumulator.largest)
    return -rounded if value < 0 else rounded


def floating(products: Sequence[Fraction], accumulator: SmallFloatAccumulator) -> Fraction | float:
    """Return what a float register holds after all products; infinity or NaN where it becomes that."""
    register: Fraction | float = Fraction(0)
    for product in products if accumulator.order is Order.ASCENDING else reversed(products):
        term = product if accumulator.fused else to_register(product, accumulator)
        register = added(register, term, accumulator)
    return register


def added(register: Fraction | float, term: Fraction | float, accumulator: SmallFloatAccumulator) -> Fraction | float:
    """Return the register after one more term; infinities and NaN follow IEEE 754."""
    if isinstance(register, float) or isinstance(term, float):
        return float(register) + float(term)
    return to_register(Fraction(register + term), accumulator)


def block(terms: Sequence[Fraction], accumulator: BlockAccumulator) -> Fraction | float:
    """Return the outer register after the scaled sums of all blocks, which are float32 values in ascending order."""
    outer = FLOAT32 if isinstance(accumulator.outer, FloatAccumulator) else accumulator.outer
    register: Fraction | float = Fraction(0)
    for term in terms if accumulator.order is Order.ASCENDING else reversed(terms):
        register = added(register, to_register(term, outer), outer)
    return register


def spill(products: Sequence[int], length: int, bits: int = 32) -> Fraction | float:
    """Return a float32 sum of wrapped integer sums of `length` products each (dynamic fixed point), without scales.

    >>> spill([12288 * 3072, -31130 * -768, 16 * 25600], 2)
    Fraction(62066176, 1)
    """
    narrow = IntegerAccumulator(bits=bits)
    register: Fraction | float = Fraction(0)
    for start in range(0, len(products), length):
        total = Fraction(integer(products[start : start + length], narrow)[0])
        register = added(register, to_register(total, FLOAT32), FLOAT32)
    return register


Products = Sequence[Fraction] | Sequence[int]


@singledispatch
def held(accumulator: Accumulator, products: Products, unit: Fraction) -> tuple[Fraction | float, bool]:
    """Return the real value that a register holds at the end of a segment, and whether it overflowed.

    Args:
        products: exact, in units of `unit`.
        unit: a power of two.
    """
    raise MacloomError(f"accumulator {accumulator.name!r}: has no definition in fractions here")


@held.register
def _(accumulator: ExactAccumulator, products: Products, unit: Fraction) -> tuple[Fraction | float, bool]:
    return sum(products) * unit, False


@held.register
def _(accumulator: IntegerAccumulator, products: Products, unit: Fraction) -> tuple[Fraction | float, bool]:
    total, overflowed = integer([int(p) for p in products], accumulator)
    return total * unit, overflowed


@held.register
def _(accumulator: FloatAccumulator, products: Products, unit: Fraction) -> tuple[Fraction | float, bool]:
    return floating([p * unit for p in products], FLOAT32), False


@held.register
def _(accumulator: SmallFloatAccumulator, products: Products, unit: Fraction) -> tuple[Fraction | float, bool]:
    total = floating([p * unit for p in products], accumulator)
    return total, not abs(total) < accumulator.largest


def product(a: Operand, b: Operand, accumulator: Accumulator) -> tuple[np.ndarray, np.ndarray]:
    """Return the product of the dense parts of two operands by definition, and where a register overflowed.

    Args:
        a, b: with two axes and NaN nowhere; a few rows and elements of K, as every product is a fraction.

    Returns:
        float32 (M, N) without the tensors' outer scales, and bool (M, N).
    """
    if isinstance(accumulator, SpillAccumulator):
        accumulator = accumulator.registers
    inner = accumulator.inner if isinstance(accumulator, BlockAccumulator) else accumulator
    size = accumulator.size if isinstance(accumulator, BlockAccumulator) else None
    depth = a.units.shape[1]
    blocks = min(a.block, b.block, depth)
    pieces = [
        (start, min(start + (size or blocks), block + blocks, depth))
        for block in range(0, depth, blocks)
        for start in range(block, min(block + blocks, depth), size or blocks)
    ]
    unit = Fraction(2) ** (a.unit_exponent + b.unit_exponent)
    rows, columns = ([_values(o, row) for row in range(len(o.units))] for o in (a, b))
    result, where = np.zeros((len(rows), len(columns)), np.float32), np.zeros((len(rows), len(columns)), bool)
    for m, left in enumerate(rows):
        for n, right in enumerate(columns):
            terms = []
            for start, stop in pieces:
                value, overflowed = held(
                    inner, [x * y for x, y in zip(left[start:stop], right[start:stop], strict=True)], unit
                )
                where[m, n] |= overflowed
                with np.errstate(over="ignore", invalid="ignore"):
                    rounded = nearest_float32(value) if isinstance(value, Fraction) else value
                    term = np.float32(float(rounded)) * a.scales[m, start // a.block] * b.scales[n, start // b.block]
                terms.append(np.float32(term))
            result[m, n] = _together(terms, accumulator)
    return result, where


def _together(terms: Sequence[np.float32], accumulator: Accumulator) -> np.float32:
    if isinstance(accumulator, BlockAccumulator) and all(np.isfinite(terms)):
        return np.float32(float(block([Fraction(float(term)) for term in terms], accumulator)))
    total = np.float32(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for term in terms:
            total = np.float32(total + term)
    return total


def _values(operand: Operand, row: int) -> list[int] | list[Fraction]:
    """Return the elements of a row without scales, zero points subtracted, in units; whole ones as integers."""
    zeros = np.zeros(1) if operand.zeros is None else operand.zeros[row]
    values = [
        Fraction(float(x)) - Fraction(float(zeros[min(k // operand.block, len(zeros) - 1)]))
        for k, x in enumerate(operand.units[row])
    ]
    return [int(v) for v in values] if all(v.denominator == 1 for v in values) else values
