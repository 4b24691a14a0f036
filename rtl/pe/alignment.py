"""The adder of tensor cores: terms aligned to the largest exponent, cut off there, added as integers, rounded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyrtl
from pyrtl import WireVector

from macloom.formats.policy import Rounding
from macloom.formats.tensor_core.record import TensorCoreAccumulator
from macloom.rtl import wires as w
from macloom.rtl.floats import FloatRegister, integer_raw, packed


@dataclass(frozen=True)
class Term:
    """A term on wires: magnitude * 2**(exponent - point), a two's complement exponent; none where not `present`.

    Only the exponent aligns it: the magnitude may be far below or above 2**point.
    """

    negative: WireVector
    magnitude: WireVector
    exponent: WireVector
    point: int
    present: WireVector

    @property
    def head(self) -> int:
        """Bits of the magnitude that count 2**exponent and more."""
        return len(self.magnitude) - self.point


def aligned_sum(core: TensorCoreAccumulator, register: FloatRegister, terms: Sequence[Term]) -> WireVector:
    """Return the code of the sum of the terms, aligned to the largest exponent, cut off, added and rounded."""
    width = max(*(len(term.exponent) for term in terms), abs(core.lowest).bit_length() + 1) + 1
    above = [w.low(w.signed_widened(term.exponent, width) - w.constant(core.lowest, width), width) for term in terms]
    used = [w.gated(x[:-1], term.present & w.inverted(x[-1])) for x, term in zip(above, terms, strict=True)]
    largest = w.widened(w.largest(used), width)
    # A sign, and a bit for what the cut may carry.
    bits = core.fraction + max(term.head for term in terms) + len(terms).bit_length() + 2
    parts = []
    for x, term in zip(above, terms, strict=True):
        kept = _cut(core, term, w.low(largest - x, width))
        parts.append(w.with_sign(w.gated(kept, term.present), term.negative))
    total = w.total(parts, bits)
    exponent = w.low(largest + w.constant(core.lowest - core.fraction, width + 1), width + 1)
    code = packed(register, integer_raw(total, exponent))
    # A sum that is cut off to nothing is +0.
    return pyrtl.concat(code[-1] & w.any_bit(code[:-1]), code[:-1])


def _cut(core: TensorCoreAccumulator, term: Term, distance: WireVector) -> WireVector:
    """Return a magnitude in units of 2**(largest exponent - fraction), cut off as the record says."""
    up = max(core.fraction - term.point, 0)
    drop = max(term.point - core.fraction, 0)
    base = pyrtl.concat(term.magnitude, w.constant(0, up)) if up else term.magnitude
    nearest = core.align is Rounding.NEAREST_EVEN
    if nearest:
        base = pyrtl.concat(base, w.constant(0, 1))
    moved, lost = w.shifted_right_sticky(base, distance)
    if drop:
        lost = lost | w.any_bit(moved[:drop])
        moved = moved[drop:]
    if not nearest:
        return moved
    guard, kept = moved[0], moved[1:]
    size = len(kept) + 1
    return w.low(w.widened(kept, size) + w.widened(guard & (lost | kept[0]), size), size)
