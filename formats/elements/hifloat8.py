"""HiFloat8 (HiF8): an 8-bit float whose exponent width depends on its exponent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from macloom.formats.element import ElementFormat
from macloom.formats.families import TAPERED
from macloom.formats.grammar import CATALOG, Entry
from macloom.formats.policy import Rounding
from macloom.formats.tensors.statistic import Statistic, statistic_scaled

NAN, INFINITY, NEGATIVE_INFINITY = 0x80, 0x6F, 0xEF


@dataclass(frozen=True, kw_only=True)
class HiFloat8(ElementFormat):
    """Sign, a prefix-coded dot field, an exponent of 0 to 4 bits, and the mantissa in what is left.

    Dot 11, 10, 01, 001, 0001 stand for 4, 3, 2, 1, 0 exponent bits; the exponent is sign and
    magnitude, the magnitude's leading 1 implied. Dot 0000 holds M = 1..7, worth 2**(M - 23), and zero.
    There is no -0: its code is NaN. Values round to nearest, ties away from zero. Sources: the paper
    "Ascend HiFloat8 Format for Deep Learning", and the public model ddddwee1/HiFloat8, whose rounding
    this is; the codes of NaN and the infinities agree with both but are a reconstruction. That model
    overflows to infinity from 1.25 * 2**15 on, which is the overflow policy `to_inf` here.

    >>> h = HiFloat8()
    >>> h.value(0x08), h.value(0x09), h.value(0x01) == 2.0**-22, h.max_value
    (1.0, 1.125, True, 32768.0)
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        return "hif8"

    @property
    def bits(self) -> int:
        return 8

    @property
    def default_rounding(self) -> Rounding:
        return Rounding.NEAREST_AWAY

    @property
    def nan_code(self) -> int:
        return NAN

    @property
    def infinity(self) -> bool:
        return True

    @property
    def overflow_value(self) -> float:
        return 1.5 * 2.0**15

    def pair(self, code: int) -> tuple[int, int]:
        body = code & 0x7F
        sign = -1 if code >> 7 else 1
        if body < 8:
            return (body - 23, sign) if body else (0, 0)
        if body >= 32:
            d = (body >> 5) + 1  # D, the number of exponent bits
            t = 5 - d  # mantissa bits
        else:
            d, t = (1, 3) if body >= 16 else (0, 3)
        e = 0
        if d:
            field = body >> t & ((1 << d) - 1)
            magnitude = 1 << (d - 1) | field & ((1 << (d - 1)) - 1)
            e = -magnitude if field >> (d - 1) else magnitude
        return (e - t, sign * ((1 << t) + (body & ((1 << t) - 1))))

    def value(self, code: int) -> float:
        if code == NAN:
            return math.nan
        if code in (INFINITY, NEGATIVE_INFINITY):
            return math.inf if code == INFINITY else -math.inf
        e, i = self.pair(code)
        return math.ldexp(i, e)


CATALOG.add(
    "hif8",
    Entry(
        family=TAPERED,
        summary="HiFloat8: 8 bits, 38 binades, most mantissa bits near 1, where the root mean square is scaled to",
        source="Ascend HiFloat8 Format for Deep Learning, 2024; public model ddddwee1/HiFloat8",
        build=statistic_scaled(HiFloat8(), Statistic.RMS, Statistic.MEAN, Statistic.ABSMAX),
        keys=("rule",),
        words=True,
    ),
)
