"""Compiled products of a few exact outliers with a dense matrix."""

# pyright: reportIndexIssue=false, reportArgumentType=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.threads import run_rows


@njit(cache=True, nogil=True)
def _rows(start, stop, pointers, columns, values, other, out):
    rows = out.shape[1]
    for index in range(start, stop):
        batch, m = index // rows, index % rows
        right, total = other[batch], out[batch, m]
        for j in range(pointers[index], pointers[index + 1]):
            x, row = values[j], right[columns[j]]
            for n in range(len(total)):
                total[n] += x * row[n]


def sparse_float32(pointers: np.ndarray, columns: np.ndarray, values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return sparse rows times a dense matrix, added in float32 one product after the other.

    Args:
        pointers, columns, values: compressed rows, all batches in a row.
        other: float32 (batches, N, K).

    Returns:
        float32 (batches, rows, N).
    """
    right = np.ascontiguousarray(np.swapaxes(other, -1, -2))
    out = np.zeros((len(right), (len(pointers) - 1) // len(right), right.shape[2]), np.float32)
    run_rows(_rows, len(pointers) - 1, len(values) * right.shape[2], pointers, columns, values, right, out)
    return out
