"""Integer registers: wrap, saturate or refuse, after each product, each chunk of products, or at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from macloom.errors import MacloomError, unknown
from macloom.formats.accumulators.base import FAMILIES, Accumulator, Family, malformed
from macloom.formats.accumulators.segments import (
    SEGMENT_TILE,
    TILE,
    WIDE_TILE,
    WIDEST_UNIT,
    SegmentAccumulator,
    by_matrix,
    by_tile,
    common_segment,
    exact_float32,
    in_segments,
    product_unit,
)
from macloom.formats.accumulators.sums import Sums, bits_for, bound, stretches
from macloom.formats.accumulators.wide import WideSums, clamped, to_odd_float64, wrapped
from macloom.formats.gemm_report import GemmReport
from macloom.formats.operand import Operand

# More than products of the widest units (`WIDEST_UNIT`) and any K that fits a memory take.
MOST_BITS = 512
# Registers, and sums that go into them, of so many bits are made in float64 and narrower types.
FLOAT_BITS = 53


class IntegerOverflow(StrEnum):
    """What an integer accumulator does with a sum that it cannot hold."""

    WRAP = "wrap"
    SATURATE = "saturate"
    ERROR = "error"


# What `every` may be besides a length.
MAC, END = "mac", "end"


@dataclass(frozen=True, kw_only=True)
class IntegerAccumulator(SegmentAccumulator):
    """A signed register of `bits` for the integer products of one segment (a scale block, or all of K).

    Products are added in ascending order of K. `every` says when the register's width is applied: after
    each product ("mac"), at the end of the segment ("end"), or after each chunk of so many products, counted
    from the start of the segment, whose sum is exact before it is added. WRAP is modular, so that `every`
    does not matter. SATURATE clamps. ERROR refuses the product of the matrices. At the end of a segment
    the register is emptied: its sum is converted to float32, scaled, and added in float32.

    An overflow is a register (of one output, for one segment) that did not hold an exact sum: under WRAP,
    where what comes back is the same as if it had, the sum at the end of the segment.
    """

    bits: int = 32
    overflow: IntegerOverflow = IntegerOverflow.WRAP
    every: str | int = END

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 2 <= self.bits <= MOST_BITS:
            raise MacloomError(f"accumulator.bits: must be an integer from 2 to {MOST_BITS}, not {self.bits!r}")
        whole = isinstance(self.every, int) and not isinstance(self.every, bool)
        if self.every not in (MAC, END) and not (whole and int(self.every) >= 1):
            raise MacloomError(
                f"accumulator.every: must be 'mac', 'end' or a positive number of products, not {self.every!r}"
            )
        if self.every == 1:
            object.__setattr__(self, "every", MAC)
        object.__setattr__(self, "overflow", IntegerOverflow(self.overflow))

    @property
    def name(self) -> str:
        return f"int{self.bits}:{self.overflow.value}" + ("" if self.every == END else f",every={self.every}")

    @property
    def half(self) -> int:
        """The register holds integers from -half to half - 1."""
        return 1 << (self.bits - 1)

    def check(self, a: Operand, b: Operand) -> None:
        pair = f"products of {a.label} and {b.label}"
        if max(a.max_unit, b.max_unit) >= WIDEST_UNIT:
            raise MacloomError(
                f"gemm: accumulator {self.name!r} needs integers, and {pair} have no common integer unit within "
                f"{WIDEST_UNIT.bit_length() - 1} bits; use 'exact', 'fp32' or a float register"
            )
        reach = [_reach(o) for o in (a, b)]
        needed = bits_for(reach[0] * reach[1])
        if needed > self.bits:
            segment = common_segment(a, b)
            sums = bits_for(reach[0] * reach[1] * segment)
            fitting = f"'int{needed}' holds one, 'int{sums}' any sum of {segment}"
            raise MacloomError(f"gemm: accumulator {self.name!r} is narrower than {pair}: {fitting}")

    def register(self, a: Operand, b: Operand, segment: int) -> _Register:
        return _Register(self, a, b, segment)

    def product(self, a: Operand, b: Operand, report: GemmReport) -> np.ndarray:
        from macloom.formats.kernels.accumulate import drain

        if bound(a.centred(), b.centred(), common_segment(a, b)) < self.half and in_segments(a, b):
            return exact_float32(a, b, report)

        def one(x: Operand, y: Operand, where: np.ndarray | None) -> np.ndarray:
            rows, columns = self.candidates(x, y)
            if len(rows) * len(columns) >= 0.7 * len(x.units) * len(y.units):
                return by_tile(x, y, self, drain, report, where)
            result = self._roomy(x, y)
            if len(rows) and len(columns):
                flags = None if where is None else np.zeros((len(rows), len(columns)), bool)
                part = by_tile(x.take(rows), y.take(columns), self, drain, report, flags)
                result[np.ix_(rows, columns)] = part
                if where is not None:
                    where[np.ix_(rows, columns)] = flags
            return result

        return by_matrix(a, b, report, one)

    def sums(self, a: Operand, b: Operand, report: GemmReport) -> np.ndarray:
        """Return what the registers hold for operands with one segment, as int64 (..., M, N).

        Raises:
            MacloomError: they have more than 64 bits.
        """
        if self.bits > 64:
            raise MacloomError(f"accumulator {self.name!r}: int64 has no room for its {self.bits} bits; use 64 or less")
        results = []
        for x, y in zip(a.matrices, b.matrices, strict=True):
            register, depth = self.register(x, y, x.units.shape[1]), x.units.shape[1]
            result = np.empty((len(x.units), len(y.units)), np.int64)
            for top in stretches(0, len(x.units), TILE):
                flags = np.zeros((top.stop - top.start, len(y.units)), bool)
                result[top] = register.integers(top, slice(0, len(y.units)), slice(0, depth), flags)
                report.overflows += int(np.count_nonzero(flags))
            results.append(result)
        return np.stack(results).reshape(*a.units.shape[:-1], b.units.shape[-2])

    def candidates(self, a: Operand, b: Operand) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of two matrices outside of which no partial sum of a segment can leave the register."""
        a, b = a.centred(), b.centred()
        if bound(a, b, common_segment(a, b)) < self.half:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        rows = np.flatnonzero(a.row_norms * b.row_norms.max(initial=0) >= float(self.half))
        columns = np.flatnonzero(b.row_norms * a.row_norms.max(initial=0) >= float(self.half))
        return rows, columns

    def _roomy(self, a: Operand, b: Operand) -> np.ndarray:
        """Return the product with a register that nothing overflows."""
        from macloom.formats.kernels.accumulate import drain

        if in_segments(a, b):
            return exact_float32(a, b, GemmReport())
        wide = replace(self, bits=MOST_BITS, overflow=IntegerOverflow.WRAP, every=END)
        return by_tile(a, b, wide, drain, GemmReport(), None)

    # -- one processing element --------------------------------------------------------------------

    def initial(self) -> tuple[int, int, int]:
        """Return (register, sum of the chunk so far, products in it)."""
        return 0, 0, 0

    def step(self, state: tuple[int, int, int], product: int) -> tuple[int, int, int]:
        register, chunk, count = state[0], state[1] + product, state[2] + 1
        length = 1 if self.every == MAC else self.every
        if self.overflow is not IntegerOverflow.WRAP and count != length:
            return register, chunk, count
        return self._apply(register + chunk), 0, 0

    def final(self, state: tuple[int, int, int]) -> int:
        return self._apply(state[0] + state[1])

    def _apply(self, value: int) -> int:
        """Return what the register holds when `value` goes into it."""
        if -self.half <= value < self.half:
            return value
        match self.overflow:
            case IntegerOverflow.WRAP:
                return (value + self.half) % (2 * self.half) - self.half
            case IntegerOverflow.SATURATE:
                return min(max(value, -self.half), self.half - 1)
            case IntegerOverflow.ERROR:
                raise MacloomError(f"accumulator {self.name!r}: {value} overflows {self.bits} bits")


def _reach(operand: Operand) -> int:
    """Return the largest magnitude that a unit of the operand's format may have after its zero point is subtracted."""
    if operand.zeros is None:
        return operand.max_unit
    low, high = int(operand.zeros.min(initial=0)), int(operand.zeros.max(initial=0))
    if low >= 0 and high <= operand.max_unit and operand.units.min(initial=0) >= 0:
        return operand.max_unit
    return operand.max_unit + max(-low, high)


class _Register:
    """The sums of an integer register, by the fastest way that is proven to give them."""

    def __init__(self, accumulator: IntegerAccumulator, a: Operand, b: Operand, segment: int) -> None:
        self.accumulator, self.unit = accumulator, product_unit(a, b)
        self.low, self.high = -accumulator.half, accumulator.half - 1
        largest = bound(a.centred(), b.centred(), segment)
        self.fits = largest < accumulator.half
        every, wraps = accumulator.every, accumulator.overflow is IntegerOverflow.WRAP
        self.chunk = segment if self.fits or wraps or every == END else 1 if every == MAC else min(int(every), segment)
        self.bound = bound(a.centred(), b.centred(), self.chunk)
        too_large = self.chunk > 1 and self.bound >= 2.0**FLOAT_BITS
        self.wide = largest >= 2.0**FLOAT_BITS and (accumulator.bits > FLOAT_BITS or too_large)
        self.steps = None
        if self.wide:
            self.sums: Sums | WideSums = WideSums(a, b)
        elif self.chunk == 1 and segment > 1:
            from macloom.formats.accumulators.saturating import SaturatingSteps

            self.steps = SaturatingSteps(a, b, accumulator.bits)
        else:
            self.sums = Sums(a, b, self.chunk)
        self.overflows = not self.fits
        if self.chunk < segment:
            self.tile: tuple[int, int] = (TILE, TILE)
        else:
            self.tile = (SEGMENT_TILE, SEGMENT_TILE) if segment < a.units.shape[-1] else (TILE, WIDE_TILE)

    def __call__(self, rows: slice, columns: slice, part: slice, where: np.ndarray) -> tuple[np.ndarray, float]:
        sums = self.integers(rows, columns, part, where)
        return (to_odd_float64(sums) if self.wide else sums), self.unit

    def integers(self, rows: slice, columns: slice, part: slice, where: np.ndarray) -> np.ndarray:
        """Return what `__call__` does, all digits of it: int32, int64, float32 or float64, or Python's integers."""
        if self.fits:
            return self.sums(rows, columns, part)
        if self.accumulator.overflow is IntegerOverflow.WRAP:
            return self._wrapped(self.sums(rows, columns, part), where)
        if self.wide:
            state = clamped(
                lambda chunk: self.sums(rows, columns, chunk),
                list(stretches(part.start, part.stop, self.chunk)), self.low, self.high, where,
            )  # fmt: skip
        elif self.steps is not None:
            state = self.steps(rows, columns, part, where)
        else:
            state = self._chunks(rows, columns, part, where)
        if self.accumulator.overflow is IntegerOverflow.ERROR and where.any():
            raise MacloomError(
                f"gemm: {np.count_nonzero(where)} of {where.size} sums overflow the {self.accumulator.bits}-bit "
                "accumulator; widen it or choose 'wrap' or 'saturate'"
            )
        return state

    def _wrapped(self, sums: np.ndarray, where: np.ndarray) -> np.ndarray:
        from macloom.formats.kernels.accumulate import wrap, wrap_int32

        bits = self.accumulator.bits
        if self.wide:
            return wrapped(sums, bits, where)
        if sums.dtype != np.int32 or bits > 31:
            return wrap(sums, bits, where)
        wrap_int32(sums, np.int32(bits), where)
        return sums

    def _chunks(self, rows: slice, columns: slice, part: slice, where: np.ndarray) -> np.ndarray:
        from macloom.formats.kernels.accumulate import add_clamped, add_clamped_int32

        # int32 holds a register of at most 30 bits and a sum of at most 2**30.
        if self.accumulator.bits > 30 or self.bound >= 1 << 30:
            wide = np.zeros(where.shape, np.float64)
            for chunk in stretches(part.start, part.stop, self.chunk):
                sums = self.sums(rows, columns, chunk)
                add_clamped(wide, sums, float(self.low), float(self.high), where)
            return wide
        state = np.zeros(where.shape, np.int32)
        for chunk in stretches(part.start, part.stop, self.chunk):
            sums = self.sums(rows, columns, chunk).astype(np.int32, copy=False)
            add_clamped_int32(state, sums, np.int32(self.low), np.int32(self.high), where)
        return state


def parse_integer(head: str, options: str) -> IntegerAccumulator:
    """Return the accumulator for a name's part before the colon and the part after it."""
    text = f"{head}:{options}" if options else head
    if not head[3:].isdigit() or head[:3] != "int":
        raise malformed(_FAMILY, text)
    policies = [o.value for o in IntegerOverflow]
    overflow, every = IntegerOverflow.WRAP, END
    for word in filter(None, options.split(",")):
        key, equals, value = word.partition("=")
        if key == "every" and equals:
            every = int(value) if value.isdigit() else value
        elif not equals and word in policies:
            overflow = IntegerOverflow(word)
        elif not equals:
            raise unknown("accumulator overflow", word, policies)
        else:
            raise malformed(_FAMILY, text)
    return IntegerAccumulator(bits=int(head[3:]), overflow=overflow, every=every)


def _parse(head: str, options: str) -> Accumulator:
    return parse_integer(head, options)


_FAMILY = FAMILIES.add(
    "int",
    Family(
        form="intN[:wrap|saturate|error][,every=mac|end|K]",
        summary="signed integer register of N bits, its width applied after every product, K products, or at the end",
        parse=_parse,
        examples=("int32", "int24:saturate", "int20:error", "int20:saturate,every=mac", "int20:saturate,every=64"),
    ),
)
