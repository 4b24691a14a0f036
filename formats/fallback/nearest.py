"""The nearest entry of a codebook of vectors; see `macloom.formats.kernels.nearest`."""

from __future__ import annotations

import numpy as np

AT_ONCE = 1 << 18  # distances


def _squares(vectors: np.ndarray, lanes: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Return the squared distances (vectors x entries), added in order of the components that count."""
    total = np.zeros((len(vectors), len(entries)))
    for j in range(vectors.shape[1]):
        difference = vectors[:, j, None] - entries[:, j]
        total += np.where((lanes > j)[:, None], difference * difference, 0.0)
    return total


def nearest(start, stop, vectors, lanes, codebook, index, distance):
    """Write the nearest codebook entry of each vector, the first of equals, and its squared distance."""
    step = max(1, AT_ONCE // len(codebook))
    for first in range(start, stop, step):
        part = slice(first, min(first + step, stop))
        found = _squares(vectors[part], lanes[part], codebook)
        index[part] = found.argmin(axis=1)
        distance[part] = found.min(axis=1)


def shrink(vectors, lanes, entry, distance):
    """Lower each vector's distance to that from `entry` where this is smaller."""
    np.minimum(distance, _squares(vectors, lanes, entry[None])[:, 0], out=distance)


def accumulate(vectors, lanes, weights, index, sums, masses):
    """Add every vector's components, weighted, to the sums and masses of its entry, in the vectors' order."""
    for j in range(vectors.shape[1]):
        counts = lanes > j
        np.add.at(sums[:, j], index[counts], weights[counts] * vectors[counts, j])
        np.add.at(masses[:, j], index[counts], weights[counts])
