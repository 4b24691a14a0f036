"""What a lane of a vector unit holds: fixed-point or small floating-point numbers, as pairs <e, i> of i * 2**e."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

from macloom.errors import MacloomError, unknown

# Products of two lane numbers, and their sums, must be exact in float64: the kernels compute there and round once.
MOST_FIXED_BITS = 36


class Shift(StrEnum):
    """How a right shift rounds: away the bits, half upwards (one adder), or half to even."""

    FLOOR = "floor"
    HALF_UP = "half_up"
    NEAREST_EVEN = "nearest_even"


def shift(value: int, places: int, rounding: Shift) -> int:
    """Return value / 2**places as an integer; negative places shift left.

    >>> [shift(v, 1, Shift.NEAREST_EVEN) for v in (-3, -1, 1, 3)]
    [-2, 0, 0, 2]
    >>> [shift(v, 1, Shift.HALF_UP) for v in (-3, -1, 1, 3)]
    [-1, 0, 1, 2]
    """
    if places <= 0:
        return value << -places
    match rounding:
        case Shift.FLOOR:
            return value >> places
        case Shift.HALF_UP:
            return (value + (1 << (places - 1))) >> places
        case Shift.NEAREST_EVEN:
            kept, half = value >> places, 1 << (places - 1)
            lost = value - (kept << places)
            return kept + (lost > half or (lost == half and kept & 1 == 1))


class Pair(NamedTuple):
    """The number i * 2**e."""

    e: int
    i: int

    @property
    def fraction(self) -> Fraction:
        return Fraction(self.i) * Fraction(2) ** self.e

    def times(self, other: Pair) -> Pair:
        """Return the exact product."""
        return Pair(self.e + other.e, self.i * other.i)

    def plus(self, other: Pair) -> Pair:
        """Return the exact sum."""
        e = min(self.e, other.e)
        return Pair(e, (self.i << (self.e - e)) + (other.i << (other.e - e)))

    def minus(self, other: Pair) -> Pair:
        """Return the exact difference."""
        return self.plus(Pair(other.e, -other.i))


def pair_of(value: float) -> Pair:
    """Return a finite float exactly.

    >>> pair_of(-0.375)
    Pair(e=-3, i=-3)
    """
    numerator, denominator = value.as_integer_ratio()
    return Pair(1 - denominator.bit_length(), numerator)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Two's complement integers of `bits` that count steps of 2**-fraction; results saturate.

    >>> grid = Fixed(bits=8, fraction=4)
    >>> grid.name, grid.round(pair_of(1.03)), grid.round(pair_of(100.0)).fraction
    ('fixed8.4', Pair(e=-4, i=16), Fraction(127, 16))
    """

    bits: int
    fraction: int
    rounding: Shift = Shift.NEAREST_EVEN

    def __post_init__(self) -> None:
        _integer("number.bits", self.bits, 2, MOST_FIXED_BITS)
        _integer("number.fraction", self.fraction, -100, 100)
        _rounding("number.rounding", self.rounding)

    @property
    def name(self) -> str:
        return f"fixed{self.bits}.{self.fraction}"

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def round(self, exact: Pair) -> Pair:
        """Return the nearest number of this kind."""
        steps = shift(exact.i, -exact.e - self.fraction, self.rounding)
        return Pair(-self.fraction, min(max(steps, self.low), self.high))


@dataclass(frozen=True, kw_only=True)
class Float:
    """IEEE 754-2019 binary numbers with subnormals, without infinities, NaN and -0: results saturate.

    Rounding is to nearest, ties to even. As in IEEE formats the highest exponent code is not used.

    >>> Float(exponent_bits=8, mantissa_bits=7).round(pair_of(1.003)).fraction
    Fraction(1, 1)
    """

    exponent_bits: int
    mantissa_bits: int

    def __post_init__(self) -> None:
        _integer("number.exponent_bits", self.exponent_bits, 2, 8)
        _integer("number.mantissa_bits", self.mantissa_bits, 1, 23)

    @property
    def name(self) -> str:
        return f"e{self.exponent_bits}m{self.mantissa_bits}"

    @property
    def emin(self) -> int:
        return 2 - (1 << (self.exponent_bits - 1))

    @property
    def largest(self) -> Pair:
        emax = (1 << (self.exponent_bits - 1)) - 1
        return Pair(emax - self.mantissa_bits, (2 << self.mantissa_bits) - 1)

    def round(self, exact: Pair) -> Pair:
        """Return the nearest number of this kind."""
        magnitude = abs(exact.i)
        if magnitude == 0:
            return Pair(0, 0)
        leading = exact.e + magnitude.bit_length() - 1
        step = max(leading, self.emin) - self.mantissa_bits
        rounded = Pair(step, shift(magnitude, step - exact.e, Shift.NEAREST_EVEN))
        if rounded.minus(self.largest).i > 0:
            rounded = self.largest
        return Pair(rounded.e, rounded.i if exact.i > 0 else -rounded.i)


Number = Fixed | Float


def _integer(path: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise MacloomError(f"{path}: must be an integer from {low} to {high}, not {value!r}")


def _rounding(path: str, value: object) -> None:
    if value not in list(Shift):
        raise unknown(path, value, [s.value for s in Shift])


require_integer, require_rounding = _integer, _rounding
