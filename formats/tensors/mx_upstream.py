"""MX as microsoft/microxcaling quantizes it, step by step in float32."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, output_for, rows_of
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FloatFormat
from macloom.formats.tensor import Encoded
from macloom.formats.tensors.block import Block

NAN_SCALE = 0xFF  # E8M0
BIAS = 127


class LibraryRounding(StrEnum):
    """The library's `round`, NEAREST its default: half away from zero. EVEN: half to even. FLOOR: toward zero."""

    NEAREST = "nearest"
    EVEN = "even"
    FLOOR = "floor"


def floor_log2(x: np.ndarray) -> np.ndarray:
    """Return floor(log2(x)) (int32) of positive float32 numbers as the library gets it from float32 logarithms.

    The correctly rounded float32 logarithm of a number just below a power of two is often that power's
    exponent, so that the result is one too large there.

    >>> floor_log2(np.nextafter(np.float32([4.0, 64.0]), np.float32(0))).tolist()
    [1, 6]
    """
    return np.floor(np.log2(x.astype(np.float64)).astype(np.float32)).astype(np.int32)


def _scaled(x: np.ndarray | np.floating, exponent: np.ndarray | int) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.ldexp(x, exponent).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class MxUpstream(Block):
    """MX as microsoft/microxcaling@7bc4195 computes it (`_quantize_mx` in PyTorch, its default settings).

    Upstream differs from OCP MX v1.0 and from this package's default in these points. Rounding: `round=nearest`,
    the library's default, is half away from zero by adding 0.5 in float32, which rounds the largest number below a half
    up, too; `even` and `floor` are its other modes. Scale: the exponent is the floor of a float32 logarithm, one
    too large just below most powers of two, where the largest element then becomes that power instead of saturating.
    A block whose largest magnitude rounds up to 2**128 overflows: float elements become infinite, integers make the
    scale NaN and with it the whole block. A block of zeros has the exponent of the smallest normal float32 number.
    Integers are sign and magnitude: -2 is not used, and neither is it by default. Not reproduced: NaN and infinities in
    the input, which make the library's block NaN and raise here, and its flushing of subnormal blocks, which is off.

    >>> from macloom.formats import get_format
    >>> get_format("mxfp4:mode=upstream").quantize(np.float32([5.0, -0.75, 0.25, 1.1]))
    array([ 6. , -1. ,  0.5,  1. ], dtype=float32)
    """

    round: LibraryRounding = LibraryRounding.NEAREST

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._stores_e4m3 or not isinstance(self.element, FloatFormat | IntFormat):
            raise MacloomError("mx.mode: 'upstream' knows power-of-two scales and float or integer elements only")

    @property
    def _largest_exponent(self) -> int:
        """The exponent that is subtracted from that of the largest magnitude (emax of the library)."""
        return self.element.max_exponent if isinstance(self.element, FloatFormat) else 0

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        """Return the scale of every block (..., blocks); NaN where the exponent overflows."""
        x = as_float32(x)
        largest = self._largest(x) * clip_share(clip)
        largest = np.where(largest == 0, np.finfo(np.float32).smallest_normal, largest).astype(np.float32)
        shared = floor_log2(largest) - self._largest_exponent
        scales = _scaled(np.float32(1), np.clip(shared, -BIAS, BIAS))
        scales = np.where(shared > BIAS, np.float32(np.nan), scales)
        return scales.reshape(*x.shape[:-1], scales.shape[1])

    def _rounded(self, x: np.ndarray) -> np.ndarray:
        """Return magnitudes rounded to integers as `_round_mantissa` does, with the sign."""
        size = np.abs(x)
        match self.round:
            case LibraryRounding.NEAREST:
                whole = np.floor(size + np.float32(0.5))
            case LibraryRounding.FLOOR:
                whole = np.floor(size)
            case LibraryRounding.EVEN:
                tie = np.fmod(size - np.float32(0.5), np.float32(2)) == 0
                whole = np.floor(size + np.float32(0.5)) - tie
        return np.sign(x) * whole

    def _elements(self, x: np.ndarray) -> np.ndarray:
        """Return the element values of scaled float32 numbers (`_quantize_elemwise_core`)."""
        top = np.float32(self.element.max_value)
        if isinstance(self.element, IntFormat):
            shift, exponent = self.element.fraction_bits, np.zeros(x.shape, np.int32)
        else:
            assert isinstance(self.element, FloatFormat)
            shift = self.element.mantissa_bits
            size = np.where(x == 0, np.float32(1), np.abs(x))
            exponent = np.maximum(floor_log2(size), self.element.min_exponent)
        # Division by a power of two and multiplication by another, each exact but at the ends of float32.
        out = self._rounded(_scaled(_scaled(x, -exponent), shift))
        return np.clip(_scaled(_scaled(out, -shift), exponent), -top, top)

    def _parts(self, x: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return element values (rows x length), scales and exponents (rows x blocks)."""
        rows = rows_of(x)
        check_finite(np.abs(rows), self.name)
        blocks = -(-rows.shape[1] // self.size)
        if scale.size != rows.shape[0] * blocks:
            expected = (*x.shape[:-1], blocks)
            raise MacloomError(f"scale: must have shape {expected} for a tensor of {x.shape}, not {scale.shape}")
        scales = np.ascontiguousarray(scale.reshape(-1, blocks), np.float32)
        exponents = np.frexp(np.where(np.isnan(scales), np.float32(1), scales))[1] - 1
        if not np.all((_scaled(np.float32(1), exponents) == scales) | np.isnan(scales)):
            raise MacloomError(f"scale: format {self.name!r} stores powers of two and NaN only")
        spread = np.repeat(exponents, self.size, axis=1)[:, : rows.shape[1]]
        return self._elements(_scaled(rows, -spread)), scales, exponents

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        values, scales, exponents = self._parts(x, scale)
        stored = np.where(np.isnan(scales), NAN_SCALE, exponents + BIAS).astype(np.uint8)
        return self.element.encode(values).reshape(x.shape), stored.reshape(*x.shape[:-1], -1), np.float32(1)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        result = output_for(template, out, x.shape)
        codes, stored, outer = self._encode(x, scale, clip)
        result[...] = self.decode(Encoded(self, x.shape, codes, stored, outer))
        return result

    def _encode_at_once(self, x: np.ndarray, clip: float) -> None:
        return None

    def _quantize_at_once(self, x: np.ndarray, clip: float, out: Any, template: Any) -> None:
        return None

    def decode(self, encoded: Encoded) -> np.ndarray:
        scales = np.repeat(self._scale_values(encoded), self.size, axis=1)
        values = self.element.decode(rows_of(encoded.elements))
        with np.errstate(over="ignore", invalid="ignore"):
            return (values * scales[:, : values.shape[1]]).reshape(encoded.shape)
