"""The compiled loop of scale searches: how far quantized rows are from the rows themselves."""

# pyright: reportIndexIssue=false, reportArgumentType=false
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def squared_errors(start, stop, x, quantized, weights, out):
    """Write the sum of ((quantized - x) * weight)**2 of each row, in float64 and in ascending order."""
    for r in range(start, stop):
        row, other = x[r], quantized[r]
        total = 0.0
        for i in range(len(row)):
            difference = (np.float64(other[i]) - np.float64(row[i])) * weights[i]
            total += difference * difference
        out[r] = total
