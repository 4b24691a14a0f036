"""The requantizer: an integer sum times an integer, shifted right with rounding, saturated to a few bits."""

from __future__ import annotations

import numpy as np
import pyrtl

from macloom.errors import MacloomError
from macloom.formats.policy import Rounding
from macloom.rtl import wires as w
from macloom.rtl.unit import Port, Unit, Values, Wires

ROUNDINGS = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO)


def requantizer(
    sum_bits: int = 32,
    multiplier_bits: int = 16,
    shift_bits: int = 5,
    out_bits: int = 8,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    module: str | None = None,
) -> Unit:
    """Return the unit of ports `sum` (signed), `multiplier` and `shift` (unsigned) to `code` (signed).

    code = saturate(round(sum * multiplier / 2**shift)), rounded on the magnitude as the policies are.

    Raises:
        MacloomError: a width is out of range, or the rounding is none of nearest even, away and toward zero.

    >>> requantizer().module
    'requantize_32_to_8'
    """
    if rounding not in ROUNDINGS:
        raise MacloomError(
            f"rtl.rounding: must be one of {', '.join(r.value for r in ROUNDINGS)}, not {rounding.value}"
        )
    product_bits = sum_bits + multiplier_bits
    if min(sum_bits, multiplier_bits, shift_bits, out_bits) < 1 or product_bits > 62 or out_bits > product_bits:
        raise MacloomError(
            f"rtl.requantizer: sum and multiplier must have at most 62 bits together, not {product_bits}"
        )

    def circuit(inputs: Wires) -> Wires:
        negative, magnitude = w.magnitude_of(inputs["sum"])
        product = magnitude * inputs["multiplier"]
        # A bit below the product keeps the guard, what is shifted out further is sticky.
        shifted, sticky = w.shifted_right_sticky(pyrtl.concat(product, w.constant(0, 1)), inputs["shift"])
        guard, kept = shifted[0], shifted[1:]
        match rounding:
            case Rounding.NEAREST_EVEN:
                up = guard & (sticky | kept[0])
            case Rounding.NEAREST_AWAY:
                up = guard
            case _:
                up = w.constant(0, 1)
        size = len(kept) + 1
        rounded = w.low(w.widened(kept, size) + w.widened(up, size), size)
        top = w.constant((1 << (out_bits - 1)) - 1, size)
        limit = w.low(top + w.widened(negative, size), size)
        held = pyrtl.select(limit < rounded, limit, rounded)
        return {"code": w.low(w.with_sign(w.low(held, out_bits), negative), out_bits)}

    def model(inputs: Values) -> Values:
        total, multiplier, shift = (np.asarray(inputs[n]) for n in ("sum", "multiplier", "shift"))
        product = np.abs(total) * multiplier
        kept, rest = product >> shift, product & ((np.int64(1) << shift) - 1)
        half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
        match rounding:
            case Rounding.NEAREST_EVEN:
                up = (shift > 0) & ((rest > half) | ((rest == half) & (kept & 1 == 1)))
            case Rounding.NEAREST_AWAY:
                up = (shift > 0) & (rest >= half)
            case _:
                up = np.zeros(len(kept), bool)
        top = (1 << (out_bits - 1)) - 1
        rounded = kept + up
        return {"code": np.where(total < 0, -np.minimum(rounded, top + 1), np.minimum(rounded, top))}

    return Unit(
        module=module or f"requantize_{sum_bits}_to_{out_bits}",
        inputs=(
            Port(name="sum", width=sum_bits, signed=True),
            Port(name="multiplier", width=multiplier_bits),
            Port(name="shift", width=shift_bits),
        ),
        outputs=(Port(name="code", width=out_bits, signed=True),),
        circuit=circuit,
        model=model,
        facts={"rounding": rounding.value},
    )
