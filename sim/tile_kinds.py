"""The kinds of tile that a walk is made of, for many products at once: first, middle and last along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from macloom.sim.systolic import ceil_div
from macloom.sim.tiling import TileProblem, Tiling


class TileKinds(NamedTuple):
    """Arrays of (kinds, products): how often a tile comes, its sizes, and what `macloom.sim.walk.VisitedTiles` says."""

    times: np.ndarray
    m: np.ndarray
    n: np.ndarray
    k: np.ndarray
    loads_a: np.ndarray
    loads_b: np.ndarray
    reloads: np.ndarray
    finishes: np.ndarray
    spills: np.ndarray
    first_k: np.ndarray


def tile_kinds(problem: TileProblem, tiling: Tiling) -> TileKinds:
    """Return the kinds of tile of products whose sizes and tiles are arrays, (products,), in one loop order.

    At most 27; kinds that no product has are left out.
    """
    places = {axis: _places(getattr(problem, axis), getattr(tiling, axis)) for axis in "mnk"}
    kinds = [_kind(tiling.order, chosen) for chosen in product(*(places[axis] for axis in tiling.order))]
    found = [kind for kind in kinds if kind is not None]
    size = len(problem.m)  # type: ignore[arg-type]
    return TileKinds(*(np.stack([np.broadcast_to(part, size) for part in parts]) for parts in zip(*found, strict=True)))


class _Place(NamedTuple):
    """A kind of step of one loop: how often it comes, its tile, and where it stands; one value per product."""

    times: np.ndarray
    size: np.ndarray
    first: bool
    last: np.ndarray
    several: np.ndarray


def _places(size: np.ndarray, tile: np.ndarray) -> tuple[_Place, _Place, _Place]:
    """Return first, middle and last step of a loop; of a single step the first is the last, and no other comes."""
    steps = ceil_div(size, tile)
    rest, several = size - (steps - 1) * tile, steps > 1
    no, yes = np.zeros_like(several), np.ones_like(several)
    return (
        _Place(np.ones_like(steps), np.where(several, tile, rest), True, ~several, several),
        _Place(np.maximum(steps - 2, 0), tile, False, no, several),
        _Place(several.astype(np.int64), rest, False, yes, several),
    )


def _kind(order: str, chosen: Sequence[_Place]) -> tuple[Any, ...] | None:
    """Return one column of every field of `TileKinds`, or None where no product has such a tile."""
    times = chosen[0].times * chosen[1].times * chosen[2].times
    if not times.any():
        return None
    at = dict(zip(order, chosen, strict=True))
    changed = dict(zip(order, _turns(chosen, "first"), strict=True))
    changes = dict(zip(order, _turns(chosen, "last"), strict=True))
    start = all(place.first for place in chosen)
    end = chosen[0].last & chosen[1].last & chosen[2].last
    leaves = end | changes["m"] | changes["n"]
    return (
        times,
        at["m"].size,
        at["n"].size,
        at["k"].size,
        start | changed["m"] | changed["k"],
        start | changed["n"] | changed["k"],
        (start | changed["m"] | changed["n"]) & (not at["k"].first),
        leaves & at["k"].last,
        leaves & ~at["k"].last,
        at["k"].first,
    )


def _turns(chosen: Sequence[_Place], side: str) -> list[Any]:
    """Return for each loop, outermost first, whether its step differs from the one before (after) this tile.

    A loop steps when all loops within it start over: stand at their first (last) step.
    """
    carries: Any = True
    found: list[Any] = []
    for place in reversed(chosen):
        found.append(carries & place.several)
        carries = carries & getattr(place, side)
    return found[::-1]
