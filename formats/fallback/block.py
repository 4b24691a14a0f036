"""Blocks rounded under scales of their own; see `macloom.formats.kernels.block`."""

from __future__ import annotations

from typing import Any

import numpy as np

from macloom.formats.fallback.lookup import absmax
from macloom.formats.fallback.step import nearest, nearest_code
from macloom.formats.fallback.tiles import TILE, Buffers, pieces

U32, F32 = np.uint32, np.float32
TINY_BITS = U32(0x00400000)  # 2**-127


def _tops(start: int, stop: int, x: np.ndarray, block: int, worst: np.ndarray) -> np.ndarray:
    """Return the largest magnitude of every block of the rows, and note each row's."""
    tops = np.empty((stop - start, -(-x.shape[1] // block)), F32)
    absmax(0, stop - start, x[start:stop], block, tops)
    worst[start:stop] = tops.view(U32).max(axis=1)
    return tops


def _strips(start: int, stop: int, length: int) -> range:
    """Return the first rows of strips whose blocks stay in the cache between the search for scales and their use."""
    return range(start, stop, max(1, TILE // length))


def _power(tops: np.ndarray, clip: Any, carry: int, offset: int, top_exponent: int) -> np.ndarray:
    """Return the biased exponents (uint32, 0 to `top_exponent`) of scales for the largest magnitudes."""
    field = ((tops * clip).view(U32) + U32(carry)) >> U32(23)
    return np.minimum(np.maximum(field, U32(offset)) - U32(offset), U32(top_exponent))


def _power_of_two(biased: np.ndarray) -> np.ndarray:
    return np.where(biased > 0, biased << U32(23), TINY_BITS).astype(U32).view(F32)


def power_values(start, stop, x, block, clip, carry, offset, top_exponent, min_bits, lift, low, high, zero, out, worst):
    """Write blocks rounded under their own power-of-two scale."""
    buffers, step = Buffers(3), max(1, TILE // x.shape[1])
    with np.errstate(all="ignore"):
        for first in _strips(start, stop, x.shape[1]):
            last = min(first + step, stop)
            own, into = x[first:last], out[first:last]
            biased = _power(_tops(first, last, x, block, worst), clip, carry, offset, top_exponent)
            scales, inverses = _power_of_two(biased), _power_of_two(U32(254) - biased)
            for piece in pieces(0, last - first, x.shape[1], scales.shape[1], block):
                scaled, buffer, scratch = buffers.shaped(piece)
                np.multiply(piece.of(own), piece.per_segment(inverses), out=scaled)
                rounded = nearest(scaled, buffer, scratch, min_bits, lift, low, high, zero)
                np.multiply(rounded, piece.per_segment(scales), out=piece.of(into))


def power_codes(
    start, stop, x, block, clip, carry, offset, top_exponent, shift, min_bits, lift, low, high, flip, sign_bit,
    keep_zero, mask, out, scales, worst,
):  # fmt: skip
    """Write the codes of `power_values` and the biased exponents (uint8) of the scales."""
    buffers, step = Buffers(3), max(1, TILE // x.shape[1])
    with np.errstate(all="ignore"):
        for first in _strips(start, stop, x.shape[1]):
            last = min(first + step, stop)
            own, into = x[first:last], out[first:last]
            biased = _power(_tops(first, last, x, block, worst), clip, carry, offset, top_exponent)
            scales[first:last] = biased
            inverses = _power_of_two(U32(254) - biased)
            for piece in pieces(0, last - first, x.shape[1], scales.shape[1], block):
                scaled, one, two = buffers.shaped(piece)
                np.multiply(piece.of(own), piece.per_segment(inverses), out=scaled)
                piece.of(into)[...] = nearest_code(
                    scaled, one, two, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask
                )


def _stored(
    tops: np.ndarray, clip: Any, largest: Any, outer: Any, rounded: bool, min_bits: int, lift: int, low: Any, high: Any,
    empty: Any,
) -> np.ndarray:  # fmt: skip
    """Return blocks' scales, rounded to the scale format whose parameters these are."""
    wanted = tops * clip / largest / outer
    if rounded:
        scales = nearest(wanted, np.empty_like(wanted), np.empty_like(wanted), min_bits, lift, low, high, F32(0))
    else:
        scales = np.clip(wanted, low, high)
    return np.where(tops.view(U32) > 0, scales, empty)


def grouped_values(
    start, stop, x, block, clip, largest, outer, rounded, s_bits, s_lift, s_low, s_high, empty, min_bits, lift, low,
    high, zero, out, worst,
):  # fmt: skip
    """Write blocks rounded under their own scale: largest magnitude * clip / largest / outer, as stored."""
    buffers, step = Buffers(3), max(1, TILE // x.shape[1])
    with np.errstate(all="ignore"):
        for first in _strips(start, stop, x.shape[1]):
            last = min(first + step, stop)
            own, into = x[first:last], out[first:last]
            tops = _tops(first, last, x, block, worst)
            stored = _stored(tops, clip, largest, outer, rounded, s_bits, s_lift, s_low, s_high, empty)
            both = stored * outer
            for piece in pieces(0, last - first, x.shape[1], both.shape[1], block):
                scaled, buffer, scratch = buffers.shaped(piece)
                scale = piece.per_segment(both)
                np.divide(piece.of(own), scale, out=scaled)
                values = nearest(scaled, buffer, scratch, min_bits, lift, low, high, zero)
                np.multiply(values, scale, out=piece.of(into))


def grouped_codes(
    start, stop, x, block, clip, largest, outer, rounded, s_bits, s_lift, s_low, s_high, empty, shift, min_bits, lift,
    low, high, flip, sign_bit, keep_zero, mask, out, scales, worst,
):  # fmt: skip
    """Write the codes of `grouped_values` and the stored scales (float32, without `outer`)."""
    buffers, step = Buffers(3), max(1, TILE // x.shape[1])
    with np.errstate(all="ignore"):
        for first in _strips(start, stop, x.shape[1]):
            last = min(first + step, stop)
            own, into = x[first:last], out[first:last]
            tops = _tops(first, last, x, block, worst)
            stored = _stored(tops, clip, largest, outer, rounded, s_bits, s_lift, s_low, s_high, empty)
            scales[first:last] = stored
            both = stored * outer
            for piece in pieces(0, last - first, x.shape[1], both.shape[1], block):
                scaled, one, two = buffers.shaped(piece)
                np.divide(piece.of(own), piece.per_segment(both), out=scaled)
                piece.of(into)[...] = nearest_code(
                    scaled, one, two, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask
                )
