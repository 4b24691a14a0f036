"""Compiled loops that find the scale of each block, round the block and store it, in one pass over memory.

The scales are powers of two (`power_*`, OCP MX and block floating point) or values of a scale format
(`grouped_*`, integer groups, NVFP4). Blocks are taken in batches of up to sixteen that fit the first-level
cache: first the largest magnitude of each, then all their scales at once, then the elements, which each
block rounds with what the batch has noted for it. Conventions as in `step`.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.lane_access import address, fetch, put, take
from macloom.formats.kernels.lanes import (
    LANES,
    chosen,
    every,
    highest,
    highest_of_rows,
    least,
    most,
    number,
    pattern,
    spread,
)
from macloom.formats.kernels.primitives import MAGNITUDE, bits_of, larger, peek, shifted_right, smaller
from macloom.formats.kernels.step import nearest, nearest_code
from macloom.formats.kernels.stream import STRIP, base_of, closed, opened, passed

U32, F32 = np.uint32, np.float32
TINY_BITS = U32(0x00400000)  # 2**-127
BIAS = U32(127)
VECTORS = STRIP // LANES


@njit(cache=True, nogil=True)
def _cut(block):
    """Cut a full batch of blocks into vectors: return of each where it begins and ends, and its block's number.

    The numbers end with -1, which no block has.
    """
    batch = larger(1, smaller(LANES, STRIP // block))
    each = (block + LANES - 1) // LANES
    begins, ends = np.empty(batch * each, np.int64), np.empty(batch * each, np.int64)
    owners = np.full(batch * each + 1, -1, np.int64)
    for k in range(batch * each):
        b = k // each
        begins[k] = b * block + k % each * LANES
        ends[k] = (b + 1) * block
        owners[k] = b
    return batch, begins, ends, owners


@njit(forceinline=True)
def _vectors(block, count, size):
    """Return into how many vectors a batch of `count` blocks is cut that holds `size` elements."""
    return (count - 1) * ((block + LANES - 1) // LANES) + (size - (count - 1) * block + LANES - 1) // LANES


@njit(forceinline=True)
def _tops(x, first, size, count, vectors, begins, ends, owners, rows):
    """Return the largest magnitudes' bits of a batch's blocks; lanes without a block are as the first one's."""
    top = spread(U32(0))
    for k in range(vectors):
        value = fetch(x, first + peek(begins, k), first + smaller(peek(ends, k), size))
        top = most(top, pattern(value) & MAGNITUDE)
        owner = peek(owners, k)
        if owner != peek(owners, k + 1) or k + 1 == vectors:
            put(rows, address(rows), owner * LANES, (owner + 1) * LANES, top)
            top = spread(U32(0))
    for b in range(count, LANES):
        put(rows, address(rows), b * LANES, (b + 1) * LANES, take(rows, 0, LANES))
    return highest_of_rows(rows)


@njit(forceinline=True)
def _power(tops, clip, carry, offset, top_exponent):
    """Return the biased exponents (0 to `top_exponent`) of scales from the largest magnitudes' bits."""
    field = (pattern(number(tops) * clip) + carry) >> U32(23)
    return least(most(field, offset) - offset, top_exponent)


@njit(forceinline=True)
def _power_of_two(biased):
    return number(chosen(biased > U32(0), biased << U32(23), TINY_BITS))


@njit(forceinline=True)
def _field(value):
    return shifted_right(U32(bits_of(value) & MAGNITUDE), U32(23))


@njit(forceinline=True)
def _moved(biased, min_bits, lift, low, high):
    """Move a grid by scales' exponents: (whether all magic numbers stay finite and normal, min_bits, low, high).

    Rounding to the moved grid is rounding x / scale and multiplying, without either operation.
    """
    field = shifted_right(min_bits, U32(23))
    top = U32(larger(field, larger(_field(low), _field(high))) + shifted_right(lift, U32(23)))
    fits = ((biased + field) > BIAS) & ((biased + top) < U32(255 + 127))
    scale = _power_of_two(biased)
    return every(fits), ((biased - BIAS) << U32(23)) + min_bits, scale * low, scale * high


@njit(cache=True, nogil=True, error_model="numpy")
def power_values(start, stop, x, block, clip, carry, offset, top_exponent, min_bits, lift, low, high, zero, out, worst):
    """Write blocks rounded under their own power-of-two scale.

    The scale's biased exponent is the exponent field of largest * clip, its bits raised by `carry`, less
    `offset`, from 0 to `top_exponent`.
    """
    length = x.shape[1]
    segments = (length + block - 1) // block
    carry, offset, top_exponent, min_bits, lift = U32(carry), U32(offset), U32(top_exponent), U32(min_bits), U32(lift)
    batch, begins, ends, owners = _cut(block)
    rows, bits = np.empty(LANES * LANES, np.uint32), np.empty(LANES, np.uint32)
    lows, highs = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    scales, inverses = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        worst_bits = spread(U32(0))
        for s in range(0, segments, batch):
            count, first = smaller(batch, segments - s), r * length + s * block
            size = smaller(count * block, length - s * block)
            vectors = _vectors(block, count, size)
            tops = _tops(x, first, size, count, vectors, begins, ends, owners, rows)
            worst_bits = most(worst_bits, tops)
            biased = _power(tops, clip, carry, offset, top_exponent)
            fits, moved_bits, moved_low, moved_high = _moved(biased, min_bits, lift, low, high)
            put(bits, address(bits), 0, LANES, moved_bits)
            put(lows, address(lows), 0, LANES, moved_low)
            put(highs, address(highs), 0, LANES, moved_high)
            if not fits:
                put(scales, address(scales), 0, LANES, _power_of_two(biased))
                put(inverses, address(inverses), 0, LANES, _power_of_two(U32(254) - biased))
            for strip in range(0, vectors, VECTORS):
                base, end = base_of(out, tile, streamed, at), first
                for k in range(strip, smaller(strip + VECTORS, vectors)):
                    b, i = peek(owners, k), first + peek(begins, k)
                    end = first + smaller(peek(ends, k), size)
                    value = take(x, i, end)
                    if fits:
                        result = nearest(value, peek(bits, b), lift, peek(lows, b), peek(highs, b), zero)
                    else:
                        result = nearest(value * peek(inverses, b), min_bits, lift, low, high, zero) * peek(scales, b)
                    put(out, base, i, end, result)
                    end = smaller(end, i + LANES)
                at = passed(out, tile, streamed, at, end)
        worst[r] = highest(worst_bits)
    closed(out, tile, streamed, at, stop * length)


@njit(cache=True, nogil=True, error_model="numpy")
def power_codes(
    start, stop, x, block, clip, carry, offset, top_exponent, shift, min_bits, lift, low, high, flip, sign_bit,
    keep_zero, mask, out, scales, worst,
):  # fmt: skip
    """Write the codes of `power_values` and the biased exponents (uint8) of the scales."""
    length, segments = x.shape[1], scales.shape[1]
    carry, offset, top_exponent = U32(carry), U32(offset), U32(top_exponent)
    shift, min_bits, lift = U32(shift), U32(min_bits), U32(lift)
    flip, sign_bit, keep_zero, mask = U32(flip), U32(sign_bit), U32(keep_zero), U32(mask)
    batch, begins, ends, owners = _cut(block)
    rows, inverses = np.empty(LANES * LANES, np.uint32), np.empty(LANES, np.float32)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        worst_bits = spread(U32(0))
        for s in range(0, segments, batch):
            count, first = smaller(batch, segments - s), r * length + s * block
            size = smaller(count * block, length - s * block)
            vectors = _vectors(block, count, size)
            tops = _tops(x, first, size, count, vectors, begins, ends, owners, rows)
            worst_bits = most(worst_bits, tops)
            biased = _power(tops, clip, carry, offset, top_exponent)
            put(scales, address(scales), r * segments + s, r * segments + s + count, biased)
            put(inverses, address(inverses), 0, LANES, _power_of_two(U32(254) - biased))
            for strip in range(0, vectors, VECTORS):
                base, end = base_of(out, tile, streamed, at), first
                for k in range(strip, smaller(strip + VECTORS, vectors)):
                    b, i = peek(owners, k), first + peek(begins, k)
                    end = first + smaller(peek(ends, k), size)
                    code = nearest_code(
                        take(x, i, end) * peek(inverses, b),
                        shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask,
                    )  # fmt: skip
                    put(out, base, i, end, code)
                    end = smaller(end, i + LANES)
                at = passed(out, tile, streamed, at, end)
        worst[r] = highest(worst_bits)
    closed(out, tile, streamed, at, stop * length)


@njit(forceinline=True)
def _stored(tops, clip, largest, outer, scale_steps, empty):
    """Return blocks' scales, rounded to the scale format whose parameters are `scale_steps`."""
    rounded, min_bits, lift, low, high = scale_steps
    wanted = number(tops) * clip / largest / outer
    if rounded:
        scales = nearest(wanted, min_bits, lift, low, high, F32(0))
    else:
        scales = least(most(wanted, low), high)
    return chosen(tops > U32(0), scales, empty)


@njit(cache=True, nogil=True, error_model="numpy")
def grouped_values(
    start, stop, x, block, clip, largest, outer, rounded, s_bits, s_lift, s_low, s_high, empty, min_bits, lift, low,
    high, zero, out, worst,
):  # fmt: skip
    """Write blocks rounded under their own scale: largest magnitude * clip / largest / outer, as stored."""
    length = x.shape[1]
    segments = (length + block - 1) // block
    min_bits, lift = U32(min_bits), U32(lift)
    steps = (rounded, U32(s_bits), U32(s_lift), s_low, s_high)
    batch, begins, ends, owners = _cut(block)
    rows, scales = np.empty(LANES * LANES, np.uint32), np.empty(LANES, np.float32)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        worst_bits = spread(U32(0))
        for s in range(0, segments, batch):
            count, first = smaller(batch, segments - s), r * length + s * block
            size = smaller(count * block, length - s * block)
            vectors = _vectors(block, count, size)
            tops = _tops(x, first, size, count, vectors, begins, ends, owners, rows)
            worst_bits = most(worst_bits, tops)
            put(scales, address(scales), 0, LANES, _stored(tops, clip, largest, outer, steps, empty) * outer)
            for strip in range(0, vectors, VECTORS):
                base, end = base_of(out, tile, streamed, at), first
                for k in range(strip, smaller(strip + VECTORS, vectors)):
                    b, i = peek(owners, k), first + peek(begins, k)
                    end = first + smaller(peek(ends, k), size)
                    scale = peek(scales, b)
                    put(out, base, i, end, nearest(take(x, i, end) / scale, min_bits, lift, low, high, zero) * scale)
                    end = smaller(end, i + LANES)
                at = passed(out, tile, streamed, at, end)
        worst[r] = highest(worst_bits)
    closed(out, tile, streamed, at, stop * length)


@njit(cache=True, nogil=True, error_model="numpy")
def grouped_codes(
    start, stop, x, block, clip, largest, outer, rounded, s_bits, s_lift, s_low, s_high, empty, shift, min_bits, lift,
    low, high, flip, sign_bit, keep_zero, mask, out, scales, worst,
):  # fmt: skip
    """Write the codes of `grouped_values` and the stored scales (float32, without `outer`)."""
    length, segments = x.shape[1], scales.shape[1]
    shift, min_bits, lift = U32(shift), U32(min_bits), U32(lift)
    flip, sign_bit, keep_zero, mask = U32(flip), U32(sign_bit), U32(keep_zero), U32(mask)
    steps = (rounded, U32(s_bits), U32(s_lift), s_low, s_high)
    batch, begins, ends, owners = _cut(block)
    rows, both = np.empty(LANES * LANES, np.uint32), np.empty(LANES, np.float32)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        worst_bits = spread(U32(0))
        for s in range(0, segments, batch):
            count, first = smaller(batch, segments - s), r * length + s * block
            size = smaller(count * block, length - s * block)
            vectors = _vectors(block, count, size)
            tops = _tops(x, first, size, count, vectors, begins, ends, owners, rows)
            worst_bits = most(worst_bits, tops)
            stored = _stored(tops, clip, largest, outer, steps, empty)
            put(scales, address(scales), r * segments + s, r * segments + s + count, stored)
            put(both, address(both), 0, LANES, stored * outer)
            for strip in range(0, vectors, VECTORS):
                base, end = base_of(out, tile, streamed, at), first
                for k in range(strip, smaller(strip + VECTORS, vectors)):
                    b, i = peek(owners, k), first + peek(begins, k)
                    end = first + smaller(peek(ends, k), size)
                    code = nearest_code(
                        take(x, i, end) / peek(both, b),
                        shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask,
                    )  # fmt: skip
                    put(out, base, i, end, code)
                    end = smaller(end, i + LANES)
                at = passed(out, tile, streamed, at, end)
        worst[r] = highest(worst_bits)
    closed(out, tile, streamed, at, stop * length)
