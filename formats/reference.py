"""The scalar reference of every encoder: exact fractions, one value at a time, as the standards say it."""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat, check_overflow_policy
from macloom.formats.policy import Overflow, Rounding


def prefer_upper_on_tie(lower: float, upper: float, lower_code: int, upper_code: int) -> bool:
    """Say whether a tie between neighbouring values goes up: to the even code, else to the rounder value."""
    if lower_code % 2 != upper_code % 2:
        return upper_code % 2 == 0

    def trailing(value: float) -> int:
        numerator = abs(Fraction(value).numerator)
        return (numerator & -numerator).bit_length() - Fraction(value).denominator.bit_length()

    return not lower or (bool(upper) and trailing(upper) > trailing(lower))


def encode_reference(
    element: ElementFormat,
    x: float,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow = Overflow.SATURATE,
) -> int:
    """Return the code of one float `x`; the specification that the fast encoders must equal.

    Raises:
        MacloomError: as `ElementFormat.encode`.
    """
    check_overflow_policy(element, overflow)
    if math.isnan(x):
        if element.nan_code is None:
            raise MacloomError(f"format {element.name!r}: the input holds NaN, which the format cannot store")
        return element.nan_code
    values, codes = (a.tolist() for a in element.encodable)
    if x == 0 and 0.0 in values:
        negative = math.copysign(1, x) < 0 and element.negative_zero_code is not None
        return element.negative_zero_code if negative else codes[bisect_left(values, 0.0)]  # type: ignore[return-value]

    # The policy for overflow looks at the value after rounding on a grid without upper end.
    above = element.overflow_value
    if above is not None and overflow is not Overflow.SATURATE and (x > values[-1] or x < values[0] < 0):
        past = math.isinf(x) or _rounds_past(element, abs(Fraction(x)), rounding, codes[-1])
        if past:
            return _overflow_code(element, x, overflow)
    if x >= values[-1]:
        return codes[-1]
    if x <= values[0]:
        return codes[0]

    high = bisect_left(values, x)
    if values[high] == x:
        return codes[high]
    low = high - 1
    up = _goes_up(Fraction(x), low, values, codes, rounding)
    index = high if up else low
    if values[index] == 0 and x < 0 and element.negative_zero_code is not None:
        return element.negative_zero_code
    return codes[index]


def _goes_up(x: Fraction, low: int, values: list[float], codes: list[int], rounding: Rounding) -> bool:
    lower, upper = Fraction(values[low]), Fraction(values[low + 1])
    if lower < 0 < upper:  # a format without zero: the nearer sign, zero itself is positive
        return x - lower >= upper - x
    match rounding:
        case Rounding.TOWARD_ZERO:
            return x < 0
        case Rounding.TO_ODD:
            return codes[low + 1] % 2 == 1
    if x - lower != upper - x:
        return x - lower > upper - x
    if rounding is Rounding.NEAREST_AWAY:
        return x > 0
    return prefer_upper_on_tie(values[low], values[low + 1], codes[low], codes[low + 1])


def _rounds_past(element: ElementFormat, magnitude: Fraction, rounding: Rounding, top_code: int) -> bool:
    """Say whether a magnitude above the largest value rounds to the next grid point."""
    assert element.overflow_value is not None
    top, above = Fraction(element.max_value), Fraction(element.overflow_value)
    match rounding:
        case Rounding.TOWARD_ZERO:
            return magnitude >= above
        case Rounding.TO_ODD:
            return magnitude >= above or (magnitude > top and top_code % 2 == 0)
    if magnitude - top != above - magnitude:
        return magnitude - top > above - magnitude
    return rounding is Rounding.NEAREST_AWAY or top_code % 2 == 1


def _overflow_code(element: ElementFormat, x: float, overflow: Overflow) -> int:
    if overflow is Overflow.TO_INF:
        wanted = math.inf if x > 0 else -math.inf
        return next(c for c in range(1 << element.bits) if element.value(c) == wanted)
    assert element.nan_code is not None
    return element.nan_code
