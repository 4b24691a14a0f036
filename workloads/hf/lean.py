"""Products that hold no weight as a whole: of one that lies in its file, or is encoded, a tile is in float at a time.

Quantized results are those of `QuantizedArithmetic`, bit for bit. Float products differ from those of whole weights
by the order in which a linear algebra library adds.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from macloom.formats import Encoded, GemmReport, default_accumulator, get_accumulator
from macloom.formats import Operand as Matrix
from macloom.formats.by_rows import encode_by_rows
from macloom.formats.gemm import check_operands, gemm_operands
from macloom.workloads.hf import stored
from macloom.workloads.quantized import GemmArithmetic, Operand, QuantizedArithmetic, RecordingArithmetic
from macloom.workloads.search import Sample

TILE_ELEMENTS = 1 << 20
"""Elements of an encoded weight that are decoded at a time."""


class FloatProducts(GemmArithmetic):
    """Every product in float32."""

    def product(self, op: str, a: Operand, b: Operand, bias: Tensor | None = None) -> Tensor:
        out = stored.product(a.values, b.values)
        return out if bias is None else out.add_(bias)


class LeanRecording(RecordingArithmetic):
    """The samples that `RecordingArithmetic` takes, of weights that are in no memory."""

    def multiply(self, a: Operand, b: Operand) -> Tensor:
        return stored.product(a.values, b.values)

    def _sample(self, operand: Operand, source: int, draw: bool = False) -> Sample:
        if not stored.in_tiles(operand.values):
            return super()._sample(operand, source, draw)
        count = operand.values.shape[0]
        wanted = count if self._weight_rows is None else min(count, self._weight_rows)
        return Sample(
            name=operand.name,
            role=operand.role,
            rows=stored.some_rows(operand.values, np.arange(wanted) * count // max(wanted, 1)).numpy(),
            extremes=stored.extremes(operand.values),
            source=source,
        )


class LeanArithmetic(QuantizedArithmetic):
    """The results of `QuantizedArithmetic` in less memory: weights are kept as they are stored, and nothing else."""

    def encode_weight(self, op: str, values: Tensor) -> None:
        if op in self._weights or not stored.in_tiles(values):
            return super().encode_weight(op, values)
        planned = self._planned(op, "weight")
        fmt, clip, scale = planned.format, planned.choice.clip, planned.scale
        if not fmt.encodes_by_row:
            return super().encode_weight(op, stored.whole(values))
        if scale is None and fmt.static_scale:
            scale = fmt.calibrate(stored.extremes(values), clip)
        parts = (tile.numpy() for _, tile in stored.tiles(values))
        self._weights[op] = encode_by_rows(fmt, parts, values.shape[0], scale, clip)

    def multiplied(self, op: str, a: Encoded, b: Encoded, report: GemmReport) -> np.ndarray:
        if b is not self._weights.get(op) or not b.has_rows:
            out = super().multiplied(op, a, b, report)
            _forget(a.operand())
            _forget(b.operand())
            return out
        name = self.recipe.accumulator_for(op)
        accumulator = get_accumulator(name) if name else default_accumulator(a.format, b.format)
        check_operands(a, b)
        rows, columns = a.shape[-2], b.shape[0]
        step = max(1, TILE_ELEMENTS // b.shape[-1])
        out = np.empty((rows, columns), np.float32)
        for start in range(0, columns, step):
            part = b.rows(slice(start, start + step)).operand()
            out[:, start : start + step] = gemm_operands(a.operand(), part, accumulator, report)
            _forget(part)
        _forget(a.operand())
        return out


def _forget(operand: Matrix) -> None:
    """Let go of what an operand has derived: itself is among it, so that it would not be dropped at once."""
    for matrix in vars(operand).pop("matrices", ()):
        vars(matrix).pop("matrices", None)
