"""TF32: float32 words whose mantissa is rounded to 10 bits, as tensor cores read them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.formats.arrays import check_finite, output_for, rows_of
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import FP32, FloatFormat, Specials
from macloom.formats.families import FLOAT
from macloom.formats.grammar import CATALOG, Entry, Options, choice_option
from macloom.formats.scales import Grain, Granularity
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.scaled import Scaled


class WordFloat(FloatFormat):
    """A float of 19 bits (E8M10) that lies in the high bits of a 32-bit word; it has no table of values."""

    wide = ((8, 10),)


TF32 = WordFloat(label="tf32", exponent_bits=8, mantissa_bits=10, specials=Specials.IEEE)
DROPPED = FP32.mantissa_bits - TF32.mantissa_bits


class OperandRounding(StrEnum):
    """How float32 becomes TF32. NEAREST_AWAY: ties away from zero, the conversion instruction. NEAREST_EVEN: ties
    to even. TOWARD_ZERO: the low bits dropped, as a tensor core does with float32 that nobody converted."""

    NEAREST_AWAY = "nearest_away"
    NEAREST_EVEN = "nearest_even"
    TOWARD_ZERO = "toward_zero"


def round_tf32(x: np.ndarray, rounding: OperandRounding = OperandRounding.NEAREST_AWAY) -> np.ndarray:
    """Return finite float32 numbers rounded to 10 mantissa bits; what would overflow takes the largest number.

    >>> round_tf32(np.float32([1 + 2**-11, -1 - 2**-11, 1 + 3 * 2**-12])).tolist()
    [1.0009765625, -1.0009765625, 1.0009765625]
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    sign, size = bits & np.uint32(0x80000000), bits & np.uint32(0x7FFFFFFF)
    half = np.uint32(1 << (DROPPED - 1))
    match rounding:
        case OperandRounding.NEAREST_AWAY:
            size = size + half
        case OperandRounding.NEAREST_EVEN:
            size = size + (half - np.uint32(1)) + (size >> np.uint32(DROPPED) & np.uint32(1))
        case OperandRounding.TOWARD_ZERO:
            pass
    largest = np.array(TF32.max_value, np.float32).view(np.uint32)
    size = np.minimum(size >> np.uint32(DROPPED) << np.uint32(DROPPED), largest)
    return (sign | size).view(np.float32)


@dataclass(frozen=True, kw_only=True)
class Tf32(Scaled):
    """float32 with the 13 lowest mantissa bits zero: TF32, the operand format of tensor cores, without a scale.

    A number keeps its 32-bit word in memory, which is what it costs; a multiplier sees 8 exponent and 10 mantissa bits.
    Subnormal numbers round in the same steps as the smallest normal ones. Numbers that would round beyond the
    largest one take it.

    >>> Tf32(name="tf32").quantize(np.float32([1 / 3]))
    array([0.33325195], dtype=float32)
    """

    element: ElementFormat = TF32
    granularity: Granularity = Granularity(grain=Grain.NONE)
    round: OperandRounding = OperandRounding.NEAREST_AWAY

    @property
    def code_bits(self) -> int:
        return FP32.bits

    @property
    def decoder_bits(self) -> int:
        return FP32.bits

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        check_finite(np.abs(rows_of(x)), self.name)
        return super()._encode(round_tf32(x, self.round).reshape(x.shape), scale, clip)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        check_finite(np.abs(rows_of(x)), self.name)
        self._row_scales(scale, x.shape)  # raises if there is one
        result = output_for(template, out, x.shape)
        result[...] = round_tf32(x, self.round).reshape(x.shape)
        return result


def _build(name: str, options: Options) -> TensorFormat:
    return Tf32(name=name, round=choice_option(options, "round", *OperandRounding))


CATALOG.add(
    "tf32",
    Entry(
        family=FLOAT,
        summary="float32 rounded to 10 mantissa bits, in 32-bit words",
        source="NVIDIA PTX ISA, cvt.rna.tf32.f32; the default rounding is that instruction's",
        build=_build,
        keys=("round",),
        explains=(OperandRounding,),
    ),
)
