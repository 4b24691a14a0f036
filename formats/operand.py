"""An encoded matrix as the multipliers see it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from macloom.formats.elements.minifloat import FP32, FloatFormat


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
    """

    units: np.ndarray
    unit_exponent: int
    scales: np.ndarray
    block: int
    outer: np.float32
    max_unit: int
    zeros: np.ndarray | None = None
    sparse: SparseMatrix | None = None

    def centred(self) -> Operand:
        """Return the same operand with every zero point at 0."""
        if self.zeros is None:
            return self
        spread = np.repeat(self.zeros, self.block, axis=-1)[..., : self.units.shape[-1]]
        return replace(self, units=self.units - spread, zeros=None)
