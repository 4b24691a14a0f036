"""OLAccel's weight memory: chunks of 4-bit codes with room for one outlier, and overflow chunks for more."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import rows_of
from macloom.formats.elements.integer import IntFormat
from macloom.formats.outliers.dense_sparse import DenseSparse, Parts
from macloom.formats.outliers.sparse import to_float32
from macloom.formats.packing import pack, packed_row_bytes, unpack
from macloom.formats.tensor import Encoded, Operand

NIBBLE = 4
WIDEST_POINTER = 16


def overflow_share(share: float, chunk: int) -> float:
    """Return the probability of two or more outliers among `chunk` elements, each being one with probability `share`.

    >>> round(overflow_share(0.03, 16), 4)
    0.0818
    """
    inside = 1 - share
    return 1 - inside**chunk - chunk * share * inside ** (chunk - 1)


@dataclass(frozen=True, kw_only=True)
class ChunkedOutliers(DenseSparse):
    """4-bit integers with 8-bit outliers in chunks of the weight memory, after Park et al., OLAccel, ISCA 2018.

    A chunk holds the low four bits of 16 weights, an 8-bit pointer, and for one outlier its place and its high
    four bits: 80 bits. With two outliers or more the pointer names a chunk of the row's overflow list, of 80 bits too,
    which holds the high four bits of all 16; pointer 0 means none. Without outliers place 0 is named and its high
    bits extend the sign. A chunk with an overflow chunk costs a second pass (`extra_passes`). A row's last chunk may
    be shorter; rows name the start of their overflow list with 32 bits.

    Values and the choice of outliers are those of `DenseSparse` with 8-bit outliers, bit for bit. The layout is a
    reconstruction from summaries of the paper: the order of the fields, where lists start and what pointer 0
    means are ours. `storage_bits` takes the number of overflow chunks that independent outliers give.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> x = np.float32([[7, -9, 1] + 13 * [0]])
    >>> encoded = get_format("olaccel4:layout=overflow").encode(x, scale=np.float32(1))
    >>> encoded.decode()[0, :3], encoded.side["places"].tolist(), encoded.side["tops"].tolist(), encoded.bits
    (array([ 7., -9.,  1.], dtype=float32), [1], [15], 184)
    """

    chunk: int = 16
    pointer: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.chunk, int) or not 2 <= self.chunk <= 1 << 15 or self.chunk & (self.chunk - 1):
            raise MacloomError(f"olaccel.chunk: must be a power of two from 2 to 32768, not {self.chunk!r}")
        if not isinstance(self.pointer, int) or not 1 <= self.pointer <= WIDEST_POINTER:
            raise MacloomError(f"olaccel.pointer: must be from 1 to {WIDEST_POINTER} bits, not {self.pointer!r}")
        if self.dense.element != IntFormat(width=NIBBLE) or self.value != IntFormat(width=2 * NIBBLE):
            raise MacloomError("olaccel.layout: 'overflow' has 4-bit integers with outliers of 8 bits")

    @property
    def place_bits(self) -> int:
        return self.chunk.bit_length() - 1

    @property
    def overflow_bytes(self) -> int:
        """Bytes of an overflow chunk: as wide as a chunk with its fields."""
        return packed_row_bytes(1, NIBBLE * self.chunk + self.pointer + self.place_bits + NIBBLE)

    def chunks(self, length: int) -> int:
        """Return how many chunks a row of `length` elements has."""
        return -(-length // self.chunk)

    def side_bits(self, shape: tuple[int, ...]) -> int:
        rows = math.prod(shape[:-1])
        count = rows * self.chunks(shape[-1])
        overflow = math.floor(count * overflow_share(self.share, self.chunk) + 1e-9)
        fields = sum(packed_row_bytes(count, bits) for bits in (self.pointer, self.place_bits, NIBBLE))
        return 8 * (fields + overflow * self.overflow_bytes) + 32 * (rows + 1)

    def extra_passes(self, encoded: Encoded) -> int:
        """Return how many chunks of an encoded tensor are read twice, as they have an overflow chunk."""
        return len((encoded.side or {})["overflow"])

    def _in_chunks(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as rows x chunks x elements, the last chunk padded with zeros."""
        padding = -rows.shape[1] % self.chunk
        return np.pad(rows, ((0, 0), (0, padding))).reshape(len(rows), -1, self.chunk)

    def encode_parts(self, x: np.ndarray, scale: np.ndarray, clip: float) -> Parts:
        rows, spread = rows_of(x), self._spread(scale, x.shape)
        with np.errstate(over="ignore"):
            mask = np.abs(rows) > np.float32(self.reach) * spread
        inside, scales, _ = self.dense._encode(np.where(mask, np.float32(0), rows).reshape(x.shape), scale, clip)
        integers = self.dense.element.decode(rows_of(inside)).astype(np.int16)
        integers[mask] = self.value.decode(self.outlier_codes(rows[mask], spread[mask])).astype(np.int16)
        return (integers & 15).astype(np.uint8).reshape(x.shape), scales, self._fields(integers)

    def _fields(self, integers: np.ndarray) -> dict[str, np.ndarray]:
        """Return the chunks' fields and the overflow chunks of rows of integers."""
        chunks = self._in_chunks(integers)
        outlier = np.abs(chunks) > self.dense.element.max_value
        several = outlier.sum(axis=2) > 1
        place = outlier.argmax(axis=2)
        high = (chunks >> NIBBLE) & 15
        top = np.take_along_axis(high, place[:, :, None], axis=2)[:, :, 0]
        counts = several.sum(axis=1)
        reach = (1 << self.pointer) - 1
        if counts.max(initial=0) > reach:
            row = int(counts.argmax())
            raise MacloomError(
                f"format {self.name!r}: row {row} needs {counts[row]} overflow chunks, but {self.pointer}-bit pointers "
                f"reach {reach}; use 'pointer={int(counts[row]).bit_length()}' or a smaller 'share'"
            )
        pointers = np.where(several, np.cumsum(several, axis=1), 0)
        overflow = np.zeros((int(counts.sum()), self.overflow_bytes), np.uint8)
        packed = pack(high[several].astype(np.uint8), NIBBLE)
        overflow[:, : packed.shape[1]] = packed
        starts = np.concatenate(([0], np.cumsum(counts)))
        return {
            "pointers": pack(pointers.astype(np.uint16).reshape(1, -1), self.pointer)[0],
            "places": pack(place.astype(np.uint16).reshape(1, -1), self.place_bits)[0],
            "tops": pack(top.astype(np.uint8).reshape(1, -1), NIBBLE)[0],
            "overflow": overflow,
            "starts": starts.astype(np.uint32),
        }

    def _integers(self, encoded: Encoded) -> np.ndarray:
        """Return the integers (int16, rows x length) of an encoded tensor.

        Raises:
            MacloomError: its side data are not what an encoder writes.
        """
        low = rows_of(encoded.elements)
        rows, length = low.shape
        count, side = self.chunks(length), encoded.side or {}
        fields = []
        for key, bits in (("pointers", self.pointer), ("places", self.place_bits), ("tops", NIBBLE)):
            stored = np.asarray(side.get(key, np.empty(0, np.uint8)), np.uint8)
            if stored.shape != (packed_row_bytes(rows * count, bits),):
                raise MacloomError(
                    f"side.{key}: must hold {rows * count} fields of {bits} bits, not {stored.size} bytes"
                )
            fields.append(unpack(stored[None], bits, rows * count)[0].reshape(rows, count).astype(np.int64))
        pointers, places, tops = fields
        starts = np.asarray(side.get("starts", np.empty(0)), np.int64)
        overflow = np.asarray(side.get("overflow", np.empty((0, self.overflow_bytes))), np.uint8)
        counts = (pointers > 0).sum(axis=1)
        if starts.shape != (rows + 1,) or starts[0] or np.any(np.diff(starts) != counts):
            raise MacloomError(f"side.starts: must be where the overflow lists of {rows} rows start")
        if overflow.shape != (counts.sum(), self.overflow_bytes) or np.any(pointers > counts[:, None]):
            raise MacloomError(f"side.overflow: must hold {counts.sum()} chunks of {self.overflow_bytes} bytes")
        nibbles = self._in_chunks(low.astype(np.int16))
        high = np.where(nibbles > 7, 15, 0)
        np.put_along_axis(high, places[:, :, None], tops[:, :, None], axis=2)
        several = pointers > 0
        index = (starts[:-1, None] + pointers - 1)[several]
        high[several] = unpack(overflow[index], NIBBLE, self.chunk)
        integers = (high << NIBBLE | nibbles).astype(np.uint8).view(np.int8)
        return integers.reshape(rows, -1)[:, :length].astype(np.int16)

    def decode(self, encoded: Encoded) -> np.ndarray:
        spread = self._spread(np.asarray(encoded.scales, np.float32), encoded.shape)
        with np.errstate(over="ignore"):
            return to_float32(self._integers(encoded).astype(np.float32) * spread).reshape(encoded.shape)

    def _sparse(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        integers = self._integers(encoded)
        row, column = np.nonzero(np.abs(integers) > self.dense.element.max_value)
        pointers = np.searchsorted(row, np.arange(len(integers) + 1))
        return pointers, column, rows_of(self.decode(encoded))[row, column]

    def operand_of(self, encoded: Encoded) -> Operand:
        integers = self._integers(encoded)
        inside = np.where(np.abs(integers) > self.dense.element.max_value, 0, integers) & 15
        dense = Encoded(self.dense, encoded.shape, inside.astype(np.uint8).reshape(encoded.shape), encoded.scales)
        return self.with_sparse(self.dense.operand_of(dense), encoded)
