"""The rungs of the ladder."""

from __future__ import annotations

from enum import StrEnum


class Fidelity(StrEnum):
    """How closely a product is followed.

    `analytic`: closed form; each unit overlaps all others from first to last cycle, so that time is what the busiest
    unit takes. `event`: tile by tile, with what the array waits for. `cycle`: every register of the array, every
    burst of the DRAM and every clock cycle of the walk; the same numbers as `event`.
    """

    ANALYTIC = "analytic"
    EVENT = "event"
    CYCLE = "cycle"
