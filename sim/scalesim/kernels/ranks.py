"""Where in prefetch order lies what each row of demand asks for: the rank of the first value, and how many."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np

from macloom._numba import njit


@njit(cache=True)
def stream_ranks(folds, lanes, last, stream):
    """Return rank and count of every row of demand of a streamed operand, and its number of values.

    Rows of one fold follow each other; a fold has stream + lanes - 1 of them. Values are fetched along
    the diagonals of the folds stacked below each other, lane by lane; the last fold has `last` lanes.
    """
    height = folds * stream
    rows = stream + lanes - 1
    ranks = np.zeros(folds * rows, np.int64)
    counts = np.zeros(folds * rows, np.int32)
    bottom = height - stream
    rank = np.int64(0)
    for diagonal in range(height + lanes - 1):
        x = max(0, diagonal - height + 1)
        end = min(lanes, diagonal + 1)
        while x < end:
            top = (diagonal - x) // stream * stream
            stop = min(end, diagonal - top + 1)
            present = max(0, min(stop, last) - x) if top == bottom else stop - x
            at = top // stream * rows + diagonal - top
            ranks[at] = rank
            counts[at] = present
            rank += present
            x = stop
    return ranks, counts, rank


@njit(cache=True)
def loaded_ranks(depth, width, cols):
    """Return rank and count of every row of a loaded operand, and its number of values.

    Rows of one fold along the columns follow each other, and are fetched one after the other.
    """
    folds = (width + cols - 1) // cols
    ranks = np.empty(folds * depth, np.int64)
    counts = np.empty(folds * depth, np.int32)
    rank = np.int64(0)
    for fold in range(folds):
        used = min(cols, width - fold * cols)
        for row in range(depth):
            ranks[fold * depth + row] = rank
            counts[fold * depth + row] = used
            rank += used
    return ranks, counts, rank


@njit(cache=True)
def window_ranks(base, row_at, col_at, offset, down, across, height, width, by_window, lanes, line, addresses):
    """Return what `stream_ranks` does for the windows of a convolution, and which lines hold each address.

    The lines of address a are `held[starts[a] : starts[a + 1]]`.
    """
    windows, values = len(base), len(offset)
    lane_count, stream = (windows, values) if by_window else (values, windows)
    folds = (lane_count + lanes - 1) // lanes
    rows = stream + lanes - 1
    ranks = np.zeros(folds * rows, np.int64)
    counts = np.zeros(folds * rows, np.int32)
    starts = np.zeros(addresses + 1, np.int64)
    held = np.empty(windows * values, np.int32)
    rank = np.int64(0)
    for fill in range(2):  # count the lines of each address, then note them
        rank = np.int64(0)
        for diagonal in range(folds * stream + lanes - 1):
            previous = -1
            for x in range(max(0, diagonal - folds * stream + 1), min(lanes, diagonal + 1)):
                fold, s = divmod(diagonal - x, stream)
                at = fold * rows + s + x
                if at != previous:
                    ranks[at], counts[at] = rank, 0
                    previous = at
                lane = fold * lanes + x
                if lane >= lane_count:
                    continue
                i, j = (lane, s) if by_window else (s, lane)
                if row_at[i] + down[j] >= height or col_at[i] + across[j] >= width:
                    continue
                address = base[i] + offset[j]
                if fill:
                    held[starts[address]] = rank // line
                    starts[address] += 1
                else:
                    starts[address + 1] += 1
                counts[at] += 1
                rank += 1
        _settle(starts, fill)
    return ranks, counts, rank, starts, held


@njit(cache=True)
def loaded_window_ranks(base, row_at, col_at, offset, down, across, height, width, cols, line, addresses):
    """Return what `loaded_ranks` does for the windows of a convolution, and which lines hold each address."""
    windows, values = len(base), len(offset)
    folds = (windows + cols - 1) // cols
    ranks = np.empty(folds * values, np.int64)
    counts = np.zeros(folds * values, np.int32)
    starts = np.zeros(addresses + 1, np.int64)
    held = np.empty(windows * values, np.int32)
    rank = np.int64(0)
    for fill in range(2):
        rank = np.int64(0)
        for fold in range(folds):
            for j in range(values):
                ranks[fold * values + j] = rank
                for i in range(fold * cols, min((fold + 1) * cols, windows)):
                    if row_at[i] + down[j] >= height or col_at[i] + across[j] >= width:
                        continue
                    address = base[i] + offset[j]
                    if fill:
                        held[starts[address]] = rank // line
                        starts[address] += 1
                    else:
                        starts[address + 1] += 1
                    rank += 1
                counts[fold * values + j] = rank - ranks[fold * values + j]
        _settle(starts, fill)
    return ranks, counts, rank, starts, held


@njit(cache=True)
def _settle(starts, filled):
    """Turn counts into starts, or starts that filling moved on back into starts."""
    if filled:
        for address in range(len(starts) - 1, 0, -1):
            starts[address] = starts[address - 1]
        starts[0] = 0
    else:
        for address in range(1, len(starts)):
            starts[address] += starts[address - 1]
