"""Dual-grained quantization: 4-bit weights whose groups scale to 8-bit integers (DGQ, arXiv 2310.04836)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, clip_share
from macloom.formats.element import OperandClass
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FP16
from macloom.formats.grammar import CATALOG, Entry, Options, integer_option
from macloom.formats.scales import Grain, Granularity, ScaleFormat, store_scale
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.tensors.affine import Affine

GROUP_SCALE_BITS = 4
INT8 = IntFormat(width=8)


@dataclass(frozen=True, kw_only=True)
class DualGrained(Affine):
    """value = row scale * w8 with the 8-bit integer w8 = (q - zero) * group scale.

    The group scale is an integer from 1 to `top`, which keeps every w8 within 8 bits, so that a whole
    row is one integer product. Each row's float16 scale is the largest of its groups' wishes divided by
    `top`; a group takes the nearest integer. Reconstruction: the paper searches both scales on a grid
    and its integer's width is not certain; here they follow from the extremes.

    What `calibrate` returns and `encode` takes holds the row scale, group scale and zero point on a last
    axis of three.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> fmt = get_format("dgq4:group=2")
    >>> fmt.calibrate(np.float32([[-40.0, 80.0, 0.0, 15.0]])).tolist()
    [[[1.0, 8.0, 5.0], [1.0, 1.0, 0.0]]]
    """

    width: int = 4
    granularity: Granularity = Granularity(grain=Grain.GROUP, size=128)
    scale_format: ScaleFormat = FP16
    top: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.granularity.grain is not Grain.GROUP:
            raise MacloomError(f"dgq.granularity: must be 'group', not {self.granularity.grain.value!r}")
        limit = int(INT8.max_value) // self.largest
        if not 1 <= self.top <= min(limit, 1 << GROUP_SCALE_BITS):
            raise MacloomError(f"dgq.top: must be from 1 to {limit}, so that weights fit 8 bits, not {self.top}")

    @property
    def operand(self) -> OperandClass:
        """That of the 8-bit integers, which the decoder makes of the codes."""
        return INT8.operand

    @property
    def max_unit(self) -> int:
        return self.largest * self.top

    @property
    def decoder_bits(self) -> int:
        return self.width

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        groups = self.granularity.scale_shape(shape, self.name)
        rows = int(np.prod(groups[:-1], dtype=np.int64))
        return rows * (FP16.bits + groups[-1] * (GROUP_SCALE_BITS + self.width))

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        """Return row scale, group scale and zero point of every group (..., groups, 3)."""
        low, high = (np.asarray(end, np.float64) * clip_share(clip) for end in self.extremes(as_float32(x)))
        wanted = ((high - low) / self.largest).astype(np.float32)
        row = store_scale(wanted.max(axis=-1, keepdims=True) / np.float32(self.top), FP16)
        group = np.clip(np.rint(wanted / row), 1, self.top).astype(np.float32)
        zero = np.clip(np.rint(np.abs(low).astype(np.float32) / (row * group)), 0, self.largest)
        return np.stack((np.broadcast_to(row, group.shape), group, zero.astype(np.float32)), axis=-1)

    def _parts(self, scale: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        expected = (*self.granularity.scale_shape(shape, self.name), 3)
        if scale.shape != expected:
            raise MacloomError(
                f"scale: must hold row scale, group scale and zero point on its last axis, shape {expected} for a "
                f"tensor of {shape}, not {scale.shape}"
            )
        row, group = scale[..., 0], scale[..., 1]
        if not np.all((group >= 1) & (group <= self.top) & (group == np.rint(group))):
            raise MacloomError(f"scale: group scales must be integers from 1 to {self.top}")
        if not np.all(row == row[..., :1]) or not np.array_equal(FP16.quantize(row), row):
            raise MacloomError("scale: a row must have one scale, a float16")
        return row, group, scale[..., 2]

    def spread(self, scale: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
        # Exact: 11 bits of the row scale times 4 of the group's.
        row, group, zero = self._parts(scale, shape)
        return super().spread(np.stack((row * group, zero), axis=-1), shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        shape = encoded.shape
        row, group, zero = self._parts(np.asarray(encoded.scales, np.float32), shape)
        block = shape[-1] // group.shape[-1]
        units = encoded.elements.astype(np.float32) - np.repeat(zero, block, axis=-1)
        units *= np.repeat(group, block, axis=-1)
        return Operand(units, 0, np.ascontiguousarray(row[..., :1]), shape[-1], encoded.outer, self.max_unit)


def _build(name: str, options: Options) -> TensorFormat:
    size = integer_option(options, "group", 128)
    return DualGrained(name=name, granularity=Granularity(grain=Grain.GROUP, size=size))


CATALOG.add(
    "dgq4",
    Entry(
        summary="4-bit weights with zero points, integer group scales and a float16 scale per row",
        source="Zhang et al., Dual Grained Quantization, 2023; a reconstruction",
        build=_build,
        keys=("group",),
    ),
)
