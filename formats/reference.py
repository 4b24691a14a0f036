"""The scalar reference of every encoder: exact fractions, one value at a time, as the standards say it."""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction
from functools import lru_cache

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat, check_overflow_policy, prefer_upper_on_tie
from macloom.formats.elements.integer import IntFormat
from macloom.formats.policy import NO_GENERATOR, NanPolicy, Overflow, Rounding, ZeroPolicy


def encode_reference(
    element: ElementFormat,
    x: float,
    rounding: Rounding | None = None,
    overflow: Overflow = Overflow.SATURATE,
    *,
    nan: NanPolicy = NanPolicy.PROPAGATE,
    zero: ZeroPolicy = ZeroPolicy.KEEP,
    uniform: Fraction | None = None,
) -> int:
    """Return the code of one float `x`; the specification that the fast encoders must equal.

    `rounding` is the format's own unless given. `uniform` is the draw of stochastic rounding, in [0, 1).

    Raises:
        MacloomError: as `ElementFormat.encode`.
    """
    rounding = rounding or element.default_rounding
    if overflow is Overflow.WRAP and isinstance(element, IntFormat):
        return _wrapped(element, x, rounding, uniform)
    check_overflow_policy(element, overflow)
    if rounding is Rounding.STOCHASTIC and overflow is not Overflow.SATURATE:
        raise MacloomError(f"overflow: stochastic rounding saturates; {overflow.value!r} is not defined for it")
    if math.isnan(x):
        if nan is NanPolicy.ERROR:
            raise MacloomError(f"format {element.name!r}: the input holds NaN, which the policy nan=error refuses")
        if element.nan_code is None:
            raise MacloomError(f"format {element.name!r}: the input holds NaN, which the format cannot store")
        return element.nan_code
    code = _encode(element, x, rounding, overflow, uniform)
    if zero is ZeroPolicy.DROP and code == element.negative_zero_code:
        values, codes = _encodable(element)
        return codes[bisect_left(values, 0.0)]
    return code


def _encode(element: ElementFormat, x: float, rounding: Rounding, overflow: Overflow, uniform: Fraction | None) -> int:
    values, codes = _encodable(element)
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
    if rounding is Rounding.STOCHASTIC:
        up = _drawn_up(Fraction(x), Fraction(values[low]), Fraction(values[high]), uniform)
    else:
        up = _goes_up(element, Fraction(x), low, values, codes, rounding)
    index = high if up else low
    if values[index] == 0 and x < 0 and element.negative_zero_code is not None:
        return element.negative_zero_code
    return codes[index]


@lru_cache(maxsize=64)
def _encodable(element: ElementFormat) -> tuple[list[float], list[int]]:
    values, codes = element.encodable
    return values.tolist(), codes.tolist()


def _goes_up(
    element: ElementFormat, x: Fraction, low: int, values: list[float], codes: list[int], rounding: Rounding
) -> bool:
    lower, upper = Fraction(values[low]), Fraction(values[low + 1])
    point = element.decision(codes[low], codes[low + 1])
    if point is None:
        point = (lower + upper) / 2
    if lower < 0 < upper:  # a format without zero: the point itself is positive
        return x >= point
    match rounding:
        case Rounding.TOWARD_ZERO:
            return x < 0
        case Rounding.TO_ODD:  # what a tie avoids
            return not prefer_upper_on_tie(values[low], values[low + 1], codes[low], codes[low + 1])
    if x != point:
        return x > point
    if rounding is Rounding.NEAREST_AWAY:
        return x > 0
    return element.tie_goes_up(codes[low], codes[low + 1])


def _drawn_up(x: Fraction, lower: Fraction, upper: Fraction, uniform: Fraction | None) -> bool:
    """Say whether stochastic rounding, which works on magnitudes, takes the upper neighbour."""
    if uniform is None:
        raise MacloomError(NO_GENERATOR)
    if x >= 0:
        return uniform < (x - lower) / (upper - lower)
    return not uniform < (upper - x) / (upper - lower)


def _wrapped(element: IntFormat, x: float, rounding: Rounding, uniform: Fraction | None) -> int:
    """Round to an integer without bounds, keep its low bits."""
    if not math.isfinite(x):
        raise MacloomError(f"format {element.name!r}: wrapping needs finite input; clean it or use overflow=saturate")
    magnitude = abs(Fraction(x)) * 2**element.fraction_bits
    floor = math.floor(magnitude)
    rest = magnitude - floor
    match rounding:
        case Rounding.NEAREST_EVEN:
            rounded = round(magnitude)
        case Rounding.NEAREST_AWAY:
            rounded = floor + (rest >= Fraction(1, 2))
        case Rounding.TOWARD_ZERO:
            rounded = floor
        case Rounding.TO_ODD:
            rounded = floor + (rest > 0 and floor % 2 == 0)
        case Rounding.STOCHASTIC:
            rounded = floor + _drawn_up(magnitude, Fraction(floor), Fraction(floor + 1), uniform)
    return (rounded if x >= 0 else -rounded) % (1 << element.width)


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
        return element.values.tolist().index(wanted)
    assert element.nan_code is not None
    return element.nan_code
