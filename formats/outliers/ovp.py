"""Outlier-victim pairs (Guo et al., OliVe, ISCA 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, check_finite, clip_share, largest_factor, output_for, rows_of
from macloom.formats.element import ElementFormat, OperandClass, whole_codes
from macloom.formats.elements.minifloat import FP32, FloatFormat
from macloom.formats.outliers.ovp_search import search_scales
from macloom.formats.outliers.ovp_table import PairTable, midpoint, pair_table, whole_pair
from macloom.formats.policy import Rounding
from macloom.formats.scales import Grain, Granularity, ScaleFormat, store_scale
from macloom.formats.tensor import Encoded, Operand, TensorFormat
from macloom.formats.threads import run_rows


class Assign(StrEnum):
    """Which elements of a pair become outliers; see `Ovp`."""

    NEAREST = "nearest"
    THRESHOLD = "threshold"
    JOINT = "joint"


@dataclass(frozen=True, kw_only=True)
class Ovp(TensorFormat):
    """Adjacent elements share their bits: an outlier takes a wide code and its victim becomes zero.

    Pairs never straddle rows; a row of odd length is padded with a zero that is stored but is not a
    value. An element is an outlier if the value nearest to it is one of the outlier type's; of two
    outliers in a pair the larger magnitude stays, the left one at a tie. The victim's slot holds the
    identifier, the code 100...0 of the normal type. A tie between a normal and an outlier value goes to
    the normal one, and magnitudes beyond the largest outlier saturate.

    `assign=threshold` takes every magnitude above `threshold` integer units (the largest normal value
    unless given) for an outlier. `assign=joint` takes, for every pair, the encoding of least squared
    error over both elements, so that the victim's loss counts.

    Element 0 of a pair lies in the high half. Without `clip`, the scale is searched as the released
    code does: 88 candidates around three standard deviations, least squared error.

    Attributes:
        selector_bits: bits stored besides, to tell which normal type was chosen (`normal=adaptive`).

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
    assign: Assign = Assign.NEAREST
    threshold: float | None = None
    selector_bits: int = 0
    first_high = True

    def __post_init__(self) -> None:
        if self.threshold is not None and self.assign is not Assign.THRESHOLD:
            raise MacloomError(f"ovp.threshold: belongs to assign=threshold, not to assign={self.assign.value}")
        if self.threshold is not None and not 0 < self.threshold < math.inf:
            raise MacloomError(f"ovp.threshold: must be positive and finite, not {self.threshold!r}")
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
        return self.granularity.grain in (Grain.NONE, Grain.TENSOR)

    @property
    def encodes_by_row(self) -> bool:
        return self.granularity.grain is not Grain.AXIS

    def scales_by_row(self, axes: int) -> bool | None:
        return self.granularity.by_row(axes)

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
    def largest_value(self) -> float:
        return max(self.normal.max_value, self.outlier.max_value)

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

    @property
    def scale_storage(self) -> ScaleFormat:
        return self.scale_format

    def scale_bits(self, shape: tuple[int, ...]) -> int:
        if self.granularity.grain is Grain.NONE:
            return self.selector_bits
        return math.prod(self.granularity.scale_shape(shape, self.name)) * self.scale_format.bits + self.selector_bits

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        x = as_float32(x)
        if self.granularity.grain is Grain.NONE:
            return np.asarray(np.float32(1))
        if clip is not None:
            largest = self.granularity.absolute_maximum(x, self.name)
            scale = np.minimum(largest * clip_share(clip) / np.float32(self.normal.max_value), self.largest_scale)
            return np.asarray(np.where(largest > 0, store_scale(scale, self.scale_format), np.float32(1)), np.float32)
        return search_scales(self, x)[0]

    @property
    def largest_scale(self) -> np.float32:
        """The largest scale whose products with outliers stay finite once it is stored."""
        limit = largest_factor(self.max_unit)
        if self.scale_format.bits > 16:
            return limit
        return np.float32(self.scale_format.quantize(np.array(limit), Rounding.TOWARD_ZERO)[()])

    @cached_property
    def boundary(self) -> float:
        """The magnitude, in integer units, beyond which an element is taken for an outlier."""
        if self.threshold is not None:
            return self.threshold
        return self.normal.max_value if self.assign is Assign.THRESHOLD else midpoint(self.normal, self.outlier)

    def squared_errors(self, rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Return the squared error (float64) of each row, a whole number of pairs, under its scale."""
        from macloom.formats.kernels.pair_search import row_errors

        errors = np.empty(len(rows))
        scales = np.ascontiguousarray(scales, np.float32)
        run_rows(row_errors, len(rows), rows.size, rows, scales, *self.error_arguments, errors)
        return errors

    @property
    def error_arguments(self) -> tuple[Any, ...]:
        """What the kernels need to sum errors pair after pair."""
        table = self._table
        return table.shift, table.entries, table.normals, table.outliers, self.assign is Assign.JOINT

    @property
    def screens(self) -> bool:
        """Whether errors can be summed sixteen elements at a time, with `value_arguments`."""
        return self.assign is not Assign.JOINT

    @property
    def value_arguments(self) -> tuple[Any, ...]:
        """What the kernels need for sixteen values at a time; the last two are None where values are looked up."""
        table, whole = self._table, self._whole
        return table.shift, table.entries, table.values, np.float32(self.boundary), *(whole or (None, None))

    @property
    def _table(self) -> PairTable:
        return pair_table(self.normal, self.outlier, self.boundary)

    @property
    def _whole(self) -> tuple[Any, Any] | None:
        """Both grids of integers with abfloat outliers, whose values follow without a table."""
        return None if self.assign is Assign.JOINT else whole_pair(self.normal, self.outlier)

    def outliers(self, x: Any, scale: Any = None) -> np.ndarray:
        """Return which elements of `x` are outliers under a scale: bool, the shape of `x`.

        Victims count if they would be outliers by themselves. With `assign=joint` these are the
        elements nearer to an outlier than to a normal value.
        """
        array = as_float32(x)
        spread, block = self.check_scales(self._scale(array, scale, None), array.shape)
        rows = rows_of(array)
        limits = np.repeat(spread, block, axis=1)[:, : rows.shape[1]]
        return (np.abs(rows / limits) > np.float32(self.boundary)).reshape(array.shape)

    def check_scales(self, scale: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """Return scales spread over rows x segments and the elements of a segment, padding included."""
        spread = self.granularity.row_scales(np.asarray(scale, np.float32), shape or (1,), self.name)
        length = shape[-1] if shape else 1
        if spread.shape[1] > 1 and self.granularity.grain is Grain.AXIS:
            raise MacloomError(f"format {self.name!r}: both elements of a pair must share a scale; use another axis")
        return spread, self.granularity.size or length + 1

    def _encode(self, x: np.ndarray, scale: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
        from macloom.formats.kernels.pair import pair_codes, whole_pair_codes
        from macloom.formats.kernels.pair_joint import joint_codes

        rows = rows_of(x)
        spread, block = self.check_scales(scale, x.shape)
        codes = np.empty((rows.shape[0], self.row_codes(rows.shape[1])), np.uint8)
        worst = np.empty(rows.shape[0], np.uint32)
        common = len(rows), rows.size, rows, spread, block
        last = self.identifier, codes, worst
        table, whole = self._table, self._whole
        if self.assign is Assign.JOINT:
            run_rows(joint_codes, *common, table.shift, table.entries, table.normals, table.outliers, *last)
        elif whole is not None:
            run_rows(whole_pair_codes, *common, np.float32(self.boundary), *whole, *last)
        else:
            run_rows(pair_codes, *common, table.shift, table.entries, *last)
        check_finite(worst, self.name)
        return codes.reshape(*x.shape[:-1], codes.shape[1]), np.asarray(scale, np.float32), np.float32(1)

    def _quantize(self, x: np.ndarray, scale: np.ndarray, clip: float, out: Any, template: Any) -> np.ndarray:
        from macloom.formats.kernels.pair import pair_values, whole_pair_values
        from macloom.formats.kernels.pair_joint import joint_values

        result = output_for(template, out, x.shape)
        rows = rows_of(x)
        spread, block = self.check_scales(scale, x.shape)
        worst = np.empty(len(rows), np.uint32)
        common = len(rows), rows.size, rows, spread, block
        last = rows_of(result), worst
        table, whole = self._table, self._whole
        if self.assign is Assign.JOINT:
            run_rows(joint_values, *common, table.shift, table.entries, table.normals, table.outliers, *last)
        elif whole is not None:
            run_rows(whole_pair_values, *common, np.float32(self.boundary), *whole, *last)
        else:
            run_rows(pair_values, *common, table.shift, table.entries, table.values, *last)
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

    def decode_pairs(self, packed: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return both values of each stored pair, in integer units; codes that no encoder writes mean 0.

        Args:
            packed: bytes as a tensor stores them (`bytes`, `bytearray` or uint8), or one wider integer per pair,
                element 0 in the high half. A byte is a pair of 4-bit types; of 8-bit types two successive bytes of
                the last axis are one, element 0 first.

        Raises:
            MacloomError: codes that are no integers, of no pair, or bytes that are no whole pairs.

        >>> from macloom.formats import get_format
        >>> get_format("ovp4").decode_pairs(bytes([0x25, 0x85]))
        (array([2., 0.], dtype=float32), array([ 5., 48.], dtype=float32))
        >>> get_format("ovp8").decode_pairs(bytes([2, 5])) == get_format("ovp8").decode_pairs([0x0205])
        True
        """
        pairs = self._pair_codes(whole_codes(packed, f"format {self.name!r}: pair codes"))
        if pairs.size and not 0 <= int(pairs.min()) <= int(pairs.max()) < len(self.pair_values):
            bad = pairs[(pairs < 0) | (pairs >= len(self.pair_values))].flat[0]
            raise MacloomError(f"format {self.name!r}: pair code {int(bad)} is not in [0, {len(self.pair_values)})")
        values = np.nan_to_num(np.take(self.pair_values, pairs, axis=0))
        return values[..., 0], values[..., 1]

    def _pair_codes(self, codes: np.ndarray) -> np.ndarray:
        """Return one integer per pair for stored bytes or for such integers."""
        if codes.dtype != np.uint8 or self.decoder_bits == 8:
            return codes
        if self.decoder_bits != 16:
            raise MacloomError(
                f"format {self.name!r}: bytes hold no whole pairs of {self.decoder_bits} bits; pass wider integers, "
                "one per pair"
            )
        if not codes.ndim or codes.shape[-1] % 2:
            raise MacloomError(f"format {self.name!r}: stored pairs must have two bytes each, not shape {codes.shape}")
        return codes[..., 0::2].astype(np.uint16) << np.uint16(8) | codes[..., 1::2]

    def _decoded(
        self, codes: np.ndarray, length: int, scales: np.ndarray, block: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the values (rows x length) of slot codes times their segment's scale, in `out` if there is one."""
        from macloom.formats.kernels.pair import decode_pairs

        codes = np.ascontiguousarray(codes, np.uint8)
        rows = len(codes) if out is None else len(out)
        if codes.shape != (rows, self.row_codes(length)):
            raise MacloomError(f"codes: must be {(rows, self.row_codes(length))} for that tensor, not {codes.shape}")
        values = np.empty((len(codes), length), np.float32) if out is None else out
        arguments = scales, block, self.identifier, self._table.values, values
        run_rows(decode_pairs, len(codes), codes.size, codes, *arguments)
        return values

    def decode(self, encoded: Encoded) -> np.ndarray:
        out = np.empty(encoded.shape, np.float32)
        self.decode_to(encoded, out)
        return out

    def decode_to(self, encoded: Encoded, out: np.ndarray) -> None:
        spread, block = self.check_scales(encoded.scales, encoded.shape)
        length = encoded.shape[-1] if encoded.shape else 1
        self._decoded(rows_of(encoded.elements), length, spread, block, rows_of(out))

    def operand_of(self, encoded: Encoded) -> Operand:
        length = encoded.shape[-1]
        spread, _ = self.check_scales(encoded.scales, encoded.shape)
        codes = rows_of(encoded.elements)
        units = self._decoded(codes, length, np.ones((len(codes), 1), np.float32), length + 1).reshape(encoded.shape)
        scales = spread.reshape(*encoded.shape[:-1], spread.shape[1])
        return Operand(units, 0, scales, self.granularity.size or length, encoded.outer, self.max_unit)
