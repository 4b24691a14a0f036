"""Activations with pre-shifted exponent biases (LLM-FP4, Liu et al., EMNLP 2023)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, clip_share, largest_factor, output_for, rows_of
from macloom.formats.element import OperandClass
from macloom.formats.elements.codebook import Mode
from macloom.formats.elements.minifloat import FP32, FloatFormat
from macloom.formats.families import SEARCHED
from macloom.formats.grammar import CATALOG, Entry, Options, choice_option
from macloom.formats.rounders import decode_rows, encode_rows, quantize_rows
from macloom.formats.scales import SMALLEST_SCALE, Grain, Granularity
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.tensors.llm_fp4 import bias_of, candidates, element_option, error_by_row, least_error

FLOAT32_MAX = np.finfo(np.float32).max


@dataclass(frozen=True, kw_only=True)
class PreShifted(TensorFormat):
    """Activations with one real bias for the tensor and an integer one per channel (the last axis).

    A channel's bias b~ is rounded; its distance from the tensor's, the smallest, becomes a shift of 0 to
    2**e - 1, e being the exponent bits. The channel's scale is the tensor's times 2**-shift. In hardware
    the shift is added to the element's exponent, or folded once into the weights' rows: the results
    are equal. The tensor's bias is then searched for the least squared error, unless `clip` is given.

    `calibrate` returns one scale per channel; `encode` takes such, each the largest one over a power of
    two. Stored are the tensor's scale in 32 bits and e bits per channel.

    >>> from macloom.formats.tensors.llm_fp4 import ELEMENTS
    >>> fmt = PreShifted(name="a", element=ELEMENTS["e2m1"])
    >>> (0.5 / fmt.calibrate(np.float32([[1, 8, 0.5]]), clip=1.0)).tolist()
    [3.0, 0.375, 3.0]
    """

    name: str
    element: FloatFormat  # type: ignore[assignment]
    mode: Mode = Mode.PAPER

    @property
    def largest_shift(self) -> int:
        return (1 << self.element.exponent_bits) - 1

    @property
    def max_unit(self) -> int:
        return self.element.largest_unit << self.largest_shift

    @property
    def operand(self) -> OperandClass:
        own = self.element.operand
        exponents = [self.element.pair(int(c))[0] for c in self.element.encodable[1]]
        span = max(exponents) - min(exponents) + self.largest_shift
        return replace(own, exponent_bits=span.bit_length(), integer_bits=1 + self.max_unit.bit_length())

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return FP32.bits + (shape[-1] if shape else 1) * self.element.exponent_bits

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        x = as_float32(x)
        channels = Granularity(grain=Grain.AXIS, axis=-1)
        largest = channels.absolute_maximum(x.reshape(x.shape or (1,)), self.name) * clip_share(clip)
        top = np.float32(self.element.max_value)
        base = np.clip(largest.max() / top, SMALLEST_SCALE, largest_factor(float(top)))
        with np.errstate(divide="ignore"):
            bias = bias_of(largest.astype(np.float64) / float(top), self.element)
        wanted = np.minimum(np.rint(bias), 1e6) - np.rint(bias_of(base, self.element))
        shifts = np.clip(wanted, 0, self.largest_shift).astype(np.int32)
        if not np.any(largest):
            base, shifts = np.float32(1), np.zeros(len(largest), np.int32)
        elif clip is None:
            base = self._search(rows_of(x), np.float32(base), shifts)
        # A channel's scale stays a normal number.
        return np.ldexp(np.maximum(np.float32(base), SMALLEST_SCALE * np.float32(1 << self.largest_shift)), -shifts)

    def _search(self, rows: np.ndarray, base: np.float32, shifts: np.ndarray) -> np.ndarray:
        """Return the tensor's scale of least error, the channels' shifts being what they are."""
        # Every channel brought to the tensor's scale, which is exact but next to the ends of float32.
        with np.errstate(over="ignore"):
            level = np.clip(np.ldexp(rows, shifts), -FLOAT32_MAX, FLOAT32_MAX)
        by_row = error_by_row(self.element, level, np.ldexp(np.float32(1), -shifts), self.name)

        def error(scale: np.ndarray) -> np.ndarray:
            return by_row(np.full(len(rows), scale, np.float32)).sum()

        return least_error(candidates(np.asarray(base), self.element, self.mode), error)

    def _shifts(self, scale: np.ndarray, shape: tuple[int, ...]) -> tuple[np.float32, np.ndarray]:
        """Return the tensor's scale and the shift of every channel."""
        expected = shape[-1:] or (1,)
        if scale.shape != expected:
            raise MacloomError(f"scale: must have shape {expected} for a tensor of {shape}, not {scale.shape}")
        if not np.all((scale > 0) & np.isfinite(scale)):
            raise MacloomError(f"scale: must be positive and finite, not {float(scale[~(scale > 0)].sum())}")
        base = scale.max()
        mantissa, exponent = np.frexp(base / scale)
        if not np.all(mantissa == 0.5) or exponent.max() - 1 > self.largest_shift:
            raise MacloomError(f"scale: must be the largest one over powers of two up to 2**{self.largest_shift}")
        return np.float32(base), exponent - 1

    def _spread(self, scale: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.broadcast_to(scale, rows.shape))

    def _values(self, rows: np.ndarray, scale: np.ndarray, out: np.ndarray) -> np.ndarray:
        quantize_rows(self.element, rows, self._spread(scale, rows), 1, out, self.name)
        return out

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        self._shifts(scale, x.shape)
        rows = rows_of(x)
        codes = encode_rows(self.element, rows, self._spread(scale, rows), 1, self.name)
        return codes.reshape(x.shape), np.array(scale, np.float32), np.float32(1)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        self._shifts(scale, x.shape)
        result = output_for(template, out, x.shape)
        self._values(rows_of(x), scale, rows_of(result))
        return result

    def decode(self, encoded: Encoded) -> np.ndarray:
        scale = np.asarray(encoded.scales, np.float32)
        self._shifts(scale, encoded.shape)
        codes = rows_of(encoded.elements)
        values = decode_rows(self.element, codes, np.ones((len(codes), 1), np.float32), codes.shape[1])
        values *= scale
        return values.reshape(encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        base, shifts = self._shifts(np.asarray(encoded.scales, np.float32), encoded.shape)
        table, unit, _ = self.element.units
        units = np.ldexp(np.take(table, encoded.elements), self.largest_shift - shifts).astype(np.float32)
        scales = np.full((*encoded.shape[:-1], 1), base, np.float32)
        return Operand(units, unit - self.largest_shift, scales, encoded.shape[-1], encoded.outer, self.max_unit)


def _build(name: str, options: Options) -> TensorFormat:
    return PreShifted(name=name, element=element_option(options), mode=choice_option(options, "mode", *Mode))


CATALOG.add(
    "llm_fp4_act",
    Entry(
        family=SEARCHED,
        summary="4-bit floats with one searched exponent bias and an integer shift per channel",
        source="Liu et al., LLM-FP4, EMNLP 2023",
        build=_build,
        keys=("format", "mode"),
    ),
)
