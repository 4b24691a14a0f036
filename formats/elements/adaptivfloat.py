"""AdaptivFloat: a float without subnormals whose exponent bias is chosen for every tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any

import numpy as np

from macloom.errors import MacloomError
from macloom.formats.arrays import as_float32, clip_share
from macloom.formats.element import MAX_TABLE_BITS, ElementFormat
from macloom.formats.families import TAPERED
from macloom.formats.grammar import (
    CATALOG,
    WORDS,
    Entry,
    Options,
    as_choice,
    choice_option,
    granularity_option,
    integer_option,
)
from macloom.formats.scales import E8M0, Grain, ScaleFormat
from macloom.formats.tensor import TensorFormat
from macloom.formats.tensors.scaled import Scaled


class Definition(StrEnum):
    """PAPER: algorithm 1 of the paper. REFERENCE: what the released adaptivfloat.py computes."""

    PAPER = "paper"
    REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class AdaptivFloat(ElementFormat):
    """Sign, `exponent_bits` and a mantissa with a hidden bit, in units of 2**bias (Tambe et al., DAC 2020).

    PAPER: the exponent field p and mantissa field f mean 2**p * (1 + f / 2**m), except that p = f = 0
    means zero. Half of the smallest value and more rounds up to it. (Reconstructed; the half-way rule
    in particular is unverified.) REFERENCE: p from 1 to 2**e - 2 mean 2**(p - 1) * (1 + f / 2**m), the
    other exponents but zero are not used, and all below the smallest value becomes zero. The released
    code computes values without codes; this placement in the code is ours.

    >>> sorted(AdaptivFloat(width=4, exponent_bits=2).value(code) for code in range(8))
    [0.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]
    """

    width: int
    exponent_bits: int
    definition: Definition = Definition.PAPER

    def __post_init__(self) -> None:
        definition = as_choice("adaptivfloat.definition", self.definition, Definition)
        object.__setattr__(self, "definition", definition)
        low = 1 if self.definition is Definition.PAPER else 2
        if not isinstance(self.exponent_bits, int) or not low <= self.exponent_bits <= 6:
            raise MacloomError(
                f"adaptivfloat.exponent_bits: must be an integer from {low} to 6, not {self.exponent_bits!r}"
            )
        if not isinstance(self.width, int) or not self.exponent_bits + 2 <= self.width <= MAX_TABLE_BITS:
            raise MacloomError(
                f"adaptivfloat.width: must be an integer from {self.exponent_bits + 2} (a sign, the exponent and a "
                f"mantissa bit) to {MAX_TABLE_BITS}, not {self.width!r}"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        suffix = "_reference" if self.definition is Definition.REFERENCE else ""
        return f"adaptivfloat{self.width}e{self.exponent_bits}{suffix}"

    @property
    def bits(self) -> int:
        return self.width

    @property
    def mantissa_bits(self) -> int:
        return self.width - self.exponent_bits - 1

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest value."""
        return (1 << self.exponent_bits) - (1 if self.definition is Definition.PAPER else 3)

    def pair(self, code: int) -> tuple[int, int]:
        m = self.mantissa_bits
        magnitude = code & ((1 << (self.width - 1)) - 1)
        if not magnitude:
            return (0, 0)
        p, f = magnitude >> m, magnitude & ((1 << m) - 1)
        lowest = 0 if self.definition is Definition.PAPER else 1
        significand = (1 << m) + f
        return (p - lowest - m, -significand if code >> (self.width - 1) else significand)

    def value(self, code: int) -> float:
        m = self.mantissa_bits
        p = code >> m & ((1 << self.exponent_bits) - 1)
        if code == 1 << (self.width - 1):
            return math.nan
        if self.definition is Definition.REFERENCE and code and p in (0, (1 << self.exponent_bits) - 1):
            return math.nan
        e, i = self.pair(code)
        return math.ldexp(i, e)

    def decision(self, lower: int, upper: int) -> Fraction | None:
        if self.definition is Definition.REFERENCE and not (lower and upper):
            return Fraction(self.value(lower or upper))
        return None

    def tie_goes_up(self, lower: int, upper: int) -> bool:
        if not lower or not upper:  # away from zero
            return not lower
        return super().tie_goes_up(lower, upper)


@dataclass(frozen=True, kw_only=True)
class AdaptivScaled(Scaled):
    """Scaled AdaptivFloat: the scale is 2**bias and puts the binade of the largest magnitude on the last one.

    The bias is stored as an E8M0 byte. `clip` multiplies the largest magnitude first.

    >>> import numpy as np
    >>> fmt = AdaptivScaled(name="a", element=AdaptivFloat(width=4, exponent_bits=2))
    >>> fmt.quantize(np.float32([2.6, -1.3, 0.4, 0.2, -0.11, 3.7])).tolist()
    [3.0, -1.5, 0.375, 0.375, 0.0, 3.0]
    """

    element: AdaptivFloat  # type: ignore[assignment]
    scale_format: ScaleFormat = E8M0

    def calibrate(self, x: Any, clip: float | None = None) -> np.ndarray:
        if self.granularity.grain is Grain.NONE:
            return super().calibrate(x, clip)
        largest = self.granularity.absolute_maximum(as_float32(x), self.name)
        with np.errstate(over="ignore"):
            largest = np.minimum(largest * clip_share(clip), np.finfo(np.float32).max)
        exponents = np.clip(np.frexp(largest)[1] - 1 - self.element.max_exponent, -126, 127)
        scale = np.where(largest > 0, np.ldexp(np.float32(1), exponents.astype(np.int32)), np.float32(1))
        return np.asarray(scale, np.float32)

    def _row_scales(self, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if np.any(np.frexp(scale)[0] != 0.5):
            raise MacloomError(f"scale: format {self.name!r} stores powers of two only")
        return super()._row_scales(scale, shape)


def _adaptivfloat8(name: str, options: Options) -> TensorFormat:
    element = AdaptivFloat(
        width=8,
        exponent_bits=integer_option(options, "exponent", 4),
        definition=choice_option(options, "definition", *Definition),
    )
    return AdaptivScaled(name=name, element=element, granularity=granularity_option(options, Grain.TENSOR))


CATALOG.add(
    "adaptivfloat8",
    Entry(
        family=TAPERED,
        summary="8-bit float without subnormals, 4 exponent bits, the exponent bias chosen from the largest magnitude",
        source="Tambe et al., AdaptivFloat, DAC 2020; reconstructed where unverified",
        build=_adaptivfloat8,
        keys=("definition", "exponent", *WORDS, "group", "axis"),
    ),
)
