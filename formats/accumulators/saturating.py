"""A register that saturates after every product, fast: only where a stretch of K may saturate is it stepped through."""

from __future__ import annotations

from typing import Any

import numpy as np

from macloom.formats.accumulators.sums import byte_sums, stretches
from macloom.formats.digits import byte_products
from macloom.formats.operand import Operand

# Elements of K that are checked at a time.
STRETCH = 64
# Registers of at most so many bits are checked in int32.
MOST_CHECKED_BITS = 30
# Registers of at most so many bits are stepped through in int16.
MOST_SHORT_BITS = 16
# Doubtful outputs, one in so many, up to which they are stepped through one by one; beyond it, all of a tile are, to
# the end.
FEW = 48


class SaturatingSteps:
    """Sums of a register of `bits` that is clamped after each product, in ascending order of K."""

    def __init__(self, a: Operand, b: Operand, bits: int) -> None:
        from macloom.formats.kernels.accumulate_saturating import panels_of

        a, b = a.centred(), b.centred()
        self.low, self.high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        self.kind: Any = stepping_type(a.largest, b.largest, bits)
        # int16 saturates at its own lower end, so that registers stand at the upper one of its bits.
        self.shift = MOST_SHORT_BITS - bits if self.kind is np.int16 else 0
        self.a = a.units.astype(self.kind, copy=False)
        self.panels = panels_of(b.units.astype(self.kind, copy=False) * self.kind(1 << self.shift))
        self.bytes = self.magnitudes = None
        self.torch = byte_products(len(a.units) * b.units.size) if bits <= MOST_CHECKED_BITS else None
        if self.torch is not None and max(a.largest, b.largest) <= 127:
            x, y = a.digits, b.digits
            assert x is not None
            assert y is not None
            self.bytes = x.digits[0], y.digits[0]
            self.magnitudes = np.abs(x.digits[0]), np.abs(y.digits[0])

    def __call__(self, rows: slice, columns: slice, part: slice, where: np.ndarray) -> np.ndarray:
        """Return the sums of a tile over one segment and set `where` for those that saturated on the way.

        Args:
            columns: starts at a multiple of a panel's columns.
        """
        state, hit, start = np.zeros(where.shape, np.int32), np.zeros(where.shape, np.int32), part.start
        if self.bytes is not None:
            start = self._checked(rows, columns, part, state, hit)
        result = self._stepped(rows, columns, slice(start, part.stop), state, hit) if start < part.stop else state
        where |= hit > 0
        return result

    def _stepped(self, rows: slice, columns: slice, part: slice, state: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """Return the state of a tile after a stretch of K, every product of which is stepped through."""
        from macloom.formats.kernels.accumulate_saturating import saturate_each

        width, count = self.panels.shape[2], state.shape[1]
        panels = self.panels[columns.start // width : -(-columns.stop // width)]
        register = np.zeros((len(state), len(panels) * width), self.kind)
        mark = np.ones(register.shape, f"int{8 * register.itemsize}")  # columns that are not there are not watched
        mark[:, :count] = hit
        if self.kind is np.int16:
            register[:, :count] = state << self.shift
            low, high = self.low, self.high << self.shift
        else:  # half a unit above the sums: no state is 0, which has two codes
            register[:, :count] = state + self.kind(0.5)
            low, high = self.low + 0.5, self.high + 0.5
        saturate_each(self.a[rows], panels, part.start, part.stop, self.kind(low), self.kind(high), register, mark)
        hit[:] = mark[:, :count] != 0
        if self.kind is np.int16:
            return register[:, :count].astype(np.int32) >> self.shift
        return register[:, :count] - self.kind(0.5)

    def _sums(self, rows: slice, columns: slice, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the int32 sums of products over a stretch of K, and of their magnitudes."""
        assert self.bytes is not None
        assert self.magnitudes is not None
        return (
            byte_sums(self.torch, self.bytes[0][rows, part], self.bytes[1][columns, part]),
            byte_sums(self.torch, self.magnitudes[0][rows, part], self.magnitudes[1][columns, part]),
        )

    def _checked(self, rows: slice, columns: slice, part: slice, state: np.ndarray, hit: np.ndarray) -> int:
        """Go through a segment as long as few outputs may saturate in a stretch; return where that ended."""
        from macloom.formats.kernels.accumulate import add_where_safe, saturate_some

        assert self.bytes is not None
        low, high = np.int32(self.low), np.int32(self.high)
        doubtful = np.empty(state.size // FEW + 1, np.int32)
        for stretch in stretches(part.start, part.stop, STRETCH):
            before = state.copy()
            left, right = self.bytes[0][rows, stretch], self.bytes[1][columns, stretch]
            count = add_where_safe(state, *self._sums(rows, columns, stretch), low, high, doubtful)
            if count > len(doubtful):
                state[:] = before
                return stretch.start
            saturate_some(left, right, self.low, self.high, state, hit, doubtful[:count])
        return part.stop


def stepping_type(largest: float, other: float, bits: int) -> Any:
    """Return the type in which a register of `bits` takes products of units of these magnitudes, exactly.

    A register at the upper end of int16 needs the product there as well. Floats hold the register and one more
    product, in half units: float32 up to 2**24, float64 up to 2**53.

    >>> [stepping_type(127.0, 127.0, bits).__name__ for bits in (15, 16, 17, 23, 24)]
    ['int16', 'int16', 'float32', 'float32', 'float64']
    """
    if bits <= MOST_SHORT_BITS and largest * other < 1 << (bits - 1) and max(largest, other) < 1 << 15:
        return np.int16
    return np.float32 if (1 << bits) + 2 * largest * other <= 2.0**24 else np.float64
