"""The output-stationary machine, compiled: one call runs a list of folds and watches what leaves the array.

Registers are planes of R x C. In every cycle each plane is computed from the planes of the cycle before:
operands of A move one column to the right, operands of B one row down, and sums shift out. Nothing here
knows how long a fold takes. A machine that is asked to reuse a register before its content has left
answers with `HAZARD` instead of a number of cycles.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np

from macloom._numba import njit
from macloom.sim.cycle.marks import FIT, HAND_OVER, HAZARD, SCALE


@njit(cache=True, nogil=True, inline="always")
def fitted(value, low, high):
    return min(max(value, low), high)


@njit(cache=True, nogil=True)
def _os_step(a_old, a_new, b_old, b_new, a_in, b_in, acc, every, low, high):
    """Move both operands by one element and let every element multiply and add."""
    rows, cols = acc.shape
    for i in range(rows):
        source, left, top, sums = a_old[i], a_new[i], b_new[i], acc[i]
        above = b_in if i == 0 else b_old[i - 1]
        left[0] = a_in[i]
        for j in range(1, cols):
            left[j] = source[j - 1]
        for j in range(cols):
            top[j] = above[j]
        if every:
            for j in range(cols):
                sums[j] = fitted(sums[j] + left[j] * top[j], low, high)
        else:
            for j in range(cols):
                sums[j] += left[j] * top[j]


@njit(cache=True, nogil=True)
def os_machine(
    a, b, folds, starts, marks, rows, cols, shadow, every, low, high, scaled, unit, a_scales, b_scales, out
):  # fmt: skip
    """Run output-stationary folds and return the cycles until the last sum has left, or HAZARD.

    Args:
        a, b: the operands, (M, K) and (K, N), of the type in which elements multiply and add.
        folds: int64 (folds, 4): first row, first column, first and last + 1 place along K.
        starts: int64 (folds,), the cycle in which the first operand enters; used with `shadow` only. Without
            shadow registers a fold starts when the one before has left.
        marks: int64 (marks, 4) in the order in which they enter: fold, place along the fold, kind, segment.
        every: whether the register saturates to `low` .. `high` after each product.
        scaled: whether a SCALE mark scales and adds the sum of a segment inside the element.
        unit, a_scales, b_scales: for that: float32 value of one unit, scales (M, segments) and (N, segments).
        out: float64 (folds, rows, cols), receives what leaves.
    """
    count = len(folds)
    a_old, a_new = np.zeros((rows, cols), a.dtype), np.zeros((rows, cols), a.dtype)
    b_old, b_new = np.zeros((rows, cols), a.dtype), np.zeros((rows, cols), a.dtype)
    acc, running = np.zeros((rows, cols), a.dtype), np.zeros((rows, cols), np.float32)
    a_in, b_in = np.zeros(rows, a.dtype), np.zeros(cols, a.dtype)
    leaving = np.zeros((rows, cols), np.float64)  # sums on their way down and out
    moved = np.full(cols, -1)  # how far the column of sums has shifted; -1: it rests
    handed = np.zeros(cols, np.int64)  # sums of the present fold that this column has handed over
    column_fold = np.zeros(cols, np.int64)
    a_fold, b_fold = np.zeros(rows, np.int64), np.zeros(cols, np.int64)  # fold whose operands enter here
    a_mark = np.zeros(rows, np.int64)  # next mark to enter this row
    mark_at = np.full((len(marks), rows), -1, np.int32)  # column in which a mark is; -1: not entered
    first_mark, begin, gone, passed, cycle = 0, np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    draining = False
    expected = np.int64(count) * rows * cols
    patience = starts[-1] + np.int64(count) * ((folds[:, 3] - folds[:, 2]).max() + 2 * rows + cols)
    while gone < expected:
        if cycle > patience:
            return HAZARD  # something was lost on the way
        if draining:  # without shadow registers: the accumulators themselves shift down
            for j in range(cols):
                out[column_fold[0], rows - 1 - moved[0], j] = leaving[rows - 1, j]
            for i in range(rows - 1, 0, -1):
                for j in range(cols):
                    leaving[i, j] = leaving[i - 1, j]
            moved[0] += 1
            gone += cols
            cycle += 1
            if moved[0] == rows:
                draining, begin, moved[0] = False, cycle, -1
                acc[:] = 0
            continue
        # What the buffers present at the left and the upper border.
        for i in range(rows):
            a_in[i] = 0
            f = a_fold[i]
            while shadow and f + 1 < count and cycle - i >= starts[f + 1]:
                f += 1
            a_fold[i] = f
            place = cycle - i - (starts[f] if shadow else begin)
            length = folds[f, 3] - folds[f, 2]
            if 0 <= place < length:
                if folds[f, 0] + i < a.shape[0]:
                    a_in[i] = a[folds[f, 0] + i, folds[f, 2] + place]
                m = a_mark[i]
                if m < len(marks) and marks[m, 0] == f and marks[m, 1] == place:
                    mark_at[m, i] = -2  # enters with this operand
                    a_mark[i] += 1
        for j in range(cols):
            b_in[j] = 0
            f = b_fold[j]
            while shadow and f + 1 < count and cycle - j >= starts[f + 1]:
                f += 1
            b_fold[j] = f
            place = cycle - j - (starts[f] if shadow else begin)
            if 0 <= place < folds[f, 3] - folds[f, 2] and folds[f, 1] + j < b.shape[1]:
                b_in[j] = b[folds[f, 2] + place, folds[f, 1] + j]
        _os_step(a_old, a_new, b_old, b_new, a_in, b_in, acc, every, low, high)
        a_old, a_new, b_old, b_new = a_new, a_old, b_new, b_old
        # Sums on their way out; what was handed over in this cycle moves from the next one on.
        j = 0
        while j < cols:
            if moved[j] < 0:
                j += 1
                continue
            # Neighbouring columns that shift, each one behind the one before: row i still moves where moved < i.
            end, ahead = j + 1, moved[j]
            while end < cols and 0 <= moved[end] == moved[end - 1] - 1:
                end += 1
            for column in range(j, end):
                out[column_fold[column], rows - 1 - moved[column], column] = leaving[rows - 1, column]
            for i in range(rows - 1, ahead - (end - 1 - j), -1):
                above, below = leaving[i - 1], leaving[i]
                for column in range(max(j, j + ahead - i + 1), end):
                    below[column] = above[column]
            for column in range(j, end):
                moved[column] = moved[column] + 1 if moved[column] + 1 < rows else -1
            gone += end - j
            j = end
        # Marks move with their operands.
        for m in range(first_mark, min(a_mark[0], len(marks))):
            f, kind = marks[m, 0], marks[m, 2]
            for i in range(rows):
                at = mark_at[m, i]
                if at == -1 or at == cols:
                    continue
                at = 0 if at == -2 else at + 1
                mark_at[m, i] = at
                if at == cols:
                    if i == rows - 1 and m == first_mark:
                        first_mark += 1
                    continue
                if kind & FIT:
                    acc[i, at] = fitted(acc[i, at], low, high)
                if kind & SCALE:
                    row, col, segment = folds[f, 0] + i, folds[f, 1] + at, marks[m, 3]
                    if row < a_scales.shape[0] and col < b_scales.shape[0]:
                        term = np.float32(acc[i, at]) * unit
                        term = (term * a_scales[row, segment]) * b_scales[col, segment]
                        running[i, at] = term if segment == 0 else running[i, at] + term
                    acc[i, at] = 0
                if kind & HAND_OVER:
                    if shadow:
                        if handed[at] != i or 0 <= moved[at] <= i:
                            return HAZARD  # an older sum still waits in this register
                        leaving[i, at] = running[i, at] if scaled else acc[i, at]
                        acc[i, at] = 0
                        handed[at] += 1
                        if i == rows - 1:
                            moved[at], column_fold[at], handed[at] = 0, f, 0
                    else:
                        passed += 1
        cycle += 1
        if not shadow and passed == rows * cols:  # the controller sees the last mark leave
            passed, draining, moved[0], column_fold[0] = 0, True, 0, a_fold[0]
            for i in range(rows):
                for j in range(cols):
                    leaving[i, j] = running[i, j] if scaled else acc[i, j]
            for i in range(rows):
                a_fold[i] = min(a_fold[i] + 1, count - 1)
            for j in range(cols):
                b_fold[j] = min(b_fold[j] + 1, count - 1)
    return cycle
