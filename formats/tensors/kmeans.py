"""Learned scalar codebooks: a table of values fitted to a tensor, or to each of its rows, by weighted k-means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, output_for, rows_of
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FP16, FloatFormat
from macloom.formats.families import CODEBOOK
from macloom.formats.grammar import CATALOG, Entry, Options, choice_option, integer_option
from macloom.formats.outliers.cluster import cluster_rows, nearest_index
from macloom.formats.outliers.sparse import round_to
from macloom.formats.outliers.sparse_options import float_option
from macloom.formats.tensor import Encoded, Operand, TensorFormat


class Per(StrEnum):
    """What has a table of its own."""

    TENSOR = "tensor"
    ROW = "row"


@dataclass(frozen=True, kw_only=True)
class LearnedTable(TensorFormat):
    """Codes index a table of 2**width values, the least weighted squared error of the tensor or of each row.

    The table is the exact optimum, by dynamic programming, rounded to the stored float format; codes take the nearest
    entry, the lower one at a tie. `weights` in `calibrate` and `encode` are the importance of every element, such as
    squared gradients. `calibrate` returns the tables, ascending; `clip` shrinks them.

    >>> import numpy as np
    >>> fmt = LearnedTable(name="t", width=1)
    >>> fmt.quantize(np.float32([0, 0, 1, 5, 5, 6]))
    array([0.33325195, 0.33325195, 0.33325195, 5.3320312 , 5.3320312 , 5.3320312 ], dtype=float32)
    """

    name: str
    width: int
    entry: FloatFormat = FP16
    per: Per = Per.TENSOR

    def __post_init__(self) -> None:
        if not isinstance(self.width, int) or not 1 <= self.width <= 8:
            raise MacloomError(f"kmeans.width: must be an integer from 1 to 8, not {self.width!r}")

    @property
    def element(self) -> ElementFormat:  # type: ignore[override]
        return IntFormat(width=max(self.width, 2), signed=False)

    @property
    def code_bits(self) -> int:
        return self.width

    @property
    def operand(self) -> OperandClass:
        return self.entry.operand

    @property
    def decoder_bits(self) -> int:
        return self.width

    @property
    def max_unit(self) -> int:
        return self.entry.largest_unit

    def _table_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*(shape[:-1] if self.per is Per.ROW else ()), 1 << self.width)

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return self.entry.bits * math.prod(self._table_shape(shape))

    def calibrate(self, x: Any, clip: float | None = None, weights: Any = None) -> np.ndarray:
        """Return the table (2**width) of the tensor, or those of the rows (..., 2**width)."""
        x = as_float32(x)
        rows = rows_of(x)
        check_finite(np.abs(rows), self.name)
        importance = None
        if weights is not None:
            given = as_float32(weights, "weights")
            if given.shape != x.shape or not np.all((given >= 0) & np.isfinite(given)):
                raise MacloomError(f"weights: must be finite, not negative and of the tensor's shape {x.shape}")
            importance = rows_of(given)
        if self.per is Per.TENSOR:
            rows, importance = rows.reshape(1, -1), None if importance is None else importance.reshape(1, -1)
        tables = cluster_rows(rows, 1 << self.width, importance) * float(clip_share(clip))
        return round_to(self.entry, tables.astype(np.float32)).reshape(self._table_shape(x.shape or (1,)))

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

    def _tables(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return the tables, rows x entries or 1 x entries."""
        expected = self._table_shape(shape)
        if scale.shape != expected:
            raise MacloomError(f"scale: must have shape {expected} for a tensor of {shape}, not {scale.shape}")
        tables = np.asarray(scale, np.float32).reshape(-1, 1 << self.width)
        if not np.all(np.isfinite(tables)) or np.any(np.diff(tables, axis=1) < 0):
            raise MacloomError(f"scale: the tables of format {self.name!r} must be finite and ascend")
        return tables

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        rows = rows_of(x)
        check_finite(np.abs(rows), self.name)
        shape = x.shape or (1,)
        stored = round_to(self.entry, self._tables(np.asarray(scale, np.float32), shape)).reshape(
            self._table_shape(shape)
        )
        codes = nearest_index(rows, self._tables(stored, shape))
        return codes.reshape(x.shape), stored, np.float32(1)

    def _values(self, codes: np.ndarray, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        tables = self._tables(np.asarray(scale, np.float32), shape or (1,))
        rows = rows_of(codes)
        if len(tables) == 1:
            return tables[0][rows].reshape(shape)
        return np.take_along_axis(tables, rows.astype(np.intp), axis=1).reshape(shape)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        codes, stored, _ = self._encode(x, scale, clip)
        result = output_for(template, out, x.shape)
        result[...] = self._values(codes, stored, x.shape)
        return result

    def decode(self, encoded: Encoded) -> np.ndarray:
        return self._values(encoded.elements, encoded.scales, encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        values = self.decode(encoded)
        exponent = self.entry.units[1]
        scales = np.ones((*values.shape[:-1], 1), np.float32)
        return Operand(np.ldexp(values, -exponent), exponent, scales, values.shape[-1], np.float32(1), self.max_unit)


def _build(name: str, options: Options) -> TensorFormat:
    return LearnedTable(
        name=name,
        width=integer_option(options, "bits", 4),
        entry=float_option(options, "table", FP16),
        per=choice_option(options, "per", *Per),
    )


CATALOG.add(
    "kmeans",
    Entry(
        family=CODEBOOK,
        summary="16 values (bits=) fitted to the tensor or to each row by exact weighted k-means",
        source="Lloyd, Least Squares Quantization in PCM, 1982; the optimum as in Wang and Song, R Journal 2011",
        build=_build,
        keys=("bits", "table", "per"),
    ),
)
