"""How KVQuant's released inference code stores keys and values: packed words, tables, and padded outlier lists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, rows_of
from macloom.formats.elements.minifloat import FP16, FP32, FloatFormat
from macloom.formats.outliers.dense_sparse import Parts
from macloom.formats.outliers.kvquant import KVQuant, Tensor
from macloom.formats.outliers.kvquant_view import View
from macloom.formats.outliers.sparse import round_to
from macloom.formats.outliers.sparse_options import Mode
from macloom.formats.outliers.tables import TableFormat
from macloom.formats.packing import pack, unpack
from macloom.formats.tensor import Encoded, Operand, SparseMatrix

WORD = 32


@dataclass(frozen=True, kw_only=True)
class KVQuantDeployed(TableFormat):
    """KVQuant's storage in its released inference code (KVQuant@57a2383, deployment/: kernels, QuantK and QuantV).

    Codes of 32 channels of a token fill `width` 32-bit words, the first channel lowest, 3-bit codes across
    word boundaries; words lie as (..., words of a token, tokens). Keys have a float32 table of 2**width entries
    for every channel, values one for every token, so that decoding is a look-up. A token has a fixed number
    of outliers, `cap` of the largest and `cap` of the smallest, as float32 values and 32-bit channel numbers.

    Keys: a table is entry * radius + offset with float16 radius and offset of the calibrated range. Every key takes
    the nearest entry, outliers an end of the table; an outlier's value is what is added to that end, and 0
    for list places that no key beyond its range claims. The lists hold the keys farthest beyond their ranges
    relative to them. Values: the range runs between the values that come after the lists' last ones; elements
    beyond it take the code of the middle entry, 2**(width - 1) - 1, and their difference to that entry. `cap` is by
    default floor(outliers / 2 * channels) + 1: 21 for 4096 channels and 1 %.

    Departures from that code: a value that equals the end of its range but is in a list keeps its own code, so that
    it is not counted twice; in the parallel 3-bit value kernel an index is wrong, which is not reproduced. With
    `qnorm` codes are chosen by the plain table and only the table that decodes is counted. The first tokens
    that the code keeps in fp16 are not part of this storage.

    `calibrate` returns what KVQuant's `upstream` mode does. `Encoded.bits` counts tables, words and lists.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> get_format("kvquant4:storage=deployed").storage_bits((4096, 4096)) / 4096**2
    4.78125
    """

    name: str
    width: int
    tensor: Tensor = Tensor.KEY
    outliers: float = 0.01
    cap: int | None = None
    qnorm: bool = False
    transposed: bool = False

    def __post_init__(self) -> None:
        _ = self.calibrator
        if self.width not in (2, 3, 4):
            raise MacloomError(f"kvquant.width: the deployed kernels have 2, 3 or 4 bits, not {self.width}")

    @property
    def entry(self) -> FloatFormat:  # type: ignore[override]
        return FP32

    @property
    def calibrator(self) -> KVQuant:
        """The simulated quantizer whose ranges and table this stores."""
        return KVQuant(
            name=self.name, width=self.width, tensor=self.tensor, entry=FP32, outliers=self.outliers, cap=self.cap,
            qnorm=self.qnorm, transposed=self.transposed, mode=Mode.UPSTREAM,
        )  # fmt: skip

    def view(self, shape: tuple[int, ...]) -> View:
        """Return how a tensor of `shape` falls into vectors and tokens."""
        return View(tuple(shape) or (1,), self.tensor is Tensor.KEY, self.transposed)

    def _tokens(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return how many tokens a tensor has, in all, and the channels of each."""
        full = self.view(shape).full
        channels = full[-2] if self.transposed else full[-1]
        if channels % WORD:
            raise MacloomError(f"format {self.name!r}: stores whole words of {WORD} channels, which {channels} are not")
        return math.prod(full) // channels, channels

    def kept(self, channels: int) -> int:
        """Return how many outliers on each side of a token are stored."""
        # As the code computes it; the order of the operations decides the last place.
        count = int(((1 - (1 - self.outliers)) / 2) * channels) + 1 if self.cap is None else self.cap
        if 2 * count + 2 > channels:
            raise MacloomError(f"kvquant.cap: must leave two of {channels} channels inside, which 2 x {count} does not")
        return count

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return self.view(shape).count * (1 << self.width) * FP32.bits

    def side_bits(self, shape: tuple[int, ...]) -> int:
        tokens, channels = self._tokens(shape)
        return tokens * 2 * self.kept(channels) * (32 + 32)

    def storage_bits(self, shape: tuple[int, ...]) -> int:
        tokens, channels = self._tokens(shape)
        return tokens * channels * self.width + self.scale_bits(shape) + self.side_bits(shape)

    def encoded_bits(self, encoded: Encoded) -> int:
        return self.storage_bits(encoded.shape)

    def calibrate(self, x: Any, clip: float | None = None, weights: Any = None) -> np.ndarray:
        """Return the bounds of keys and both tables, as one vector; see `KVQuant.calibrate`."""
        return self.calibrator.calibrate(x, clip, weights)

    def encode_parts(self, x: np.ndarray, scale: np.ndarray, clip: float) -> Parts:
        shape = x.shape or (1,)
        view = self.view(shape)
        _, channels = self._tokens(shape)
        count = self.kept(channels)
        bounds, table, values = self.calibrator.calibrated(scale, shape)
        tokens = view.tokens(x)
        check_finite(np.abs(tokens), self.name)
        if bounds is not None:
            codes, stored, indices, differences = self._keys(view, tokens, bounds, table, values, count)
        else:
            codes, stored, indices, differences = self._values(tokens, table, values, count)
        order = np.argsort(indices, axis=1, kind="stable")
        side = {
            "values": np.take_along_axis(differences, order, axis=1).astype(np.float32),
            "channels": np.take_along_axis(indices, order, axis=1).astype(np.uint32),
        }
        return view.from_tokens(codes).reshape(x.shape), stored, side

    def _tables(self, table: np.ndarray, radius: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Return table * radius + offset in float32 arithmetic (vectors x entries)."""
        with np.errstate(over="ignore"):
            return (table * radius.astype(np.float32)[:, None]).astype(np.float32) + offset.astype(np.float32)[:, None]

    def _keys(
        self, view: View, tokens: np.ndarray, bounds: np.ndarray, table: np.ndarray, values: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        low, high = bounds[:, 0], bounds[:, 1]
        half = [round_to(FP16, round_to(FP16, s) / np.float32(2)) for s in (high - low, high + low)]
        choose, stored = self._tables(table, *half), self._tables(values, *half)
        vectors = view.vectors(view.from_tokens(tokens))
        codes = np.abs(vectors[:, :, None] - choose[:, None]).argmin(axis=2).astype(np.uint8)
        radius, middle = (high - low) / np.float32(2), (high + low) / np.float32(2)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            relative = ((vectors - middle[:, None]) / radius[:, None]).astype(np.float32)
        relative = np.where(np.isnan(relative), np.float32(0), relative)
        ends = [view.tokens(view.tensor(np.broadcast_to(stored[:, end, None], vectors.shape))) for end in (-1, 0)]
        relative = view.tokens(view.tensor(relative))
        indices, differences = [], []
        for sign, end in zip((1, -1), ends, strict=True):
            chosen = np.argsort(-sign * relative, axis=1, kind="stable")[:, :count]
            beyond = sign * np.take_along_axis(relative, chosen, axis=1) > 1
            difference = np.take_along_axis(tokens, chosen, axis=1) - np.take_along_axis(end, chosen, axis=1)
            indices.append(chosen)
            differences.append(np.where(beyond, difference, np.float32(0)))
        codes = view.tokens(view.tensor(codes))
        return codes, stored, np.concatenate(indices, axis=1), np.concatenate(differences, axis=1)

    def _values(
        self, tokens: np.ndarray, table: np.ndarray, values: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        order = np.argsort(tokens, axis=1, kind="stable")
        ordered = np.take_along_axis(tokens, order, axis=1)
        low, high = ordered[:, count], ordered[:, -count - 1]
        radius, offset = (high - low) / np.float32(2), (high + low) / np.float32(2)
        choose, stored = self._tables(table, radius, offset), self._tables(values, radius, offset)
        codes = np.abs(tokens[:, :, None] - choose[:, None]).argmin(axis=2)
        beyond = (tokens < low[:, None]) | (tokens > high[:, None])
        codes = np.where(beyond, (1 << (self.width - 1)) - 1, codes).astype(np.uint8)
        indices = np.concatenate((order[:, -count:], order[:, :count]), axis=1)
        held = np.take_along_axis(stored, np.take_along_axis(codes, indices, axis=1).astype(np.intp), axis=1)
        return codes, stored, indices, np.take_along_axis(tokens, indices, axis=1) - held

    def pack_elements(self, elements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return the words as bytes, (..., words of a token, 4 x tokens)."""
        view = self.view(shape)
        self._tokens(shape)  # raises
        words = pack(view.tokens(np.ascontiguousarray(elements)), self.width).view("<u4")
        stacked = np.swapaxes(words.reshape(*view.full[:-2], -1, words.shape[1]), -1, -2)
        return np.ascontiguousarray(stacked).view(np.uint8)

    def from_packed(
        self, codes: np.ndarray, scales: np.ndarray, shape: tuple[int, ...], outer: float = 1.0, side: Any = None
    ) -> Encoded:
        if side is None:
            raise MacloomError(f"format {self.name!r}: needs the side data of the encoded tensor")
        view = self.view(shape)
        tokens, channels = self._tokens(shape)
        lead = view.full[:-2]
        each = tokens // max(1, math.prod(lead))
        expected = (*lead, channels // WORD * self.width, 4 * each)
        codes = np.ascontiguousarray(codes, np.uint8)
        if codes.shape != expected:
            raise MacloomError(f"codes: must have shape {expected} for a tensor of {tuple(shape)}, not {codes.shape}")
        words = np.ascontiguousarray(np.swapaxes(codes.view("<u4"), -1, -2)).reshape(tokens, -1)
        elements = view.from_tokens(unpack(words.view(np.uint8), self.width, channels)).reshape(shape)
        encoded = Encoded(self, tuple(shape), elements, np.asarray(scales), np.float32(outer), side=side)
        self.decode(encoded)  # refuses side data that do not fit
        return encoded

    def _dense(self, encoded: Encoded) -> np.ndarray:
        """Return what the tables say of the codes, tokens x channels."""
        shape = encoded.shape or (1,)
        view = self.view(shape)
        tables = np.asarray(encoded.scales, np.float32)
        if tables.shape != (view.count, 1 << self.width):
            expected = (view.count, 1 << self.width)
            raise MacloomError(
                f"scales: must hold tables of shape {expected} for a tensor of {shape}, not {tables.shape}"
            )
        codes = view.vectors(encoded.elements.reshape(shape))
        return view.tokens(view.tensor(np.take_along_axis(tables, codes.astype(np.intp), axis=1)))

    def _added(self, encoded: Encoded) -> np.ndarray:
        """Return what outliers add, tokens x channels."""
        shape, side = encoded.shape or (1,), encoded.side or {}
        tokens, channels = self._tokens(shape)
        expected = (tokens, 2 * self.kept(channels))
        values, where = np.asarray(side.get("values", 0), np.float32), np.asarray(side.get("channels", 0), np.int64)
        if values.shape != expected or where.shape != expected or np.any((where < 0) | (where >= channels)):
            raise MacloomError(f"side: must hold values and channels below {channels} of shape {expected}")
        added = np.zeros((tokens, channels), np.float32)
        np.put_along_axis(added, where, values, axis=1)
        return added

    def decode(self, encoded: Encoded) -> np.ndarray:
        values = self._dense(encoded) + self._added(encoded)
        return self.view(encoded.shape or (1,)).from_tokens(values).reshape(encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        view = self.view(encoded.shape or (1,))
        added = rows_of(view.from_tokens(self._added(encoded)))
        row, column = np.nonzero(added)
        pointers = np.searchsorted(row, np.arange(len(added) + 1))
        dense = view.from_tokens(self._dense(encoded)).reshape(encoded.shape)
        return self.table_operand(dense, SparseMatrix(pointers, column, added[row, column], FP32))

    def encode(
        self,
        x: Any,
        scale: Any = None,
        clip: float | None = None,
        rng: np.random.Generator | None = None,
        *,
        weights: Any = None,
    ) -> Encoded:
        """Return `x` in stored form; `weights` as in `KVQuant.calibrate`, where that happens."""
        given = self.calibrate(x, clip, weights) if scale is None else as_float32(scale, "scale")
        return super().encode(x, given, clip, rng)
