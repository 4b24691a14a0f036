"""VPTQ whole: permuted columns, outlier columns with a codebook of their own, calibration by a Hessian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from macloom.errors import MacloomError, require_positive_integer
from macloom.formats.arrays import as_float32, check_finite, clip_share, is_torch, rows_of
from macloom.formats.element import ElementFormat
from macloom.formats.elements.minifloat import FP16
from macloom.formats.families import SEARCHED
from macloom.formats.grammar import CATALOG, Entry, Options, choice_option, integer_option
from macloom.formats.outliers.dense_sparse import Parts, SideFormat
from macloom.formats.outliers.sparse_options import fraction_option
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.tensors.half import half_operand, to_half
from macloom.formats.tensors.vector_codebook import VectorCodebook
from macloom.formats.tensors.vptq_books import Books, feedback, normalisation, prepared

INDEX_BITS = 16  # of a column's place in the permutation and of an outlier column's indices


@dataclass(frozen=True, kw_only=True)
class Vptq(SideFormat):
    """A weight matrix in VPTQ's layout: W = permuted[outlier columns | groups of columns], each vectors by index.

    The first columns are outlier columns, with a codebook of their own of `outlier_entries` vectors of
    `outlier_width` elements; the rest fall into `groups`, each with a codebook (and residual codebook) as in
    `VectorCodebook`. With `permute` columns are sorted by the Hessian's diagonal, the largest first, so that those that
    matter most are the outlier columns. With `norm` every column is brought to [0, 1] by its extremes before. Decoding
    takes the vectors, puts columns back and applies gain and shift, each step rounded to float16.

    `hessian` in `calibrate` and `encode` is that of the layer's inputs, X^T X (columns x columns). Codebooks then are
    k-means weighted by its diagonal, and columns are encoded one after the other, the error of each carried into those
    that follow by the Cholesky factor of the inverse, as in GPTQ (1 % of the mean diagonal is added to it). The
    residual codebook is fitted to what the first round leaves. Without a Hessian columns count alike and
    vectors take the nearest entries.

    Source: microsoft/VPTQ@950716d for the layout (`dequant`, VQuantLinear), its branch `algorithm` for the calibration.
    Departures from the released code: k-means starts by k-means++ from a fixed seed instead of at random, and
    nothing is tuned afterwards. Stored are 16-bit places of columns and indices of outlier columns, float16 codebooks,
    gains and shifts. `calibrate` returns all of it as one vector. `clip` has no effect.

    >>> from macloom.formats import get_format
    >>> fmt = get_format("vptq:vector=8,centroids=256,outliers=0.01,permute=on,groups=2")
    >>> fmt.outlier_columns(4096), round(fmt.bits_per_element(), 4)
    (42, 1.04)
    """

    name: str
    book: VectorCodebook
    groups: int = 1
    outliers: float = 0.0
    outlier_width: int = 4
    outlier_entries: int = 256
    permute: bool = False
    norm: bool = False

    def __post_init__(self) -> None:
        require_positive_integer("vptq.groups", self.groups)
        if not 0 <= self.outliers < 1:
            raise MacloomError(f"vptq.outliers: must be from 0 to below 1, not {self.outliers!r}")
        _ = self.outlier_book

    @property
    def outlier_book(self) -> VectorCodebook:
        """The codebook format of outlier columns."""
        return VectorCodebook(name=self.name, width=self.outlier_width, entries=self.outlier_entries)

    @property
    def element(self) -> ElementFormat:  # type: ignore[override]
        return FP16

    @property
    def code_bits(self) -> int:
        return self.book.code_bits

    @property
    def decoder_bits(self) -> int:
        return self.book.decoder_bits

    @property
    def decoder_elements(self) -> int:
        return self.book.decoder_elements

    def outlier_columns(self, columns: int) -> int:
        """Return how many of `columns` are outlier columns: the share, rounded up, and what groups leave over."""
        chosen = math.ceil(self.outliers * columns) if self.outliers else 0
        chosen += (columns - chosen) % self.groups
        if chosen and not self.outliers:
            raise MacloomError(f"vptq.groups: must divide {columns} columns, which {self.groups} does not")
        if columns - chosen < self.groups:
            raise MacloomError(
                f"vptq.outliers: must leave a column for each of {self.groups} groups of {columns} columns"
            )
        return chosen

    def _split(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Return rows, columns, outlier columns and the columns of a group."""
        if len(shape) != 2:
            raise MacloomError(f"format {self.name!r}: takes a matrix (outputs, inputs), not shape {tuple(shape)}")
        if self.permute and shape[1] > 1 << INDEX_BITS:
            raise MacloomError(f"format {self.name!r}: places have {INDEX_BITS} bits, too few for {shape[1]} columns")
        chosen = self.outlier_columns(shape[1])
        return shape[0], shape[1], chosen, (shape[1] - chosen) // self.groups

    # -- storage -----------------------------------------------------------------------------------

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        """Return the bits of codebooks, gains and shifts."""
        _, columns, chosen, _ = self._split(shape)
        books = self.groups * self.book.scale_bits(shape)
        books += self.outlier_book.scale_bits(shape) if chosen else 0
        return books + (2 * FP16.bits * columns if self.norm else 0)

    def side_bits(self, shape: tuple[int, ...]) -> int:
        rows, columns, chosen, _ = self._split(shape)
        places = INDEX_BITS * columns if self.permute else 0
        return places + INDEX_BITS * chosen * -(-rows // self.outlier_width)

    def storage_bits(self, shape: tuple[int, ...]) -> int:
        rows, _, _, each = self._split(shape)
        codes = self.groups * (self.book.storage_bits((rows, each)) - self.book.scale_bits((rows, each)))
        return codes + self.scale_bits(shape) + self.side_bits(shape)

    def encoded_bits(self, encoded: Encoded) -> int:
        return self.storage_bits(encoded.shape)

    # -- calibration -------------------------------------------------------------------------------

    def _books(self, scale: np.ndarray, shape: tuple[int, ...]) -> Books:
        """Return the parts of what `calibrate` returned.

        Raises:
            MacloomError: it is not of this format and shape.
        """
        _, columns, chosen, _ = self._split(shape)
        sizes = [columns if self.permute else 0, *2 * [columns if self.norm else 0]]
        sizes += [self.outlier_width * self.outlier_entries if chosen else 0]
        sizes += self.groups * [self.book.width * (self.book.entries + self.book.residual)]
        flat = np.asarray(scale, np.float32)
        if flat.shape != (sum(sizes),):
            raise MacloomError(f"scale: must have shape {(sum(sizes),)} for a tensor of {shape}, not {flat.shape}")
        if not np.all(np.isfinite(flat)):
            raise MacloomError(f"scale: the places and codebooks of format {self.name!r} must be finite")
        order, gain, shift, outlier, *groups = np.split(flat, np.cumsum(sizes)[:-1])
        places = order.astype(np.int64) if self.permute else np.arange(columns)
        if not np.array_equal(np.sort(places), np.arange(columns)):
            raise MacloomError(f"scale: must name each of {columns} columns once")
        rest = flat[len(order) :]
        if not np.array_equal(to_half(rest), rest):
            raise MacloomError("scale: codebooks, gains and shifts must be float16 values")
        return Books(
            places,
            gain if self.norm else None,
            shift if self.norm else None,
            outlier.reshape(-1, self.outlier_width) if chosen else None,
            [g.reshape(-1, self.book.width) for g in groups],
            chosen,
            self.book,
            self.outlier_book,
        )

    def _hessian(self, hessian: Any, columns: int) -> np.ndarray | None:
        if hessian is None:
            return None
        given = np.asarray(as_float32(hessian, "hessian"), np.float64)
        if given.shape != (columns, columns) or not np.allclose(given, given.T, rtol=1e-4):
            raise MacloomError(f"hessian: must be symmetric and {columns} x {columns}, not {given.shape}")
        if np.any(np.diag(given) < 0):
            raise MacloomError("hessian: its diagonal must not be negative")
        return given

    def calibrate(self, x: Any, clip: float | None = None, hessian: Any = None) -> np.ndarray:
        """Return places of columns, gains, shifts and codebooks, as one vector.

        Args:
            hessian: of the layer's inputs, see the class; None counts all columns alike.
        """
        clip_share(clip)
        x = as_float32(x)
        check_finite(np.abs(rows_of(x)), self.name)
        _, columns, chosen, _ = self._split(x.shape)
        h = self._hessian(hessian, columns)
        weight = np.ones(columns) if h is None else np.diag(h).copy()
        order = np.argsort(-weight, kind="stable") if self.permute else np.arange(columns)
        gain, shift = normalisation(x) if self.norm else (None, None)
        work = prepared(x, order, gain, shift, h)
        # A dead input counts a little, so that every weight is positive.
        mass = np.maximum(weight, max(float(weight.max()), 1e-30) * 1e-6)[order]
        plain = replace(self.book, residual=0)
        outlier = self.outlier_book.fit(work[:, :chosen], mass[:chosen]) if chosen else None
        empty = [np.empty((0, self.book.width), np.float32)] * self.groups
        first = Books(order, gain, shift, outlier, empty, chosen, plain, self.outlier_book)
        parts: list[np.ndarray] = [order.astype(np.float32)] if self.permute else []
        parts += [part.reshape(-1) for part in (gain, shift, outlier) if part is not None]
        if h is None or not self.book.residual:
            fitted = [self.book.fit(work[:, s], mass[s]).reshape(-1) for s in first.slices()]
            return np.concatenate([*parts, *fitted])
        first = replace(first, groups=[plain.fit(work[:, s], mass[s]) for s in first.slices()])
        _, left = feedback(work, first, h[np.ix_(order, order)])
        second = replace(plain, entries=self.book.residual)
        for s, table in zip(first.slices(), first.groups, strict=True):
            parts += [table.reshape(-1), second.fit(left[:, s].astype(np.float32), mass[s]).reshape(-1)]
        return np.concatenate(parts)

    # -- codes -------------------------------------------------------------------------------------

    def _indices(self, x: np.ndarray, books: Books, hessian: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the groups (index rows, columns) and of the outlier columns."""
        h = self._hessian(hessian, x.shape[1])
        work = prepared(x, books.order, books.gain, books.shift, h)
        chosen = books.chosen
        if h is not None:
            found, _ = feedback(work, books, h[np.ix_(books.order, books.order)])
            outliers = np.stack(found[:chosen], axis=1) if chosen else np.zeros((0, 0))
            return np.stack(found[chosen:], axis=1), outliers.astype(np.uint16)
        parts = [
            self.book._encode(np.ascontiguousarray(work[:, s]), table, 1.0)[0]
            for s, table in zip(books.slices(), books.groups, strict=True)
        ]
        outliers = np.zeros((0, 0), np.uint16)
        if books.outlier is not None:
            outliers = self.outlier_book._encode(np.ascontiguousarray(work[:, :chosen]), books.outlier, 1.0)[0]
        return np.concatenate(parts, axis=1), outliers.astype(np.uint16)

    def encode_parts(self, x: np.ndarray, scale: np.ndarray, clip: float) -> Parts:
        return self._parts(x, scale, None)

    def _parts(self, x: np.ndarray, scale: np.ndarray, hessian: Any) -> Parts:
        books = self._books(scale, x.shape)
        codes, outliers = self._indices(x, books, hessian)
        stored = np.asarray(scale, np.float32)
        side: dict[str, np.ndarray] = {}
        if self.permute:
            side["order"], stored = books.order.astype(np.uint16), stored[x.shape[1] :]
        if outliers.size:
            side["outliers"] = outliers
        return codes, stored, side

    def encode(
        self,
        x: Any,
        scale: Any = None,
        clip: float | None = None,
        rng: np.random.Generator | None = None,
        *,
        hessian: Any = None,
    ) -> Encoded:
        """Return `x` in stored form; `hessian` as in the class, for calibrating and for encoding."""
        self.drawing(rng)
        clip_share(clip)
        array = as_float32(x)
        check_finite(np.abs(rows_of(array)), self.name)
        given = self.calibrate(x, clip, hessian) if scale is None else as_float32(scale, "scale")
        codes, stored, side = self._parts(array, given, hessian)
        return Encoded(self, array.shape, codes, stored, torch=is_torch(x), side=side)

    def _write_quantized(
        self,
        x: Any,
        scale: Any,
        clip: float | None,
        out: Any,
        rng: np.random.Generator | None,
        *,
        hessian: Any = None,
    ) -> Any:
        return self.write_values(self.encode(x, scale, clip, rng, hessian=hessian), x, out)

    def decode(self, encoded: Encoded) -> np.ndarray:
        rows, columns, chosen, each = self._split(encoded.shape)
        side, scales = encoded.side or {}, np.asarray(encoded.scales, np.float32)
        if self.permute:
            places = np.asarray(side.get("order", np.empty(0)), np.float32)
            scales = np.concatenate((places, scales))
        books = self._books(scales, encoded.shape)
        codes = encoded.elements
        parts = [
            self.book._values(np.ascontiguousarray(codes[:, g * each : (g + 1) * each]), book, (rows, each))
            for g, book in enumerate(books.groups)
        ]
        if books.outlier is not None:
            expected = (-(-rows // self.outlier_width), chosen)
            stored = np.asarray(side.get("outliers", np.empty((0, 0))))
            if stored.shape != expected or stored.max() >= self.outlier_entries:
                raise MacloomError(f"side.outliers: must hold indices below {self.outlier_entries} of shape {expected}")
            parts.insert(0, self.outlier_book._values(stored.astype(np.int64), books.outlier, (rows, chosen)))
        values = np.empty((rows, columns), np.float32)
        values[:, books.order] = np.concatenate(parts, axis=1)
        if books.gain is not None and books.shift is not None:
            values = to_half(to_half(values * books.gain) + books.shift)
        return values

    def operand_of(self, encoded: Encoded) -> Operand:
        return half_operand(self.decode(encoded))

    def element_shape(self, shape: tuple[int, ...]) -> None:
        """Return None: there is an index for each vector of a group, which spans rows."""

    def pack_elements(self, elements: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return the words of every group, group after group, (groups, index rows, bytes)."""
        rows, _, _, each = self._split(shape)
        parts = [elements[:, g * each : (g + 1) * each] for g in range(self.groups)]
        return np.stack([self.book.pack_elements(np.ascontiguousarray(p), (rows, each)) for p in parts])

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
        rows, _, _, each = self._split(shape)
        if len(codes) != self.groups:
            raise MacloomError(f"codes: must hold the words of {self.groups} groups, not {len(codes)}")
        parts = [self.book.from_packed(words, scales, (rows, each)).elements for words in codes]
        encoded = Encoded(self, tuple(shape), np.concatenate(parts, axis=1), np.asarray(scales), side=side)
        self.decode(encoded)  # refuses side data that do not fit
        return encoded


class Switch(StrEnum):
    OFF = "off"
    ON = "on"


def _build(name: str, options: Options) -> TensorFormat:
    book = VectorCodebook(
        name=name,
        width=integer_option(options, "vector", 4),
        entries=integer_option(options, "centroids", 256),
        residual=integer_option(options, "residual", 0),
    )
    whole = Vptq(
        name=name,
        book=book,
        groups=integer_option(options, "groups", 1),
        outliers=fraction_option(options, "outliers", 0.0),
        outlier_width=integer_option(options, "outlier_vector", 4),
        outlier_entries=integer_option(options, "outlier_centroids", 256),
        permute=choice_option(options, "permute", *Switch) is Switch.ON,
        norm=choice_option(options, "norm", *Switch) is Switch.ON,
    )
    return whole if set(options) & set(WHOLE) else book


WHOLE = ("groups", "outliers", "outlier_vector", "outlier_centroids", "permute", "norm")

CATALOG.add(
    "vptq",
    Entry(
        family=SEARCHED,
        summary="vectors of 4 output channels as 8-bit indices of a codebook (vector=, centroids=, residual=)",
        source="Liu et al., VPTQ, EMNLP 2024; layout as in microsoft/VPTQ",
        build=_build,
        keys=("vector", "centroids", "residual", *WHOLE),
        explains=(Vptq,),
    ),
)
