"""Adaptive biased float (abfloat): the outlier type of OliVe."""

from __future__ import annotations

import math
from dataclasses import dataclass

from macloom.errors import MacloomError
from macloom.formats.element import MAX_TABLE_BITS, ElementFormat


@dataclass(frozen=True, kw_only=True)
class AbFloat(ElementFormat):
    """Sign, exponent and mantissa with value (-1)**s * (2**m + mantissa) << (exponent + bias).

    There are no subnormals, infinities or NaN. The two codes whose exponent and mantissa fields are
    zero are not used: one is the outlier-victim identifier (Guo et al., OliVe, ISCA 2023). With
    `limit`, larger magnitudes are not used either.

    >>> [AbFloat(exponent_bits=2, mantissa_bits=1, bias=2).value(code) for code in range(1, 8)]
    [12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0]
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int
    limit: int | None = None

    def __post_init__(self) -> None:
        if not (self.exponent_bits >= 1 and self.mantissa_bits >= 0 and self.bits <= MAX_TABLE_BITS):
            raise MacloomError(
                f"abfloat: must have at least 1 exponent bit and {MAX_TABLE_BITS} bits in all, "
                f"not E{self.exponent_bits}M{self.mantissa_bits}"
            )
        if self.bias < 0:
            raise MacloomError(f"abfloat.bias: must not be negative, not {self.bias}")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"abfloat_e{self.exponent_bits}m{self.mantissa_bits}b{self.bias}"

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    def pair(self, code: int) -> tuple[int, int]:
        m = self.mantissa_bits
        magnitude = code & ((1 << (self.bits - 1)) - 1)
        significand = (1 << m) + (magnitude & ((1 << m) - 1))
        return (magnitude >> m) + self.bias, -significand if code >> (self.bits - 1) else significand

    def value(self, code: int) -> float:
        if code & ((1 << (self.bits - 1)) - 1) == 0:
            return math.nan
        e, i = self.pair(code)
        value = math.ldexp(i, e)
        return math.nan if self.limit is not None and abs(value) > self.limit else value
