"""Registers of a fixed width: what they hold after each product, each chunk of products, or a whole segment.

Sums come as int32, float32 or float64 arrays whose entries are exact integers; the callers have proven
that everything computed here is exact in the type it is computed in, until it is rounded to float32.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic


@intrinsic
def wide_vectors(typingctx):
    """Let the function that calls this use 512-bit vectors where the processor has them.

    LLVM prefers 256 bits on processors that once slowed down for wider ones, at half the speed for these loops.
    llvmlite has no name for the attribute, hence the plain `set.add`.
    """

    def generate(context, builder, signature, arguments):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@njit(cache=True, nogil=True)
def drain(sums, unit, scales_a, scales_b, out):
    """Add float32(sum * unit) * scale_a * scale_b to out (M, N), each step rounded to float32.

    `unit` is a power of two in float64, so that the first product is exact before it is rounded.
    """
    wide_vectors()
    for m in range(sums.shape[0]):
        row, total, scale = sums[m], out[m], scales_a[m]
        for n in range(len(total)):
            total[n] += (np.float32(row[n] * unit) * scale) * scales_b[n]


@njit(cache=True, nogil=True)
def wrap(sums, bits, where):
    """Return int64 sums modulo 2**bits, as signed integers, and set `where` for those that change."""
    wide_vectors()
    half = np.int64(1) << (bits - 1)
    mask = (half << 1) - 1
    out = np.empty(sums.shape, np.int64)
    for m in range(sums.shape[0]):
        row, result, flags = sums[m], out[m], where[m]
        for n in range(len(row)):
            value = np.int64(row[n])
            result[n] = ((value + half) & mask) - half
            flags[n] |= result[n] != value
    return out


@njit(cache=True, nogil=True)
def wrap_int32(sums, bits, where):
    """Do what `wrap` does in place, for int32 sums and at most 31 bits."""
    wide_vectors()
    half = np.int32(np.int32(1) << (bits - 1))
    mask = np.int32((half << 1) - 1)
    for m in range(sums.shape[0]):
        row, flags = sums[m], where[m]
        changed = np.int32(0)
        for n in range(len(row)):
            value = row[n]
            changed |= np.int32(np.int32(np.int32(np.int32(value + half) & mask) - half) ^ value)
        if changed:
            for n in range(len(row)):
                value = row[n]
                result = np.int32(np.int32(np.int32(value + half) & mask) - half)
                row[n] = result
                flags[n] |= result != value


@njit(cache=True, nogil=True)
def add_clamped_int32(state, sums, low, high, where):
    """Do what `add_clamped` does for int32 states and sums of at most 2**30."""
    wide_vectors()
    for m in range(sums.shape[0]):
        row, register, flags = sums[m], state[m], where[m]
        for n in range(len(row)):
            value = np.int32(register[n] + row[n])
            kept = value if value < high else high
            kept = kept if kept > low else low
            register[n] = kept
            flags[n] |= kept != value


@njit(cache=True, nogil=True)
def add_clamped(state, sums, low, high, where):
    """Add the sums of one chunk to the state in place, clamp it, and set `where` for entries that were clamped."""
    wide_vectors()
    for m in range(sums.shape[0]):
        row, register, flags = sums[m], state[m], where[m]
        for n in range(len(row)):
            value = register[n] + row[n]
            kept = min(max(value, low), high)
            register[n] = kept
            flags[n] |= kept != value


@njit(cache=True, nogil=True)
def add_where_safe(state, sums, magnitudes, low, high, doubtful):
    """Add the sums of a stretch of K to the state where no partial sum can leave the register.

    The positive products of the stretch add up to (magnitudes + sums) / 2 and the negative ones to
    (sums - magnitudes) / 2, which no partial sum passes, in whatever order.

    Args:
        state: int32 (M, N), is changed in place; registers have at most 30 bits.
        sums, magnitudes: int32 (M, N), sums of products and of their magnitudes, at most 2**30.
        doubtful: int32, receives the flat indices of the entries that were left alone, if it is long enough.

    Returns:
        How many entries were left alone.
    """
    wide_vectors()
    count = 0
    width = state.shape[1]
    flags = np.empty(width, np.int32)
    for m in range(state.shape[0]):
        register, row, size = state[m], sums[m], magnitudes[m]
        some = np.int32(0)
        for n in range(width):
            s, total, span = register[n], row[n], size[n]
            up = np.int32(s + (np.int32(span + total) >> 1))
            down = np.int32(s + (np.int32(total - span) >> 1))
            unsafe = np.int32((up > high) | (down < low))
            flags[n] = unsafe
            some |= unsafe
            register[n] = s if unsafe else np.int32(s + total)
        if some:
            for n in range(width):
                if flags[n]:
                    if count < len(doubtful):
                        doubtful[count] = m * width + n
                    count += 1
    return count


@njit(cache=True, nogil=True)
def saturate_some(a, b, low, high, state, hit, places):
    """Add products one after the other and clamp after each, for a few entries of the state, by their flat indices.

    Args:
        a, b: int8 (M, K) and (N, K).
        state, hit: int32 (M, N); `hit` becomes 1 where a sum was clamped.
    """
    width, depth = state.shape[1], a.shape[1]
    products = np.empty(depth, np.int32)
    for place in places:
        m, n = place // width, place % width
        left, right = a[m], b[n]
        for k in range(depth):
            products[k] = np.int32(left[k]) * np.int32(right[k])
        value, some = np.int64(state[m, n]), False
        for k in range(depth):
            total = value + products[k]
            value = min(max(total, low), high)
            some |= value != total
        state[m, n] = value
        hit[m, n] |= some
