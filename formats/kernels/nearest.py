"""Compiled loops over vectors: the nearest entry of a codebook, and the means of Lloyd's algorithm."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def nearest(start, stop, vectors, lanes, codebook, index, distance):
    """Write the nearest codebook entry of each vector, the first of equals, and its squared distance.

    Only the first lanes[i] components of a vector count.
    """
    for i in range(start, stop):
        best, chosen = np.inf, 0
        for c in range(codebook.shape[0]):
            total = 0.0
            for j in range(lanes[i]):
                difference = vectors[i, j] - codebook[c, j]
                total += difference * difference
            if total < best:
                best, chosen = total, c
        index[i], distance[i] = chosen, best


@njit(cache=True, nogil=True)
def shrink(vectors, lanes, entry, distance):
    """Lower each vector's distance to that from `entry` where this is smaller."""
    for i in range(len(vectors)):
        total = 0.0
        for j in range(lanes[i]):
            difference = vectors[i, j] - entry[j]
            total += difference * difference
        distance[i] = min(distance[i], total)


@njit(cache=True, nogil=True)
def accumulate(vectors, lanes, weights, index, sums, masses):
    """Add every vector's components, weighted, to the sums and masses of its entry."""
    for i in range(len(vectors)):
        c = index[i]
        for j in range(lanes[i]):
            sums[c, j] += weights[i] * vectors[i, j]
            masses[c, j] += weights[i]
