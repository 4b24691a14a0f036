"""Quantized products that keep weights as they are stored, and decode no more of one than a tile at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from macloom.formats import Encoded, GemmReport, Operand, default_accumulator, get_accumulator
from macloom.formats.gemm import check_operands, gemm_operands
from macloom.workloads.quantized import QuantizedArithmetic

TILE_ELEMENTS = 1 << 22
"""Elements of a weight that are multiplied at a time: copies that accumulators make are of a tile, not of a head."""


class LeanArithmetic(QuantizedArithmetic):
    """The same results as `QuantizedArithmetic`, in less memory: decoded weights live for one product."""

    def multiplied(self, op: str, a: Encoded, b: Encoded, report: GemmReport) -> np.ndarray:
        if b is not self._weights.get(op):
            out = super().multiplied(op, a, b, report)
            _forget(a.operand())
            _forget(b.operand())
            return out
        name = self.recipe.accumulator_for(op)
        accumulator = get_accumulator(name) if name else default_accumulator(a.format, b.format)
        whole = replace(b).operand()  # of a copy of the record, so that the decoded weight is not kept with it
        count, tile = b.shape[0], max(1, TILE_ELEMENTS // b.shape[-1])
        if whole.sparse is not None or whole.scales.shape[-2] != count:
            tile = count
        check_operands(a, b)
        parts = []
        for start in range(0, count, tile):
            part = whole if tile >= count else _tile(whole, slice(start, start + tile))
            parts.append(gemm_operands(a.operand(), part, accumulator, report))
            _forget(part)
        _forget(a.operand())
        return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)


def _forget(operand: Operand) -> None:
    """Let go of what an operand has derived: itself is among it, so that it would not be dropped at once."""
    for matrix in vars(operand).pop("matrices", ()):
        vars(matrix).pop("matrices", None)


def _tile(operand: Operand, rows: slice) -> Operand:
    zeros = None if operand.zeros is None else operand.zeros[rows]
    return replace(operand, units=operand.units[rows], scales=operand.scales[rows], zeros=zeros)
