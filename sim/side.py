"""Paths beside the array whose work depends on the data: outliers that ordinary elements do not multiply."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from macloom.errors import MacloomError, require_positive_integer
from macloom.sim.mapping import GemmMapping
from macloom.sim.systolic import ceil_div
from macloom.sim.walk import VisitedTiles


@dataclass(frozen=True, kw_only=True)
class OutlierPath:
    """Some multiply-accumulators that take the products of one operand's outliers, as in OLAccel or GOBO.

    The outliers of a tile are drawn from a binomial distribution, seeded by the sizes of the product and the place of
    the tile, so that the same tile always has as many; each costs one product per row of the other operand's tile.
    The array waits for the path where the path takes longer. For measured data, write a function with
    the same arguments that returns the cycles of each tile.

    Attributes:
        fraction: outliers among the elements, from 0 to 1.
        lanes: products per cycle.
        operand: `a` or `b`, the one with outliers.
        seed: of the draw.
    """

    fraction: float
    lanes: int
    operand: str = "b"
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive_integer("side.lanes", self.lanes)
        if isinstance(self.fraction, bool) or not isinstance(self.fraction, int | float) or not 0 <= self.fraction <= 1:
            raise MacloomError(f"side.fraction: must be a number from 0 to 1, not {self.fraction!r}")
        if self.operand not in ("a", "b"):
            raise MacloomError(f"side.operand: must be 'a' or 'b', not {self.operand!r}")

    def __call__(self, mapping: GemmMapping, tiles: VisitedTiles) -> np.ndarray:
        """Return the cycles of the path for each tile."""
        own, other = (tiles.m, tiles.n) if self.operand == "a" else (tiles.n, tiles.m)
        p = mapping.problem
        places = tiles.place_m if self.operand == "a" else tiles.place_n
        found = np.empty(len(own), np.int64)
        keys = np.stack([places, tiles.place_k], axis=1)
        distinct, index = np.unique(keys, axis=0, return_inverse=True)
        index = index.ravel()
        elements = np.zeros(len(distinct), np.int64)
        elements[index] = own * tiles.k
        for i, (row, column) in enumerate(distinct.tolist()):
            rng = np.random.default_rng((self.seed, p.m, p.n, p.k, row, column))
            found[i] = rng.binomial(int(elements[i]), self.fraction)
        return ceil_div(found[: len(distinct)][index] * other, self.lanes)
