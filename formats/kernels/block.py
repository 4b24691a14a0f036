"""Compiled loops that find the scale of each block, round the block and store it, in one pass over memory.

The scales are powers of two (`power_*`, OCP MX and block floating point) or values of a scale format
(`grouped_*`, integer groups, NVFP4). Conventions as in `step_kernels`.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.primitives import MAGNITUDE, bits_of, float_of, larger, peek, poke, shifted_right, smaller
from macloom.formats.kernels.step import nearest, nearest_code

U32, F32, I32 = np.uint32, np.float32, np.int32
TINY_BITS = U32(0x00400000)  # 2**-127


@njit(forceinline=True)
def _absmax_bits(x, first, last):
    top = U32(0)
    for i in range(first, last):
        top = larger(top, U32(bits_of(peek(x, i)) & MAGNITUDE))
    return top


@njit(forceinline=True)
def _power(top, clip, carry, offset, most):
    """Return the biased exponent (0 to `most`) of a block's scale from its largest magnitude's bits."""
    bits = U32(bits_of(float_of(top) * clip) + carry)
    return smaller(larger(I32(I32(shifted_right(bits, U32(23))) - offset), I32(0)), most)


@njit(forceinline=True)
def _power_of_two(biased):
    return float_of(U32(U32(biased) << U32(23)) if biased > I32(0) else TINY_BITS)


@njit(forceinline=True)
def _moved(biased, min_bits, lift, low, high):
    """Move a grid by a scale's exponent: (whether its magic numbers stay finite and normal, min_bits, low, high).

    Rounding to the moved grid is rounding x / scale and multiplying, without either operation.
    """
    field = I32(shifted_right(min_bits, U32(23)))
    top = larger(field, larger(_field(low), _field(high)))
    move = I32(biased - I32(127))
    fits = (I32(field + move) > I32(0)) & (I32(I32(top + move) + I32(shifted_right(lift, U32(23)))) < I32(255))
    scale = _power_of_two(biased)
    return fits, U32(min_bits + U32(U32(move) << U32(23))), low * scale, high * scale


@njit(forceinline=True)
def _field(value):
    return I32(shifted_right(U32(bits_of(value) & MAGNITUDE), U32(23)))


@njit(cache=True, nogil=True, error_model="numpy")
def power_values(start, stop, x, block, clip, carry, offset, most, min_bits, lift, low, high, zero, out, worst):
    """Write blocks rounded under their own power-of-two scale.

    The scale's biased exponent is the exponent field of largest * clip, its bits raised by `carry`, less
    `offset`, from 0 to `most`.
    """
    length = x.shape[1]
    segments = (length + block - 1) // block
    carry, offset, most, min_bits, lift = U32(carry), I32(offset), I32(most), U32(min_bits), U32(lift)
    for r in range(start, stop):
        worst_bits = U32(0)
        for s in range(segments):
            first, last = r * length + s * block, r * length + smaller(s * block + block, length)
            top = _absmax_bits(x, first, last)
            worst_bits = larger(worst_bits, top)
            biased = _power(top, clip, carry, offset, most)
            fits, moved_bits, moved_low, moved_high = _moved(biased, min_bits, lift, low, high)
            if fits:
                for i in range(first, last):
                    poke(out, i, nearest(peek(x, i), moved_bits, lift, moved_low, moved_high, zero))
            else:
                scale, inverse = _power_of_two(biased), _power_of_two(I32(I32(254) - biased))
                for i in range(first, last):
                    poke(out, i, nearest(peek(x, i) * inverse, min_bits, lift, low, high, zero) * scale)
        worst[r] = worst_bits


@njit(cache=True, nogil=True, error_model="numpy")
def power_codes(
    start, stop, x, block, clip, carry, offset, most, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero,
    mask, out, scales, worst,
):  # fmt: skip
    """Write the codes of `power_values` and the biased exponents (uint8) of the scales."""
    length, segments = x.shape[1], scales.shape[1]
    carry, offset, most = U32(carry), I32(offset), I32(most)
    shift, min_bits, lift = U32(shift), U32(min_bits), U32(lift)
    flip, sign_bit, keep_zero, mask = U32(flip), U32(sign_bit), U32(keep_zero), U32(mask)
    for r in range(start, stop):
        worst_bits = U32(0)
        for s in range(segments):
            first, last = r * length + s * block, r * length + smaller(s * block + block, length)
            top = _absmax_bits(x, first, last)
            worst_bits = larger(worst_bits, top)
            biased = _power(top, clip, carry, offset, most)
            inverse = _power_of_two(I32(I32(254) - biased))
            poke(scales, r * segments + s, np.uint8(biased))
            for i in range(first, last):
                code = nearest_code(
                    peek(x, i) * inverse, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask
                )
                poke(out, i, out.dtype.type(code))
        worst[r] = worst_bits


@njit(forceinline=True)
def _stored(top, clip, largest, outer, scale_steps, empty):
    """Return a block's scale, rounded to the scale format whose parameters are `scale_steps`."""
    rounded, min_bits, lift, low, high = scale_steps
    wanted = float_of(top) * clip / largest / outer
    scale = nearest(wanted, min_bits, lift, low, high, F32(0)) if rounded else smaller(larger(wanted, low), high)
    return scale if top > U32(0) else empty


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
    for r in range(start, stop):
        worst_bits = U32(0)
        for s in range(segments):
            first, last = r * length + s * block, r * length + smaller(s * block + block, length)
            top = _absmax_bits(x, first, last)
            worst_bits = larger(worst_bits, top)
            scale = _stored(top, clip, largest, outer, steps, empty) * outer
            for i in range(first, last):
                poke(out, i, nearest(peek(x, i) / scale, min_bits, lift, low, high, zero) * scale)
        worst[r] = worst_bits


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
    for r in range(start, stop):
        worst_bits = U32(0)
        for s in range(segments):
            first, last = r * length + s * block, r * length + smaller(s * block + block, length)
            top = _absmax_bits(x, first, last)
            worst_bits = larger(worst_bits, top)
            stored = _stored(top, clip, largest, outer, steps, empty)
            poke(scales, r * segments + s, stored)
            scale = stored * outer
            for i in range(first, last):
                code = nearest_code(
                    peek(x, i) / scale, shift, min_bits, lift, low, high, flip, sign_bit, keep_zero, mask
                )
                poke(out, i, out.dtype.type(code))
        worst[r] = worst_bits
