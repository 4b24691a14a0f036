"""A register wide enough for everything (Kulisch 2013)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from macloom.formats.accumulators.base import FAMILIES, Accumulator, Family, malformed
from macloom.formats.accumulators.segments import (
    SEGMENT_TILE,
    TILE,
    WIDE_TILE,
    WIDEST_UNIT,
    SegmentAccumulator,
    exact_float32,
    in_segments,
    product_unit,
)
from macloom.formats.accumulators.sums import Sums, bound
from macloom.formats.gemm_report import GemmReport
from macloom.formats.operand import Operand


@dataclass(frozen=True, kw_only=True)
class ExactAccumulator(SegmentAccumulator):
    """A register wide enough for every product of a segment; its sum is rounded once, to float32 (nearest even).

    It takes any finite operands: the sum of float32 products spans 554 binary digits and more for its
    carries. Sums beyond the largest float32 become infinite. The sums of segments are scaled and added
    in float32.
    """

    @property
    def name(self) -> str:
        return "exact"

    def register(self, a: Operand, b: Operand, segment: int) -> _Register:
        return _Register(a, b, segment)

    def product(self, a: Operand, b: Operand, report: GemmReport) -> np.ndarray:
        if integral(a, b) and in_segments(a, b):
            return exact_float32(a, b, report)
        return super().product(a, b, report)

    def initial(self) -> int:
        return 0

    def step(self, state: int, product: int) -> int:
        return state + product


class _Register:
    """Exact sums where they are integers that float64 holds, else sums that are proven to round as exact ones do."""

    def __init__(self, a: Operand, b: Operand, segment: int) -> None:
        self.unit = product_unit(a, b)
        self.overflows = False
        segments = segment < a.units.shape[-1]
        self.tile: tuple[int, int] = (SEGMENT_TILE, SEGMENT_TILE) if segments else (TILE, WIDE_TILE)
        self.a, self.b = a.centred(), b.centred()
        narrow = integral(a, b) and bound(self.a, self.b, segment) < 2.0**53
        self.sums = Sums(a, b, segment) if narrow else None

    def __call__(self, rows: slice, columns: slice, part: slice, where: np.ndarray) -> tuple[np.ndarray, float]:
        if self.sums is not None:
            return self.sums(rows, columns, part), self.unit
        from macloom.formats.kernels.exact import rounded_sums

        return rounded_sums(self.a.units[rows, part], self.b.units[columns, part], self.unit), 1.0


def integral(a: Operand, b: Operand) -> bool:
    """Say whether the units of both operands are integers; those of float32 and bfloat16 are values."""
    return max(a.max_unit, b.max_unit) < WIDEST_UNIT


def _parse(head: str, options: str) -> Accumulator:
    if head != "exact" or options:
        raise malformed(_FAMILY, f"{head}:{options}" if options else head)
    return ExactAccumulator()


_FAMILY = FAMILIES.add(
    "exact",
    Family(form="exact", summary="register wide enough for everything", parse=_parse, examples=("exact",)),
)
