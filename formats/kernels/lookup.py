"""Compiled loops over rows of float32: largest magnitudes, encoding by table, and decoding.

A tensor is seen as rows x length; each row is cut into segments of `block` elements that share a
scale (the last segment may be shorter). Kernels work on the rows [start, stop) so that threads can
share a tensor. The compiler may not reassociate: fastmath stays off.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.lane_access import fetch, gather, put
from macloom.formats.kernels.lanes import LANES, chosen, highest, most, pattern, spread
from macloom.formats.kernels.primitives import MAGNITUDE, float_of, peek, poke, smaller
from macloom.formats.kernels.stream import STRIP, base_of, closed, opened, passed

U32 = np.uint32


@njit(cache=True, nogil=True, error_model="numpy")
def absmax(start, stop, x, block, out):
    """Write the largest magnitude of each segment to out (rows x segments); a NaN wins."""
    length, segments = x.shape[1], out.shape[1]
    for r in range(start, stop):
        for s in range(segments):
            first, last = r * length + s * block, r * length + smaller(s * block + block, length)
            top, other = spread(U32(0)), spread(U32(0))
            for i in range(first, last - LANES, 2 * LANES):
                top = most(top, pattern(fetch(x, i, last)) & MAGNITUDE)
                other = most(other, pattern(fetch(x, i + LANES, last)) & MAGNITUDE)
            if (last - first + LANES - 1) // LANES % 2:
                top = most(top, pattern(fetch(x, first + (last - first - 1) // LANES * LANES, last)) & MAGNITUDE)
            poke(out, r * segments + s, float_of(highest(most(top, other))))


@njit(forceinline=True)
def cells(bits, shift, below, limits):
    """Return the table indices of patterns: their leading bits, then whether they go on.

    They do where any bit below is set or, with `limits`, where the pattern reaches that of its leading bits,
    which has the same leading bits, or zeros below where there is none.
    """
    cell = bits >> shift
    # Where the bits below reach the limit, the sum with what it lacks carries into the next cell.
    if limits is None:
        return cell + ((bits + below) >> shift)
    return cell + ((bits + ((U32(0) - gather(limits, cell)) & below)) >> shift)


@njit(cache=True, nogil=True, error_model="numpy")
def lookup_codes(start, stop, x, scales, block, shift, limits, table, out, worst):
    """Write the entry of x / scale for each element; `limits` may be None, see `cells`.

    worst[r] receives the largest magnitude's bits of row r, to find non-finite input.
    """
    length, segments = x.shape[1], scales.shape[1]
    shift = U32(shift)
    below = U32((U32(1) << shift) - U32(1))
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, i, last)
                    top = most(top, pattern(value) & MAGNITUDE)
                    put(out, base, i, last, gather(table, cells(pattern(value / scale), shift, below, limits)))
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)


@njit(cache=True, nogil=True, error_model="numpy")
def lookup_values(start, stop, x, scales, block, shift, limits, table, out, worst):
    """Write the entry of x / scale times the scale; see `lookup_codes`."""
    length, segments = x.shape[1], scales.shape[1]
    shift = U32(shift)
    below = U32((U32(1) << shift) - U32(1))
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, i, last)
                    top = most(top, pattern(value) & MAGNITUDE)
                    put(out, base, i, last, gather(table, cells(pattern(value / scale), shift, below, limits)) * scale)
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)


@njit(cache=True, nogil=True, error_model="numpy")
def decode_codes(start, stop, codes, scales, block, table, out, worst):
    """Write table[code] * scale for each element; codes beyond the table are read as the last of it.

    worst[r] receives the largest code of row r, to find those.
    """
    length, segments = codes.shape[1], scales.shape[1]
    largest = U32(table.size - 1)
    at = start * length
    tile, streamed = opened(codes, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    code = fetch(codes, i, last)
                    top = most(top, code)
                    put(out, base, i, last, gather(table, chosen(code > largest, largest, code)) * scale)
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)
