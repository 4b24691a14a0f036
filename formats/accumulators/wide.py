"""Integer registers and sums beyond the 53 bits of float64: Python's integers, in numpy arrays of objects.

Sums of products are made of float64 products of digits, which are exact, and put together in integers of any size;
so that only a register that saturates after every product takes a step of Python for each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from macloom.formats.operand import Operand

# Digits of units; sums of 2**12 products of two of them are exact in float64.
DIGIT_BITS = 20
LONGEST = 1 << 12


class WideSums:
    """Exact sums of products of the units of two matrices, over any stretch of K, as Python's integers."""

    def __init__(self, a: Operand, b: Operand) -> None:
        self.a, self.b = _digits(a.centred().units), _digits(b.centred().units)

    def __call__(self, rows: slice, columns: slice, part: slice) -> np.ndarray:
        """Return the sums (rows, columns) over a stretch of K as an array of objects."""
        total = np.zeros((rows.stop - rows.start, columns.stop - columns.start), object)
        for first in range(part.start, part.stop, LONGEST):
            some = slice(first, min(first + LONGEST, part.stop))
            for i, x in enumerate(self.a):
                for j, y in enumerate(self.b):
                    sums = np.matmul(x[rows, some], y[columns, some].T)
                    total += sums.astype(np.int64).astype(object) << DIGIT_BITS * (i + j)
        return total


def _digits(units: np.ndarray) -> list[np.ndarray]:
    """Return integers as float64 digits of `DIGIT_BITS` bits with the integer's sign, lowest first."""
    rest, digits = units.astype(np.float64), []
    while True:
        high = np.trunc(np.ldexp(rest, -DIGIT_BITS))
        digits.append(rest - np.ldexp(high, DIGIT_BITS))
        if not high.any():
            return digits
        rest = high


def clamped(
    sums: Callable[[slice], np.ndarray], parts: list[slice], low: int, high: int, where: np.ndarray
) -> np.ndarray:
    """Return what a register of Python's integers holds after the sums of each part, clamped after each.

    Args:
        where: bool, is set where a sum was clamped.
    """
    state = np.zeros(where.shape, object)
    for part in parts:
        total = state + sums(part)
        state = np.clip(total, low, high)
        where |= (state != total).astype(bool)
    return state


def wrapped(sums: np.ndarray, bits: int, where: np.ndarray) -> np.ndarray:
    """Return sums modulo 2**bits as signed integers, and set `where` for those that change."""
    half = 1 << (bits - 1)
    out = (sums + half) % (2 * half) - half
    where |= (out != sums).astype(bool)
    return out


def to_odd_float64(sums: np.ndarray) -> np.ndarray:
    """Return integers as float64 rounded to odd, so that rounding to float32 afterwards is the only one that counts.

    >>> to_odd_float64(np.array([3, 2**53 + 1, -(2**54) - 1], object)).astype(np.int64) - 2**53
    array([ -9007199254740989,                  2, -27021597764222980])
    """
    return np.array([_to_odd(int(x)) for x in sums.ravel()], np.float64).reshape(sums.shape)


def _to_odd(value: int) -> float:
    drop = max(abs(value).bit_length() - 53, 0)
    kept = abs(value) >> drop
    if kept << drop != abs(value):
        kept |= 1
    return float(kept << drop) * (-1 if value < 0 else 1)
