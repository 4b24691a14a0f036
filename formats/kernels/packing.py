"""Compiled loops that pack codes of 1 to 7 bits into bytes and back, the first code in the lowest bits.

Four-bit codes go sixteen pairs at a time, others eight codes at a time within a 64-bit word.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.lane_access import fetch, load_word, put, store_word, take
from macloom.formats.kernels.lanes import LANES, highest, most, spread
from macloom.formats.kernels.primitives import peek, poke, smaller
from macloom.formats.kernels.stream import STRIP, base_of, closed, opened, passed

U8, U32, U64 = np.uint8, np.uint32, np.uint64
PAIRS, QUADS, EIGHTS = U64(0x00FF00FF00FF00FF), U64(0x0000FFFF0000FFFF), U64(0x00000000FFFFFFFF)


@njit(cache=True, nogil=True, error_model="numpy")
def largest_codes(start, stop, codes, out):
    """Write the largest code of each row."""
    length = codes.shape[1]
    for r in range(start, stop):
        top = spread(U32(0))
        for i in range(r * length, (r + 1) * length, LANES):
            top = most(top, fetch(codes, i, (r + 1) * length))
        poke(out, r, highest(top))


@njit(cache=True, nogil=True, error_model="numpy")
def pack_nibbles(start, stop, codes, first, second, out):
    """Pack pairs of codes, the even one shifted by `first` and the odd one by `second` places."""
    length, width = codes.shape[1], out.shape[1]
    first, second = U32(first), U32(second)
    if length % 2:
        for r in range(start, stop):
            for i in range(length // 2):
                even, odd = U32(peek(codes, r * length + 2 * i)), U32(peek(codes, r * length + 2 * i + 1))
                poke(out, r * width + i, U8(U32(even << first) | U32(odd << second)))
            poke(out, r * width + width - 1, U8(U32(peek(codes, r * length + length - 1)) << first))
        return
    pairs = codes.reshape(-1).view(np.uint16)  # the even code in the low byte
    back = U32(U32(8) - second)
    at = start * width
    tile, streamed = opened(codes, out)
    for begin in range(start * width, stop * width, STRIP):
        end = smaller(begin + STRIP, stop * width)
        base = base_of(out, tile, streamed, at)
        for i in range(begin, end, LANES):
            both = take(pairs, i, end)
            put(out, base, i, end, (both << first) | (both >> back))
        at = passed(out, tile, streamed, at, end)
    closed(out, tile, streamed, at, stop * width)


@njit(cache=True, nogil=True, error_model="numpy")
def unpack_nibbles(start, stop, packed, first, second, out):
    """Undo `pack_nibbles`; rows of `out` are twice as long as those of `packed`."""
    width = packed.shape[1]
    pairs = out.reshape(-1).view(np.uint16)
    first, second, low = U32(first), U32(second), U32(15)
    at = start * width
    tile, streamed = opened(packed, pairs)
    for begin in range(start * width, stop * width, STRIP):
        end = smaller(begin + STRIP, stop * width)
        base = base_of(pairs, tile, streamed, at)
        for i in range(begin, end, LANES):
            both = take(packed, i, end)
            put(pairs, base, i, end, ((both >> first) & low) | (((both >> second) & low) << U32(8)))
        at = passed(pairs, tile, streamed, at, end)
    closed(pairs, tile, streamed, at, stop * width)


@njit(forceinline=True)
def _narrow(word, bits):
    """Move the eight bytes of a word together, `bits` of each."""
    word = (word & PAIRS) | (((word >> U64(8)) & PAIRS) << bits)
    word = (word & QUADS) | (((word >> U64(16)) & QUADS) << (bits << U64(1)))
    return (word & EIGHTS) | ((word >> U64(32)) << (bits << U64(2)))


@njit(forceinline=True)
def _spread(word, bits):
    """Undo `_narrow`."""
    one = U64(1)
    four, two = bits << U64(2), bits << U64(1)
    word = (word & ((one << four) - one)) | (((word >> four) & ((one << four) - one)) << U64(32))
    mask = QUADS & (((one << two) - one) | (((one << two) - one) << U64(32)))
    word = (word & mask) | (((word >> two) & mask) << U64(16))
    byte = (one << bits) - one
    mask = byte | (byte << U64(16)) | (byte << U64(32)) | (byte << U64(48))
    return (word & mask) | (((word >> bits) & mask) << U64(8))


@njit(cache=True, nogil=True, error_model="numpy")
def pack_bits(start, stop, codes, bits, out):
    """Pack codes of any width up to 8 bits, one after the other."""
    length, width = codes.shape[1], out.shape[1]
    size, wide, bits = bits, U64(bits), U32(bits)
    # The last words of a row are written byte by byte, for what follows them may be another thread's.
    words = smaller(length // 8, (width - 8) // size + 1) if width >= 8 else 0
    for r in range(start, stop):
        for k in range(words):
            store_word(out, r * width + k * size, _narrow(load_word(codes, r * length + 8 * k), wide))
        held, count, byte = U32(0), U32(0), r * width + words * size
        for i in range(8 * words, length):
            held = U32(held | U32(U32(peek(codes, r * length + i)) << count))
            count = U32(count + bits)
            if count >= U32(8):
                poke(out, byte, U8(held & U32(255)))
                held, count, byte = U32(held >> U32(8)), U32(count - U32(8)), byte + 1
        if count > U32(0):
            poke(out, byte, U8(held))


@njit(cache=True, nogil=True, error_model="numpy")
def unpack_bits(start, stop, packed, bits, out):
    """Undo `pack_bits`."""
    length, width = out.shape[1], packed.shape[1]
    size, wide, bits = bits, U64(bits), U32(bits)
    mask = U32(U32(U32(1) << bits) - U32(1))
    words = smaller(length // 8, (width - 8) // size + 1) if width >= 8 else 0
    for r in range(start, stop):
        for k in range(words):
            store_word(out, r * length + 8 * k, _spread(load_word(packed, r * width + k * size), wide))
        held, count, byte = U32(0), U32(0), r * width + words * size
        for i in range(8 * words, length):
            if count < bits:
                held = U32(held | U32(U32(peek(packed, byte)) << count))
                count, byte = U32(count + U32(8)), byte + 1
            poke(out, r * length + i, U8(held & mask))
            held, count = U32(held >> bits), U32(count - bits)
