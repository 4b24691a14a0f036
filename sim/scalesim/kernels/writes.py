"""The output buffer, to which only the number of results matters."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np

from macloom._numba import njit

FREE, PENDING, CLOSED, WAITING, END, COUNT, FIRST, LAST, HEAD, TAIL = range(10)


@njit(cache=True)
def lanes_at_work(t, stream, lanes):
    """Return how many of `lanes` skewed lanes that carry `stream` values each are at work at time t."""
    if t < 0:
        return 0
    return max(0, min(lanes, t + 1) - max(0, t - stream + 1))


@njit(cache=True)
def new_output(size):
    """Return an empty output buffer, and room for the rows that a drain closed half full: (row, values)."""
    state = np.zeros(10, np.int64)
    state[FREE], state[FIRST] = size, -1
    return state, np.empty((1024, 2), np.int64)


@njit(cache=True)
def _drain(state, partials, half, bandwidth, cycle):
    """Close the row being gathered and drain half a buffer of rows; only gaps of the very last one do not count."""
    full, part = divmod(state[PENDING], bandwidth)
    state[CLOSED] += full
    if part:
        if state[TAIL] == len(partials):
            waiting = state[TAIL] - state[HEAD]
            grown = np.empty((max(1024, 2 * waiting), 2), np.int64)
            grown[:waiting] = partials[state[HEAD] : state[TAIL]]
            partials = grown
            state[HEAD], state[TAIL] = 0, waiting
        partials[state[TAIL], 0] = state[CLOSED]
        partials[state[TAIL], 1] = part
        state[TAIL] += 1
        state[CLOSED] += 1
    state[PENDING] = 0
    rows = min((half + bandwidth - 1) // bandwidth, state[CLOSED] - state[WAITING])
    last = state[WAITING] + rows - 1
    while state[HEAD] < state[TAIL] and partials[state[HEAD], 0] < last:
        state[HEAD] += 1
    values = rows * bandwidth
    if state[HEAD] < state[TAIL] and partials[state[HEAD], 0] == last:
        values -= bandwidth - partials[state[HEAD], 1]
    state[COUNT] += values
    state[FREE] += values
    state[WAITING] += rows
    state[END] = cycle + rows - 1
    if state[FIRST] < 0:
        state[FIRST] = cycle
    state[LAST] = max(state[LAST], state[END])
    return partials


@njit(cache=True)
def write_slowly(state, partials, results, half, threshold, bandwidth, cycle):
    """Take results one by one, because one of them may stall or start a drain; return when the last is in."""
    for _ in range(results):
        state[PENDING] += 1
        state[FREE] -= 1
        if cycle < state[END]:
            if state[FREE] <= 0:
                cycle = state[END]
        elif state[FREE] < threshold:
            partials = _drain(state, partials, half, bandwidth, cycle)
    return cycle, partials


@njit(cache=True)
def finish(state, partials, half, bandwidth, cycle, by_order):
    """Drain what is left after the last row of demand; return first cycle, last cycle and values of DRAM.

    The first of these drains may overlap the one before and end sooner. `by_order` gives the end of the
    drain that started last, as v2 does, not the latest end.
    """
    while state[PENDING] or state[CLOSED] > state[WAITING]:
        partials = _drain(state, partials, half, bandwidth, cycle)
        cycle = state[END] + 1
    return state[FIRST], state[END] if by_order else state[LAST], state[COUNT]


@njit(cache=True)
def write_only(
    row_folds,
    col_folds,
    rows,
    cols,
    last_rows,
    last_cols,
    stream,
    fold_cycles,
    is_os,
    size,
    bandwidth,
    by_order,
    marks,
    marked,
):
    """Run the output buffer over all folds; `marked` gets the cycles of the rows of demand in sorted `marks`.

    Returns the cycle of the last row, the stalls, the cycles of the first and last write, and first
    cycle, last cycle and values of DRAM.
    """
    half = size // 2
    threshold = size - half
    state, partials = new_output(size)
    stalls, finished, mark = np.int64(0), np.int64(0), 0
    first_write, last_row = np.int64(-1), np.int64(0)
    for column in range(col_folds):
        used_cols = last_cols if column == col_folds - 1 else cols
        for row in range(row_folds):
            used_rows = last_rows if row == row_folds - 1 else rows
            values = used_rows if is_os else stream
            top = (column * row_folds + row) * fold_cycles
            top += stream - 1 + rows - used_rows if is_os else 2 * rows - 1
            last_row = top + values + used_cols - 2
            for t in range(values + used_cols - 1):
                while mark < len(marks) and marks[mark] <= top + t:
                    marked[mark] = marks[mark] + stalls
                    mark += 1
                results = lanes_at_work(t, values, used_cols)
                cycle = top + t + stalls
                finished = cycle
                left = state[FREE] - results
                if left >= threshold or (cycle < state[END] and left > 0):
                    state[FREE] = left
                    state[PENDING] += results
                else:
                    finished, partials = write_slowly(state, partials, results, half, threshold, bandwidth, cycle)
                    stalls += finished - cycle
                if first_write < 0:
                    first_write = finished
    last_write = finished
    while mark < len(marks):
        marked[mark] = marks[mark] + stalls
        mark += 1
    end = row_folds * col_folds * fold_cycles - 1
    if last_row < end:
        finished = end + stalls
    first, last, values = finish(state, partials, half, bandwidth, finished, by_order)
    return finished, stalls, first_write, last_write, first, last, values
