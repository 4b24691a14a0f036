"""The operations of a vector unit as records: number kinds, tables, iterations and widths, all of them explicit.

Everything that multiplies or adds rounds to a number kind that the record names; nothing else rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

from macloom.errors import MacloomError, unknown
from macloom.formats.vector.functions import log2e, ratio
from macloom.formats.vector.number import Fixed, Float, Number, Pair, require_integer
from macloom.formats.vector.table import Exponential, Reciprocal, ReciprocalRoot, Table

WORD = 62  # bits of the widest intermediate magnitude: the kernels compute in 64-bit integers
EXACT = 52  # bits of a product that both float64 and the next rounding see whole


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """exp(x - max) / sum over a row, with base-2 exponentials and integer sums.

    Scores enter as fixed-point numbers. (max - x) times log2(e) * scale, a constant of `constant_bits`
    significant bits, is shifted to the argument of the exponential. The sum of a row is exact; its
    reciprocal multiplies every exponential, and the product rounds once, to `output`.

    Attributes:
        block: None: the maximum is known before the first exponential (two passes). Else keys come
            `block` at a time (online; Milakov and Gimelshein 2018, arXiv:1805.02867): when a block
            raises the maximum, the sum so far is multiplied by 2**-(the rise) and shifted back.
    """

    input: Fixed
    output: Number
    constant_bits: int
    exponential: Exponential
    reciprocal: Reciprocal
    block: int | None = None

    def __post_init__(self) -> None:
        require_integer("softmax.constant_bits", self.constant_bits, 2, 24)
        if self.input.bits + 1 + self.constant_bits > WORD:
            raise MacloomError(
                f"softmax: scores of {self.input.bits} bits times a constant of {self.constant_bits} must have at most "
                f"{WORD - 1} bits; narrow one of them"
            )
        if self.exponential.table.fraction + self.reciprocal.fraction > EXACT:
            raise MacloomError(
                f"softmax: exponential.fraction + reciprocal.fraction must be at most {EXACT}, "
                f"not {self.exponential.table.fraction + self.reciprocal.fraction}"
            )
        if self.block is not None:
            require_integer("softmax.block", self.block, 1, 1 << 20)

    def constant(self, scale: float) -> Pair:
        """Return log2(e) * scale as the hardware holds it.

        Raises:
            MacloomError: the scale is not positive, or far from 1.
        """
        if not 2.0**-30 <= scale <= 2.0**30:
            raise MacloomError(f"softmax: scale: must be from 2**-30 to 2**30, not {scale!r}")
        exact = Fraction(log2e(128), 1 << 128) * Fraction(scale)
        return significand(exact, self.constant_bits)

    def check_row(self, length: int) -> None:
        """Raise if the sum of a row of this length may not fit."""
        fraction = self.exponential.table.fraction
        bits = fraction + length.bit_length() + (0 if self.block is None else fraction)
        if bits > WORD:
            what = "sum" if self.block is None else "product of sum and rescaling"
            raise MacloomError(
                f"softmax: rows of {length} scores need a {bits}-bit {what}, more than {WORD}; "
                f"shorten exponential.table.fraction, now {fraction}"
            )


@lru_cache(maxsize=1024)
def significand(value: Fraction, bits: int) -> Pair:
    """Return a positive number with `bits` significant bits, rounded to nearest.

    >>> significand(Fraction(1, 3), 4)
    Pair(e=-5, i=11)
    """
    places = bits - (value.numerator.bit_length() - value.denominator.bit_length())
    i = ratio(value * Fraction(2) ** (places - bits), bits)
    while i >= 1 << bits:
        places, i = places - 1, ratio(value * Fraction(2) ** (places - 1 - bits), bits)
    while i < 1 << (bits - 1):
        places, i = places + 1, ratio(value * Fraction(2) ** (places + 1 - bits), bits)
    return Pair(-places, i)


@dataclass(frozen=True, kw_only=True)
class Norm:
    """RMSNorm, or LayerNorm with `centred`: x / sqrt(mean(x * x) + eps), times a gain, plus a bias.

    Fixed-point lanes sum exactly, in integers, and multiply by 1 / n, a constant of `constant_bits`
    significant bits, without rounding. Floating-point lanes add element i to accumulator i mod `lanes`,
    in order, and then the accumulators in a binary tree (upper half to lower half); squares, sums,
    1 / n, eps, mean and variance all round to `accumulate`.

    Attributes:
        gain: number kind of the gain (and bias).
        normalised: number kind of x / root, before the gain.
        accumulate: None for fixed-point lanes.
    """

    input: Number
    gain: Number
    normalised: Number
    output: Number
    root: ReciprocalRoot
    accumulate: Float | None = None
    lanes: int = 16
    constant_bits: int = 16
    centred: bool = False

    def __post_init__(self) -> None:
        require_integer("norm.lanes", self.lanes, 1, 1024)
        require_integer("norm.constant_bits", self.constant_bits, 2, 24)
        if self.lanes & (self.lanes - 1):
            raise MacloomError(f"norm.lanes: must be a power of two, not {self.lanes}")
        if isinstance(self.input, Float) != (self.accumulate is not None):
            raise MacloomError("norm.accumulate: must be given for floating-point lanes, and only for them")
        if _significant(self.input) + 1 + self.root.fraction > EXACT + 1:
            raise MacloomError(
                f"norm: input bits and root.fraction must sum to at most {EXACT}, "
                f"not {_significant(self.input) + self.root.fraction}"
            )

    def constant(self, length: int) -> Pair:
        """Return 1 / length as the hardware holds it.

        Raises:
            MacloomError: fixed-point lanes whose sums of squares over this length do not fit.
        """
        pair = significand(Fraction(1, length), self.constant_bits)
        if isinstance(self.input, Float):
            assert self.accumulate is not None
            return self.accumulate.round(Pair(-128, ratio(Fraction(1, length), 128)))
        bits = 2 * self.input.bits + length.bit_length() + self.constant_bits
        if bits > WORD:
            raise MacloomError(
                f"norm: rows of {length} numbers of {self.input.bits} bits need a {bits}-bit sum, more than {WORD}; "
                "narrow the lanes or norm.constant_bits"
            )
        return pair


def _significant(number: Number) -> int:
    return number.bits if isinstance(number, Fixed) else number.mantissa_bits + 1


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding (Su et al. 2021): pairs (x, y) become (x cos - y sin, y cos + x sin).

    Attributes:
        table: number kind of the stored cosines and sines, which are exact before that rounding.
        product: number kind of the four products; None keeps all their bits, for fixed-point lanes only.
    """

    input: Number
    table: Number
    output: Number
    product: Number | None = None

    def __post_init__(self) -> None:
        if self.product is None and not (isinstance(self.input, Fixed) and isinstance(self.table, Fixed)):
            raise MacloomError("rope.product: must be given unless input and table are fixed-point numbers")
        if _significant(self.input) + _significant(self.table) + 1 > EXACT:
            raise MacloomError(f"rope: input and table bits must sum to less than {EXACT}")


class Curve(StrEnum):
    """What multiplies x in an activation function."""

    RELU = "relu"  # the step function
    SILU = "silu"  # the logistic function
    GELU = "gelu"  # the normal distribution function
    GELU_TANH = "gelu_tanh"  # its approximation by tanh


TAILS = {Curve.SILU: "logistic_tail", Curve.GELU: "normal_tail", Curve.GELU_TANH: "tanh_gelu_tail"}


@dataclass(frozen=True, kw_only=True)
class Activation:
    """x times a gate in [0, 1]: a table holds the gate's tail t(|x|), and the gate is t or 1 - t by x's sign.

    |x| enters the table with the table's argument bits, of which `reach_bits` are whole; from
    2**reach_bits on the tail is 0, so that the result is x or 0.
    """

    input: Number
    output: Number
    table: Table
    reach_bits: int = 4

    def __post_init__(self) -> None:
        require_integer("activation.reach_bits", self.reach_bits, 0, 6)
        if _significant(self.input) + self.table.fraction + 1 > EXACT:
            raise MacloomError(f"activation: input bits and table.fraction must sum to less than {EXACT}")

    def coefficients(self, curve: Curve | str) -> tuple[tuple[int, ...], ...] | None:
        """Return the table of a curve; None for ReLU, which needs none."""
        if curve not in list(Curve):
            raise unknown("activation", curve, [c.value for c in Curve])
        curve = Curve(curve)
        return None if curve is Curve.RELU else self.table.coefficients(TAILS[curve], 1 << self.reach_bits)

    @property
    def argument_fraction(self) -> int:
        return self.table.argument - self.reach_bits


@dataclass(frozen=True, kw_only=True)
class Sum:
    """left + right, the residual connection."""

    left: Number
    right: Number
    output: Number


@dataclass(frozen=True, kw_only=True)
class Product:
    """left * right, the gated unit of an MLP."""

    left: Number
    right: Number
    output: Number

    def __post_init__(self) -> None:
        if _significant(self.left) + _significant(self.right) > EXACT:
            raise MacloomError(f"product: left and right bits must sum to at most {EXACT}")


@dataclass(frozen=True, kw_only=True)
class Encode:
    """x / scale as an integer code of `output`: x times a constant, the reciprocal of the scale, rounded once.

    Attributes:
        multiplier_bits: significant bits of the constant; the rest of it is a shift.
    """

    input: Number
    output: Fixed
    multiplier_bits: int = 16

    def __post_init__(self) -> None:
        require_integer("encode.multiplier_bits", self.multiplier_bits, 2, 27)
        if self.output.fraction != 0:
            raise MacloomError(f"encode.output: must have fraction 0, being codes, not {self.output.fraction}")
        if _significant(self.input) + self.multiplier_bits > EXACT:
            raise MacloomError(f"encode: input bits and multiplier_bits must sum to at most {EXACT}")

    def multiplier(self, scale: float) -> Pair:
        """Return 1 / scale as the hardware holds it."""
        if not 2.0**-120 <= scale <= 2.0**120:
            raise MacloomError(f"encode: scale: must be from 2**-120 to 2**120, not {scale!r}")
        return significand(1 / Fraction(scale), self.multiplier_bits)
