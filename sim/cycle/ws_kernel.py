"""The weight- and input-stationary machine, compiled: one operand rests in the elements, partial sums move down.

Planes, cycles and hazards are those of `macloom.sim.cycle.os_kernel`.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np

from macloom._numba import njit
from macloom.sim.cycle.marks import FIT, HAND_OVER, HAZARD, SCALE
from macloom.sim.cycle.os_kernel import fitted


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
                sums[j] = fitted(above[j] + left[j] * held[j], low, high)
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
    oldest, newest = 0, 0  # folds whose operands enter
    first_at = np.full((count, rows), -1, np.int32)  # column of the first streamed value of a fold, per row
    load_fold = np.zeros(cols, np.int64)
    depth = rows + cols
    tag_fold, tag_place = np.full(depth, -1), np.zeros(depth, np.int64)  # travel beside the sums of column 0
    left_fold, left_place = np.full(width, -1), np.zeros(width, np.int64)  # what left last, per column of W
    marked = np.zeros(rows, np.bool_)
    for i in range(rows):
        marked[i] = marks[:, i].any()
    first_fold, head, begin, gone, cycle = 0, -1, np.int64(0), np.int64(0), np.int64(0)
    expected = np.int64(count) * cols * stream
    patience = starts[-1] + np.int64(count) * (stream + 2 * rows + cols)
    while gone < expected:
        if cycle > patience:
            return HAZARD  # something was lost on the way
        # What the buffers present at the left border, row by row one cycle later, and at the top, column by column.
        head = head + 1 if head + 1 < depth else 0
        tag_fold[head] = -1
        while shadow and newest + 1 < count and cycle >= starts[newest + 1] + rows:
            newest += 1
        for i in range(rows):
            a_in[i] = 0
        for j in range(cols):
            top[j], run_top[j] = 0, 0
        for f in range(oldest, newest + 1):
            since = cycle - rows - (starts[f] if shadow else begin)
            if f < newest and since >= stream + depth:
                oldest = f + 1
                continue
            # Rows and columns up to `after` are in the next fold already.
            after = cycle - rows - starts[f + 1] if f < newest else np.int64(-1)
            start, first, width_left = folds[f, 0], max(after + 1, since - stream + 1), width - folds[f, 2]
            for i in range(first, min(since, rows - 1, folds[f, 1] - start - 1) + 1):
                a_in[i] = x[since - i, start + i]
            if 0 <= since < rows:
                first_at[f, since] = -2
            if f == newest and 0 <= since < stream:
                tag_fold[head], tag_place[head] = f, since
            if folds[f, 3] == 1:
                continue
            column, kept = folds[f, 2], sums[folds[f, 4]]
            for j in range(first, min(since, cols - 1, width_left - 1) + 1):
                place, col = since - j, column + j
                if left_fold[col] < f - 1 or (left_fold[col] == f - 1 and left_place[col] < place):
                    return HAZARD  # the partial sum has not arrived yet
                top[j] = kept[place, col]
                if scaled:
                    run_top[j] = run_sums[place, col]
        # Stationary values change hands as the first streamed value passes.
        for f in range(first_fold, newest + 1):
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
                slot = head - i - j if head >= i + j else head - i - j + depth
                f = tag_fold[slot]
                if f < 0 or marks[f, i] == 0 or folds[f, 2] + j >= width:
                    continue
                if marks[f, i] & FIT:
                    s_old[i, j] = fitted(s_old[i, j], low, high)
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
            slot = head - (rows - 1) - j if head >= rows - 1 + j else head - (rows - 1) - j + depth
            f = tag_fold[slot]
            if cycle < rows - 1 + j or f < 0:
                continue
            gone += 1
            if folds[f, 2] + j < width:
                place, col = tag_place[slot], folds[f, 2] + j
                sums[folds[f, 4], place, col] = s_old[rows - 1, j]
                if scaled:
                    run_sums[place, col] = r_old[rows - 1, j]
                left_fold[col], left_place[col] = f, place
        # Loads shift in, in the registers that multiply or in the chain.
        if shadow:
            left = 0
            while left < cols:  # neighbouring columns load the same fold, each one cycle after the one before
                f, right = load_fold[left], left + 1
                while right < cols and load_fold[right] == f:
                    right += 1
                since = cycle - starts[f]
                first, last = max(left, since - rows + 1), min(right - 1, since)
                for j in range(first, last + 1):
                    if f and first_at[f - 1, since - j] < j:
                        return HAZARD  # the value before has not changed hands
                for i in range(min(rows - 1, since - first), 0, -1):  # what has entered moves on, no further
                    above, below = chain[i - 1], chain[i]
                    for j in range(first, min(last, since - i) + 1):
                        below[j] = above[j]
                for j in range(first, last + 1):
                    k = folds[f, 0] + rows - 1 - (since - j)
                    chain[0, j] = w[k, folds[f, 2] + j] if folds[f, 2] + j < width and k < folds[f, 1] else 0
                left = right
            for j in range(cols):
                f = load_fold[j]
                if f + 1 < count and cycle + 1 - j >= starts[f + 1]:
                    load_fold[j] = f + 1
        else:
            f, entered = newest, cycle - begin
            if entered < rows:
                k = folds[f, 0] + rows - 1 - entered
                for i in range(rows - 1, 0, -1):
                    for j in range(cols):
                        held[i, j] = held[i - 1, j]
                for j in range(cols):
                    held[0, j] = w[k, folds[f, 2] + j] if k < folds[f, 1] and folds[f, 2] + j < width else 0
        cycle += 1
        if not shadow and gone == np.int64(newest + 1) * cols * stream and gone < expected:
            begin = cycle
            newest += 1
            oldest = newest
    return cycle
