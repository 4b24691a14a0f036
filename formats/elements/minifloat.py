"""Floating-point formats of up to 16 bits, and float32: any exponent and mantissa width, bias and specials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import ClassVar

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.element import MAX_TABLE_BITS, ElementFormat, OperandClass


class Specials(StrEnum):
    """Which codes are not finite numbers.

    NONE: all codes are finite (OCP FP4 and FP6). IEEE: the top exponent holds infinities and NaN
    (FP16, BF16, OCP E5M2). FN: only the all-ones codes are NaN (OCP E4M3, E8M0). FNUZ: the code of
    -0 is the only NaN.
    """

    NONE = "none"
    IEEE = "ieee"
    FN = "fn"
    FNUZ = "fnuz"


@dataclass(frozen=True, kw_only=True)
class FloatFormat(ElementFormat):
    """Sign, `exponent_bits` and `mantissa_bits`, with subnormals (IEEE 754-2019, 3.4; OCP OFP8, MX v1.0).

    Without `zero` the all-zero exponent is an ordinary binade (E8M0, which is also unsigned).

    >>> e4m3 = FloatFormat(label="fp8_e4m3", exponent_bits=4, mantissa_bits=3, specials=Specials.FN)
    >>> e4m3.bias, e4m3.max_value, e4m3.value(0x01)
    (7, 448.0, 0.001953125)
    """

    label: str
    exponent_bits: int
    mantissa_bits: int
    bias: int | None = None  # type: ignore[assignment]
    specials: Specials = Specials.NONE
    signed: bool = True
    zero: bool = True
    # Exponent and mantissa widths beyond 16 bits in all that there are, without a table.
    wide: ClassVar[tuple[tuple[int, int], ...]] = ((8, 23),)

    def __post_init__(self) -> None:
        if not 1 <= self.exponent_bits <= 8:
            raise MacloomError(f"float.exponent_bits: must be from 1 to 8, not {self.exponent_bits!r}")
        if not 0 <= self.mantissa_bits <= 23:
            raise MacloomError(f"float.mantissa_bits: must be from 0 to 23, not {self.mantissa_bits!r}")
        if self.bias is None:
            object.__setattr__(self, "bias", (1 << (self.exponent_bits - 1)) - 1)
        if self.bits > MAX_TABLE_BITS and (self.exponent_bits, self.mantissa_bits) not in self.wide:
            raise MacloomError(
                f"float {self.label!r}: must have at most {MAX_TABLE_BITS} bits or be float32 (E8M23), not {self.bits}"
            )
        # Tensors are float32; E8 without infinities has the one binade beyond it.
        if self.min_exponent - self.mantissa_bits * self.zero < -149 or self._top_exponent > 128:
            raise MacloomError(
                f"float.bias: must keep the values of E{self.exponent_bits}M{self.mantissa_bits} "
                f"from 2**-149 to 2**129, which {self.bias!r} does not"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.label

    @property
    def bits(self) -> int:
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value."""
        return (1 if self.zero else 0) - self._bias

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value (emax of the standards)."""
        return math.frexp(self.max_value)[1] - 1

    @property
    def _top_exponent(self) -> int:
        """Exponent of the largest finite value, from the fields."""
        ends_early = self.specials is Specials.IEEE or (self.specials is Specials.FN and self.mantissa_bits == 0)
        return (1 << self.exponent_bits) - 1 - ends_early - self._bias

    @property
    def _bias(self) -> int:
        assert self.bias is not None
        return self.bias

    @cached_property
    def operand(self) -> OperandClass:
        return OperandClass(
            significand_bits=self.mantissa_bits + 2,
            exponent_bits=(self.max_exponent - self.min_exponent).bit_length(),
            integer_bits=1 + self.largest_unit.bit_length(),
        )

    @cached_property
    def units(self) -> tuple[np.ndarray, int, int]:
        if self.bits <= MAX_TABLE_BITS:
            return super().units
        return np.empty(0, np.float32), 0, self.largest_unit

    @property
    def steps(self) -> tuple[int, int] | None:
        return (self.mantissa_bits, self.min_exponent) if self.zero else None

    def _fields(self, code: int) -> tuple[int, int, int]:
        """Split a code into sign, stored exponent p and mantissa field f."""
        w, t = self.exponent_bits, self.mantissa_bits
        return code >> (w + t) & 1, code >> t & ((1 << w) - 1), code & ((1 << t) - 1)

    def value(self, code: int) -> float:
        s, p, f = self._fields(code)
        w, t = self.exponent_bits, self.mantissa_bits
        top = (1 << w) - 1
        if self.specials is Specials.IEEE and p == top:
            return math.nan if f else (-math.inf if s else math.inf)
        if self.specials is Specials.FN and p == top and f == (1 << t) - 1:
            return math.nan
        if self.specials is Specials.FNUZ and s and not p and not f:
            return math.nan
        e, i = self.pair(code)
        return math.copysign(math.ldexp(abs(i), e), -1.0 if s else 1.0)

    @cached_property
    def values(self) -> np.ndarray:
        """Exact value of every code, as `value` gives it, all at once: FP16 and BF16 have 65536."""
        if self.bits > MAX_TABLE_BITS:
            return super().values
        w, t, top = self.exponent_bits, self.mantissa_bits, (1 << self.exponent_bits) - 1
        codes = np.arange(1 << self.bits)
        s, p, f = codes >> (w + t) & 1, codes >> t & top, codes & ((1 << t) - 1)
        significands = np.where((p == 0) & self.zero, f, (1 << t) + f)
        table = np.ldexp(significands.astype(np.float64), np.maximum(p, int(self.zero)) - self._bias - t)
        match self.specials:
            case Specials.IEEE:
                table = np.where(p == top, np.where(f != 0, np.nan, np.inf), table)
            case Specials.FN:
                table = np.where((p == top) & (f == (1 << t) - 1), np.nan, table)
            case Specials.FNUZ:
                table = np.where((s == 1) & (p == 0) & (f == 0), np.nan, table)
        table = np.where(np.isnan(table), np.nan, np.where(s == 1, -table, table))
        table.flags.writeable = False
        return table

    def pair(self, code: int) -> tuple[int, int]:
        s, p, f = self._fields(code)
        t = self.mantissa_bits
        subnormal = self.zero and p == 0
        significand = f if subnormal else (1 << t) + f
        return max(p, int(self.zero)) - self._bias - t, -significand if s else significand

    @property
    def nan_code(self) -> int | None:
        w, t = self.exponent_bits, self.mantissa_bits
        match self.specials:
            case Specials.IEEE:  # quiet NaN: the leading mantissa bit is set
                return ((1 << w) - 1) << t | 1 << (t - 1) if t else None
            case Specials.FN:
                return (1 << (w + t)) - 1
            case Specials.FNUZ:
                return 1 << (w + t)
            case _:
                return None

    @property
    def infinity(self) -> bool:
        return self.specials is Specials.IEEE

    @property
    def max_value(self) -> float:  # type: ignore[override]
        w, t = self.exponent_bits, self.mantissa_bits
        p, f = (1 << w) - 1, (1 << t) - 1
        if self.specials is Specials.IEEE or (self.specials is Specials.FN and t == 0):
            p -= 1
        elif self.specials is Specials.FN:
            f -= 1
        return math.ldexp((1 << t) + f, p - self._bias - t)

    @property
    def min_value(self) -> float:  # type: ignore[override]
        if self.signed:
            return -self.max_value
        return 0.0 if self.zero else math.ldexp(1, self.min_exponent)

    @property
    def unit_exponent(self) -> int:  # type: ignore[override]
        return self.min_exponent - self.mantissa_bits

    @property
    def overflow_value(self) -> float | None:
        return self.max_value + math.ldexp(1, self.max_exponent - self.mantissa_bits)


FP32 = FloatFormat(label="fp32", exponent_bits=8, mantissa_bits=23, specials=Specials.IEEE)
FP16 = FloatFormat(label="fp16", exponent_bits=5, mantissa_bits=10, specials=Specials.IEEE)
BF16 = FloatFormat(label="bf16", exponent_bits=8, mantissa_bits=7, specials=Specials.IEEE)
