"""Largest magnitudes, encoding by table and decoding; see `macloom.formats.kernels.lookup`."""

from __future__ import annotations

import numpy as np

from macloom.formats.fallback.tiles import MAGNITUDE, Buffers, Piece, note_largest, pieces

U32 = np.uint32


def absmax(start, stop, x, block, out):
    """Write the largest magnitude of each segment to out (rows x segments); a NaN wins."""
    (scratch,) = Buffers(1).floats
    found = out.view(U32)
    found[start:stop] = 0
    for piece in pieces(start, stop, x.shape[1], out.shape[1], block):
        held = scratch[: piece.count].reshape(piece.shape).view(U32)
        bits = np.bitwise_and(piece.of(x).view(U32), MAGNITUDE, out=held)
        own = piece.per_segment(found)[:, :, 0]
        np.maximum(own, bits.max(axis=2), out=own)


def cells(bits: np.ndarray, shift: int, limits: np.ndarray | None) -> np.ndarray:
    """Return the table indices of patterns: their leading bits, and whether they go on beyond those.

    They do where any bit below is set or, with `limits`, where the pattern reaches that of its leading bits.
    """
    cell = bits >> U32(shift)
    if limits is None:
        later = (bits & U32((1 << shift) - 1)) != 0
    else:
        later = bits >= np.take(limits, cell, mode="clip")
    return (cell << U32(1)) | later


def _entries(piece: Piece, scaled: np.ndarray, shift: int, limits: np.ndarray | None, table: np.ndarray) -> np.ndarray:
    return np.take(table, cells(scaled.view(U32), shift, limits), mode="clip")


def lookup_codes(start, stop, x, scales, block, shift, limits, table, out, worst):
    """Write the entry of x / scale for each element; `limits` may be None, see `cells`."""
    worst[start:stop] = 0
    buffers = Buffers(2)
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
            scaled, scratch = buffers.shaped(piece)
            values = piece.of(x)
            note_largest(values, scratch, piece, worst)
            np.divide(values, piece.per_segment(scales), out=scaled)
            piece.of(out)[...] = _entries(piece, scaled, shift, limits, table)


def lookup_values(start, stop, x, scales, block, shift, limits, table, out, worst):
    """Write the entry of x / scale times the scale; see `lookup_codes`."""
    worst[start:stop] = 0
    buffers = Buffers(2)
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
            scaled, scratch = buffers.shaped(piece)
            values, scale = piece.of(x), piece.per_segment(scales)
            note_largest(values, scratch, piece, worst)
            np.divide(values, scale, out=scaled)
            np.multiply(_entries(piece, scaled, shift, limits, table), scale, out=piece.of(out))


def decode_codes(start, stop, codes, scales, block, table, out, worst):
    """Write table[code] * scale for each element; codes beyond the table are read as the last of it.

    worst[r] receives the largest code of row r, to find those.
    """
    worst[start:stop] = 0
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, codes.shape[1], scales.shape[1], block):
            own = piece.of(codes)
            rows = slice(piece.row, piece.row + piece.rows)
            np.maximum(worst[rows], own.reshape(piece.rows, -1).max(axis=1), out=worst[rows])
            np.multiply(np.take(table, own, mode="clip"), piece.per_segment(scales), out=piece.of(out))
