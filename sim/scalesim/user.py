"""USER mode: every row of demand in turn, because its stalls feed back into the next."""

from __future__ import annotations

import numpy as np

from macloom.arch.array import Dataflow
from macloom.sim.scalesim.geometry import Geometry, Loaded, Stream
from macloom.sim.scalesim.kernels.ranks import loaded_ranks, loaded_window_ranks, stream_ranks, window_ranks
from macloom.sim.scalesim.kernels.reads import BANDWIDTH, FETCH, LINE, LINES, READS, STEP, TIME, WINDOW, user_rows
from macloom.sim.scalesim.records import Config, Conv, Layer, Report
from macloom.sim.scalesim.report import Track, report_of
from macloom.sim.scalesim.windows import NO_WINDOWS, Windows, windows

# A buffer is looked up in lines of a hundredth of its size.
LINES_PER_BUFFER = 100


def bounded(layer: Layer, config: Config, shape: Geometry, v2: bool) -> Report:
    """Return the report of a layer with given DRAM bandwidths; `v2` adds a wait for DRAM once only."""
    table = windows(layer) if isinstance(layer, Conv) else NO_WINDOWS
    starts, held = np.empty(0, np.int64), np.empty(0, np.int32)
    if isinstance(layer, Conv):
        a_ranks, a_counts, a_size, starts, held = _window_ranks(shape, table, line_of(config.ifmap_kb))
    else:
        a_ranks, a_counts, a_size = _rows_of(shape.ifmap)
    b_ranks, b_counts, b_size = _rows_of(shape.filter)
    a_state = _read_state(config.ifmap_kb, config.bw_ifmap, a_size, shape.ifmap)
    b_state = _read_state(config.filter_kb, config.bw_filter, b_size, shape.filter)
    begun = [int(state[READS] // state[BANDWIDTH]) for state in (a_state, b_state)]
    spans = np.full(6, -1, np.int64)
    total, stalls, dram_first, dram_last, dram_values = user_rows(
        *shape.loops,
        shape.dataflow is Dataflow.OS,
        shape.dataflow is Dataflow.IS,
        config.ofmap_kb * 1024,
        config.bw_ofmap,
        v2,
        a_state,
        a_ranks,
        a_counts,
        b_state,
        b_ranks,
        b_counts,
        isinstance(layer, Conv),
        starts,
        held,
        *table,
        spans,
    )
    a_start, a_stop, b_start, b_stop, out_start, out_stop = spans.tolist()
    return report_of(
        layer,
        shape,
        total,
        stalls,
        Track(a_start, a_stop, -begun[0], int(a_state[TIME]), int(a_state[READS])),
        Track(b_start, b_stop, -begun[1], int(b_state[TIME]), int(b_state[READS])),
        Track(out_start, out_stop, dram_first, dram_last, dram_values),
    )


def line_of(kib: int) -> int:
    """Return the values in a line of a read buffer."""
    return -(-kib * 1024 // LINES_PER_BUFFER)


def _rows_of(operand: Stream | Loaded) -> tuple[np.ndarray, np.ndarray, int]:
    """Return rank and number of values of each row of demand, and the values of the operand."""
    if isinstance(operand, Loaded):
        return loaded_ranks(operand.depth, operand.width, operand.cols)
    return stream_ranks(operand.folds, operand.lanes, operand.last, operand.stream)


def _window_ranks(
    shape: Geometry, table: Windows, line: int
) -> tuple[np.ndarray, np.ndarray, int, np.ndarray, np.ndarray]:
    operand = shape.ifmap
    if isinstance(operand, Loaded):
        return loaded_window_ranks(*table, operand.cols, line, table.addresses)
    return window_ranks(*table, shape.dataflow is Dataflow.OS, operand.lanes, line, table.addresses)


def _read_state(kib: int, bandwidth: int, values: int, operand: Stream | Loaded) -> np.ndarray:
    """Return a read buffer just after its first fill, which ends in the cycle before the first row of demand.

    Half of the buffer is filled, or all of the operand with the holes that pad it to the array.
    """
    size, line = kib * 1024, line_of(kib)
    active = -(-size // 2)
    half = size - active
    padded = operand.padded
    state = np.zeros(12, np.int64)
    state[LINE] = line
    state[LINES] = values // line + 1
    state[WINDOW] = min(state[LINES], -(-active // line))
    state[STEP] = min(state[LINES] - state[WINDOW], -(-half // line))
    state[FETCH] = -(-half // bandwidth)
    state[BANDWIDTH] = bandwidth
    state[READS] = min(-(-active // bandwidth), -(-padded // bandwidth)) * bandwidth
    state[TIME] = -1
    return state
