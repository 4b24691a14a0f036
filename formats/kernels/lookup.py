"""Compiled loops over rows of float32: the fast side of every tensor format.

A tensor is seen as rows x length; each row is cut into segments of `block` elements that share a
scale (the last segment may be shorter). Kernels work on the rows [start, stop) so that threads can
share a tensor. The compiler may not reassociate: fastmath stays off.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.primitives import MAGNITUDE, bits_of, float_of, larger, peek, poke, shifted_right, smaller

INFINITY_BITS = 0x7F800000
TILE = 256  # elements whose quotients wait in the first-level cache


@njit(cache=True, nogil=True, error_model="numpy")
def absmax(start, stop, x, block, out):
    """Write the largest magnitude of each segment to out (rows x segments); a NaN wins."""
    length, segments = x.shape[1], out.shape[1]
    for r in range(start, stop):
        for s in range(segments):
            top = np.uint32(0)
            for i in range(r * length + s * block, r * length + smaller(s * block + block, length)):
                top = larger(top, np.uint32(bits_of(peek(x, i)) & MAGNITUDE))
            poke(out, r * segments + s, float_of(top))


@njit(forceinline=True)
def _divided(x, first, last, scale, tile, top):
    """Put the bits of x / scale in the tile, at vector speed; return the largest magnitude's bits so far."""
    for i in range(first, last):
        value = peek(x, i)
        top = larger(top, np.uint32(bits_of(value) & MAGNITUDE))
        poke(tile, i - first, bits_of(value / scale))
    return top


@njit(forceinline=True)
def _cell(bits, shift, below):
    """Return the table index of a pattern: its leading bits, and whether any bit below is set."""
    later = np.uint32(1) if np.uint32(bits & below) != np.uint32(0) else np.uint32(0)
    return np.intp(np.uint32(np.uint32(shifted_right(bits, shift) << np.uint32(1)) | later))


@njit(forceinline=True)
def _bounded_cell(bits, shift, limits):
    """Return the table index of a pattern: its leading bits, and whether it reaches their limit."""
    cell = shifted_right(bits, shift)
    later = np.uint32(1) if bits >= peek(limits, np.intp(cell)) else np.uint32(0)
    return np.intp(np.uint32(np.uint32(cell << np.uint32(1)) | later))


@njit(cache=True, nogil=True, error_model="numpy")
def lookup(start, stop, x, scales, block, shift, table, out, worst):
    """Write table[bits of x / scale] for each element; the table may hold codes or values.

    worst[r] receives the largest magnitude's bits of row r, to find non-finite input.
    """
    length, segments = x.shape[1], scales.shape[1]
    shift = np.uint32(shift)
    below = np.uint32((np.uint32(1) << shift) - np.uint32(1))
    tile = np.empty(TILE, np.uint32)
    for r in range(start, stop):
        top = np.uint32(0)
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, TILE):
                last = smaller(first + TILE, end)
                top = _divided(x, first, last, scale, tile, top)
                for i in range(last - first):
                    poke(out, first + i, peek(table, _cell(tile[np.uint64(i)], shift, below)))
        worst[r] = top


@njit(cache=True, nogil=True, error_model="numpy")
def lookup_values(start, stop, x, scales, block, shift, table, out, worst):
    """Write table[bits of x / scale] * scale for each element."""
    length, segments = x.shape[1], scales.shape[1]
    shift = np.uint32(shift)
    below = np.uint32((np.uint32(1) << shift) - np.uint32(1))
    tile = np.empty(TILE, np.uint32)
    for r in range(start, stop):
        top = np.uint32(0)
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, TILE):
                last = smaller(first + TILE, end)
                top = _divided(x, first, last, scale, tile, top)
                for i in range(last - first):
                    poke(out, first + i, peek(table, _cell(tile[np.uint64(i)], shift, below)) * scale)
        worst[r] = top


@njit(cache=True, nogil=True, error_model="numpy")
def lookup_bounded(start, stop, x, scales, block, shift, limits, table, out, worst):
    """Write table[cell of x / scale, whether its bits reach the cell's limit]; codes or values."""
    length, segments = x.shape[1], scales.shape[1]
    shift = np.uint32(shift)
    tile = np.empty(TILE, np.uint32)
    for r in range(start, stop):
        top = np.uint32(0)
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, TILE):
                last = smaller(first + TILE, end)
                top = _divided(x, first, last, scale, tile, top)
                for i in range(last - first):
                    poke(out, first + i, peek(table, _bounded_cell(tile[np.uint64(i)], shift, limits)))
        worst[r] = top


@njit(cache=True, nogil=True, error_model="numpy")
def lookup_bounded_values(start, stop, x, scales, block, shift, limits, table, out, worst):
    """Write table[cell of x / scale, whether its bits reach the cell's limit] * scale."""
    length, segments = x.shape[1], scales.shape[1]
    shift = np.uint32(shift)
    tile = np.empty(TILE, np.uint32)
    for r in range(start, stop):
        top = np.uint32(0)
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, TILE):
                last = smaller(first + TILE, end)
                top = _divided(x, first, last, scale, tile, top)
                for i in range(last - first):
                    poke(out, first + i, peek(table, _bounded_cell(tile[np.uint64(i)], shift, limits)) * scale)
        worst[r] = top
