"""The vector unit: what softmax, norms, rope, activations and encoders cost in simple operations.

A lane does one simple operation per cycle: a multiply, or anything as cheap as an add (add, subtract,
compare, round, select, move). Every count below is derived from the algorithm that its comment names, and tests hold it
against that algorithm run number by number; none is measured. How many terms a polynomial and how many steps an
iteration has is `estimated`: what makes an error of some 0.1 % with a cubic, or with two Newton steps behind a guess.
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
# log(x) = (n + log2(f)) * log(2): take exponent and fraction apart (1 subtract), a cubic in f by Horner's rule
# (3 multiplies, 3 adds), add n, times log(2).
LOGARITHM = Operations(multiplies=4, adds=5)
# sin(x): times 1 / pi, round, subtract for the reduced angle; an odd polynomial of degree 7 in it by Horner's rule
# (its square, 3 multiplies and 3 adds, times the angle); select the sign.
SINE = Operations(multiplies=6, adds=6)


@dataclass(frozen=True, kw_only=True)
class KindCost:
    """Operations of one kind, per element and per row, and in which role its results are stored.

    `passes` is how often a row is read where it does not fit on chip. `per_term` is what each of `Vector.terms` adds
    to an element; with `reads_terms` they are elements of the input, so that it is that much larger. `per_stage` is
    what each stage of a transform adds to an element: log2 of the width, rounded up. `per_input` is what each input
    beyond the second adds.
    """

    per_element: Operations
    per_row: Operations = Operations()
    per_term: Operations = Operations()
    per_stage: Operations = Operations()
    per_input: Operations = Operations()
    reads_terms: bool = False
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
    VectorKind.MULTIPLY: KindCost(
        per_element=Operations(multiplies=1), per_input=Operations(multiplies=1), result=Role.ACTIVATION
    ),
    VectorKind.ADD: KindCost(per_element=Operations(adds=1), per_input=Operations(adds=1)),
    VectorKind.DIVIDE: KindCost(per_element=RECIPROCAL + Operations(multiplies=1)),
    # 1 / (1 + e**-x); tanh(x) = 2 / (1 + e**-2x) - 1; log(1 + e**x).
    VectorKind.SIGMOID: KindCost(per_element=EXPONENTIAL + RECIPROCAL + Operations(adds=1)),
    VectorKind.TANH: KindCost(per_element=EXPONENTIAL + RECIPROCAL + Operations(multiplies=1, adds=2)),
    VectorKind.EXPONENTIAL: KindCost(per_element=EXPONENTIAL),
    VectorKind.LOGARITHM: KindCost(per_element=LOGARITHM),
    VectorKind.SOFTPLUS: KindCost(per_element=EXPONENTIAL + LOGARITHM + Operations(adds=1)),
    VectorKind.ROOT: KindCost(per_element=RECIPROCAL_ROOT + Operations(multiplies=1)),
    VectorKind.SINE: KindCost(per_element=SINE),
    # Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv:1805.02867), algorithm 3. Pass 1:
    # scale, maximum so far; subtract the new one from the old, exponential, times the sum; subtract, exponential, add.
    # Pass 2: subtract, exponential, times 1 / sum. Two exponentials more; but no exponential waits on chip.
    VectorKind.ONLINE_SOFTMAX: KindCost(
        per_element=3 * EXPONENTIAL + Operations(multiplies=3, adds=5),
        per_row=RECIPROCAL,
        result=Role.PROBABILITY,
        passes=2,
    ),
    # Fast Walsh-Hadamard transform: in each of log2(width) stages every element is a sum or a difference; times
    # 1 / sqrt(width) at the end.
    VectorKind.HADAMARD: KindCost(
        per_element=Operations(multiplies=1), per_stage=Operations(adds=1), result=Role.ACTIVATION
    ),
    # One move each: a lane reads or writes one element per cycle, at any place.
    VectorKind.GATHER: KindCost(per_element=Operations(adds=1), result=Role.ACTIVATION),
    # An add or a compare for each term, and one multiply for a mean.
    VectorKind.POOL: KindCost(
        per_element=Operations(multiplies=1), per_term=Operations(adds=1), result=Role.ACTIVATION, reads_terms=True
    ),
    # Mamba (arXiv:2312.00752, algorithm 2): for each state e**(dt * a), times h, plus b times (dt * x), and c * h into
    # the sum; for each channel dt * x, and d * x added.
    VectorKind.SCAN: KindCost(
        per_element=Operations(multiplies=2, adds=1),
        per_term=EXPONENTIAL + Operations(multiplies=4, adds=2),
    ),
}


def is_scaled(fmt: TensorFormat) -> bool:
    """Return whether a tensor in this format carries a scale."""
    return fmt.scale_bits((1, fmt.block or 1)) > 0


def rounding_operations(fmt: TensorFormat) -> Operations:
    """Return the part of `encode_operations` that an encoder in gates does: round, clamp, pick a pair's outlier."""
    return Operations(adds=1 + is_scaled(fmt) + (fmt.decoder_elements > 1))


def encode_operations(fmt: TensorFormat) -> Operations:
    """Return the operations that turn one real value into a code of `fmt`.

    Round; with a scale also multiply by its inverse and clamp; with a scale that follows the data
    also the running maximum; where codes come in pairs also the comparison that picks the outlier.
    """
    operations = rounding_operations(fmt)
    if is_scaled(fmt):
        operations += Operations(multiplies=1, adds=int(_follows_the_data(fmt)))
    return operations


def scale_operations(fmt: TensorFormat) -> Operations:
    """Return the operations between the largest magnitude of a block (or row) and the scale of its codes, once each.

    A power of two: subtract the exponent of the largest code (OCP MX v1.0, section 6.3), and negate it for the inverse.
    Another scale: times 1 / largest code, round to how it is stored, and its reciprocal. Nothing for calibrated scales.
    """
    if not is_scaled(fmt) or not _follows_the_data(fmt):
        return Operations()
    if getattr(getattr(fmt, "scale_format", None), "mantissa_bits", None) == 0:
        return Operations(adds=2)
    return RECIPROCAL + Operations(multiplies=1, adds=1)


def _follows_the_data(fmt: TensorFormat) -> bool:
    """Return whether scales are found while encoding; those of blocks are, whatever the tensor's own."""
    return fmt.block is not None or not fmt.static_scale


def kind_operations(
    kind: VectorKind, rows: int, width: int, result: TensorFormat, terms: int = 1, inputs: int = 1
) -> Operations:
    """Return the operations of a vector op with so many inputs, encoding of its results included.

    >>> from macloom.formats import get_format
    >>> kind_operations(VectorKind.ADD, 2, 8, get_format("fp16"))
    Operations(multiplies=0, adds=32)
    """
    cost, stages = KIND_COSTS[kind], (width - 1).bit_length()
    per_element = cost.per_element + terms * cost.per_term + stages * cost.per_stage + encode_operations(result)
    per_element += max(0, inputs - 2) * cost.per_input
    scales = -(-width // (result.block or width))
    return rows * (width * per_element + cost.per_row + scales * scale_operations(result))


def segment_operations(blocked_operands: int) -> Operations:
    """Return the operations that scale one partial sum of a segment and add it to the running sum.

    One multiply for each operand whose scale changes with the segment. The first segment is not added.
    """
    return Operations(multiplies=blocked_operands, adds=1)


def epilogue_operations(scaled_operands: int, result: TensorFormat) -> Operations:
    """Return the operations between one finished sum and its code: a multiply per remaining scale, encode."""
    return Operations(multiplies=scaled_operands) + encode_operations(result)
