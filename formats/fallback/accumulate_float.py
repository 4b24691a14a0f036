"""Float registers, rounded after every addition; see `macloom.formats.kernels.accumulate_float`."""

from __future__ import annotations

from typing import Any

import numpy as np

EVEN, AWAY, ZERO, ODD = 0, 1, 2, 3
U32 = np.uint32
EXPONENT_64 = np.int64(0x7FF0000000000000)
EXPONENT_32, SIGN_32, TOP_32 = U32(0x7F800000), U32(0x80000000), U32(254 << 23)
NEAREST_64, NEAREST_32 = 1.5 * 2.0**52, np.float32(1.5 * 2.0**23)


def _whole(value: np.ndarray, mode: int) -> np.ndarray:
    """Round to an integer by one of the modes above."""
    if mode == EVEN:
        return (value + NEAREST_64) - NEAREST_64
    low = np.trunc(value)
    if mode == ZERO:
        return low
    part, up = np.abs(value - low), low + np.copysign(1.0, value)
    half = low * 0.5
    return np.where(part >= 0.5 if mode == AWAY else (part > 0) & (half == np.trunc(half)), up, low)


def _to_register(value: np.ndarray, digits: int, least: int, mode: int, largest: Any, beyond: Any) -> np.ndarray:
    """Round float64 to `digits` mantissa bits with steps of 2**(least - 1023) and more."""
    field = (value.view(np.int64) & EXPONENT_64) - (np.int64(digits) << 52)
    field = np.maximum(field, np.int64(least) << 52)
    step, inverse = field.view(np.float64), ((np.int64(2046) << 52) - field).view(np.float64)
    rounded = _whole(value * inverse, mode) * step
    return np.where(np.abs(rounded) > largest, np.copysign(beyond, rounded), rounded)


def _odd_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a + b rounded to odd."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    bits = total.view(np.int64)
    step = np.where((error > 0) == (total > 0), 1, -1)
    inexact = ((error < 0) | (error > 0)) & (bits & 1 == 0)
    return np.where(inexact, bits + step, bits).view(np.float64)


def sequential(a, b, digits, least, mode, largest, beyond, fused, odd, total):
    """Add products to total (M, N), one after the other in ascending order of K, rounded to a register each time."""
    odd = odd or fused or mode != EVEN
    with np.errstate(all="ignore"):
        for k in range(a.shape[1]):
            product = a[:, k, None] * b[k]
            if not fused:
                product = _to_register(product, digits, least, mode, largest, beyond)
            value = _odd_sum(total, product) if odd else total + product
            total[...] = _to_register(value, digits, least, mode, largest, beyond)


def _to_small_register(value: np.ndarray, digits: Any, least: Any, largest: Any, beyond: Any) -> np.ndarray:
    field = (value.view(U32) & EXPONENT_32) - U32(digits)
    field = np.maximum(field.view(np.int32), np.int32(least)).view(U32)
    step, inverse = field.view(np.float32), (TOP_32 - field).view(np.float32)
    rounded = ((value * inverse + NEAREST_32) - NEAREST_32) * step
    return np.where(np.abs(rounded) > largest, np.copysign(np.float32(beyond), rounded), rounded)


def sequential_small(a, b, digits, least, largest, beyond, rounds_products, total):
    """Do what `sequential` does in float32, to nearest even, for registers of at most 10 mantissa bits."""
    with np.errstate(all="ignore"):
        for k in range(a.shape[1]):
            product = a[:, k, None] * b[k]
            if rounds_products:
                product = _to_small_register(product, digits, least, largest, beyond)
            total[...] = _to_small_register(total + product, digits, least, largest, beyond)


def _shortened(value: np.ndarray, drop: Any) -> np.ndarray:
    """Round the mantissa of float32 to nearest even by dropping bits of the code; infinity stays what it is."""
    drop = U32(drop)
    below_half, kept = U32((1 << (int(drop) - 1)) - 1), U32(0xFFFFFFFF ^ ((1 << int(drop)) - 1))
    bits = value.view(U32)
    return ((bits + below_half + ((bits >> drop) & U32(1))) & kept).view(np.float32)


def sequential_short(a, b, drop, rounds_products, total):
    """Do what `sequential_small` does for registers with the exponents of float32."""
    with np.errstate(all="ignore"):
        for k in range(a.shape[1]):
            product = a[:, k, None] * b[k]
            if rounds_products:
                product = _shortened(product, drop)
            total[...] = _shortened(total + product, drop)


def _scaled(sums: np.ndarray, unit: float, scales_a: np.ndarray, scales_b: np.ndarray) -> np.ndarray:
    return ((np.asarray(sums, np.float64) * unit).astype(np.float32) * scales_a[:, None]) * scales_b[None]


def drain_short(sums, unit, scales_a, scales_b, drop, total):
    """Do what `drain_to_register` does, to nearest even, for registers as `sequential_short` has them."""
    with np.errstate(all="ignore"):
        total[...] = _shortened(total + _shortened(_scaled(sums, unit, scales_a, scales_b), drop), drop)


def drain_to_register(sums, unit, scales_a, scales_b, digits, least, mode, largest, beyond, total):
    """Round float32(sum * unit) * scale_a * scale_b to a register and add it to total (M, N), rounded again."""
    with np.errstate(all="ignore"):
        scaled = _scaled(sums, unit, scales_a, scales_b).astype(np.float64)
        term = _to_register(scaled, digits, least, mode, largest, beyond)
        held = total.astype(np.float64)
        value = held + term if mode == EVEN else _odd_sum(held, term)
        total[...] = _to_register(value, digits, least, mode, largest, beyond).astype(np.float32)
