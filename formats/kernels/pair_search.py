"""Compiled loops that find which of many scales gives outlier-victim pairs the least squared error.

The error of a row is a sum over its pairs in their order, in float64, of float32 differences. `screen`
sums in another order, sixteen elements at a time, and gives up a scale as soon as its sum exceeds that
of another; `settle` sums in order those scales that rounding errors may have put behind. So the scale that
is found is the first of least error, as if every sum had been taken in order.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.lane_access import gather, take
from macloom.formats.kernels.lanes import LANES, chosen, pattern, spread, squares_added, summed
from macloom.formats.kernels.lookup import cells
from macloom.formats.kernels.pair import BYTE, roles, whole_pair
from macloom.formats.kernels.pair_joint import entry_of, joint_choice
from macloom.formats.kernels.primitives import MAGNITUDE, bits_of, peek, shifted_right, smaller

U32, F32 = np.uint32, np.float32
OUTLIER = U32(1 << 16)
PART = 4096  # elements after which a sum is compared


@njit(forceinline=True)
def _margin(length):
    """Return a factor that exceeds what the order of a sum of `length` squares can change."""
    return 1 + (4 * length + 64) * 2.0**-53


@njit(nogil=True, error_model="numpy", cache=True)
def _screened(x, row, scale, bound, shift, table, values, boundary, whole, wide):
    """Return the squared error of a row under a scale, infinity if it exceeds `bound`."""
    length = x.shape[1]
    shift = U32(shift)
    below = U32((U32(1) << shift) - U32(1))
    error = 0.0
    for first in range(row * length, (row + 1) * length, PART):
        last = smaller(first + PART, (row + 1) * length)
        total = spread(0.0)
        for i in range(first, last, LANES):
            value = take(x, i, last)
            if whole is None:
                entry = gather(table, cells(pattern(value / scale), shift, below, None))
                stays, goes = roles(value, entry >> U32(16))
                code = chosen(stays, ((entry >> U32(8)) & BYTE) | U32(256), entry & BYTE)
                result = chosen(goes, F32(0), gather(values, code) * scale)
            else:
                result = whole_pair(value, scale, boundary, whole[0], whole[1], U32(wide[0]), wide[1], wide[2])
            total = squares_added(total, result - value)
        error += summed(total)
        if error > bound:
            return np.inf
    return error


@njit(cache=True, nogil=True, error_model="numpy")
def screen(start, stop, x, scales, hint, bound, shift, table, values, boundary, whole, wide, sums):
    """Write the error of every row under each of its scales (rows x scales), infinity where another is better.

    `hint` is the number of a scale that is likely to be a good one, and `bound` an error that one reaches.
    """
    length, count = x.shape[1], scales.shape[1]
    common = (shift, table, values, boundary, whole, wide)
    for r in range(start, stop):
        best = bound
        for t in range(count):
            c = hint if t == 0 else (t - 1 if t <= hint else t)
            error = _screened(x, r, scales[r, c], best * _margin(length), *common)
            sums[r, c] = error
            best = smaller(best, error)
        for c in range(count):
            if sums[r, c] == best:
                hint = c


@njit(cache=True, nogil=True, error_model="numpy")
def screen_scales(start, stop, x, scales, bound, shift, table, values, boundary, whole, wide, sums):
    """Write the errors of the only row under the scales [start, stop), infinity beyond `bound`."""
    limit = bound * _margin(x.shape[1])
    for c in range(start, stop):
        sums[0, c] = _screened(x, 0, scales[0, c], limit, shift, table, values, boundary, whole, wide)


@njit(forceinline=True)
def _kept(left, right, a, b):
    """Say which outlier of a pair stays: (left, right), from two flags and the elements."""
    left_larger = U32(bits_of(a) & MAGNITUDE) >= U32(bits_of(b) & MAGNITUDE)
    return left & ((not right) | left_larger), right & ((not left) | (not left_larger))


@njit(forceinline=True)
def _pair_error(first, second, scale, shift, below, table, normals, outliers, joint):
    left = entry_of(table, bits_of(first / scale), shift, below)
    right = entry_of(table, bits_of(second / scale), shift, below)
    if joint:
        return joint_choice(first, second, left, right, normals, outliers, scale)[1]
    keep_left, keep_right = _kept(left >= OUTLIER, right >= OUTLIER, first, second)
    a = outliers[shifted_right(left, U32(8)) & BYTE] if keep_left else normals[left & BYTE]
    b = outliers[shifted_right(right, U32(8)) & BYTE] if keep_right else normals[right & BYTE]
    a, b = F32(0) if keep_right else F32(a * scale), F32(0) if keep_left else F32(b * scale)
    return np.float64(a - first) ** 2 + np.float64(b - second) ** 2


@njit(cache=True, nogil=True, error_model="numpy")
def row_error(x, row, scale, bound, shift, table, normals, outliers, joint):
    """Return the squared error of a row, pair after pair; infinity if it exceeds `bound`."""
    length = x.shape[1]
    shift = U32(shift)
    below = U32((U32(1) << shift) - U32(1))
    error = 0.0
    for part in range(0, length, PART):
        for i in range(part, smaller(part + PART, length), 2):
            first = peek(x, row * length + i)
            second = peek(x, row * length + i + 1) if i + 1 < length else F32(0)
            error += _pair_error(first, second, scale, shift, below, table, normals, outliers, joint)
        if error > bound:
            return np.inf
    return error


@njit(cache=True, nogil=True, error_model="numpy")
def settle(start, stop, x, scales, sums, shift, table, normals, outliers, joint, found, errors):
    """Write the number of each row's best scale, the first of several, and its error; -1 where all are infinite.

    Scales are considered whose `sums` come close to the least.
    """
    length, count = x.shape[1], scales.shape[1]
    for r in range(start, stop):
        least = np.inf
        for c in range(count):
            least = smaller(least, sums[r, c])
        found[r], errors[r] = -1, np.inf
        for c in range(count):
            if sums[r, c] <= least * _margin(length):
                error = row_error(x, r, scales[r, c], errors[r], shift, table, normals, outliers, joint)
                if error < errors[r]:
                    found[r], errors[r] = c, error


@njit(cache=True, nogil=True, error_model="numpy")
def row_errors(start, stop, x, scales, shift, table, normals, outliers, joint, errors):
    """Write the squared error of each row under its scale."""
    for r in range(start, stop):
        errors[r] = row_error(x, r, scales[r], np.inf, shift, table, normals, outliers, joint)
