"""The event rung: tiles as events, with double buffering and one DRAM that loads and stores share.

The walk visits tiles one after another; each costs cycles on every unit. While the array works on one
tile, the DRAM brings what the next tile lacks, the vector unit finishes the results of the
tile before, and those results are stored. A step therefore lasts as long as the busiest of the three:

    step(i) = max(array(i), vector(i - 1), store(i - 1) + load(i + 1))

Before the first step the first load is exposed, after the last one the last vector work and store.
Buffers that are not double-buffered take their transfers out of the maximum: loads wait for the
array, or results leave before the array goes on. No walk is faster than its bits over the bandwidth.

Within a step the channel stores first and then loads, so the array waits for the pieces that come last; that
is how stalls are told apart by cause. `macloom.sim.cycle.memory` is the machine that steps
the same walk cycle by cycle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from macloom.errors import MacloomError

LOADS = ("sums", "a", "b")  # in the order in which the channel serves them
STORES = ("out", "spill")
CAUSES = (*STORES, *LOADS)
MOST_TILES = 1 << 23  # visited one by one, where costs depend on the data


@dataclass(frozen=True, kw_only=True)
class TileCosts:
    """Cycles that each of the visited tiles costs on each unit; integer arrays of one length.

    `loads` and `stores` hold the cycles of each piece, by cause; None puts all of them on `a` and `out`.
    """

    load: np.ndarray
    array: np.ndarray
    vector: np.ndarray
    store: np.ndarray
    loads: Mapping[str, np.ndarray] | None = None
    stores: Mapping[str, np.ndarray] | None = None

    def piece(self, cause: str) -> np.ndarray:
        """Return the cycles that the channel takes for one cause."""
        pieces, whole, default = (self.loads, self.load, "a") if cause in LOADS else (self.stores, self.store, "out")
        if pieces is None:
            return whole if cause == default else np.zeros_like(whole)
        return pieces.get(cause, np.zeros_like(whole))


@dataclass(frozen=True, kw_only=True)
class WalkTime:
    """Cycles of a whole walk: all of them, and what the array waited for.

    `cycles` = `array` + `memory_stall` + `vector_wait`. `dram` and `vector` are busy cycles, which
    mostly pass beside the array's. `first_load` is the exposed start, `first_b` the part of it for operand B.
    `stalls` splits `memory_stall` by what the channel was moving meanwhile. `idle_tail` are cycles from the
    start of the last step on in which the channel has nothing to do.
    """

    cycles: int
    array: int
    memory_stall: int
    vector_wait: int
    dram: int
    vector: int
    first_load: int
    first_b: int = 0
    stalls: Mapping[str, int] = field(default_factory=dict)
    idle_tail: int = 0


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


def every_tile(trips: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return all linear indices of an iteration space, each standing for itself.

    Raises:
        MacloomError: there are too many.
    """
    total = math.prod(trips)
    if total > MOST_TILES:
        raise MacloomError(f"event: must visit every tile, and {total} are more than {MOST_TILES}; take larger tiles")
    return np.arange(total), np.ones(total, np.int64)


def tail_split(stall: np.ndarray, pieces: Sequence[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return how many of the last `stall` cycles of a chain of pieces each piece took.

    >>> {cause: int(n) for cause, n in tail_split(np.array(5), [("a", np.array(9)), ("b", np.array(3))]).items()}
    {'b': 3, 'a': 2}
    """
    left, found = stall, {}
    for cause, cycles in reversed(pieces):
        found[cause] = np.minimum(left, cycles)
        left = left - found[cause]
    return found


def walk_time(
    trips: Sequence[int],
    costs_at: Callable[[np.ndarray], TileCosts],
    *,
    count: int = 1,
    overlap_loads: bool = True,
    overlap_stores: bool = True,
    every: bool = False,
) -> WalkTime:
    """Return the time of `count` walks in a row over the iteration space `trips`, outermost first.

    `costs_at` gives the costs of iterations by their linear index; index 0 loads everything it needs,
    so that one walk follows another like one tile another. With `every`, all iterations are visited, because
    their costs depend on more than their place among the first and last ones.
    """
    total = math.prod(trips)
    indices, weights = every_tile(trips) if every else representatives(trips)
    here, before, after = (costs_at(i) for i in (indices, (indices - 1) % total, (indices + 1) % total))

    def steps(has_before: bool, has_after: bool) -> dict[str, np.ndarray]:
        """Return the cycles of each step, and those of them that memory, by cause, and vector unit add."""
        vector, store = before.vector * has_before, before.store * has_before
        load = after.load * has_after
        stored = [(cause, before.piece(cause) * has_before) for cause in STORES]
        loaded = [(cause, after.piece(cause) * has_after) for cause in LOADS]
        beside_dram = load * overlap_loads + store * overlap_stores
        beside_vector = vector * overlap_stores
        overlapped = np.maximum(here.array, np.maximum(beside_dram, beside_vector))
        by_memory = beside_dram >= beside_vector
        memory = np.where(by_memory, overlapped - here.array, 0)
        waits = np.where(by_memory, 0, overlapped - here.array)
        chain = (stored if overlap_stores else []) + (loaded if overlap_loads else [])
        causes = {cause: np.zeros_like(memory) for cause in CAUSES} | tail_split(memory, chain)
        if not overlap_loads:
            memory = memory + load
            causes |= {cause: cycles + np.zeros_like(memory) for cause, cycles in loaded}
        if not overlap_stores:
            late = np.maximum(store - vector, 0)
            memory, waits = memory + late, waits + vector
            causes |= tail_split(late, stored)
        return {"cycles": here.array + memory + waits, "memory": memory, "waits": waits, **causes}

    everywhere = steps(True, True)
    # The first step of all has nothing before it and the last nothing after it.
    first, last = indices == 0, indices == total - 1
    if total == 1 and count == 1:
        final = steps(False, False)
        ends = [(weights, final)]
    else:
        final = steps(True, False)
        ends = [(weights * count, everywhere)]
        ends += [(-1 * first, everywhere), (1 * first, steps(False, True))]
        ends += [(-1 * last, everywhere), (1 * last, final)]
    sums = {name: sum(int((w * part[name]).sum()) for w, part in ends) for name in everywhere}
    first_load = int(here.load[first][0])
    tail_vector, tail_store = int(here.vector[last][0]), int(here.store[last][0])
    late = max(tail_store - tail_vector, 0)
    stalls = {cause: sums[cause] + (int(here.piece(cause)[first][0]) if cause in LOADS else 0) for cause in CAUSES}
    for cause, cycles in tail_split(np.array(late), [(c, here.piece(c)[last][0]) for c in STORES]).items():
        stalls[cause] += int(cycles)
    busy = {name: count * int((weights * getattr(here, name)).sum()) for name in ("load", "array", "vector", "store")}
    stored_last = int(before.store[last][0]) if total * count > 1 else 0
    return WalkTime(
        cycles=sums["cycles"] + first_load + max(tail_vector, tail_store),
        array=busy["array"],
        memory_stall=sums["memory"] + first_load + late,
        vector_wait=sums["waits"] + tail_vector,
        dram=busy["load"] + busy["store"],
        vector=busy["vector"],
        first_load=first_load,
        first_b=int(here.piece("b")[first][0]),
        stalls=stalls,
        idle_tail=int(final["cycles"][last][0]) - stored_last + max(tail_vector, tail_store) - tail_store,
    )
