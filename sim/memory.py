"""Time of a walk over tiles: loads, array, vector unit and stores, with double buffering.

The walk visits tiles one after another; each has four costs in cycles. While the array works on one
tile, the DRAM channel brings what the next tile lacks, the vector unit finishes the results of the
tile before, and those results are stored. One channel carries loads and stores. A step therefore
lasts as long as the busiest of array, vector unit and channel:

    step(i) = max(array(i), vector(i - 1), load(i + 1) + store(i - 1))

Before the first step the first load is exposed, after the last one the last vector work and store.
Buffers that are not double-buffered take their transfers out of the maximum: loads wait for the
array, or results leave before the array goes on. No walk is faster than its bits over the bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class TileCosts:
    """Cycles that each of the visited tiles costs on each unit; integer arrays of one length."""

    load: np.ndarray
    array: np.ndarray
    vector: np.ndarray
    store: np.ndarray


@dataclass(frozen=True, kw_only=True)
class WalkTime:
    """Cycles of a whole walk: all of them, and what the array waited for.

    `cycles` = `array` + `memory_stall` + `vector_wait`. `dram` and `vector` are busy cycles, which
    mostly pass beside the array's. `first_load` is the exposed start.
    """

    cycles: int
    array: int
    memory_stall: int
    vector_wait: int
    dram: int
    vector: int
    first_load: int


def transfer_cycles(bits: np.ndarray | float, bits_per_cycle: float) -> np.ndarray:
    """Return the whole cycles that a transfer of `bits` takes.

    >>> int(transfer_cycles(1025, 512.0))
    3
    """
    return np.ceil(np.asarray(bits) / bits_per_cycle).astype(np.int64)


def representatives(trips: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return linear indices of an iteration space and how many iterations each stands for.

    The costs of an iteration, and of its neighbours, depend only on which of its coordinates are the
    first, the last or next to one of these. So at most five values of each coordinate are visited.

    >>> representatives([7])
    (array([0, 1, 2, 5, 6]), array([1, 1, 3, 1, 1]))
    """
    indices, weights = np.zeros(1, np.int64), np.ones(1, np.int64)
    for trip in trips:
        if trip <= 5:
            values, counts = np.arange(trip), np.ones(trip, np.int64)
        else:
            values, counts = np.array([0, 1, 2, trip - 2, trip - 1]), np.array([1, 1, trip - 4, 1, 1])
        indices = (indices[:, None] * trip + values).ravel()
        weights = (weights[:, None] * counts).ravel()
    return indices, weights


def walk_time(
    trips: Sequence[int],
    costs_at: Callable[[np.ndarray], TileCosts],
    *,
    count: int = 1,
    overlap_loads: bool = True,
    overlap_stores: bool = True,
) -> WalkTime:
    """Return the time of `count` walks in a row over the iteration space `trips`, outermost first.

    `costs_at` gives the costs of iterations by their linear index; index 0 loads everything it needs,
    so that one walk follows another like one tile another.
    """
    total = math.prod(trips)
    indices, weights = representatives(trips)
    here, before, after = (costs_at(i) for i in (indices, (indices - 1) % total, (indices + 1) % total))

    def steps(has_before: np.ndarray | bool, has_after: np.ndarray | bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the cycles of each step, and those of them that memory and vector unit add."""
        vector, store = before.vector * has_before, before.store * has_before
        load = after.load * has_after
        beside_dram = load * overlap_loads + store * overlap_stores
        beside_vector = vector * overlap_stores
        overlapped = np.maximum(here.array, np.maximum(beside_dram, beside_vector))
        by_memory = beside_dram >= beside_vector
        memory = np.where(by_memory, overlapped - here.array, 0)
        waits = np.where(by_memory, 0, overlapped - here.array)
        memory = memory + load * (not overlap_loads)
        if not overlap_stores:
            memory = memory + np.maximum(store - vector, 0)
            waits = waits + vector
        return here.array + memory + waits, memory, waits

    everywhere = steps(True, True)
    # The first step of all has nothing before it and the last nothing after it.
    first, last = indices == 0, indices == total - 1
    ends = [(weights * count, everywhere)]
    if total == 1 and count == 1:
        ends = [(weights, steps(False, False))]
    else:
        ends += [(-1 * first, everywhere), (1 * first, steps(False, True))]
        ends += [(-1 * last, everywhere), (1 * last, steps(True, False))]
    cycles, memory, waits = (sum(int((w * part[i]).sum()) for w, part in ends) for i in range(3))
    first_load = int(here.load[first][0])
    tail_vector, tail_store = int(here.vector[last][0]), int(here.store[last][0])
    memory += first_load + max(tail_store - tail_vector, 0)
    waits += tail_vector
    busy = {name: count * int((weights * getattr(here, name)).sum()) for name in ("load", "array", "vector", "store")}
    return WalkTime(
        cycles=cycles + first_load + max(tail_vector, tail_store),
        array=busy["array"],
        memory_stall=memory,
        vector_wait=waits,
        dram=busy["load"] + busy["store"],
        vector=busy["vector"],
        first_load=first_load,
    )
