"""The systolic machines, compiled: one call runs a list of folds and watches what leaves the array.

Registers are planes of R x C. In every cycle each plane is computed from the planes of the cycle before:
operands of A move one column to the right, operands of B (or partial sums) one row down. Nothing here
knows how long a fold takes. A machine that is asked to reuse a register before its content has left
answers with `HAZARD` instead of a number of cycles.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np

from macloom._numba import njit
from macloom.sim.cycle.marks import FIT, HAND_OVER, SCALE

HAZARD = -1


@njit(cache=True, nogil=True, inline="always")
def _fitted(value, low, high):
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
                sums[j] = _fitted(sums[j] + left[j] * top[j], low, high)
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
        before = gone
        for j in range(cols):
            if moved[j] >= 0:
                out[column_fold[j], rows - 1 - moved[j], j] = leaving[rows - 1, j]
                gone += 1
        if gone > before:
            for i in range(rows - 1, 0, -1):
                for j in range(cols):
                    leaving[i, j] = leaving[i - 1, j] if 0 <= moved[j] < i else leaving[i, j]
        for j in range(cols):
            if moved[j] >= 0:
                moved[j] = moved[j] + 1 if moved[j] + 1 < rows else -1
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
                    acc[i, at] = _fitted(acc[i, at], low, high)
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


@njit(cache=True, nogil=True)
def _ws_step(a_old, a_new, sums_old, sums_new, weights, a_in, top, every, low, high):
    """Move A to the right and partial sums down, each element adding its product."""
    rows, cols = weights.shape
    for i in range(rows):
        source, left, sums, held = a_old[i], a_new[i], sums_new[i], weights[i]
        above = top if i == 0 else sums_old[i - 1]
        left[0] = a_in[i]
        for j in range(1, cols):
            left[j] = source[j - 1]
        if every:
            for j in range(cols):
                sums[j] = _fitted(above[j] + left[j] * held[j], low, high)
        else:
            for j in range(cols):
                sums[j] = above[j] + left[j] * held[j]


@njit(cache=True, nogil=True)
def ws_machine(
    x, w, folds, starts, marks, rows, cols, shadow, every, low, high, scaled, unit, x_scales, w_scales, x_last, sums,
    run_sums,
):  # fmt: skip
    """Run weight-stationary folds and return the cycles until the last sum has left, or HAZARD.

    A fold shifts its stationary values in from the top in R cycles; without shadow registers through the
    registers that multiply, with them through a second chain, column by column one cycle later, which
    hands over when the first streamed value passes. Partial sums of earlier folds enter at the top and
    leave at the bottom, so that every sum grows in ascending order of K.

    Args:
        x, w: the streamed operand (T, K) and the stationary one (K, N).
        folds: int64 (folds, 5): first and last + 1 place along K, first column, 1 where sums begin from 0, and
            which of `sums` they grow.
        starts: int64 (folds,), the cycle in which loading starts; used with `shadow` only.
        marks: int64 (folds, rows): what an element of this row does after its multiply and add (FIT, SCALE;
            with HAND_OVER, its segment is the first), and 8 times the segment.
        every, low, high, scaled, unit: as in `os_machine`.
        x_scales, w_scales: float32 (T, segments) and (N, segments).
        x_last: whether the streamed operand's scale is applied last.
        sums: (segments, T, N) of the type of x, the output buffer, from which partial sums come and to which they go.
        run_sums: float32 (T, N), the same for sums of scaled segments.
    """
    count, stream, width = len(folds), x.shape[0], w.shape[1]
    a_old, a_new = np.zeros((rows, cols), x.dtype), np.zeros((rows, cols), x.dtype)
    s_old, s_new = np.zeros((rows, cols), x.dtype), np.zeros((rows, cols), x.dtype)
    r_old, r_new = np.zeros((rows, cols), np.float32), np.zeros((rows, cols), np.float32)
    held, chain = np.zeros((rows, cols), x.dtype), np.zeros((rows, cols), x.dtype)
    a_in, top, run_top = np.zeros(rows, x.dtype), np.zeros(cols, x.dtype), np.zeros(cols, np.float32)
    a_fold = np.zeros(rows, np.int64)
    first_at = np.full((count, rows), -1, np.int32)  # column of the first streamed value of a fold, per row
    load_fold = np.zeros(cols, np.int64)
    depth = rows + cols
    tag_fold, tag_place = np.full(depth, -1), np.zeros(depth, np.int64)  # travel beside the sums of column 0
    left_fold, left_place = np.full(width, -1), np.zeros(width, np.int64)  # what left last, per column of W
    shift = np.zeros(cols, np.int64)
    marked = np.zeros(rows, np.bool_)
    for i in range(rows):
        marked[i] = marks[:, i].any()
    first_fold, begin, gone, cycle = 0, np.int64(0), np.int64(0), np.int64(0)
    expected = np.int64(count) * cols * stream
    patience = starts[-1] + np.int64(count) * (stream + 2 * rows + cols)
    while gone < expected:
        if cycle > patience:
            return HAZARD  # something was lost on the way
        # What the buffers present at the left border.
        head = cycle % depth
        tag_fold[head] = -1
        for i in range(rows):
            a_in[i] = 0
            f = a_fold[i]
            while shadow and f + 1 < count and cycle - i >= starts[f + 1] + rows:
                f += 1
            a_fold[i] = f
            place = cycle - i - rows - (starts[f] if shadow else begin)
            if 0 <= place < stream:
                if folds[f, 0] + i < folds[f, 1]:
                    a_in[i] = x[place, folds[f, 0] + i]
                if place == 0:
                    first_at[f, i] = -2
                if i == 0:
                    tag_fold[head], tag_place[head] = f, place
        # Partial sums enter at the top, one column later in each column.
        for j in range(cols):
            top[j], run_top[j] = 0, 0
            slot = (cycle - j) % depth
            f = tag_fold[slot]
            if cycle >= j and f >= 0 and folds[f, 3] != 1 and folds[f, 2] + j < width:
                place, col = tag_place[slot], folds[f, 2] + j
                if left_fold[col] < f - 1 or (left_fold[col] == f - 1 and left_place[col] < place):
                    return HAZARD  # the partial sum has not arrived yet
                top[j], run_top[j] = sums[folds[f, 4], place, col], run_sums[place, col]
        # Stationary values change hands as the first streamed value passes.
        for f in range(first_fold, min(a_fold[0] + 1, count)):
            for i in range(rows):
                at = first_at[f, i]
                if at == -1 or at == cols:
                    continue
                at = 0 if at == -2 else at + 1
                first_at[f, i] = at
                if at < cols and shadow:
                    held[i, at] = chain[i, at]
                if at == cols and i == rows - 1 and f == first_fold:
                    first_fold += 1
        _ws_step(a_old, a_new, s_old, s_new, held, a_in, top, every, low, high)
        a_old, a_new = a_new, a_old
        s_old, s_new = s_new, s_old
        if scaled:
            for i in range(rows):
                for j in range(cols):
                    r_new[i, j] = r_old[i - 1, j] if i else run_top[j]
            r_old, r_new = r_new, r_old
        for i in range(rows):
            if not marked[i]:
                continue
            for j in range(cols):
                if cycle < i + j:
                    break
                slot = (cycle - i - j) % depth
                f = tag_fold[slot]
                if f < 0 or marks[f, i] == 0 or folds[f, 2] + j >= width:
                    continue
                if marks[f, i] & FIT:
                    s_old[i, j] = _fitted(s_old[i, j], low, high)
                if marks[f, i] & SCALE:
                    segment = marks[f, i] >> 3
                    first, second = x_scales[tag_place[slot], segment], w_scales[folds[f, 2] + j, segment]
                    if x_last:
                        first, second = second, first
                    term = np.float32(s_old[i, j]) * unit
                    term = (term * first) * second
                    r_old[i, j] = term if marks[f, i] & HAND_OVER else r_old[i, j] + term
                    s_old[i, j] = 0
        # Sums leave at the bottom.
        for j in range(cols):
            slot = (cycle - (rows - 1) - j) % depth
            f = tag_fold[slot]
            if cycle < rows - 1 + j or f < 0:
                continue
            gone += 1
            if folds[f, 2] + j < width:
                place, col = tag_place[slot], folds[f, 2] + j
                sums[folds[f, 4], place, col], run_sums[place, col] = s_old[rows - 1, j], r_old[rows - 1, j]
                left_fold[col], left_place[col] = f, place
        # Loads shift in, in the registers that multiply or in the chain.
        if shadow:
            loading = False
            for j in range(cols):
                f = load_fold[j]
                shift[j] = cycle - j - starts[f]
                if 0 <= shift[j] < rows:
                    loading = True
                    if f and first_at[f - 1, shift[j]] < j:
                        return HAZARD  # the value before has not changed hands
            if loading:
                for i in range(rows - 1, 0, -1):
                    for j in range(cols):
                        chain[i, j] = chain[i - 1, j] if i <= shift[j] < rows else chain[i, j]
                for j in range(cols):
                    if 0 <= shift[j] < rows:
                        f = load_fold[j]
                        k = folds[f, 0] + rows - 1 - shift[j]
                        chain[0, j] = w[k, folds[f, 2] + j] if folds[f, 2] + j < width and k < folds[f, 1] else 0
            for j in range(cols):
                f = load_fold[j]
                if f + 1 < count and cycle + 1 - j >= starts[f + 1]:
                    load_fold[j] = f + 1
        else:
            f, entered = a_fold[0], cycle - begin
            if entered < rows:
                k = folds[f, 0] + rows - 1 - entered
                for i in range(rows - 1, 0, -1):
                    for j in range(cols):
                        held[i, j] = held[i - 1, j]
                for j in range(cols):
                    held[0, j] = w[k, folds[f, 2] + j] if k < folds[f, 1] and folds[f, 2] + j < width else 0
        cycle += 1
        if not shadow and gone == np.int64(a_fold[0] + 1) * cols * stream and gone < expected:
            begin = cycle
            for i in range(rows):
                a_fold[i] += 1
    return cycle
