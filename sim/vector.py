"""The vector unit: what softmax, norms, rope, activations and encoders cost in simple operations.

A lane does one simple operation per cycle: a multiply, or anything as cheap as an add (add, subtract,
compare, round, select). Every count below is derived from the algorithm it names; none is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from macloom.formats import TensorFormat
from macloom.workloads.ops import Role, VectorKind


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Simple operations on the vector unit.

    >>> 2 * Operations(multiplies=1) + Operations(adds=3)
    Operations(multiplies=2, adds=3)
    """

    multiplies: int = 0
    adds: int = 0

    @property
    def total(self) -> int:
        return self.multiplies + self.adds

    def __add__(self, other: Operations) -> Operations:
        return Operations(multiplies=self.multiplies + other.multiplies, adds=self.adds + other.adds)

    def __mul__(self, times: int) -> Operations:
        return Operations(multiplies=self.multiplies * times, adds=self.adds * times)

    __rmul__ = __mul__


# e**x = 2**f * 2**n: times log2(e); round down; subtract for f; a cubic in f by Horner's rule (3 multiplies,
# 3 adds); add n to the exponent field.
EXPONENTIAL = Operations(multiplies=4, adds=6)
# 1 / x: first guess from the exponent field (1 subtract), two Newton steps y * (2 - x * y).
RECIPROCAL = Operations(multiplies=4, adds=3)
# 1 / sqrt(x): first guess from the exponent field (1 subtract), two Newton steps y * (1.5 - x/2 * y * y).
RECIPROCAL_ROOT = Operations(multiplies=7, adds=3)


@dataclass(frozen=True, kw_only=True)
class KindCost:
    """Operations of one kind, per element and per row, and in which role its results are stored.

    `passes` is how often a row is read where it does not fit on chip.
    """

    per_element: Operations
    per_row: Operations = Operations()
    result: Role = Role.OUTPUT
    passes: int = 1


# The tanh form is x / (1 + e**u) with u = x * (c + d * x * x), the factor -2 being in c and d. The erf form is
# priced alike.
GELU = EXPONENTIAL + RECIPROCAL + Operations(multiplies=4, adds=2)

KIND_COSTS: dict[VectorKind, KindCost] = {
    # A lookup moves the row; nothing is computed.
    VectorKind.EMBEDDING: KindCost(per_element=Operations()),
    # Square and sum; then times 1 / rms and times the gain.
    VectorKind.RMS_NORM: KindCost(
        per_element=Operations(multiplies=3, adds=1),
        per_row=RECIPROCAL_ROOT + Operations(multiplies=1, adds=1),
        result=Role.ACTIVATION,
        passes=2,
    ),
    # Sum, and square and sum (variance from both); then subtract the mean, times 1 / sigma, gain, bias.
    VectorKind.LAYER_NORM: KindCost(
        per_element=Operations(multiplies=3, adds=4),
        per_row=RECIPROCAL_ROOT + Operations(multiplies=3, adds=2),
        result=Role.ACTIVATION,
        passes=2,
    ),
    # Each element: times cosine, its partner times sine, and their sum. Tables hold sine and cosine.
    VectorKind.ROPE: KindCost(per_element=Operations(multiplies=2, adds=1), result=Role.ACTIVATION),
    # Pass 1: times 1 / sqrt(head width), maximum. Pass 2: subtract it, exponential, sum, times 1 / sum
    # once the sum is known (the exponentials wait on chip).
    VectorKind.SOFTMAX: KindCost(
        per_element=EXPONENTIAL + Operations(multiplies=2, adds=3),
        per_row=RECIPROCAL,
        result=Role.PROBABILITY,
        passes=2,
    ),
    # x / (1 + e**-x).
    VectorKind.SILU: KindCost(per_element=EXPONENTIAL + RECIPROCAL + Operations(multiplies=1, adds=2)),
    VectorKind.RELU: KindCost(per_element=Operations(adds=1), result=Role.ACTIVATION),
    VectorKind.GELU: KindCost(per_element=GELU, result=Role.ACTIVATION),
    VectorKind.GELU_GATE: KindCost(per_element=GELU),
    # Nothing is computed but the codes.
    VectorKind.CACHE: KindCost(per_element=Operations(), result=Role.KV),
    VectorKind.MULTIPLY: KindCost(per_element=Operations(multiplies=1), result=Role.ACTIVATION),
    VectorKind.ADD: KindCost(per_element=Operations(adds=1)),
}


def is_scaled(fmt: TensorFormat) -> bool:
    """Return whether a tensor in this format carries a scale."""
    return fmt.scale_bits((1, fmt.block or 1)) > 0


def encode_operations(fmt: TensorFormat) -> Operations:
    """Return the operations that turn one real value into a code of `fmt`.

    Round; with a scale also multiply by its inverse and clamp; with a scale that follows the data
    also the running maximum; where codes come in pairs also the comparison that picks the outlier.
    """
    operations = Operations(adds=1)
    if is_scaled(fmt):
        operations += Operations(multiplies=1, adds=1 if fmt.static_scale else 2)
    if fmt.decoder_elements > 1:
        operations += Operations(adds=1)
    return operations


def kind_operations(kind: VectorKind, rows: int, width: int, result: TensorFormat) -> Operations:
    """Return the operations of a vector op, encoding of its results included.

    >>> from macloom.formats import get_format
    >>> kind_operations(VectorKind.ADD, 2, 8, get_format("fp16"))
    Operations(multiplies=0, adds=32)
    """
    cost = KIND_COSTS[kind]
    return rows * width * (cost.per_element + encode_operations(result)) + rows * cost.per_row


def segment_operations(blocked_operands: int) -> Operations:
    """Return the operations that scale one partial sum of a segment and add it to the running sum.

    One multiply for each operand whose scale changes with the segment. The first segment is not added.
    """
    return Operations(multiplies=blocked_operands, adds=1)


def epilogue_operations(scaled_operands: int, result: TensorFormat) -> Operations:
    """Return the operations between one finished sum and its code: a multiply per remaining scale, encode."""
    return Operations(multiplies=scaled_operands) + encode_operations(result)
