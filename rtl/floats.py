"""Arithmetic on floats in gates: IEEE 754 addition, scaling and conversion, with subnormals and infinities.

Every circuit here takes and returns codes. What no rounding settles follows IEEE 754-2019: x + (-x) is +0, infinity
minus infinity is NaN. There is one NaN, whose code is all ones under a sign of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.formats.accumulators.floating import ROUNDINGS, FloatAccumulator, SmallFloatAccumulator
from macloom.formats.elements.minifloat import Specials
from macloom.formats.policy import Rounding
from macloom.rtl import wires as w
from macloom.rtl.formats.rounder import FloatFields, Raw, rounded_magnitude, unpack_float


@dataclass(frozen=True, kw_only=True)
class FloatRegister:
    """The codes of a float register: sign, exponent and mantissa as in IEEE 754.

    Attributes:
        rounding: how everything is rounded that goes into it.
        saturate: what is too large becomes the largest finite value, and not infinite.

    >>> FloatRegister(exponent_bits=8, mantissa_bits=23).bits
    32
    """

    exponent_bits: int
    mantissa_bits: int
    rounding: Rounding = Rounding.NEAREST_EVEN
    saturate: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.exponent_bits <= 8 or not 1 <= self.mantissa_bits <= 23:
            raise MacloomError(
                "rtl: a float register has 2 to 8 exponent bits and 1 to 23 mantissa bits, not "
                f"e{self.exponent_bits}m{self.mantissa_bits}"
            )
        if self.rounding not in ROUNDINGS:
            raise MacloomError(f"rtl.rounding: must be one of {', '.join(ROUNDINGS)}, not {self.rounding.value!r}")

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value."""
        return 2 - (1 << (self.exponent_bits - 1))

    @property
    def specials(self) -> Specials:
        return Specials.IEEE

    @property
    def signed(self) -> bool:
        return True

    @property
    def zero(self) -> bool:
        return True

    @property
    def infinity(self) -> int:
        """The code of the positive infinity."""
        return ((1 << self.exponent_bits) - 1) << self.mantissa_bits

    @property
    def nan(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def name(self) -> str:
        return f"e{self.exponent_bits}m{self.mantissa_bits}"

    @cached_property
    def accumulator(self) -> SmallFloatAccumulator:
        """The register of the arithmetic room with these values."""
        return SmallFloatAccumulator(
            exponent_bits=self.exponent_bits,
            mantissa_bits=self.mantissa_bits,
            rounding=self.rounding,
            saturate=self.saturate,
        )

    def codes_of(self, values: np.ndarray) -> np.ndarray:
        """Return the codes (int64) of float32 values that the register holds; all NaN are one."""
        x = np.asarray(values, np.float32)
        magnitude = np.abs(x.astype(np.float64))
        with np.errstate(invalid="ignore"):
            exponents = np.where(magnitude > 0, np.frexp(magnitude)[1] - 1, self.min_exponent)
            exponents = np.maximum(exponents, self.min_exponent)
            steps = np.ldexp(np.where(np.isfinite(magnitude), magnitude, 0), self.mantissa_bits - exponents)
        codes = ((exponents - self.min_exponent) << self.mantissa_bits) + steps.astype(np.int64)
        codes = np.where(np.isinf(x), self.infinity, codes)
        signed = codes | (np.signbit(x).astype(np.int64) << (self.bits - 1))
        return np.where(np.isnan(x), self.nan, signed)

    def values_of(self, codes: np.ndarray) -> np.ndarray:
        """Return the float32 values of codes."""
        codes = np.asarray(codes, np.int64)
        t = self.mantissa_bits
        field, fraction = codes >> t & ((1 << self.exponent_bits) - 1), codes & ((1 << t) - 1)
        significand = np.where(field > 0, fraction + (1 << t), fraction).astype(np.float64)
        magnitude = np.ldexp(significand, np.maximum(field, 1) - 1 + self.min_exponent - t)
        top = field == (1 << self.exponent_bits) - 1
        magnitude = np.where(top, np.where(fraction > 0, np.nan, np.inf), magnitude)
        return np.where(codes >> (self.bits - 1) & 1, -magnitude, magnitude).astype(np.float32)


FP32_REGISTER = FloatRegister(exponent_bits=8, mantissa_bits=23)


def register_of(accumulator: FloatAccumulator | SmallFloatAccumulator) -> FloatRegister:
    """Return the codes of a float register of the arithmetic room.

    >>> from macloom.formats import get_accumulator
    >>> register_of(get_accumulator("bf16")).name
    'e8m7'
    """
    if isinstance(accumulator, FloatAccumulator):
        return FP32_REGISTER
    return FloatRegister(
        exponent_bits=accumulator.exponent_bits,
        mantissa_bits=accumulator.mantissa_bits,
        rounding=accumulator.rounding,
        saturate=not np.isinf(accumulator.beyond),
    )


def packed(register: FloatRegister, raw: Raw) -> WireVector:
    """Return the code of a number, rounded; its significand has the leading one at the top, but for zero."""
    magnitude = rounded_magnitude(raw, register.mantissa_bits, register.min_exponent, register.rounding)
    body = register.bits - 1
    top = w.constant(register.infinity - int(register.saturate), len(magnitude))
    over = top < magnitude
    if raw.infinity is not None:
        over = over | raw.infinity
    code = pyrtl.concat(raw.negative, w.low(pyrtl.select(over, top, magnitude), body))
    return code if raw.nan is None else pyrtl.select(raw.nan, w.constant(register.nan, register.bits), code)


def from_integer(register: FloatRegister, integer: WireVector, unit_exponent: int) -> WireVector:
    """Return the code of a two's complement integer times 2**unit_exponent, rounded once."""
    return packed(register, integer_raw(integer, unit_exponent))


def integer_raw(integer: WireVector, unit_exponent: int | WireVector) -> Raw:
    """Return a two's complement integer times a power of two, normalised."""
    negative, magnitude = w.magnitude_of(integer)
    significand, amount = w.normalised(magnitude)
    top = len(magnitude) - 1
    if isinstance(unit_exponent, int):
        width = max(abs(unit_exponent) + top, 1).bit_length() + 2
        base = w.constant(unit_exponent + top, width)
    else:
        width = max(len(unit_exponent), top.bit_length() + 1) + 2
        base = w.low(w.signed_widened(unit_exponent, width) + w.constant(top, width), width)
    return Raw(negative, significand, w.low(base - w.widened(amount, width), width))


def times(register: FloatRegister, x: WireVector, scale: FloatFields, code: WireVector) -> WireVector:
    """Return the code of x, a code of the register, times a scale, a code of its own format, rounded."""
    a, b = unpack_float(register, x, normalise=True), unpack_float(scale, code, normalise=True)
    product = a.significand
    if scale.mantissa_bits:
        product = w.low(product * b.significand, len(a.significand) + len(b.significand))
    width = max(len(a.exponent), len(b.exponent)) + 1
    exponent = w.low(w.signed_widened(a.exponent, width) + w.signed_widened(b.exponent, width), width)
    if scale.mantissa_bits:
        high = product[-1]
        product = pyrtl.select(high, product, pyrtl.concat(product[:-1], w.constant(0, 1)))
        exponent = w.low(exponent + w.widened(high, width), width)
    assert a.infinity is not None
    assert a.nan is not None
    infinite = a.infinity if b.infinity is None else a.infinity | b.infinity
    nan = a.nan if b.nan is None else a.nan | b.nan
    empty = w.no_bit(a.significand) | w.no_bit(b.significand) if scale.zero else w.no_bit(a.significand)
    return packed(register, Raw(a.negative ^ b.negative, product, exponent, nan | (infinite & empty), infinite))


def plus(register: FloatRegister, x: WireVector, y: WireVector) -> WireVector:
    """Return the code of the rounded sum of two codes of a register."""
    a, b = (unpack_float(register, code, normalise=True) for code in (x, y))
    assert a.infinity is not None and a.nan is not None  # noqa: PT018
    assert b.infinity is not None and b.nan is not None  # noqa: PT018
    # Codes without signs are in the order of magnitudes.
    swap = x[:-1] < y[:-1]
    large, small = (pyrtl.select(swap, q.significand, p.significand) for p, q in ((a, b), (b, a)))
    high, low = (pyrtl.select(swap, q.exponent, p.exponent) for p, q in ((a, b), (b, a)))
    sign = pyrtl.select(swap, b.negative, a.negative)
    differ = a.negative ^ b.negative
    guard = 3  # guard, round and sticky bits make any rounding of the sum exact
    width = len(large) + guard
    distance = w.low(high - low, len(high))
    moved, lost = w.shifted_right_sticky(pyrtl.concat(small, w.constant(0, guard)), distance)
    moved = moved | w.widened(lost, width)
    first = w.widened(pyrtl.concat(large, w.constant(0, guard)), width + 1)
    second = w.widened(moved, width + 1) ^ differ.sign_extended(width + 1)
    total = w.low(w.low(first + second, width + 1) + w.widened(differ, width + 1), width + 1)
    significand, amount = w.normalised(total)
    bits = len(high) + 2
    top = w.low(w.signed_widened(high, bits) + w.constant(1, bits), bits)
    exponent = w.low(top - w.widened(amount, bits), bits)
    infinite = a.infinity | b.infinity
    nan = a.nan | b.nan | (a.infinity & b.infinity & differ)
    # Two zeros and numbers that cancel give +0, unless both zeros are negative.
    negative = pyrtl.select(w.no_bit(total) & w.inverted(infinite), a.negative & b.negative, sign)
    return packed(register, Raw(negative, significand, exponent, nan, infinite))


def converted(target: FloatRegister, source: FloatRegister, x: WireVector) -> WireVector:
    """Return the code of a number in another register's format, rounded."""
    return packed(target, unpack_float(source, x, normalise=True))
