"""Formats that store a logarithm: signed fixed-point ones (LNS) and quantizers of [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from macloom.errors import MacloomError
from macloom.formats.elements.decoded import DecodedFormat, Table, check_table, choose_table, table_option
from macloom.formats.families import LOGARITHMIC
from macloom.formats.grammar import CATALOG, Builder, Entry, Options, as_choice, choice_option, integer_option, scaled
from macloom.formats.tensor import TensorFormat

MAX_FRACTION_BITS = 8
LARGEST_EXPONENT = 126  # every value is a normal float32


class Domain(StrEnum):
    """Where round to nearest measures: between values, or between their logarithms."""

    LINEAR = "linear"
    LOG = "log"


def _exp2_floor(k: int, f: int, bits: int) -> tuple[int, int]:
    """Return (floor(m * 2**bits), e) of 2**(k / 2**f) = m * 2**e with 1 <= m < 2, exactly."""
    whole, part = k >> f, k & ((1 << f) - 1)
    root = 1 << (part + (bits << f))
    for _ in range(f):
        root = math.isqrt(root)  # the floor of nested square roots is that of the whole root
    return root, whole


def exp2_nearest(k: int, f: int) -> float:
    """Return the float64 nearest to 2**(k / 2**f).

    >>> exp2_nearest(1, 1) == math.sqrt(2), exp2_nearest(-6, 1)
    (True, 0.125)
    """
    root, whole = _exp2_floor(k, f, 53)
    return math.ldexp((root + 1) >> 1, whole - 52)


def exp2_separator(k: int, f: int) -> Fraction:
    """Return 2**(k / 2**f), or if that is irrational the middle of the two float64 that enclose it."""
    root, whole = _exp2_floor(k, f, 52)
    if k % (1 << f) == 0:
        return Fraction(2) ** whole
    return (root + Fraction(1, 2)) * Fraction(2) ** (whole - 52)


def _check_fraction_bits(path: str, bits: object) -> None:
    if not isinstance(bits, int) or not 0 <= bits <= MAX_FRACTION_BITS:
        raise MacloomError(f"{path}.fraction_bits: must be an integer from 0 to {MAX_FRACTION_BITS}, not {bits!r}")


@dataclass(frozen=True, kw_only=True)
class LogFormat(DecodedFormat):
    """Sign and logarithm: (-1)**s * 2**(L / 2**fraction_bits), L in two's complement (LNS i.f).

    L has `integer_bits`, its sign among them, and `fraction_bits`. The most negative L means zero; its
    code with the sign set is not used. In the `log` domain L is the nearest to the logarithm; where L
    would be the reserved one or less, the value is zero. In the `linear` domain the nearest value
    counts. Without fraction bits values are powers of two and need no decode table.

    >>> lns = LogFormat(integer_bits=4, fraction_bits=3)
    >>> lns.bits, lns.value(0), round(lns.value(1) - 1, 4), lns.value(0b01000000), lns.table.name
    (8, 1.0, 0.0905, 0.0, 'fp16')
    """

    integer_bits: int
    fraction_bits: int
    domain: Domain = Domain.LOG
    table: Table | None = None  # type: ignore[override]

    def __post_init__(self) -> None:
        object.__setattr__(self, "domain", as_choice("log.domain", self.domain, Domain))
        _check_fraction_bits("log", self.fraction_bits)
        if not isinstance(self.integer_bits, int) or not 1 <= self.integer_bits <= 7:
            raise MacloomError(f"log.integer_bits: must be an integer from 1 to 7, not {self.integer_bits!r}")
        if self.fraction_bits and self.table is None:
            object.__setattr__(self, "table", choose_table(self))
        if self.table is not None:
            check_table("log.table", self, self.table)

    @property
    def name(self) -> str:  # type: ignore[override]
        linear = "_linear" if self.domain is Domain.LINEAR else ""
        return f"lns{self.integer_bits}.{self.fraction_bits}{linear}"

    @property
    def bits(self) -> int:
        return 1 + self.integer_bits + self.fraction_bits

    def logarithm(self, code: int) -> int | None:
        """Return L in units of 2**-fraction_bits; None where the code means zero."""
        width = self.bits - 1
        field = code & ((1 << width) - 1)
        signed = field - (1 << width) if field >> (width - 1) else field
        return None if signed == -1 << (width - 1) else signed

    def value(self, code: int) -> float:
        negative, logarithm = code >> (self.bits - 1), self.logarithm(code)
        if logarithm is None:
            return math.nan if negative else 0.0
        return math.copysign(exp2_nearest(logarithm, self.fraction_bits), -1.0 if negative else 1.0)

    def decision(self, lower: int, upper: int) -> Fraction | None:
        if self.domain is Domain.LINEAR:
            return None
        a, b = self.logarithm(lower), self.logarithm(upper)
        nonzero = lower if b is None else upper
        zero = -1 << (self.bits - 2)  # next to zero the point is the middle of the reserved L and the next
        point = exp2_separator((zero if a is None else a) + (zero if b is None else b), self.fraction_bits + 1)
        return -point if nonzero >> (self.bits - 1) else point


@dataclass(frozen=True, kw_only=True)
class UnitLog(DecodedFormat):
    """Values 2**(-q / 2**fraction_bits) of the code q, for data in [0, 1] such as softmax outputs.

    q is the integer nearest to -2**fraction_bits * log2(x), at most 2**width - 1: zero becomes the
    smallest value. With no fraction bits this is the log2 quantizer of FQ-ViT (Lin et al., IJCAI
    2022), with one the log-sqrt2 quantizer of RepQ-ViT (Li et al., ICCV 2023). Their released code
    turns what lies beyond the last q into zero, which makes 2**width + 1 values and fits no code.

    >>> [UnitLog(width=2).value(code) for code in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """

    width: int
    fraction_bits: int = 0
    table: Table | None = None  # type: ignore[override]

    def __post_init__(self) -> None:
        _check_fraction_bits("unit_log", self.fraction_bits)
        if not isinstance(self.width, int) or not 1 <= self.width <= 8:
            raise MacloomError(f"unit_log.width: must be an integer from 1 to 8, not {self.width!r}")
        if ((1 << self.width) - 1) >> self.fraction_bits > LARGEST_EXPONENT:
            raise MacloomError(
                f"unit_log.width: must keep the values above 2**-{LARGEST_EXPONENT}, which {self.width} does not"
            )
        if self.fraction_bits and self.table is None:
            object.__setattr__(self, "table", choose_table(self))
        if self.table is not None:
            check_table("unit_log.table", self, self.table)

    @property
    def name(self) -> str:  # type: ignore[override]
        kind = {0: "log", 1: "logsqrt"}.get(self.fraction_bits, f"log_f{self.fraction_bits}_")
        return f"{kind}{self.width}"

    @property
    def bits(self) -> int:
        return self.width

    def value(self, code: int) -> float:
        return exp2_nearest(-code, self.fraction_bits)

    def decision(self, lower: int, upper: int) -> Fraction:
        return exp2_separator(-(lower + upper), self.fraction_bits + 1)


def _lns8(name: str, options: Options) -> TensorFormat:
    fraction_bits = integer_option(options, "fraction", 3)
    domain = choice_option(options, "domain", Domain.LOG, Domain.LINEAR)
    element = LogFormat(
        integer_bits=7 - fraction_bits, fraction_bits=fraction_bits, domain=domain, table=table_option(options)
    )
    return scaled(element)(name, options)


def _unit_log4(fraction_bits: int) -> Builder:
    def build(name: str, options: Options) -> TensorFormat:
        return scaled(UnitLog(width=4, fraction_bits=fraction_bits, table=table_option(options)))(name, options)

    return build


def _fill() -> None:
    CATALOG.add(
        "lns8",
        Entry(
            family=LOGARITHMIC,
            summary="8-bit logarithmic number: sign and a 7-bit fixed-point logarithm, 3 of them fraction bits",
            source="logarithmic number system; rounding in the log domain",
            build=_lns8,
            keys=("fraction", "domain", "table"),
            words=True,
        ),
    )
    for fraction_bits, (name, base, source) in enumerate(
        [("log4", "2", "Lin et al., FQ-ViT, IJCAI 2022"), ("logsqrt4", "sqrt(2)", "Li et al., RepQ-ViT, ICCV 2023")]
    ):
        CATALOG.add(
            name,
            Entry(
                family=LOGARITHMIC,
                summary=f"4-bit logarithms to the base {base} for data in [0, 1]",
                source=source,
                build=_unit_log4(fraction_bits),
                keys=("table",),
                words=True,
            ),
        )


_fill()
