"""Compiled loops of affine quantization: integers around a zero point."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.primitives import MAGNITUDE, SIGN, bits_of, float_of


@njit(cache=True, nogil=True, error_model="numpy")
def extremes(start, stop, x, block, low, high, worst):
    """Write the smallest and largest element of each segment, zero included; worst[r] as in `kernels`."""
    length = x.shape[1]
    for r in range(start, stop):
        row = x[r]
        top = np.uint32(0)
        for s in range(low.shape[1]):
            segment = row[s * block : min(s * block + block, length)]
            # Above zero, floats are ordered as their bits; below, as the bits without the sign.
            most, least = np.int32(0), np.uint32(0)
            for i in range(len(segment)):
                bits = bits_of(segment[i])
                top = max(top, bits & MAGNITUDE)
                most = max(most, np.int32(bits))
                least = max(least, bits & MAGNITUDE if bits > SIGN else np.uint32(0))
            low[r, s], high[r, s] = -float_of(least), float_of(np.uint32(most))
        worst[r] = top


# Adding and subtracting this leaves the nearest integer, ties to even, of magnitudes below 2**22.
MAGIC = np.float32(3 << 22)
FAR = np.float32(1 << 21)


@njit(cache=True, nogil=True, error_model="numpy")
def affine_codes(start, stop, x, scales, zeros, block, largest, out, worst):
    """Write clip(round(x / scale) + zero, 0, largest), rounding to nearest even."""
    length = x.shape[1]
    lowest, highest = np.float32(0), np.float32(largest)
    for r in range(start, stop):
        row, result = x[r], out[r]
        top = np.uint32(0)
        for s in range(scales.shape[1]):
            segment = row[s * block : min(s * block + block, length)]
            target = result[s * block : min(s * block + block, length)]
            scale, zero = scales[r, s], zeros[r, s]
            for i in range(len(segment)):
                top = max(top, bits_of(segment[i]) & MAGNITUDE)
                quotient = min(max(segment[i] / scale, -FAR), FAR)
                target[i] = np.uint32(min(max(((quotient + MAGIC) - MAGIC) + zero, lowest), highest))
        worst[r] = top


@njit(cache=True, nogil=True, error_model="numpy")
def affine_values(start, stop, x, scales, zeros, block, largest, out, worst):
    """Write what the codes of `affine_codes` decode to; `out` may be `x`."""
    length = x.shape[1]
    lowest, highest = np.float32(0), np.float32(largest)
    for r in range(start, stop):
        row, result = x[r], out[r]
        top = np.uint32(0)
        for s in range(scales.shape[1]):
            segment = row[s * block : min(s * block + block, length)]
            target = result[s * block : min(s * block + block, length)]
            scale, zero = scales[r, s], zeros[r, s]
            for i in range(len(segment)):
                top = max(top, bits_of(segment[i]) & MAGNITUDE)
                quotient = min(max(segment[i] / scale, -FAR), FAR)
                code = min(max(((quotient + MAGIC) - MAGIC) + zero, lowest), highest)
                target[i] = (code - zero) * scale
        worst[r] = top
