"""All three buffers in USER mode, row of demand by row of demand."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np

from macloom._numba import njit
from macloom.sim.scalesim.kernels.writes import (
    END,
    FREE,
    PENDING,
    finish,
    lanes_at_work,
    new_output,
    write_slowly,
)

START, LINES, WINDOW, STEP, LINE, FETCH, BANDWIDTH, TIME, READS, LOW, HIGH, WRAP = range(12)


@njit(cache=True)
def _turn(state, latency, cycle, once):
    """Move the window on and fetch half a buffer; return the latency of the row so far."""
    state[START] = (state[START] + state[STEP]) % state[LINES]
    state[READS] += state[FETCH] * state[BANDWIDTH]
    state[TIME] += state[FETCH] + 1
    wait = state[TIME] - (cycle + latency)
    if not once:
        latency += wait
    if wait > 0:
        latency += wait
    return latency


@njit(cache=True)
def _place_window(state):
    """Put the ranks in the window beside the state: [LOW, HIGH), and [0, WRAP) where it goes round."""
    state[LOW] = state[START] * state[LINE]
    end = state[START] + state[WINDOW]
    state[HIGH] = min(end, state[LINES]) * state[LINE]
    state[WRAP] = max(0, end - state[LINES]) * state[LINE]


@njit(cache=True)
def _hits(state, rank, count):
    """Return whether a row of demand lies whole in one part of the window."""
    return (rank >= state[LOW] and rank + count <= state[HIGH]) or rank + count <= state[WRAP]


@njit(cache=True)
def _read_lines(state, rank, count, cycle, once):
    """Serve a row of distinct addresses, line by line; return its latency."""
    latency = np.int64(1)
    for line in range(rank // state[LINE], (rank + count - 1) // state[LINE] + 1):
        while (line - state[START]) % state[LINES] >= state[WINDOW]:
            latency = _turn(state, latency, cycle, once)
    _place_window(state)
    return latency


@njit(cache=True)
def _read_address(state, address, starts, held, latency, cycle, once):
    """Serve one address that several lines may hold; return the latency of the row so far."""
    while True:
        for at in range(starts[address], starts[address + 1]):
            if (held[at] - state[START]) % state[LINES] < state[WINDOW]:
                return latency
        latency = _turn(state, latency, cycle, once)


@njit(cache=True)
def user_rows(
    row_folds, col_folds, rows, cols, last_rows, last_cols, stream, fold_cycles, is_os, is_is, size, bandwidth, once,
    a_state, a_ranks, a_counts, b_state, b_ranks, b_counts,
    shared, starts, held, base, row_at, col_at, offset, down, across, height, width, spans,
):  # fmt: skip
    """Run all three buffers over all rows of demand.

    With `shared` the input is that of a convolution, whose addresses several lines hold. `spans` gets
    the first and last cycle at each SRAM. Returns the cycle of the last row, the stalls, and first
    cycle, last cycle and values of the output's DRAM.
    """
    half = size // 2
    threshold = size - half
    state, partials = new_output(size)
    stalls, finished = np.int64(0), np.int64(0)
    depth = (row_folds - 1) * rows + last_rows
    loads = 0 if is_os else rows
    a_rows = stream + rows - 1
    b_rows = stream + (cols if is_os else rows) - 1
    _place_window(a_state)
    _place_window(b_state)
    for column in range(col_folds):
        used_cols = last_cols if column == col_folds - 1 else cols
        for row in range(row_folds):
            used_rows = last_rows if row == row_folds - 1 else rows
            values = used_rows if is_os else stream
            first_write = stream - 1 + rows - used_rows if is_os else 2 * rows - 1
            top = (column * row_folds + row) * fold_cycles
            for t in range(fold_cycles):
                cycle = top + t + stalls
                entered = t - loads
                line = row * rows + rows - 1 - t
                loaded = column * depth + line if t < rows and line < depth else -1

                a_at = loaded if is_is else (row * a_rows + entered if 0 <= entered < a_rows else -1)
                a_wait = np.int64(0)
                if a_at >= 0 and a_counts[a_at]:
                    latency = np.int64(1)
                    if not _hits(a_state, a_ranks[a_at], a_counts[a_at]):
                        if shared:
                            first = 0 if is_is else max(0, entered - stream + 1)
                            stop = used_cols if is_is else min(used_rows, entered + 1)
                            for x in range(first, stop):
                                if is_is:
                                    i, j = column * cols + x, line
                                elif is_os:
                                    i, j = row * rows + x, entered - x
                                else:
                                    i, j = entered - x, row * rows + x
                                if row_at[i] + down[j] < height and col_at[i] + across[j] < width:
                                    address = base[i] + offset[j]
                                    latency = _read_address(a_state, address, starts, held, latency, cycle, once)
                            _place_window(a_state)
                        else:
                            latency = _read_lines(a_state, a_ranks[a_at], a_counts[a_at], cycle, once)
                    a_wait = latency - 1
                    if spans[0] < 0:
                        spans[0] = cycle + latency
                    spans[1] = cycle + latency

                if is_os:
                    b_at = column * b_rows + t if t < b_rows else -1
                else:
                    b_at = (row * b_rows + entered if 0 <= entered < b_rows else -1) if is_is else loaded
                b_wait = np.int64(0)
                if b_at >= 0 and b_counts[b_at]:
                    latency = np.int64(1)
                    if not _hits(b_state, b_ranks[b_at], b_counts[b_at]):
                        latency = _read_lines(b_state, b_ranks[b_at], b_counts[b_at], cycle, once)
                    b_wait = latency - 1
                    if spans[2] < 0:
                        spans[2] = cycle + latency
                    spans[3] = cycle + latency

                finished = cycle
                results = lanes_at_work(t - first_write, values, used_cols)
                if results:
                    left = state[FREE] - results
                    if left >= threshold or (cycle < state[END] and left > 0):
                        state[FREE] = left
                        state[PENDING] += results
                    else:
                        finished, partials = write_slowly(state, partials, results, half, threshold, bandwidth, cycle)
                    if spans[4] < 0:
                        spans[4] = finished
                    spans[5] = finished
                stalls += max(a_wait, b_wait, finished - cycle)
    first, last, values = finish(state, partials, half, bandwidth, finished, once)
    return finished, stalls, first, last, values
