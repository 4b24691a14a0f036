"""Compiled chains of blocks whose groups are summed exactly, scaled, aligned and cut off, in lanes of float64.

Values are integers times a power of two, small enough that a group's sum is exact in float32. The sum times both
significands of the scales has at most 53 bits, as has the sum of all terms of a block.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false
from __future__ import annotations

import numpy as np

from macloom._numba import njit

TILE = 256


@njit(nogil=True)
def _power(e):
    """Return 2**e as float64, for -1022 <= e <= 1023."""
    return np.int64((np.int64(e) + np.int64(1023)) << np.int64(52)).view(np.float64)


@njit(nogil=True)
def _exponent(x):
    return ((np.float64(x).view(np.int64) >> np.int64(52)) & np.int64(2047)) - np.int64(1023)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _exact_group(row, panel, inner):
    """Set inner[n] to the sum of products of one group; every partial sum is exact."""
    for n in range(len(inner)):
        inner[n] = 0
    for k in range(0, len(row), 8):
        x0, x1, x2, x3, x4, x5, x6, x7 = (
            row[k], row[k + 1], row[k + 2], row[k + 3], row[k + 4], row[k + 5], row[k + 6], row[k + 7]
        )  # fmt: skip
        p0, p1, p2, p3 = panel[k], panel[k + 1], panel[k + 2], panel[k + 3]
        p4, p5, p6, p7 = panel[k + 4], panel[k + 5], panel[k + 6], panel[k + 7]
        for n in range(len(inner)):
            t = x0 * p0[n] + x1 * p1[n] + x2 * p2[n] + x3 * p3[n]
            inner[n] += t + x4 * p4[n] + x5 * p5[n] + x6 * p6[n] + x7 * p7[n]


@njit(cache=True, nogil=True)
def _raise_largest(mask, exponent, masks, exponents, largest):
    """Let a group with products other than zero raise the largest exponent."""
    for n in range(len(largest)):
        e = np.int32(exponent + exponents[n])
        largest[n] = max(largest[n], e) if (masks[n] & mask) != 0 else largest[n]


@njit(cache=True, nogil=True)
def _add_group(inner, significand, shift, significands, exponents, largest, total):
    """Add a group's scaled sum, cut off at the last bit kept, in units of that bit."""
    for n in range(len(total)):
        value = np.float64(inner[n]) * (significand * significands[n])
        total[n] += np.trunc(value * _power(np.int32(shift) + np.int32(exponents[n]) - np.int32(largest[n])))


@njit(cache=True, nogil=True)
def chain_of_groups(start, stop, a, mask_a, s_a, e_a, b, mask_b, s_b, e_b, group, unit, fraction, lowest, out):
    """Add to `out` the chains of blocks of float32 registers rounded toward zero.

    Args:
        a, b: float32 (M, K) and (K, N), integers: values in units whose product is 2**unit.
        mask_a, mask_b: int32 (M, groups) and (groups, N), a bit for each element that is not zero; no bits where the
            scale is zero.
        s_a, e_a: float64 and int32 (M, groups), significands of the scales, below 2, and exponents.
        s_b, e_b: the same of B, (groups, N).
        group: shape of a block: elements of a group, groups of a block.
        out: float32 (M, N), the sums so far.
    """
    size, groups = group
    block, width = size * groups, out.shape[1]
    sums, largest, total = np.empty((groups, TILE), np.float32), np.empty(TILE, np.int32), np.empty(TILE)
    for left in range(0, width, TILE):
        right = min(left + TILE, width)
        high, t = largest[: right - left], total[: right - left]
        for m in range(start, stop):
            c = out[m, left:right]
            for k in range(0, a.shape[1], block):
                first = k // size
                for n in range(len(c)):
                    e = max(np.int32(_exponent(np.float64(c[n]))), np.int32(-126)) if c[n] != 0 else np.int32(lowest)
                    high[n] = max(e, np.int32(lowest))
                for g in range(groups):
                    at = k + g * size
                    _exact_group(a[m, at : at + size], b[at : at + size, left:right], sums[g, : right - left])
                    _raise_largest(
                        mask_a[m, first + g], e_a[m, first + g],
                        mask_b[first + g, left:right], e_b[first + g, left:right], high,
                    )  # fmt: skip
                for n in range(len(c)):
                    t[n] = np.trunc(np.float64(c[n]) * _power(np.int32(fraction) - high[n]))
                for g in range(groups):
                    _add_group(
                        sums[g, : right - left], s_a[m, first + g], np.int32(fraction + unit + e_a[m, first + g]),
                        s_b[first + g, left:right], e_b[first + g, left:right], high, t,
                    )  # fmt: skip
                for n in range(len(c)):
                    y = t[n] * _power(high[n] - np.int32(fraction))
                    step = max(_exponent(y), np.int64(-126)) - np.int64(23)
                    y = np.trunc(y * _power(-step)) * _power(step) + 0.0
                    c[n] = np.float32(y) if abs(c[n]) < np.float32(np.inf) else c[n]
