"""Integers and fixed-point numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from macloom.errors import MacloomError
from macloom.formats.element import MAX_TABLE_BITS, ElementFormat, OperandClass


class Range(StrEnum):
    """SYMMETRIC leaves the most negative code unused. FULL writes it, and puts the largest magnitude on 2**(b-1)."""

    SYMMETRIC = "symmetric"
    FULL = "full"


@dataclass(frozen=True, kw_only=True)
class IntFormat(ElementFormat):
    """Two's complement integers, or unsigned ones, in steps of 2**-fraction_bits.

    With `symmetric` the encoder leaves the most negative code unused, so that the range is odd
    symmetric; the decoder still knows it.

    >>> IntFormat(width=4).max_value, IntFormat(width=4).min_value, IntFormat(width=4).value(0b1000)
    (7.0, -7.0, -8.0)
    """

    width: int
    signed: bool = True
    symmetric: bool = True
    fraction_bits: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.width, int) or not 2 <= self.width <= MAX_TABLE_BITS:
            raise MacloomError(f"int.width: must be an integer from 2 to {MAX_TABLE_BITS}, not {self.width!r}")
        if not isinstance(self.fraction_bits, int) or not 0 <= self.fraction_bits <= 64:
            raise MacloomError(f"int.fraction_bits: must be an integer from 0 to 64, not {self.fraction_bits!r}")

    @property
    def name(self) -> str:  # type: ignore[override]
        kind = "int" if self.signed else "uint"
        return f"{kind}{self.width}" + (f"f{self.fraction_bits}" if self.fraction_bits else "")

    @property
    def bits(self) -> int:
        return self.width

    def integer(self, code: int) -> int:
        """Return the two's complement (or unsigned) integer of `code`."""
        return code - (1 << self.width) if self.signed and code >> (self.width - 1) else code

    def value(self, code: int) -> float:
        return self.integer(code) * 2.0**-self.fraction_bits

    def pair(self, code: int) -> tuple[int, int]:
        return -self.fraction_bits, self.integer(code)

    def encodes(self, code: int) -> bool:
        return not (self.signed and self.symmetric and code == 1 << (self.width - 1))

    @property
    def max_value(self) -> float:  # type: ignore[override]
        return ((1 << (self.width - self.signed)) - 1) * 2.0**-self.fraction_bits

    @property
    def min_value(self) -> float:  # type: ignore[override]
        if not self.signed:
            return 0.0
        return (int(self.symmetric) - (1 << (self.width - 1))) * 2.0**-self.fraction_bits

    @property
    def unit_exponent(self) -> int:  # type: ignore[override]
        return -self.fraction_bits

    @cached_property
    def operand(self) -> OperandClass:
        return OperandClass(
            significand_bits=self.width + (not self.signed),
            exponent_bits=0,
            integer_bits=1 + self.largest_unit.bit_length(),
        )

    @property
    def steps(self) -> tuple[int, int] | None:
        return self.width, self.width - self.fraction_bits

    @property
    def decoder_bits(self) -> int:
        return 0
