"""Scalar codebooks: exact weighted k-means in one dimension, and GOBO's iteration to the least absolute error."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from macloom.formats.threads import run_rows

BLOCK_ELEMENTS = 1 << 20  # elements that are sorted at a time
REMEMBERED = 4

_remembered: dict[tuple[Any, ...], np.ndarray] = {}


def cluster_rows(values: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the centroids, ascending, that minimise each row's weighted squared error.

    The optimum is found by dynamic programming over the sorted values (Wang and Song, Ckmeans.1d.dp, R
    Journal 2011), so there is no seed. Elements of weight zero do not count; a row whose weights are all
    zero counts every element once. Where a row has fewer elements than centroids, the last one repeats.
    The last few results are remembered, since searches fit the same tensor again and again.

    Args:
        values: float32, rows x length.
        weights: non-negative, rows x length; None means one each.

    Returns:
        float64, rows x count.
    """
    key = (values.shape, count, _digest(values), None if weights is None else _digest(weights))
    found = _remembered.get(key)
    if found is None:
        found = _cluster(values, count, weights)
        found.flags.writeable = False
        if len(_remembered) >= REMEMBERED:
            _remembered.pop(next(iter(_remembered)), None)
        _remembered[key] = found
    return found.copy()


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array, np.float32).data, digest_size=16).digest()


def _cluster(values: np.ndarray, count: int, weights: np.ndarray | None) -> np.ndarray:
    from macloom.formats.kernels.cluster import optimal_rows

    out = np.empty((len(values), count))
    step = max(1, BLOCK_ELEMENTS // values.shape[1])
    for first in range(0, len(values), step):
        part = slice(first, first + step)
        order = np.argsort(values[part], axis=1, kind="stable")
        mass = np.ones(order.shape, np.float32)
        if weights is not None:
            mass = np.take_along_axis(np.asarray(weights[part], np.float32), order, axis=1)
            mass[~mass.any(axis=1)] = 1
        ordered = np.take_along_axis(values[part], order, axis=1)
        run_rows(optimal_rows, len(order), order.size, ordered, mass, out[part])
    return out


def nearest_index(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the index of the nearest entry, the lower one at a tie, as uint8.

    Args:
        values: float32, rows x length.
        table: ascending, rows x entries or 1 x entries.
    """
    wide = table.astype(np.float64)
    middles = (wide[:, :-1] + wide[:, 1:]) / 2
    codes = np.zeros(values.shape, np.uint8)
    for i in range(middles.shape[1]):
        codes += values > middles[:, i : i + 1]
    repeated = np.diff(wide, axis=1) == 0
    if not repeated.any():
        return codes
    first = np.zeros(wide.shape, np.uint8)  # the first of equal entries
    for i in range(1, wide.shape[1]):
        first[:, i] = np.where(repeated[:, i - 1], first[:, i - 1], i)
    return first[0][codes] if len(first) == 1 else np.take_along_axis(first, codes.astype(np.intp), axis=1)


def least_absolute_error(values: np.ndarray, count: int, most: int = 1000) -> tuple[np.ndarray, int]:
    """Return GOBO's centroids (ascending float64) and the number of iterations.

    They start as the means of equally populated bins of the sorted values; then each becomes the mean of
    the values nearest to it, as long as the sum of absolute errors falls.
    """
    ordered = np.sort(values.astype(np.float64))
    sums = np.concatenate(([0.0], np.cumsum(ordered)))

    def means(edges: np.ndarray, fallback: np.ndarray) -> np.ndarray:
        sizes = np.diff(edges)
        return np.where(sizes > 0, np.diff(sums[edges]) / np.maximum(sizes, 1), fallback)

    def absolute_error(edges: np.ndarray, centroids: np.ndarray) -> float:
        middle = np.clip(np.searchsorted(ordered, centroids), edges[:-1], edges[1:])
        below = centroids * (middle - edges[:-1]) - (sums[middle] - sums[edges[:-1]])
        above = (sums[edges[1:]] - sums[middle]) - centroids * (edges[1:] - middle)
        return float((below + above).sum())

    def assign(centroids: np.ndarray) -> np.ndarray:
        inner = np.searchsorted(ordered, (centroids[:-1] + centroids[1:]) / 2, side="right")
        return np.concatenate(([0], inner, [len(ordered)]))

    edges = np.arange(count + 1) * len(ordered) // count
    best = np.maximum.accumulate(means(edges, ordered[np.minimum(edges[:-1], len(ordered) - 1)]))
    best_error = absolute_error(assign(best), best)
    for iteration in range(1, most + 1):
        candidate = means(assign(best), best)
        error = absolute_error(assign(candidate), candidate)
        if not error < best_error:
            return best, iteration
        best, best_error = candidate, error
    return best, most
