"""Tangent quantizers of [0, 1] (TanQ): levels that lie denser towards one end or both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from enum import StrEnum
from fractions import Fraction
from functools import cached_property

from macloom.errors import MacloomError
from macloom.formats.elements.decoded import DecodedFormat, Table, check_table, choose_table, table_option
from macloom.formats.families import TAPERED
from macloom.formats.grammar import CATALOG, Entry, Options, as_choice, choice_option, scaled
from macloom.formats.tensor import TensorFormat

DIGITS = 50


class Sides(StrEnum):
    """ONE: levels are dense near 1. TWO: near 0 and near 1."""

    ONE = "one"
    TWO = "two"


def _sine_cosine(x: Decimal) -> tuple[Decimal, Decimal]:
    """Return the sine and cosine of x by their power series, to the precision of the context."""
    sine = cosine = Decimal(0)
    term, n = Decimal(1), 0
    while abs(term) > Decimal(10) ** -(DIGITS + 8):
        sign = -1 if n % 4 >= 2 else 1
        if n % 2:
            sine += sign * term
        else:
            cosine += sign * term
        n += 1
        term *= x / n
    return sine, cosine


def _arctangent(t: Decimal) -> Decimal:
    """Return the arctangent of t by Newton's method on tan(y) = t."""
    y = Decimal(math.atan(t))
    for _ in range(3):  # 16 digits double to more than DIGITS
        sine, cosine = _sine_cosine(y)
        y -= cosine * (sine - t * cosine)
    return y


@dataclass(frozen=True, kw_only=True)
class TanFormat(DecodedFormat):
    """2**width levels on [0, 1], evenly spaced after a tangent; codes ascend with the values.

    With n = 2**width - 1, ONE side: code q is the integer nearest to n tan(a x) / tan(a) and means
    atan(q tan(a) / n) / a. TWO sides, with u = 2 x - 1: q is nearest to n (tan(a u) / tan(a) + 1) / 2 and
    means (1 + atan((2 q / n - 1) tan(a)) / a) / 2. A small `a` makes both uniform. Both are
    reconstructions: the paper (DopQ-ViT, arXiv 2408.03291) says that TanQ uses the tangent and is finer
    near 1, one survey that it is finer at both ends, and the equation was not available.

    >>> [round(TanFormat(width=4).value(code), 4) for code in (0, 1, 2, 14, 15)]
    [0.0, 0.1035, 0.2047, 0.9682, 1.0]
    """

    width: int
    a: float = 1.0
    sides: Sides = Sides.ONE
    table: Table | None = None  # type: ignore[override]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sides", as_choice("tan.sides", self.sides, Sides))
        if not isinstance(self.width, int) or not 1 <= self.width <= 8:
            raise MacloomError(f"tan.width: must be an integer from 1 to 8, not {self.width!r}")
        if not 2.0**-10 <= self.a < math.pi / 2 - 2.0**-10:
            raise MacloomError(f"tan.a: must be a number from 2**-10 to pi / 2 - 2**-10, not {self.a!r}")
        if self.table is None:
            object.__setattr__(self, "table", choose_table(self))
        assert self.table is not None
        check_table("tan.table", self, self.table)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"tan{self.width}{'_two' if self.sides is Sides.TWO else ''}"

    @property
    def bits(self) -> int:
        return self.width

    @cached_property
    def _half_steps(self) -> tuple[Decimal, ...]:
        """The inverse of the quantizer at q = 0, 1/2, 1, ..., n."""
        n = (1 << self.width) - 1
        with localcontext() as context:
            context.prec = DIGITS + 10
            a = Decimal(self.a)
            sine, cosine = _sine_cosine(a)
            points = []
            for k in range(2 * n + 1):
                share = Decimal(k) / (2 * n)
                if self.sides is Sides.ONE:
                    points.append(_arctangent(share * sine / cosine) / a)
                else:
                    points.append((1 + _arctangent((2 * share - 1) * sine / cosine) / a) / 2)
            return tuple(round(p, DIGITS) for p in points)

    def value(self, code: int) -> float:
        return float(self._half_steps[2 * code])

    def decision(self, lower: int, upper: int) -> Fraction:
        return Fraction(self._half_steps[lower + upper])


def _tan4(name: str, options: Options) -> TensorFormat:
    text = options.get("a", "1")
    try:
        a = float(text)
    except ValueError:
        raise MacloomError(f"format option a: must be a number, not {text!r}") from None
    sides = choice_option(options, "sides", Sides.ONE, Sides.TWO)
    return scaled(TanFormat(width=4, a=a, sides=sides, table=table_option(options)))(name, options)


CATALOG.add(
    "tan4",
    Entry(
        family=TAPERED,
        summary="16 levels of [0, 1], evenly spaced after a tangent: dense near 1, or at both ends",
        source="DopQ-ViT, arXiv 2408.03291; the equation is a reconstruction",
        build=_tan4,
        keys=("sides", "a", "table"),
        words=True,
    ),
)
