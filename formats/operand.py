"""An encoded matrix as the multipliers see it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from macloom.formats.elements.minifloat import FP32, FloatFormat

if TYPE_CHECKING:
    from macloom.formats.digits import Digits
    from macloom.formats.tensor import TensorFormat


@dataclass(frozen=True)
class SparseMatrix:
    """What is added to a few elements of an operand, in compressed rows.

    Attributes:
        pointers: int64 (all rows + 1), where each row starts in `columns` and `values`.
        columns: int64, ascending within a row.
        values: float32, real values (scales included) that are added to the dense elements.
        precision: format to which the other operand's values are rounded before they meet these.
    """

    pointers: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    precision: FloatFormat = FP32


@dataclass(frozen=True)
class Operand:
    """An encoded matrix as the multipliers see it.

    Attributes:
        units: float32 (..., rows, K), exact integers in units of 2**unit_exponent.
        unit_exponent: see `units`.
        scales: float32 (..., rows, segments), the scale of each segment of `block` elements along K.
        block: elements along K that share a scale; K itself where a row has one scale.
        outer: a scale of the whole tensor that is applied last.
        max_unit: no magnitude in the format is larger than this, in units.
        zeros: float32 (..., rows, segments), the integer unit that stands for zero in each segment; None
            where that is 0. The value of an element is (unit - zero) * 2**unit_exponent * scale * outer.
        sparse: what is added to a few of these values, if anything.
        format: the tensor format, where the operand comes from an encoded tensor.
    """

    units: np.ndarray
    unit_exponent: int
    scales: np.ndarray
    block: int
    outer: np.float32
    max_unit: int
    zeros: np.ndarray | None = None
    sparse: SparseMatrix | None = None
    format: TensorFormat | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return repr(self.format.name) if self.format is not None else "an unnamed operand"

    def centred(self) -> Operand:
        """Return the same operand with every zero point at 0; it is kept for the next product."""
        return self if self.zeros is None else self._centred

    @cached_property
    def _centred(self) -> Operand:
        assert self.zeros is not None
        spread = np.repeat(self.zeros, self.block, axis=-1)[..., : self.units.shape[-1]]
        return replace(self, units=self.units - spread, zeros=None)

    @cached_property
    def matrices(self) -> tuple[Operand, ...]:
        """The operand as one or more of two axes, in row-major order of the leading ones."""
        if self.units.ndim == 2:
            return (self,)
        zeros = None if self.zeros is None else self.zeros.reshape(-1, *self.zeros.shape[-2:])
        scales = np.broadcast_to(self.scales, (*self.units.shape[:-1], self.scales.shape[-1]))
        return tuple(
            replace(self, units=units, scales=scale, zeros=None if zeros is None else zeros[i], sparse=None)
            for i, (units, scale) in enumerate(
                zip(
                    self.units.reshape(-1, *self.units.shape[-2:]),
                    scales.reshape(-1, *scales.shape[-2:]),
                    strict=True,
                )
            )
        )

    def take(self, rows: np.ndarray) -> Operand:
        """Return some rows of an operand of two axes, without its sparse part."""
        zeros = None if self.zeros is None else self.zeros[rows]
        return replace(self, units=self.units[rows], scales=self.scales[rows], zeros=zeros, sparse=None)

    @cached_property
    def largest(self) -> float:
        """The largest magnitude of a unit; NaN or infinite where a code is not a number."""
        return float(max(self.units.max(initial=0), -self.units.min(initial=0)))

    @cached_property
    def row_norms(self) -> np.ndarray:
        """Euclidean norms of the rows of units, float64 (..., rows), never too small."""
        rows = self.units if self.largest < 2.0**50 else self.units.astype(np.float64)
        squares = np.einsum("...k,...k->...", rows, rows)
        # A float32 sum of K squares is off by at most K + 1 half units in the last place.
        slack = 1 + (rows.shape[-1] + 2) * float(np.finfo(rows.dtype).eps)
        return np.sqrt(squares.astype(np.float64) * slack) * (1 + 1e-15)

    @cached_property
    def significand_bits(self) -> int:
        """The digits between the first and the last one of the longest unit in binary, 1 or more."""
        mantissas = (np.ascontiguousarray(self.units[self.units != 0]).view(np.uint32) & 0x7FFFFF) | 0x800000
        every = int(np.bitwise_or.reduce(mantissas, initial=0x800000))
        return 24 - ((every & -every).bit_length() - 1)

    @cached_property
    def digits(self) -> Digits | None:
        """The units less their zero points as int8 digits; None where that does not pay. They are kept."""
        from macloom.formats.digits import split

        if self.zeros is not None and self.zeros.shape[-1] > 1:
            return self.centred().digits
        return split(self.units, self.largest, self.zeros)
