"""Sums of float32 products that are rounded once: float64 sums where their error bound proves the rounding, and
sums of whole numbers of any length where it does not.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import math

import numpy as np
from numba import njit

from macloom.formats.kernels.accumulate import wide_vectors
from macloom.formats.kernels.primitives import bits_of
from macloom.formats.threads import run_rows

# A product of float32 is a multiple of 2**(2 * -149) and below 2**256; limbs of 32 bits, of which int64 holds
# sums of 2**31, reach from 2**LOWEST on, with room above for the carries of 2**31 products.
LOWEST = -320
LIMB = 32
LIMBS = 20


@njit(cache=True, nogil=True)
def _settle(total, left, right, factor, unit, out, doubtful):
    """Round float64 sums (M, N) of which |error| <= left[m] * right[n] * factor; return how many are in doubt."""
    wide_vectors()
    count = 0
    for m in range(total.shape[0]):
        row, result, flags, scale = total[m], out[m], doubtful[m], left[m] * factor
        for n in range(len(row)):
            error = scale * right[n]
            low, high = np.float32((row[n] - error) * unit), np.float32((row[n] + error) * unit)
            result[n] = high
            flags[n] = low != high
            count += flags[n]
    return count


@njit(cache=True, nogil=True)
def _parts(x):
    """Return (i, e) with |x| = i * 2**e and i below 2**24."""
    bits = np.int64(bits_of(x)) & 0x7FFFFFFF
    field, fraction = bits >> 23, bits & 0x7FFFFF
    return (fraction, np.int64(-149)) if field == 0 else (fraction | 0x800000, field - 150)


@njit(cache=True, nogil=True)
def _add_product(limbs, x, y):
    """Add the product of two finite float32 to limbs."""
    whole_x, place_x = _parts(x)
    whole_y, place_y = _parts(y)
    sign = np.int64(1) if (x < 0) == (y < 0) else np.int64(-1)
    place = place_x + place_y - LOWEST
    limb, shift = place // LIMB, place % LIMB
    magnitude = np.uint64(whole_x * whole_y)
    low = (magnitude & np.uint64(0xFFFFFFFF)) << np.uint64(shift)
    high = (magnitude >> np.uint64(32)) << np.uint64(shift)
    limbs[limb] += sign * np.int64(low & np.uint64(0xFFFFFFFF))
    limbs[limb + 1] += sign * np.int64((low >> np.uint64(32)) + (high & np.uint64(0xFFFFFFFF)))
    limbs[limb + 2] += sign * np.int64(high >> np.uint64(32))


@njit(cache=True, nogil=True)
def _rounded(limbs, exponent):
    """Return the float32 nearest to the sum of limbs times 2**exponent, ties to even; limbs are used up."""
    top = len(limbs) - 1
    for i in range(top):  # carries, so that every limb but the last is in [0, 2**32)
        limbs[i + 1] += limbs[i] >> LIMB
        limbs[i] &= 0xFFFFFFFF
    negative = limbs[top] < 0
    if negative:
        for i in range(len(limbs)):
            limbs[i] = -limbs[i]
        for i in range(top):
            limbs[i + 1] += limbs[i] >> LIMB
            limbs[i] &= 0xFFFFFFFF
    while top >= 0 and limbs[top] == 0:
        top -= 1
    if top < 0:
        return np.float32(0)
    # At least 33 leading bits, of which the last stands for all that follow, too.
    head, place = np.uint64(limbs[top]), LOWEST + LIMB * top
    if top > 0:
        head, place = (head << np.uint64(LIMB)) | np.uint64(limbs[top - 1]), place - LIMB
    for i in range(top - 1):
        if limbs[i]:
            head |= np.uint64(1)
    length = 0
    while length < 64 and head >> np.uint64(length):
        length += 1
    # The last place of float32 here: 24 bits, fewer among the subnormals.
    place += exponent
    drop = max(length - 24, -149 - place)
    if drop > 0:
        if drop > 63:
            return np.float32(-0.0) if negative else np.float32(0.0)
        half = np.uint64(1) << np.uint64(drop - 1)
        kept = head >> np.uint64(drop)
        below = head & ((half << np.uint64(1)) - np.uint64(1))
        if below > half or (below == half and kept & np.uint64(1)):
            kept += np.uint64(1)
        head, place = kept, place + drop
    value = np.float32(math.ldexp(np.float64(head), min(place, 256)))
    return -value if negative else value


@njit(cache=True, nogil=True)
def _exactly(start, stop, left, right, rows, columns, exponent, out):
    limbs = np.zeros(LIMBS, np.int64)
    for i in range(start, stop):
        limbs[:] = 0
        x, y = left[rows[i]], right[columns[i]]
        for k in range(len(x)):
            if x[k] != 0 and y[k] != 0:
                _add_product(limbs, x[k], y[k])
        out[rows[i], columns[i]] = _rounded(limbs, exponent)


def rounded_sums(left: np.ndarray, right: np.ndarray, unit: float) -> np.ndarray:
    """Return the sums over K of products times `unit`, each rounded once to float32 (nearest even).

    A float64 sum of K exact products is off by at most K / (2**53 - K) times the sum of their magnitudes,
    in any order (Higham 2002, 4.2), which the product of the rows' norms bounds. Where both ends of that interval round
    to the same float32, so does the exact sum; the others are summed in whole numbers.

    Args:
        left, right: finite float32 (M, K) and (N, K).
        unit: a power of two.
    """
    a, b = left.astype(np.float64), right.astype(np.float64)
    total = np.matmul(a, b.T)
    norms = [np.sqrt(np.einsum("ij,ij->i", x, x)) * (1 + 1e-9) for x in (a, b)]
    out, doubtful = np.empty(total.shape, np.float32), np.empty(total.shape, bool)
    factor = (a.shape[1] + 4) * 2.0**-53 * (1 + 1e-9)
    if _settle(total, norms[0], norms[1], factor, unit, out, doubtful):
        rows, columns = np.nonzero(doubtful)
        exponent = int(np.frexp(unit)[1]) - 1
        run_rows(_exactly, len(rows), len(rows) * a.shape[1], left, right, rows, columns, exponent, out)
    return out
