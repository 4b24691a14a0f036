"""Double Rounding's reads; see `macloom.formats.kernels.double_rounding`."""

from __future__ import annotations

import numpy as np

from macloom.formats.fallback.tiles import Buffers, note_largest, pieces

MAGIC = np.float32(3 << 22)


def read_values(start, stop, x, scales, block, reads, largest, step, out, worst):
    """Write reads[stored integer] * scale * step, where the integer is x / scale to nearest even, clipped."""
    worst[start:stop] = 0
    buffers, high = Buffers(2), np.float32(largest)
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
            scaled, scratch = buffers.shaped(piece)
            values, scale = piece.of(x), piece.per_segment(scales)
            note_largest(values, scratch, piece, worst)
            np.divide(values, scale, out=scaled)
            np.clip(scaled, -high, high, out=scaled)
            stored = ((scaled + MAGIC) - MAGIC).astype(np.int64) & (len(reads) - 1)
            np.multiply(np.take(reads, stored, mode="clip"), scale * np.float32(step), out=piece.of(out))
