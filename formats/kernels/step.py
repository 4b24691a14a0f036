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

from macloom.formats.kernels.primitives import (
    EXPONENT,
    MAGNITUDE,
    SIGN,
    bits_of,
    float_of,
    larger,
    peek,
    poke,
    shifted_right,
    smaller,
)

U32, F32 = np.uint32, np.float32


@njit(forceinline=True)
def _magic(bits, min_bits, lift):
    """Return M for a magnitude's bits."""
    return float_of(U32(larger(U32(bits & EXPONENT), min_bits) + lift))


@njit(forceinline=True)
def nearest(scaled, min_bits, lift, low, high, zero):
    """Return the grid value nearest to `scaled`, ties to even, saturated; `zero` fixes the sign of 0."""
    clamped = smaller(larger(scaled, low), high)
    bits = bits_of(clamped)
    magnitude = float_of(U32(bits & MAGNITUDE))
    magic = _magic(bits, min_bits, lift)
    rounded = (magnitude + magic) - magic
    return float_of(U32(bits_of(rounded) | U32(bits & SIGN))) + zero


@njit(forceinline=True)
def _with_sign(code, bits, flip, sign_bit, keep_zero, mask):
    """Return a magnitude's code with the sign of the pattern `bits`, as the format shows it."""
    negative = U32(U32(0) - shifted_right(bits, U32(31)))
    turn = U32(negative & flip)
    shown = U32(negative & sign_bit) if U32(code | keep_zero) != U32(0) else U32(0)
    return U32(U32(U32(U32(code ^ turn) - turn) & mask) | shown)


@njit(forceinline=True)
def nearest_code(scaled, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask):
    """Return the code of the grid value nearest to `scaled`, ties to even, saturated."""
    clamped = smaller(larger(scaled, low), high)
    bits = bits_of(clamped)
    exponent = larger(U32(bits & EXPONENT), min_bits)
    magic = U32(exponent + lift)
    steps = U32(bits_of(float_of(U32(bits & MAGNITUDE)) + float_of(magic)) - magic)
    code = U32(steps + shifted_right(U32(exponent - min_bits), shift))
    return _with_sign(code, bits, flip, sign_bit, keep_zero, mask)


@njit(cache=True, nogil=True, error_model="numpy")
def round_steps(start, stop, x, scales, block, min_bits, lift, low, high, zero, out, worst):
    """Write the value nearest to x / scale, ties to even, saturated, times the scale.

    worst[r] receives the largest magnitude's bits of row r, to find non-finite input.
    """
    length, segments = x.shape[1], scales.shape[1]
    min_bits, lift = U32(min_bits), U32(lift)
    for r in range(start, stop):
        top = U32(0)
        for s in range(segments):
            first, last = r * length + s * block, r * length + smaller(s * block + block, length)
            scale = peek(scales, r * segments + s)
            for i in range(first, last):
                value = peek(x, i)
                top = larger(top, U32(bits_of(value) & MAGNITUDE))
                poke(out, i, nearest(value / scale, min_bits, lift, low, high, zero) * scale)
        worst[r] = top


@njit(cache=True, nogil=True, error_model="numpy")
def step_codes(
    start, stop, x, scales, block, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask, out, worst
):
    """Write the code of the value nearest to x / scale; see `round_steps`."""
    length, segments = x.shape[1], scales.shape[1]
    shift, min_bits, lift = U32(shift), U32(min_bits), U32(lift)
    flip, sign_bit, keep_zero, mask = U32(flip), U32(sign_bit), U32(keep_zero), U32(mask)
    for r in range(start, stop):
        top = U32(0)
        for s in range(segments):
            first, last = r * length + s * block, r * length + smaller(s * block + block, length)
            scale = peek(scales, r * segments + s)
            for i in range(first, last):
                value = peek(x, i)
                top = larger(top, U32(bits_of(value) & MAGNITUDE))
                code = nearest_code(value / scale, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask)
                poke(out, i, out.dtype.type(code))
        worst[r] = top


# Exponents from far_bits on are lowered by this before rounding, so that M does not overflow.
FAR, FAR_BITS = F32(2.0**64), U32(64 << 23)


@njit(forceinline=True)
def _directed(scaled, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even, drawn):
    """Round a magnitude by rule: return the value and its code, both without sign.

    The fraction of a step above the lower neighbour goes up if it exceeds a limit: `drawn` if there is
    one, else `limit_odd` where there is one and the neighbour's code is odd, else `limit_even`.
    """
    bits = U32(bits_of(smaller(larger(scaled, low), high)) & MAGNITUDE)
    lowered, grow = U32(0), F32(1)
    if far_bits is not None and bits >= U32(far_bits):
        lowered, grow = FAR_BITS, FAR
    bits = U32(bits - lowered)
    magnitude = float_of(bits)
    exponent = larger(U32(bits & EXPONENT), min_bits)
    magic_bits = U32(exponent + lift)
    magic, step = float_of(magic_bits), float_of(exponent) * step_scale
    nearest = (magnitude + magic) - magic
    floor = nearest - (step if nearest > magnitude else F32(0))
    code = U32(U32(bits_of(floor + magic) - magic_bits) + shifted_right(U32(exponent - min_bits), shift))
    if drawn is None:
        if limit_odd is None:
            limit = limit_even
        else:
            limit = limit_odd if U32(code & U32(1)) != U32(0) else limit_even
    else:
        limit = drawn
    up = magnitude - floor > limit * step
    value = (floor + (step if up else F32(0))) * grow
    return value, U32(U32(code + (U32(1) if up else U32(0))) + shifted_right(lowered, shift))


@njit(forceinline=True)
def _drawn(draws, index, drop, unit):
    """Return the draw's leading bits as a number in [0, 1), None where there are no draws."""
    if draws is None:
        return None
    return F32(shifted_right(U32(peek(draws, index)), drop)) * unit


@njit(cache=True, nogil=True, error_model="numpy")
def direct_steps(
    start, stop, x, scales, block, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
    draws, draw_bits, zero, out, worst,
):  # fmt: skip
    """Write x / scale rounded by rule, saturated, times the scale.

    With draws (uint16, one for each element of the rows from 0 on) rounding is stochastic on their
    leading `draw_bits` bits.
    """
    length, segments = x.shape[1], scales.shape[1]
    shift, min_bits, lift = U32(shift), U32(min_bits), U32(lift)
    drop, unit = U32(16 - draw_bits), F32(2.0**-draw_bits)
    for r in range(start, stop):
        top = U32(0)
        for s in range(segments):
            first, last = r * length + s * block, r * length + smaller(s * block + block, length)
            scale = peek(scales, r * segments + s)
            for i in range(first, last):
                value = peek(x, i)
                top = larger(top, U32(bits_of(value) & MAGNITUDE))
                scaled = value / scale
                rounded, _ = _directed(
                    scaled, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
                    _drawn(draws, i, drop, unit),
                )  # fmt: skip
                negative = U32(bits_of(larger(scaled, low)) & SIGN)
                poke(out, i, (float_of(U32(bits_of(rounded) | negative)) + zero) * scale)
        worst[r] = top


@njit(cache=True, nogil=True, error_model="numpy")
def direct_codes(
    start, stop, x, scales, block, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
    draws, draw_bits, flip, sign_bit, keep_zero, mask, out, worst,
):  # fmt: skip
    """Write the codes of what `direct_steps` writes."""
    length, segments = x.shape[1], scales.shape[1]
    shift, min_bits, lift = U32(shift), U32(min_bits), U32(lift)
    flip, sign_bit, keep_zero, mask = U32(flip), U32(sign_bit), U32(keep_zero), U32(mask)
    drop, unit = U32(16 - draw_bits), F32(2.0**-draw_bits)
    for r in range(start, stop):
        top = U32(0)
        for s in range(segments):
            first, last = r * length + s * block, r * length + smaller(s * block + block, length)
            scale = peek(scales, r * segments + s)
            for i in range(first, last):
                value = peek(x, i)
                top = larger(top, U32(bits_of(value) & MAGNITUDE))
                scaled = value / scale
                _, code = _directed(
                    scaled, shift, min_bits, lift, far_bits, step_scale, low, high, limit_odd, limit_even,
                    _drawn(draws, i, drop, unit),
                )  # fmt: skip
                signed = _with_sign(code, bits_of(larger(scaled, low)), flip, sign_bit, keep_zero, mask)
                poke(out, i, out.dtype.type(signed))
        worst[r] = top
