"""Compiled loops over rows of float32: the fast side of every tensor format.

A tensor is seen as rows x length; each row is cut into segments of `block` elements that share a
scale (the last segment may be shorter). Kernels work on the rows [start, stop) so that threads can
share a tensor; none of them allocates. The compiler may not reassociate: fastmath stays off.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

SIGN = np.uint32(0x80000000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
INFINITY_BITS = 0x7F800000


@intrinsic
def bits_of(typingctx, value):
    """Reinterpret a float32 as uint32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), generate


@intrinsic
def float_of(typingctx, value):
    """Reinterpret a uint32 as float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


@njit(cache=True, nogil=True)
def absmax(start, stop, x, block, out):
    """Write the largest magnitude of each segment to out (rows x segments); a NaN wins."""
    length = x.shape[1]
    for r in range(start, stop):
        row = x[r]
        for s in range(out.shape[1]):
            segment = row[s * block : min(s * block + block, length)]
            worst = np.uint32(0)
            for i in range(len(segment)):
                worst = max(worst, bits_of(segment[i]) & MAGNITUDE)
            out[r, s] = float_of(worst)


@njit(cache=True, nogil=True)
def lookup(start, stop, x, scales, block, shift, table, out, worst):
    """Write table[bits of x / scale] for each element; the table may hold codes or values.

    worst[r] receives the largest magnitude's bits of row r, to find non-finite input.
    """
    length = x.shape[1]
    shift = np.uint32(shift)
    below = np.uint32((np.uint32(1) << shift) - np.uint32(1))
    for r in range(start, stop):
        row, result = x[r], out[r]
        top = np.uint32(0)
        for s in range(scales.shape[1]):
            segment = row[s * block : min(s * block + block, length)]
            target = result[s * block : min(s * block + block, length)]
            scale = scales[r, s]
            for i in range(len(segment)):
                bits = bits_of(segment[i] / scale)
                top = max(top, bits_of(segment[i]) & MAGNITUDE)
                target[i] = table[((bits >> shift) << np.uint32(1)) | np.uint32((bits & below) != np.uint32(0))]
        worst[r] = top


@njit(cache=True, nogil=True)
def lookup_values(start, stop, x, scales, block, shift, table, out, worst):
    """Write table[bits of x / scale] * scale for each element."""
    length = x.shape[1]
    shift = np.uint32(shift)
    below = np.uint32((np.uint32(1) << shift) - np.uint32(1))
    for r in range(start, stop):
        row, result = x[r], out[r]
        top = np.uint32(0)
        for s in range(scales.shape[1]):
            segment = row[s * block : min(s * block + block, length)]
            target = result[s * block : min(s * block + block, length)]
            scale = scales[r, s]
            for i in range(len(segment)):
                bits = bits_of(segment[i] / scale)
                top = max(top, bits_of(segment[i]) & MAGNITUDE)
                value = table[((bits >> shift) << np.uint32(1)) | np.uint32((bits & below) != np.uint32(0))]
                target[i] = value * scale
        worst[r] = top


@njit(cache=True, nogil=True)
def round_steps(start, stop, x, scales, block, shift, min_normal_bits, magic, low, high, zero, out, worst):
    """Round x / scale to nearest even on a float or integer grid, saturate, multiply by the scale.

    Normal values round on their bit pattern; below the smallest normal the addition of `magic`
    leaves multiples of the grid's one step there, in the adder's own rounding to nearest even.
    Adding `zero` (+0 or -0) makes the sign of zero what the format has.
    """
    length = x.shape[1]
    shift = np.uint32(shift)
    half = np.uint32((np.uint32(1) << shift) >> np.uint32(1))
    keep = np.uint32(~((np.uint32(1) << shift) - np.uint32(1)))
    min_normal_bits = np.uint32(min_normal_bits)
    for r in range(start, stop):
        row, result = x[r], out[r]
        top = np.uint32(0)
        for s in range(scales.shape[1]):
            segment = row[s * block : min(s * block + block, length)]
            target = result[s * block : min(s * block + block, length)]
            scale = scales[r, s]
            for i in range(len(segment)):
                bits = bits_of(segment[i] / scale)
                sign = bits & SIGN
                bits = bits & MAGNITUDE
                top = max(top, bits_of(segment[i]) & MAGNITUDE)
                odd = (bits >> shift) & np.uint32(1)
                carry = half - np.uint32(1) + odd if half != np.uint32(0) else np.uint32(0)
                rounded = float_of((bits + carry) & keep)
                if bits < min_normal_bits:
                    rounded = (float_of(bits) + magic) - magic
                value = float_of(bits_of(rounded) | sign)
                target[i] = (min(max(value, low), high) + zero) * scale
        worst[r] = top


# How a step grid's codes show the sign.
CLAMP_TO_ZERO, SIGNED_ZERO, ONE_ZERO, TWOS_COMPLEMENT = 0, 1, 2, 3


@njit(cache=True, nogil=True)
def step_codes(start, stop, x, scales, block, shift, min_normal_bits, magic, low, high, bits, sign_rule, out, worst):
    """Write the codes of x / scale on a float or integer grid, rounded as `round_steps` does.

    Above the smallest normal, codes follow the bit pattern; below, they count steps.
    """
    length = x.shape[1]
    shift = np.uint32(shift)
    half = np.uint32((np.uint32(1) << shift) >> np.uint32(1))
    min_normal_bits = np.uint32(min_normal_bits)
    magic_bits = bits_of(magic)
    offset = np.uint32((np.uint32(1) << np.uint32(23 - shift)) - (min_normal_bits >> shift))
    sign_bit = np.uint32(1) << np.uint32(bits - 1)
    code_mask = np.uint32((np.uint64(1) << np.uint64(bits)) - np.uint64(1))
    highest, lowest = bits_of(high) & MAGNITUDE, bits_of(low) & MAGNITUDE
    for r in range(start, stop):
        row, result = x[r], out[r]
        top = np.uint32(0)
        for s in range(scales.shape[1]):
            segment = row[s * block : min(s * block + block, length)]
            target = result[s * block : min(s * block + block, length)]
            scale = scales[r, s]
            for i in range(len(segment)):
                top = max(top, bits_of(segment[i]) & MAGNITUDE)
                pattern = bits_of(segment[i] / scale)
                negative = (pattern & SIGN) != np.uint32(0)
                magnitude = min(pattern & MAGNITUDE, lowest if negative else highest)
                odd = (magnitude >> shift) & np.uint32(1)
                carry = half - np.uint32(1) + odd if half != np.uint32(0) else np.uint32(0)
                code = ((magnitude + carry) >> shift) + offset
                if magnitude < min_normal_bits:
                    code = bits_of(float_of(magnitude) + magic) - magic_bits
                if negative:
                    if sign_rule == TWOS_COMPLEMENT:
                        code = (np.uint32(0) - code) & code_mask
                    elif sign_rule == SIGNED_ZERO or (sign_rule == ONE_ZERO and code != np.uint32(0)):
                        code = code | sign_bit
                target[i] = code
        worst[r] = top


@njit(cache=True, nogil=True)
def pair_codes(start, stop, x, scales, block, shift, table, identifier, out, worst):
    """Write outlier-victim pair codes; table entries carry an outlier flag in bit 15.

    Of two outliers the larger magnitude stays, the left one at a tie. An odd row sees a zero at its end.
    """
    length = x.shape[1]
    shift = np.uint32(shift)
    below = np.uint32((np.uint32(1) << shift) - np.uint32(1))
    victim, plain = np.uint32(identifier), np.uint32(0xFF)
    for r in range(start, stop):
        top = np.uint32(0)
        for s in range(scales.shape[1]):
            segment = x[r][s * block : min(s * block + block, length)]
            target = out[r][s * block : min(s * block + block, out.shape[1])]
            scale = scales[r, s]
            for p in range(len(target) // 2):
                first = segment[2 * p]
                second = segment[2 * p + 1] if 2 * p + 1 < len(segment) else np.float32(0)
                top = max(top, max(bits_of(first) & MAGNITUDE, bits_of(second) & MAGNITUDE))
                a, b = bits_of(first / scale), bits_of(second / scale)
                left = np.uint32(table[((a >> shift) << np.uint32(1)) | np.uint32((a & below) != np.uint32(0))])
                right = np.uint32(table[((b >> shift) << np.uint32(1)) | np.uint32((b & below) != np.uint32(0))])
                left_larger = (a & MAGNITUDE) >= (b & MAGNITUDE)
                keep_left = (left > plain) & ((right <= plain) | left_larger)
                keep_right = (right > plain) & ((left <= plain) | (not left_larger))
                target[2 * p] = victim if keep_right else left & plain
                target[2 * p + 1] = victim if keep_left else right & plain
        worst[r] = top


@njit(cache=True, nogil=True)
def pair_values(start, stop, x, scales, block, shift, table, values, out, worst, errors):
    """Write the values of outlier-victim pairs; errors[r] receives the row's squared error.

    `values` gives the value of each table entry. With an empty `out` only the error is computed.
    """
    length = x.shape[1]
    write = out.shape[0] > 0
    shift = np.uint32(shift)
    below = np.uint32((np.uint32(1) << shift) - np.uint32(1))
    zero, plain = np.float32(0), np.uint32(0xFF)
    for r in range(start, stop):
        top = np.uint32(0)
        error = 0.0
        for s in range(scales.shape[1]):
            begin = s * block
            segment = x[r][begin : min(begin + block, length)]
            scale = scales[r, s]
            for p in range((len(segment) + 1) // 2):
                first = segment[2 * p]
                second = segment[2 * p + 1] if 2 * p + 1 < len(segment) else zero
                top = max(top, max(bits_of(first) & MAGNITUDE, bits_of(second) & MAGNITUDE))
                a, b = bits_of(first / scale), bits_of(second / scale)
                i = ((a >> shift) << np.uint32(1)) | np.uint32((a & below) != np.uint32(0))
                j = ((b >> shift) << np.uint32(1)) | np.uint32((b & below) != np.uint32(0))
                left_larger = (a & MAGNITUDE) >= (b & MAGNITUDE)
                keep_left = (table[i] > plain) & ((table[j] <= plain) | left_larger)
                keep_right = (table[j] > plain) & ((table[i] <= plain) | (not left_larger))
                left = zero if keep_right else values[i] * scale
                right = zero if keep_left else values[j] * scale
                error += np.float64(left - first) ** 2 + np.float64(right - second) ** 2
                if write:
                    out[r, begin + 2 * p] = left
                    if 2 * p + 1 < len(segment):
                        out[r, begin + 2 * p + 1] = right
        worst[r] = top
        errors[r] = error
