"""LLM.int8() (Dettmers et al., NeurIPS 2022): row-wise int8, and whole outlier columns in fp16."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, is_torch, rows_of
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FP16, FP32, FloatFormat
from macloom.formats.families import SPARSE
from macloom.formats.grammar import CATALOG, Entry, Options, choice_option
from macloom.formats.outliers.dense_sparse import Parts, SideFormat
from macloom.formats.outliers.sparse_options import Mode, float_option, fraction_option, number_option
from macloom.formats.scales import Grain, Granularity, store_scale
from macloom.formats.tensor import Encoded, Operand, SparseMatrix, TensorFormat
from macloom.formats.tensors.scaled import Scaled

DENSE = Scaled(name="int8:row", element=IntFormat(width=8), granularity=Granularity(grain=Grain.ROW))


@dataclass(frozen=True, kw_only=True)
class LlmInt8(SideFormat):
    """int8 with a float32 scale per row (token or output channel); columns with an outlier are kept in fp16.

    A column along the last axis is an outlier column if any |x| in it reaches `threshold`. Its codes are
    zero; its values are stored whole, in fp16 (saturating), with a column index of 16 bits (32 where rows are
    longer than 2**16). A row's scale is the largest magnitude outside outlier columns over 127. The
    products of outlier columns are float32 products of fp16 values, added after the scaled integer sum;
    with `compute=fp32` the other operand's values are not rounded to fp16 for them.

    A weight does not know the outlier columns of the activations that it will meet. `mode=paper` keeps
    fp16 weights there: encode the weight with `columns=` those of the activations. Without it a product
    takes the int8 values of the weight, decoded and rounded to fp16, as the released code does.

    `upstream` (bitsandbytes@95f9af3) differs in the scale and the codes: outlier elements are zeroed
    before a row's largest magnitude is taken, so that the other elements of an outlier column count,
    and the code is that of x * (127 / largest), rounded after the product. Not reproduced: the factor
    6.200124e-05 in place of 1/127**2 in the default CPU kernel, and its float32 integer sums.

    `storage_bits` takes `rate` of the columns, rounded up, for outliers; 0.1 % is what the paper is said
    to have found, not a figure read in it.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> encoded = get_format("llm_int8").encode(np.float32([[0.5, -7, 1.25], [2, 0.1, -1]]))
    >>> encoded.elements.astype(np.int8).tolist(), encoded.side["columns"].tolist()
    ([[51, 0, 127], [127, 0, -64]], [1])
    """

    name: str
    threshold: float = 6.0
    mode: Mode = Mode.PAPER
    rate: float = 0.001
    compute: FloatFormat = FP16

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise MacloomError(f"llm_int8.threshold: must not be negative, not {self.threshold!r}")

    @property
    def element(self) -> IntFormat:  # type: ignore[override]
        return IntFormat(width=8)

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return DENSE.scale_bits(shape)

    def side_bits(self, shape: tuple[int, ...]) -> int:
        columns = math.ceil(self.rate * shape[-1])
        return columns * ((16 if shape[-1] <= 1 << 16 else 32) + 16 * math.prod(shape[:-1]))

    def outlier_columns(self, x: Any) -> np.ndarray:
        """Return the indices of the outlier columns of a tensor."""
        rows = rows_of(as_float32(x))
        return np.flatnonzero((np.abs(rows) >= self.threshold).any(axis=0))

    def calibrate(self, x: Any, clip: float | None = None, columns: Any = None) -> np.ndarray:
        """Return the scale of every row; `columns` as in `encode`."""
        x = as_float32(x)
        magnitudes = np.abs(rows_of(x))
        check_finite(magnitudes, self.name)
        chosen = self._columns(x, columns)
        if self.mode is Mode.PAPER or columns is not None:
            magnitudes[:, chosen] = 0
        else:
            magnitudes[magnitudes >= self.threshold] = 0
        largest = magnitudes.max(axis=1) * clip_share(clip)
        scale = np.where(largest > 0, store_scale(largest / np.float32(127), FP32), np.float32(1))
        return scale.astype(np.float32).reshape(x.shape[:-1])

    def _columns(self, x: np.ndarray, columns: Any) -> np.ndarray:
        if columns is None:
            return self.outlier_columns(x)
        chosen, length = np.asarray(columns), rows_of(x).shape[1]
        fits = chosen.ndim == 1 and (chosen.size == 0 or chosen.dtype.kind in "iu")
        if not fits or np.any(np.diff(chosen.astype(np.int64)) <= 0) or np.any((chosen < 0) | (chosen >= length)):
            raise MacloomError(f"columns: must be ascending indices below {length}, not {columns!r}")
        return chosen.astype(np.int64)

    def encode(
        self,
        x: Any,
        scale: Any = None,
        clip: float | None = None,
        rng: np.random.Generator | None = None,
        *,
        columns: Any = None,
    ) -> Encoded:
        """Return `x` in stored form.

        Args:
            columns: the outlier columns, ascending; None finds them by the threshold.
        """
        self.drawing(rng)
        clip_share(clip)
        array = as_float32(x)
        check_finite(np.abs(rows_of(array)), self.name)
        chosen = self._columns(array, columns)
        given = self.calibrate(array, clip, columns) if scale is None else as_float32(scale, "scale")
        elements, scales, side = self._parts(array, given, chosen)
        return Encoded(self, array.shape, elements, scales, torch=is_torch(x), side=side)

    def encode_parts(self, x: np.ndarray, scale: np.ndarray, clip: float) -> Parts:
        return self._parts(x, scale, self.outlier_columns(x))

    def _parts(self, x: np.ndarray, scale: np.ndarray, columns: np.ndarray) -> Parts:
        rows = rows_of(x).copy()
        values = FP16.encode(rows[:, columns])
        rows[:, columns] = 0
        spread = DENSE._row_scales(scale, x.shape)
        if self.mode is Mode.UPSTREAM:
            inverse = np.float32(127) / (spread * np.float32(127))
            codes = np.clip(np.rint(rows * inverse), -127, 127).astype(np.int8).view(np.uint8)
            codes = codes.reshape(x.shape)
        else:
            codes, _, _ = DENSE._encode(rows.reshape(x.shape), scale, 1.0)
        kind = np.uint16 if rows.shape[1] <= 1 << 16 else np.uint32
        return codes, scale, {"columns": columns.astype(kind), "values": values}

    def _outliers(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
        """Return the outlier columns and their float32 values (rows x columns)."""
        side = encoded.side or {}
        rows = len(rows_of(encoded.elements))
        if "columns" not in side or "values" not in side:
            raise MacloomError("side: must have 'columns' and 'values'")
        columns = self._columns(encoded.elements, side["columns"])
        values = np.asarray(side["values"])
        if values.shape != (rows, len(columns)):
            raise MacloomError(f"side.values: must have shape {(rows, len(columns))}, not {values.shape}")
        return columns, FP16.decode(values)

    def decode(self, encoded: Encoded) -> np.ndarray:
        values = DENSE.decode(encoded)
        columns, outliers = self._outliers(encoded)
        rows_of(values)[:, columns] = outliers
        return values

    def operand_of(self, encoded: Encoded) -> Operand:
        dense = DENSE.operand_of(encoded)
        columns, outliers = self._outliers(encoded)
        units = dense.units.copy()
        units[..., columns] = 0
        pointers = np.arange(len(outliers) + 1, dtype=np.int64) * len(columns)
        sparse = SparseMatrix(pointers, np.tile(columns, len(outliers)), outliers.reshape(-1), self.compute)
        return Operand(
            units, dense.unit_exponent, dense.scales, dense.block, dense.outer, dense.max_unit, sparse=sparse
        )


def _build(name: str, options: Options) -> TensorFormat:
    threshold = number_option(options, "threshold", 6.0)
    if threshold < 0:
        raise MacloomError(f"format option threshold: must not be negative, not {options['threshold']!r}")
    return LlmInt8(
        name=name,
        threshold=threshold,
        mode=choice_option(options, "mode", Mode.PAPER, Mode.UPSTREAM),
        rate=fraction_option(options, "rate", 0.001),
        compute=float_option(options, "compute", FP16),
    )


CATALOG.add(
    "llm_int8",
    Entry(
        family=SPARSE,
        summary="8-bit integers with a scale per row, outlier columns in fp16",
        source="Dettmers et al., LLM.int8(), NeurIPS 2022",
        build=_build,
        keys=("threshold", "mode", "rate", "compute"),
    ),
)
