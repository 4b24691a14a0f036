"""Registers of the elements: integers that wrap or saturate, and fixed point of any width (Kulisch 2013)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.accumulator import IntegerAccumulator
from macloom.formats.accumulators.integer import MAC, IntegerOverflow
from macloom.rtl import wires as w

# Integers up to this width and a bit more are computed in int64; wider ones are Python's.
WIDEST_WORD = 62


@dataclass(frozen=True, kw_only=True)
class FixedPointRegister:
    """A register for the exact sums of products of formats of any range: the accumulator `exact`.

    Attributes:
        bits: enough for one product and the carries of as many as one sums up; the register wraps beyond.
    """

    bits: int

    def __post_init__(self) -> None:
        require_positive_integer("rtl.accumulator.bits", self.bits)

    @property
    def name(self) -> str:
        return "exact"


Register = IntegerAccumulator | FixedPointRegister


def saturates(register: Register) -> bool:
    """Say whether a register clamps its sums; else they wrap.

    Raises:
        MacloomError: it does what no element does at every product.
    """
    if isinstance(register, FixedPointRegister) or register.overflow is IntegerOverflow.WRAP:
        return False
    if register.overflow is IntegerOverflow.ERROR:
        raise MacloomError("rtl.accumulator: hardware wraps or saturates; choose 'wrap' or 'saturate', not 'error'")
    if register.every != MAC:
        raise MacloomError(
            f"rtl.accumulator: elements saturate at every product; choose 'int{register.bits}:saturate,every=mac', "
            f"not {register.name!r}"
        )
    return True


def accumulate_wires(register: Register, total: WireVector, addend: WireVector) -> WireVector:
    """Return the register's next value: the sum, wrapped or saturated."""
    bits = register.bits
    if not saturates(register):
        return w.low(total + addend, bits)
    wide = w.low(w.signed_widened(total, bits + 1) + w.signed_widened(addend, bits + 1), bits + 1)
    return clamped(wide, bits)


def clamped(number: WireVector, bits: int) -> WireVector:
    """Return a two's complement number held to the range of fewer bits."""
    if len(number) <= bits:
        return w.signed_widened(number, bits)
    above = number[bits - 1 :]
    over = w.inverted(pyrtl.and_all_bits(above) | w.no_bit(above))
    limit = pyrtl.concat(number[-1], w.inverted(number[-1]).sign_extended(bits - 1))
    return pyrtl.select(over, limit, number[:bits])


def accumulate(register: Register, total: np.ndarray | int, addend: np.ndarray | int) -> np.ndarray:
    """Return the same in software, for integers that fit the register: int64, or Python's where it is wide."""
    half = 1 << (register.bits - 1)
    wide = np.asarray(total + addend, object if register.bits > WIDEST_WORD else np.int64)
    if saturates(register):
        return np.clip(wide, -half, half - 1)
    return ((wide + half) & (2 * half - 1)) - half


def integers(values: np.ndarray, bits: int) -> np.ndarray:
    """Return integers ready for sums of so many bits: as they are, or as Python's."""
    return np.asarray(values).astype(object) if bits > WIDEST_WORD else np.asarray(values)
