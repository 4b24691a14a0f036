"""The time of a walk over tiles, against a plain loop over all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from macloom.sim.event import TileCosts, representatives, walk_time
from macloom.sim.memory import transfer_cycles


def plain_walk(costs, overlap_loads, overlap_stores):
    """The definition, one tile at a time; `costs` is a list of (load, array, vector, store)."""
    time = costs[0][0]
    for i, (_, array, _, _) in enumerate(costs):
        load = costs[i + 1][0] if i + 1 < len(costs) else 0
        vector, store = costs[i - 1][2:] if i else (0, 0)
        beside = [array]
        beside.append((load if overlap_loads else 0) + (store if overlap_stores else 0))
        beside.append(vector if overlap_stores else 0)
        time += max(beside) + (0 if overlap_loads else load) + (0 if overlap_stores else max(vector, store))
    return time + max(costs[-1][2:])


def random_costs(trips, rng):
    """Costs that depend on which coordinates are first or last, as those of tiles do."""
    table = rng.integers(0, 50, (4, 3 ** len(trips)))

    def costs_at(indices):
        kind, rest = np.zeros(len(indices), np.int64), np.asarray(indices)
        for trip in reversed(trips):
            coordinate, rest = rest % trip, rest // trip
            kind = kind * 3 + np.where(coordinate == 0, 0, np.where(coordinate == trip - 1, 2, 1))
        return TileCosts(**{name: table[i][kind] for i, name in enumerate(("load", "array", "vector", "store"))})

    return costs_at


@pytest.mark.parametrize("overlap_stores", [True, False])
@pytest.mark.parametrize("overlap_loads", [True, False])
def test_walk_time_equals_the_plain_loop(overlap_loads, overlap_stores):
    rng = np.random.default_rng(3)
    for _ in range(60):
        trips = rng.integers(1, 9, 3).tolist()
        count = int(rng.integers(1, 4))
        costs_at = random_costs(trips, rng)
        one = costs_at(np.arange(math.prod(trips)))
        units = (one.load, one.array, one.vector, one.store)
        tiles = list(zip(*(costs.tolist() for costs in units), strict=True)) * count
        walk = walk_time(trips, costs_at, count=count, overlap_loads=overlap_loads, overlap_stores=overlap_stores)
        assert walk.cycles == plain_walk(tiles, overlap_loads, overlap_stores)
        assert walk.cycles == walk.array + walk.memory_stall + walk.vector_wait
        assert walk.memory_stall >= 0
        assert walk.vector_wait >= 0
        assert walk.array == sum(t[1] for t in tiles)
        assert walk.dram == sum(t[0] + t[3] for t in tiles) <= walk.cycles
        assert walk.vector == sum(t[2] for t in tiles) <= walk.cycles


def constant(load, array, vector, store):
    return lambda i: TileCosts(
        load=np.full(len(i), load),
        array=np.full(len(i), array),
        vector=np.full(len(i), vector),
        store=np.full(len(i), store),
    )


def test_a_compute_bound_walk_by_hand():
    # 10 to load, four steps of 100 that hide the rest, 5 to store.
    walk = walk_time([4], constant(10, 100, 3, 5))
    assert (walk.cycles, walk.memory_stall, walk.vector_wait) == (10 + 400 + 5, 12, 3)


def test_a_memory_bound_walk_by_hand():
    # Steps: first max(7, 20) without store, then twice 20 + 5, last without load max(7, 5).
    walk = walk_time([4], constant(20, 7, 0, 5))
    assert walk.cycles == 20 + 20 + 25 + 25 + 7 + 5


def test_single_buffers_add_their_transfers():
    walk = walk_time([2], constant(20, 7, 4, 5), overlap_loads=False, overlap_stores=False)
    assert walk.cycles == 20 + 7 + 20 + 7 + 5 + 5


def test_representatives_stand_for_every_iteration():
    for trips in ([1], [5, 6], [7, 1, 9], [2, 30, 4]):
        indices, weights = representatives(trips)
        assert weights.sum() == math.prod(trips)
        assert len(indices) <= 5 ** len(trips)
        assert {0, math.prod(trips) - 1} <= set(indices.tolist())


def test_transfers_take_whole_cycles():
    assert transfer_cycles(np.array([0, 1, 1024, 1025]), 1024.0).tolist() == [0, 1, 1, 2]
