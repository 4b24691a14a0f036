"""KVQuant (Hooper et al., NeurIPS 2024): non-uniform keys per channel and values per token, with outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, rows_of
from macloom.formats.elements.minifloat import FP16, FloatFormat
from macloom.formats.outliers.cluster import cluster_rows, nearest_index
from macloom.formats.outliers.dense_sparse import Parts
from macloom.formats.outliers.kvquant_view import View
from macloom.formats.outliers.sparse import SparseStore, round_to, row_indices, stored_codes, stored_values, to_float32
from macloom.formats.outliers.sparse_options import Mode
from macloom.formats.outliers.tables import TableFormat, require_width
from macloom.formats.tensor import Encoded, Operand, SparseMatrix


class Tensor(StrEnum):
    """KEY: one range per channel (the last axis) over all tokens, fixed by calibration, before rope. VALUE:
    one range per token (row), found when the token is stored."""

    KEY = "key"
    VALUE = "value"


@dataclass(frozen=True, kw_only=True)
class KVQuant(TableFormat):
    """Each vector is normalised to its range and takes the nearest entry of one table per tensor.

    A tensor is (..., tokens, channels), or (..., channels, tokens) if `transposed`, which is how a product with
    probabilities reduces values. Keys are to be encoded before rotary embedding and rotated after
    decoding (`rotate`). With a range (low, high), offset o = (high + low) / 2 and radius r = (high - low) / 2,
    an element is the table entry nearest to (x - o) / r, the lower one at a tie; its value is entry * r + o,
    rounded to the stored float format. A vector without range (r = 0) is o everywhere.

    The table minimises the squared error of all normalised inliers, weighted by sensitivity if `calibrate`
    gets weights. The range of a key channel runs from its percentile (1 - p) / 2 to that of (1 + p) / 2 with
    p = 1 - `outliers`; beyond it is an outlier. For values the same percentiles of the token itself part the
    outliers, and the range is that of the rest. `cap` keeps at most so many outliers on each side of a token,
    those farthest beyond the bound; other keys take an end of the table, other values widen the range.
    The first `first` tokens (attention sinks) are kept whole, in fp16.
    With `qnorm` the values of the table are shifted and scaled so that the mean and the deviation of the
    normalised inliers survive quantization; the codes stay.

    `calibrate` returns one vector: for keys the low and then the high bound of every channel; then the table
    that codes are chosen by, then that of the values. Stored are radius and offset of each vector and the
    table of values. `storage_bits` takes exactly `outliers` for the share of outliers.

    `paper`: ranges, tables, values and outliers in fp16, an outlier lies strictly beyond its percentile.
    `upstream` (KVQuant@57a2383, the simulated quantizer) differs: all of these are float32, but the bounds of
    keys are rounded to fp16; the outliers of values include the percentiles; an outlier comes back as
    (x - o) + o, rounded twice. k-means is exact in both modes, where the released code runs scikit-learn's
    (random_state=0, 50 iterations). Q-Norm follows the equations in the code, whose call of them fails.
    The deployed kernels cap outliers at 21 on each side of a token of 4096 and store their differences to
    the ends of the table: that is `storage=deployed` (`KVQuantDeployed`).

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> keys = np.float32([[0, -4], [1, -2], [3, 2], [4, 4]])  # 4 tokens, 2 channels
    >>> get_format("kvquant2:outliers=0").quantize(keys)[:, 1]
    array([-4., -2.,  2.,  4.], dtype=float32)
    """

    name: str
    width: int
    tensor: Tensor = Tensor.KEY
    entry: FloatFormat = FP16
    store: SparseStore = SparseStore()
    outliers: float = 0.01
    cap: int | None = None
    first: int = 0
    qnorm: bool = False
    transposed: bool = False
    mode: Mode = Mode.PAPER

    def __post_init__(self) -> None:
        require_width("kvquant.width", self.width)
        if not 0 <= self.outliers < 1:
            raise MacloomError(f"kvquant.outliers: must be from 0 to below 1, not {self.outliers!r}")
        if self.cap is not None and self.cap < 0:
            raise MacloomError(f"kvquant.cap: must not be negative, not {self.cap!r}")
        if self.first < 0:
            raise MacloomError(f"kvquant.first: must not be negative, not {self.first!r}")

    def view(self, shape: tuple[int, ...]) -> View:
        """Return how a tensor of `shape` falls into vectors and tokens."""
        return View(tuple(shape), self.tensor is Tensor.KEY, self.transposed)

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return (2 * self.view(shape).count + (1 << self.width)) * self.entry.bits

    def side_bits(self, shape: tuple[int, ...]) -> int:
        kept = int(self.view(shape).first(self.first).sum())
        rows = math.prod(shape[:-1])
        count = math.floor(self.outliers * (rows * shape[-1] - kept) + 1e-9)
        return self.store.bits(rows, shape[-1], count) + 16 * kept

    # -- ranges and outliers -----------------------------------------------------------------------

    def _percentiles(self, vectors: np.ndarray) -> np.ndarray:
        """Return the low and the high percentile of each vector (vectors, 2)."""
        tail = self.outliers / 2
        ends = np.quantile(vectors, (tail, 1 - tail), axis=1).T.astype(np.float32)
        return round_to(FP16, ends) if self.tensor is Tensor.KEY and self.mode is Mode.UPSTREAM else ends

    def _beyond(self, vectors: np.ndarray, bounds: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return which elements are outliers: 1 beyond the high bound, -1 beyond the low one, else 0."""
        low, high = bounds[:, :1], bounds[:, 1:]
        if self.outliers == 0:
            return np.zeros(vectors.shape, np.int8)
        if self.tensor is Tensor.VALUE and self.mode is Mode.UPSTREAM:
            sides = np.where(vectors >= high, 1, np.where(vectors <= low, -1, 0)).astype(np.int8)
        else:
            stored = round_to(self.value, vectors)
            above, below = (vectors > high) & (stored > high), (vectors < low) & (stored < low)
            sides = above.astype(np.int8) - below.astype(np.int8)
        if self.cap is None:
            return sides
        excess = np.where(sides > 0, vectors - high, low - vectors)
        view = self.view(shape)
        tokens, sides = (view.tokens(view.tensor(v)) for v in (excess, sides))
        kept = np.zeros_like(sides)
        for side in (1, -1):
            order = np.argsort(np.where(sides == side, -tokens, np.inf), axis=1, kind="stable")[:, : self.cap]
            chosen = np.take_along_axis(sides, order, axis=1)
            np.put_along_axis(kept, order, np.where(chosen == side, chosen, np.take_along_axis(kept, order, 1)), axis=1)
        return view.vectors(view.from_tokens(kept))

    def _stored_range(self, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return radius and offset (vectors x 1) as they are stored."""
        low, high = bounds[:, :1].astype(np.float64), bounds[:, 1:].astype(np.float64)
        radius, offset = (high - low) / 2, (high + low) / 2
        return round_to(self.entry, radius.astype(np.float32)), round_to(self.entry, offset.astype(np.float32))

    def _split(self, vectors: np.ndarray, bounds: np.ndarray | None, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """Return outliers and first tokens (masks), normalised elements, radius and offset.

        Args:
            bounds: those of keys; None finds the ranges of values.
        """
        view = self.view(shape)
        sinks = view.vectors(view.first(self.first))
        if bounds is None:
            mask = (self._beyond(vectors, self._percentiles(vectors), shape) != 0) & ~sinks
            bounds = _extent(vectors, mask | sinks)
        else:
            mask = (self._beyond(vectors, bounds, shape) != 0) & ~sinks
        radius, offset = self._stored_range(bounds)
        with np.errstate(over="ignore"):
            shifted = to_float32(np.where(mask | sinks, np.float32(0), vectors - offset))
            normalised = np.divide(shifted, radius, out=np.zeros_like(shifted), where=radius > 0)
        return mask, sinks, normalised, radius, offset

    # -- TensorFormat ------------------------------------------------------------------------------

    def calibrate(self, x: Any, clip: float | None = None, weights: Any = None) -> np.ndarray:
        """Return the bounds of keys and both tables, as one vector.

        Args:
            clip: shrinks the table of values.
            weights: sensitivity of every element, not negative; None means all alike.
        """
        x = as_float32(x)
        check_finite(np.abs(rows_of(x)), self.name)
        view = self.view(x.shape)
        vectors, bounds = view.vectors(x), None
        if self.tensor is Tensor.KEY:
            counted = ~view.vectors(view.first(self.first))[0]
            bounds = self._percentiles(vectors[:, counted] if counted.any() else vectors)
        mask, sinks, normalised, _, _ = self._split(vectors, bounds, x.shape)
        counted = ~(mask | sinks)
        inliers = normalised[counted] if counted.any() else normalised.reshape(-1)
        importance = None if weights is None else self._importance(weights, x.shape, counted)
        table = round_to(self.entry, cluster_rows(inliers[None], 1 << self.width, importance)[0].astype(np.float32))
        values = self._restore_moments(inliers, table) if self.qnorm else table
        values = round_to(self.entry, values * clip_share(clip))
        ends = () if bounds is None else (bounds[:, 0], bounds[:, 1])
        return np.concatenate((*ends, table, values)).astype(np.float32)

    def _importance(self, weights: Any, shape: tuple[int, ...], counted: np.ndarray) -> np.ndarray:
        given = as_float32(weights, "weights")
        if given.shape != shape:
            raise MacloomError(f"weights: must have the tensor's shape {shape}, not {given.shape}")
        if not np.all(given >= 0) or not np.all(np.isfinite(given)):
            raise MacloomError("weights: must be finite and not negative")
        vectors = self.view(shape).vectors(given)
        return (vectors[counted] if counted.any() else vectors.reshape(-1))[None]

    @staticmethod
    def _restore_moments(inliers: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Return the table shifted and scaled so that quantized inliers keep their mean and deviation (Q-Norm)."""
        quantized = table.astype(np.float64)[nearest_index(inliers[None], table[None])[0]]
        wide, spread = inliers.astype(np.float64), quantized.std()
        gain = wide.std() / spread if spread > 0 else 1.0
        return (table * gain + (wide.mean() - quantized.mean() * gain)).astype(np.float32)

    def calibrated(self, scale: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """Return bounds (None for values), the table to search and that of values, checked."""
        entries, keys = 1 << self.width, self.tensor is Tensor.KEY
        count = 2 * self.view(shape).count if keys else 0
        if scale.shape != (count + 2 * entries,):
            raise MacloomError(
                f"scale: must have shape {(count + 2 * entries,)} for a tensor of {shape}, not {scale.shape}"
            )
        if not np.all(np.isfinite(scale)):
            raise MacloomError(f"scale: the bounds and tables of format {self.name!r} must be finite")
        bounds = scale[:count].reshape(2, -1).T if keys else None
        if bounds is not None and np.any(bounds[:, 0] > bounds[:, 1]):
            raise MacloomError(f"scale: the low bounds of format {self.name!r} must not be above the high ones")
        table = scale[count : count + entries]
        if np.any(np.diff(table) < 0):
            raise MacloomError(f"scale: the table of format {self.name!r} must ascend")
        return bounds, table, scale[count + entries :]

    def encode_parts(self, x: np.ndarray, scale: np.ndarray, clip: float) -> Parts:
        shape = x.shape or (1,)
        bounds, table, values = self.calibrated(scale, shape)
        view = self.view(shape)
        vectors = view.vectors(x)
        mask, _, normalised, radius, offset = self._split(vectors, bounds, shape)
        codes = view.tensor(nearest_index(normalised, table[None]))
        exact = vectors
        if self.mode is Mode.UPSTREAM:
            with np.errstate(over="ignore"):
                exact = to_float32(to_float32(vectors - offset) + offset)
        where = rows_of(view.tensor(mask))
        side = self.store.pack(where, stored_codes(self.value, rows_of(view.tensor(exact))[where]))
        if self.first:
            side["first"] = FP16.encode(x.reshape(shape)[view.first(self.first)])
        return codes, np.concatenate((radius[:, 0], offset[:, 0], values)), side

    def encode(
        self,
        x: Any,
        scale: Any = None,
        clip: float | None = None,
        rng: np.random.Generator | None = None,
        *,
        weights: Any = None,
    ) -> Encoded:
        """Return `x` in stored form; `weights` as in `calibrate`, where that happens."""
        return super().encode(x, self.calibrate(x, clip, weights) if scale is None else scale, clip, rng)

    @property
    def value(self) -> FloatFormat:
        """How an outlier's value is stored."""
        assert isinstance(self.store.value, FloatFormat)
        return self.store.value

    def _dense(self, encoded: Encoded) -> np.ndarray:
        """Return the values (..., tokens, channels) without outliers, the first tokens included."""
        shape = encoded.shape or (1,)
        view = self.view(shape)
        count = view.count
        scales = np.asarray(encoded.scales, np.float32)
        expected = (2 * count + (1 << self.width),)
        if scales.shape != expected:
            raise MacloomError(f"scales: must have shape {expected} for a tensor of {shape}, not {scales.shape}")
        radius, offset, table = scales[:count, None], scales[count : 2 * count, None], scales[2 * count :]
        with np.errstate(over="ignore"):
            tables = round_to(self.entry, to_float32(table * radius + offset))
        codes = view.vectors(encoded.elements)
        values = view.tensor(np.take_along_axis(tables, codes.astype(np.intp), axis=1))
        if self.first:
            sinks = view.first(self.first)
            stored = np.asarray((encoded.side or {}).get("first", np.empty(0, np.uint16)))
            if stored.shape != (int(sinks.sum()),):
                raise MacloomError(f"side.first: must hold {int(sinks.sum())} values, not {stored.size}")
            values[sinks] = FP16.decode(stored)
        return values

    def _sparse(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        side = encoded.side or {}
        pointers, columns = self.store.positions(side, *rows_of(encoded.elements).shape)
        return pointers, columns, stored_values(self.value, self.store.codes(side, len(columns)))

    def decode(self, encoded: Encoded) -> np.ndarray:
        values = self._dense(encoded)
        pointers, columns, outliers = self._sparse(encoded)
        rows_of(values)[row_indices(pointers), columns] = outliers
        return values.reshape(encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        """Return the operand of values as stored: for keys, that is before rotary embedding."""
        dense = self._dense(encoded)
        pointers, columns, outliers = self._sparse(encoded)
        rows_of(dense)[row_indices(pointers), columns] = 0
        return self.table_operand(dense.reshape(encoded.shape), SparseMatrix(pointers, columns, outliers, self.entry))


def _extent(vectors: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Return smallest and largest element that is not excluded; the lower median where all are (vectors, 2)."""
    middle = np.sort(vectors, axis=1)[:, (vectors.shape[1] - 1) // 2]
    low = np.where(excluded, np.float32(np.inf), vectors).min(axis=1)
    high = np.where(excluded, np.float32(-np.inf), vectors).max(axis=1)
    return np.stack((np.where(low > high, middle, low), np.where(low > high, middle, high)), axis=1)
