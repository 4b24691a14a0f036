"""The way from the sums of an integer accumulator to the codes of the next operand, in integers.

A real scale becomes multiplier * 2**(shift - 31) with a 31-bit multiplier, and

    code = clamp(zero_point + activation(rescale(sum + bias)))

where `sum + bias` saturates at 32 bits. How `rescale` rounds is `Scheme`. The first one is the arithmetic of
gemmlowp (fixedpoint.h: `SaturatingRoundingDoublingHighMul`, then `RoundingDivideByPOT`), which Jacob et al.
(CVPR 2018) describe and TensorFlow Lite's `MultiplyByQuantizedMultiplier` calls; it rounds twice. The second
is what the same function does when it is built with TFLITE_SINGLE_ROUNDING.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.accumulators.integer import IntegerAccumulator
from macloom.formats.accumulators.segments import common_segment
from macloom.formats.elements.integer import IntFormat
from macloom.formats.gemm_report import GemmReport
from macloom.formats.tensor import Encoded

LOW, HIGH = -(1 << 31), (1 << 31) - 1


class Scheme(StrEnum):
    """How a 32-bit integer x is multiplied by multiplier * 2**(shift - 31).

    DOUBLING_HIGH: x is shifted left by `shift` if that is positive, multiplied, and divided by 2**31, to nearest,
    ties toward plus infinity; then the rest of the shift divides by a power of two, to nearest, ties away from
    zero. What leaves 32 bits on the way saturates. This is gemmlowp's and TensorFlow Lite's reference.
    SINGLE: (x * multiplier + half) >> (31 - shift), one rounding, ties toward plus infinity.
    EVEN: one rounding to nearest, ties to even.
    FLOOR: one arithmetic shift, which rounds toward minus infinity.
    """

    DOUBLING_HIGH = "doubling_high"
    SINGLE = "single"
    EVEN = "even"
    FLOOR = "floor"


class Activation(StrEnum):
    """What is applied to the rescaled sum, in units of the output: RELU clamps at the zero point from below."""

    NONE = "none"
    RELU = "relu"


@dataclass(frozen=True, kw_only=True)
class Requantize:
    """Bias, integer scale, activation, zero point and range of an output; see the module.

    Attributes:
        multiplier: from 2**30 to 2**31 - 1, or 0; one, or one per output channel (column).
        shift: from -31 to 30, like `multiplier`.
        scheme: how the multiplication rounds.
        zero_point: the code that stands for zero.
        bias: added to the sums, in their unit; one, or one per output channel.
        activation: see `Activation`.
        least, most: codes are clamped to these; None is the end of the output format's range.
        output: the integer format of the codes.

    >>> import numpy as np
    >>> layer = Requantize.from_scale(0.0123, output=IntFormat(width=8))
    >>> layer(np.array([[1000, -5000, 20000]], np.int32)).tolist()
    [[12, -62, 127]]
    """

    multiplier: int | tuple[int, ...]
    shift: int | tuple[int, ...]
    scheme: Scheme = Scheme.DOUBLING_HIGH
    zero_point: int = 0
    bias: int | tuple[int, ...] = 0
    activation: Activation = Activation.NONE
    least: int | None = None
    most: int | None = None
    output: IntFormat = IntFormat(width=8)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheme", Scheme(self.scheme))
        object.__setattr__(self, "activation", Activation(self.activation))
        for value in _tuple(self.multiplier):
            if value != 0 and not 1 << 30 <= value <= HIGH:
                raise MacloomError(f"requantize.multiplier: must be 0 or from 2**30 to 2**31 - 1, not {value}")
        for value in _tuple(self.shift):
            if not -31 <= value <= 30:
                raise MacloomError(f"requantize.shift: must be from -31 to 30, not {value}")
        for value in _tuple(self.bias):
            if not LOW <= value <= HIGH:
                raise MacloomError(f"requantize.bias: must fit 32 bits, not {value}")
        lengths = {len(t) for t in (self.multiplier, self.shift, self.bias) if isinstance(t, tuple)}
        if len(lengths) > 1:
            raise MacloomError(
                f"requantize: multiplier, shift and bias must have one entry per output channel, not {sorted(lengths)}"
            )
        low, high = self.range
        if not low <= self.zero_point <= high:
            raise MacloomError(f"requantize.zero_point: must be a code from {low} to {high}, not {self.zero_point}")
        if low > high or low < int(self.output.min_value) or high > int(self.output.max_value):
            raise MacloomError(
                f"requantize: the range {low} to {high} must lie in that of {self.output.name!r}, "
                f"{int(self.output.min_value)} to {int(self.output.max_value)}"
            )

    @classmethod
    def from_scale(cls, scale: float | np.ndarray, output: IntFormat, **options: object) -> Requantize:
        """Return the epilogue for a real scale (of the sums over that of the output), or one per channel.

        The relative error of the integer scale is at most 2**-31; see `scale_error`.

        Raises:
            MacloomError: a scale is not positive, or outside what multiplier and shift reach.
        """
        pairs = [quantize_scale(float(s)) for s in np.atleast_1d(np.asarray(scale, np.float64))]
        multiplier, shift = tuple(m for m, _ in pairs), tuple(s for _, s in pairs)
        if np.ndim(scale) == 0:
            return cls(multiplier=multiplier[0], shift=shift[0], output=output, **options)  # type: ignore[arg-type]
        return cls(multiplier=multiplier, shift=shift, output=output, **options)  # type: ignore[arg-type]

    @property
    def range(self) -> tuple[int, int]:
        """The least and the most code that comes out."""
        low = int(self.output.min_value) if self.least is None else self.least
        high = int(self.output.max_value) if self.most is None else self.most
        return (max(low, self.zero_point) if self.activation is Activation.RELU else low), high

    @property
    def scale(self) -> Fraction | tuple[Fraction, ...]:
        """The scale that the integers stand for, exactly."""
        found = tuple(
            Fraction(m) * Fraction(2) ** (s - 31)
            for m, s in np.broadcast(np.array(_tuple(self.multiplier), object), np.array(_tuple(self.shift), object))
        )
        return found if isinstance(self.multiplier, tuple) else found[0]

    def __call__(self, sums: np.ndarray) -> np.ndarray:
        """Return the output codes, as integers, of int32 sums (..., N).

        Raises:
            MacloomError: sums are not 32-bit integers, or channels and columns do not agree.
        """
        x = np.asarray(sums)
        if x.dtype.kind != "i" or (x.size and not (x.min() >= LOW and x.max() <= HIGH)):
            raise MacloomError(f"requantize: needs sums of a 32-bit register as integers, not {x.dtype}")
        channels = max(len(_tuple(t)) for t in (self.multiplier, self.shift, self.bias))
        if channels > 1 and x.shape[-1:] != (channels,):
            raise MacloomError(f"requantize: has {channels} output channels, and the sums have shape {x.shape}")
        multiplier, shift, bias = (np.array(_tuple(t), np.int64) for t in (self.multiplier, self.shift, self.bias))
        total = np.clip(x.astype(np.int64) + bias, LOW, HIGH)
        low, high = self.range
        return np.clip(_RESCALE[self.scheme](total, multiplier, shift) + self.zero_point, low, high)


def requantized_gemm(
    a: Encoded,
    b: Encoded,
    epilogue: Requantize,
    accumulator: IntegerAccumulator | None = None,
    report: GemmReport | None = None,
) -> np.ndarray:
    """Return the output codes of an integer product, (..., M, N): `epilogue` applied to the sums of the register.

    The scales of the operands are not applied, they are part of the epilogue's.

    Args:
        accumulator: an integer register of at most 32 bits; None takes one of 32 that wraps.

    Raises:
        MacloomError: K has several scales, an operand has outliers apart, or the register is wider.
    """
    x, y = a.operand(), b.operand()
    chosen = accumulator or IntegerAccumulator()
    if common_segment(x, y) != x.units.shape[-1] or x.sparse is not None or y.sparse is not None or chosen.bits > 32:
        raise MacloomError(
            f"requantize: needs one integer sum of at most 32 bits per output, and {x.label} and {y.label} in "
            f"{chosen.name!r} have scales along K, outliers apart, or a wider register; apply the scales in float32"
        )
    chosen.check(x, y)
    filled = report or GemmReport()
    sums = chosen.sums(x, y, filled)
    filled.accumulator, filled.outputs = chosen.name, filled.outputs + sums.size
    return epilogue(sums)


def quantize_scale(scale: float) -> tuple[int, int]:
    """Return (multiplier, shift) with multiplier * 2**(shift - 31) nearest to `scale`, ties away from zero.

    >>> quantize_scale(1.0), quantize_scale(0.3)
    ((1073741824, 1), (1288490189, -1))
    """
    if not 0 < scale < float("inf"):
        raise MacloomError(f"requantize.scale: must be positive and finite, not {scale!r}")
    fraction, shift = np.frexp(scale)
    multiplier, shift = int(Fraction(float(fraction)) * (1 << 31) + Fraction(1, 2)), int(shift)
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    if not -31 <= shift <= 30:
        raise MacloomError(f"requantize.scale: must be from 2**-32 to 2**30, not {scale!r}; rescale the tensors")
    return multiplier, shift


def scale_error(scale: float) -> float:
    """Return the relative error of the integers that stand for a scale, at most 2**-31.

    >>> scale_error(0.5), abs(scale_error(0.3)) <= 2**-31
    (0.0, True)
    """
    multiplier, shift = quantize_scale(scale)
    return float(Fraction(multiplier) * Fraction(2) ** (shift - 31) / Fraction(scale) - 1)


def requantize_reference(total: int, record: Requantize, channel: int = 0) -> int:
    """Return the output code of one sum, on Python integers, as the definitions read."""
    multiplier, shift, bias = (
        t[channel] if isinstance(t, tuple) else t for t in (record.multiplier, record.shift, record.bias)
    )
    x = min(max(total + bias, LOW), HIGH)
    match record.scheme:
        case Scheme.DOUBLING_HIGH:
            left, right = max(shift, 0), max(-shift, 0)
            scaled = _divide_by_power(_doubling_high(min(max(x << left, LOW), HIGH), multiplier), right)
        case Scheme.SINGLE:
            scaled = (x * multiplier + (1 << (30 - shift))) >> (31 - shift)
        case Scheme.EVEN:
            scaled = round(Fraction(x * multiplier, 1 << (31 - shift)))
        case Scheme.FLOOR:
            scaled = (x * multiplier) >> (31 - shift)
    low, high = record.range
    return min(max(scaled + record.zero_point, low), high)


def _doubling_high(a: int, b: int) -> int:
    """gemmlowp's SaturatingRoundingDoublingHighMul."""
    if a == b == LOW:
        return HIGH
    product = a * b
    nudge = 1 << 30 if product >= 0 else 1 - (1 << 30)
    total = product + nudge
    return total >> 31 if total >= 0 else -(-total >> 31)  # C++ division truncates


def _divide_by_power(x: int, exponent: int) -> int:
    """gemmlowp's RoundingDivideByPOT: to nearest, ties away from zero."""
    mask = (1 << exponent) - 1
    remainder, threshold = x & mask, (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (remainder > threshold)


def _by_doubling_high(x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    x = np.clip(x << np.maximum(shift, 0), LOW, HIGH)
    product = x * multiplier
    total = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.where(total >= 0, total >> 31, -(-total >> 31))
    right = np.maximum(-shift, 0)
    mask = (np.int64(1) << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


def _once(x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    # A sum and a multiplier of 31 bits and a sign have a product of 62 bits, which the half leaves in 63.
    return (x * multiplier + (np.int64(1) << (30 - shift))) >> (31 - shift)


def _to_even(x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    product, places = x * multiplier, 31 - shift
    low, rest = product >> places, product & ((np.int64(1) << places) - 1)
    half = np.int64(1) << (places - 1)
    return low + ((rest > half) | ((rest == half) & (low & 1 == 1)))


def _floor(x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return (x * multiplier) >> (31 - shift)


_RESCALE = {
    Scheme.DOUBLING_HIGH: _by_doubling_high,
    Scheme.SINGLE: _once,
    Scheme.EVEN: _to_even,
    Scheme.FLOOR: _floor,
}


def _tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
