"""Compiled loops over outlier-victim pairs.

`pair_*` look both elements up in a table over the leading bits of x / scale, whose entries hold the
nearest normal code, the nearest outlier code (from bit 8) and whether the element is an outlier (bit
16). `whole_pair_*` compute the same for integers. Of two outliers the larger magnitude stays, the left one
at a tie; an odd row sees a zero at its end. Every vector begins at a pair. Conventions as in `step`.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.lane_access import fetch, gather, put
from macloom.formats.kernels.lanes import (
    LANES,
    chosen,
    even_lanes,
    highest,
    least,
    most,
    number,
    pattern,
    spread,
    swapped,
)
from macloom.formats.kernels.lookup import cells
from macloom.formats.kernels.primitives import MAGNITUDE, SIGN, peek, shifted_right, smaller
from macloom.formats.kernels.stream import STRIP, base_of, closed, opened, passed

U32, F32 = np.uint32, np.float32
OUTLIER, BYTE = U32(1 << 16), U32(0xFF)
WHOLE = F32(3 << 22)  # the last place of its sums is 1


@njit(forceinline=True)
def roles(x, outlier):
    """Say which lanes keep their outlier and which are victims, from the elements and whether they are outliers.

    `outlier` is 1 or 0. A left element beats one of its own magnitude.
    """
    magnitude, other = pattern(x) & MAGNITUDE, swapped(outlier)
    wins = (magnitude + chosen(even_lanes(), U32(1), U32(0))) > swapped(magnitude)
    stays = outlier & (chosen(wins, U32(1), U32(0)) | (other ^ U32(1)))
    return stays != U32(0), (other & (stays ^ U32(1))) != U32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def pair_codes(start, stop, x, scales, block, shift, table, victim, out, worst):
    """Write the slot codes of pairs."""
    length, width, segments = x.shape[1], out.shape[1], scales.shape[1]
    shift, victim = U32(shift), U32(victim)
    below = U32((U32(1) << shift) - U32(1))
    at = start * width
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top, source, target = spread(U32(0)), r * length, r * width
        for s in range(segments):
            scale, end = peek(scales, r * segments + s), smaller(s * block + block, width)
            for first in range(s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, source + i, source + smaller(last, length))
                    top = most(top, pattern(value) & MAGNITUDE)
                    entry = gather(table, cells(pattern(value / scale), shift, below, None))
                    stays, goes = roles(value, entry >> U32(16))
                    code = chosen(stays, entry >> U32(8), entry) & BYTE
                    put(out, base, target + i, target + last, chosen(goes, victim, code))
                at = passed(out, tile, streamed, at, target + last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * width)


@njit(cache=True, nogil=True, error_model="numpy")
def pair_values(start, stop, x, scales, block, shift, table, values, out, worst):
    """Write the values of pairs; `values` gives that of each normal code, and from 256 on of each outlier code."""
    length, segments = x.shape[1], scales.shape[1]
    shift = U32(shift)
    below = U32((U32(1) << shift) - U32(1))
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale, end = peek(scales, r * segments + s), r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, i, last)
                    top = most(top, pattern(value) & MAGNITUDE)
                    entry = gather(table, cells(pattern(value / scale), shift, below, None))
                    stays, goes = roles(value, entry >> U32(16))
                    code = chosen(stays, ((entry >> U32(8)) & BYTE) | U32(256), entry & BYTE)
                    put(out, base, i, last, chosen(goes, F32(0), gather(values, code) * scale))
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)


@njit(forceinline=True)
def _widely(bits, wide):
    """Return the bits of the nearest abfloat magnitudes, ties to the even code, saturated at both ends."""
    shift, low, high = wide
    held = pattern(least(most(number(bits & MAGNITUDE), low), high))
    carry = U32(shifted_right(U32(0x800000), U32(U32(24) - shift)) - U32(1))
    return ((held + carry) + ((held >> shift) & U32(1))) >> shift


@njit(cache=True, nogil=True, error_model="numpy")
def whole_pair_codes(start, stop, x, scales, block, boundary, whole, wide, victim, out, worst):
    """Write the slot codes of pairs whose normal values are integers."""
    length, width, segments = x.shape[1], out.shape[1], scales.shape[1]
    low, high, mask = whole
    shift, wide_low, wide_high, base_code, sign_shift, sign_bit = wide
    mask, victim, shift = U32(mask), U32(victim), U32(shift)
    base_code, sign_shift, sign_bit = U32(base_code), U32(sign_shift), U32(sign_bit)
    at = start * width
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top, source, target = spread(U32(0)), r * length, r * width
        for s in range(segments):
            scale, end = peek(scales, r * segments + s), smaller(s * block + block, width)
            for first in range(s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, source + i, source + smaller(last, length))
                    top = most(top, pattern(value) & MAGNITUDE)
                    scaled = value / scale
                    bits = pattern(scaled)
                    stays, goes = roles(value, chosen(number(bits & MAGNITUDE) > boundary, U32(1), U32(0)))
                    outlier = (_widely(bits, (shift, wide_low, wide_high)) - base_code) | (
                        (bits >> sign_shift) & sign_bit
                    )
                    normal = pattern(least(most(scaled, low), high) + WHOLE) & mask
                    put(out, base, target + i, target + last, chosen(goes, victim, chosen(stays, outlier, normal)))
                at = passed(out, tile, streamed, at, target + last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * width)


@njit(forceinline=True)
def whole_pair(value, scale, boundary, low, high, shift, wide_low, wide_high):
    """Return the values of pairs whose normal values are integers."""
    scaled = value / scale
    bits = pattern(scaled)
    stays, goes = roles(value, chosen(number(bits & MAGNITUDE) > boundary, U32(1), U32(0)))
    outlier = number((_widely(bits, (shift, wide_low, wide_high)) << shift) | (bits & SIGN))
    normal = (least(most(scaled, low), high) + WHOLE) - WHOLE
    return chosen(goes, F32(0), chosen(stays, outlier, normal) * scale)


@njit(cache=True, nogil=True, error_model="numpy")
def whole_pair_values(start, stop, x, scales, block, boundary, whole, wide, out, worst):
    """Write the values of pairs whose normal values are integers."""
    length, segments = x.shape[1], scales.shape[1]
    low, high, _ = whole
    shift, wide_low, wide_high, _, _, _ = wide
    shift = U32(shift)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale, end = peek(scales, r * segments + s), r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, i, last)
                    top = most(top, pattern(value) & MAGNITUDE)
                    result = whole_pair(value, scale, boundary, low, high, shift, wide_low, wide_high)
                    put(out, base, i, last, result)
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)


@njit(cache=True, nogil=True, error_model="numpy")
def decode_pairs(start, stop, codes, scales, block, victim, values, out):
    """Write the values of slot codes times the scale; `values` as in `pair_values`.

    Where both slots hold the victim's code, the left one is the victim.
    """
    length, width, segments = out.shape[1], codes.shape[1], scales.shape[1]
    victim, one, none = U32(victim), U32(1), U32(0)
    at = start * length
    tile, streamed = opened(codes, out)
    for r in range(start, stop):
        source, target = r * width, r * length
        for s in range(segments):
            scale, end = peek(scales, r * segments + s), smaller(s * block + block, length)
            for first in range(s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    code = fetch(codes, source + i, source + smaller(first + STRIP, width))
                    left, own = chosen(even_lanes(), one, none), chosen(code == victim, one, none)
                    other = swapped(own)
                    wide = (other & ((own & left) ^ one)) != none
                    goes = (own & ((other & (left ^ one)) ^ one)) != none
                    value = gather(values, chosen(wide, code | U32(256), code)) * scale
                    put(out, base, target + i, target + last, chosen(goes, F32(0), value))
                at = passed(out, tile, streamed, at, target + last)
    closed(out, tile, streamed, at, stop * length)
