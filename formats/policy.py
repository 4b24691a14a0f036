"""Policies that a conversion takes as arguments: rounding, overflow, NaN, the sign of zero, random draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from macloom.errors import MacloomError

# Bits of a random word that one element takes; no more than this many can decide a rounding.
DRAW_BITS = 16
NO_GENERATOR = "rounding: 'stochastic' needs a random generator; pass rng=numpy.random.default_rng(seed)"


class Rounding(StrEnum):
    """Which neighbour a value between two representable values takes (IEEE 754-2019, 4.3).

    `TO_ODD` keeps exact values and otherwise takes the neighbour with the odd code, which makes a
    later, narrower rounding free of double rounding. `STOCHASTIC` takes the neighbour of larger
    magnitude if u < f, where f is the fraction of the step between the magnitudes and u a uniform draw
    of k bits from [0, 1): it never moves exact values, and its mean is off by less than 2**-k steps.
    """

    NEAREST_EVEN = "nearest_even"
    NEAREST_AWAY = "nearest_away"
    TOWARD_ZERO = "toward_zero"
    TO_ODD = "to_odd"
    STOCHASTIC = "stochastic"


class Overflow(StrEnum):
    """What a finite value beyond the largest finite value becomes.

    `WRAP` is for integers: the rounded value modulo 2**bits.
    """

    SATURATE = "saturate"
    TO_INF = "to_inf"
    TO_NAN = "to_nan"
    WRAP = "wrap"


class NanPolicy(StrEnum):
    """What a NaN becomes: the format's NaN, where there is one, or an error."""

    PROPAGATE = "propagate"
    ERROR = "error"


class ZeroPolicy(StrEnum):
    """Whether negative values that round to zero keep their sign, where the format has -0."""

    KEEP = "keep"
    DROP = "drop"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a conversion rounds and what it does with values that do not fit.

    Attributes:
        rounding: None takes the format's own.
        draw_bits: bits k of each draw of stochastic rounding, 1 to 16.
        rng: where the draws of stochastic rounding come from; not part of the policy's identity.
    """

    rounding: Rounding | None = None
    overflow: Overflow = Overflow.SATURATE
    nan: NanPolicy = NanPolicy.PROPAGATE
    zero: ZeroPolicy = ZeroPolicy.KEEP
    draw_bits: int = 8
    rng: np.random.Generator | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.draw_bits, int) or not 1 <= self.draw_bits <= DRAW_BITS:
            raise MacloomError(f"policy.draw_bits: must be an integer from 1 to {DRAW_BITS}, not {self.draw_bits!r}")
        if self.rng is not None and self.rounding is not Rounding.STOCHASTIC:
            raise MacloomError("policy.rng: belongs to stochastic rounding; choose rounding=stochastic")

    def draw(self, count: int) -> np.ndarray:
        """Return the next `count` draws of `DRAW_BITS` bits: uint16, one per element in row-major order.

        Each 64-bit word of the generator gives four, the lowest bits first; what is left of the last
        word is dropped. An element's draw of k bits is the leading k bits of its 16.

        Raises:
            MacloomError: there is no generator.
        """
        if self.rng is None:
            raise MacloomError(NO_GENERATOR)
        words = self.rng.integers(0, 1 << 64, -(-count // 4), dtype=np.uint64)
        return words.astype("<u8", copy=False).view("<u2")[:count]


DEFAULT_POLICY = Policy()
