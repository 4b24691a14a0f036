"""Codes of 1 to 7 bits packed into bytes; see `macloom.formats.kernels.packing`."""

from __future__ import annotations

import numpy as np

U64 = np.uint64
PAIRS, QUADS, EIGHTS = U64(0x00FF00FF00FF00FF), U64(0x0000FFFF0000FFFF), U64(0x00000000FFFFFFFF)
CODES_AT_ONCE = 1 << 17  # that stay in the second-level cache


def largest_codes(start, stop, codes, out):
    """Write the largest code of each row."""
    out[start:stop] = codes[start:stop].max(axis=1, initial=0)


def pack_nibbles(start, stop, codes, first, second, out):
    """Pack pairs of codes, the even one shifted by `first` and the odd one by `second` places."""
    even, odd = codes[start:stop, 0::2], codes[start:stop, 1::2]
    target = out[start:stop]
    np.left_shift(even, np.uint8(first), out=target)
    pairs = target[:, : odd.shape[1]]
    np.bitwise_or(pairs, odd << np.uint8(second), out=pairs)


def _narrow(words, bits):
    """Move the eight bytes of each word together, `bits` of each."""
    for step, mask in ((8, PAIRS), (16, QUADS), (32, EIGHTS)):
        high = (words >> U64(step)) & mask
        np.bitwise_and(words, mask, out=words)
        np.bitwise_or(words, np.left_shift(high, U64(bits * step // 8), out=high), out=words)
    return words


def _spread(words, bits):
    """Undo `_narrow`."""
    for step in (32, 16, 8):
        width = bits * step // 8
        low = sum(((1 << width) - 1) << place for place in range(0, 64, 2 * step))
        high = np.left_shift((words >> U64(width)) & U64(low), U64(step))
        np.bitwise_and(words, U64(low), out=words)
        np.bitwise_or(words, high, out=words)
    return words


def pack_bits(start, stop, codes, bits, out):
    """Pack codes of any width up to 8 bits, one after the other, eight to a word."""
    length, width = codes.shape[1], out.shape[1]
    words = -(-length // 8)
    step = max(1, CODES_AT_ONCE // (8 * words))
    for first in range(start, stop, step):
        own = codes[first : min(first + step, stop)]
        eights = np.zeros((len(own), 8 * words), np.uint8)
        eights[:, :length] = own
        narrow = _narrow(eights.view("<u8"), bits).view(np.uint8).reshape(len(own), words, 8)[:, :, :bits]
        out[first : first + len(own)] = narrow.reshape(len(own), words * bits)[:, :width]


def unpack_bits(start, stop, packed, bits, out):
    """Undo `pack_bits`."""
    length, width = out.shape[1], packed.shape[1]
    words = -(-length // 8)
    step = max(1, CODES_AT_ONCE // (8 * words))
    for first in range(start, stop, step):
        own = packed[first : min(first + step, stop)]
        stream = np.zeros((len(own), words * bits), np.uint8)
        stream[:, :width] = own
        eights = np.zeros((len(own), words, 8), np.uint8)
        eights[:, :, :bits] = stream.reshape(len(own), words, bits)
        wide = _spread(eights.view("<u8"), bits).view(np.uint8).reshape(len(own), 8 * words)
        out[first : first + len(own)] = wide[:, :length]


def unpack_nibbles(start, stop, packed, first, second, out):
    """Undo `pack_nibbles`; rows of `out` are twice as long as those of `packed`."""
    own = packed[start:stop]
    out[start:stop, 0::2] = (own >> np.uint8(first)) & np.uint8(15)
    out[start:stop, 1::2] = (own >> np.uint8(second)) & np.uint8(15)
