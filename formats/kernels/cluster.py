"""Compiled dynamic programming for exact one-dimensional k-means."""

# pyright: reportIndexIssue=false, reportArgumentType=false
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _cost(first, last, weight, linear, square):
    """Return the weighted squared error of sorted elements first..last-1 around their mean."""
    total = weight[last] - weight[first]
    if total <= 0:
        return 0.0
    moment = linear[last] - linear[first]
    return max(0.0, (square[last] - square[first]) - moment * (moment / total))


@njit(cache=True, nogil=True)
def _layer(before, after, starts, weight, linear, square, stack):
    """Add one cluster: after[j] = min over i of before[i] + cost(i, j), with the smallest i that attains it.

    The best i grows with j, so that halving the range of j halves the range of i.
    """
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = 0, len(after) - 1, 0, len(after) - 1
    depth = 1
    while depth:
        depth -= 1
        low, high, least, most = stack[depth]
        middle = (low + high) // 2
        best, where = np.inf, least
        for i in range(least, min(most, middle) + 1):
            error = before[i] + _cost(i, middle, weight, linear, square)
            if error < best:
                best, where = error, i
        after[middle], starts[middle] = best, where
        if low < middle:
            stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = low, middle - 1, least, where
            depth += 1
        if middle < high:
            stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = middle + 1, high, where, most
            depth += 1


@njit(cache=True, nogil=True)
def optimal_rows(start, stop, values, weights, out):
    """Write the optimal centroids of each row of sorted values to out (rows x count)."""
    length, count = values.shape[1], out.shape[1]
    before, after = np.empty(length + 1), np.empty(length + 1)
    weight, linear, square = np.zeros(length + 1), np.zeros(length + 1), np.zeros(length + 1)
    starts = np.zeros((count, length + 1), np.int32)
    stack = np.empty((64, 4), np.int64)
    for r in range(start, stop):
        centre = np.float64(values[r, length // 2])
        n = 0
        for k in range(length):
            w = np.float64(weights[r, k])
            if w > 0:
                x = np.float64(values[r, k]) - centre
                weight[n + 1] = weight[n] + w
                linear[n + 1] = linear[n] + w * x
                square[n + 1] = square[n] + w * x * x
                n += 1
        before[0] = 0.0
        for k in range(1, n + 1):
            before[k] = np.inf
        used = min(count, n)
        for c in range(used):
            _layer(before[: n + 1], after[: n + 1], starts[c, : n + 1], weight, linear, square, stack)
            for k in range(n + 1):
                before[k] = after[k]
        last = n
        for c in range(used - 1, -1, -1):
            first = starts[c, last]
            span = weight[last] - weight[first]
            out[r, c] = centre + (linear[last] - linear[first]) / span if span > 0 else np.inf
            last = first
        for c in range(used, count):
            out[r, c] = out[r, used - 1]
        for c in range(count - 2, -1, -1):  # an empty cluster repeats its neighbour
            out[r, c] = min(out[r, c], out[r, c + 1])
        for c in range(1, count):
            if out[r, c] == np.inf:
                out[r, c] = out[r, c - 1]
