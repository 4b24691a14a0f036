"""What a processing element's register does, and the type of numbers in which a machine can step it exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from macloom.errors import MacloomError
from macloom.formats import ExactAccumulator, FloatAccumulator, IntegerAccumulator, IntegerOverflow
from macloom.formats.accumulator import Accumulator
from macloom.formats.accumulators.integer import END, MAC
from macloom.formats.accumulators.segments import WIDEST_UNIT, common_segment
from macloom.formats.operand import Operand

EXACT = 2.0**53  # float64 holds every integer up to here


@dataclass(frozen=True, kw_only=True)
class Register:
    """A register that the compiled machines can step.

    Attributes:
        dtype: in which operands and sums are kept; every sum is exact in it, or rounds as the register does.
        every: whether it saturates to `low` .. `high` after each product.
        chunk: products after which it saturates otherwise, or None.
        limb_bits: bits of A that are multiplied at a time, where whole products are too wide for `dtype`; the exact
            sums of these pieces are joined at the end.
    """

    dtype: type[np.generic]
    every: bool = False
    low: float = 0.0
    high: float = 0.0
    chunk: int | None = None
    limb_bits: int | None = None


def register_of(accumulator: Accumulator, a: Operand, b: Operand, *, scaled: bool) -> Register | None:
    """Return how the compiled machines step this accumulator on operands with zero points at 0, or None.

    None means that only the plain machine can, which calls the accumulator's own step for every product.
    """
    if isinstance(accumulator, FloatAccumulator):
        return Register(dtype=np.float32)
    bound = a.largest * b.largest
    length = common_segment(a, b)
    if isinstance(accumulator, ExactAccumulator):
        if bound * length < EXACT:
            return Register(dtype=_narrowest(bound * length))
        bits = 53 - int(np.ceil(np.log2(b.largest * length)))
        return None if scaled or bits < 1 else Register(dtype=np.float64, limb_bits=bits)
    if not isinstance(accumulator, IntegerAccumulator) or bound * length >= EXACT:
        return None
    half = 2.0 ** (accumulator.bits - 1)
    dtype = _narrowest(bound * length)
    if bound * length < half:  # nothing can overflow
        return Register(dtype=dtype)
    every = accumulator.every
    if accumulator.overflow is not IntegerOverflow.SATURATE:
        refuses = accumulator.overflow is IntegerOverflow.ERROR and every != END
        return None if scaled or refuses else Register(dtype=dtype)
    if every == MAC:
        return Register(dtype=dtype, every=True, low=-half, high=half - 1)
    chunk = min(int(every), length) if every != END else (length if scaled else None)
    return Register(dtype=dtype, chunk=chunk, low=-half, high=half - 1)


def _narrowest(bound: float) -> type[np.generic]:
    return np.int32 if bound < 2.0**31 else np.float64


def as_seen(accumulator: Accumulator, a: Operand, b: Operand) -> tuple[Operand, Operand]:
    """Return the operands as the elements see them: zero points at 0, and in the units that the register counts in.

    Integer registers count units of the smallest product, float registers real values.
    """
    if isinstance(accumulator, ExactAccumulator):
        a, b = _whole(a), _whole(b)
    a, b = a.centred(), b.centred()
    return (_real(a), _real(b)) if counts_values(accumulator) else (a, b)


def counts_values(accumulator: Accumulator) -> bool:
    """Return whether a register holds real values; others hold integers, in units of the smallest product.

    Raises:
        MacloomError: a single processing element does not hold this accumulator.
    """
    return isinstance(accumulator.initial(), Fraction)


def _real(operand: Operand) -> Operand:
    return replace(operand, units=np.ldexp(operand.units, operand.unit_exponent), unit_exponent=0)


def _whole(operand: Operand) -> Operand:
    """Return the operand in units of its own last digit, where its format is too wide for integer units."""
    used = operand.units[operand.units != 0].astype(np.float64)
    if operand.max_unit < WIDEST_UNIT or not used.size or not np.isfinite(used).all():
        return operand
    mantissa, exponent = np.frexp(used)
    whole = np.abs(np.ldexp(mantissa, 24)).astype(np.int64)
    lowest = int((exponent - 24 + np.frexp((whole & -whole).astype(np.float64))[1] - 1).min())
    units = np.ldexp(operand.units.astype(np.float64), -lowest)
    return replace(operand, units=units, unit_exponent=operand.unit_exponent + lowest)


def limbs_of(units: np.ndarray, bits: int | None) -> list[tuple[np.ndarray, int]]:
    """Return pieces of integer units and the powers of two that they count; they sum to `units`.

    >>> [(piece.tolist(), power) for piece, power in limbs_of(np.array([19.0, -5.0]), 3)]
    [([3.0, -5.0], 0), ([2.0, 0.0], 3)]
    """
    if bits is None:
        return [(units, 0)]
    pieces, rest, power = [], units.astype(np.float64), 0
    while True:
        low = np.fmod(rest, 2.0**bits)
        pieces.append((low, power))
        rest, power = (rest - low) / 2.0**bits, power + bits
        if not rest.any():
            return pieces


def finished(sums: np.ndarray, accumulator: Accumulator, register: Register) -> np.ndarray:
    """Return what leaves the registers at the end of a segment, from the exact sums that the machine kept.

    Raises:
        MacloomError: the accumulator refuses to overflow, and did.
    """
    if not isinstance(accumulator, IntegerAccumulator) or register.every:
        return sums
    half = 2.0 ** (accumulator.bits - 1)
    if accumulator.overflow is IntegerOverflow.SATURATE:
        return np.clip(sums, -half, half - 1)
    over = int(((sums < -half) | (sums >= half)).sum())
    if over and accumulator.overflow is IntegerOverflow.ERROR:
        raise MacloomError(
            f"cycle: {over} of {sums.size} sums overflow the {accumulator.bits}-bit accumulator; "
            "widen it or choose 'wrap' or 'saturate'"
        )
    return np.mod(sums + half, 2 * half) - half if over else sums


def rounded(total: int) -> np.float32:
    """Return an integer of any size rounded once to float32, ties to even.

    >>> float(rounded(2**60 + 2**36)), float(rounded(2**60 + 2**36 + 1)) > 2**60
    (1.152921504606847e+18, True)
    """
    size = abs(total)
    shift = max(size.bit_length() - 24, 0)
    whole, rest = size >> shift, size & ((1 << shift) - 1)
    half = 1 << (shift - 1) if shift else 1
    whole += rest > half or (rest == half and whole & 1)
    return np.float32(np.ldexp(-whole if total < 0 else whole, shift))


def with_units(operand: Operand, units: np.ndarray) -> Operand:
    """Return the operand with other units."""
    return replace(operand, units=units)
