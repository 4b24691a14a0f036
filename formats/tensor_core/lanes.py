"""Compiled chains of blocks in lanes of float32 and int32, for finite values and up to 25 fraction bits.

A product of two significands of at most 12 bits is exact in float32, as is its multiple by the power of two that
makes the last bit kept the unit; conversion to int32 then cuts off toward zero as the adder does. `NEAR` multiplies
values; its caller has proven that nothing leaves the normal range of float32. `WIDE` multiplies significands and
takes exponents apart, so that any exponents will do.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false
from __future__ import annotations

import numpy as np

from macloom._numba import njit

# Products of a block and a row of outputs that are computed together, and rows that reuse a panel of B.
PANEL = 4096
ROWS = 64
# Products that are added in int32 before they join the sum in float64: 8 * 2**(25 + 2) < 2**31.
STEP = 8
# Stored exponent of zero: below that of any sum of two others.
NO_EXPONENT = -10000


@njit(nogil=True)
def _power(e):
    """Return 2**e as float32, for -126 <= e <= 127."""
    return np.int32((np.int32(e) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(nogil=True)
def _double_power(e):
    """Return 2**e as float64, for -1022 <= e <= 1023."""
    return np.int64((np.int64(e) + np.int64(1023)) << np.int64(52)).view(np.float64)


@njit(nogil=True)
def _exponent(x):
    """Return the exponent of a float32 other than zero; -127 for subnormals and zero."""
    return np.int32((np.float32(x).view(np.int32) >> np.int32(23)) & np.int32(255)) - np.int32(127)


@njit(nogil=True)
def _double_exponent(x):
    return ((np.float64(x).view(np.int64) >> np.int64(52)) & np.int64(2047)) - np.int64(1023)


@njit(cache=True, nogil=True)
def _largest(c, floor, min_exponent, e_row, e_panel, largest):
    """Set largest[n] to the largest exponent of a block: of the sum so far, of the products, and the floor."""
    for n in range(len(c)):
        e = max(_exponent(c[n]), np.int32(min_exponent)) if c[n] != np.float32(0) else np.int32(NO_EXPONENT)
        largest[n] = np.int16(max(e, np.int32(floor)))
    for k in range(0, len(e_row), 4):
        e0, e1, e2, e3 = e_row[k], e_row[k + 1], e_row[k + 2], e_row[k + 3]
        p0, p1, p2, p3 = e_panel[k], e_panel[k + 1], e_panel[k + 2], e_panel[k + 3]
        for n in range(len(c)):
            low = max(np.int16(e0 + p0[n]), np.int16(e1 + p1[n]))
            high = max(np.int16(e2 + p2[n]), np.int16(e3 + p3[n]))
            largest[n] = max(largest[n], max(low, high))


@njit(cache=True, nogil=True)
def _cut_near(c, fraction, row, panel, largest, scale, total):
    """Set total[n] to the sum of all terms cut off at 2**(largest[n] - fraction), in units of that."""
    for n in range(len(c)):
        scale[n] = _power(np.int32(fraction) - np.int32(largest[n]))
        total[n] = np.float64(np.int32(c[n] * scale[n]))
    whole = len(row) - len(row) % STEP
    for k in range(0, whole, STEP):
        x0, x1, x2, x3 = row[k], row[k + 1], row[k + 2], row[k + 3]
        x4, x5, x6, x7 = row[k + 4], row[k + 5], row[k + 6], row[k + 7]
        p0, p1, p2, p3 = panel[k], panel[k + 1], panel[k + 2], panel[k + 3]
        p4, p5, p6, p7 = panel[k + 4], panel[k + 5], panel[k + 6], panel[k + 7]
        for n in range(len(c)):
            s = scale[n]
            t = np.int32((x0 * p0[n]) * s) + np.int32((x1 * p1[n]) * s)
            t += np.int32((x2 * p2[n]) * s) + np.int32((x3 * p3[n]) * s)
            t += np.int32((x4 * p4[n]) * s) + np.int32((x5 * p5[n]) * s)
            t += np.int32((x6 * p6[n]) * s) + np.int32((x7 * p7[n]) * s)
            total[n] += np.float64(np.int32(t))
    if whole < len(row):
        x0, x1, x2, x3 = row[whole], row[whole + 1], row[whole + 2], row[whole + 3]
        p0, p1, p2, p3 = panel[whole], panel[whole + 1], panel[whole + 2], panel[whole + 3]
        for n in range(len(c)):
            s = scale[n]
            t = np.int32((x0 * p0[n]) * s) + np.int32((x1 * p1[n]) * s)
            t += np.int32((x2 * p2[n]) * s) + np.int32((x3 * p3[n]) * s)
            total[n] += np.float64(np.int32(t))


@njit(nogil=True)
def _down(total, largest, fraction):
    """Return total * 2**(largest - fraction) rounded toward zero to float32; |total| < 2**30."""
    nearest = np.float32(total)
    over = abs(np.int32(nearest)) > abs(np.int32(total))
    rounded = np.int32(np.float32(nearest).view(np.int32) - np.int32(over)).view(np.float32)
    return rounded * _power(np.int32(largest) - np.int32(fraction))


@njit(cache=True, nogil=True)
def _four(c, floor, fraction, row, e_row, panel, e_panel):
    """Add a block of four products to a float32 register in one pass."""
    x0, x1, x2, x3 = row[0], row[1], row[2], row[3]
    e0, e1, e2, e3 = e_row[0], e_row[1], e_row[2], e_row[3]
    p0, p1, p2, p3 = panel[0], panel[1], panel[2], panel[3]
    f0, f1, f2, f3 = e_panel[0], e_panel[1], e_panel[2], e_panel[3]
    for n in range(len(c)):
        low = max(np.int32(e0 + f0[n]), np.int32(e1 + f1[n]))
        high = max(np.int32(e2 + f2[n]), np.int32(e3 + f3[n]))
        largest = max(max(low, high), max(_exponent(c[n]), np.int32(floor)))
        s = _power(np.int32(fraction) - largest)
        t = np.int32(c[n] * s) + np.int32((x0 * p0[n]) * s)
        t += np.int32((x1 * p1[n]) * s) + np.int32((x2 * p2[n]) * s) + np.int32((x3 * p3[n]) * s)
        c[n] = _down(np.int32(t), largest, fraction)


@njit(cache=True, nogil=True)
def _eight(c, floor, fraction, row, e_row, panel, e_panel):
    """Add a block of eight products to a float32 register in one pass."""
    x0, x1, x2, x3, x4, x5, x6, x7 = row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]
    e0, e1, e2, e3, e4, e5, e6, e7 = e_row[0], e_row[1], e_row[2], e_row[3], e_row[4], e_row[5], e_row[6], e_row[7]
    p0, p1, p2, p3, p4, p5, p6, p7 = panel[0], panel[1], panel[2], panel[3], panel[4], panel[5], panel[6], panel[7]
    f0, f1, f2, f3 = e_panel[0], e_panel[1], e_panel[2], e_panel[3]
    f4, f5, f6, f7 = e_panel[4], e_panel[5], e_panel[6], e_panel[7]
    for n in range(len(c)):
        low = max(max(np.int32(e0 + f0[n]), np.int32(e1 + f1[n])), max(np.int32(e2 + f2[n]), np.int32(e3 + f3[n])))
        high = max(max(np.int32(e4 + f4[n]), np.int32(e5 + f5[n])), max(np.int32(e6 + f6[n]), np.int32(e7 + f7[n])))
        largest = max(max(low, high), max(_exponent(c[n]), np.int32(floor)))
        s = _power(np.int32(fraction) - largest)
        t = np.int32(c[n] * s) + np.int32((x0 * p0[n]) * s)
        t += np.int32((x1 * p1[n]) * s) + np.int32((x2 * p2[n]) * s) + np.int32((x3 * p3[n]) * s)
        t += np.int32((x4 * p4[n]) * s) + np.int32((x5 * p5[n]) * s)
        t += np.int32((x6 * p6[n]) * s) + np.int32((x7 * p7[n]) * s)
        c[n] = _down(np.int32(t), largest, fraction)


@njit(cache=True, nogil=True)
def _cut_wide(c, fraction, row, e_row, panel, e_panel, largest, total):
    """Do as `_cut_near` on significands below 2 in magnitude and exponents."""
    for n in range(len(c)):
        power = _double_power(np.int64(fraction) - np.int64(largest[n]))
        total[n] = np.float64(np.int32(np.float64(c[n]) * power))
    for k in range(0, len(row), 4):
        x0, x1, x2, x3 = row[k], row[k + 1], row[k + 2], row[k + 3]
        e0, e1, e2, e3 = np.int32(e_row[k]), np.int32(e_row[k + 1]), np.int32(e_row[k + 2]), np.int32(e_row[k + 3])
        p0, p1, p2, p3 = panel[k], panel[k + 1], panel[k + 2], panel[k + 3]
        f0, f1, f2, f3 = e_panel[k], e_panel[k + 1], e_panel[k + 2], e_panel[k + 3]
        for n in range(len(c)):
            base = np.int32(fraction) - np.int32(largest[n])
            t = np.int32((x0 * p0[n]) * _power(max(np.int32(e0 + f0[n] + base), np.int32(-127))))
            t += np.int32((x1 * p1[n]) * _power(max(np.int32(e1 + f1[n] + base), np.int32(-127))))
            t += np.int32((x2 * p2[n]) * _power(max(np.int32(e2 + f2[n] + base), np.int32(-127))))
            t += np.int32((x3 * p3[n]) * _power(max(np.int32(e3 + f3[n] + base), np.int32(-127))))
            total[n] += np.float64(np.int32(t))


@njit(cache=True, nogil=True)
def _to_single(total, largest, fraction, kept, c):
    """Round sums toward zero to normal numbers of float32's range; `kept` masks the bits of float64 that remain."""
    for n in range(len(c)):
        y = np.int64(np.float64(total[n]).view(np.int64) & kept).view(np.float64)
        c[n] = np.float32(y) * _power(np.int32(largest[n]) - np.int32(fraction))


@njit(cache=True, nogil=True)
def _to_register(total, largest, fraction, mantissa_bits, min_exponent, overflow, nearest, c):
    """Round sums to a register with subnormals and infinities; sums that were not finite stay."""
    for n in range(len(c)):
        y = np.float64(total[n]) * _double_power(np.int64(largest[n]) - np.int64(fraction))
        step = max(_double_exponent(y), np.int64(min_exponent)) - np.int64(mantissa_bits)
        multiple = y * _double_power(-step)
        whole = np.rint(multiple) if nearest else np.trunc(multiple)
        rounded = np.float64(whole * _double_power(step)) + 0.0
        if abs(rounded) >= overflow:
            rounded = np.copysign(np.inf, rounded)
        c[n] = np.float32(rounded) if abs(c[n]) < np.float32(np.inf) else c[n]


@njit(cache=True, nogil=True)
def chain_in_lanes(start, stop, a, e_a, b, e_b, block, fraction, floor, kept, register, near, fused, out):
    """Add to `out` the chains of all blocks, for rows start to stop of all batches.

    Args:
        a, e_a: float32 and int16 (batch, M, K), values (significands for wide lanes) and exponents; K a multiple of
            the block.
        b, e_b: the same of the other operand, (batch, K, N).
        floor: no largest exponent is smaller.
        kept: mask for `_to_single`, which rounds for near lanes; 0 for `_to_register`.
        register: mantissa bits, exponent of the smallest normal value, where it overflows, whether to nearest.
        near: values instead of significands.
        fused: blocks of four or eight in one pass, whose sums fit 30 bits.
        out: float32 (batch, M, N), the sums so far, zero for near lanes.
    """
    rows, depth, width = a.shape[1], a.shape[2], out.shape[2]
    tile = min(PANEL // block + 1, width)
    panel, e_panel = np.empty((block, tile), np.float32), np.empty((block, tile), np.int16)
    largest, scale, total = np.empty(tile, np.int16), np.empty(tile, np.float32), np.empty(tile, np.float64)
    mantissa_bits, min_exponent, overflow, nearest = register
    index = start
    while index < stop:
        batch, first = index // rows, index % rows
        last = min(first + ROWS, rows, first + stop - index)
        for left in range(0, width, tile):
            size = min(tile, width - left)
            for k in range(0, depth, block):
                for i in range(block):
                    panel[i, :size] = b[batch, k + i, left : left + size]
                    e_panel[i, :size] = e_b[batch, k + i, left : left + size]
                for m in range(first, last):
                    c = out[batch, m, left : left + size]
                    row, e_row = a[batch, m, k : k + block], e_a[batch, m, k : k + block]
                    if fused and block == 4:
                        _four(c, floor, fraction, row, e_row, panel, e_panel)
                        continue
                    if fused:
                        _eight(c, floor, fraction, row, e_row, panel, e_panel)
                        continue
                    _largest(c, floor, min_exponent, e_row, e_panel, largest)
                    if near:
                        _cut_near(c, fraction, row, panel, largest, scale, total)
                    else:
                        _cut_wide(c, fraction, row, e_row, panel, e_panel, largest, total)
                    if kept != 0:
                        _to_single(total, largest, fraction, kept, c)
                    else:
                        _to_register(total, largest, fraction, mantissa_bits, min_exponent, overflow, nearest, c)
        index += last - first
