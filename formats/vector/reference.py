"""The vector unit one number at a time, on Python integers, as gates would compute it.

Numbers are pairs <e, i>. Every function here says what the compiled kernels must equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from macloom.formats.vector.functions import exp, log, ratio, rotations
from macloom.formats.vector.number import Float, Pair, Shift, shift
from macloom.formats.vector.operations import Activation, Curve, Encode, Norm, Product, Rope, Softmax, Sum
from macloom.formats.vector.table import Exponential, Newton, Reciprocal, ReciprocalRoot, Table

Coefficients = Sequence[Sequence[int]]
ANGLE_BITS = 192


def lookup(table: Table, coefficients: Coefficients, x: int) -> int:
    """Return the polynomial at x / 2**argument, by Horner's scheme."""
    rest = table.argument - table.index_bits
    index, d = x >> rest, x & ((1 << rest) - 1)
    value = coefficients[-1][index]
    for column in reversed(coefficients[:-1]):
        value = column[index] + shift(value * d, rest, table.rounding)
    return value


def half_power(unit: Exponential, u: int) -> int:
    """Return 2**-u with the table's fraction bits, for u >= 0 with its argument bits."""
    table = unit.table
    whole, rest = u >> table.argument, u & ((1 << table.argument) - 1)
    return shift(lookup(table, unit.coefficients, rest), whole, table.rounding)


def _normalise(value: int, fraction: int) -> tuple[int, int]:
    """Return m with `fraction` bits below its leading one, and k, so that value is about m / 2**fraction * 2**k."""
    k = value.bit_length() - 1
    return shift(value, k - fraction, Shift.FLOOR), k


def _start(unit: Newton, coefficients: Coefficients, argument: int) -> int:
    return lookup(unit.table, coefficients, argument) << (unit.fraction - unit.table.fraction)


def reciprocal(unit: Reciprocal, value: int) -> Pair:
    """Return 1 / value for a positive integer."""
    f = unit.fraction
    m, k = _normalise(value, f)
    y = _start(unit, unit.coefficients, m - (1 << f))
    for _ in range(unit.iterations):
        my = shift(m * y, f, unit.rounding)
        y = shift(y * ((2 << f) - my), f, unit.rounding)
    return Pair(-f - k, y)


def reciprocal_root(unit: ReciprocalRoot, value: Pair) -> Pair:
    """Return 1 / sqrt(value) for a positive number; 0 for 0."""
    if value.i == 0:
        return Pair(0, 0)
    f = unit.fraction
    m, k = _normalise(value.i, f)
    odd = (k + value.e) & 1
    y = _start(unit, unit.coefficients, (odd << f) | (m - (1 << f)))
    m <<= odd
    for _ in range(unit.iterations):
        yy = shift(y * y, f, unit.rounding)
        myy = shift(m * yy, f, unit.rounding)
        y = shift(y * ((3 << f) - myy), f + 1, unit.rounding)
    return Pair(-f - (k + value.e - odd) // 2, y)


def softmax(op: Softmax, scale: float, row: Sequence[Pair]) -> list[Pair]:
    """Return the probabilities of one row of scores."""
    op.check_row(len(row))
    c, table = op.constant(scale), op.exponential.table
    scores = [op.input.round(x).i for x in row]

    def exponential(below: int) -> int:
        u = shift(below * c.i, op.input.fraction - c.e - table.argument, table.rounding)
        return half_power(op.exponential, u)

    block = op.block or len(row)
    highest, total = max(scores[:block]), 0
    for start in range(0, len(row), block):
        part = scores[start : start + block]
        risen = max(highest, *part)
        if risen > highest:
            total = shift(total * exponential(risen - highest), table.fraction, table.rounding)
        highest = risen
        total += sum(exponential(highest - s) for s in part)
    inverse = reciprocal(op.reciprocal, total)
    return [op.output.round(Pair(inverse.e, inverse.i * exponential(highest - s))) for s in scores]


def _float_sum(op: Norm, values: Sequence[Pair]) -> Pair:
    """Add in `lanes` accumulators, then pairwise."""
    assert op.accumulate is not None
    totals = [Pair(0, 0)] * op.lanes
    for i, x in enumerate(values):
        totals[i % op.lanes] = op.accumulate.round(totals[i % op.lanes].plus(x))
    while len(totals) > 1:
        half = len(totals) // 2
        totals = [op.accumulate.round(a.plus(b)) for a, b in zip(totals[:half], totals[half:], strict=True)]
    return totals[0]


def norm(
    op: Norm, eps: float, row: Sequence[Pair], gain: Sequence[Pair], bias: Sequence[Pair] | None = None
) -> list[Pair]:
    """Return one normalised row, times its gain."""
    x = [op.input.round(value) for value in row]
    inverse_n = op.constant(len(row))
    exact_eps = Pair(-128, ratio(Fraction(eps), 128))
    if isinstance(op.input, Float):
        accumulate = op.accumulate
        assert accumulate is not None
        if op.centred:
            mean = accumulate.round(_float_sum(op, x).times(inverse_n))
            x = [accumulate.round(v.minus(mean)) for v in x]
        square = _float_sum(op, [accumulate.round(v.times(v)) for v in x])
        variance = accumulate.round(accumulate.round(square.times(inverse_n)).plus(accumulate.round(exact_eps)))
    else:
        if op.centred:
            total = Pair(-op.input.fraction, sum(v.i for v in x))
            mean = op.input.round(total.times(inverse_n))
            x = [v.minus(mean) for v in x]
        square = Pair(-2 * op.input.fraction, sum(v.i * v.i for v in x)).times(inverse_n)
        variance = Pair(square.e, square.i + ratio(Fraction(eps), -square.e))
    root = reciprocal_root(op.root, variance)
    result = []
    for i, v in enumerate(x):
        n = op.normalised.round(v.times(root))
        y = op.output.round(n.times(op.gain.round(gain[i])))
        result.append(y if bias is None else op.output.round(y.plus(op.gain.round(bias[i]))))
    return result


def rope_table(op: Rope, length: int, width: int, theta: float) -> list[list[tuple[Pair, Pair]]]:
    """Return cosine and sine of position * theta**(-2 j / width), by j and then position."""
    columns = []
    logarithm = log(Fraction(theta), ANGLE_BITS)
    for j in range(width // 2):
        frequency = exp(Fraction(-2 * j * logarithm, width << ANGLE_BITS), ANGLE_BITS)
        turns = rotations(frequency, ANGLE_BITS, length)
        columns.append([(op.table.round(Pair(-ANGLE_BITS, c)), op.table.round(Pair(-ANGLE_BITS, s))) for c, s in turns])
    return columns


def rotate(op: Rope, x: Pair, y: Pair, cosine: Pair, sine: Pair) -> tuple[Pair, Pair]:
    """Return one rotated pair of elements."""
    x, y = op.input.round(x), op.input.round(y)

    def product(a: Pair, b: Pair) -> Pair:
        return a.times(b) if op.product is None else op.product.round(a.times(b))

    return (
        op.output.round(product(x, cosine).minus(product(y, sine))),
        op.output.round(product(y, cosine).plus(product(x, sine))),
    )


def activate(op: Activation, curve: Curve, value: Pair) -> Pair:
    """Return x times its gate."""
    x = op.input.round(value)
    coefficients = op.coefficients(curve)
    if coefficients is None:
        return op.output.round(x if x.i > 0 else Pair(0, 0))
    a = shift(abs(x.i), -x.e - op.argument_fraction, op.table.rounding)
    tail = 0 if a >> op.table.argument else lookup(op.table, coefficients, a)
    gate = tail if x.i < 0 else (1 << op.table.fraction) - tail
    return op.output.round(Pair(x.e - op.table.fraction, x.i * gate))


def add(op: Sum, left: Pair, right: Pair) -> Pair:
    """Return the rounded sum."""
    return op.output.round(op.left.round(left).plus(op.right.round(right)))


def multiply(op: Product, left: Pair, right: Pair) -> Pair:
    """Return the rounded product."""
    return op.output.round(op.left.round(left).times(op.right.round(right)))


def encode(op: Encode, scale: float, value: Pair) -> int:
    """Return the integer code of value / scale."""
    return op.output.round(op.input.round(value).times(op.multiplier(scale))).i
