"""Scaled formats: every element is an element-format value times a scale shared at some granularity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, largest_factor, output_for, rows_of
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import FP32
from macloom.formats.kernels.fused import GroupRule, encode_by_group, quantize_by_group
from macloom.formats.policy import DEFAULT_POLICY, Policy, Rounding
from macloom.formats.rounders import decode_rows, encode_rows, quantize_rows
from macloom.formats.scales import (
    Grain,
    Granularity,
    ScaleFormat,
    ScaleStorage,
    scale_storage_bits,
    store_scale,
)
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.unit_lookup import look_up

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Scaled(TensorFormat):
    """value = scale * element, symmetric, the scale rounded to `scale_format`.

    The element code is that of x / scale in float32, and the decoded value the float32 product. The
    default scale puts the largest magnitude of each granule on the largest element value; a granule
    of zeros has scale 1. With `full_range` it puts it on the element of largest magnitude, which for two's
    complement is -2**(b-1), so that a positive one saturates one step lower. With granularity NONE this is
    a plain cast. `policy` rounds elements only; scales are always nearest.

    >>> import numpy as np
    >>> from macloom.formats import IntFormat
    >>> fmt = Scaled(name="int4", element=IntFormat(width=4))
    >>> fmt.quantize(np.float32([7.0, -2.4, 0.6]))
    array([ 7., -2.,  1.], dtype=float32)
    """

    name: str
    element: ElementFormat
    granularity: Granularity = Granularity(grain=Grain.TENSOR)
    scale_format: ScaleFormat = FP32
    full_range: bool = False
    policy: Policy = DEFAULT_POLICY

    @property
    def reach(self) -> float:
        """The element magnitude on which the default scale puts the largest one."""
        return max(self.element.max_value, -self.element.min_value) if self.full_range else self.element.max_value

    @property
    def block(self) -> int | None:
        return self.granularity.size

    @property
    def static_scale(self) -> bool:
        return self.granularity.grain in (Grain.NONE, Grain.TENSOR)

    @property
    def encodes_by_row(self) -> bool:
        shared = isinstance(self.scale_format, ScaleStorage) and not self.scale_format.by_row
        draws = self.policy.rounding is Rounding.STOCHASTIC
        return not shared and not draws and (self.static_scale or self.granularity.grain in (Grain.ROW, Grain.GROUP))

    def scales_by_row(self, axes: int) -> bool | None:
        return self.granularity.by_row(axes)

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        x = as_float32(x)
        if self.granularity.grain is Grain.NONE:
            return np.float32(1)  # type: ignore[return-value]
        if self.element.min_value >= 0 and float(x.min(initial=0)) < 0:
            raise MacloomError(f"format {self.name!r}: stores no negative values, but the tensor holds {x.min():g}")
        largest = self.granularity.absolute_maximum(x, self.name)
        scale = largest * clip_share(clip) / np.float32(self.reach)
        scale = np.minimum(scale, self._largest_scale())
        if isinstance(self.scale_format, ScaleStorage) and self.scale_format.grouped:
            return store_scale(scale, self.scale_format)
        return np.asarray(np.where(largest > 0, store_scale(scale, self.scale_format), np.float32(1)), np.float32)

    def _largest_scale(self) -> np.float32:
        """Return the largest scale whose products with element values stay finite once it is stored."""
        if isinstance(self.scale_format, ScaleStorage):  # these round up by less than 2
            return np.float32(0.49 * FLOAT32_MAX / self.reach)
        limit = largest_factor(max(self.element.max_value, -self.element.min_value))
        if self.scale_format.bits > 16:
            return limit
        return np.float32(self.scale_format.quantize(np.array(limit), Rounding.TOWARD_ZERO))

    @property
    def scale_storage(self) -> ScaleFormat:
        return self.scale_format

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        if self.granularity.grain is Grain.NONE:
            return 0
        return scale_storage_bits(self.granularity.scale_shape(shape, self.name), self.scale_format)

    def _row_scales(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return self.granularity.row_scales(np.asarray(scale, np.float32), shape or (1,), self.name)

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        rows = rows_of(x)
        spread = self._row_scales(scale, x.shape)
        if self.element.bits > 16:
            check_finite(np.abs(rows), self.name)
            return rows.view(np.uint32).reshape(x.shape).copy(), np.asarray(scale, np.float32), np.float32(1)
        codes = encode_rows(self.element, rows, spread, rows.shape[1] // spread.shape[1], self.name, self.policy)
        return codes.reshape(x.shape), np.asarray(scale, np.float32), np.float32(1)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        result = output_for(template, out, x.shape)
        rows = rows_of(x)
        spread = self._row_scales(scale, x.shape)
        block = rows.shape[1] // spread.shape[1]
        quantize_rows(self.element, rows, spread, block, rows_of(result), self.name, self.policy)
        return result

    def _group_rule(self, length: int) -> tuple[int, GroupRule] | None:
        """Return the elements that share a scale and how it is made, None unless every row has its own."""
        own = type(self).calibrate is not Scaled.calibrate
        if own or self.granularity.grain not in (Grain.ROW, Grain.GROUP) or self.element.min_value >= 0:
            return None
        if isinstance(self.scale_format, ScaleStorage):
            return None
        rule = GroupRule(self.scale_format, self.reach, 0.0, float(self._largest_scale()), 1.0)
        return self.granularity.block(length, self.name), rule

    def _encode_at_once(self, x: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32] | None:
        rows = rows_of(x)
        found = self._group_rule(rows.shape[1])
        made = encode_by_group(self.element, rows, *found, clip, self.name, self.policy) if found else None
        if made is None:
            return None
        return (
            made[0].reshape(x.shape),
            made[1].reshape(self.granularity.scale_shape(x.shape, self.name)),
            np.float32(1),
        )

    def _quantize_at_once(self, x: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray | None:
        rows = rows_of(x)
        found = self._group_rule(rows.shape[1])
        if found is None:
            return None
        result = output_for(template, out, x.shape)
        done = quantize_by_group(self.element, rows, *found, clip, rows_of(result), self.name, self.policy)
        return result if done else None

    def decode(self, encoded: Encoded) -> np.ndarray:
        out = np.empty(encoded.shape, np.float32)
        self.decode_to(encoded, out)
        return out

    def decode_to(self, encoded: Encoded, out: np.ndarray) -> None:
        rows, into = rows_of(encoded.elements), rows_of(out)
        if self.element.bits > 16:
            np.copyto(into, rows.view(np.float32))
            return
        spread = self._row_scales(encoded.scales, encoded.shape)
        decode_rows(self.element, rows, spread, rows.shape[1] // spread.shape[1], into)

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
            units = look_up(table, encoded.elements)
        scales = spread.reshape(*encoded.shape[:-1], spread.shape[1])
        return Operand(units, unit, scales, length // spread.shape[1], encoded.outer, maximum)
