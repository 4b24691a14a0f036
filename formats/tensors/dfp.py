"""Dynamic fixed point: integers of a whole tensor share one exponent (DFP16, arXiv 1802.00930).

The format and its integer arithmetic: products, sums, the return from 32-bit sums to P bits, and
chains of 32-bit sums that spill to float32 before they can overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, clip_share
from macloom.formats.element import ElementFormat
from macloom.formats.elements.integer import IntFormat
from macloom.formats.families import BFP
from macloom.formats.grammar import CATALOG, Builder, Entry, Options, choice_option, integer_option
from macloom.formats.policy import Rounding
from macloom.formats.scales import E8M0, Grain, Granularity, ScaleFormat
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.tensors.scaled import Scaled

WIDTHS = (8, 12, 13, 14, 15, 16)
SMALLEST_EXPONENT = -126
SUM_BITS = 32


class Top(StrEnum):
    """What happens to a largest magnitude that would round to 2**(P - 1): clip it, or raise the exponent."""

    CLIP = "clip"
    BUMP = "bump"


def safe_chain(width: int) -> int:
    """Return how many products of symmetric `width`-bit integers a signed 32-bit sum always holds.

    >>> [safe_chain(p) for p in (16, 15, 14, 13, 12, 8)]
    [2, 8, 32, 128, 512, 133144]
    """
    return ((1 << (SUM_BITS - 1)) - 1) // ((1 << (width - 1)) - 1) ** 2


@dataclass(frozen=True, kw_only=True)
class DynamicFixedPoint(Scaled):
    """value = i * 2**E with one exponent E = floor(log2 max|x|) - (P - 2) per tensor, i rounded to nearest even.

    i never is -2**(P - 1). A largest magnitude just below a power of two rounds to 2**(P - 1), which is
    clipped (`top`). `spill` is how many products a 32-bit sum takes before it moves to float32 in a GEMM
    (the paper's way); 0 sums all of K in 32 bits. Without it the length is `safe_chain`, which no sum
    overflows. The exponent is stored in 8 bits.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> get_format("dfp16").encode(np.float32([0.75, -1.9, 0.001])).elements.astype(np.int16)
    array([ 12288, -31130,     16], dtype=int16)
    """

    element: ElementFormat
    granularity: Granularity = Granularity(grain=Grain.TENSOR)
    scale_format: ScaleFormat = E8M0
    top: Top = Top.CLIP
    spill: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.element, IntFormat) or self.element.fraction_bits or not self.element.symmetric:
            raise MacloomError(f"dfp.element: must be a symmetric signed integer format, not {self.element.name}")
        if self.granularity.grain is not Grain.TENSOR:
            raise MacloomError(f"dfp.granularity: must be 'tensor', not {self.granularity.grain.value!r}")
        if self.spill is not None and self.spill < 0:
            raise MacloomError(f"dfp.spill: must not be negative, not {self.spill}")

    @property
    def chain(self) -> int:
        """Products per 32-bit sum; 0 without end."""
        return safe_chain(self.element.bits) if self.spill is None else self.spill

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        largest = np.float32(self.granularity.absolute_maximum(as_float32(x), self.name)) * clip_share(clip)
        if largest == 0:
            return np.asarray(1, np.float32)
        fraction_bits = self.element.bits - 2
        exponent = int(np.frexp(largest)[1]) - 1 - fraction_bits
        rounds_up = float(largest) >= float(np.ldexp(self.element.max_value + 0.5, exponent))
        if self.top is Top.BUMP and rounds_up and exponent < 127 - fraction_bits:
            exponent += 1
        return np.asarray(np.ldexp(np.float32(1), np.clip(exponent, SMALLEST_EXPONENT, 127 - fraction_bits)))

    def _row_scales(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        spread = super()._row_scales(scale, shape)
        if float(np.frexp(spread[0, 0])[0]) != 0.5:
            raise MacloomError(f"scale: format {self.name!r} stores a power of two, not {float(spread[0, 0])}")
        return spread

    def operand_of(self, encoded: Encoded) -> Operand:
        operand = super().operand_of(encoded)
        length = encoded.shape[-1]
        block = min(self.chain or length, length)
        scales = np.repeat(operand.scales, -(-length // block), axis=-1)
        return Operand(operand.units, operand.unit_exponent, scales, block, operand.outer, operand.max_unit)


@dataclass(frozen=True, eq=False)
class Dynamic:
    """Integers (int64) that share the exponent: value = integers * 2**exponent."""

    integers: np.ndarray
    exponent: int

    def values(self) -> np.ndarray:
        """Return the float64 values."""
        return np.ldexp(self.integers.astype(np.float64), self.exponent)


def shift_right(integers: np.ndarray, bits: int, rounding: Rounding | None = Rounding.NEAREST_EVEN) -> np.ndarray:
    """Return integers / 2**bits, to nearest even; without a rounding toward minus infinity, as a plain shift.

    >>> shift_right(np.array([5, 6, 7, -6]), 2), shift_right(np.array([-6]), 2, None)
    (array([ 1,  2,  2, -2]), array([-2]))
    """
    if rounding not in (None, Rounding.NEAREST_EVEN):
        raise MacloomError(f"dfp.rounding: must be 'nearest_even' or None, not {rounding.value!r}")
    if bits <= 0 or rounding is None:
        return integers >> max(bits, 0)
    floor = integers >> bits
    rest, half = integers & ((1 << bits) - 1), 1 << (bits - 1)
    return floor + ((rest > half) | ((rest == half) & (floor & 1 == 1)))


def multiply(a: Dynamic, b: Dynamic) -> Dynamic:
    """Return the exact elementwise product: integers multiply, exponents add."""
    return Dynamic(a.integers * b.integers, a.exponent + b.exponent)


def add(a: Dynamic, b: Dynamic, rounding: Rounding | None = Rounding.NEAREST_EVEN) -> Dynamic:
    """Return the sum at the larger exponent; the other operand is shifted right, see `shift_right`."""
    if a.exponent < b.exponent:
        a, b = b, a
    shifted = shift_right(b.integers, min(a.exponent - b.exponent, 62), rounding)
    return Dynamic(a.integers + shifted, a.exponent)


def down_convert(wide: Dynamic, width: int) -> Dynamic:
    """Return 32-bit integers brought to `width` bits by one common shift that fits the largest of them.

    The shift is as long as the largest magnitude needs; rounding is to nearest even, then clipped.
    """
    bits = int(np.abs(wide.integers).max(initial=0)).bit_length()
    shift = max(0, bits - (width - 1))
    top = (1 << (width - 1)) - 1
    return Dynamic(np.clip(shift_right(wide.integers, shift), -top, top), wide.exponent + shift)


def _build(width: int) -> Builder:
    def build(name: str, options: Options) -> TensorFormat:
        return DynamicFixedPoint(
            name=name,
            element=IntFormat(width=width),
            top=choice_option(options, "top", *Top),
            spill=integer_option(options, "spill", safe_chain(width)),
        )

    return build


def _fill() -> None:
    for width in WIDTHS:
        CATALOG.add(
            f"dfp{width}",
            Entry(
                family=BFP,
                summary=f"dynamic fixed point: {width}-bit integers, one 8-bit exponent per tensor (spill= sum length)",
                source="Das et al., Mixed Precision Training of CNNs using Integer Operations, ICLR 2018",
                build=_build(width),
                keys=("top", "spill"),
            ),
        )


_fill()
