"""Posits: floats whose exponent field grows with the distance from one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from macloom.errors import MacloomError
from macloom.formats.element import MAX_TABLE_BITS, ElementFormat
from macloom.formats.families import POSIT
from macloom.formats.grammar import CATALOG, Entry
from macloom.formats.tensors.statistic import Statistic, statistic_scaled

LARGEST_EXPONENT = 126  # every value and its reciprocal is a normal float32


def posit_pair(code: int, n: int, es: int) -> tuple[int, int]:
    """Return (e, i) of the n-bit posit `code` that is neither zero nor NaR (Posit Standard 2022, section 3).

    A negative posit is the two's complement of its magnitude. After the sign comes a run of equal
    bits, the regime, closed by the other bit; then `es` exponent bits, of which those beyond the end
    are 0; the rest is the fraction.
    """
    negative = code >> (n - 1)
    body = (1 << n) - code if negative else code
    ones = body >> (n - 2)  # the first bit of the regime
    run = n - 1 - ((body ^ ((1 << (n - 1)) - 1)) if ones else body).bit_length()
    r = run - 1 if ones else -run
    rest = max(n - 2 - run, 0)  # bits behind the regime
    fraction_bits = max(rest - es, 0)
    e = (body & ((1 << rest) - 1)) >> fraction_bits << max(es - rest, 0)
    significand = 1 << fraction_bits | body & ((1 << fraction_bits) - 1)
    return (r << es) + e - fraction_bits, -significand if negative else significand


@dataclass(frozen=True, kw_only=True)
class Posit(ElementFormat):
    """Posit of `width` bits with `exponent_bits` (es) exponent bits (Posit Standard 2022 has es = 2).

    The code with the sign bit alone is NaR and takes NaN. Codes compare as two's complement integers.
    To nearest, values round on their unbounded bit string, ties to the even code: the decision point
    between two posits is the posit one bit longer between them. Nothing rounds to zero or NaR:
    smaller magnitudes than the smallest take it, larger ones the largest, infinities included.

    >>> p = Posit(width=8, exponent_bits=2)
    >>> p.value(0x40), p.value(0x41), p.max_value == 2.0**24, p.quire_bits
    (1.0, 1.125, True, 128)
    """

    width: int
    exponent_bits: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.width, int) or not 3 <= self.width <= MAX_TABLE_BITS:
            raise MacloomError(f"posit.width: must be an integer from 3 to {MAX_TABLE_BITS}, not {self.width!r}")
        if not isinstance(self.exponent_bits, int) or self.exponent_bits < 0:
            raise MacloomError(f"posit.exponent_bits: must be an integer of at least 0, not {self.exponent_bits!r}")
        if (self.width - 2) << self.exponent_bits > LARGEST_EXPONENT:
            raise MacloomError(
                f"posit.exponent_bits: must keep the values of {self.width} bits within 2**{LARGEST_EXPONENT}, "
                f"which {self.exponent_bits} do not"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"posit{self.width}_{self.exponent_bits}"

    @property
    def bits(self) -> int:
        return self.width

    @property
    def nan_code(self) -> int:
        return 1 << (self.width - 1)

    @property
    def quire_bits(self) -> int:
        """Width of the exact accumulator: all products, a sign and 31 carry bits; 16 n in the 2022 standard."""
        return (4 * (self.width - 2) << self.exponent_bits) + 32

    def pair(self, code: int) -> tuple[int, int]:
        return posit_pair(code, self.width, self.exponent_bits) if code else (0, 0)

    def value(self, code: int) -> float:
        if code == self.nan_code:
            return math.nan
        e, i = self.pair(code)
        return math.ldexp(i, e)

    def decision(self, lower: int, upper: int) -> float:
        if not lower or not upper:
            return 0.0  # a tie goes to the even code, so that zero stays zero
        e, i = posit_pair(2 * lower + 1, self.width + 1, self.exponent_bits)
        return math.ldexp(i, e)


def _fill() -> None:
    for width, es in ((8, 0), (8, 1), (8, 2), (16, 1), (16, 2)):
        element = Posit(width=width, exponent_bits=es)
        CATALOG.add(
            element.name,
            Entry(
                family=POSIT,
                summary=f"{width}-bit posit, {es} exponent bits; the root mean square is scaled to 1",
                source="Posit Standard 2022 (es = 2); Gustafson and Yonemoto 2017",
                build=statistic_scaled(element, Statistic.RMS, Statistic.MEAN, Statistic.ABSMAX),
                keys=("rule",),
                words=True,
            ),
        )


_fill()
