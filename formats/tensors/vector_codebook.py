"""Vector codebooks in the manner of VPTQ (arXiv 2409.17066): an index stands for a vector of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.arrays import as_float32, check_finite, clip_share, output_for, rows_of
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import FP16
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.tensors.half import half_operand, to_half
from macloom.formats.threads import run_rows

WORD_BITS = 32
SAMPLES_PER_ENTRY = 64


def fit_vectors(
    vectors: np.ndarray,
    count: int,
    *,
    lanes: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    iterations: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Return `count` centroids (float64, count x width) of vectors by k-means++ and Lloyd's algorithm.

    An entry that no vector takes stays where it is. Same input and seed, same result.

    Args:
        vectors: float64, rows are vectors.
        lanes: how many components of each vector count (all).
        weights: positive mass of each vector, e.g. the Hessian's diagonal (1).
    """
    from macloom.formats.kernels.nearest import accumulate, shrink

    vectors = np.ascontiguousarray(vectors, np.float64)
    lanes = np.full(len(vectors), vectors.shape[1]) if lanes is None else lanes
    mass = np.ones(len(vectors)) if weights is None else np.ascontiguousarray(weights, np.float64)
    if mass.shape != (len(vectors),) or not np.all(mass > 0):
        raise MacloomError(f"weights: must be {len(vectors)} positive numbers, one for each vector")
    rng = np.random.default_rng(seed)
    codebook = np.zeros((count, vectors.shape[1]))
    distance = np.full(len(vectors), np.inf)
    chosen = int(np.argmax(mass))
    for c in range(count):
        codebook[c] = vectors[chosen]
        shrink(vectors, lanes, codebook[c], distance)
        total = np.cumsum(distance * mass)
        # One draw per entry, also where all vectors already are entries.
        chosen = min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(vectors) - 1)
    for _ in range(iterations):
        index, _ = _assign(vectors, lanes, codebook)
        sums, masses = np.zeros((2, *codebook.shape))
        accumulate(vectors, lanes, mass, index, sums, masses)
        moved = np.where(masses > 0, sums / np.where(masses > 0, masses, 1), codebook)
        if np.array_equal(moved, codebook):
            break
        codebook = moved
    return codebook


def _assign(vectors: np.ndarray, lanes: np.ndarray, codebook: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from macloom.formats.kernels.nearest import nearest

    index, distance = np.empty(len(vectors), np.int64), np.empty(len(vectors))
    run_rows(nearest, len(vectors), vectors.size * len(codebook), vectors, lanes, codebook, index, distance)
    return index, distance


@dataclass(frozen=True, kw_only=True)
class VectorCodebook(TensorFormat):
    """Vectors of `width` elements along the axis before the last (output channels) become one index.

    W = C[index] + R[residual index], rounded to float16, with float16 codebooks C and R of the whole
    tensor; without `residual` there is no R. Entries are those nearest to the vector and to what C
    leaves of it. The output channels are padded to whole vectors; padding counts in no distance. Codes
    are (residual index << index bits) | index, packed from the lowest bit on into 32-bit words, every
    row of vectors starting a word, as in microsoft/VPTQ@950716d.

    `calibrate` fits the codebooks by k-means and returns them, R below C, as float32 (entries, width);
    at most 64 vectors per entry are used, evenly spread. VPTQ weights them by a Hessian and has outlier
    columns, which `Vptq` does; tuned further they are not. `clip` has no effect.

    >>> import numpy as np
    >>> fmt = VectorCodebook(name="v", width=2, entries=2)
    >>> fmt.quantize(np.float32([[1, 5, 1], [2, 6, 2]]))
    array([[1., 5., 1.],
           [2., 6., 2.]], dtype=float32)
    """

    name: str
    width: int = 4
    entries: int = 256
    residual: int = 0
    iterations: int = 10

    def __post_init__(self) -> None:
        require_positive_integer("vector.width", self.width)
        for what, count in (("entries", self.entries), ("residual", self.residual or 2)):
            if not isinstance(count, int) or not 2 <= count <= 1 << 16 or count & (count - 1):
                raise MacloomError(f"vector.{what}: must be a power of two from 2 to 65536, not {count!r}")

    @property
    def element(self) -> ElementFormat:  # type: ignore[override]
        return FP16

    @property
    def index_bits(self) -> int:
        return self.entries.bit_length() - 1

    @property
    def code_bits(self) -> int:
        """Bits of one code, which stands for `width` elements."""
        return self.index_bits + (self.residual.bit_length() - 1 if self.residual else 0)

    @property
    def decoder_bits(self) -> int:
        return self.code_bits

    @property
    def decoder_elements(self) -> int:
        return self.width

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return a tensor's matrices, rows and columns."""
        rows = shape[-2] if len(shape) > 1 else 1
        return math.prod(shape[:-2]), rows, shape[-1] if shape else 1

    def _code_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        _, rows, columns = self._shape(shape)
        return (*shape[:-2], -(-rows // self.width), columns)

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return FP16.bits * self.width * (self.entries + self.residual)

    def storage_bits(self, shape: tuple[int, ...]) -> int:
        codes = self._code_shape(tuple(shape))
        words = -(-codes[-1] * self.code_bits // WORD_BITS)
        return math.prod(codes[:-1]) * words * WORD_BITS + self.scale_bits(shape)

    def _vectors(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all vectors (float64, vectors x width) and how many components of each are no padding."""
        check_finite(np.abs(rows_of(x)), self.name)
        matrices, rows, columns = self._shape(x.shape)
        groups = -(-rows // self.width)
        padded = np.zeros((matrices, groups * self.width, columns))
        padded[:, :rows] = x.reshape(matrices, rows, columns)
        vectors = np.swapaxes(padded.reshape(matrices, groups, self.width, columns), 2, 3)
        lanes = np.full((matrices, groups, columns), self.width)
        lanes[:, -1] = rows - (groups - 1) * self.width
        return np.ascontiguousarray(vectors).reshape(-1, self.width), lanes.reshape(-1)

    def fit(self, x: Any, column_weights: np.ndarray | None = None) -> np.ndarray:
        """Return codebooks for `x`, whose columns count by `column_weights` (positive, one per column)."""
        x = as_float32(x)
        vectors, lanes = self._vectors(x)
        columns = self._shape(x.shape)[2]
        mass = np.ones(columns) if column_weights is None else np.asarray(column_weights, np.float64)
        if mass.shape != (columns,):
            raise MacloomError(f"column_weights: must have shape {(columns,)}, not {mass.shape}")
        mass = np.tile(mass, len(vectors) // columns)
        books: list[np.ndarray] = []
        for count in filter(None, (self.entries, self.residual)):
            step = max(1, len(vectors) // (SAMPLES_PER_ENTRY * count))
            fitted = fit_vectors(
                vectors[::step], count, lanes=lanes[::step], weights=mass[::step], iterations=self.iterations
            )
            books.append(to_half(fitted))
            vectors = vectors - books[-1][_assign(vectors, lanes, books[-1].astype(np.float64))[0]]
        return np.concatenate(books)

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        clip_share(clip)
        return self.fit(x)

    def _books(self, scale: np.ndarray) -> list[np.ndarray]:
        expected = (self.entries + self.residual, self.width)
        if scale.shape != expected or not np.array_equal(to_half(scale), scale):
            raise MacloomError(f"scale: must hold float16 codebooks of shape {expected}, not {scale.shape}")
        return [b for b in (scale[: self.entries], scale[self.entries :]) if len(b)]

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        books = self._books(scale)
        vectors, lanes = self._vectors(x)
        code = np.zeros(len(vectors), np.int64)
        for book, position in zip(books, (0, self.index_bits), strict=False):
            index, _ = _assign(vectors, lanes, book.astype(np.float64))
            code |= index << position
            vectors = vectors - book[index]
        dtype = next(t for t in (np.uint8, np.uint16, np.uint32) if self.code_bits <= 8 * np.dtype(t).itemsize)
        return code.astype(dtype).reshape(self._code_shape(x.shape)), np.array(scale, np.float32), np.float32(1)

    def _values(self, elements: np.ndarray, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        books = self._books(scale)
        matrices, rows, columns = self._shape(shape)
        codes = elements.reshape(matrices, -1, columns).astype(np.int64)
        values = books[0][codes & (self.entries - 1)]
        if len(books) > 1:
            values = to_half(values + books[1][codes >> self.index_bits])
        return np.ascontiguousarray(np.swapaxes(values, 2, 3).reshape(matrices, -1, columns)[:, :rows]).reshape(shape)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        result = output_for(template, out, x.shape)
        result[...] = self._values(self._encode(x, scale, clip)[0], scale, x.shape)
        return result

    def decode(self, encoded: Encoded) -> np.ndarray:
        return self._values(encoded.elements, np.asarray(encoded.scales, np.float32), encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        return half_operand(self.decode(encoded))

    def element_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self._code_shape(shape)

    def pack_elements(self, elements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        rows = elements.reshape(-1, elements.shape[-1]).astype(np.uint32)
        bits = (rows[:, :, None] >> np.arange(self.code_bits, dtype=np.uint32)).astype(np.uint8) & 1
        stream = bits.reshape(len(rows), -1)
        packed = np.packbits(np.pad(stream, ((0, 0), (0, -stream.shape[1] % WORD_BITS))), axis=1, bitorder="little")
        return packed.reshape(*elements.shape[:-1], -1)

    def from_packed(
        self, codes: np.ndarray, scales: np.ndarray, shape: tuple[int, ...], outer: float = 1.0, side: Any = None
    ) -> Encoded:
        expected = self._code_shape(tuple(shape))
        packed = (*expected[:-1], -(-expected[-1] * self.code_bits // WORD_BITS) * WORD_BITS // 8)
        codes = np.asarray(codes, np.uint8)
        if codes.shape != packed:
            raise MacloomError(f"codes: must have shape {packed} for a tensor of {tuple(shape)}, not {codes.shape}")
        bits = np.unpackbits(codes.reshape(-1, packed[-1]), axis=1, bitorder="little")
        bits = bits[:, : expected[-1] * self.code_bits].reshape(-1, expected[-1], self.code_bits)
        elements = (bits.astype(np.uint32) << np.arange(self.code_bits, dtype=np.uint32)).sum(axis=2, dtype=np.uint32)
        return Encoded(self, tuple(shape), elements.reshape(expected), np.asarray(scales), np.float32(outer), side=side)
