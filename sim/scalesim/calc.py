"""CALC mode: reads never stall and follow from how often the buffer forgets; only the output is stepped."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from macloom.arch.array import Dataflow
from macloom.sim.scalesim.geometry import Geometry, Loaded, Stream
from macloom.sim.scalesim.kernels.epochs import epoch_reads, loaded_epochs, window_epochs
from macloom.sim.scalesim.kernels.writes import write_only
from macloom.sim.scalesim.records import Config, Conv, Layer, Report
from macloom.sim.scalesim.report import Track, report_of
from macloom.sim.scalesim.windows import last_inside, windows

# The read buffer counts in hundredths of its size, forgets fifty at a time, and assumes that it was
# first filled with ten words per cycle.
SETS, LIVE_SETS, FILL_BANDWIDTH = 100, 50, 10


class Epochs(NamedTuple):
    """DRAM reads of one operand, values read since the buffer last forgot, and the row of demand where it did or -1."""

    reads: int
    filled: int
    end_row: int


def estimate(layer: Layer, config: Config, shape: Geometry, v2: bool) -> Report:
    """Return the report of a layer whose DRAM bandwidth SCALE-Sim estimates."""
    items = [kib * 1024 // SETS for kib in (config.ifmap_kb, config.filter_kb)]
    seen = [
        _input_epochs(layer, shape, LIVE_SETS * items[0]),
        _epochs(shape, shape.filter, LIVE_SETS * items[1]),
    ]
    first = [_first_row(shape.ifmap), _first_row(shape.filter)]
    last = [_last_row(shape, shape.ifmap), _last_row(shape, shape.filter)]
    if isinstance(layer, Conv):
        last[0] = last_inside(shape, windows(layer))
    rows = sorted({*first, *last, *(e.end_row for e in seen if e.end_row >= 0)})
    cycles = np.empty(len(rows), np.int64)
    is_os = shape.dataflow is Dataflow.OS
    total, stalls, *output = write_only(
        *shape.loops, is_os, config.ofmap_kb * 1024, config.cols, v2, np.array(rows), cycles
    )
    cycle = dict(zip(rows, cycles.tolist(), strict=True))
    tracks = []
    for operand, epoch in enumerate(seen):
        start, stop = cycle[first[operand]], cycle[last[operand]]
        if epoch.end_row >= 0:
            begun, ended = start - -(-LIVE_SETS * items[operand] // FILL_BANDWIDTH), cycle[epoch.end_row] + 1
        else:
            begun, ended = -(-epoch.filled // items[operand]) * items[operand] // -FILL_BANDWIDTH, -1
        tracks.append(Track(start + 1, stop + 1, begun, ended, epoch.reads))
    return report_of(layer, shape, total, stalls, tracks[0], tracks[1], Track(*output))


def _input_epochs(layer: Layer, shape: Geometry, capacity: int) -> Epochs:
    """Return the epochs of the input; the windows of a convolution share addresses."""
    operand = shape.ifmap
    if not isinstance(layer, Conv):
        return _epochs(shape, operand, capacity)
    table = windows(layer)
    stamps = np.zeros(table.addresses, np.int64)
    if isinstance(operand, Loaded):
        reads, filled, fold, t = loaded_epochs(*table, operand.rows, operand.cols, stamps, capacity)
        return Epochs(reads, filled, fold * shape.fold_cycles + t if fold >= 0 else -1)
    by_window = shape.dataflow is Dataflow.OS
    reads, filled, repeat, fold, t = window_epochs(*table, by_window, operand.lanes, shape.col_folds, stamps, capacity)
    if repeat < 0:
        return Epochs(reads, filled, -1)
    return Epochs(reads, filled, (repeat * shape.row_folds + fold) * shape.fold_cycles + operand.start + t)


def _epochs(shape: Geometry, operand: Stream | Loaded, capacity: int) -> Epochs:
    """Return the epochs of an operand whose addresses are all distinct."""
    if isinstance(operand, Loaded):
        reads, filled, block, _, offset = epoch_reads(np.array([operand.depth * operand.width]), 1, capacity)
        return Epochs(reads, filled, _loaded_row(shape, operand, offset) if block >= 0 else -1)
    piece = operand.stream * operand.lanes
    if operand.across == "rows":  # all pieces, once for every fold along the columns
        blocks, repeats = np.array([operand.size]), shape.col_folds
    else:  # every piece on its own, once for every fold along the rows
        blocks, repeats = np.full(operand.folds, piece), shape.row_folds
        blocks[-1] = operand.stream * operand.last
    reads, filled, block, repeat, offset = epoch_reads(blocks, repeats, capacity)
    if block < 0:
        return Epochs(reads, filled, -1)
    if operand.across == "rows":
        index, offset = divmod(offset, piece)
        fold = repeat * shape.row_folds + index
    else:
        index, fold = block, block * shape.row_folds + repeat
    lanes = operand.last if index == operand.folds - 1 else operand.lanes
    return Epochs(reads, filled, fold * shape.fold_cycles + operand.start + _time_of(offset, operand.stream, lanes))


def _time_of(offset: int, stream: int, lanes: int) -> int:
    """Return when a skewed piece asks for its value number `offset`.

    >>> [_time_of(offset, 3, 2) for offset in range(6)]
    [0, 1, 1, 2, 2, 3]
    """
    low, high = 0, stream + lanes - 2
    while low < high:
        middle = (low + high) // 2
        if _asked_until(middle, stream, lanes) > offset:
            high = middle
        else:
            low = middle + 1
    return low


def _asked_until(t: int, stream: int, lanes: int) -> int:
    """Return how many values a skewed piece has asked for up to and including time t: a trapezoid's area."""

    def triangle(n: int) -> int:
        return n * (n + 1) // 2 if n > 0 else 0

    return triangle(t + 1) - triangle(t + 1 - stream) - triangle(t + 1 - lanes) + triangle(t + 1 - stream - lanes)


def _loaded_row(shape: Geometry, operand: Loaded, offset: int) -> int:
    """Return the row of demand that loads value number `offset` of a stationary operand."""
    column, offset = divmod(offset, operand.depth * operand.cols)
    cols = min(operand.cols, operand.width - column * operand.cols)
    row, offset = divmod(offset, operand.rows * cols)
    rows = min(operand.rows, operand.depth - row * operand.rows)
    return (column * shape.row_folds + row) * shape.fold_cycles + operand.rows - rows + offset // cols


def _first_row(operand: Stream | Loaded) -> int:
    """Return the first row of demand that asks for something; the first window lies inside the input."""
    return operand.start if isinstance(operand, Stream) else operand.rows - min(operand.rows, operand.depth)


def _last_row(shape: Geometry, operand: Stream | Loaded) -> int:
    """Return the last row of demand that asks for something, if nothing lies outside."""
    fold = (shape.folds - 1) * shape.fold_cycles
    if isinstance(operand, Loaded):
        return fold + operand.rows - 1
    return fold + operand.start + operand.stream + operand.last - 2
