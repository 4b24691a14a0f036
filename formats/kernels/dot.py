"""Dot products whose order or width no linear algebra library promises."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.accumulate import wide_vectors
from macloom.formats.tensor import Operand
from macloom.formats.threads import run_rows

# Outputs per tile: one scale block of B's columns stays in the first-level cache.
TILE_BYTES = 1024
TILE_ROWS = 64


@njit(cache=True, nogil=True, fastmath={"contract"})
def _exact_tile(left, right, inner):
    """Set inner[n] to the sum over k of left[k] * right[k, n]; every partial sum is exact in its type."""
    wide_vectors()
    for n in range(len(inner)):
        inner[n] = 0
    whole = len(left) - len(left) % 4
    for k in range(0, whole, 4):
        x0, x1, x2, x3 = left[k], left[k + 1], left[k + 2], left[k + 3]
        r0, r1, r2, r3 = right[k], right[k + 1], right[k + 2], right[k + 3]
        for n in range(len(inner)):
            inner[n] += x0 * r0[n] + x1 * r1[n] + x2 * r2[n] + x3 * r3[n]
    for k in range(whole, len(left)):
        x, row = left[k], right[k]
        for n in range(len(inner)):
            inner[n] += x * row[n]


@njit(cache=True, nogil=True)
def _add_scaled(inner, unit, scale, scales, total):
    """Round the sums to float32, scale them by A's and then B's scale, and add them in float32."""
    for n in range(len(inner)):
        total[n] += ((np.float32(inner[n]) * unit) * scale) * scales[n]


@njit(cache=True, nogil=True)
def _segmented(start, stop, a, b, a_scales, a_block, b_scales, b_block, segment, unit, out):
    wide_vectors()
    rows, depth, width = a.shape[1], a.shape[2], out.shape[2]
    tile = TILE_BYTES // a.itemsize
    inner = np.empty(tile, a.dtype)
    panel = np.empty((segment, tile), a.dtype)
    index = start
    while index < stop:
        batch, first = index // rows, index % rows
        last = min(first + TILE_ROWS, rows, first + stop - index)
        for left in range(0, width, tile):
            right = min(left + tile, width)
            for k in range(0, depth, segment):
                end = min(k + segment, depth)
                for i in range(k, end):
                    panel[i - k, : right - left] = b[batch, i, left:right]
                scales = b_scales[batch, k // b_block][left:right]
                for m in range(first, last):
                    sums = inner[: right - left]
                    _exact_tile(a[batch, m][k:end], panel, sums)
                    _add_scaled(sums, unit, a_scales[batch, m, k // a_block], scales, out[batch, m][left:right])
        index += last - first


def segmented_float32(a: Operand, b: Operand, segment: int, unit: float, double: bool) -> np.ndarray:
    """Return sum over segments of float32(exact inner sum) * scale_a * scale_b, in ascending order.

    The caller has proven that every inner sum is exact in float32 (or float64 for `double`).
    """
    dtype = np.float64 if double else np.float32
    left = np.ascontiguousarray(a.units, dtype).reshape(-1, *a.units.shape[-2:])
    right = np.ascontiguousarray(np.swapaxes(b.units, -1, -2), dtype).reshape(left.shape[0], left.shape[2], -1)
    a_scales = np.ascontiguousarray(a.scales).reshape(left.shape[0], left.shape[1], -1)
    b_scales = np.ascontiguousarray(np.swapaxes(b.scales, -1, -2)).reshape(left.shape[0], -1, right.shape[2])
    out = np.zeros((left.shape[0], left.shape[1], right.shape[2]), np.float32)
    run_rows(
        _segmented, out.shape[0] * out.shape[1], out.size * left.shape[2] // 8,
        left, right, a_scales, a.block, b_scales, b.block, segment, np.float32(unit), out,
    )  # fmt: skip
    return out.reshape(*a.units.shape[:-1], right.shape[2])


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
