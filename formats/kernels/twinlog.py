"""Compiled loops of twin-log tensors: each sign of each row has ascending decision points of its own."""

# pyright: reportIndexIssue=false, reportArgumentType=false
from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def twin_codes(start, stop, x, points, first_negative, zero, out):
    """Write zero + q for positive and zero + first_negative + q for negative elements of each row.

    q counts the points[row, negative] that the magnitude reaches. Zeros take code 0.
    """
    top = points.shape[2]
    for r in range(start, stop):
        row, result = x[r], out[r]
        for i in range(len(row)):
            value = float(row[i])
            negative = int(value < 0)
            q = 0
            while q < top and abs(value) >= points[r, negative, q]:
                q += 1
            result[i] = 0 if value == 0 else zero + negative * first_negative + q


@njit(cache=True, nogil=True)
def twin_errors(start, stop, x, points, levels, out):
    """Write to out[row, choice, negative] the squared error of each sign under each choice of parameters.

    points and levels are (choices, rows, 2, ...): decision points and the magnitudes between them.
    """
    top = points.shape[3]
    for r in range(start, stop):
        row = x[r]
        for c in range(points.shape[0]):
            for i in range(len(row)):
                value = float(row[i])
                if value != 0:
                    negative = int(value < 0)
                    q = 0
                    while q < top and abs(value) >= points[c, r, negative, q]:
                        q += 1
                    out[r, c, negative] += (abs(value) - levels[c, r, negative, q]) ** 2
