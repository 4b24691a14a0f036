"""Twin-log tensors; see `macloom.formats.kernels.twinlog`."""

from __future__ import annotations

import numpy as np


def _levels_below(magnitudes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return how many of the ascending points each magnitude reaches."""
    return np.searchsorted(points, magnitudes, side="right")


def twin_codes(start, stop, x, points, first_negative, zero, out):
    """Write zero + q for positive and zero + first_negative + q for negative elements; zeros take code 0."""
    for r in range(start, stop):
        row = x[r].astype(np.float64)
        magnitudes, negative = np.abs(row), row < 0
        q = np.where(negative, _levels_below(magnitudes, points[r, 1]), _levels_below(magnitudes, points[r, 0]))
        out[r] = np.where(row == 0, 0, zero + negative * first_negative + q)


def twin_errors(start, stop, x, points, levels, out):
    """Write to out[row, choice, negative] the squared error of each sign under each choice of parameters."""
    for r in range(start, stop):
        row = x[r].astype(np.float64)
        for negative in (0, 1):
            magnitudes = np.abs(row[row < 0 if negative else row > 0])
            if not len(magnitudes):
                continue
            for c in range(points.shape[0]):
                rest = magnitudes - levels[c, r, negative][_levels_below(magnitudes, points[c, r, negative])]
                out[r, c, negative] = np.add.accumulate(np.concatenate(([out[r, c, negative]], rest * rest)))[-1]
