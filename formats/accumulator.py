"""Accumulators: what happens to the products of a dot product before the scale is applied."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from macloom.errors import MacloomError, unknown
from macloom.formats.tensor import TensorFormat

# Formats of a wider range than this have no table of integer units (`ElementFormat.units`).
WIDEST_UNIT = 1 << 120


class IntegerOverflow(StrEnum):
    """What an integer accumulator does with a sum that it cannot hold."""

    WRAP = "wrap"
    SATURATE = "saturate"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class IntegerAccumulator:
    """A signed register of `bits` for the integer products of one segment (a scale block, or all of K).

    WRAP is modular, so that it does not matter when it happens. SATURATE clamps once at the end of
    the segment. Sums of several segments are converted to float32, scaled and added in float32.
    """

    bits: int = 32
    overflow: IntegerOverflow = IntegerOverflow.WRAP

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 53:
            raise MacloomError(f"accumulator.bits: must be an integer from 2 to 53, not {self.bits!r}")

    @property
    def name(self) -> str:
        return f"int{self.bits}:{self.overflow.value}"


@dataclass(frozen=True, kw_only=True)
class ExactAccumulator:
    """A register wide enough for every product of a segment; its sum is rounded once, to float32."""

    @property
    def name(self) -> str:
        return "exact"


@dataclass(frozen=True, kw_only=True)
class FloatAccumulator:
    """A float32 register: each product is rounded to float32 and added in ascending order of K."""

    @property
    def name(self) -> str:
        return "fp32"


Accumulator = IntegerAccumulator | ExactAccumulator | FloatAccumulator


def get_accumulator(text: str) -> Accumulator:
    """Return the accumulator that a string names: `int32`, `int24:saturate`, `exact`, `fp32`.

    >>> get_accumulator("int24:saturate").name
    'int24:saturate'
    """
    kind, _, policy = text.partition(":")
    if kind == "exact" and not policy:
        return ExactAccumulator()
    if kind == "fp32" and not policy:
        return FloatAccumulator()
    if kind.startswith("int") and kind[3:].isdigit():
        policies = [o.value for o in IntegerOverflow]
        if policy and policy not in policies:
            raise unknown("accumulator overflow", policy, policies)
        return IntegerAccumulator(bits=int(kind[3:]), overflow=IntegerOverflow(policy or "wrap"))
    raise MacloomError(f"accumulator: must be 'intN[:wrap|saturate|error]', 'exact' or 'fp32', not {text!r}")


def default_accumulator(a: TensorFormat, b: TensorFormat) -> Accumulator:
    """Return the accumulator that hardware for these operands has.

    A 32-bit integer register wherever one product fits it; otherwise an exact one inside scale blocks
    (OCP MX leaves the precision there to the implementation) and a float32 one elsewhere, or where an
    operand's range is too wide for integers (float32, bfloat16).
    """
    if a.max_unit * b.max_unit < 1 << 31:
        return IntegerAccumulator()
    narrow = max(a.max_unit, b.max_unit) < WIDEST_UNIT
    return ExactAccumulator() if narrow and (a.block or b.block) else FloatAccumulator()
