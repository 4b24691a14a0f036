"""Codes of 1 to 7 bits packed into bytes; see `macloom.formats.kernels.packing`."""

from __future__ import annotations

import numpy as np

# Rows whose bits, one byte each, are held at a time.
BITS_AT_ONCE = 1 << 19


def pack_nibbles(start, stop, codes, first, second, out):
    """Pack pairs of codes, the even one shifted by `first` and the odd one by `second` places."""
    even, odd = codes[start:stop, 0::2], codes[start:stop, 1::2]
    target = out[start:stop]
    np.left_shift(even, np.uint8(first), out=target)
    pairs = target[:, : odd.shape[1]]
    np.bitwise_or(pairs, odd << np.uint8(second), out=pairs)


def pack_bits(start, stop, codes, bits, out):
    """Pack codes of any width up to 8 bits, one after the other."""
    places = np.arange(bits, dtype=np.uint8)
    for first in range(start, stop, max(1, BITS_AT_ONCE // (codes.shape[1] * bits))):
        last = min(first + max(1, BITS_AT_ONCE // (codes.shape[1] * bits)), stop)
        stream = (codes[first:last, :, None] >> places) & np.uint8(1)
        out[first:last] = np.packbits(stream.reshape(last - first, -1), axis=1, bitorder="little")


def unpack_bits(start, stop, packed, bits, out):
    """Undo `pack_bits`."""
    length, places = out.shape[1], np.arange(bits, dtype=np.uint8)
    for first in range(start, stop, max(1, BITS_AT_ONCE // (length * bits))):
        last = min(first + max(1, BITS_AT_ONCE // (length * bits)), stop)
        stream = np.unpackbits(packed[first:last], axis=1, bitorder="little", count=length * bits)
        np.sum(stream.reshape(last - first, length, bits) << places, axis=2, dtype=np.uint8, out=out[first:last])


def unpack_nibbles(start, stop, packed, first, second, out):
    """Undo `pack_nibbles`; rows of `out` are twice as long as those of `packed`."""
    own = packed[start:stop]
    out[start:stop, 0::2] = (own >> np.uint8(first)) & np.uint8(15)
    out[start:stop, 1::2] = (own >> np.uint8(second)) & np.uint8(15)
