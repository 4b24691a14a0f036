"""The compiled loop of Double Rounding: to a stored integer, and from it to what a read gives."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.primitives import MAGNITUDE, bits_of

# Adding and subtracting this leaves the nearest integer, ties to even, of magnitudes below 2**22.
MAGIC = np.float32(3 << 22)


@njit(cache=True, nogil=True, error_model="numpy")
def read_values(start, stop, x, scales, block, reads, largest, step, out, worst):
    """Write reads[stored integer] * scale * step, where the integer is x / scale to nearest even, clipped.

    `reads` is indexed by two's complement codes. worst[r] is as in `kernels`; `out` may be `x`.
    """
    length, mask = x.shape[1], len(reads) - 1
    high = np.float32(largest)
    for r in range(start, stop):
        row, result = x[r], out[r]
        top = np.uint32(0)
        for s in range(scales.shape[1]):
            segment = row[s * block : min(s * block + block, length)]
            target = result[s * block : min(s * block + block, length)]
            scale = scales[r, s]
            unit = scale * np.float32(step)
            for i in range(len(segment)):
                top = max(top, bits_of(segment[i]) & MAGNITUDE)
                stored = (min(max(segment[i] / scale, -high), high) + MAGIC) - MAGIC
                target[i] = reads[np.int64(stored) & mask] * unit
        worst[r] = top
