"""Compiled loops over outlier-victim pairs.

`pair_*` look both elements up in a table over the leading bits of x / scale, whose entries hold the
nearest normal code, the nearest outlier code (from bit 8) and whether the element is an outlier (bit
16). `whole_pair_codes` computes the same for integers, at vector speed. `joint_*` choose
among the three legal encodings of each pair the one of least squared error. Of two outliers the larger
magnitude stays, the left one at a tie; an odd row sees a zero at its end. Conventions as in
`step_kernels`.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.primitives import (
    MAGNITUDE,
    bits_of,
    float_of,
    larger,
    peek,
    poke,
    shifted_right,
    smaller,
)

U32, F32 = np.uint32, np.float32
OUTLIER, BYTE = U32(1 << 16), U32(0xFF)


@njit(forceinline=True)
def _entry(table, bits, shift, below):
    later = U32(1) if U32(bits & below) != U32(0) else U32(0)
    return U32(peek(table, np.intp(U32(U32(shifted_right(bits, shift) << U32(1)) | later))))


@njit(forceinline=True)
def _kept(left, right, a, b):
    """Say which outlier of a pair stays: (left, right), from two flags and the elements."""
    left_larger = U32(bits_of(a) & MAGNITUDE) >= U32(bits_of(b) & MAGNITUDE)
    return left & ((not right) | left_larger), right & ((not left) | (not left_larger))


@njit(cache=True, nogil=True, error_model="numpy")
def pair_codes(start, stop, x, scales, block, shift, table, victim, out, worst):
    """Write the slot codes of pairs."""
    length, width, segments = x.shape[1], out.shape[1], scales.shape[1]
    shift, victim = U32(shift), U32(victim)
    below = U32((U32(1) << shift) - U32(1))
    for r in range(start, stop):
        top = U32(0)
        for s in range(segments):
            begin, scale = s * block, peek(scales, r * segments + s)
            for i in range(begin, smaller(begin + block, width), 2):
                first = peek(x, r * length + i)
                second = peek(x, r * length + i + 1) if i + 1 < length else F32(0)
                top = larger(top, larger(U32(bits_of(first) & MAGNITUDE), U32(bits_of(second) & MAGNITUDE)))
                left = _entry(table, bits_of(first / scale), shift, below)
                right = _entry(table, bits_of(second / scale), shift, below)
                keep_left, keep_right = _kept(left >= OUTLIER, right >= OUTLIER, first, second)
                code = U32(shifted_right(left, U32(8)) & BYTE) if keep_left else U32(left & BYTE)
                poke(out, r * width + i, np.uint8(victim if keep_right else code))
                code = U32(shifted_right(right, U32(8)) & BYTE) if keep_right else U32(right & BYTE)
                poke(out, r * width + i + 1, np.uint8(victim if keep_left else code))
        worst[r] = top


@njit(cache=True, nogil=True, error_model="numpy")
def pair_values(start, stop, x, scales, block, shift, table, normals, outliers, out, worst, errors):
    """Write the values of pairs; errors[r] receives the row's squared error.

    `normals` and `outliers` give the value of each code. Either of `out` and `errors` may be None.
    """
    length, segments = x.shape[1], scales.shape[1]
    shift = U32(shift)
    below = U32((U32(1) << shift) - U32(1))
    zero = F32(0)
    for r in range(start, stop):
        top, error = U32(0), 0.0
        for s in range(segments):
            begin, scale = s * block, peek(scales, r * segments + s)
            for i in range(begin, smaller(begin + block, length), 2):
                first = peek(x, r * length + i)
                second = peek(x, r * length + i + 1) if i + 1 < length else zero
                top = larger(top, larger(U32(bits_of(first) & MAGNITUDE), U32(bits_of(second) & MAGNITUDE)))
                left = _entry(table, bits_of(first / scale), shift, below)
                right = _entry(table, bits_of(second / scale), shift, below)
                keep_left, keep_right = _kept(left >= OUTLIER, right >= OUTLIER, first, second)
                a = outliers[shifted_right(left, U32(8)) & BYTE] if keep_left else normals[left & BYTE]
                b = outliers[shifted_right(right, U32(8)) & BYTE] if keep_right else normals[right & BYTE]
                a, b = zero if keep_right else F32(a * scale), zero if keep_left else F32(b * scale)
                if errors is not None:
                    error += np.float64(a - first) ** 2 + np.float64(b - second) ** 2
                if out is not None:
                    poke(out, r * length + i, a)
                    if i + 1 < length:
                        poke(out, r * length + i + 1, b)
        worst[r] = top
        if errors is not None:
            errors[r] = error


@njit(forceinline=True)
def _joint(a, b, left, right, normals, outliers, scale):
    """Return 0 (both normal), 1 (left outlier) or 2 (right outlier), whichever has the least squared error."""
    x, y = np.float64(a), np.float64(b)
    plain_x = (np.float64(F32(normals[left & BYTE] * scale)) - x) ** 2
    plain_y = (np.float64(F32(normals[right & BYTE] * scale)) - y) ** 2
    wide_x = (np.float64(F32(outliers[shifted_right(left, U32(8)) & BYTE] * scale)) - x) ** 2
    wide_y = (np.float64(F32(outliers[shifted_right(right, U32(8)) & BYTE] * scale)) - y) ** 2
    both, only_left, only_right = plain_x + plain_y, wide_x + y * y, x * x + wide_y
    if both <= only_left and both <= only_right:
        return 0, both
    if only_left <= only_right:
        return 1, only_left
    return 2, only_right


@njit(cache=True, nogil=True, error_model="numpy")
def joint_codes(start, stop, x, scales, block, shift, table, normals, outliers, victim, out, worst):
    """Write the slot codes of pairs, each in its encoding of least squared error."""
    length, width, segments = x.shape[1], out.shape[1], scales.shape[1]
    shift, victim = U32(shift), U32(victim)
    below = U32((U32(1) << shift) - U32(1))
    for r in range(start, stop):
        top = U32(0)
        for s in range(segments):
            begin, scale = s * block, peek(scales, r * segments + s)
            for i in range(begin, smaller(begin + block, width), 2):
                first = peek(x, r * length + i)
                second = peek(x, r * length + i + 1) if i + 1 < length else F32(0)
                top = larger(top, larger(U32(bits_of(first) & MAGNITUDE), U32(bits_of(second) & MAGNITUDE)))
                left = _entry(table, bits_of(first / scale), shift, below)
                right = _entry(table, bits_of(second / scale), shift, below)
                choice, _ = _joint(first, second, left, right, normals, outliers, scale)
                code = U32(shifted_right(left, U32(8)) & BYTE) if choice == 1 else U32(left & BYTE)
                poke(out, r * width + i, np.uint8(victim if choice == 2 else code))
                code = U32(shifted_right(right, U32(8)) & BYTE) if choice == 2 else U32(right & BYTE)
                poke(out, r * width + i + 1, np.uint8(victim if choice == 1 else code))
        worst[r] = top


@njit(cache=True, nogil=True, error_model="numpy")
def joint_values(start, stop, x, scales, block, shift, table, normals, outliers, out, worst, errors):
    """Write the values of `joint_codes`; see `pair_values`."""
    length, segments = x.shape[1], scales.shape[1]
    shift = U32(shift)
    below = U32((U32(1) << shift) - U32(1))
    zero = F32(0)
    for r in range(start, stop):
        top, error = U32(0), 0.0
        for s in range(segments):
            begin, scale = s * block, peek(scales, r * segments + s)
            for i in range(begin, smaller(begin + block, length), 2):
                first = peek(x, r * length + i)
                second = peek(x, r * length + i + 1) if i + 1 < length else zero
                top = larger(top, larger(U32(bits_of(first) & MAGNITUDE), U32(bits_of(second) & MAGNITUDE)))
                left = _entry(table, bits_of(first / scale), shift, below)
                right = _entry(table, bits_of(second / scale), shift, below)
                choice, least = _joint(first, second, left, right, normals, outliers, scale)
                error += least
                if out is not None:
                    a = outliers[shifted_right(left, U32(8)) & BYTE] if choice == 1 else normals[left & BYTE]
                    b = outliers[shifted_right(right, U32(8)) & BYTE] if choice == 2 else normals[right & BYTE]
                    poke(out, r * length + i, zero if choice == 2 else F32(a * scale))
                    if i + 1 < length:
                        poke(out, r * length + i + 1, zero if choice == 1 else F32(b * scale))
        worst[r] = top
        if errors is not None:
            errors[r] = error


@njit(forceinline=True)
def _whole_code(scaled, whole):
    """Return the nearest integer's two's complement code, ties to even, saturated.

    Added to 3 * 2**22, a float32 whose last place is 1, it appears in the low bits.
    """
    low, high, mask = whole
    held = smaller(larger(scaled, F32(low)), F32(high))
    return U32(bits_of(held + F32(12582912)) & U32(mask))


@njit(forceinline=True)
def _wide_code(scaled, wide):
    """Return the nearest abfloat code, ties to the even code, saturated at both ends."""
    shift, low, high, base, sign_shift, sign_bit = wide
    shift, bits = U32(shift), bits_of(scaled)
    held = bits_of(smaller(larger(float_of(U32(bits & MAGNITUDE)), F32(low)), F32(high)))
    odd = U32(shifted_right(held, shift) & U32(1))
    carry = U32(shifted_right(U32(0x800000), U32(U32(24) - shift)) - U32(1))
    code = U32(shifted_right(U32(U32(held + carry) + odd), shift) - U32(base))
    return U32(code | U32(shifted_right(bits, U32(sign_shift)) & U32(sign_bit)))


@njit(forceinline=True)
def _slots(first, second, scale, boundary, whole, wide, victim):
    """Return both slot codes of a pair."""
    a, b = first / scale, second / scale
    keep_left, keep_right = _kept(abs(a) > boundary, abs(b) > boundary, first, second)
    left = victim if keep_right else (_wide_code(a, wide) if keep_left else _whole_code(a, whole))
    right = victim if keep_left else (_wide_code(b, wide) if keep_right else _whole_code(b, whole))
    return left, right


@njit(cache=True, nogil=True, error_model="numpy")
def whole_pair_codes(start, stop, x, scales, block, boundary, whole, wide, victim, out, worst):
    """Write the slot codes of pairs whose normal values are integers."""
    length, width, segments = x.shape[1], out.shape[1], scales.shape[1]
    victim = U32(victim)
    for r in range(start, stop):
        top = U32(0)
        for s in range(segments):
            scale = peek(scales, r * segments + s)
            begin, end = s * block, smaller(s * block + block, length)
            for p in range((end - begin) // 2):
                i = begin + 2 * p
                first, second = peek(x, r * length + i), peek(x, r * length + i + 1)
                top = larger(top, larger(U32(bits_of(first) & MAGNITUDE), U32(bits_of(second) & MAGNITUDE)))
                left, right = _slots(first, second, scale, boundary, whole, wide, victim)
                poke(out, r * width + i, np.uint8(left))
                poke(out, r * width + i + 1, np.uint8(right))
            if (end - begin) % 2:
                first = peek(x, r * length + end - 1)
                top = larger(top, U32(bits_of(first) & MAGNITUDE))
                left, right = _slots(first, F32(0), scale, boundary, whole, wide, victim)
                poke(out, r * width + end - 1, np.uint8(left))
                poke(out, r * width + end, np.uint8(right))
        worst[r] = top
