"""Outlier-victim pairs; see `macloom.formats.kernels.pair`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from macloom.formats.fallback.lookup import cells
from macloom.formats.fallback.tiles import MAGNITUDE, SIGN, Buffers, Piece, note_largest, pieces

U32, F32 = np.uint32, np.float32
BYTE = U32(0xFF)
WHOLE = F32(3 << 22)  # the last place of its sums is 1


def whole_pairs(piece: Piece, x: np.ndarray) -> np.ndarray:
    """Return the elements of a piece; a row that ends with half a pair sees a zero there."""
    values = piece.of(x)
    if piece.size % 2 == 0:
        return values
    return np.concatenate((values, np.zeros((*values.shape[:2], 1), F32)), axis=2)


def roles(values: np.ndarray, outlier: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say which elements keep their outlier and which are victims; the left of equal magnitudes stays."""
    magnitude = values.view(U32) & MAGNITUDE
    left, right = outlier[..., 0::2], outlier[..., 1::2]
    wins = magnitude[..., 0::2] >= magnitude[..., 1::2]
    stays = np.empty(values.shape, bool)
    stays[..., 0::2], stays[..., 1::2] = left & (wins | ~right), right & ~(wins & left)
    goes = np.empty(values.shape, bool)
    goes[..., 0::2], goes[..., 1::2] = stays[..., 1::2], stays[..., 0::2]
    return stays, goes


def _scaled_pairs(
    start: int, stop: int, x: np.ndarray, scales: np.ndarray, block: int, worst: np.ndarray
) -> Iterator[tuple[Piece, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield pieces of whole pairs with their elements, their scales and the quotients."""
    worst[start:stop] = 0
    (scratch,) = Buffers(1).floats
    for piece in pieces(start, stop, x.shape[1], scales.shape[1], block):
        note_largest(piece.of(x), scratch[: piece.count].reshape(piece.shape), piece, worst)
        values, scale = whole_pairs(piece, x), piece.per_segment(scales)
        yield replace(piece, size=values.shape[2]), values, scale, values / scale


def flagged_pairs(outlier: np.ndarray) -> np.ndarray:
    """Return the numbers of the pairs with an outlier, in order; few of all, so that they are done by themselves."""
    return np.flatnonzero(np.ascontiguousarray(outlier).reshape(-1).view(np.uint16))


def of_pairs(array: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return both elements of some pairs: a copy, pairs x 2."""
    return array.reshape(-1, 2)[pairs]


def scale_of_pairs(scale: Any, values: np.ndarray, pairs: np.ndarray) -> Any:
    """Return the scales of some pairs, pairs x 1, where each last axis of `values` has one."""
    return scale if np.ndim(scale) == 0 else scale.reshape(-1)[pairs // (values.shape[-1] // 2)][:, None]


def pair_codes(start, stop, x, scales, block, shift, table, victim, out, worst):
    """Write the slot codes of pairs."""
    with np.errstate(all="ignore"):
        for piece, values, _, scaled in _scaled_pairs(start, stop, x, scales, block, worst):
            entry = np.take(table, cells(scaled.view(U32), shift, None), mode="clip")
            code, pairs = entry.astype(np.uint8), flagged_pairs(entry > 0xFFFF)
            own = of_pairs(entry, pairs)
            stays, goes = roles(of_pairs(values, pairs), own > 0xFFFF)
            chosen = np.where(goes, U32(victim), np.where(stays, own >> U32(8), own) & BYTE)
            code.reshape(-1, 2)[pairs] = chosen
            piece.of(out)[...] = code


def entry_values(
    values: np.ndarray, scale: Any, scaled: np.ndarray, shift: int, table: np.ndarray, of_code: np.ndarray
):
    """Return the float32 values of pairs that a table looks up; `of_code` as in `pair_values`."""
    entry = np.take(table, cells(scaled.view(U32), shift, None), mode="clip")
    found = np.take(of_code, entry.astype(np.uint8)) * scale
    pairs = flagged_pairs(entry > 0xFFFF)
    own = of_pairs(entry, pairs)
    stays, goes = roles(of_pairs(values, pairs), own > 0xFFFF)
    code = np.where(stays, ((own >> U32(8)) & BYTE) | U32(256), own & BYTE)
    wide = np.where(goes, F32(0), np.take(of_code, code, mode="clip") * scale_of_pairs(scale, values, pairs))
    found.reshape(-1, 2)[pairs] = wide
    return found


def pair_values(start, stop, x, scales, block, shift, table, values, out, worst):
    """Write the values of pairs; `values` gives that of each normal code, and from 256 on of each outlier code."""
    with np.errstate(all="ignore"):
        for piece, elements, scale, scaled in _scaled_pairs(start, stop, x, scales, block, worst):
            found = entry_values(elements, scale, scaled, shift, table, values)
            own = _own(piece, x)
            own.of(out)[...] = found[..., : own.size]


def _own(piece: Piece, x: np.ndarray) -> Piece:
    """Return a piece without the zero beyond the row's end."""
    beyond = piece.column + piece.segments * piece.size - x.shape[1]
    return replace(piece, size=piece.size - beyond) if beyond > 0 else piece


def _widely(bits: np.ndarray, shift: int, low: Any, high: Any) -> np.ndarray:
    """Return the bits of the nearest abfloat magnitudes, ties to the even code, saturated at both ends."""
    held = np.clip((bits & MAGNITUDE).view(F32), low, high).view(U32)
    carry = U32((0x800000 >> (24 - int(shift))) - 1)
    return ((held + carry) + ((held >> U32(shift)) & U32(1))) >> U32(shift)


def whole_pair_codes(start, stop, x, scales, block, boundary, whole, wide, victim, out, worst):
    """Write the slot codes of pairs whose normal values are integers."""
    low, high, mask = whole
    shift, wide_low, wide_high, base_code, sign_shift, sign_bit = wide
    with np.errstate(all="ignore"):
        for piece, values, _, scaled in _scaled_pairs(start, stop, x, scales, block, worst):
            outside = np.abs(scaled) > boundary
            pairs = flagged_pairs(outside)
            bits = of_pairs(scaled, pairs).view(U32)
            stays, goes = roles(of_pairs(values, pairs), of_pairs(outside, pairs))
            outlier = _widely(bits, shift, wide_low, wide_high) - U32(base_code)
            outlier |= (bits >> U32(sign_shift)) & U32(sign_bit)
            np.clip(scaled, low, high, out=scaled)
            np.add(scaled, WHOLE, out=scaled)
            normal = scaled.view(U32)
            np.bitwise_and(normal, U32(mask), out=normal)
            own = of_pairs(normal, pairs)
            normal.reshape(-1, 2)[pairs] = np.where(goes, U32(victim), np.where(stays, outlier, own))
            piece.of(out)[...] = normal


def whole_values(
    values: np.ndarray, scale: Any, scaled: np.ndarray, boundary: Any, whole: tuple[Any, ...], wide: tuple[Any, ...]
) -> np.ndarray:
    """Return the values of pairs whose normal values are integers, in `scaled`."""
    shift, wide_low, wide_high = wide[:3]
    outside = np.abs(scaled) > boundary
    pairs = flagged_pairs(outside)
    bits = of_pairs(scaled, pairs).view(U32)
    stays, goes = roles(of_pairs(values, pairs), of_pairs(outside, pairs))
    outlier = ((_widely(bits, shift, wide_low, wide_high) << U32(shift)) | (bits & SIGN)).view(F32)
    outlier = np.where(goes, F32(0), outlier * scale_of_pairs(scale, values, pairs))
    np.clip(scaled, whole[0], whole[1], out=scaled)
    np.add(scaled, WHOLE, out=scaled)
    np.subtract(scaled, WHOLE, out=scaled)
    np.multiply(scaled, scale, out=scaled)
    scaled.reshape(-1, 2)[pairs] = np.where(stays | goes, outlier, of_pairs(scaled, pairs))
    return scaled


def whole_pair_values(start, stop, x, scales, block, boundary, whole, wide, out, worst):
    """Write the values of pairs whose normal values are integers."""
    with np.errstate(all="ignore"):
        for piece, values, scale, scaled in _scaled_pairs(start, stop, x, scales, block, worst):
            found = whole_values(values, scale, scaled, boundary, whole, wide)
            own = _own(piece, x)
            own.of(out)[...] = found[..., : own.size]


def decode_pairs(start, stop, codes, scales, block, victim, values, out):
    """Write the values of slot codes times the scale; `values` as in `pair_values`.

    Where both slots hold the victim's code, the left one is the victim.
    """
    with np.errstate(all="ignore"):
        for piece in pieces(start, stop, codes.shape[1], scales.shape[1], block):
            code, scale = piece.of(codes), piece.per_segment(scales)
            found = np.take(values, code) * scale
            marked = code == victim
            pairs = flagged_pairs(marked)
            own = of_pairs(marked, pairs)
            left = own[:, 0]
            goes, wide = np.stack((left, ~left), axis=1), np.stack((~left, left), axis=1)
            index = np.where(wide, of_pairs(code, pairs) + np.intp(256), 0)
            outliers = np.take(values, index, mode="clip") * scale_of_pairs(scale, code, pairs)
            found.reshape(-1, 2)[pairs] = np.where(goes, F32(0), outliers)
            kept = _own(piece, out)
            kept.of(out)[...] = found[..., : kept.size]
