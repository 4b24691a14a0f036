"""Compiled loops of the vector unit: numbers in float64, where their products and sums are exact, tables in int64."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

import numpy as np

from macloom._numba import extending, njit, types
from macloom.formats.kernels.primitives import peek

FLOOR, HALF_UP, NEAREST_EVEN, FLOAT, SINGLE = range(5)
LARGEST_SINGLE = float(np.finfo(np.float32).max)


@extending.intrinsic
def bits_of(typingctx, value):
    """Reinterpret a float64 as int64."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), generate


@extending.intrinsic
def double_of(typingctx, value):
    """Reinterpret an int64 as float64."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), generate


@extending.intrinsic
def leading_zeros(typingctx, value):
    """Count the zeros above the leading one of a positive int64."""

    def generate(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], context.get_constant(types.boolean, True))

    return types.int64(types.int64), generate


@njit(forceinline=True)
def power_of_two(e):
    """Return 2.0**e for normal results."""
    return double_of((e + 1023) << 52)


@njit(forceinline=True)
def rounded(x, number):
    """Round an exact float64 to a number kind; see `macloom.formats.vector.arrays.number_tuple`."""
    kind, mantissa, emin, scale, inverse, low, high = number
    if kind == SINGLE:
        return np.float64(np.float32(min(max(x, low), high)))
    if kind == FLOAT:
        x = min(max(x, low), high)
        exponent = ((bits_of(x) >> 52) & 0x7FF) - 1023
        step = max(exponent, emin) - mantissa
        # Adding 1.5 * 2**(52 + step) leaves no room below 2**step: nearest even, IEEE 754-2019, 4.3.1.
        anchor = double_of(((step + 1075) << 52) | (1 << 51))
        return min(max((x + anchor) - anchor, low), high)
    steps = min(max(x * scale, low), high)
    if kind == NEAREST_EVEN:
        steps = (steps + 6755399441055744.0) - 6755399441055744.0
    elif kind == HALF_UP:
        steps = np.floor(steps + 0.5)
    else:
        steps = np.floor(steps)
    return steps * inverse


@njit(forceinline=True)
def odd_sum(a, b):
    """Return a + b rounded to odd, from which one more rounding is as good as one alone.

    Knuth's two-sum finds the error (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums").
    Operands of more bits than the result may lie on a tie that a float64 sum would not leave.
    """
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    bits = bits_of(total)
    if error != 0 and (bits & 1) == 0:
        bits += 1 if (error > 0) == (total > 0) else -1
    return double_of(bits)


@njit(forceinline=True)
def shifted(value, places, rounding):
    """Shift right by 0 to 63 places."""
    if places == 0:
        return value
    if rounding == FLOOR:
        return value >> places
    half = np.int64(1) << (places - 1)
    if rounding == HALF_UP:
        return (value + half) >> places
    kept = value >> places
    lost = value - (kept << places)
    if lost > half or (lost == half and (kept & 1) == 1):
        kept += 1
    return kept


@njit(forceinline=True)
def lookup(coefficients, entries, rest, rounding, x):
    """Coefficients are flat: the constants of all segments, then the linear ones, then the square ones."""
    index = x >> rest
    d = x & ((np.int64(1) << rest) - 1)
    value = peek(coefficients, len(coefficients) - entries + index)
    for column in range(len(coefficients) - 2 * entries, -1, -entries):
        value = peek(coefficients, column + index) + shifted(value * d, rest, rounding)
    return value


@njit(forceinline=True)
def normalised(value, fraction):
    k = 63 - leading_zeros(value)
    m = value >> (k - fraction) if k > fraction else value << (fraction - k)
    return m, k


@njit(cache=True, nogil=True)
def reciprocal_of(newton, value):
    """Return y and k: 1 / value is about y / 2**(fraction + k)."""
    coefficients, entries, rest, table_rounding, left, f, iterations, rounding = newton
    m, k = normalised(value, f)
    one = np.int64(1) << f
    y = lookup(coefficients, entries, rest, table_rounding, m - one) << left
    for _ in range(iterations):
        y = shifted(y * (2 * one - shifted(m * y, f, rounding)), f, rounding)
    return y, k


@njit(cache=True, nogil=True)
def root_of(newton, value, exponent):
    """Return y and e: 1 / sqrt(value * 2**exponent) is about y * 2**e."""
    coefficients, entries, rest, table_rounding, left, f, iterations, rounding = newton
    m, k = normalised(value, f)
    one = np.int64(1) << f
    odd = (k + exponent) & 1
    y = lookup(coefficients, entries, rest, table_rounding, (odd << f) | (m - one)) << left
    m <<= odd
    for _ in range(iterations):
        yy = shifted(y * y, f, rounding)
        y = shifted(y * (3 * one - shifted(m * yy, f, rounding)), f + 1, rounding)
    return y, -f - (k + exponent - odd) // 2


@njit(cache=True, nogil=True)
def reciprocals(values, newton, y, k):
    for i in range(len(values)):
        y[i], k[i] = reciprocal_of(newton, values[i])


@njit(cache=True, nogil=True)
def roots(values, exponents, newton, y, e):
    for i in range(len(values)):
        y[i], e[i] = root_of(newton, values[i], exponents[i])


@njit(forceinline=True)
def half_power(coefficients, entries, rest, rounding, argument, fraction, u):
    # A shift by 63 places makes 0 of what a longer one would, too: values have at most 31 bits.
    whole = min(u >> argument, 63)
    return shifted(lookup(coefficients, entries, rest, rounding, u & ((np.int64(1) << argument) - 1)), whole, rounding)


@njit(cache=True, nogil=True)
def half_powers(values, table, argument, fraction, out):
    coefficients, entries, rest, rounding = table
    for i in range(len(values)):
        out[i] = half_power(coefficients, entries, rest, rounding, argument, fraction, values[i])


@njit(cache=True, nogil=True)
def exponentials(scores, first, last, highest, constant, places, table, argument, fraction, out):
    """Set out[i] to 2**-((highest - scores[i]) * constant / 2**places) from `first` to `last`, and return the sum."""
    coefficients, entries, rest, rounding = table
    # What is larger than this gives 0; kept below it, no left shift can overflow.
    limit = (fraction + 2) << argument
    right, left = max(places, 0), max(-places, 0)
    total = np.int64(0)
    for i in range(first, last):
        u = shifted((highest - scores[i]) * constant, right, rounding)
        u = min(u, limit >> left) << left
        power = half_power(coefficients, entries, rest, rounding, argument, fraction, u)
        out[i] = power
        total += power
    return total


@njit(cache=True, nogil=True)
def softmax(start, stop, x, valid, number, constant, places, table, argument, fraction, newton, block, output, out):
    """Fill rows of probabilities; the first valid[row mod len(valid)] scores of a row count, the rest get 0."""
    length = x.shape[1]
    scale = number[3]
    scores = np.empty(length, np.int64)
    powers = np.empty(length, np.int64)
    step = np.empty(1, np.int64)
    former = np.empty(1, np.int64)
    for row in range(start, stop):
        count = valid[row % len(valid)]
        values, result = x[row], out[row]
        for i in range(count):
            scores[i] = np.int64(rounded(np.float64(values[i]), number) * scale)
        total, highest = np.int64(0), scores[0]
        for first in range(0, count, block):
            last = min(first + block, count)
            risen = highest
            for i in range(first, last):
                risen = max(risen, scores[i])
            if risen > highest and first > 0:
                former[0] = highest
                rescale = exponentials(former, 0, 1, risen, constant, places, table, argument, fraction, step)
                total = shifted(total * rescale, fraction, table[3])
            highest = risen
            total += exponentials(scores, first, last, highest, constant, places, table, argument, fraction, powers)
        if block < count:
            exponentials(scores, 0, count, highest, constant, places, table, argument, fraction, powers)
        y, k = reciprocal_of(newton, total)
        unit = power_of_two(-newton[5] - k)
        for i in range(count):
            result[i] = rounded(np.float64(powers[i] * y) * unit, output)
        for i in range(count, length):
            result[i] = 0


@njit(forceinline=True)
def tree(totals, accumulate):
    half = len(totals) // 2
    while half:
        for j in range(half):
            totals[j] = rounded(totals[j] + totals[j + half], accumulate)
        half //= 2
    return totals[0]


@njit(cache=True, nogil=True)
def float_norm(
    start, stop, x, gain, bias, number, accumulate, inverse, eps, centred, lanes, newton, middle, output, out
):  # fmt: skip
    length = x.shape[1]
    values, totals = np.empty(length), np.empty(lanes)
    for row in range(start, stop):
        for i in range(length):
            values[i] = rounded(np.float64(x[row, i]), number)
        if centred:
            totals[:] = 0
            for first in range(0, length, lanes):
                for j in range(min(lanes, length - first)):
                    totals[j] = rounded(odd_sum(totals[j], values[first + j]), accumulate)
            mean = rounded(tree(totals, accumulate) * inverse, accumulate)
            for i in range(length):
                values[i] = rounded(odd_sum(values[i], -mean), accumulate)
        totals[:] = 0
        for first in range(0, length, lanes):
            for j in range(min(lanes, length - first)):
                square = rounded(values[first + j] * values[first + j], accumulate)
                totals[j] = rounded(totals[j] + square, accumulate)
        variance = rounded(rounded(tree(totals, accumulate) * inverse, accumulate) + eps, accumulate)
        root = 0.0
        if variance > 0:
            bits = bits_of(variance)
            y, e = root_of(newton, (bits & 0xFFFFFFFFFFFFF) | (1 << 52), (bits >> 52) - 1075)
            root = np.float64(y) * power_of_two(e)
        scaled(values, root, gain, bias, middle, output, out[row])


@njit(cache=True, nogil=True)
def fixed_norm(start, stop, x, gain, bias, number, c, places, eps, exponent, centred, newton, middle, output, out):
    """Args: c / 2**places is 1 / length; `exponent` is that of the mean of squares, eps included."""
    length = x.shape[1]
    rounding, scale, inverse = number[0], number[3], number[4]
    units, values = np.empty(length, np.int64), np.empty(length)
    for row in range(start, stop):
        total = np.int64(0)
        for i in range(length):
            units[i] = np.int64(rounded(np.float64(x[row, i]), number) * scale)
            total += units[i]
        if centred:
            mean = min(max(shifted(total * c, places, rounding), np.int64(number[5])), np.int64(number[6]))
            for i in range(length):
                units[i] -= mean
        square = np.int64(0)
        for i in range(length):
            square += units[i] * units[i]
            values[i] = units[i] * inverse
        root, variance = 0.0, square * c + eps
        if variance > 0:
            y, e = root_of(newton, variance, exponent)
            root = np.float64(y) * power_of_two(e)
        scaled(values, root, gain, bias, middle, output, out[row])


@njit(forceinline=True)
def scaled(values, root, gain, bias, middle, output, result):
    for i in range(len(values)):
        y = rounded(rounded(values[i] * root, middle) * gain[i], output)
        if len(bias):
            y = rounded(odd_sum(y, bias[i]), output)
        result[i] = y + 0.0


@njit(cache=True, nogil=True)
def rope(start, stop, x, cosine, sine, number, exact, product, output, out):
    """Rotate rows (position = row mod len(cosine)) of two halves; `exact` keeps all bits of the products."""
    half = x.shape[1] // 2
    for row in range(start, stop):
        c, s = cosine[row % len(cosine)], sine[row % len(cosine)]
        for j in range(half):
            a = rounded(np.float64(x[row, j]), number)
            b = rounded(np.float64(x[row, j + half]), number)
            ac, bs, bc, as_ = a * c[j], b * s[j], b * c[j], a * s[j]
            if not exact:
                ac, bs = rounded(ac, product), rounded(bs, product)
                bc, as_ = rounded(bc, product), rounded(as_, product)
            out[row, j] = rounded(odd_sum(ac, -bs), output) + 0.0
            out[row, j + half] = rounded(odd_sum(bc, as_), output) + 0.0


@njit(cache=True, nogil=True)
def activate(start, stop, x, number, table, argument, argument_scale, fraction, output, out):
    one, step = np.int64(1) << fraction, power_of_two(-fraction)
    limit = np.float64(np.int64(1) << argument)
    coefficients, entries, rest, rounding = table
    for i in range(start, stop):
        value = rounded(np.float64(x[i]), number)
        steps = min(abs(value) * argument_scale, limit)
        if rounding == FLOOR:
            steps = np.floor(steps)
        elif rounding == HALF_UP:
            steps = np.floor(steps + 0.5)
        else:
            steps = np.rint(steps)
        tail = np.int64(0)
        if steps < limit:
            tail = lookup(coefficients, entries, rest, rounding, np.int64(steps))
        gate = tail if value < 0 else one - tail
        out[i] = rounded(value * (np.float64(gate) * step), output) + 0.0


@njit(cache=True, nogil=True)
def relu(start, stop, x, number, output, out):
    for i in range(start, stop):
        out[i] = rounded(max(rounded(np.float64(x[i]), number), 0.0), output) + 0.0


@njit(cache=True, nogil=True)
def rounds(start, stop, x, number, out):
    for i in range(start, stop):
        out[i] = rounded(np.float64(x[i]), number) + 0.0


@njit(cache=True, nogil=True)
def add(start, stop, x, y, left, right, output, out):
    for i in range(start, stop):
        total = odd_sum(rounded(np.float64(x[i]), left), rounded(np.float64(y[i]), right))
        out[i] = rounded(total, output) + 0.0


@njit(cache=True, nogil=True)
def multiply(start, stop, x, y, left, right, output, out):
    for i in range(start, stop):
        out[i] = rounded(rounded(np.float64(x[i]), left) * rounded(np.float64(y[i]), right), output) + 0.0


@njit(cache=True, nogil=True)
def encode(start, stop, x, number, multiplier, output, out):
    for i in range(start, stop):
        out[i] = np.int64(rounded(rounded(np.float64(x[i]), number) * multiplier, output))
