"""Affine unsigned integers: a scale and a zero point for every granule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, output_for, rows_of
from macloom.formats.element import ElementFormat
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FP32
from macloom.formats.families import INTEGER
from macloom.formats.grammar import (
    CATALOG,
    Builder,
    Entry,
    Options,
    granularity_option,
    integer_option,
    stored_scale_option,
)
from macloom.formats.scales import Grain, Granularity, ScaleFormat, ScaleStorage, scale_storage_bits, store_scale
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.threads import run_rows

WIDTHS = range(2, 17)


@dataclass(frozen=True, kw_only=True)
class Affine(TensorFormat):
    """value = scale * (q - zero) with q and zero integers from 0 to 2**width - 1.

    The scale is (max - min) / (2**width - 1), the range widened to hold zero, which is therefore exact:
    zero = round(-min / scale), q = clip(round(x / scale) + zero), ties to even. Both roundings act on
    float32 quotients. A granule of zeros has scale 1 and zero point 0.

    What `calibrate` returns and `encode` takes holds the scale and the zero point on a last axis of two.

    >>> import numpy as np
    >>> fmt = Affine(name="affine4", width=4)
    >>> fmt.calibrate(np.float32([-3.0, 12.0])), fmt.quantize(np.float32([-3.0, 0.0, 4.4, 12.0]))
    (array([1., 3.], dtype=float32), array([-3.,  0.,  4., 12.], dtype=float32))
    """

    name: str
    width: int
    granularity: Granularity = Granularity(grain=Grain.TENSOR)
    scale_format: ScaleFormat = FP32
    zero_bits: int | None = None

    def __post_init__(self) -> None:
        IntFormat(width=self.width, signed=False)
        if self.zero_bits is not None and not self.width <= self.zero_bits <= 32:
            raise MacloomError(f"affine.zero_bits: must be from {self.width} to 32, not {self.zero_bits}")
        if self.granularity.grain is Grain.NONE:
            raise MacloomError("affine.granularity: must name what shares a scale, not 'none'")

    @property
    def element(self) -> ElementFormat:  # type: ignore[override]
        return IntFormat(width=self.width, signed=False)

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.width) - 1

    @property
    def block(self) -> int | None:
        return self.granularity.size

    @property
    def static_scale(self) -> bool:
        return self.granularity.grain is Grain.TENSOR

    @property
    def encodes_by_row(self) -> bool:
        shared = isinstance(self.scale_format, ScaleStorage) and not self.scale_format.by_row
        return not shared and self.granularity.grain is not Grain.AXIS

    def scales_by_row(self, axes: int) -> bool | None:
        return self.granularity.by_row(axes)

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        scales = self.granularity.scale_shape(shape, self.name)
        zeros = int(np.prod(scales, dtype=np.int64)) * (self.zero_bits or self.width)
        return scale_storage_bits(scales, self.scale_format) + zeros

    def extremes(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest and the largest element of every granule, zero included, in the scales' shape."""
        from macloom.formats.kernels import affine as affine_kernels

        rows = rows_of(x)
        shape = x.shape or (1,)
        granularity = self.granularity
        block = granularity.block(rows.shape[1], self.name)
        low, high = np.empty((2, rows.shape[0], rows.shape[1] // block), np.float32)
        worst = np.empty(rows.shape[0], np.uint32)
        run_rows(affine_kernels.extremes, rows.shape[0], x.size, rows, block, low, high, worst)
        check_finite(worst, self.name)
        if granularity.grain is Grain.TENSOR:
            return low.min(), high.max()
        if granularity.grain is Grain.AXIS:
            count = granularity.scale_shape(shape, self.name)[0]
            moved = np.moveaxis(x.reshape(shape), granularity.axis or 0, 0).reshape(count, -1)
            return np.minimum(moved.min(axis=1), np.float32(0)), np.maximum(moved.max(axis=1), np.float32(0))
        expected = granularity.scale_shape(shape, self.name)
        return low.reshape(expected), high.reshape(expected)

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        """Return scales and zero points (..., 2); `clip` shrinks both ends of the range."""
        low, high = (np.asarray(end, np.float64) * clip_share(clip) for end in self.extremes(as_float32(x)))
        # The largest multiple of the scale must stay a float32 where storing rounds it up, by less than 2.
        most = np.finfo(np.float32).max / self.largest * (0.999 if self.scale_format is FP32 else 0.49)
        wanted = np.minimum((high - low) / self.largest, most).astype(np.float32)
        scale = store_scale(wanted, self.scale_format)
        if not (isinstance(self.scale_format, ScaleStorage) and self.scale_format.grouped):
            scale = np.where(high > low, scale, np.float32(1)).astype(np.float32)
        with np.errstate(over="ignore"):  # a stored scale may be far too small for its granule
            zero = np.clip(np.rint(np.abs(low).astype(np.float32) / scale), 0, self.largest)
        return np.stack((scale, zero.astype(np.float32)), axis=-1)

    def spread(self, scale: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
        """Return scales and zero points, each rows x segments, and the elements of a segment."""
        expected = (*self.granularity.scale_shape(shape, self.name), 2)
        if scale.shape != expected:
            raise MacloomError(
                f"scale: must hold a scale and a zero point on its last axis, shape {expected} for a tensor of "
                f"{shape}, not {scale.shape}"
            )
        zero = scale[..., 1]
        if not np.all((zero >= 0) & (zero <= self.largest) & (zero == np.rint(zero))):
            raise MacloomError(f"scale: zero points must be integers from 0 to {self.largest}")
        scales = self.granularity.row_scales(scale[..., 0].copy(), shape, self.name)
        # Zero points may be 0, which scales may not: they are spread by 1.
        zeros = self.granularity.row_scales(zero + np.float32(1), shape, self.name) - np.float32(1)
        return scales, zeros, (shape[-1] if shape else 1) // scales.shape[1]

    def _run(self, kernel: Any, x: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
        rows = rows_of(x)
        scales, zeros, block = self.spread(np.asarray(scale, np.float32), x.shape or (1,))
        worst = np.empty(rows.shape[0], np.uint32)
        run_rows(kernel, rows.shape[0], x.size, rows, scales, zeros, block, self.largest, out, worst)
        check_finite(worst, self.name)

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        from macloom.formats.kernels.affine import affine_codes

        codes = np.empty(rows_of(x).shape, self.element.code_dtype)
        self._run(affine_codes, x, scale, codes)
        return codes.reshape(x.shape), np.array(scale, np.float32), np.float32(1)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        from macloom.formats.kernels.affine import affine_values

        result = output_for(template, out, x.shape)
        self._run(affine_values, x, scale, rows_of(result))
        return result

    def decode(self, encoded: Encoded) -> np.ndarray:
        values = rows_of(encoded.elements).astype(np.float32)
        scales, zeros, block = self.spread(np.asarray(encoded.scales, np.float32), encoded.shape or (1,))
        for s in range(scales.shape[1]):
            part = values[:, s * block : (s + 1) * block]
            part -= zeros[:, s : s + 1]
            part *= scales[:, s : s + 1]
        return values.reshape(encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        shape = encoded.shape
        granularity = self.granularity
        if granularity.grain is Grain.AXIS and (granularity.axis or 0) % len(shape) == len(shape) - 1:
            raise MacloomError(
                f"format {self.name!r}: its scale changes along the reduction axis, which no integer product "
                "can use; choose 'channel', 'token' or 'group=N'"
            )
        scales, zeros, block = self.spread(np.asarray(encoded.scales, np.float32), shape)
        spread = (*shape[:-1], scales.shape[1])
        units = encoded.elements.astype(np.float32)
        return Operand(
            units, 0, scales.reshape(spread), block, encoded.outer, self.largest, zeros=zeros.reshape(spread)
        )


def _build(width: int) -> Builder:
    def build(name: str, options: Options) -> TensorFormat:
        granularity = granularity_option(options, Grain.TENSOR)
        return Affine(
            name=name,
            width=width,
            granularity=granularity,
            scale_format=stored_scale_option(options, granularity),
            zero_bits=integer_option(options, "zero_bits", width),
        )

    return build


def _fill() -> None:
    for width in WIDTHS:
        CATALOG.add(
            f"affine{width}",
            Entry(
                family=INTEGER,
                summary=f"{width}-bit unsigned integer with a zero point (zero_bits= its stored bits)",
                source="Jacob et al., Quantization and Training of Neural Networks, CVPR 2018",
                build=_build(width),
                keys=("zero_bits",),
                words=True,
            ),
        )


_fill()
