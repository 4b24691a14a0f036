"""Compiled loops that round to grids with steps: floats of any width and integers.

The value of an exponent's binade is rounded by adding and subtracting M, the power of two whose last
place is the grid's step there; below the smallest normal the exponent is held, so that subnormals and
integers take the same path. It needs 1 to 22 mantissa bits and no binade near float32's largest, which
`rounders.step_parameters` sees to by scaling. The compiler may not reassociate: fastmath stays off.

A tensor is seen as rows x length; each row is cut into segments of `block` elements that share a
scale (the last segment may be shorter). Kernels work on the rows [start, stop) so that threads can
share a tensor; none of them allocates.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.lane_access import fetch, put, take
from macloom.formats.kernels.lanes import LANES, chosen, highest, least, most, number, pattern, spread
from macloom.formats.kernels.primitives import EXPONENT, MAGNITUDE, SIGN, peek, smaller
from macloom.formats.kernels.stream import STRIP, base_of, closed, opened, passed

U32, F32 = np.uint32, np.float32


@njit(forceinline=True)
def nearest(scaled, min_bits, lift, low, high, zero):
    """Return the grid values nearest to `scaled`, ties to even, saturated; `zero` fixes the sign of 0."""
    clamped = least(most(scaled, low), high)
    bits = pattern(clamped)
    magic = number(most(bits & EXPONENT, min_bits) + lift)
    rounded = (number(bits & MAGNITUDE) + magic) - magic
    return number(pattern(rounded) | (bits & SIGN)) + zero


@njit(forceinline=True)
def _with_sign(code, bits, flip, sign_bit, keep_zero, mask):
    """Return magnitudes' codes with the sign of the patterns `bits`, as the format shows it."""
    negative = U32(0) - (bits >> U32(31))
    turn = negative & flip
    shown = chosen((code | keep_zero) != U32(0), negative & sign_bit, U32(0))
    return (((code ^ turn) - turn) & mask) | shown


@njit(forceinline=True)
def nearest_code(scaled, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask):
    """Return the codes of the grid values nearest to `scaled`, ties to even, saturated."""
    bits = pattern(least(most(scaled, low), high))
    exponent = most(bits & EXPONENT, min_bits)
    magic = exponent + lift
    steps = pattern(number(bits & MAGNITUDE) + number(magic)) - magic
    return _with_sign(steps + ((exponent - min_bits) >> shift), bits, flip, sign_bit, keep_zero, mask)


@njit(cache=True, nogil=True, error_model="numpy")
def round_steps(start, stop, x, scales, block, min_bits, lift, low, high, zero, out, worst):
    """Write the value nearest to x / scale, ties to even, saturated, times the scale.

    worst[r] receives the largest magnitude's bits of row r, to find non-finite input.
    """
    length, segments = x.shape[1], scales.shape[1]
    min_bits, lift = U32(min_bits), U32(lift)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, i, last)
                    top = most(top, pattern(value) & MAGNITUDE)
                    put(out, base, i, last, nearest(value / scale, min_bits, lift, low, high, zero) * scale)
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)


@njit(cache=True, nogil=True, error_model="numpy")
def step_codes(
    start, stop, x, scales, block, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask, out, worst
):
    """Write the code of the value nearest to x / scale; see `round_steps`."""
    length, segments = x.shape[1], scales.shape[1]
    shift, min_bits, lift = U32(shift), U32(min_bits), U32(lift)
    flip, sign_bit, keep_zero, mask = U32(flip), U32(sign_bit), U32(keep_zero), U32(mask)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, i, last)
                    top = most(top, pattern(value) & MAGNITUDE)
                    code = nearest_code(
                        value / scale, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask
                    )
                    put(out, base, i, last, code)
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)


# Exponents from far_bits on are lowered by this before rounding, so that M does not overflow.
FAR, FAR_BITS = F32(2.0**64), U32(64 << 23)
WHOLE = F32(1 << 23)
WHOLE_BITS = U32((127 + 23) << 23)


@njit(forceinline=True)
def _directed(scaled, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even, drawn):
    """Round magnitudes by rule: return the values and their codes, both without sign.

    The fraction of a step above the lower neighbour goes up if it exceeds a limit: `drawn` if there is
    one, else `limit_odd` where there is one and the neighbour's code is odd, else `limit_even`.
    """
    bits = pattern(least(most(scaled, low), high)) & MAGNITUDE
    if far_bits is None:
        lowered, grow = spread(U32(0)), spread(F32(1))
    else:
        far = bits >= U32(far_bits)
        lowered, grow = chosen(far, FAR_BITS, U32(0)), chosen(far, FAR, F32(1))
    bits = bits - lowered
    magnitude = number(bits)
    exponent = most(bits & EXPONENT, min_bits)
    magic_bits = exponent + lift
    magic, step = number(magic_bits), number(exponent) * step_scale
    nearest = (magnitude + magic) - magic
    floor = nearest - chosen(nearest > magnitude, step, F32(0))
    code = (pattern(floor + magic) - magic_bits) + ((exponent - min_bits) >> shift)
    if drawn is None:
        if limit_odd is None:
            up = (magnitude - floor) > step * limit_even
        else:
            up = (magnitude - floor) > step * chosen((code & U32(1)) != U32(0), limit_odd, limit_even)
    else:
        up = (magnitude - floor) > drawn * step
    value = (floor + chosen(up, step, F32(0))) * grow
    return value, (code + chosen(up, U32(1), U32(0))) + (lowered >> shift)


@njit(forceinline=True)
def _drawn(draws, first, index, last, drop, unit):
    """Return the draws' leading bits as numbers in [0, 1), None where there are no draws."""
    if draws is None:
        return None
    # Below the leading bit of 2**23, whole numbers are their own mantissa.
    return (number((take(draws, index - first, last - first) >> drop) | WHOLE_BITS) - WHOLE) * unit


@njit(cache=True, nogil=True, error_model="numpy")
def direct_steps(
    start, stop, x, scales, block, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
    draws, draw_from, draw_bits, zero, out, worst,
):  # fmt: skip
    """Write x / scale rounded by rule, saturated, times the scale.

    With draws (uint16, one for each element from element `draw_from` on) rounding is stochastic on their
    leading `draw_bits` bits.
    """
    length, segments = x.shape[1], scales.shape[1]
    shift, min_bits, lift = U32(shift), U32(min_bits), U32(lift)
    drop, unit = U32(16 - draw_bits), F32(2.0**-draw_bits)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, i, last)
                    top = most(top, pattern(value) & MAGNITUDE)
                    scaled = value / scale
                    rounded, _ = _directed(
                        scaled, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
                        _drawn(draws, draw_from, i, last, drop, unit),
                    )  # fmt: skip
                    negative = pattern(most(scaled, low)) & SIGN
                    put(out, base, i, last, (number(pattern(rounded) | negative) + zero) * scale)
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)


@njit(cache=True, nogil=True, error_model="numpy")
def direct_codes(
    start, stop, x, scales, block, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
    draws, draw_from, draw_bits, flip, sign_bit, keep_zero, mask, out, worst,
):  # fmt: skip
    """Write the codes of what `direct_steps` writes."""
    length, segments = x.shape[1], scales.shape[1]
    shift, min_bits, lift = U32(shift), U32(min_bits), U32(lift)
    flip, sign_bit, keep_zero, mask = U32(flip), U32(sign_bit), U32(keep_zero), U32(mask)
    drop, unit = U32(16 - draw_bits), F32(2.0**-draw_bits)
    at = start * length
    tile, streamed = opened(x, out)
    for r in range(start, stop):
        top = spread(U32(0))
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            end = r * length + smaller(s * block + block, length)
            for first in range(r * length + s * block, end, STRIP):
                last = smaller(first + STRIP, end)
                base = base_of(out, tile, streamed, at)
                for i in range(first, last, LANES):
                    value = fetch(x, i, last)
                    top = most(top, pattern(value) & MAGNITUDE)
                    scaled = value / scale
                    _, code = _directed(
                        scaled, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
                        _drawn(draws, draw_from, i, last, drop, unit),
                    )  # fmt: skip
                    signed = _with_sign(code, pattern(most(scaled, low)), flip, sign_bit, keep_zero, mask)
                    put(out, base, i, last, signed)
                at = passed(out, tile, streamed, at, last)
        worst[r] = highest(top)
    closed(out, tile, streamed, at, stop * length)
