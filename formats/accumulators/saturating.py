"""A register that saturates after every product, fast: only where a stretch of K may saturate is it stepped through."""

from __future__ import annotations

import numpy as np

from macloom.formats.accumulators.sums import byte_sums, stretches
from macloom.formats.digits import byte_products
from macloom.formats.operand import Operand

# Elements of K that are checked at a time.
STRETCH = 64
# Registers of at most so many bits are checked in int32.
MOST_CHECKED_BITS = 30
# Doubtful outputs, one in so many, up to which they are stepped through one by one.
FEW = 24
# A tile is no longer checked once more than one in so many outputs were doubtful.
MANY = 4


class SaturatingSteps:
    """Sums of a register of `bits` that is clamped after each product, in ascending order of K."""

    def __init__(self, a: Operand, b: Operand, bits: int) -> None:
        a, b = a.centred(), b.centred()
        self.low, self.high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        # The register and one more product, in half units, are exact in float32 up to 2**24, in float64 up to 2**53.
        self.kind = np.float32 if (1 << bits) + 2 * a.largest * b.largest <= 2.0**24 else np.float64
        self.a, self.b = a.units.astype(self.kind, copy=False), b.units.astype(self.kind, copy=False)
        self.bytes = self.magnitudes = None
        self.torch = byte_products(len(a.units) * b.units.size) if bits <= MOST_CHECKED_BITS else None
        if self.torch is not None and max(a.largest, b.largest) <= 127:
            x, y = a.digits, b.digits
            assert x is not None
            assert y is not None
            self.bytes = x.digits[0], y.digits[0]
            self.magnitudes = np.abs(x.digits[0]), np.abs(y.digits[0])

    def __call__(self, rows: slice, columns: slice, part: slice, where: np.ndarray) -> np.ndarray:
        """Return the sums of a tile over one segment and set `where` for those that saturated on the way."""
        state, hit, start = np.zeros(where.shape, np.int32), np.zeros(where.shape, np.int32), part.start
        if self.bytes is not None:
            start = self._checked(rows, columns, part, state, hit)
        result = state.astype(self.kind)
        if start < part.stop:
            result = self._stepped(rows, columns, slice(start, part.stop), result, hit)
        where |= hit > 0
        return result

    def _stepped(self, rows: slice, columns: slice, part: slice, state: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """Return the state of a tile after a stretch of K, every product of which is stepped through."""
        from macloom.formats.kernels.accumulate import mark_clamped, saturate_each, saturate_each_watched

        # Half a unit above the sums, the register's range is symmetric: a magnitude shows both ends' overflows.
        low, high = self.kind(self.low + 0.5), self.kind(self.high + 0.5)
        lifted, peak = state + self.kind(0.5), np.zeros(state.shape, self.kind)
        panel = np.ascontiguousarray(self.b[columns, part].T)
        left, depth = self.a[rows, part], part.stop - part.start
        compares = self.bytes is not None and self.kind is np.float32
        for stretch in stretches(0, depth, STRETCH):
            if hit.all():  # nothing is left to watch
                rest = slice(stretch.start, depth)
                saturate_each(np.ascontiguousarray(left[:, rest]), panel[rest], low, high, lifted)
                break
            piece = np.ascontiguousarray(left[:, stretch])
            if compares:
                before = lifted.copy()
                saturate_each(piece, panel[stretch], low, high, lifted)
                inside = slice(part.start + stretch.start, part.start + stretch.stop)
                if mark_clamped(before, lifted, *self._sums(rows, columns, inside), hit) < self.high - self.low:
                    continue
                lifted, compares = before, False
            saturate_each_watched(piece, panel[stretch], low, high, lifted, peak)
            hit |= peak > high
        return lifted - self.kind(0.5)

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
            if count <= len(doubtful):
                saturate_some(left, right, self.low, self.high, state, hit, doubtful[:count])
                continue
            state[:] = before
            if count * MANY > state.size:
                return stretch.start
            state[:] = self._stepped(rows, columns, stretch, state.astype(self.kind), hit)
        return part.stop
