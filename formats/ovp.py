"""Outlier-victim pairs (Guo et al., OliVe, ISCA 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, output_for, rows_of
from macloom.formats.element import ElementFormat, OperandClass
from macloom.formats.grid import grid_of, lookup_of_thresholds
from macloom.formats.minifloat import FP32, FloatFormat
from macloom.formats.policy import Overflow, Rounding
from macloom.formats.scales import Grain, Granularity, store_scale
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.threads import run_rows

OUTLIER_FLAG = 0x8000


@dataclass(frozen=True)
class PairTable:
    """The union of the normal and the outlier grid as a lookup table over float32 bits."""

    shift: int
    codes: np.ndarray  # uint16, bit 15 marks an outlier
    values: np.ndarray  # float32


@lru_cache(maxsize=32)
def pair_table(normal: ElementFormat, outlier: ElementFormat) -> PairTable:
    """Tabulate the nearest value of both grids; a tie between the grids goes to the normal value."""
    grids = [grid_of(e, Rounding.NEAREST_EVEN, Overflow.SATURATE) for e in (normal, outlier)]
    outliers = outlier.encodable[0]
    largest = normal.max_value
    boundary = (largest + float(outliers[outliers > 0].min())) / 2

    def encode(x: np.ndarray) -> np.ndarray:
        inside = grids[0].codes[np.searchsorted(grids[0].thresholds, x, side="right")].astype(np.uint16)
        beyond = grids[1].codes[np.searchsorted(grids[1].thresholds, x, side="right")].astype(np.uint16)
        return np.where(np.abs(x) > boundary, beyond | OUTLIER_FLAG, inside)

    values = [e.encodable[0] for e in (normal, outlier)]
    breakpoints = np.concatenate([*values, *((v[:-1] + v[1:]) / 2 for v in values), [-boundary, boundary]])
    made = lookup_of_thresholds(breakpoints, encode, np.uint16)
    if made is None:
        raise MacloomError(f"ovp: no pair table for {normal.name} with {outlier.name}; their grids need too many bits")
    shift, codes = made
    is_outlier = codes >= OUTLIER_FLAG
    plain = codes & 0xFF
    table = np.where(is_outlier, outlier.values[plain], normal.values[plain])
    return PairTable(shift, codes, table.astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class Ovp(TensorFormat):
    """Adjacent elements share their bits: an outlier takes a wide code and its victim becomes zero.

    Pairs never straddle rows; a row of odd length is padded with a zero that is stored but is not a
    value. An element is an outlier if the value nearest to it is one of the outlier type's; of two
    outliers in a pair the larger magnitude stays, the left one at a tie. The victim's slot holds the
    identifier, the code 100...0 of the normal type. A tie between a normal and an outlier value goes to
    the normal one, and magnitudes beyond the largest outlier saturate.

    Element 0 of a pair lies in the high half. Without `clip`, the scale is searched as the released
    code does: 88 candidates around three standard deviations, least squared error.

    >>> import numpy as np
    >>> from macloom.formats import get_format
    >>> get_format("ovp4").quantize(np.float32([1.0, 3.2, 50.0, 2.0]), scale=np.float32(1))
    array([ 1.,  3., 48.,  0.], dtype=float32)
    """

    name: str
    normal: ElementFormat
    outlier: ElementFormat
    granularity: Granularity = Granularity(grain=Grain.TENSOR)
    scale_format: FloatFormat = FP32
    first_high = True

    def __post_init__(self) -> None:
        if self.normal.bits != self.outlier.bits:
            raise MacloomError(
                f"ovp.outlier: must be as wide as the normal type ({self.normal.bits} bits), not {self.outlier.bits}"
            )
        smallest = float(self.outlier.encodable[0][self.outlier.encodable[0] > 0].min())
        if smallest <= self.normal.max_value:
            raise MacloomError(
                f"ovp.outlier: must start above the largest normal value {self.normal.max_value:g}, "
                f"not at {smallest:g}; raise its bias"
            )
        if self.identifier in self.normal.encodable[1]:
            raise MacloomError(f"ovp.normal: {self.normal.name} uses every code, so that none is left to mark a victim")
        if self.granularity.size is not None and self.granularity.size % 2:
            raise MacloomError(f"ovp.group: must be even, so that pairs share a scale, not {self.granularity.size}")

    @property
    def identifier(self) -> int:
        """The code that marks a victim."""
        return 1 << (self.normal.bits - 1)

    @property
    def element(self) -> ElementFormat:  # type: ignore[override]
        return self.normal

    @property
    def block(self) -> int | None:
        return self.granularity.size

    @property
    def static_scale(self) -> bool:
        return self.granularity.grain is Grain.TENSOR

    @property
    def operand(self) -> OperandClass:
        both = self.normal.operand.union(self.outlier.operand)
        exponents = [e.pair(int(c))[0] for e in (self.normal, self.outlier) for c in e.encodable[1]]
        return OperandClass(
            significand_bits=both.significand_bits,
            exponent_bits=(max(exponents) - min(exponents)).bit_length(),
            integer_bits=1 + self.max_unit.bit_length(),
        )

    @property
    def max_unit(self) -> int:
        return int(max(self.normal.max_value, self.outlier.max_value))

    @property
    def decoder_bits(self) -> int:
        return 2 * self.normal.bits

    @property
    def decoder_elements(self) -> int:
        return 2

    def row_codes(self, length: int) -> int:
        return length + length % 2

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        return math.prod(self.granularity.scale_shape(shape, self.name)) * self.scale_format.bits

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        x = as_float32(x)
        if clip is not None:
            largest = self.granularity.absolute_maximum(x, self.name)
            scale = largest * np.float32(clip) / np.float32(self.normal.max_value)
            return np.asarray(np.where(largest > 0, store_scale(scale, self.scale_format), np.float32(1)), np.float32)
        return self._search(x)

    def _search(self, x: np.ndarray) -> np.ndarray:
        """Try alpha = (75, 77, ..., 249) % of three sigma per granule and keep the smallest best one."""
        self.granularity.absolute_maximum(x, self.name)  # refuses what is not finite
        groups = self._granules(x)
        mean, sigma = groups.mean(axis=1), groups.std(axis=1, ddof=1 if groups.shape[1] > 1 else 0)
        start = np.maximum(np.abs(mean + 3 * sigma), np.abs(mean - 3 * sigma))
        best = np.full(len(groups), np.inf)
        scale = np.ones(len(groups), np.float32)
        for percent in range(75, 250, 2):
            alpha = (start * (percent / 100)).astype(np.float32)
            candidate = store_scale(alpha / np.float32(self.normal.max_value), self.scale_format)
            error = self._errors(groups, candidate[:, None])
            better = (error < best) & (start > 0)
            best, scale = np.where(better, error, best), np.where(better, candidate, scale).astype(np.float32)
        return scale.reshape(self.granularity.scale_shape(x.shape, self.name))

    def _granules(self, x: np.ndarray) -> np.ndarray:
        """View the elements that share a scale as rows (pairs stay together for even lengths)."""
        match self.granularity.grain:
            case Grain.TENSOR:
                rows = rows_of(x)
                return np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(1, -1)
            case Grain.GROUP:
                return x.reshape(-1, self.granularity.size or 1)
            case Grain.AXIS:
                return np.ascontiguousarray(np.moveaxis(x, self.granularity.axis or 0, 0)).reshape(
                    x.shape[self.granularity.axis or 0], -1
                )
            case _:
                return rows_of(x)

    def _table(self) -> PairTable:
        return pair_table(self.normal, self.outlier)

    def _errors(self, rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
        from macloom.formats.kernels import pair_values

        table = self._table()
        errors, worst = np.empty(len(rows)), np.empty(len(rows), np.uint32)
        nothing = np.empty((0, 0), np.float32)
        block = rows.shape[1] + 1
        arguments = (table.shift, table.codes, table.values, nothing, worst, errors)
        run_rows(pair_values, len(rows), rows.size, rows, scales, block, *arguments)
        return errors

    def _row_scales(self, scale: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """Return scales spread over rows x segments and the elements of a segment, padding included."""
        spread = self.granularity.row_scales(np.asarray(scale, np.float32), shape or (1,), self.name)
        length = shape[-1] if shape else 1
        if spread.shape[1] > 1 and self.granularity.grain is Grain.AXIS:
            raise MacloomError(f"format {self.name!r}: both elements of a pair must share a scale; use another axis")
        return spread, self.granularity.size or length + 1

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        from macloom.formats.kernels import pair_codes

        rows, table = rows_of(x), self._table()
        spread, block = self._row_scales(scale, x.shape)
        codes = np.empty((rows.shape[0], self.row_codes(rows.shape[1])), np.uint8)
        worst = np.empty(rows.shape[0], np.uint32)
        arguments = (table.shift, table.codes, self.identifier, codes, worst)
        run_rows(pair_codes, len(rows), rows.size, rows, spread, block, *arguments)
        check_finite(worst, self.name)
        return codes.reshape(*x.shape[:-1], codes.shape[1]), np.asarray(scale, np.float32), np.float32(1)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        from macloom.formats.kernels import pair_values

        result = output_for(template, out, x.shape)
        rows, table = rows_of(x), self._table()
        spread, block = self._row_scales(scale, x.shape)
        worst, errors = np.empty(len(rows), np.uint32), np.empty(len(rows))
        arguments = (table.shift, table.codes, table.values, rows_of(result), worst, errors)
        run_rows(pair_values, len(rows), rows.size, rows, spread, block, *arguments)
        check_finite(worst, self.name)
        return result

    @cached_property
    def pair_values(self) -> np.ndarray:
        """Both values of every stored pair, in integer units: float32 (2**(2 * bits), 2).

        A pair whose left slot holds the identifier has an outlier on the right, and the other way round.
        """
        codes = np.arange(1 << self.decoder_bits)
        left, right = codes >> self.normal.bits, codes & ((1 << self.normal.bits) - 1)
        victim_left, victim_right = left == self.identifier, right == self.identifier
        table = np.stack(
            (
                np.where(victim_left, 0, np.where(victim_right, self.outlier.values[left], self.normal.values[left])),
                np.where(victim_left, self.outlier.values[right], np.where(victim_right, 0, self.normal.values[right])),
            ),
            axis=1,
        )
        return table.astype(np.float32)

    def decode_slots(self, codes: np.ndarray) -> np.ndarray:
        """Return the values, in integer units, of slot codes (..., even number of slots)."""
        left, right = codes[..., 0::2].astype(np.uint16), codes[..., 1::2]
        pairs = np.take(self.pair_values, (left << np.uint16(self.normal.bits)) | right, axis=0)
        return pairs.reshape(codes.shape)

    def decode_pairs(self, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both values of each stored pair, in integer units.

        Args:
            packed: one integer per pair (a byte for 4-bit types), element 0 in the high half.
        """
        values = np.take(self.pair_values, np.asarray(packed), axis=0)
        return values[..., 0], values[..., 1]

    def decode(self, encoded: Encoded) -> np.ndarray:
        spread, block = self._row_scales(encoded.scales, encoded.shape)
        values = self.decode_slots(rows_of(encoded.elements))[:, : encoded.shape[-1] if encoded.shape else 1]
        values = np.ascontiguousarray(values)
        for s in range(spread.shape[1]):
            values[:, s * block : (s + 1) * block] *= spread[:, s : s + 1]
        return values.reshape(encoded.shape)

    def operand_of(self, encoded: Encoded) -> Operand:
        length = encoded.shape[-1]
        spread, _ = self._row_scales(encoded.scales, encoded.shape)
        units = np.ascontiguousarray(self.decode_slots(encoded.elements)[..., :length])
        scales = spread.reshape(*encoded.shape[:-1], spread.shape[1])
        return Operand(units, 0, scales, self.granularity.size or length, encoded.outer, self.max_unit)
