"""Exact sums of products of integer units, by the fastest way that is proven exact for the data at hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.digits import LONGEST_INT32_SUM, byte_products
from macloom.formats.operand import Operand

# How fast the ways are relative to each other; only the order matters (benchmarks/gemm.py).
BYTE_SPEED, FLOAT32_SPEED, FLOAT64_SPEED = 600.0, 150.0, 65.0


def bound(a: Operand, b: Operand, length: int) -> float:
    """Return what no sum of products of units over `length` elements of K exceeds in magnitude, in any order.

    It is the smaller of the largest product times `length` and the largest product of row norms
    (Cauchy and Schwarz, who bound the sum of magnitudes). Operands have their zero points at 0.
    """
    largest = a.largest * b.largest * length
    if not largest:
        return 0.0
    return min(largest, float(a.row_norms.max(initial=0)) * float(b.row_norms.max(initial=0)))


class Sums:
    """Exact sums of products of the units of two matrices, over stretches of K up to `longest` elements.

    Sums are int32, float32 or float64, whichever is fastest; they are integers and exact.
    """

    def __init__(self, a: Operand, b: Operand, longest: int) -> None:
        self.a, self.b = a.centred().units, b.centred().units
        self.bound = bound(a.centred(), b.centred(), longest)
        self.left = self.right = self.torch = None
        float_speed = FLOAT32_SPEED if self.bound < 2.0**24 else FLOAT64_SPEED if self.bound < 2.0**53 else 0.0
        torch = byte_products(len(self.a) * self.b.size) if longest <= LONGEST_INT32_SUM else None
        if torch is not None and (left := a.digits) is not None and (right := b.digits) is not None:
            count = len(left.digits) * len(right.digits)
            reach = 8 * (len(left.digits) + len(right.digits) - 2) + 14 + longest.bit_length() + count.bit_length()
            if BYTE_SPEED / count >= float_speed and reach <= 53:
                self.torch, self.left, self.right = torch, left, right
        if self.torch is None and not float_speed:
            raise MacloomError(
                f"gemm: sums of {longest} products of {a.label} and {b.label} may need {bits_for(self.bound)} bits, "
                "and 54 can be summed in a register; use 'exact' or 'fp32'"
            )
        if self.torch is None and float_speed == FLOAT64_SPEED:
            self.a, self.b = self.a.astype(np.float64), self.b.astype(np.float64)

    def __call__(self, rows: slice, columns: slice, part: slice) -> np.ndarray:
        """Return the sums (rows, columns) over a stretch of K, newly allocated."""
        if self.left is None or self.right is None:
            return np.matmul(self.a[rows, part], self.b[columns, part].T)
        if len(self.left.digits) == len(self.right.digits) == 1:
            total = byte_sums(self.torch, self.left.digits[0][rows, part], self.right.digits[0][columns, part])
            plain = self.left.plain and self.right.plain
            return total if plain else self._corrected(total, rows, columns, part)
        total: Any = 0
        for i, x in enumerate(self.left.digits):
            for j, y in enumerate(self.right.digits):
                total = total + _shifted(byte_sums(self.torch, x[rows, part], y[columns, part]), 8 * (i + j))
        return self._corrected(total, rows, columns, part)

    def _corrected(self, total: np.ndarray, rows: slice, columns: slice, part: slice) -> np.ndarray:
        """Add what offsets and remainders contribute: with A = p + D + R and B = q + E + S, digits being D and E,

        AB = DE + p sum(E) + q sum(D) + pqK + R B + (p + D) S.
        """
        left, right = self.left, self.right
        assert left is not None
        assert right is not None
        total = total.astype(np.float64)
        p, q = left.offset[rows, None], right.offset[None, columns]
        length = self.a[:1, part].shape[1]
        if np.any(p):
            total += p * right.sums(columns, part)[None, :]
        if np.any(q):
            total += q * (left.sums(rows, part)[:, None] + length * p)
        for m, k, value in left.remainder(rows, part):
            total[m] += value * self.b[columns, k].astype(np.float64)
        for n, k, value in right.remainder(columns, part):
            total[:, n] += value * self.a[rows, k].astype(np.float64)
        for m, k, value in left.remainder(rows, part):
            for n, other, second in right.remainder(columns, part):
                if k == other:
                    total[m, n] -= value * second
        return total


def byte_sums(torch: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the int32 sums of products of two int8 matrices, (M, K) and (N, K), over K."""
    return torch._int_mm(torch.from_numpy(x), torch.from_numpy(y).T).numpy()


def _shifted(sums: np.ndarray, bits: int) -> np.ndarray:
    return np.ldexp(sums.astype(np.float64), bits) if bits else sums


def bits_for(bound: float) -> int:
    """Return the bits of a signed integer register that holds every integer up to `bound` in magnitude.

    >>> [bits_for(x) for x in (127, 128, 127 * 127)]
    [8, 9, 15]
    """
    return int(bound).bit_length() + 1


def stretches(start: int, stop: int, length: int) -> Iterator[slice]:
    """Cut a range into slices of `length`, the last one shorter where it must be.

    >>> list(stretches(0, 5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for first in range(start, stop, length):
        yield slice(first, min(first + length, stop))
