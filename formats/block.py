"""Block formats: OCP MX, NVFP4 and block floating point, whose blocks of a row share a scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.arrays import as_float32, check_finite, output_for, rows_of
from macloom.formats.element import ElementFormat
from macloom.formats.minifloat import FloatFormat, Specials
from macloom.formats.rounders import decode_rows, encode_rows, quantize_rows
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.threads import run_rows

E8M0 = FloatFormat(label="e8m0", exponent_bits=8, mantissa_bits=0, signed=False, zero=False, specials=Specials.FN)
E4M3 = FloatFormat(label="fp8_e4m3", exponent_bits=4, mantissa_bits=3, specials=Specials.FN)


class ScaleRule(StrEnum):
    """How the largest magnitude m of a block becomes its power-of-two scale.

    FLOOR: 2**(floor(log2 m) - emax), OCP MX v1.0 section 6.3. CEIL: the exponent rounded up. EVEN: m is
    first rounded to the element's mantissa width. RCEIL: the smallest power of two for which m / scale
    does not exceed the largest element value.
    """

    FLOOR = "floor"
    CEIL = "ceil"
    EVEN = "even"
    RCEIL = "rceil"


def power_of_two_exponents(largest: np.ndarray, element: ElementFormat, rule: ScaleRule) -> np.ndarray:
    """Return the E8M0 exponents (int32, -127..127) for blocks with these largest magnitudes."""
    bits = largest.view(np.uint32).astype(np.int64)
    emax = math.frexp(element.max_value)[1] - 1
    match rule:
        case ScaleRule.EVEN:
            significand_bits = element.operand.significand_bits - 2  # without sign and hidden bit
            bits = bits + (1 << (22 - significand_bits))
            exponents = (bits >> 23) - 127 - emax
        case ScaleRule.CEIL:
            exponents = (bits >> 23) - 127 + ((bits & 0x7FFFFF) != 0) - emax
        case ScaleRule.RCEIL:
            ratio = (largest * (np.float32(1) / np.float32(element.max_value))).view(np.uint32).astype(np.int64)
            exponents = (ratio >> 23) - 127 + ((ratio & 0x7FFFFF) != 0)
        case ScaleRule.FLOOR:
            exponents = (bits >> 23) - 127 - emax
    return np.clip(exponents, -127, 127).astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class Block(TensorFormat):
    """Blocks of `size` elements along the last axis share a scale; a row's last block may be shorter.

    With an E8M0 scale this is OCP MX v1.0 or, over integers, block floating point. With `two_level`
    the block scale is stored as E4M3 relative to a float32 scale of the tensor, which puts the
    tensor's largest magnitude on the largest scale times the largest element (NVFP4). A block of
    zeros takes the smallest scale. `clip` below 1 shrinks the magnitude from which scales are made.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> get_format("mxfp4").quantize(np.float32([5.3, -0.7, 0.25, 1.1]))
    array([ 6. , -0.5,  0. ,  1. ], dtype=float32)
    """

    name: str
    element: ElementFormat
    size: int = 32
    rule: ScaleRule = ScaleRule.FLOOR
    two_level: bool = False

    def __post_init__(self) -> None:
        require_positive_integer("block.size", self.size)

    @property
    def block(self) -> int | None:
        return self.size

    @property
    def static_scale(self) -> bool:
        return self.two_level

    @property
    def scale_format(self) -> FloatFormat:
        return E4M3 if self.two_level else E8M0

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        blocks = math.prod(shape[:-1]) * -(-shape[-1] // self.size)
        return blocks * self.scale_format.bits + (32 if self.two_level else 0)

    def _largest(self, x: np.ndarray) -> np.ndarray:
        """Return the largest magnitude of each block, rows x blocks."""
        from macloom.formats.kernels import absmax

        rows = rows_of(x)
        out = np.empty((rows.shape[0], -(-rows.shape[1] // self.size)), np.float32)
        run_rows(absmax, rows.shape[0], x.size, rows, self.size, out)
        check_finite(out, self.name)
        return out

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        """Return the scale of every block (..., blocks); for two levels the scale of the tensor."""
        x = as_float32(x)
        largest = self._largest(x)
        if clip is not None:
            largest = largest * np.float32(clip)
        if not self.two_level:
            exponents = power_of_two_exponents(largest, self.element, self.rule)
            scales = np.ldexp(np.float32(1), exponents)
            return scales.reshape(*x.shape[:-1], scales.shape[1])
        top = np.float32(E4M3.max_value * self.element.max_value)
        outer = largest.max() / top
        return np.asarray(outer if outer > 0 else np.float32(1), np.float32)

    def _inner(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """Return stored block scales as values, as codes, and the scale of the tensor."""
        if not self.two_level:
            rows, blocks = math.prod(x.shape[:-1]), -(-x.shape[-1] // self.size) if x.ndim else 1
            if scale.size != rows * blocks:
                expected = (*x.shape[:-1], blocks)
                raise MacloomError(f"scale: must have shape {expected} for a tensor of {x.shape}, not {scale.shape}")
            values = np.ascontiguousarray(scale.reshape(rows, blocks), np.float32)
            exponents = np.frexp(values)[1] - 1
            if not np.array_equal(np.ldexp(np.float32(1), exponents), values):
                raise MacloomError(f"scale: format {self.name!r} stores powers of two only")
            return values, (exponents + 127).astype(np.uint8), np.float32(1)
        if scale.size != 1:
            raise MacloomError(
                f"scale: format {self.name!r} takes the one scale of the tensor, not shape {scale.shape}"
            )
        outer = np.float32(scale.reshape(()))
        wanted = self._largest(x) * np.float32(clip) / np.float32(self.element.max_value) / outer
        # Normal E4M3 scales only, as in torchao: 2**-6 is the smallest.
        wanted = np.clip(wanted, np.float32(2.0**-6), np.float32(E4M3.max_value))
        codes = encode_rows(E4M3, wanted, np.ones((wanted.shape[0], 1), np.float32), wanted.shape[1], self.name)
        return E4M3.decode(codes), codes, outer

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        inner, codes, outer = self._inner(x, scale, clip)
        elements = encode_rows(self.element, rows_of(x), inner * outer, self.size, self.name)
        return elements.reshape(x.shape), codes.reshape(*x.shape[:-1], codes.shape[1]), outer

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        result = output_for(template, out, x.shape)
        inner, _, outer = self._inner(x, scale, clip)
        quantize_rows(self.element, rows_of(x), inner * outer, self.size, rows_of(result), self.name)
        return result

    def _scale_values(self, encoded: Encoded) -> np.ndarray:
        codes = rows_of(encoded.scales)
        return E4M3.decode(codes) if self.two_level else np.take(E8M0.values, codes).astype(np.float32)

    def decode(self, encoded: Encoded) -> np.ndarray:
        scales = self._scale_values(encoded) * encoded.outer
        return decode_rows(self.element, rows_of(encoded.elements), scales, self.size).reshape(encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        table, unit, largest = self.element.units
        scales = self._scale_values(encoded).reshape(encoded.scales.shape)
        return Operand(np.take(table, encoded.elements), unit, scales, self.size, encoded.outer, largest)
