"""Exact one-dimensional k-means; see `macloom.formats.kernels.cluster`."""

from __future__ import annotations

import numpy as np


def _costs(firsts: np.ndarray, last: int, weight: np.ndarray, linear: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Return the weighted squared errors of sorted elements first..last-1 around their means."""
    total = weight[last] - weight[firsts]
    moment = linear[last] - linear[firsts]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (square[last] - square[firsts]) - moment * (moment / total)
    return np.where(total <= 0, 0.0, np.where(error > 0, error, 0.0))


def _layer(before, starts, weight, linear, square):
    """Return after[j] = min over i of before[i] + cost(i, j), and the smallest i that attains it in `starts`."""
    after = np.empty(len(before))
    stack = [(0, len(after) - 1, 0, len(after) - 1)]
    while stack:
        low, high, least, most = stack.pop()
        middle = (low + high) // 2
        tried = np.arange(least, min(most, middle) + 1)
        errors = before[tried] + _costs(tried, middle, weight, linear, square)
        best, where = np.inf, least
        if len(tried) and errors.min() < np.inf:
            where = int(tried[np.argmin(errors)])
            best = float(errors.min())
        after[middle], starts[middle] = best, where
        if low < middle:
            stack.append((low, middle - 1, least, where))
        if middle < high:
            stack.append((middle + 1, high, where, most))
    return after


def optimal_rows(start, stop, values, weights, out):
    """Write the optimal centroids of each row of sorted values to out (rows x count)."""
    count = out.shape[1]
    for r in range(start, stop):
        centre = np.float64(values[r, values.shape[1] // 2])
        mass = weights[r].astype(np.float64)
        kept = mass > 0
        mass, x = mass[kept], values[r].astype(np.float64)[kept] - centre
        sums = (np.concatenate(([0.0], np.add.accumulate(part))) for part in (mass, mass * x, mass * x * x))
        weight, linear, square = sums
        used = min(count, len(mass))
        before = np.concatenate(([0.0], np.full(len(mass), np.inf)))
        starts = np.zeros((count, len(before)), np.int64)
        for c in range(used):
            before = _layer(before, starts[c], weight, linear, square)
        found = np.full(count, np.inf)
        last = len(mass)
        for c in range(used - 1, -1, -1):
            first = int(starts[c, last])
            span = weight[last] - weight[first]
            found[c] = centre + (linear[last] - linear[first]) / span if span > 0 else np.inf
            last = first
        # An empty cluster repeats its neighbour.
        out[r] = found
        for c in range(used, count):
            out[r, c] = out[r, used - 1]
        for c in range(count - 2, -1, -1):
            out[r, c] = min(out[r, c], out[r, c + 1])
        for c in range(1, count):
            if out[r, c] == np.inf:
                out[r, c] = out[r, c - 1]
