"""flint: the float-integer hybrid of ANT."""

from __future__ import annotations

import math
from dataclasses import dataclass

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat


def flint_pair(code: int, width: int) -> tuple[int, int]:
    """Return (e, i) of an unsigned flint code (Guo et al., ANT, MICRO 2022).

    A leading 0 makes the code an integer. After a leading 1 the position of the first one gives the
    exponent and the bits behind it the mantissa; a 1 followed by zeros only is the largest value.
    """
    rest = width - 1
    if not code >> rest:
        return (0, code)
    field = code & ((1 << rest) - 1)
    if field == 0:
        return (2 * rest, 1)
    leading_zeros = rest - field.bit_length()
    fraction_bits = rest - 1 - leading_zeros
    return (rest + leading_zeros - fraction_bits, field)


@dataclass(frozen=True, kw_only=True)
class Flint(ElementFormat):
    """Signed flint is a sign and an unsigned flint one bit narrower; its -0 code is not used.

    >>> [Flint(width=4).value(code) for code in range(8)]
    [0.0, 1.0, 2.0, 3.0, 16.0, 8.0, 4.0, 6.0]
    """

    width: int
    signed: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.width, int) or not 3 <= self.width <= 8:
            raise MacloomError(f"flint.width: must be an integer from 3 to 8, not {self.width!r}")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{'' if self.signed else 'u'}flint{self.width}"

    @property
    def bits(self) -> int:
        return self.width

    def pair(self, code: int) -> tuple[int, int]:
        if not self.signed:
            return flint_pair(code, self.width)
        magnitude = code & ((1 << (self.width - 1)) - 1)
        e, i = flint_pair(magnitude, self.width - 1)
        return e, -i if code >> (self.width - 1) else i

    def value(self, code: int) -> float:
        if self.signed and code == 1 << (self.width - 1):
            return math.nan
        e, i = self.pair(code)
        return math.ldexp(i, e)
