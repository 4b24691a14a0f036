"""Compiled chains of blocks in 64-bit integers: any values and any record, one output at a time."""

# pyright: reportIndexIssue=false, reportArgumentType=false
from __future__ import annotations

import math

import numpy as np

from macloom._numba import njit
from macloom.formats.tensor_core.operands import INFINITE, NOT_A_NUMBER


@njit(cache=True, nogil=True)
def cut_integer(magnitude, bits, nearest):
    """Return magnitude / 2**bits cut off toward zero, or rounded to nearest, ties to even."""
    if bits <= 0:
        return magnitude << -bits
    if bits > 62:
        return np.int64(0)
    kept = magnitude >> bits
    rest, tie = magnitude - (kept << bits), np.int64(1) << (bits - 1)
    if nearest and (rest > tie or (rest == tie and kept & 1)):
        kept += 1
    return kept


@njit(cache=True, nogil=True)
def into_register(total, unit, mantissa_bits, min_exponent, max_exponent, nearest):
    """Return total * 2**unit rounded to a register, as float64; zero is +0."""
    if total == 0:
        return 0.0
    magnitude, length = abs(total), 0
    while magnitude >> length:
        length += 1
    step = max(length - 1 + unit, min_exponent) - mantissa_bits
    if step <= unit:
        value = math.ldexp(np.float64(magnitude), unit)
    else:
        value = math.ldexp(np.float64(cut_integer(magnitude, step - unit, nearest)), step)
    if value >= math.ldexp(1.0, max_exponent + 1):
        value = np.inf
    return -value if total < 0 and value else value


@njit(cache=True, nogil=True)
def _add_block(c, left, e_left, right, e_right, bits, tc):
    """Return c plus the products of one block; see `chain_in_integers`."""
    block, fraction, align, lowest, mantissa_bits, min_exponent, max_exponent, nearest = tc
    largest, special = np.int64(lowest), c if not math.isfinite(c) else 0.0
    for k in range(block):
        if e_left[k] >= INFINITE or e_right[k] >= INFINITE:
            x = np.inf * np.sign(left[k]) if e_left[k] >= INFINITE else np.float64(left[k])
            y = np.inf * np.sign(right[k]) if e_right[k] >= INFINITE else np.float64(right[k])
            if e_left[k] == NOT_A_NUMBER or e_right[k] == NOT_A_NUMBER or x == 0 or y == 0:
                special = np.nan
            else:
                special = special + x * y
        elif left[k] and right[k]:
            largest = max(largest, np.int64(e_left[k]) + np.int64(e_right[k]))
    if special != 0.0:
        return special
    total, e = np.int64(0), np.int64(0)
    if c != 0.0:
        e = max(np.int64(math.frexp(c)[1] - 1), np.int64(min_exponent))
        largest = max(largest, e)
        whole = np.int64(math.ldexp(abs(c), mantissa_bits - e))
        term = cut_integer(whole, largest - fraction - (e - mantissa_bits), align)
        total = -term if c < 0 else term
    for k in range(block):
        product = np.int64(left[k]) * np.int64(right[k])
        if product:
            drop = largest - fraction - (np.int64(e_left[k]) + np.int64(e_right[k]) - bits)
            term = cut_integer(abs(product), drop, align)
            total += -term if product < 0 else term
    return into_register(total, largest - fraction, mantissa_bits, min_exponent, max_exponent, nearest)


@njit(cache=True, nogil=True)
def chain_in_integers(start, stop, a, e_a, b, e_b, bits, tc, out):
    """Add to `out` the chains of all blocks, for rows start to stop; any values, any record.

    Args:
        a, e_a: int32 (M, K), significands and exponents; a value is significand * 2**(exponent - mantissa bits).
            Exponents INFINITE and NOT_A_NUMBER mark values that are not finite.
        b, e_b: the same of the other operand, (N, K).
        bits: mantissa bits of both operands, added.
        tc: block, fraction, align to nearest, lowest, the register's mantissa bits, smallest and largest exponent,
            register to nearest.
        out: float64 (M, N), the sums so far.
    """
    block = tc[0]
    for m in range(start, stop):
        for n in range(out.shape[1]):
            c = out[m, n]
            for k in range(0, a.shape[1], block):
                c = _add_block(
                    c, a[m, k : k + block], e_a[m, k : k + block], b[n, k : k + block], e_b[n, k : k + block], bits, tc
                )
            out[m, n] = c
