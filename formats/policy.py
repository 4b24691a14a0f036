"""Policies that a conversion takes as arguments: how to round, what to do on overflow."""

from __future__ import annotations

from enum import StrEnum


class Rounding(StrEnum):
    """Which neighbour a value between two representable values takes (IEEE 754-2019, 4.3).

    `TO_ODD` keeps exact values and otherwise takes the neighbour with the odd code, which makes a
    later, narrower rounding free of double rounding.
    """

    NEAREST_EVEN = "nearest_even"
    NEAREST_AWAY = "nearest_away"
    TOWARD_ZERO = "toward_zero"
    TO_ODD = "to_odd"


class Overflow(StrEnum):
    """What a finite value beyond the largest finite value becomes."""

    SATURATE = "saturate"
    TO_INF = "to_inf"
    TO_NAN = "to_nan"
