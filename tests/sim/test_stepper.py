"""The closed form against small machines in which every register holds a value in every cycle.

The machines know nothing of the closed form: values enter at the borders, move one element per cycle,
and the cycle in which the last result leaves is observed. Where folds overlap, the test searches the
smallest distance between folds at which all results are still right.
"""

from __future__ import annotations

import numpy as np
import pytest

from macloom.arch import Dataflow
from macloom.sim.systolic import array_cycles, ceil_div, fold_timing

EMPTY = np.iinfo(np.int64).min


def shifted(grid, first, axis):
    """Return `grid` moved by one along `axis`, with `first` entering."""
    moved = np.roll(grid, 1, axis)
    moved[(slice(None),) * axis + (0,)] = first
    return moved


def os_machine(a_folds, b_folds, interval, shadow):
    """Run folds of (R x T) by (T x C) and return the results of each fold and the cycles taken.

    A mark travels with the last value of A. Without shadow registers the sums shift down once all
    marks have passed. With them an element hands its sum over when the mark passes, and a column
    shifts once the mark has reached its last row.
    """
    rows, length = a_folds[0].shape
    cols = b_folds[0].shape[1]
    starts = [f * interval for f in range(len(a_folds))]
    a, b, last = np.zeros((rows, cols), int), np.zeros((rows, cols), int), np.zeros((rows, cols), bool)
    acc = np.zeros((rows, cols), int)
    out = np.full((rows, cols), EMPTY)  # shadow registers
    moving = np.zeros((rows, cols), bool)
    leaving = [[] for _ in range(cols)]
    marks = drain_left = cycle = finished = 0
    while finished < rows * cols * len(starts):
        a_in, b_in, last_in = np.zeros(rows, int), np.zeros(cols, int), np.zeros(rows, bool)
        for fold, start in enumerate(starts):
            for i in range(rows):
                if 0 <= cycle - start - i < length:
                    a_in[i] += a_folds[fold][i, cycle - start - i]
                    last_in[i] |= cycle - start - i == length - 1
            for j in range(cols):
                if 0 <= cycle - start - j < length:
                    b_in[j] += b_folds[fold][cycle - start - j, j]
        a, b, last = shifted(a, a_in, 1), shifted(b, b_in, 0), shifted(last, last_in, 1)
        if shadow:
            acc = acc + a * b
            for j in range(cols):
                if moving[-1, j]:
                    leaving[j].append(out[-1, j])
                    finished += 1
            arriving, arrives = shifted(out, EMPTY, 0), shifted(moving, False, 0)
            out = np.where(arrives, arriving, np.where(moving, EMPTY, out))
            moving = arrives
            out = np.where(last, acc, out)
            acc = np.where(last, 0, acc)
            moving |= last[-1] & (out != EMPTY)
        elif drain_left:
            for j in range(cols):
                leaving[j].append(acc[-1, j])
                finished += 1
            acc, drain_left = shifted(acc, 0, 0), drain_left - 1
        else:
            acc = acc + a * b
            marks += int(last.sum())
            if marks == rows * cols:
                marks, drain_left = 0, rows
        cycle += 1
        if cycle > 2000:
            return None, cycle
    columns = [np.array(c).reshape(len(starts), rows)[:, ::-1] for c in leaving]
    return np.stack(columns, -1), cycle


def ws_machine(a_folds, w_folds, interval, shadow):
    """Run folds of (T x R) by stationary (R x C) and return the results of each fold and the cycles taken.

    Weights shift in from the top for R cycles. Without shadow registers they shift in the registers
    that multiply; with them in a second chain, which hands over when the first value of A passes.
    """
    length, rows = a_folds[0].shape
    cols = w_folds[0].shape[1]
    loads = [f * interval for f in range(len(a_folds))]
    a, first = np.zeros((rows, cols), int), np.zeros((rows, cols), bool)
    weights, chain = np.zeros((rows, cols), int), np.zeros((rows, cols), int)
    target = np.full((rows, cols), -1)  # row in which a weight of the chain stops
    sums, tags = np.zeros((rows, cols), int), np.full((rows, cols), -1)
    results = np.zeros((len(loads), length, cols), int)
    finished = cycle = 0
    row_ids = np.arange(rows)[:, None]
    while finished < results.size:
        a_in, first_in, tag_in = np.zeros(rows, int), np.zeros(rows, bool), -1
        for fold, load in enumerate(loads):
            for i in range(rows):
                t = cycle - load - rows - i
                if 0 <= t < length:
                    a_in[i] += a_folds[fold][t, i]
                    first_in[i] |= t == 0
                    if i == 0:
                        tag_in = fold * length + t
        a, first = shifted(a, a_in, 1), shifted(first, first_in, 1)
        if shadow:
            weights = np.where(first, chain, weights)
        tag_row = np.concatenate(([tag_in], tags[0, :-1]))
        tags = shifted(tags, tag_row, 0)
        sums = shifted(sums, 0, 0) + a * weights
        for j in range(cols):
            if tags[-1, j] >= 0:
                results[tags[-1, j] // length, tags[-1, j] % length, j] = sums[-1, j]
                finished += 1
        for fold, load in enumerate(loads):
            if not shadow and 0 <= cycle - load < rows:
                weights = shifted(weights, w_folds[fold][rows - 1 - (cycle - load)], 0)
        if shadow:
            moves = target > row_ids
            entering, stops = np.zeros(cols, int), np.full(cols, -1)
            for fold, load in enumerate(loads):
                for j in range(cols):
                    r = rows - 1 - (cycle - load - j)
                    if 0 <= r < rows:
                        entering[j], stops[j] = w_folds[fold][r, j], r
            coming = np.concatenate((stops[None] >= 0, moves[:-1]))
            chain = np.where(coming, shifted(chain, entering, 0), chain)
            target = np.where(coming, shifted(target, stops, 0), np.where(moves, -1, target))
        cycle += 1
        if cycle > 2000:
            return None, cycle
    return results, cycle


def padded(x, rows, cols):
    return np.pad(x, ((0, rows - x.shape[0]), (0, cols - x.shape[1])))


def run(dataflow, a, b, rows, cols, interval, shadow):
    """Multiply whole matrices fold by fold; return the product, the machine's cycles and the folds."""
    if dataflow is Dataflow.IS:  # the transposed product with B streaming
        product, cycles, count = run(Dataflow.WS, b.T, a.T, rows, cols, interval, shadow)
        return product.T, cycles, count
    (m, k), n = a.shape, b.shape[1]
    starts = [(i, j) for j in range(0, n, cols) for i in range(0, m if dataflow is Dataflow.OS else k, rows)]
    out = np.zeros((m, n), int)
    if dataflow is Dataflow.OS:
        a_folds = [padded(a[i : i + rows], rows, k) for i, _ in starts]
        b_folds = [padded(b[:, j : j + cols], k, cols) for _, j in starts]
        results, cycles = os_machine(a_folds, b_folds, interval, shadow)
    else:
        a_folds = [padded(a[:, i : i + rows], m, rows) for i, _ in starts]
        b_folds = [padded(b[i : i + rows, j : j + cols], rows, cols) for i, j in starts]
        results, cycles = ws_machine(a_folds, b_folds, interval, shadow)
    if results is None:
        return out, cycles, len(starts)
    for (i, j), result in zip(starts, results, strict=True):
        if dataflow is Dataflow.OS:
            block = out[i : i + rows, j : j + cols]
            block += result[: block.shape[0], : block.shape[1]]
        else:
            block = out[:, j : j + cols]
            block += result[:, : block.shape[1]]
    return out, cycles, len(starts)


def cases(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        m, n, k = (int(x) for x in rng.integers(1, 13, 3))
        rows, cols = (int(x) for x in rng.integers(1, 6, 2))
        yield m, n, k, rows, cols, rng.integers(1, 1000, (m, k)), rng.integers(1, 1000, (k, n))


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_closed_form_equals_the_machine(dataflow, shadow):
    for m, n, k, rows, cols, a, b in cases(12, seed=len(dataflow) + shadow):
        stream = {Dataflow.OS: k, Dataflow.WS: m, Dataflow.IS: n}[dataflow]
        interval = fold_timing(dataflow, stream, rows, cols, shadow_registers=shadow).interval
        product, cycles, folds = run(dataflow, a, b, rows, cols, interval, shadow)
        closed = array_cycles(dataflow, m, n, k, rows, cols, shadow_registers=shadow)
        assert np.array_equal(product, a @ b)
        assert (closed.total, closed.folds) == (cycles, folds)


@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_folds_cannot_overlap_more_than_the_closed_form_says(dataflow):
    for rows, cols, stream in [(3, 4, 7), (5, 2, 3), (4, 4, 4), (2, 5, 1)]:
        # Two folds at least, each with the same stream.
        sizes = {
            Dataflow.OS: (2 * rows, 2 * cols, stream),
            Dataflow.WS: (stream, 2 * cols, 2 * rows),
            Dataflow.IS: (2 * cols, stream, 2 * rows),
        }
        m, n, k = sizes[dataflow]
        rng = np.random.default_rng(stream)
        a, b = rng.integers(1, 1000, (m, k)), rng.integers(1, 1000, (k, n))
        right = [i for i in range(1, 14) if np.array_equal(run(dataflow, a, b, rows, cols, i, True)[0], a @ b)]
        assert right[0] == fold_timing(dataflow, stream, rows, cols, shadow_registers=True).interval
        assert right == list(range(right[0], 14))


def test_output_stationary_folds_without_shadow_registers_need_the_whole_fold():
    rng = np.random.default_rng(1)
    a, b = rng.integers(1, 1000, (6, 5)), rng.integers(1, 1000, (5, 8))
    right = [i for i in range(1, 16) if np.array_equal(run(Dataflow.OS, a, b, 3, 4, i, False)[0], a @ b)]
    assert right[0] == fold_timing(Dataflow.OS, 5, 3, 4).interval == 5 + 2 * 3 + 4 - 2


MUTANTS = {
    "skew without the -2": lambda folds, t, r, c: folds * (t + 2 * r + c),
    "no drain": lambda folds, t, r, c: folds * (t + r + c - 2),
    "rows and columns swapped": lambda folds, t, r, c: folds * (t + r + 2 * c - 2),
    "one fold lost": lambda folds, t, r, c: max(folds - 1, 1) * (t + 2 * r + c - 2),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_machine_refutes_wrong_closed_forms(mutant):
    wrong = 0
    for m, n, k, rows, cols, a, b in cases(8, seed=7):
        folds = ceil_div(m, rows) * ceil_div(n, cols)
        _, cycles, _ = run(Dataflow.OS, a, b, rows, cols, k + 2 * rows + cols - 2, shadow=False)
        wrong += MUTANTS[mutant](folds, k, rows, cols) != cycles
    assert wrong
