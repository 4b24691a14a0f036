"""Scaled formats: every element is an element-format value times a scale shared at some granularity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, output_for, rows_of
from macloom.formats.element import ElementFormat
from macloom.formats.minifloat import FP32, FloatFormat
from macloom.formats.rounders import decode_rows, encode_rows, quantize_rows
from macloom.formats.scales import Grain, Granularity, store_scale
from macloom.formats.tensor import Encoded, Operand, TensorFormat


@dataclass(frozen=True, kw_only=True)
class Scaled(TensorFormat):
    """value = scale * element, symmetric, the scale rounded to `scale_format`.

    The element code is that of x / scale in float32, and the decoded value the float32 product. The
    default scale puts the largest magnitude of each granule on the largest element value; a granule
    of zeros has scale 1. With granularity NONE this is a plain cast.

    >>> import numpy as np
    >>> from macloom.formats import IntFormat
    >>> fmt = Scaled(name="int4", element=IntFormat(width=4))
    >>> fmt.quantize(np.float32([7.0, -2.4, 0.6]))
    array([ 7., -2.,  1.], dtype=float32)
    """

    name: str
    element: ElementFormat
    granularity: Granularity = Granularity(grain=Grain.TENSOR)
    scale_format: FloatFormat = FP32

    @property
    def block(self) -> int | None:
        return self.granularity.size

    @property
    def static_scale(self) -> bool:
        return self.granularity.grain in (Grain.NONE, Grain.TENSOR)

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        if self.granularity.grain is Grain.NONE:
            return np.float32(1)  # type: ignore[return-value]
        x = as_float32(x)
        if self.element.min_value == 0 and float(x.min(initial=0)) < 0:
            raise MacloomError(f"format {self.name!r}: stores no negative values, but the tensor holds {x.min():g}")
        largest = self.granularity.absolute_maximum(x, self.name)
        scale = largest * np.float32(1 if clip is None else clip) / np.float32(self.element.max_value)
        return np.asarray(np.where(largest > 0, store_scale(scale, self.scale_format), np.float32(1)), np.float32)

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        if self.granularity.grain is Grain.NONE:
            return 0
        return math.prod(self.granularity.scale_shape(shape, self.name)) * self.scale_format.bits

    def _row_scales(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return self.granularity.row_scales(np.asarray(scale, np.float32), shape or (1,), self.name)

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        rows = rows_of(x)
        spread = self._row_scales(scale, x.shape)
        if self.element.bits > 16:
            check_finite(np.abs(rows), self.name)
            return rows.view(np.uint32).reshape(x.shape), np.asarray(scale, np.float32), np.float32(1)
        codes = encode_rows(self.element, rows, spread, rows.shape[1] // spread.shape[1], self.name)
        return codes.reshape(x.shape), np.asarray(scale, np.float32), np.float32(1)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        result = output_for(template, out, x.shape)
        rows = rows_of(x)
        spread = self._row_scales(scale, x.shape)
        quantize_rows(self.element, rows, spread, rows.shape[1] // spread.shape[1], rows_of(result), self.name)
        return result

    def decode(self, encoded: Encoded) -> np.ndarray:
        rows = rows_of(encoded.elements)
        if self.element.bits > 16:
            return encoded.elements.view(np.float32)
        spread = self._row_scales(encoded.scales, encoded.shape)
        return decode_rows(self.element, rows, spread, rows.shape[1] // spread.shape[1]).reshape(encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        if (
            self.granularity.grain is Grain.AXIS
            and self.granularity._axis(encoded.shape, self.name) == len(encoded.shape) - 1
        ):
            raise MacloomError(
                f"format {self.name!r}: its scale changes along the reduction axis, which no integer product "
                "can use; choose 'channel', 'token' or 'group=N'"
            )
        length = encoded.shape[-1]
        spread = self._row_scales(encoded.scales, encoded.shape)
        if self.element.bits > 16:
            units, unit, maximum = encoded.elements.view(np.float32), 0, self.max_unit
        else:
            table, unit, maximum = self.element.units
            units = np.take(table, encoded.elements)
        scales = spread.reshape(*encoded.shape[:-1], spread.shape[1])
        return Operand(units, unit, scales, length // spread.shape[1], encoded.outer, maximum)
