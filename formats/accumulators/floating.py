"""Float registers, rounded at every addition."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

import numpy as np

from macloom.errors import MacloomError, unknown
from macloom.formats.accumulators.base import FAMILIES, Accumulator, Family, malformed
from macloom.formats.accumulators.segments import TILE, WIDEST_UNIT, SegmentAccumulator
from macloom.formats.operand import Operand
from macloom.formats.policy import Rounding

ROUNDINGS = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO, Rounding.TO_ODD)
NEAREST = ROUNDINGS[:2]


class Order(StrEnum):
    """The order in which terms are added."""

    ASCENDING = "ascending"
    DESCENDING = "descending"


@dataclass(frozen=True, kw_only=True)
class FloatAccumulator(SegmentAccumulator):
    """A float32 register: each product is rounded to float32 and added in ascending order of K."""

    @property
    def name(self) -> str:
        return "fp32"

    def register(self, a: Operand, b: Operand, segment: int) -> _Float32Register:
        return _Float32Register(a, b)

    def initial(self) -> Fraction:
        return Fraction(0)

    def step(self, state: Fraction, product: Fraction | int) -> Fraction:
        """Return the register after one more product; unlike integer registers it holds the real value."""
        return _AS_SMALL.step(state, product)


class _Float32Register:
    tile: tuple[int, int] = (1 << 30, 1 << 30)
    overflows = False

    def __init__(self, a: Operand, b: Operand) -> None:
        # In real values: float32 has no room for the units of some formats' products.
        self.a, self.b = (np.ldexp(o.centred().units, o.unit_exponent) for o in (a, b))

    def __call__(self, rows: slice, columns: slice, part: slice, where: np.ndarray) -> tuple[np.ndarray, float]:
        from macloom.formats.kernels.dot import sequential_float32

        return sequential_float32(self.a[rows, part], self.b[columns, part]), 1.0


@dataclass(frozen=True, kw_only=True)
class SmallFloatAccumulator(SegmentAccumulator):
    """A float register of few bits, with IEEE 754's exponents, subnormals and infinities.

    Each product is rounded to the register's format, then added to the register and rounded again; with
    `fused` the exact product is added and only the sum is rounded. Products of one segment are added in
    ascending or descending order of K. What is too large becomes infinite where rounding to nearest
    would make it so, and the largest finite value under the other roundings or with `saturate`. An overflow
    is a register that ends there. The sums of segments are scaled and added in float32.
    """

    exponent_bits: int = 5
    mantissa_bits: int = 10
    rounding: Rounding = Rounding.NEAREST_EVEN
    fused: bool = False
    saturate: bool = False
    order: Order = Order.ASCENDING

    def __post_init__(self) -> None:
        if not 2 <= self.exponent_bits <= 8 or not 1 <= self.mantissa_bits <= 23:
            raise MacloomError(
                "accumulator: a float register has 2 to 8 exponent bits and 1 to 23 mantissa bits, not "
                f"e{self.exponent_bits}m{self.mantissa_bits}"
            )
        if self.rounding not in ROUNDINGS:
            raise unknown("accumulator rounding", str(self.rounding), [r.value for r in ROUNDINGS])
        object.__setattr__(self, "rounding", Rounding(self.rounding))
        object.__setattr__(self, "order", Order(self.order))

    @property
    def name(self) -> str:
        words = [self.rounding.value] if self.rounding is not Rounding.NEAREST_EVEN else []
        words += [word for word, on in (("fused", self.fused), ("saturate", self.saturate)) if on]
        words += ["order=descending"] if self.order is Order.DESCENDING else []
        return f"e{self.exponent_bits}m{self.mantissa_bits}" + (":" + ",".join(words) if words else "")

    @property
    def smallest_exponent(self) -> int:
        """The exponent of the smallest normal value."""
        return 2 - (1 << (self.exponent_bits - 1))

    @property
    def largest(self) -> float:
        """The largest finite value."""
        return math.ldexp(2 - 2.0**-self.mantissa_bits, (1 << (self.exponent_bits - 1)) - 1)

    @property
    def beyond(self) -> float:
        """What is too large becomes this."""
        return math.inf if self.rounding in NEAREST and not self.saturate else self.largest

    @property
    def short(self) -> bool:
        """Whether a float32 becomes a value of the register by losing bits of its mantissa, to nearest even."""
        nearest = self.rounding is Rounding.NEAREST_EVEN and not self.saturate
        return nearest and self.exponent_bits == 8 and self.mantissa_bits <= 10

    def kernel_arguments(self) -> tuple[int, int, int, float, float]:
        """Return (digits, least, mode, largest, beyond) as `macloom.formats.kernels.accumulate_float` takes them."""
        least = 1023 + self.smallest_exponent - self.mantissa_bits
        return self.mantissa_bits, least, ROUNDINGS.index(self.rounding), self.largest, self.beyond

    def register(self, a: Operand, b: Operand, segment: int) -> _SmallRegister:
        return _SmallRegister(self, a, b, segment)

    def initial(self) -> Fraction:
        return Fraction(0)

    def step(self, state: Fraction, product: Fraction | int) -> Fraction:
        """Return the register after one more product; unlike integer registers it holds the real value.

        Raises:
            MacloomError: the register becomes infinite.
        """
        from macloom.formats.accumulators.reference import added, to_register

        term = Fraction(product) if self.fused else to_register(Fraction(product), self)
        total = added(state, term, self)
        if not isinstance(total, Fraction):
            raise MacloomError(f"accumulator {self.name!r}: the register becomes infinite, which no fraction is")
        return total


_AS_SMALL = SmallFloatAccumulator(exponent_bits=8, mantissa_bits=23)


class _SmallRegister:
    tile: tuple[int, int] = (TILE, TILE)
    overflows = True

    def __init__(self, accumulator: SmallFloatAccumulator, a: Operand, b: Operand, segment: int) -> None:
        self.accumulator = accumulator
        a, b = a.centred(), b.centred()
        self.exact = accumulator.fused
        self.small = self.short = False
        integral = max(a.max_unit, b.max_unit) < WIDEST_UNIT
        exponent, width = a.unit_exponent + b.unit_exponent, a.significand_bits + b.significand_bits
        # In float32, where products are exact and neither they nor sums leave its range.
        largest = math.log2(max(a.largest * b.largest * segment, 1)) + exponent
        if integral and accumulator.rounding is Rounding.NEAREST_EVEN and accumulator.mantissa_bits <= 10:
            fits = width <= 24 and exponent >= -120 and largest < 120
            bits, smallest = accumulator.mantissa_bits, accumulator.smallest_exponent
            grows = segment * math.log2(1 + 2.0 ** -(bits + 1)) + largest
            unrounded = width <= bits + 1 and exponent >= smallest - bits and grows < math.log2(accumulator.largest)
            self.exact = self.exact or unrounded
            unfused = fits and (unrounded or not accumulator.fused)
            self.short = (unfused and accumulator.short) or (fits and unrounded and exponent >= smallest)
            self.small = unfused and accumulator.exponent_bits <= 7
        kind = np.float32 if self.small or self.short else np.float64
        self.a, self.b = (np.ldexp(o.units.astype(kind), o.unit_exponent) for o in (a, b))

    def __call__(self, rows: slice, columns: slice, part: slice, where: np.ndarray) -> tuple[np.ndarray, float]:
        from macloom.formats.kernels.accumulate_float import sequential, sequential_short, sequential_small

        step = 1 if self.accumulator.order is Order.ASCENDING else -1
        left = np.ascontiguousarray(self.a[rows, part][:, ::step])
        right = np.ascontiguousarray(self.b[columns, part][:, ::step].T)
        total = np.zeros(where.shape, left.dtype)
        digits, least, mode, largest, beyond = self.accumulator.kernel_arguments()
        if self.short:
            sequential_short(left, right, np.uint32(23 - digits), not self.exact, total)
        elif self.small:
            fields = np.uint32(digits << 23), np.uint32(least - 1023 + 127 << 23)
            sequential_small(left, right, *fields, np.float32(largest), np.float32(beyond), not self.exact, total)
        else:
            odd = self.accumulator.fused or self.accumulator.rounding not in NEAREST
            sequential(left, right, digits, least, mode, largest, beyond, self.exact, odd, total)
        where |= ~(np.abs(total) < largest)
        return total, 1.0


ALIASES = {"fp16": "e5m10", "bf16": "e8m7"}


def parse_float(head: str, options: str) -> FloatAccumulator | SmallFloatAccumulator:
    """Return the float register for a name's part before the colon and the part after it."""
    text = f"{head}:{options}" if options else head
    if head == "fp32" and not options:
        return FloatAccumulator()
    shape = re.fullmatch(r"e(\d+)m(\d+)", ALIASES.get(head, head))
    if shape is None:
        raise malformed(_FAMILY, text)
    made: dict[str, object] = {}
    known = [r.value for r in ROUNDINGS] + ["fused", "saturate", *(f"order={o.value}" for o in Order)]
    for word in filter(None, options.split(",")):
        if word not in known:
            raise unknown("accumulator option", word, known)
        key, _, value = word.partition("=")
        made |= {key: Order(value)} if value else {key: True} if word in ("fused", "saturate") else {"rounding": word}
    return SmallFloatAccumulator(exponent_bits=int(shape[1]), mantissa_bits=int(shape[2]), **made)  # type: ignore[arg-type]


def _parse(head: str, options: str) -> Accumulator:
    return parse_float(head, options)


_FAMILY = FAMILIES.add(
    "e",
    Family(
        form="eXmY[:ROUNDING][,fused][,saturate][,order=descending]",
        summary="float register of X exponent and Y mantissa bits (bf16, fp16 for short), rounded at every addition",
        parse=_parse,
        examples=("e5m10", "e8m7:toward_zero", "e4m3:saturate", "e5m10:fused,order=descending", "bf16", "fp16"),
    ),
)
FAMILIES.add("bf", _FAMILY)
FAMILIES.add(
    "fp",
    Family(
        form="fp32|fp16[:...]",
        summary="float32 register, rounded at every addition; fp16 is e5m10",
        parse=_parse,
        examples=("fp32",),
    ),
)
