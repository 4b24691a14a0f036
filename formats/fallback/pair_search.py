"""Which of many scales gives pairs the least squared error; see `macloom.formats.kernels.pair_search`."""

from __future__ import annotations

from typing import Any

import numpy as np

from macloom.formats.fallback.lookup import cells
from macloom.formats.fallback.pair import entry_values, roles, whole_values
from macloom.formats.fallback.pair_joint import joint_choice

U32, F32 = np.uint32, np.float32
BYTE = U32(0xFF)
PART = 1 << 15  # elements after which a sum is compared, an even number that stays in the cache


def _margin(length: int) -> float:
    """Return a factor that exceeds what the order of a sum of `length` squares can change."""
    return 1 + (4 * length + 64) * 2.0**-53


def _even(rows: np.ndarray) -> np.ndarray:
    """Return rows of whole pairs; half a pair at the end gets a zero."""
    return rows if rows.shape[-1] % 2 == 0 else np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, 1)])


def _differences(part, scale, shift, table, values, boundary, whole, wide):
    """Return what rounding under a scale, or one for each row, changes: float64."""
    with np.errstate(all="ignore"):
        scaled = part / scale
        if whole is None:
            found = entry_values(part, scale, scaled, shift, table, values)
        else:
            found = whole_values(part, scale, scaled, boundary, whole, wide)
        return np.subtract(found, part, out=scaled).astype(np.float64)


def _screened(row, scale, bound, *arguments):
    """Return the squared error of a row under a scale, infinity if it exceeds `bound`."""
    error = 0.0
    for first in range(0, len(row), PART):
        difference = _differences(row[first : first + PART], scale, *arguments)
        error += float(np.dot(difference, difference))
        if error > bound:
            return np.inf
    return error if error <= bound else np.inf


def screen(start, stop, x, scales, hint, bound, shift, table, values, boundary, whole, wide, sums):
    """Write the error of every row under each of its scales (rows x scales), infinity beyond `bound`."""
    arguments, limit = (shift, table, values, boundary, whole, wide), bound * _margin(x.shape[1])
    count = max(1, PART // x.shape[1])
    for first in range(start, stop, count):
        last = min(first + count, stop)
        rows = _even(x[first:last])
        for c in range(scales.shape[1]):
            if len(rows) == 1:  # which may be long
                sums[first, c] = _screened(rows[0], scales[first, c], limit, *arguments)
                continue
            difference = _differences(rows, scales[first:last, c : c + 1], *arguments)
            errors = np.einsum("ij,ij->i", difference, difference)
            sums[first:last, c] = np.where(errors <= limit, errors, np.inf)


def screen_scales(start, stop, x, scales, bound, shift, table, values, boundary, whole, wide, sums):
    """Write the errors of the only row under the scales [start, stop), infinity beyond `bound`."""
    row, limit = _even(x[0]), bound * _margin(x.shape[1])
    for c in range(start, stop):
        sums[0, c] = _screened(row, scales[0, c], limit, shift, table, values, boundary, whole, wide)


def _in_order(rows, scales, shift, table, normals, outliers, joint):
    """Return the squared error of each row under its scale, pair after pair as the compiled loop adds them."""
    rows, scales = _even(rows), scales[:, None]
    errors = np.zeros((len(rows), 1))
    for first in range(0, rows.shape[1], PART):
        values = rows[:, first : first + PART]
        with np.errstate(all="ignore"):
            entry = np.take(table, cells((values / scales).view(U32), shift, None), mode="clip")
            if joint:
                _, pairs = joint_choice(values, entry, normals, outliers, scales)
            else:
                pairs = _pair_errors(values, entry, scales, normals, outliers)
            # numpy's sum adds pairwise; the running sum adds in order.
            errors = np.add.accumulate(np.concatenate((errors, pairs), axis=1), axis=1)[:, -1:]
    return errors[:, 0]


def row_error(x, row, scale, bound, shift, table, normals, outliers, joint):
    """Return the squared error of a row, pair after pair; infinity if it exceeds `bound`."""
    error = float(_in_order(x[row : row + 1], np.full(1, scale, F32), shift, table, normals, outliers, joint)[0])
    return np.inf if error > bound else error


def _pair_errors(values: np.ndarray, entry: np.ndarray, scale: Any, normals: Any, outliers: Any) -> np.ndarray:
    stays, goes = roles(values, entry >> U32(16) != 0)
    plain, wide = np.take(normals, entry & BYTE, mode="clip"), np.take(outliers, (entry >> U32(8)) & BYTE, mode="clip")
    found = np.where(goes, F32(0), np.where(stays, wide, plain) * scale)
    squares = (found - values).astype(np.float64) ** 2
    return squares[..., 0::2] + squares[..., 1::2]


def settle(start, stop, x, scales, sums, shift, table, normals, outliers, joint, found, errors):
    """Write the number of each row's best scale, the first of several, and its error; -1 where all are infinite."""
    found[start:stop], errors[start:stop] = -1, np.inf
    count = max(1, PART // x.shape[1])
    for first in range(start, stop, count):
        own = sums[first : min(first + count, stop)]
        open_scales = own <= own.min(axis=1, keepdims=True) * _margin(x.shape[1])
        while len(rows := np.flatnonzero(open_scales.any(axis=1))):
            scale = open_scales[rows].argmax(axis=1)
            open_scales[rows, scale] = False
            rows_of_x = first + rows
            error = _in_order(x[rows_of_x], scales[rows_of_x, scale], shift, table, normals, outliers, joint)
            better = error < errors[rows_of_x]
            found[rows_of_x[better]], errors[rows_of_x[better]] = scale[better], error[better]


def row_errors(start, stop, x, scales, shift, table, normals, outliers, joint, errors):
    """Write the squared error of each row under its scale."""
    count = max(1, PART // x.shape[1])
    for first in range(start, stop, count):
        part = slice(first, min(first + count, stop))
        errors[part] = _in_order(x[part], scales[part], shift, table, normals, outliers, joint)
