"""Which of many scales gives pairs the least squared error; see `macloom.formats.kernels.pair_search`."""

from __future__ import annotations

from typing import Any

import numpy as np

from macloom.formats.fallback.lookup import cells
from macloom.formats.fallback.pair import entry_values, roles, table_roles, whole_values
from macloom.formats.fallback.pair_joint import joint_choice

U32, F32 = np.uint32, np.float32
BYTE = U32(0xFF)


def _margin(length: int) -> float:
    """Return a factor that exceeds what the order of a sum of `length` squares can change."""
    return 1 + (4 * length + 64) * 2.0**-53


def _even(row: np.ndarray) -> np.ndarray:
    return row if len(row) % 2 == 0 else np.append(row, F32(0))


def _screened(row, scale, bound, shift, table, values, boundary, whole, wide):
    """Return the squared error of a row under a scale, infinity if it exceeds `bound`."""
    with np.errstate(all="ignore"):
        scaled = row / scale
        if whole is None:
            found = entry_values(*table_roles(row, scaled, shift, table), scale, values)
        else:
            found = whole_values(row, scale, scaled, boundary, whole, wide)
        difference = (found - row).astype(np.float64)
    error = float(np.dot(difference, difference))
    return error if error <= bound else np.inf


def screen(start, stop, x, scales, hint, bound, shift, table, values, boundary, whole, wide, sums):
    """Write the error of every row under each of its scales (rows x scales), infinity where another is better."""
    common = (shift, table, values, boundary, whole, wide)
    for r in range(start, stop):
        row, best = _even(x[r]), bound
        for c in range(scales.shape[1]):
            sums[r, c] = _screened(row, scales[r, c], best * _margin(x.shape[1]), *common)
            best = min(best, sums[r, c])


def screen_scales(start, stop, x, scales, bound, shift, table, values, boundary, whole, wide, sums):
    """Write the errors of the only row under the scales [start, stop), infinity beyond `bound`."""
    row, limit = _even(x[0]), bound * _margin(x.shape[1])
    for c in range(start, stop):
        sums[0, c] = _screened(row, scales[0, c], limit, shift, table, values, boundary, whole, wide)


def row_error(x, row, scale, bound, shift, table, normals, outliers, joint):
    """Return the squared error of a row, pair after pair; infinity if it exceeds `bound`."""
    values = _even(x[row])
    with np.errstate(all="ignore"):
        entry = np.take(table, cells((values / scale).view(U32), shift, None), mode="clip")
        if joint:
            _, pairs = joint_choice(values, entry, normals, outliers, scale)
        else:
            pairs = _pair_errors(values, entry, scale, normals, outliers)
    # numpy's sum adds pairwise; the running sum adds in order, as the compiled loop does.
    error = float(np.add.accumulate(pairs)[-1])
    return np.inf if error > bound else error


def _pair_errors(values: np.ndarray, entry: np.ndarray, scale: Any, normals: Any, outliers: Any) -> np.ndarray:
    stays, goes = roles(values, entry >> U32(16) != 0)
    plain, wide = np.take(normals, entry & BYTE, mode="clip"), np.take(outliers, (entry >> U32(8)) & BYTE, mode="clip")
    found = np.where(goes, F32(0), np.where(stays, wide, plain) * scale)
    squares = (found - values).astype(np.float64) ** 2
    return squares[0::2] + squares[1::2]


def settle(start, stop, x, scales, sums, shift, table, normals, outliers, joint, found, errors):
    """Write the number of each row's best scale, the first of several, and its error; -1 where all are infinite."""
    for r in range(start, stop):
        limit = sums[r].min() * _margin(x.shape[1])
        found[r], errors[r] = -1, np.inf
        for c in np.flatnonzero(sums[r] <= limit).tolist():
            error = row_error(x, r, scales[r, c], errors[r], shift, table, normals, outliers, joint)
            if error < errors[r]:
                found[r], errors[r] = c, error


def row_errors(start, stop, x, scales, shift, table, normals, outliers, joint, errors):
    """Write the squared error of each row under its scale."""
    for r in range(start, stop):
        errors[r] = row_error(x, r, scales[r], np.inf, shift, table, normals, outliers, joint)
