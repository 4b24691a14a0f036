"""How the few exact outliers of a dense-plus-sparse tensor are stored, found again and multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import FP16
from macloom.formats.packing import pack, packed_row_bytes, unpack
from macloom.formats.tensor import Operand, SparseMatrix

FLOAT32_MAX = float(np.finfo(np.float32).max)
Side = Mapping[str, np.ndarray]


class Layout(StrEnum):
    """How the positions of outliers are stored, all rows of a tensor in one list.

    CSR: a 32-bit pointer per row and one more, then the column of each outlier (16 bits, or 32 where rows are
    longer than 2**16 or `wide` asks for it). COORDINATE: the index of each outlier in the flattened
    tensor, 32 bits. CHUNK: rows are cut into chunks; each has a count, each outlier its place in the
    chunk, both in as few bits as they need and packed without gaps.
    """

    CSR = "csr"
    COORDINATE = "coordinate"
    CHUNK = "chunk"


def to_float32(values: np.ndarray) -> np.ndarray:
    """Round values to float32; those beyond its range, infinities included, saturate."""
    return np.clip(values, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


def stored_codes(element: ElementFormat, values: np.ndarray) -> np.ndarray:
    """Return the codes of float32 values, one-dimensional; out-of-range values saturate."""
    if element.bits > 16:
        return np.ascontiguousarray(values, np.float32).view(np.uint32)
    return element.encode(values)


def stored_values(element: ElementFormat, codes: np.ndarray) -> np.ndarray:
    """Return the float32 values of codes as `stored_codes` gives them."""
    if element.bits > 16:
        return np.ascontiguousarray(codes, np.uint32).view(np.float32)
    return element.decode(codes)


def round_to(element: ElementFormat, values: np.ndarray) -> np.ndarray:
    """Return float32 values of any shape as the element format stores them."""
    if element.bits > 16:
        return np.asarray(values, np.float32)
    return element.quantize(np.asarray(values, np.float32))


@dataclass(frozen=True, kw_only=True)
class SparseStore:
    """Positions and, with a `value` format, the values of outliers.

    >>> import numpy as np
    >>> mask = np.array([[0, 1, 0, 0], [1, 0, 0, 1]], bool)
    >>> SparseStore().pack(mask, np.array([7, 8, 9], np.uint16))["rows"].tolist()
    [0, 1, 3]
    """

    layout: Layout = Layout.CSR
    value: ElementFormat | None = FP16
    chunk: int = 16
    wide: bool = False

    def __post_init__(self) -> None:
        require_positive_integer("sparse.chunk", self.chunk)

    def _column_bits(self, length: int) -> int:
        return 32 if self.wide or length > 1 << 16 else 16

    def _widths(self) -> tuple[int, int]:
        """Return the bits of a chunk's count and of a place in a chunk."""
        return self.chunk.bit_length(), max(1, (self.chunk - 1).bit_length())

    def pack(self, mask: np.ndarray, codes: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the arrays that store the positions in `mask` (rows x length) and their value codes."""
        rows, length = mask.shape
        row, column = np.nonzero(mask)
        match self.layout:
            case Layout.CSR:
                pointers = np.zeros(rows + 1, np.uint32)
                pointers[1:] = np.cumsum(mask.sum(axis=1))
                side = {"rows": pointers, "columns": _pack_list(column, self._column_bits(length))}
            case Layout.COORDINATE:
                if mask.size > 1 << 32:
                    raise MacloomError(f"sparse: 32-bit coordinates reach 2**32 elements, not {mask.size}; use 'csr'")
                side = {"positions": (row * length + column).astype(np.uint32)}
            case Layout.CHUNK:
                chunks = -(-length // self.chunk)
                counts = np.bincount(row * chunks + column // self.chunk, minlength=rows * chunks)
                count_bits, place_bits = self._widths()
                side = {
                    "counts": _pack_list(counts, count_bits),
                    "places": _pack_list(column % self.chunk, place_bits),
                }
        if self.value is not None:
            assert codes is not None
            side["values"] = _pack_list(codes, self.value.bits)
        return side

    def positions(self, side: Side, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (row pointers, columns) as int64.

        Raises:
            MacloomError: an array is missing, or says what no encoder writes.
        """
        match self.layout:
            case Layout.CSR:
                pointers, columns = (_array(side, key).astype(np.int64) for key in ("rows", "columns"))
                counted = pointers[-1] if len(pointers) == rows + 1 else -1
            case Layout.COORDINATE:
                flat = _array(side, "positions").astype(np.int64)
                if np.any(flat >= rows * length):
                    raise MacloomError(f"side.positions: must be below {rows * length}, not {flat.max()}")
                columns = flat % length
                pointers = np.searchsorted(flat, np.arange(rows + 1) * length)
                counted = len(flat) if np.all(np.diff(flat) > 0) else -1
            case Layout.CHUNK:
                chunks, (count_bits, place_bits) = -(-length // self.chunk), self._widths()
                counts = _unpack_list(side, "counts", count_bits, rows * chunks).astype(np.int64)
                total = int(counts.sum())
                places = _unpack_list(side, "places", place_bits, total)
                columns = np.repeat(np.tile(np.arange(chunks) * self.chunk, rows), counts) + places
                pointers = np.concatenate(([0], np.cumsum(counts.reshape(rows, chunks).sum(axis=1))))
                counted = total
        ascending = np.all(np.diff(pointers) >= 0) and (len(columns) == 0 or columns.max() < length)
        if counted != len(columns) or not ascending or not _ascend_in_rows(pointers, columns):
            raise MacloomError(f"side: its positions do not fit {rows} rows of {length} elements")
        return pointers, columns

    def codes(self, side: Side, count: int) -> np.ndarray:
        """Return the value codes of `count` outliers."""
        assert self.value is not None
        return _unpack_list(side, "values", self.value.bits, count)

    def bits(self, rows: int, length: int, count: int) -> int:
        """Return the stored bits of `count` outliers in rows x length elements, byte padding included."""
        match self.layout:
            case Layout.CSR:
                total = 32 * (rows + 1) + count * self._column_bits(length)
            case Layout.COORDINATE:
                total = 32 * count
            case Layout.CHUNK:
                count_bits, place_bits = self._widths()
                chunks = rows * -(-length // self.chunk)
                total = 8 * (packed_row_bytes(chunks, count_bits) + packed_row_bytes(count, place_bits))
        return total + (8 * packed_row_bytes(count, self.value.bits) if self.value else 0)


def _pack_list(codes: np.ndarray, bits: int) -> np.ndarray:
    if bits in (16, 32):
        return np.ascontiguousarray(codes, np.dtype(f"<u{bits // 8}"))
    return pack(np.asarray(codes, np.uint16)[None], bits)[0]


def _unpack_list(side: Side, key: str, bits: int, count: int) -> np.ndarray:
    stored = _array(side, key)
    expected = count if bits in (16, 32) else packed_row_bytes(count, bits)
    if len(stored) != expected:
        raise MacloomError(f"side.{key}: must have {expected} entries for {count} outliers, not {len(stored)}")
    return stored if bits in (16, 32) else unpack(stored[None], bits, count)[0]


def _array(side: Side, key: str) -> np.ndarray:
    if key not in side:
        raise MacloomError(f"side: must have {key!r}, not only {', '.join(map(repr, side)) or 'nothing'}")
    return np.asarray(side[key])


def _ascend_in_rows(pointers: np.ndarray, columns: np.ndarray) -> bool:
    breaks = np.zeros(max(len(columns) - 1, 0), bool)
    starts = pointers[1:-1]
    breaks[starts[(starts > 0) & (starts < len(columns))] - 1] = True
    return bool(np.all((np.diff(columns) > 0) | breaks)) if len(columns) else True


def row_indices(pointers: np.ndarray) -> np.ndarray:
    """Return the row of every outlier."""
    return np.repeat(np.arange(len(pointers) - 1), np.diff(pointers))


def dense_values(operand: Operand) -> np.ndarray:
    """Return the float32 values of the dense part of an operand."""
    centred = operand.centred()
    scales = np.repeat(centred.scales * centred.outer, centred.block, axis=-1)[..., : centred.units.shape[-1]]
    return np.ldexp(centred.units, centred.unit_exponent).astype(np.float32) * scales


def all_values(operand: Operand) -> np.ndarray:
    """Return the float32 values of an operand, what is stored apart included."""
    values = dense_values(operand)
    if operand.sparse is not None:
        rows = values.reshape(-1, values.shape[-1])
        rows[row_indices(operand.sparse.pointers), operand.sparse.columns] += operand.sparse.values
    return values


def add_sparse_products(a: Operand, b: Operand, result: np.ndarray) -> None:
    """Add what the sparse parts of both operands contribute to their product; see `macloom.formats.gemm`."""
    from macloom.formats.kernels.sparse_dot import sparse_float32

    def product(sparse: SparseMatrix, other: np.ndarray) -> np.ndarray:
        right = round_to(sparse.precision, other).reshape(-1, *other.shape[-2:])
        return sparse_float32(sparse.pointers, sparse.columns, sparse.values, right)

    if a.sparse is not None:
        result += product(a.sparse, all_values(b)).reshape(result.shape)
    if b.sparse is not None:
        extra = product(b.sparse, dense_values(a))
        result += np.swapaxes(extra, -1, -2).reshape(result.shape)
