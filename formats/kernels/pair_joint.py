"""Compiled loops that choose among the three legal encodings of each outlier-victim pair that of least error.

Tables and conventions as in `pair`; one pair at a time.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import numpy as np
from numba import njit

from macloom.formats.kernels.primitives import MAGNITUDE, bits_of, larger, peek, poke, shifted_right, smaller

U32, F32 = np.uint32, np.float32
BYTE = U32(0xFF)


@njit(forceinline=True)
def entry_of(table, bits, shift, below):
    later = U32(1) if U32(bits & below) != U32(0) else U32(0)
    return U32(peek(table, np.intp(U32(U32(shifted_right(bits, shift) << U32(1)) | later))))


@njit(forceinline=True)
def joint_choice(a, b, left, right, normals, outliers, scale):
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
                left = entry_of(table, bits_of(first / scale), shift, below)
                right = entry_of(table, bits_of(second / scale), shift, below)
                choice, _ = joint_choice(first, second, left, right, normals, outliers, scale)
                code = U32(shifted_right(left, U32(8)) & BYTE) if choice == 1 else U32(left & BYTE)
                poke(out, r * width + i, np.uint8(victim if choice == 2 else code))
                code = U32(shifted_right(right, U32(8)) & BYTE) if choice == 2 else U32(right & BYTE)
                poke(out, r * width + i + 1, np.uint8(victim if choice == 1 else code))
        worst[r] = top


@njit(cache=True, nogil=True, error_model="numpy")
def joint_values(start, stop, x, scales, block, shift, table, normals, outliers, out, worst):
    """Write the values of `joint_codes`."""
    length, segments = x.shape[1], scales.shape[1]
    shift = U32(shift)
    below = U32((U32(1) << shift) - U32(1))
    zero = F32(0)
    for r in range(start, stop):
        top = U32(0)
        for s in range(segments):
            begin, scale = s * block, peek(scales, r * segments + s)
            for i in range(begin, smaller(begin + block, length), 2):
                first = peek(x, r * length + i)
                second = peek(x, r * length + i + 1) if i + 1 < length else zero
                top = larger(top, larger(U32(bits_of(first) & MAGNITUDE), U32(bits_of(second) & MAGNITUDE)))
                left = entry_of(table, bits_of(first / scale), shift, below)
                right = entry_of(table, bits_of(second / scale), shift, below)
                choice, _ = joint_choice(first, second, left, right, normals, outliers, scale)
                a = outliers[shifted_right(left, U32(8)) & BYTE] if choice == 1 else normals[left & BYTE]
                b = outliers[shifted_right(right, U32(8)) & BYTE] if choice == 2 else normals[right & BYTE]
                poke(out, r * length + i, zero if choice == 2 else F32(a * scale))
                if i + 1 < length:
                    poke(out, r * length + i + 1, zero if choice == 1 else F32(b * scale))
        worst[r] = top
