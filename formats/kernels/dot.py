"""Dot products whose order no linear algebra library promises."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.accumulate import wide_vectors
from macloom.formats.threads import run_rows


@njit(cache=True, nogil=True)
def _sequential(start, stop, a, b, out):
    wide_vectors()
    rows = a.shape[1]
    for index in range(start, stop):
        batch, m = index // rows, index % rows
        left, right, total = a[batch, m], b[batch], out[batch, m]
        for k in range(0, len(left) - 3, 4):
            x0, x1, x2, x3 = left[k], left[k + 1], left[k + 2], left[k + 3]
            r0, r1, r2, r3 = right[k], right[k + 1], right[k + 2], right[k + 3]
            for n in range(len(total)):
                total[n] = (((total[n] + x0 * r0[n]) + x1 * r1[n]) + x2 * r2[n]) + x3 * r3[n]
        for k in range(len(left) - len(left) % 4, len(left)):
            x, row = left[k], right[k]
            for n in range(len(total)):
                total[n] = total[n] + x * row[n]


def sequential_float32(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return products (..., M, N) added in float32 one after the other, in ascending order of K.

    Args:
        left, right: float32 (..., M, K) and (..., N, K). Each product is rounded to float32 first.
    """
    a = np.ascontiguousarray(left).reshape(-1, *left.shape[-2:])
    b = np.ascontiguousarray(np.swapaxes(right, -1, -2)).reshape(-1, right.shape[-1], right.shape[-2])
    out = np.zeros((a.shape[0], a.shape[1], b.shape[2]), np.float32)
    run_rows(_sequential, a.shape[0] * a.shape[1], out.size * a.shape[2] // 8, a, b, out)
    return out.reshape(*left.shape[:-1], right.shape[-2])
