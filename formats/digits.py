"""Integers as int8 digits, for the 8-bit matrix products of processors, and those products.

A matrix of integers is offset + sum over d of 256**d * digit[d] + remainder, where the offset is one number
per row and the remainder has few entries. Products of digits are summed in int32 by `torch._int_mm`; the
callers prove that the sums fit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any

import numpy as np

# What is left over may have one element in so many; each costs as much as a row or column of the result.
REMAINDER_SHARE = 1024
MOST_DIGITS = 2
# Sums of this many products of two bytes fit int32.
LONGEST_INT32_SUM = ((1 << 31) - 1) // (128 * 128)
# Below this many products the call costs more than a float product takes.
FEWEST_PRODUCTS = 1 << 18
# Products after which the second that it takes to import torch has been earned back.
IMPORT_AFTER = 1 << 34

_products_so_far = 0


@dataclass(frozen=True, eq=False)
class Digits:
    """See the module.

    Attributes:
        digits: int8 (rows, K), lowest first.
        offset: float64 (rows), is added to every element of a row.
        rows, columns, values: the remainder's places, rows ascending, and its values as float64.
    """

    digits: tuple[np.ndarray, ...]
    offset: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @cached_property
    def plain(self) -> bool:
        """Whether one digit is all there is."""
        return len(self.digits) == 1 and not len(self.values) and not np.any(self.offset)

    def sums(self, rows: slice, part: slice) -> np.ndarray:
        """Return the sums over a stretch of K of what the digits stand for, float64."""
        total = np.zeros(len(self.offset[rows]))
        for place, digit in enumerate(self.digits):
            total += np.ldexp(digit[rows, part].sum(axis=1, dtype=np.int64).astype(np.float64), 8 * place)
        return total

    def remainder(self, rows: slice, part: slice) -> Iterator[tuple[int, int, float]]:
        """Yield (row within `rows`, column, value) of the remainder inside a tile."""
        first, last = np.searchsorted(self.rows, (rows.start, rows.stop))
        for row, column, value in zip(
            self.rows[first:last].tolist(),
            self.columns[first:last].tolist(),
            self.values[first:last].tolist(),
            strict=True,
        ):
            if part.start <= column < part.stop:
                yield row - rows.start, column, value


def split(units: np.ndarray, largest: float, zeros: np.ndarray | None = None) -> Digits | None:
    """Return integers, float32 (rows, K), less the zero point of their row, as digits.

    Args:
        largest: of the magnitudes in `units`.
        zeros: float32 (rows, 1).

    Returns:
        None if they need more than `MOST_DIGITS`.

    >>> made = split(np.float32([[1, 300, -4]]), 300.0)
    >>> [d.tolist() for d in made.digits], made.values.tolist()
    ([[[1, 44, -4]], [[0, 1, 0]]], [])
    """
    offset = np.zeros(len(units)) if zeros is None else -zeros.reshape(-1).astype(np.float64)
    nothing = np.empty(0, np.int64)
    if largest <= 127:
        return Digits((units.astype(np.int8),), offset, nothing, nothing, np.empty(0))
    if not largest < 1 << 16:
        return None
    if largest <= 255 and units.min(initial=0) >= 0:
        return Digits(((units - np.float32(128)).astype(np.int8),), offset + 128, nothing, nothing, np.empty(0))
    rest = units.astype(np.int32)
    digits: list[np.ndarray] = []
    for place in range(MOST_DIGITS):
        outside = (rest > 127) | (rest < -128)
        if np.count_nonzero(outside) * REMAINDER_SHARE <= units.size:
            top = np.clip(rest, -128, 127)
            digits.append(top.astype(np.int8))
            rows, columns = np.nonzero(outside)
            values = np.ldexp((rest - top)[rows, columns].astype(np.float64), 8 * place)
            return Digits(tuple(digits), offset, rows, columns, values)
        low = ((rest + 128) & 255) - 128
        digits.append(low.astype(np.int8))
        rest = (rest - low) >> 8
    return None


@lru_cache(maxsize=1)
def _torch() -> Any:
    """Return torch if its 8-bit product gives exact sums here, else None.

    Without its own dot product instructions a processor may add pairs of 8-bit products in 16 bits and
    saturate there: extreme values in every place of a block would show it.
    """
    try:
        torch: Any = import_module("torch")
    except ImportError:
        return None
    if not torch.backends.mkldnn.is_available():
        return None  # the plain loop would be exact, and slower than a float product
    rng = np.random.default_rng(0)
    extremes = rng.choice(np.array([-128, -127, 127], np.int8), (2, 67, 259))
    extremes[:, :8] = np.array([-128, 127], np.int8)[:, None, None]
    left, right = extremes
    want = left.astype(np.int64) @ right.astype(np.int64).T
    got = torch._int_mm(torch.from_numpy(left), torch.from_numpy(right).T).numpy()
    return torch if np.array_equal(got, want) else None


def byte_products(products: int) -> Any:
    """Return torch if `products` multiplications should go through its 8-bit matrix product, else None.

    Which way they go changes no result.
    """
    global _products_so_far
    if products < FEWEST_PRODUCTS:
        return None
    _products_so_far += products
    if "torch" not in sys.modules and _products_so_far < IMPORT_AFTER:
        return None
    return _torch()
