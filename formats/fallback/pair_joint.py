"""Pairs in the legal encoding of least error; see `macloom.formats.kernels.pair_joint`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from macloom.formats.fallback.lookup import cells
from macloom.formats.fallback.pair import whole_pairs
from macloom.formats.fallback.tiles import Buffers, note_largest, pieces

U32, F32 = np.uint32, np.float32
BYTE = U32(0xFF)


def joint_choice(
    values: np.ndarray, entry: np.ndarray, normals: np.ndarray, outliers: np.ndarray, scale: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each pair 0 (both normal), 1 (left outlier) or 2 (right outlier), and the least squared error."""
    exact = values.astype(np.float64)
    plain = ((np.take(normals, entry & BYTE, mode="clip") * scale).astype(np.float64) - exact) ** 2
    wide = ((np.take(outliers, (entry >> U32(8)) & BYTE, mode="clip") * scale).astype(np.float64) - exact) ** 2
    square = exact * exact
    both = plain[..., 0::2] + plain[..., 1::2]
    only_left = wide[..., 0::2] + square[..., 1::2]
    only_right = square[..., 0::2] + wide[..., 1::2]
    normal = (both <= only_left) & (both <= only_right)
    choice = np.where(normal, 0, np.where(only_left <= only_right, 1, 2))
    return choice, np.where(normal, both, np.where(only_left <= only_right, only_left, only_right))


def _chosen(start, stop, x, scales, block, shift, table, normals, outliers, worst):
    """Yield pieces of whole pairs, their scales, their table entries, and who is outlier and who victim."""
    worst[start:stop] = 0
    (scratch,) = Buffers(1).floats
    for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
        note_largest(piece.of(x), scratch[: piece.count].reshape(piece.shape), piece, worst)
        values, scale = whole_pairs(piece, x), piece.per_segment(scales)
        entry = np.take(table, cells((values / scale).view(U32), shift, None), mode="clip")
        choice, _ = joint_choice(values, entry, normals, outliers, scale)
        stays, goes = np.empty(values.shape, bool), np.empty(values.shape, bool)
        stays[..., 0::2], stays[..., 1::2] = choice == 1, choice == 2
        goes[..., 0::2], goes[..., 1::2] = choice == 2, choice == 1
        yield piece, scale, entry, stays, goes


def joint_codes(start, stop, x, scales, block, shift, table, normals, outliers, victim, out, worst):
    """Write the slot codes of pairs, each in its encoding of least squared error."""
    with np.errstate(all="ignore"):
        every = _chosen(start, stop, x, scales, block, shift, table, normals, outliers, worst)
        for piece, _, entry, stays, goes in every:
            code = np.where(stays, entry >> U32(8), entry) & BYTE
            replace(piece, size=entry.shape[2]).of(out)[...] = np.where(goes, U32(victim), code)


def joint_values(start, stop, x, scales, block, shift, table, normals, outliers, out, worst):
    """Write the values of `joint_codes`."""
    with np.errstate(all="ignore"):
        every = _chosen(start, stop, x, scales, block, shift, table, normals, outliers, worst)
        for piece, scale, entry, stays, goes in every:
            plain = np.take(normals, entry & BYTE, mode="clip")
            wide = np.take(outliers, (entry >> U32(8)) & BYTE, mode="clip")
            found = np.where(goes, F32(0), np.where(stays, wide, plain) * scale)
            piece.of(out)[...] = found[..., : piece.size]
