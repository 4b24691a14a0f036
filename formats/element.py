"""Element formats: the rule from the code of one value to its exact value, and back.

A subclass states the scalar rule (`value` and `pair`), as its standard does. Everything else
follows from the table of all codes, which has at most 2**16 entries.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np

from macloom.errors import MacloomError, unknown
from macloom.formats.policy import NanPolicy, Overflow, Policy, Rounding, ZeroPolicy

MAX_TABLE_BITS = 16
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, kw_only=True)
class OperandClass:
    """What a processing element multiplies once the codes are decoded.

    Attributes:
        significand_bits: width of the signed significand i of the pair i * 2**e.
        exponent_bits: width of the exponent e of the pair; 0 where every value is an integer.
        integer_bits: width of a signed integer that holds every value in units of the smallest step.
    """

    significand_bits: int
    exponent_bits: int
    integer_bits: int

    def union(self, other: OperandClass) -> OperandClass:
        """Return the class of an operand that may be of either kind."""
        return OperandClass(
            significand_bits=max(self.significand_bits, other.significand_bits),
            exponent_bits=max(self.exponent_bits, other.exponent_bits),
            integer_bits=max(self.integer_bits, other.integer_bits),
        )


def prefer_upper_on_tie(lower: float, upper: float, lower_code: int, upper_code: int) -> bool:
    """Say whether a tie between neighbouring values goes up: to the even code, else to the rounder value."""
    if lower_code % 2 != upper_code % 2:
        return upper_code % 2 == 0

    def roundness(value: float) -> float:
        numerator, denominator = value.as_integer_ratio()
        return (numerator & -numerator).bit_length() - denominator.bit_length() if numerator else math.inf

    if roundness(lower) != roundness(upper):
        return roundness(upper) > roundness(lower)
    return abs(upper) < abs(lower)


def _named(kind: type[E], what: str, value: E | str) -> E:
    """Return a policy by its name."""
    try:
        return kind(value)
    except ValueError:
        raise unknown(what, str(value), [str(member) for member in kind]) from None


def whole_codes(codes: Any, what: str) -> np.ndarray:
    """Return codes, integers or the `bytes` that hold them, as an array of integers.

    Raises:
        MacloomError: they are something else; `what` names them.

    >>> whole_codes(bytes([1, 255]), "codes")
    array([  1, 255], dtype=uint8)
    """
    if isinstance(codes, bytes | bytearray):
        return np.frombuffer(codes, np.uint8)
    array = np.asarray(codes)
    if array.dtype.kind not in "uib":
        if array.size:
            raise MacloomError(f"{what} must be integers, not {array.dtype}")
        return array.astype(np.uint8)
    return array


class ElementFormat(ABC):
    """How one value is stored in `bits` bits.

    Attributes:
        name: the catalog name.
        bits: width of a code.
    """

    name: str

    @property
    @abstractmethod
    def bits(self) -> int: ...

    @abstractmethod
    def value(self, code: int) -> float:
        """Return the exact value of `code`; NaN where the code is not a number or not used."""

    @abstractmethod
    def pair(self, code: int) -> tuple[int, int]:
        """Return (e, i) with value i * 2**e for a code with a finite value."""

    def encodes(self, code: int) -> bool:
        """Say whether the encoder may produce this finite code."""
        return True

    @property
    def default_rounding(self) -> Rounding:
        """The rounding that the format's definition asks for."""
        return Rounding.NEAREST_EVEN

    def decision(self, lower: int, upper: int) -> Fraction | float | None:
        """Return where rounding to nearest passes from the code `lower` to `upper`, that of the next value.

        None means halfway between the values. Formats that round on their code or in another domain
        return their own point, exactly. An irrational point is replaced by a fraction between the two
        float64 that enclose it, which no input equals and which parts all inputs as the point does.
        """
        return None

    def tie_goes_up(self, lower: int, upper: int) -> bool:
        """Say whether an input on that point takes `upper` when ties go to even."""
        if lower % 2 != upper % 2:
            return upper % 2 == 0
        return prefer_upper_on_tie(self.value(lower), self.value(upper), lower, upper)

    @property
    def nan_code(self) -> int | None:
        """The code that the encoder gives a NaN, if the format has one."""
        return None

    @property
    def infinity(self) -> bool:
        """Whether the format has infinities."""
        return False

    @property
    def overflow_value(self) -> float | None:
        """The value one step above `max_value` on a grid without upper end; None if there is none.

        It decides which values round to infinity or NaN when they do not saturate.
        """
        return None

    @property
    def steps(self) -> tuple[int, int] | None:
        """(t, e) if the grid keeps t mantissa bits from 2**e on and has one constant step below; else None."""
        return None

    @cached_property
    def values(self) -> np.ndarray:
        """Exact value of every code: float64[2**bits], NaN where there is none."""
        if self.bits > MAX_TABLE_BITS:
            raise MacloomError(
                f"format {self.name!r}: has no value table, {self.bits} bits are more than {MAX_TABLE_BITS}"
            )
        table = np.array([self.value(code) for code in range(1 << self.bits)], np.float64)
        table.flags.writeable = False
        return table

    @cached_property
    def float32_values(self) -> np.ndarray:
        """Value of every code, rounded to float32."""
        return self.values.astype(np.float32)

    @cached_property
    def encodable(self) -> tuple[np.ndarray, np.ndarray]:
        """Values that the encoder may produce, ascending, and the code of each (zero once, as +0)."""
        codes = np.array([c for c in np.flatnonzero(np.isfinite(self.values)).tolist() if self.encodes(c)])
        values = self.values[codes]
        order = np.lexsort((codes, values))
        values, codes = values[order], codes[order]
        keep = np.concatenate(([True], values[1:] != values[:-1]))
        return values[keep], codes[keep]

    @cached_property
    def negative_zero_code(self) -> int | None:
        """The code of -0, if the format has one."""
        zeros = np.flatnonzero((self.values == 0) & np.signbit(self.values))
        return int(zeros[0]) if len(zeros) and self.encodes(int(zeros[0])) else None

    @cached_property
    def max_value(self) -> float:
        """The largest finite value."""
        return float(self.encodable[0][-1])

    @cached_property
    def min_value(self) -> float:
        """The smallest (most negative) value that the encoder produces."""
        return float(self.encodable[0][0])

    @cached_property
    def unit_exponent(self) -> int:
        """Every value is an integer multiple of 2**unit_exponent, and no larger power of two does that."""
        mantissa, exponent = np.frexp(self.encodable[0][self.encodable[0] != 0])
        whole = np.ldexp(np.abs(mantissa), 53).astype(np.int64)
        trailing_zeros = np.frexp((whole & -whole).astype(np.float64))[1] - 1
        return int((exponent - 53 + trailing_zeros).min())

    @cached_property
    def largest_unit(self) -> int:
        """The largest magnitude in units of 2**unit_exponent."""
        return int(Fraction(max(self.max_value, -self.min_value)) / Fraction(2) ** self.unit_exponent)

    @cached_property
    def units(self) -> tuple[np.ndarray, int, int]:
        """Return (float32 table of every code's value, exponent e, largest magnitude) in units of 2**e.

        The entries are integers, except where those would not fit float32 (bfloat16 spans 262 binary
        digits); then e is 0, the entries are the values and the magnitude is that of the integers.
        """
        exponent = self.unit_exponent if self.largest_unit < 1 << 120 else 0
        return np.ldexp(self.values, -exponent).astype(np.float32), exponent, self.largest_unit

    @cached_property
    def operand(self) -> OperandClass:
        """What a processing element multiplies after decoding."""
        pairs = [self.pair(int(c)) for c in self.encodable[1]]
        exponents = [e for e, i in pairs if i]
        low, high = min(i for _, i in pairs), max(i for _, i in pairs)
        return OperandClass(
            significand_bits=1 + max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0),
            exponent_bits=(max(exponents) - min(exponents)).bit_length(),
            integer_bits=1 + self.largest_unit.bit_length(),
        )

    @property
    def decoder_bits(self) -> int:
        """Code bits that a decoder reads at a time; 0 where the code is already the operand."""
        return self.bits

    @property
    def code_dtype(self) -> type[np.unsignedinteger]:
        return np.uint8 if self.bits <= 8 else np.uint16

    def decode(self, codes: Any) -> np.ndarray:
        """Return the float32 values of `codes`: integers of any shape, or `bytes` with one code of up to 8 bits each.

        Raises:
            MacloomError: a code is no integer or lies outside [0, 2**bits), or they are bytes and wider.

        >>> from macloom.formats import get_format
        >>> get_format("fp8_e4m3").element.decode(bytes([0x38, 0xC0]))
        array([ 1., -2.], dtype=float32)
        """
        if isinstance(codes, bytes | bytearray) and self.bits > 8:
            raise MacloomError(f"format {self.name!r}: bytes hold no codes of {self.bits} bits; pass an integer array")
        codes = whole_codes(codes, f"format {self.name!r}: codes")
        if codes.size and (int(codes.min()) < 0 or int(codes.max()) >= 1 << self.bits):
            bad = codes[(codes < 0) | (codes >= 1 << self.bits)].flat[0]
            raise MacloomError(f"format {self.name!r}: code {int(bad)} is not in [0, {1 << self.bits})")
        return np.take(self.float32_values, codes)

    def encode(
        self,
        x: np.ndarray,
        rounding: Rounding | None = None,
        overflow: Overflow = Overflow.SATURATE,
        *,
        nan: NanPolicy = NanPolicy.PROPAGATE,
        zero: ZeroPolicy = ZeroPolicy.KEEP,
        draw_bits: int = 8,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Return the codes of `x` (any shape), without any scale.

        `rounding` is the format's own unless given: nearest even for most. Then a tie goes to the even
        code; where neighbouring codes have the same parity, to the larger power of two's multiple.
        Infinities overflow as large finite values do. Stochastic rounding takes its draws of `draw_bits`
        bits from `rng` in row-major order, one for each element (`Policy.draw`).

        Raises:
            MacloomError: `x` holds NaN and the format has none or the policy refuses it, or the policies
                ask for what the format lacks.
        """
        from macloom.formats.conversion import encode_under

        policy = Policy(
            rounding=_named(Rounding, "rounding", rounding or self.default_rounding),
            overflow=_named(Overflow, "overflow", overflow),
            nan=_named(NanPolicy, "nan", nan),
            zero=_named(ZeroPolicy, "zero", zero),
            draw_bits=draw_bits,
            rng=rng,
        )
        array = np.asarray(x)
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            raise MacloomError(f"tensor: must hold real numbers, not {array.dtype}")
        return encode_under(self, array, policy)

    def quantize(
        self,
        x: np.ndarray,
        rounding: Rounding | None = None,
        overflow: Overflow = Overflow.SATURATE,
        *,
        nan: NanPolicy = NanPolicy.PROPAGATE,
        zero: ZeroPolicy = ZeroPolicy.KEEP,
        draw_bits: int = 8,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Return the representable float32 value for each element of `x`; equals `decode(encode(x))`."""
        return self.decode(self.encode(x, rounding, overflow, nan=nan, zero=zero, draw_bits=draw_bits, rng=rng))


@lru_cache(maxsize=256)
def check_overflow_policy(element: ElementFormat, overflow: Overflow) -> None:
    """Raise if `element` has no code for what `overflow` asks."""
    if overflow is Overflow.WRAP:
        raise MacloomError(f"overflow: 'wrap' belongs to integers, not to format {element.name!r}; use 'saturate'")
    if overflow is Overflow.TO_INF and not element.infinity:
        others = "'saturate'" if element.nan_code is None else "'saturate' or 'to_nan'"
        raise MacloomError(f"overflow: format {element.name!r} has no infinity; use {others}")
    if overflow is Overflow.TO_NAN and element.nan_code is None:
        raise MacloomError(f"overflow: format {element.name!r} has no NaN; use 'saturate'")
