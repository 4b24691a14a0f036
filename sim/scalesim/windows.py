"""Where the values of an unrolled convolution lie in memory, and which of them lie outside the input."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from macloom.arch.array import Dataflow
from macloom.sim.scalesim.geometry import Geometry, Loaded, kept, skewed
from macloom.sim.scalesim.records import Conv


class Windows(NamedTuple):
    """The address of value j of window i is `base[i] + offset[j]`, if it lies inside `height` x `width`."""

    base: Any
    row_at: Any
    col_at: Any
    offset: Any
    down: Any
    across: Any
    height: int
    width: int

    @property
    def addresses(self) -> int:
        """One more than the largest address that a window could ask for."""
        return int(self.base[-1] + self.offset[-1]) + 1

    def inside(self, window: int, value: int) -> bool:
        """Return whether the layer has this value."""
        below = self.row_at[window] + self.down[value] < self.height
        return bool(below and self.col_at[window] + self.across[value] < self.width)


NO_WINDOWS = Windows(*(np.empty(0, np.int64) for _ in range(6)), height=0, width=0)


def windows(layer: Conv) -> Windows:
    """Return the address tables of a convolution's input: channels first, then columns, then rows."""
    window, value = np.arange(layer.m), np.array(kept(layer))
    row_at = window // layer.output[1] * layer.strides[0]
    col_at = window % layer.output[1] * layer.strides[1]
    down, rest = np.divmod(value, layer.fw * layer.channels)
    across, channel = np.divmod(rest, layer.channels)
    return Windows(
        base=(row_at * layer.w + col_at) * layer.channels,
        row_at=row_at,
        col_at=col_at,
        offset=(down * layer.w + across) * layer.channels + channel,
        down=down,
        across=across,
        height=layer.h,
        width=layer.w,
    )


def last_inside(shape: Geometry, table: Windows) -> int:
    """Return the last row of demand that asks for an input which the layer has."""
    for fold in range(shape.folds - 1, -1, -1):
        column, row = divmod(fold, shape.row_folds)
        for t in range(shape.fold_cycles - 1, -1, -1):
            if any(table.inside(*at) for at in _asked(shape, row, column, t)):
                return fold * shape.fold_cycles + t
    raise AssertionError("the first window of a convolution lies inside its input")


def _asked(shape: Geometry, row: int, column: int, t: int) -> list[tuple[int, int]]:
    """Return (window, value) of every input that one row of demand asks for."""
    operand = shape.ifmap
    if isinstance(operand, Loaded):
        value = row * operand.rows + operand.rows - 1 - t
        lanes = range(column * operand.cols, min((column + 1) * operand.cols, operand.width))
        return [(window, value) for window in lanes] if t < operand.rows and value < operand.depth else []
    used = operand.last if row == operand.folds - 1 else operand.lanes
    at = t - operand.start
    first = max(0, at - operand.stream + 1)
    pairs = [(row * operand.lanes + x, at - x) for x in range(first, first + skewed(at, operand.stream, used))]
    return pairs if shape.dataflow is Dataflow.OS else [(s, lane) for lane, s in pairs]
