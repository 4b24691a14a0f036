"""Sums in float registers of few bits, rounded after every addition.

Values are held in float64 (or float32), products of two float32 in float64, exactly. A sum of them is
rounded to odd with the error that Knuth's two-sum finds, which makes the rounding to the register's
precision the only one that counts (Boldo and Melquiond 2008). Without that step, rounding to nearest is
innocuous as well where both terms have p digits and the wider type has 2 p + 2 (Figueroa 1995).
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from macloom.formats.kernels.accumulate import wide_vectors
from macloom.formats.kernels.primitives import bits_of, float_of, shifted_right

EVEN, AWAY, ZERO, ODD = 0, 1, 2, 3
EXPONENT_64 = 0x7FF0000000000000
SIGN_64 = -0x8000000000000000
SIGN_32 = np.uint32(0x80000000)
# Adding and subtracting these rounds what is much smaller to an integer, to nearest even.
NEAREST_64, NEAREST_32 = 1.5 * 2.0**52, np.float32(1.5 * 2.0**23)
EXPONENT_32 = np.uint32(0x7F800000)
TOP_32 = np.uint32(254 << 23)


@intrinsic
def bits64_of(typingctx, value):
    """Reinterpret a float64 as int64."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), generate


@intrinsic
def float64_of(typingctx, value):
    """Reinterpret an int64 as float64."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), generate


def _unary(name):
    """Return an LLVM intrinsic of one float, which vectorises where a library call does not."""

    @intrinsic
    def call(typingctx, value):
        def generate(context, builder, signature, arguments):
            kind = context.get_value_type(value)
            return builder.call(builder.module.declare_intrinsic(name, [kind]), arguments)

        return value(value), generate

    return call


_trunc = _unary("llvm.trunc")


@njit(inline="always")
def _signed(size, sign):
    """Return `size`, which is not negative, with the sign of `sign`, float64."""
    return float64_of(bits64_of(size) | (bits64_of(sign) & SIGN_64))


@njit(inline="always")
def _whole(value, mode):
    """Round to an integer by one of the modes above."""
    low = _trunc(value)
    part, half = abs(value - low), low * 0.5
    up = low + _signed(1.0, value)
    away = up if part >= 0.5 else low
    odd = up if (part > 0) & (half == _trunc(half)) else low
    return (value + NEAREST_64) - NEAREST_64 if mode == EVEN else away if mode == AWAY else odd if mode == ODD else low


@njit(inline="always")
def _to_register(value, digits, least, mode, largest, beyond):
    """Round a float64 to `digits` mantissa bits with steps of 2**(least - 1023) and more; see `sequential`."""
    field, floor = (bits64_of(value) & EXPONENT_64) - (digits << 52), least << 52
    field = field if field > floor else floor
    step, inverse = float64_of(field), float64_of((2046 << 52) - field)
    rounded = _whole(value * inverse, mode) * step
    return _signed(beyond, rounded) if abs(rounded) > largest else rounded


@njit(inline="always")
def _odd_sum(a, b):
    """Return a + b rounded to odd."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    bits = bits64_of(total)
    # One step away from zero where the error has the sum's sign, else one step towards it.
    step = 1 if (error > 0) == (total > 0) else -1
    inexact = ((error < 0) | (error > 0)) & (bits & 1 == 0)  # not where infinities make it NaN
    return float64_of(bits + step if inexact else bits)


@njit(forceinline=True)
def _add_all(a, b, digits, least, mode, largest, beyond, fused, odd, total):
    """Do what `sequential` does; compiled once for every set of constants that it is called with."""
    for m in range(a.shape[0]):
        line, register = a[m], total[m]
        for k in range(len(line)):
            x, row = line[k], b[k]
            for n in range(len(register)):
                product = x * row[n]
                if not fused:
                    product = _to_register(product, digits, least, mode, largest, beyond)
                value = _odd_sum(register[n], product) if odd else register[n] + product
                register[n] = _to_register(value, digits, least, mode, largest, beyond)


@njit(cache=True, nogil=True)
def sequential(a, b, digits, least, mode, largest, beyond, fused, odd, total):
    """Add products to total (M, N), one after the other in ascending order of K, rounded to a register each time.

    Args:
        a, b: float64 (M, K) and (K, N) that hold float32 values.
        digits: mantissa bits of the register.
        least: 1023 + the exponent of its smallest step.
        mode: one of the rounding modes above.
        largest: its largest finite value; what is larger becomes `beyond`.
        fused: whether products are added exactly; else they are rounded like the sums first.
        odd: whether sums need rounding to odd first; never needed if not `fused` and to nearest.
    """
    wide_vectors()
    if mode == EVEN and not fused and not odd:
        _add_all(a, b, digits, least, EVEN, largest, beyond, False, False, total)
    elif mode == EVEN and fused:
        _add_all(a, b, digits, least, EVEN, largest, beyond, True, True, total)
    elif mode == ZERO and fused:
        _add_all(a, b, digits, least, ZERO, largest, beyond, True, True, total)
    else:
        _add_all(a, b, digits, least, mode, largest, beyond, fused, True, total)


@njit(inline="always")
def _to_small_register(value, digits, least, largest, beyond):
    field, floor = np.uint32(np.uint32(bits_of(value) & EXPONENT_32) - digits), least
    field = field if np.int32(field) > np.int32(floor) else floor
    step, inverse = float_of(field), float_of(np.uint32(TOP_32 - field))
    rounded = ((value * inverse + NEAREST_32) - NEAREST_32) * step
    return float_of(np.uint32(bits_of(beyond) | (bits_of(rounded) & SIGN_32))) if abs(rounded) > largest else rounded


@njit(cache=True, nogil=True)
def sequential_small(a, b, digits, least, largest, beyond, rounds_products, total):
    """Do what `sequential` does in float32, to nearest even, for registers of at most 10 mantissa bits.

    Products are exact in float32 and, unless `rounds_products`, in the register.
    """
    wide_vectors()
    for m in range(a.shape[0]):
        line, register = a[m], total[m]
        for k in range(len(line)):
            x, row = line[k], b[k]
            for n in range(len(register)):
                product = x * row[n]
                if rounds_products:
                    product = _to_small_register(product, digits, least, largest, beyond)
                register[n] = _to_small_register(register[n] + product, digits, least, largest, beyond)


@njit(inline="always")
def _shortened(value, drop, below_half, kept):
    """Round the mantissa of a float32 to nearest even by dropping bits of its code; infinity stays what it is."""
    bits = bits_of(value)
    odd = np.uint32(shifted_right(bits, drop) & np.uint32(1))
    return float_of(np.uint32(np.uint32(bits + below_half + odd) & kept))


@njit(cache=True, nogil=True)
def sequential_short(a, b, drop, rounds_products, total):
    """Do what `sequential_small` does for registers with the exponents of float32.

    It serves others where no sum is subnormal or overflows.

    Args:
        drop: uint32, how many of float32's 23 mantissa bits the register lacks, 1 or more.
    """
    wide_vectors()
    below_half = np.uint32((np.uint32(1) << np.uint32(drop - np.uint32(1))) - 1)
    kept = np.uint32(~np.uint32((np.uint32(1) << drop) - 1))
    for m in range(a.shape[0]):
        line, register = a[m], total[m]
        for k in range(len(line)):
            x, row = line[k], b[k]
            if rounds_products:
                for n in range(len(register)):
                    term = _shortened(x * row[n], drop, below_half, kept)
                    register[n] = _shortened(register[n] + term, drop, below_half, kept)
            else:
                for n in range(len(register)):
                    register[n] = _shortened(register[n] + x * row[n], drop, below_half, kept)


@njit(cache=True, nogil=True)
def drain_short(sums, unit, scales_a, scales_b, drop, total):
    """Do what `drain_to_register` does, to nearest even, for registers as `sequential_short` has them."""
    wide_vectors()
    below_half = np.uint32((np.uint32(1) << np.uint32(drop - np.uint32(1))) - 1)
    kept = np.uint32(~np.uint32((np.uint32(1) << drop) - 1))
    for m in range(sums.shape[0]):
        row, register, scale = sums[m], total[m], scales_a[m]
        for n in range(len(register)):
            scaled = (np.float32(row[n] * unit) * scale) * scales_b[n]
            term = _shortened(scaled, drop, below_half, kept)
            register[n] = _shortened(register[n] + term, drop, below_half, kept)


@njit(forceinline=True)
def _drain_all(sums, unit, scales_a, scales_b, digits, least, mode, largest, beyond, odd, total):
    for m in range(sums.shape[0]):
        row, register, scale = sums[m], total[m], scales_a[m]
        for n in range(len(register)):
            scaled = (np.float32(row[n] * unit) * scale) * scales_b[n]
            term = _to_register(np.float64(scaled), digits, least, mode, largest, beyond)
            held = np.float64(register[n])
            value = _odd_sum(held, term) if odd else held + term
            register[n] = np.float32(_to_register(value, digits, least, mode, largest, beyond))


@njit(cache=True, nogil=True)
def drain_to_register(sums, unit, scales_a, scales_b, digits, least, mode, largest, beyond, total):
    """Round float32(sum * unit) * scale_a * scale_b to a register and add it to total (M, N), rounded again."""
    wide_vectors()
    if mode == EVEN:
        _drain_all(sums, unit, scales_a, scales_b, digits, least, EVEN, largest, beyond, False, total)
    else:
        _drain_all(sums, unit, scales_a, scales_b, digits, least, mode, largest, beyond, True, total)
