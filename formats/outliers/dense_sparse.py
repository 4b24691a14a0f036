"""Dense-plus-sparse formats: short codes for most elements, a few outliers stored apart."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, like, output_for, rows_of
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FP32, FloatFormat
from macloom.formats.outliers.sparse import Side, SparseStore, row_indices, stored_codes, stored_values, to_float32
from macloom.formats.scales import Grain, store_scale
from macloom.formats.tensor import Encoded, Operand, SparseMatrix, TensorFormat
from macloom.formats.tensors.scaled import Scaled
from macloom.formats.tensors.statistic import granules

Parts = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]


class SideFormat(TensorFormat):
    """A tensor format that stores more than codes and scales, in `Encoded.side`.

    How much that is depends on the data: `Encoded.bits` is exact, `storage_bits(shape)` the size at the
    outlier rate that the format states, which simulators use. `quantize` decodes what it encodes.
    """

    @abstractmethod
    def encode_parts(self, x: np.ndarray, scale: np.ndarray, clip: float) -> Parts:
        """Return element codes, stored scales and side data of a finite tensor."""

    @abstractmethod
    def side_bits(self, shape: tuple[int, ...]) -> int:
        """Return the bits of the side data of a tensor of `shape` at the stated outlier rate."""

    def storage_bits(self, shape: tuple[int, ...]) -> int:
        return super().storage_bits(shape) + self.side_bits(tuple(shape) or (1,))

    def encoded_bits(self, encoded: Encoded) -> int:
        side = encoded.side or {}
        return super().storage_bits(encoded.shape) + 8 * sum(array.nbytes for array in side.values())

    def encode(
        self, x: Any, scale: Any = None, clip: float | None = None, rng: np.random.Generator | None = None
    ) -> Encoded:
        self.drawing(rng)  # raises: these formats do not draw
        array = as_float32(x)
        check_finite(np.abs(rows_of(array)), self.name)
        given = self._scale(array, scale, clip)
        elements, scales, side = self.encode_parts(array, given, float(clip_share(clip)))
        elements = elements.reshape(array.shape)
        return Encoded(self, array.shape, elements, scales, torch=like(x, array) is not array, side=side)

    def _write_quantized(
        self, x: Any, scale: Any, clip: float | None, out: Any, rng: np.random.Generator | None
    ) -> Any:
        return self.write_values(self.encode(x, scale, clip, rng), x, out)

    def write_values(self, encoded: Encoded, template: Any, out: Any) -> Any:
        """Return decoded values as `quantize` does: in `out` or like the template."""
        values = self.decode(encoded)
        if out is None:
            return like(template, values)
        output_for(template, out, encoded.shape)[...] = values
        return out

    def from_packed(
        self,
        codes: np.ndarray,
        scales: np.ndarray,
        shape: tuple[int, ...],
        outer: float = 1.0,
        side: Mapping[str, np.ndarray] | None = None,
    ) -> Encoded:
        if side is None:
            raise MacloomError(f"format {self.name!r}: needs the side data of the encoded tensor")
        encoded = super().from_packed(codes, scales, shape, outer, side)
        self.decode(encoded)  # refuses side data that do not fit
        return encoded

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        elements, scales, _ = self.encode_parts(x, scale, clip)
        return elements, scales, np.float32(1)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        return np.asarray(self.quantize(x, scale, clip, out))


def share_count(share: float, size: int) -> int:
    """Return how many of `size` elements a share is, rounded down."""
    return int(np.floor(share * size + 1e-9))


def share_threshold(magnitudes: np.ndarray, share: float) -> np.ndarray:
    """Return the magnitude (...) above which at most this share of the last axis lies: that of the largest inlier."""
    rank = magnitudes.shape[-1] - 1 - share_count(share, magnitudes.shape[-1])
    return np.partition(magnitudes, max(rank, 0), axis=-1)[..., max(rank, 0)]


@dataclass(frozen=True, kw_only=True)
class DenseSparse(SideFormat):
    """A scaled format for most elements; those beyond its range are stored apart.

    The scale puts the largest magnitude that is not among the largest `share` of its granule on the
    largest element value. An element is an outlier if the dense format would saturate it: its
    magnitude is above `reach` times the scale, half a step beyond the largest value, so that the scale
    alone decides. An outlier's dense code is that of zero. Integer outliers are in units of the dense
    scale; they saturate at their own range. Outliers of a float format are absolute.

    `storage_bits` takes a share of outliers of exactly `share`.

    >>> import numpy as np
    >>> from macloom.formats import IntFormat
    >>> fmt = DenseSparse(name="t", dense=Scaled(name="int4", element=IntFormat(width=4)), share=0.25)
    >>> encoded = fmt.encode(np.float32([7, -2.2, 1, 63.25]))
    >>> encoded.decode(), encoded.side["columns"]
    (array([ 7.  , -2.  ,  1.  , 63.25], dtype=float32), array([3], dtype=uint16))
    """

    name: str
    dense: Scaled
    store: SparseStore = SparseStore()
    share: float = 0.03
    precision: FloatFormat = FP32

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise MacloomError(f"dense_sparse.share: must be from 0 to below 1, not {self.share!r}")
        if self.store.value is None:
            raise MacloomError("dense_sparse.store: must have a format for the values of outliers")
        if self.dense.element.bits > 16 or self.dense.granularity.grain is Grain.NONE:
            raise MacloomError(
                f"dense_sparse.dense: must be a scaled format of at most 16 bits, not {self.dense.name!r}"
            )

    @property
    def value(self) -> ElementFormat:
        """How an outlier's value is stored."""
        assert self.store.value is not None
        return self.store.value

    @property
    def element(self) -> ElementFormat:  # type: ignore[override]
        return self.dense.element

    @property
    def block(self) -> int | None:
        return self.dense.block

    @property
    def operand(self) -> OperandClass:
        """That of the dense part; outliers are multiplied apart."""
        return self.dense.operand

    @property
    def max_unit(self) -> int:
        return self.dense.max_unit

    @property
    def reach(self) -> float:
        """The largest magnitude, in units of the scale, that is not an outlier."""
        values = self.element.encodable[0]
        return float(values[-1] + (values[-1] - values[-2]) / 2)

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return self.dense.scale_bits(shape)

    def side_bits(self, shape: tuple[int, ...]) -> int:
        rows = int(np.prod(shape[:-1], dtype=np.int64))
        return self.store.bits(rows, shape[-1], share_count(self.share, rows * shape[-1]))

    def threshold(self, magnitudes: np.ndarray) -> np.ndarray:
        """Return the magnitude that lands on the largest element value, per granule; zero where all are zero."""
        chosen = share_threshold(magnitudes, self.share)
        return np.where(chosen > 0, chosen, magnitudes.max(axis=-1))

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        x = as_float32(x)
        magnitudes = np.abs(granules(x, self.dense.granularity, self.name))
        check_finite(magnitudes, self.name)
        largest = self.threshold(magnitudes).astype(np.float32)
        largest = largest.reshape(self.dense.granularity.scale_shape(x.shape or (1,), self.name))
        scale = largest * clip_share(clip) / np.float32(self.element.max_value)
        return np.asarray(np.where(largest > 0, store_scale(scale, self.dense.scale_format), np.float32(1)), np.float32)

    def _spread(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return the scale of every element, rows x length."""
        spread = self.dense._row_scales(scale, shape)
        return np.repeat(spread, (shape[-1] if shape else 1) // spread.shape[1], axis=1)

    def outlier_codes(self, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the stored codes of outliers, one-dimensional, with the scale of each."""
        with np.errstate(over="ignore"):
            return stored_codes(self.value, x / scale if isinstance(self.value, IntFormat) else x)

    def outlier_values(self, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the values of outliers."""
        values = stored_values(self.value, codes)
        with np.errstate(over="ignore"):
            return to_float32(values * scale) if isinstance(self.value, IntFormat) else values

    def encode_parts(self, x: np.ndarray, scale: np.ndarray, clip: float) -> Parts:
        rows, spread = rows_of(x), self._spread(scale, x.shape)
        with np.errstate(over="ignore"):
            mask = np.abs(rows) > np.float32(self.reach) * spread
        inside = np.where(mask, np.float32(0), rows).reshape(x.shape)
        elements, scales, _ = self.dense._encode(inside, scale, clip)
        return elements, scales, self.store.pack(mask, self.outlier_codes(rows[mask], spread[mask]))

    def _sparse(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = rows_of(encoded.elements)
        side: Side = encoded.side or {}
        pointers, columns = self.store.positions(side, *rows.shape)
        spread = self._spread(encoded.scales, encoded.shape)[row_indices(pointers), columns]
        codes = self.store.codes(side, len(columns))
        return pointers, columns, self.outlier_values(codes, spread)

    def decode(self, encoded: Encoded) -> np.ndarray:
        values = self.dense.decode(encoded)
        pointers, columns, outliers = self._sparse(encoded)
        rows_of(values)[row_indices(pointers), columns] = outliers
        return values

    def operand_of(self, encoded: Encoded) -> Operand:
        return self.with_sparse(self.dense.operand_of(encoded), encoded)

    def with_sparse(self, dense: Operand, encoded: Encoded) -> Operand:
        """Return the dense operand with the outliers besides it."""
        pointers, columns, values = self._sparse(encoded)
        return replace(dense, sparse=SparseMatrix(pointers, columns, values, self.precision))
