"""SqueezeLLM (Kim et al., ICML 2024): a table per row by sensitivity-weighted k-means, and 0.45 % outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, is_torch, rows_of
from macloom.formats.elements.minifloat import FP16, FP32
from macloom.formats.families import SPARSE
from macloom.formats.grammar import CATALOG, Builder, Entry, Options, choice_option, integer_option
from macloom.formats.outliers.cluster import cluster_rows
from macloom.formats.outliers.dense_sparse import share_count, share_threshold
from macloom.formats.outliers.sparse import Layout, SparseStore, to_float32
from macloom.formats.outliers.sparse_options import Mode, float_option, fraction_option, number_option
from macloom.formats.outliers.tables import Combine, TableSparse
from macloom.formats.tensor import Encoded, TensorFormat


@dataclass(frozen=True, kw_only=True)
class SqueezeLLM(TableSparse):
    """A table per row (output channel) that minimises the squared error weighted by sensitivity.

    Outliers are the `outliers` largest magnitudes of the matrix and, where weights are given, the
    `sensitive` largest of those; both shares are rounded down to whole elements, and ties with the next
    element stay dense. The tables are fitted to the rest. Weights are the sensitivities of the elements
    (the diagonal of the Fisher information, squared gradients); without them all count the same.

    `paper`: entries and outliers in fp16, an outlier replaces the dense value, shares of 0.40 % and 0.05 %.
    `upstream` (SqueezeLLM@a5fd71f) differs:

    - outliers are |w| >= T with T = max(|q1 - r * IQR|, |q3 + r * IQR|) of the matrix, r = `range`;
    - tables and outliers are float32 and columns of the sparse matrix 32 bits;
    - zeros, and so the places of outliers, have no weight in k-means; a row without weight counts all alike;
    - the table entry nearest to zero is subtracted from an outlier, so that dense plus sparse is its value.

    In both modes k-means is exact. The released code runs scikit-learn's KMeans (random_state=0, at most 50
    iterations), whose error is never below that; its tables are therefore not reproduced bit for bit.
    `storage_bits` takes the two shares for granted in either mode.
    """

    mode: Mode = Mode.PAPER
    outlier_share: float = 0.004
    sensitive_share: float = 0.0005
    reach: float = 1.8

    def _weights(self, weights: Any, shape: tuple[int, ...]) -> np.ndarray | None:
        if weights is None:
            return None
        array = as_float32(weights, "weights")
        if array.shape != shape:
            raise MacloomError(f"weights: must have the tensor's shape {shape}, not {array.shape}")
        if not np.all(array >= 0) or not np.all(np.isfinite(array)):
            raise MacloomError("weights: must be finite and not negative")
        return rows_of(array)

    def bound(self, rows: np.ndarray) -> np.ndarray:
        """Return the largest magnitude that is not an outlier by size."""
        if self.mode is Mode.PAPER:
            return share_threshold(np.abs(rows).reshape(-1), self.outlier_share)
        q1, q3 = np.quantile(rows.astype(np.float64), (0.25, 0.75))
        margin = self.reach * (q3 - q1)
        threshold = to_float32(np.abs([q1 - margin, q3 + margin]).max())
        return np.asarray(np.nextafter(threshold, np.float32(0)))

    def sensitive(self, weights: np.ndarray | None) -> np.ndarray | bool:
        """Return which elements are kept for their sensitivity: those strictly above the next largest one."""
        if weights is None or share_count(self.sensitive_share, weights.size) == 0:
            return False
        if self.mode is Mode.PAPER:
            return weights > share_threshold(weights.reshape(-1), self.sensitive_share)
        count = share_count(self.sensitive_share, weights.size)
        return weights > np.partition(weights.reshape(-1), weights.size - count)[weights.size - count]

    def calibrate(self, x: Any, clip: float | None = None, weights: Any = None) -> np.ndarray:
        """Return each row's table and the bounds of inliers (..., 2**width + 2).

        Args:
            weights: sensitivity of every element; None means all alike.
        """
        x = as_float32(x)
        rows = rows_of(x)
        check_finite(np.abs(rows), self.name)
        importance = self._weights(weights, x.shape)
        bound = self.bound(rows)
        mask = self.outliers(rows, -bound, bound) | self.sensitive(importance)
        counted = np.ones(rows.shape, np.float32) if importance is None else importance
        counted = np.where(mask | (rows == 0 if self.mode is Mode.UPSTREAM else False), np.float32(0), counted)
        tables = cluster_rows(np.where(mask, np.float32(0), rows), self.entries, counted)
        return self.table_and_bounds(tables, -float(bound), float(bound), x.shape or (1,), clip)

    def encode(
        self,
        x: Any,
        scale: Any = None,
        clip: float | None = None,
        rng: np.random.Generator | None = None,
        *,
        weights: Any = None,
    ) -> Encoded:
        """Return `x` in stored form; `weights` as in `calibrate`."""
        if weights is None:
            return super().encode(x, scale, clip, rng)
        self.drawing(rng)
        clip_share(clip)
        array = as_float32(x)
        rows = rows_of(array)
        check_finite(np.abs(rows), self.name)
        given = self.calibrate(x, clip, weights) if scale is None else as_float32(scale, "scale")
        tables = self.checked_tables(given, array.shape or (1,), 2)
        mask = self.outliers(rows, tables[:, -2:-1], tables[:, -1:])
        mask |= self.sensitive(self._weights(weights, array.shape)) & (rows != 0)
        codes, scales, side = self.encode_masked(array, tables, mask)
        return Encoded(self, array.shape, codes, scales, torch=is_torch(x), side=side)

    def _write_quantized(
        self,
        x: Any,
        scale: Any,
        clip: float | None,
        out: Any,
        rng: np.random.Generator | None,
        *,
        weights: Any = None,
    ) -> Any:
        return self.write_values(self.encode(x, scale, clip, rng, weights=weights), x, out)


def squeezellm(width: int) -> Builder:
    """Return the builder of SqueezeLLM formats with indices of `width` bits."""

    def build(name: str, options: Options) -> TensorFormat:
        mode = choice_option(options, "mode", Mode.PAPER, Mode.UPSTREAM)
        upstream = mode is Mode.UPSTREAM
        if "range" in options and not upstream:
            raise MacloomError("format option range: applies to mode=upstream; mode=paper takes outliers=SHARE")
        if "outliers" in options and upstream:
            raise MacloomError("format option outliers: applies to mode=paper; mode=upstream takes range=R")
        stored = FP32 if upstream else FP16
        outliers = fraction_option(options, "outliers", 0.004)
        sensitive = fraction_option(options, "sensitive", 0.0005)
        return SqueezeLLM(
            name=name,
            width=width,
            entry=float_option(options, "table", stored),
            store=SparseStore(
                layout=choice_option(options, "layout", Layout.CSR, Layout.COORDINATE, Layout.CHUNK),
                value=float_option(options, "value", stored),
                chunk=integer_option(options, "chunk", 16),
                wide=upstream,
            ),
            combine=Combine.ADD if upstream else Combine.REPLACE,
            rate=outliers + sensitive,
            per_row=True,
            mode=mode,
            outlier_share=outliers,
            sensitive_share=sensitive,
            reach=number_option(options, "range", 1.8),
        )

    return build


for _width in (4, 3):
    CATALOG.add(
        f"squeezellm{_width}",
        Entry(
            family=SPARSE,
            summary=f"{_width}-bit indices into a table per row by weighted k-means, 0.45 % outliers",
            source="Kim et al., SqueezeLLM, ICML 2024",
            build=squeezellm(_width),
            keys=("mode", "outliers", "sensitive", "range", "table", "value", "layout", "chunk"),
        ),
    )
