"""Affine quantization: integers around a zero point; see `macloom.formats.kernels.affine`."""

from __future__ import annotations

import numpy as np

from macloom.formats.fallback.tiles import Buffers, note_largest, pieces

MAGIC = np.float32(3 << 22)
FAR = np.float32(1 << 21)


def extremes(start, stop, x, block, low, high, worst):
    """Write the smallest and largest element of each segment, zero included, and each row's largest magnitude."""
    worst[start:stop] = 0
    low[start:stop], high[start:stop] = -0.0, 0.0
    buffers = Buffers(1)
    for piece in pieces(start, stop, x.shape[1], low.shape[1], block):
        (scratch,) = buffers.shaped(piece)
        values = piece.of(x)
        note_largest(values, scratch, piece, worst)
        for found, bound, of in ((low, np.minimum, np.min), (high, np.maximum, np.max)):
            own = piece.per_segment(found)[:, :, 0]
            extreme = of(values, axis=2)
            bound(own, np.where(extreme == 0, own, extreme), out=own)


def _codes(values, scale, zero, largest, scaled):
    """Return clip(round(values / scale) + zero, 0, largest) in the buffer `scaled`."""
    np.divide(values, scale, out=scaled)
    np.clip(scaled, -FAR, FAR, out=scaled)
    np.add(scaled, MAGIC, out=scaled)
    np.subtract(scaled, MAGIC, out=scaled)
    np.add(scaled, zero, out=scaled)
    return np.clip(scaled, np.float32(0), np.float32(largest), out=scaled)


def affine_codes(start, stop, x, scales, zeros, block, largest, out, worst):
    """Write clip(round(x / scale) + zero, 0, largest), rounding to nearest even."""
    worst[start:stop] = 0
    buffers = Buffers(2)
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
            scaled, scratch = buffers.shaped(piece)
            values = piece.of(x)
            note_largest(values, scratch, piece, worst)
            codes = _codes(values, piece.per_segment(scales), piece.per_segment(zeros), largest, scaled)
            piece.of(out)[...] = codes.astype(np.uint32)


def affine_values(start, stop, x, scales, zeros, block, largest, out, worst):
    """Write what the codes of `affine_codes` decode to; `out` may be `x`."""
    worst[start:stop] = 0
    buffers = Buffers(2)
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
            scaled, scratch = buffers.shaped(piece)
            values, scale, zero = piece.of(x), piece.per_segment(scales), piece.per_segment(zeros)
            note_largest(values, scratch, piece, worst)
            codes = _codes(values, scale, zero, largest, scaled)
            np.subtract(codes, zero, out=codes)
            np.multiply(codes, scale, out=piece.of(out))
