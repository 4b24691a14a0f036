"""How keys and values lie in memory, and which of their elements share a range or belong to a token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from macloom.formats.arrays import rows_of


@dataclass(frozen=True)
class View:
    """Views of a tensor (..., tokens, channels), or (..., channels, tokens) if `transposed`.

    A tensor with one axis is a single token, or a single channel if `transposed`.

    Attributes:
        shape: the tensor's shape.
        per_channel: whether the elements of a channel share a range, not those of a token.
        transposed: whether tokens lie along the last axis.
    """

    shape: tuple[int, ...]
    per_channel: bool
    transposed: bool

    @property
    def full(self) -> tuple[int, ...]:
        """The shape with at least two axes."""
        return self.shape if len(self.shape) >= 2 else (1, *(self.shape or (1,)))

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return math.prod(self.full[:-2]) * self.full[-1 if self.per_channel is not self.transposed else -2]

    def _turn(self, x: np.ndarray, turned: bool) -> np.ndarray:
        whole = x.reshape(self.full)
        return rows_of(np.ascontiguousarray(np.swapaxes(whole, -1, -2)) if turned else whole)

    def _undo(self, rows: np.ndarray, turned: bool) -> np.ndarray:
        if turned:
            rows = np.swapaxes(rows.reshape(*self.full[:-2], self.full[-1], self.full[-2]), -1, -2)
        return np.ascontiguousarray(rows).reshape(self.shape)

    def vectors(self, x: np.ndarray) -> np.ndarray:
        """Return the tensor as vectors x elements that share a range."""
        return self._turn(x, self.per_channel is not self.transposed)

    def tensor(self, vectors: np.ndarray) -> np.ndarray:
        """Undo `vectors`."""
        return self._undo(vectors, self.per_channel is not self.transposed)

    def tokens(self, x: np.ndarray) -> np.ndarray:
        """Return the tensor as tokens x channels."""
        return self._turn(x, self.transposed)

    def from_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """Undo `tokens`."""
        return self._undo(tokens, self.transposed)

    def first(self, count: int) -> np.ndarray:
        """Return which elements belong to the first tokens, as a mask in the tensor's shape."""
        length = self.full[-1 if self.transposed else -2]
        mask = np.arange(length) < count
        return np.broadcast_to(mask if self.transposed else mask[:, None], self.full).reshape(self.shape)
