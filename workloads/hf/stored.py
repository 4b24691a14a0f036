"""Parameters whose values stay in the checkpoint until they are needed, and then come a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from macloom.workloads.hf.checkpoint import StoredTensor

TILE_ELEMENTS = 1 << 20
"""Elements of a weight that are in memory in float32 at a time."""
WHOLE_ELEMENTS = 1 << 24
"""A weight of no more elements is multiplied at once, with the last bits of one that is in memory."""


class StoredParameter(nn.Parameter):
    """A matrix on the meta device whose values lie in a file.

    Attributes:
        source: where they lie.
        extremes: float32, the least and the largest of them, once `tiles` has gone through all.
    """

    source: StoredTensor
    extremes: np.ndarray | None

    @classmethod
    def of(cls, source: StoredTensor) -> StoredParameter:
        """Return the parameter whose values are those of a stored matrix."""
        made = cls(torch.empty(source.shape, device="meta"), requires_grad=False)
        made.source, made.extremes = source, None
        return made

    def tiles(self, elements: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield all rows in order, in float32, about so many elements at a time."""
        known, ends = self.extremes is not None, []
        count = max(1, elements // self.shape[-1])
        for start in range(0, self.shape[0], count):
            rows = slice(start, min(start + count, self.shape[0]))
            tile = self.source.read(rows, torch.float32, check=not known)
            if not known:
                ends += torch.aminmax(tile)
            yield rows, tile
        if not known:
            self.extremes = np.array([min(map(float, ends)), max(map(float, ends))], np.float32)


def in_tiles(weight: Tensor) -> bool:
    """Say whether a weight is one that should be multiplied tile by tile: it lies in a file, or in few bits."""
    return isinstance(weight, StoredParameter) or weight.dtype != torch.float32


def tiles(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of a weight (N, K) in order, in float32, a tile at a time."""
    if isinstance(weight, StoredParameter):
        yield from weight.tiles(TILE_ELEMENTS)
        return
    count = max(1, TILE_ELEMENTS // weight.shape[-1])
    for start in range(0, weight.shape[0], count):
        rows = slice(start, min(start + count, weight.shape[0]))
        yield rows, weight[rows].float()


def whole(weight: Tensor) -> Tensor:
    """Return all of a weight in float32."""
    if not isinstance(weight, StoredParameter):
        return weight.float()
    (found,) = (tile for _, tile in weight.tiles(weight.numel()))
    return found


def some_rows(weight: Tensor, numbers: np.ndarray) -> Tensor:
    """Return rows of a weight by number, in float32."""
    rows = torch.from_numpy(numbers)
    return weight.source.gather(rows) if isinstance(weight, StoredParameter) else weight[rows].float()


def extremes(weight: Tensor) -> np.ndarray:
    """Return the least and the largest value of a weight, float32."""
    if isinstance(weight, StoredParameter):
        if weight.extremes is None:
            for _ in weight.tiles(TILE_ELEMENTS):
                pass
        assert weight.extremes is not None
        return weight.extremes
    return np.array([float(end) for end in torch.aminmax(weight)], np.float32)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x (..., M, K) times weight (N, K) transposed in float32."""
    if not in_tiles(weight):
        return torch.matmul(x, weight.transpose(-1, -2))
    if weight.numel() <= WHOLE_ELEMENTS:
        return torch.matmul(x, whole(weight).t())
    out = torch.empty((*x.shape[:-1], weight.shape[0]))
    for rows, tile in tiles(weight):
        out[..., rows] = torch.matmul(x, tile.t())
    return out
