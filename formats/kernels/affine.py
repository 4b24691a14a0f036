"""Compiled loops of affine quantization: integers around a zero point. Conventions as in `step`."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.lane_access import fetch, put
from macloom.formats.kernels.lanes import LANES, chosen, highest, least, most, pattern, spread
from macloom.formats.kernels.primitives import MAGNITUDE, SIGN, float_of, larger, peek, poke, smaller
from macloom.formats.kernels.stream import STRIP, base_of, closed, opened, passed

U32, F32 = np.uint32, np.float32


@njit(cache=True, nogil=True, error_model="numpy")
def extremes(start, stop, x, block, low, high, worst):
    """Write the smallest and largest element of each segment, zero included; worst[r] as in `step`."""
    length, segments = x.shape[1], low.shape[1]
    for r in range(start, stop):
        top = U32(0)
        for s in range(segments):
            # Above zero, floats are ordered as their bits; below, as the bits without the sign.
            above, below = spread(U32(0)), spread(U32(0))
            end = r * length + smaller(s * block + block, length)
            for i in range(r * length + s * block, end, LANES):
                bits = pattern(fetch(x, i, end))
                negative = bits > SIGN
                above = most(above, chosen(bits >= SIGN, U32(0), bits))
                below = most(below, chosen(negative, bits & MAGNITUDE, U32(0)))
            largest, smallest = highest(above), highest(below)
            poke(low, r * segments + s, -float_of(smallest))
            poke(high, r * segments + s, float_of(largest))
            top = larger(top, larger(largest, smallest))
        worst[r] = top


# Adding and subtracting this leaves the nearest integer, ties to even, of magnitudes below 2**22.
MAGIC = F32(3 << 22)
FAR = F32(1 << 21)
WHOLE, MANTISSA = F32(1 << 23), U32((1 << 23) - 1)  # sums of whole numbers with 2**23 hold them as mantissas


@njit(forceinline=True)
def _code(value, scale, zero, highest_code):
    """Return clip(round(value / scale) + zero, 0, highest_code) as floats."""
    quotient = least(most(value / scale, -FAR), FAR)
    return least(most(((quotient + MAGIC) - MAGIC) + zero, F32(0)), highest_code)


@njit(cache=True, nogil=True, error_model="numpy")
def affine_codes(start, stop, x, scales, zeros, block, largest, out, worst):
    """Write clip(round(x / scale) + zero, 0, largest), rounding to nearest even."""
    length, segments = x.shape[1], scales.shape[1]
    highest_code = F32(largest)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale, zero = peek(scales, r * segments + s), peek(zeros, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, i, last)
                    top = most(top, pattern(value) & MAGNITUDE)
                    put(out, base, i, last, pattern(_code(value, scale, zero, highest_code) + WHOLE) & MANTISSA)
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)


@njit(cache=True, nogil=True, error_model="numpy")
def affine_values(start, stop, x, scales, zeros, block, largest, out, worst):
    """Write what the codes of `affine_codes` decode to; `out` may be `x`."""
    length, segments = x.shape[1], scales.shape[1]
    highest_code = F32(largest)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale, zero = peek(scales, r * segments + s), peek(zeros, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, i, last)
                    top = most(top, pattern(value) & MAGNITUDE)
                    put(out, base, i, last, (_code(value, scale, zero, highest_code) - zero) * scale)
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)
