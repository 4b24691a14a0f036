"""What encoders and float units share: a float or integer taken apart, and its magnitude rounded to a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pyrtl
from pyrtl import WireVector

from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import Specials
from macloom.formats.policy import Rounding
from macloom.rtl import wires as w


@dataclass(frozen=True)
class Raw:
    """A finite input on wires: its magnitude is significand * 2**(exponent + offset), the leading one first.

    Attributes:
        significand: with the leading one at the top, but for zero and what lies below the target's first binade.
        exponent: two's complement exponent of the significand's top bit.
    """

    negative: WireVector
    significand: WireVector
    exponent: WireVector
    nan: WireVector | None = None
    infinity: WireVector | None = None


class FloatFields(Protocol):
    """What `unpack_float` asks of a float: its fields, and which codes are no finite numbers."""

    @property
    def exponent_bits(self) -> int: ...
    @property
    def mantissa_bits(self) -> int: ...
    @property
    def min_exponent(self) -> int: ...
    @property
    def specials(self) -> Specials: ...
    @property
    def signed(self) -> bool: ...
    @property
    def zero(self) -> bool: ...


def unpack_float(source: FloatFields, x: WireVector, *, normalise: bool) -> Raw:
    """Split a float; its subnormals get a leading one if they are to be normalised."""
    t, e = source.mantissa_bits, source.exponent_bits
    field = x[t : t + e]
    normal = w.any_bit(field) if source.zero else w.constant(1, 1)
    significand = pyrtl.concat(normal, x[:t]) if t else normal
    width = e + 2 + t.bit_length()
    stored = w.widened(field, width) + w.widened(w.inverted(normal), width)
    exponent = w.low(stored + w.constant(source.min_exponent - int(source.zero), width), width)
    if normalise and source.zero:
        zeros = w.leading_zeros(significand)
        significand = w.shifted_left(significand, zeros, len(significand))
        exponent = w.low(exponent - w.widened(zeros, width), width)
    ones, rest = pyrtl.and_all_bits(field), (w.any_bit(x[:t]) if t else w.constant(0, 1))
    nan = infinity = None
    if source.specials is Specials.IEEE:
        nan, infinity = ones & rest, ones & w.inverted(rest)
    elif source.specials is Specials.FN:
        nan = ones & (pyrtl.and_all_bits(x[:t]) if t else w.constant(1, 1))
    elif source.specials is Specials.FNUZ:
        nan = x[-1] & w.no_bit(x[:-1])
    negative = x[-1] if source.signed else w.constant(0, 1)
    return Raw(negative, significand, exponent, nan, infinity)


def unpack_integer(source: IntFormat, x: WireVector) -> Raw:
    """Take the magnitude of an integer and normalise it."""
    negative, magnitude = w.magnitude_of(x) if source.signed else (w.constant(0, 1), x)
    zeros = w.leading_zeros(magnitude)
    width = max(source.width, source.fraction_bits).bit_length() + 3
    top = w.constant(source.width - 1 - source.fraction_bits, width)
    exponent = w.low(top - w.widened(zeros, width), width)
    return Raw(negative, w.shifted_left(magnitude, zeros, len(magnitude)), exponent)


def rounded_magnitude(raw: Raw, t: int, lowest: int, mode: Rounding) -> WireVector:
    """Return the code of a magnitude on a grid with t mantissa bits from 2**lowest on; it may exceed any format's."""
    significand = raw.significand
    if len(significand) < t + 1:
        significand = pyrtl.concat(significand, w.constant(0, t + 1 - len(significand)))
    width = max(len(raw.exponent), abs(lowest).bit_length() + 1) + 1
    above = w.low(w.signed_widened(raw.exponent, width) - w.constant(lowest, width), width)
    below = above[-1]
    binade = w.gated(above[:-1], w.inverted(below) & significand[-1])  # zero has no leading one
    missing = w.gated(w.low(w.constant(0, width) - above, width)[:-1], below)
    # One more bit under the significand keeps the guard; more than its width leaves only the sticky bit.
    guarded = pyrtl.concat(significand, w.constant(0, 1))
    fixed = len(significand) - (t + 1)
    amount_bits = len(guarded).bit_length()
    far = w.any_bit(missing[amount_bits:]) if len(missing) > amount_bits else w.constant(0, 1)
    amount = w.low(missing, amount_bits) if len(missing) > amount_bits else missing
    shifted, lost = w.shifted_right_sticky(guarded, amount)
    lost = pyrtl.select(far, w.any_bit(guarded), lost)
    shifted = w.gated(shifted, w.inverted(far))
    if fixed:
        lost = lost | w.any_bit(shifted[:fixed])
        shifted = shifted[fixed:]
    guard, kept = shifted[0], shifted[1:]
    base = pyrtl.concat(binade, w.constant(0, t)) if t else binade
    size = max(len(base), len(kept)) + 1
    base = w.low(w.widened(base, size) + w.widened(kept, size), size)
    return w.low(base + w.widened(increment(mode, base[0], guard, lost), size), size)


def increment(mode: Rounding, odd: WireVector, guard: WireVector, sticky: WireVector) -> WireVector:
    """Return 1 where what is below a magnitude's step, its guard bit and whether any lower one is set, rounds it up."""
    match mode:
        case Rounding.NEAREST_EVEN:
            return guard & (sticky | odd)
        case Rounding.NEAREST_AWAY:
            return guard
        case Rounding.TO_ODD:
            return (guard | sticky) & w.inverted(odd)
        case _:
            return w.constant(0, 1)
