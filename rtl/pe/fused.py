"""Four narrow multipliers as one wide one: x = high * 2**w + low, so that x y is a sum of four shifted products.

The high halves are signed, the low ones unsigned, which is why each multiplier takes one bit more than
the narrow format has (Guo et al., OliVe, ISCA 2023, section 4.5, for 4 and 8 bits; the extra bit follows
from the arithmetic and is not in the paper).
"""

from __future__ import annotations

import numpy as np
import pyrtl
from pyrtl import WireVector

from macloom.errors import MacloomError
from macloom.rtl import wires as w
from macloom.rtl.unit import Port, Unit, Values, Wires


def fused_multiplier(half: int = 4, module: str | None = None) -> Unit:
    """Return a multiplier of two numbers of 2 * `half` bits, or of four pairs of `half` bits.

    With `wide` the ports `a` and `b` are two's complement numbers of 2 * `half` bits and `product` is theirs.
    Without it they hold a0, a1 and b0, b1 (low half first), and `product` holds the outer product's sum
    a0 b0 + a1 b1 as two's complement.

    Raises:
        MacloomError: `half` is out of range.

    >>> fused_multiplier().outputs[0].width
    16
    """
    if not 2 <= half <= 8:
        raise MacloomError(f"rtl.half: must be from 2 to 8 bits, not {half}")
    bits = 4 * half

    def halves(wire: WireVector, wide: WireVector) -> tuple[WireVector, WireVector]:
        """Return the high half, signed, and the low half, unsigned in a wide number and signed in a narrow one."""
        low_sign = wire[half - 1] & w.inverted(wide)
        return w.signed_widened(wire[half:], half + 1), pyrtl.concat(low_sign, wire[:half])

    def circuit(inputs: Wires) -> Wires:
        wide = inputs["wide"]
        (ah, al), (bh, bl) = halves(inputs["a"], wide), halves(inputs["b"], wide)
        hh, hl, lh, ll = (
            w.signed_widened(pyrtl.signed_mult(x, y), bits) for x, y in ((ah, bh), (ah, bl), (al, bh), (al, bl))
        )

        def shifted(wire: WireVector, amount: int) -> WireVector:
            return pyrtl.concat(wire[: bits - amount], w.constant(0, amount))

        top = pyrtl.select(wide, shifted(hh, 2 * half), hh)
        middle = w.gated(shifted(w.low(hl + lh, bits), half), wide)
        return {"product": w.total([top, middle, ll], bits)}

    def model(inputs: Values) -> Values:
        a, b = (np.asarray(inputs[n]) for n in "ab")

        def narrow(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            low = values & ((1 << half) - 1)
            return values >> half, (low ^ (1 << (half - 1))) - (1 << (half - 1))

        (ah, al), (bh, bl) = narrow(a), narrow(b)
        return {"product": np.where(np.asarray(inputs["wide"]) == 1, a * b, ah * bh + al * bl)}

    return Unit(
        module=module or f"fused_multiplier_{half}_{2 * half}",
        inputs=(
            Port(name="a", width=2 * half, signed=True),
            Port(name="b", width=2 * half, signed=True),
            Port(name="wide", width=1),
        ),
        outputs=(Port(name="product", width=bits, signed=True),),
        circuit=circuit,
        model=model,
        facts={"half": half},
    )
