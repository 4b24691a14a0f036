"""Tables of polynomials: the one device from which every function of a vector unit is made."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise

from macloom.errors import MacloomError, unknown
from macloom.formats.vector.functions import FUNCTIONS
from macloom.formats.vector.number import Shift, require_integer, require_rounding


@dataclass(frozen=True, kw_only=True)
class Table:
    """A function of x in [0, 1) as polynomials on 2**index_bits equal segments.

    Degree 0 holds the value at the middle of a segment, 1 the chord between its ends, 2 the parabola
    through ends and middle. Horner's scheme runs on integers; each product is shifted back at once.

    Attributes:
        argument: fraction bits of x.
        fraction: fraction bits of coefficients and result.
        rounding: of the shift after each product.

    >>> half_power = Table(index_bits=4, degree=1, argument=12, fraction=16)
    >>> half_power.coefficients("half_power")[0][:2], half_power.coefficients("half_power")[1][:2]
    ((65536, 62757), (-2779, -2660))
    """

    index_bits: int
    degree: int
    argument: int
    fraction: int
    rounding: Shift = Shift.HALF_UP

    def __post_init__(self) -> None:
        require_integer("table.argument", self.argument, 1, 31)
        require_integer("table.index_bits", self.index_bits, 0, min(self.argument, 14))
        require_integer("table.degree", self.degree, 0, 2)
        require_integer("table.fraction", self.fraction, 2, 30)
        require_rounding("table.rounding", self.rounding)

    @property
    def entries(self) -> int:
        return 1 << self.index_bits

    @property
    def stored_bits(self) -> int:
        """Bits of the coefficients: an upper bound that counts every one with `fraction` + 1 bits."""
        return self.entries * (self.degree + 1) * (self.fraction + 1)

    def coefficients(self, function: str, reach: int = 1) -> tuple[tuple[int, ...], ...]:
        """Return the coefficients of a named function of reach * x: a tuple per degree, a number per segment."""
        if function not in FUNCTIONS:
            raise unknown("table: function", function, FUNCTIONS)
        return _coefficients(self.index_bits, self.degree, self.fraction, function, reach)


Coefficients = tuple[tuple[int, ...], ...]


@lru_cache(maxsize=64)
def _coefficients(index_bits: int, degree: int, fraction: int, function: str, reach: int) -> Coefficients:
    f, halves = FUNCTIONS[function], 2 << index_bits

    def at(half: int) -> int:
        return f(Fraction(reach * half, halves), fraction)

    if degree == 0:
        return (tuple(at(h) for h in range(1, halves, 2)),)
    ends = [at(h) for h in range(0, halves + 1, 2)]
    constant = tuple(ends[:-1])
    if degree == 1:
        return constant, tuple(b - a for a, b in pairwise(ends))
    middles = [at(h) for h in range(1, halves, 2)]
    square = tuple(2 * a - 4 * m + 2 * b for a, m, b in zip(ends, middles, ends[1:], strict=False))
    linear = tuple(b - a - s for a, b, s in zip(ends, ends[1:], square, strict=False))
    return constant, linear, square


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """2**-u for u >= 0: a table for the fraction of u, a shift for its whole part.

    The result has the table's fraction bits; the shift rounds as the table does.
    """

    table: Table

    @cached_property
    def coefficients(self) -> tuple[tuple[int, ...], ...]:
        return self.table.coefficients("half_power")


@dataclass(frozen=True, kw_only=True)
class Newton:
    """A table that starts, and iterations that refine, a reciprocal or a reciprocal square root.

    The operand is shifted until its leading one has `fraction` bits below it (bits beyond are cut off),
    for the root by an even number of places. An iteration of the reciprocal is y * (2 - m * y), of the
    root y * (3 - m * y * y) / 2; every product is shifted back to `fraction` bits at once.

    Attributes:
        table: its argument is the operand below the leading one, for the root preceded by one bit: whether
            that is worth two instead of one.
        fraction: fraction bits of y, which is at most 1.
    """

    table: Table
    iterations: int
    fraction: int
    rounding: Shift = Shift.HALF_UP

    def __post_init__(self) -> None:
        require_integer("newton.iterations", self.iterations, 0, 4)
        require_integer("newton.fraction", self.fraction, max(2, self.table.fraction), 28)
        require_rounding("newton.rounding", self.rounding)


@dataclass(frozen=True, kw_only=True)
class Reciprocal(Newton):
    """1 / m for m in [1, 2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table.argument != self.fraction:
            raise MacloomError(
                f"reciprocal.table.argument: must be reciprocal.fraction, {self.fraction}, not {self.table.argument}"
            )

    @cached_property
    def coefficients(self) -> tuple[tuple[int, ...], ...]:
        return self.table.coefficients("reciprocal")


@dataclass(frozen=True, kw_only=True)
class ReciprocalRoot(Newton):
    """1 / sqrt(m) for m in [1, 4)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table.argument != self.fraction + 1:
            raise MacloomError(
                f"root.table.argument: must be root.fraction + 1, {self.fraction + 1}, not {self.table.argument}"
            )

    @cached_property
    def coefficients(self) -> tuple[tuple[int, ...], ...]:
        return self.table.coefficients("reciprocal_root")
