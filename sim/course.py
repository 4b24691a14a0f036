"""The course of a walk over tiles: when each step starts, what each unit does in it, and what the buffers hold.

The event rung adds up what the steps of a walk take without looking at each. A course keeps what it added up, for the
tiles that stand for all (`macloom.sim.event.representatives`), and lays the steps out in time again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from macloom.sim.event import TileCosts

MOST_STEPS = 1 << 20  # of a walk that are laid out


@dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """What tiles move and hold, beside the cycles of `TileCosts`; integer arrays of one length.

    `load_bits` and `store_bits` pass the DRAM. `held` are the bits of a tile in each buffer by name; those of `comes`
    are new with this tile, those of `goes` leave after it.
    """

    load_bits: np.ndarray
    store_bits: np.ndarray
    held: dict[str, np.ndarray]
    comes: dict[str, np.ndarray]
    goes: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class WalkCourse:
    """What the tiles at `representatives(trips)` take, for a walk that is repeated `count` times.

    Batches follow one another; `overlap_loads` and `overlap_stores` are those of `walk_time`. A walk that is not
    `timed` took another time than its steps add up to: a bound, or one that depended on the data.
    """

    trips: tuple[int, ...]
    count: int
    costs: TileCosts
    tiles: Tiles
    overlap_loads: bool
    overlap_stores: bool
    timed: bool = True

    @property
    def steps(self) -> int:
        return math.prod(self.trips) * self.count


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Intervals of one walk, in order; arrays of one length.

    Cycles that each lasts and in which array, vector unit and DRAM are busy, bits that pass the DRAM, and the most
    bits that each buffer holds in it.
    """

    cycles: np.ndarray
    array: np.ndarray
    vector: np.ndarray
    dram: np.ndarray
    bits: np.ndarray
    held: dict[str, np.ndarray]


def standing_for(trips: Sequence[int], places: np.ndarray) -> np.ndarray:
    """Return which of `representatives(trips)` stands for the tile at each place.

    >>> standing_for([7], np.arange(7))
    array([0, 1, 2, 2, 2, 3, 4])
    """
    found = np.zeros_like(places)
    for trip, at in zip(trips, np.unravel_index(places, tuple(trips)), strict=True):
        kinds = min(trip, 5)
        found = found * kinds + (at if trip <= 5 else np.where(at < 2, at, np.maximum(at - trip + 5, 2)))
    return found


def laid_out(course: WalkCourse) -> Layout:
    """Return all intervals of a walk: the first load, the steps, and what the last tile leaves to do."""
    total, size = course.steps, math.prod(course.trips)
    kind = standing_for(course.trips, np.arange(total, dtype=np.int64) % size)
    costs, tiles = course.costs, course.tiles
    array, vector, load, store = (x[kind] for x in (costs.array, costs.vector, costs.load, costs.store))
    load_bits, store_bits = tiles.load_bits[kind], tiles.store_bits[kind]
    vector_before, store_before, stored = (_before(x) for x in (vector, store, store_bits))
    load_after, loaded = _after(load), _after(load_bits)
    beside_dram = load_after * course.overlap_loads + store_before * course.overlap_stores
    cycles = np.maximum(array, np.maximum(beside_dram, vector_before * course.overlap_stores))
    if not course.overlap_loads:
        cycles = cycles + load_after
    if not course.overlap_stores:
        cycles = cycles + np.maximum(store_before, vector_before)
    held = {}
    for name, bits in tiles.held.items():
        here, comes = bits[kind], (bits * tiles.comes[name])[kind]
        goes = (bits * tiles.goes[name])[kind]
        coming = _after(comes) * course.overlap_loads
        leaving = _before(goes) * course.overlap_stores
        held[name] = _framed(comes[0], here + np.maximum(coming, leaving), goes[-1])
    return Layout(
        cycles=_framed(load[0], cycles, max(vector[-1], store[-1])),
        array=_framed(0, array, 0),
        vector=_framed(0, vector_before, vector[-1]),
        dram=_framed(load[0], load_after + store_before, store[-1]),
        bits=_framed(load_bits[0], loaded + stored, store_bits[-1]),
        held=held,
    )


def joined(layout: Layout, most: int) -> Layout:
    """Return at most about `most` intervals, neighbours joined; the first and the last one stay alone.

    What is busy or moves adds up, what buffers hold is the most of it.
    """
    count = len(layout.cycles)
    if count <= most + 2:
        return layout
    ends = np.cumsum(layout.cycles[1:-1])
    inner = np.searchsorted(ends, ends[-1] * np.arange(most) // most, side="right")
    starts = np.unique(np.concatenate([[0], 1 + inner, [count - 1]]))
    summed = {
        name: np.add.reduceat(getattr(layout, name), starts) for name in ("cycles", "array", "vector", "dram", "bits")
    }
    return Layout(**summed, held={name: np.maximum.reduceat(bits, starts) for name, bits in layout.held.items()})


def _before(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], values[:-1]])


def _after(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[1:], [0]])


def _framed(first: int, values: np.ndarray, last: int) -> np.ndarray:
    return np.concatenate([[first], values, [last]]).astype(np.int64)
