"""The walk over tiles: which tile comes when, and what has to move between one and the next."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from macloom.sim.systolic import ceil_div
from macloom.sim.tiling import TileProblem, Tiling


@dataclass(frozen=True, kw_only=True)
class VisitedTiles:
    """Tiles of one product at given places of the walk; arrays of one length.

    Sizes along M, N and K; whether the tile of A, of B or spilled sums are loaded before it; whether it
    completes its sums or they leave as partial sums after it; whether it is the first along K; and which
    tile along each axis it is.
    """

    m: np.ndarray
    n: np.ndarray
    k: np.ndarray
    loads_a: np.ndarray
    loads_b: np.ndarray
    reloads: np.ndarray
    finishes: np.ndarray
    spills: np.ndarray
    first_k: np.ndarray
    place_m: np.ndarray
    place_n: np.ndarray
    place_k: np.ndarray


def loop_steps(problem: TileProblem, tiling: Tiling) -> dict[str, int]:
    """Return the steps of each loop over tiles, outermost first."""
    return {axis: ceil_div(getattr(problem, axis), getattr(tiling, axis)) for axis in tiling.order}


def visited_tiles(problem: TileProblem, tiling: Tiling, indices: np.ndarray) -> VisitedTiles:
    """Return the tiles at linear places `indices` of the walk; place 0 loads all that it needs."""
    trips = loop_steps(problem, tiling)
    total = math.prod(trips.values())

    def coordinates(places: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(trips, np.unravel_index(places, tuple(trips.values())), strict=True))

    here = coordinates(indices)
    before, after = coordinates((indices - 1) % total), coordinates((indices + 1) % total)
    size = {"m": problem.m, "n": problem.n, "k": problem.k}
    tile = {"m": tiling.m, "n": tiling.n, "k": tiling.k}
    extent = {
        axis: np.where(here[axis] == trips[axis] - 1, size[axis] - (trips[axis] - 1) * tile[axis], tile[axis])
        for axis in "mnk"
    }

    def new(axes: str) -> np.ndarray:
        return (indices == 0) | np.logical_or.reduce([here[axis] != before[axis] for axis in axes])

    leaves = (indices == total - 1) | (here["m"] != after["m"]) | (here["n"] != after["n"])
    last_k = here["k"] == trips["k"] - 1
    return VisitedTiles(
        **extent,
        loads_a=new("mk"),
        loads_b=new("nk"),
        reloads=new("mn") & (here["k"] > 0),
        finishes=leaves & last_k,
        spills=leaves & ~last_k,
        first_k=here["k"] == 0,
        place_m=here["m"],
        place_n=here["n"],
        place_k=here["k"],
    )
