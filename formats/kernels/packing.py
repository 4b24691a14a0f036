"""Compiled loops that pack codes of 1 to 7 bits into bytes and back, the first code in the lowest bits."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.primitives import peek, poke

U8, U32 = np.uint8, np.uint32


@njit(cache=True, nogil=True, error_model="numpy")
def pack_nibbles(start, stop, codes, first, second, out):
    """Pack pairs of codes, the even one shifted by `first` and the odd one by `second` places."""
    length, width = codes.shape[1], out.shape[1]
    first, second = U32(first), U32(second)
    for r in range(start, stop):
        for i in range(length // 2):
            even, odd = U32(peek(codes, r * length + 2 * i)), U32(peek(codes, r * length + 2 * i + 1))
            poke(out, r * width + i, U8(U32(even << first) | U32(odd << second)))
        if length % 2:
            poke(out, r * width + width - 1, U8(U32(peek(codes, r * length + length - 1)) << first))


@njit(cache=True, nogil=True, error_model="numpy")
def pack_bits(start, stop, codes, bits, out):
    """Pack codes of any width up to 8 bits, one after the other."""
    length, width = codes.shape[1], out.shape[1]
    bits = U32(bits)
    for r in range(start, stop):
        held, count, byte = U32(0), U32(0), r * width
        for i in range(length):
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
    bits = U32(bits)
    mask = U32(U32(U32(1) << bits) - U32(1))
    for r in range(start, stop):
        held, count, byte = U32(0), U32(0), r * width
        for i in range(length):
            if count < bits:
                held = U32(held | U32(U32(peek(packed, byte)) << count))
                count, byte = U32(count + U32(8)), byte + 1
            poke(out, r * length + i, U8(held & mask))
            held, count = U32(held >> bits), U32(count - bits)
