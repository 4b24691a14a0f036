"""Lookup-table formats with outliers: indices into learned tables, and a few values stored apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import clip_share, rows_of
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.elements.integer import IntFormat
from macloom.formats.elements.minifloat import FP32, FloatFormat
from macloom.formats.outliers.cluster import nearest_index
from macloom.formats.outliers.dense_sparse import Parts, SideFormat
from macloom.formats.outliers.sparse import SparseStore, round_to, row_indices, stored_codes, stored_values, to_float32
from macloom.formats.tensor import Encoded, Operand, SparseMatrix


class Combine(StrEnum):
    """REPLACE: an outlier's stored value takes the place of the dense one, which multiplies as zero. ADD: it
    is stored less the dense value in its place and added to it."""

    REPLACE = "replace"
    ADD = "add"


def require_width(path: str, width: object) -> None:
    """Raise unless `width` is an index width from 2 to 8 bits."""
    if not isinstance(width, int) or not 2 <= width <= 8:
        raise MacloomError(f"{path}: must be an integer from 2 to 8, not {width!r}")


class TableFormat(SideFormat):
    """What formats share whose codes index a table of values in `entry` format.

    `element` is the index. What processing elements multiply is an entry.
    """

    width: int
    entry: FloatFormat

    @property
    def element(self) -> ElementFormat:  # type: ignore[override]
        return IntFormat(width=self.width, signed=False)

    @property
    def operand(self) -> OperandClass:
        return self.entry.operand

    @property
    def decoder_bits(self) -> int:
        return self.width

    @property
    def max_unit(self) -> int:
        return self.entry.largest_unit

    def table_operand(self, values: np.ndarray, sparse: SparseMatrix) -> Operand:
        """Return the operand of dense values (..., K) that are exact in the entry format."""
        exponent = self.entry.units[1]
        scales = np.ones((*values.shape[:-1], 1), np.float32)
        units = np.ldexp(values, -exponent)
        return Operand(units, exponent, scales, values.shape[-1], np.float32(1), self.max_unit, sparse=sparse)


@dataclass(frozen=True, kw_only=True)
class TableSparse(TableFormat):
    """One table of 2**width entries per tensor, or per row; elements outside two bounds are outliers.

    `calibrate` returns each table, ascending, followed by the lower and the upper bound: shape
    (2**width + 2), with one table per row (..., 2**width + 2). Codes take the nearest entry, the lower
    one at a tie. An element is an outlier if its value, as the sparse store rounds it, lies outside the
    bounds and is not zero; its code is that of the entry nearest to zero. Bounds are not stored.
    `clip` shrinks the tables and leaves the bounds.

    Attributes:
        width: bits of an index.
        entry: format of the table's entries.
        rate: share of outliers that `storage_bits` assumes.
    """

    name: str
    width: int
    entry: FloatFormat = FP32
    store: SparseStore = SparseStore(value=FP32)
    combine: Combine = Combine.REPLACE
    rate: float = 0.001
    per_row: bool = False

    def __post_init__(self) -> None:
        require_width("table.width", self.width)
        if not 0 <= self.rate < 1:
            raise MacloomError(f"table.rate: must be from 0 to below 1, not {self.rate!r}")
        if self.store.value is None:
            raise MacloomError("table.store: must have a format for the values of outliers")

    @property
    def value(self) -> ElementFormat:
        """How an outlier's value is stored."""
        assert self.store.value is not None
        return self.store.value

    @property
    def entries(self) -> int:
        return 1 << self.width

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        tables = math.prod(shape[:-1]) if self.per_row else 1
        return tables * self.entries * self.entry.bits

    def side_bits(self, shape: tuple[int, ...]) -> int:
        rows = math.prod(shape[:-1])
        return self.store.bits(rows, shape[-1], math.floor(self.rate * rows * shape[-1]))

    def table_and_bounds(
        self, tables: np.ndarray, lower: float, upper: float, shape: tuple[int, ...], clip: float | None
    ) -> np.ndarray:
        """Return what `calibrate` returns, from tables (rows x entries) and the bounds of the tensor."""
        rounded = round_to(self.entry, (tables * float(clip_share(clip))).astype(np.float32))
        bounds = np.broadcast_to(to_float32(np.array([lower, upper])), (len(tables), 2))
        result = np.concatenate((rounded, bounds), axis=1)
        return result.reshape(*(shape[:-1] if self.per_row else ()), result.shape[1])

    def checked_tables(self, scale: np.ndarray, shape: tuple[int, ...], extra: int) -> np.ndarray:
        """Return the tables (rows x entries + extra) that a scale holds.

        Raises:
            MacloomError: the shape is wrong, or entries are not finite and ascending, or the bounds cross.
        """
        expected = (*(shape[:-1] if self.per_row else ()), self.entries + extra)
        if scale.shape != expected:
            raise MacloomError(f"scale: must have shape {expected} for a tensor of {shape}, not {scale.shape}")
        tables = np.asarray(scale, np.float32).reshape(-1, self.entries + extra)
        if not np.all(np.isfinite(tables[:, : self.entries])):
            raise MacloomError(f"scale: the tables of format {self.name!r} must be finite")
        if np.any(np.diff(tables[:, : self.entries], axis=1) < 0):
            raise MacloomError(f"scale: the tables of format {self.name!r} must ascend")
        if extra and not np.all(tables[:, -2] <= tables[:, -1]):
            raise MacloomError(f"scale: the lower bound of format {self.name!r} must not be above the upper one")
        return tables

    def outliers(self, rows: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """Return which elements are outliers; the bounds are rows x 1 or 1 x 1."""
        mask = (rows < lower) | (rows > upper)
        if self.value.bits <= 16 and mask.any():
            stored = round_to(self.value, rows[mask])
            spread = (np.broadcast_to(bound, rows.shape)[mask] for bound in (lower, upper))
            below, above = (
                compare(stored, bound) for compare, bound in zip((np.less, np.greater), spread, strict=True)
            )
            mask[mask] = below | above
        return mask & (rows != 0)

    def encode_parts(self, x: np.ndarray, scale: np.ndarray, clip: float) -> Parts:
        tables = self.checked_tables(scale, x.shape or (1,), 2)
        rows = rows_of(x)
        return self.encode_masked(x, tables, self.outliers(rows, tables[:, -2:-1], tables[:, -1:]))

    def encode_masked(self, x: np.ndarray, tables: np.ndarray, mask: np.ndarray) -> Parts:
        """Return the parts of a tensor whose outliers (rows x length) are given; `tables` end in the bounds."""
        rows = rows_of(x)
        table = round_to(self.entry, tables[:, :-2])
        codes = nearest_index(np.where(mask, np.float32(0), rows), table)
        outliers = rows[mask]
        if self.combine is Combine.ADD:
            with np.errstate(over="ignore"):
                outliers = to_float32(outliers - self._look_up(codes, table)[mask])
        scales = table.reshape(*(x.shape[:-1] if self.per_row else ()), self.entries)
        return codes.reshape(x.shape), scales, self.store.pack(mask, stored_codes(self.value, outliers))

    @staticmethod
    def _look_up(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Return the entries of rows of codes."""
        return table[0][codes] if len(table) == 1 else np.take_along_axis(table, codes.astype(np.intp), axis=1)

    def _parts(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return dense values (rows x length), and row, column and stored value of every outlier."""
        shape = encoded.shape or (1,)
        codes = rows_of(encoded.elements)
        pointers, columns = self.store.positions(encoded.side or {}, *codes.shape)
        values = stored_values(self.value, self.store.codes(encoded.side or {}, len(columns)))
        dense = self._look_up(codes, self.checked_tables(np.asarray(encoded.scales, np.float32), shape, 0))
        if self.combine is Combine.REPLACE:
            dense[row_indices(pointers), columns] = 0
        return dense, pointers, columns, values

    def decode(self, encoded: Encoded) -> np.ndarray:
        values, pointers, columns, outliers = self._parts(encoded)
        values[row_indices(pointers), columns] += outliers
        return values.reshape(encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        dense, pointers, columns, outliers = self._parts(encoded)
        return self.table_operand(dense.reshape(encoded.shape), SparseMatrix(pointers, columns, outliers, self.entry))
