"""Powers of two, alone and as sums of a few (PoT, APoT): multiplication by shifting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product

from macloom.errors import MacloomError
from macloom.formats.element import ElementFormat
from macloom.formats.elements.logarithmic import Domain, exp2_separator
from macloom.formats.families import LOGARITHMIC
from macloom.formats.grammar import CATALOG, Entry, Options, as_choice, choice_option, scaled
from macloom.formats.tensor import TensorFormat


@dataclass(frozen=True, kw_only=True)
class PowerOfTwo(ElementFormat):
    """Zero and the powers 2**0, 2**1, ... : code 0 is zero, code c the power 2**(c - 1).

    Signed, a sign bit comes before a magnitude one bit narrower and the code of -0 is not used (the
    pot type of Guo et al., ANT, MICRO 2022). In the `linear` domain a value takes the nearest power,
    in the `log` domain the one nearest in its logarithm (Elhoushi et al., DeepShift, 2019).

    >>> [PowerOfTwo(width=4).value(code) for code in range(8)]
    [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    """

    width: int
    signed: bool = True
    domain: Domain = Domain.LINEAR

    def __post_init__(self) -> None:
        object.__setattr__(self, "domain", as_choice("pot.domain", self.domain, Domain))
        widest = 8 if self.signed else 7
        if not isinstance(self.width, int) or not 2 <= self.width <= widest:
            raise MacloomError(f"pot.width: must be an integer from 2 to {widest}, not {self.width!r}")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{'' if self.signed else 'u'}pot{self.width}{'_log' if self.domain is Domain.LOG else ''}"

    @property
    def bits(self) -> int:
        return self.width

    def pair(self, code: int) -> tuple[int, int]:
        magnitude = code & ((1 << (self.width - self.signed)) - 1)
        if not magnitude:
            return (0, 0)
        return (magnitude - 1, -1 if magnitude != code else 1)

    def value(self, code: int) -> float:
        if self.signed and code == 1 << (self.width - 1):
            return math.nan
        e, i = self.pair(code)
        return math.ldexp(i, e)

    def decision(self, lower: int, upper: int) -> Fraction | None:
        if self.domain is Domain.LINEAR:
            return None
        exponents = [e for e, i in (self.pair(lower), self.pair(upper)) if i]
        # Next to zero the point is half a step of the logarithm below the smallest power.
        point = exp2_separator(sum(exponents) if len(exponents) == 2 else -1, 1)
        return point if self.value(upper) > 0 else -point


# Exponents of the addends of an APoT magnitude of 2 to 6 bits: code fields from high to low, each choosing
# 0 or one power. Li, Dong and Wang, Additive Powers-of-Two Quantization, ICLR 2020 with k = 2; for odd
# widths the authors' code (quant_layer.py) splits the powers this way.
ADDENDS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((-1, -2, -3),),
    3: ((-1, -2, -4), (-3,)),
    4: ((-1, -3, -5), (-2, -4, -6)),
    5: ((-1, -3, -6), (-2, -4, -7), (-5,)),
    6: ((-1, -4, -7), (-2, -5, -8), (-3, -6, -9)),
}


@dataclass(frozen=True, kw_only=True)
class AdditivePowerOfTwo(ElementFormat):
    """Sums of one power of two, or none, from each of a few sets, as integers of the smallest step.

    The magnitude has a code field per set (two bits where the set has three powers, one where it has
    one); field 0 adds nothing. Signed, a sign bit comes first and the code of -0 is not used. The
    sets are those of Li, Dong and Wang, ICLR 2020; which sum has which code is ours.

    >>> sorted(AdditivePowerOfTwo(width=4).value(code) for code in range(8))
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0]
    """

    width: int
    signed: bool = True

    def __post_init__(self) -> None:
        low, high = (min(ADDENDS) + self.signed, max(ADDENDS) + self.signed)
        if not isinstance(self.width, int) or not low <= self.width <= high:
            raise MacloomError(f"apot.width: must be an integer from {low} to {high}, not {self.width!r}")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{'' if self.signed else 'u'}apot{self.width}"

    @property
    def bits(self) -> int:
        return self.width

    @cached_property
    def magnitudes(self) -> tuple[int, ...]:
        """The magnitude of every magnitude code, in units of the smallest power."""
        sets = ADDENDS[self.width - self.signed]
        smallest = min(min(s) for s in sets)
        choices = [(0, *(1 << (e - smallest) for e in s)) for s in sets]
        return tuple(sum(addends) for addends in product(*choices))

    def pair(self, code: int) -> tuple[int, int]:
        magnitude = self.magnitudes[code & ((1 << (self.width - self.signed)) - 1)]
        return (0, -magnitude if code >> (self.width - self.signed) else magnitude)

    def value(self, code: int) -> float:
        if self.signed and code == 1 << (self.width - 1):
            return math.nan
        return float(self.pair(code)[1])


def _pot4(name: str, options: Options) -> TensorFormat:
    domain = choice_option(options, "domain", Domain.LINEAR, Domain.LOG)
    return scaled(PowerOfTwo(width=4, domain=domain))(name, options)


def _fill() -> None:
    CATALOG.add(
        "pot4",
        Entry(
            family=LOGARITHMIC,
            summary="4-bit powers of two",
            source="Guo et al., ANT, MICRO 2022",
            build=_pot4,
            keys=("domain",),
            words=True,
        ),
    )
    CATALOG.add(
        "apot4",
        Entry(
            family=LOGARITHMIC,
            summary="4-bit sums of two powers of two",
            source="Li, Dong and Wang, Additive Powers-of-Two Quantization, ICLR 2020",
            build=scaled(AdditivePowerOfTwo(width=4)),
            words=True,
        ),
    )


_fill()
