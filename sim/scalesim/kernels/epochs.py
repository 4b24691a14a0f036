"""CALC mode's read buffer, which forgets everything whenever its live half is full."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np

from macloom._numba import njit


@njit(cache=True)
def epoch_reads(blocks, repeats, capacity):
    """Return DRAM reads of `blocks` of distinct addresses, each asked for `repeats` times, and where it last forgot.

    Answers reads, values since the buffer last forgot, and (block, repeat, offset) of the value that
    filled it last, -1 where it never was full.
    """
    filled, reads = np.int64(0), np.int64(0)
    block, repeat, offset = np.int64(-1), np.int64(-1), np.int64(-1)
    for index in range(len(blocks)):
        size = blocks[index]
        if size >= capacity:  # whatever comes again was forgotten in between
            asked = size * repeats
            reads += asked
            last = (filled + asked) // capacity * capacity - filled - 1
            block, repeat, offset = np.int64(index), last // size, last % size
            filled = (filled + asked) % capacity
        elif filled + size < capacity:
            reads += size
            filled += size
        else:  # forgets once, in the first of the repeats; the second reads again what was lost
            lost = capacity - filled
            block, repeat, offset = np.int64(index), np.int64(0), lost - 1
            reads += size
            filled = size - lost
            if repeats > 1:
                reads += lost
                filled = size
    return reads, filled, block, repeat, offset


@njit(cache=True)
def window_epochs(
    base, row_at, col_at, offset, down, across, height, width, by_window, lanes, passes, stamps, capacity
):
    """Return what `epoch_reads` does for the streamed windows of a convolution, which share addresses.

    With `by_window` the lanes hold windows, else values. Each of `passes` asks for everything once.
    What the buffer holds after a pass follows from where in it the buffer last forgot; once a pass
    ends as an earlier one did, the rest repeat those between.
    """
    windows, values = len(base), len(offset)
    lane_count, stream = (windows, values) if by_window else (values, windows)
    folds = (lane_count + lanes - 1) // lanes
    totals = np.zeros(passes + 1, np.int64)
    ends = np.full(passes, -1, np.int64)
    fold_of = np.full(passes, -1, np.int64)
    t_of = np.full(passes, -1, np.int64)
    filled_after = np.zeros(passes, np.int64)
    epoch, filled = np.int64(1), np.int64(0)
    for index in range(passes):
        reads, asked = np.int64(0), np.int64(0)
        for fold in range(folds):
            used = min(lanes, lane_count - fold * lanes)
            for t in range(stream + used - 1):
                for x in range(max(0, t - stream + 1), min(used, t + 1)):
                    lane = fold * lanes + x
                    i, j = (lane, t - x) if by_window else (t - x, lane)
                    if row_at[i] + down[j] >= height or col_at[i] + across[j] >= width:
                        continue
                    asked += 1
                    address = base[i] + offset[j]
                    if stamps[address] == epoch:
                        continue
                    stamps[address] = epoch
                    reads += 1
                    filled += 1
                    if filled == capacity:
                        filled = 0
                        epoch += 1
                        ends[index], fold_of[index], t_of[index] = asked, fold, t
        totals[index + 1] = totals[index] + reads
        filled_after[index] = filled
        if ends[index] < 0:  # everything fits: no later pass misses
            return reads, filled, -1, np.int64(-1), np.int64(-1)
        for earlier in range(index):
            if ends[earlier] == ends[index]:
                cycles, rest = divmod(passes - 1 - index, index - earlier)
                total = totals[index + 1] + cycles * (totals[index + 1] - totals[earlier + 1])
                total += totals[earlier + 1 + rest] - totals[earlier + 1]
                like = earlier + rest
                return total, filled_after[like], passes - 1, fold_of[like], t_of[like]
    return totals[passes], filled, passes - 1, fold_of[passes - 1], t_of[passes - 1]


@njit(cache=True)
def loaded_epochs(base, row_at, col_at, offset, down, across, height, width, rows, cols, stamps, capacity):
    """Return what `window_epochs` does for windows that are loaded, values down the array and windows across.

    Answers reads, values since the buffer last forgot, and fold and row of demand where it did or -1.
    """
    windows, values = len(base), len(offset)
    row_folds, col_folds = (values + rows - 1) // rows, (windows + cols - 1) // cols
    epoch, filled, reads = np.int64(1), np.int64(0), np.int64(0)
    at_fold, at_t = np.int64(-1), np.int64(-1)
    for column in range(col_folds):
        for row in range(row_folds):
            for t in range(rows):
                j = row * rows + rows - 1 - t
                if j >= values:
                    continue
                for i in range(column * cols, min((column + 1) * cols, windows)):
                    if row_at[i] + down[j] >= height or col_at[i] + across[j] >= width:
                        continue
                    address = base[i] + offset[j]
                    if stamps[address] == epoch:
                        continue
                    stamps[address] = epoch
                    reads += 1
                    filled += 1
                    if filled == capacity:
                        filled = 0
                        epoch += 1
                        at_fold, at_t = np.int64(column * row_folds + row), np.int64(t)
    return reads, filled, at_fold, at_t
