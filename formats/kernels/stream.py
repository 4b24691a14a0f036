"""Large results written past the caches.

A store to memory that is not cached first reads the line, which costs half the speed of a kernel that
only moves data. Non-temporal stores do not, but want whole, aligned lines of 64 bytes, which rows and
blocks rarely are. So results wait in a tile until lines are full:

    tile, streamed = opened(x, out)
    at = first                                     # the tile holds the elements of `out` from here on
    for ...:
        base = base_of(out, tile, streamed, at)    # where element 0 of `out` would lie, for `put`
        ... at most STRIP elements, up to `last`
        at = passed(out, tile, streamed, at, last)
    closed(out, tile, streamed, at, last)

Elements are written in ascending order and all of them. Small results go straight to `out`, for they stay
in the caches, and so does what is rounded in place.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.lane_access import LINE, address, fence, size_of, stream_line
from macloom.formats.kernels.primitives import poke, smaller

STRIP = 512  # elements between two calls of `passed`
WAITING = 512  # elements that wait before they are moved
STREAM_BYTES = 1 << 25  # what is smaller stays in the caches for its reader


@njit(cache=True, nogil=True)
def opened(x, out):
    """Return the tile, and whether `out` is large and apart from `x`, so that it is streamed to."""
    streamed = out.size * out.itemsize >= STREAM_BYTES and address(out) != address(x)
    return np.empty(STRIP + WAITING + LINE if streamed else 1, out.dtype), streamed


@njit(forceinline=True)
def base_of(out, tile, streamed, at):
    """Return the address that `put` takes: element `at` of `out` goes to the start of the tile."""
    return address(tile) - at * size_of(out) if streamed else address(out)


@njit(forceinline=True)
def passed(out, tile, streamed, at, last):
    """Note that the elements up to `last` are written; return which element the tile starts with now."""
    if streamed and last - at >= WAITING:
        return _moved(out, tile, at, last)
    return at


@njit(cache=True, nogil=True)
def _moved(out, tile, at, last):
    """Stream the full lines of the tile, keep the rest at its start and return the index of that."""
    size = size_of(out)
    target, source = address(out) + at * size, address(tile)
    head = smaller((LINE - target % LINE) % LINE // size, last - at)
    for k in range(head):
        poke(out, at + k, tile[k])
    end = head * size + ((last - at - head) * size) // LINE * LINE
    for k in range(head * size, end, LINE):
        stream_line(target + k, source + k)
    moved = end // size
    for k in range(last - at - moved):
        tile[k] = tile[moved + k]
    return at + moved


@njit(cache=True, nogil=True)
def closed(out, tile, streamed, at, last):
    """Write what still waits, so that other threads see it."""
    if streamed:
        at = _moved(out, tile, at, last)
        for k in range(last - at):
            poke(out, at + k, tile[k])
        fence()
