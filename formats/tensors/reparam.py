"""Exact rewritings of weights and norms that make tensors easier to quantize: K-sort and RepQ's merging.

All functions are pure and work in float64; without quantization they leave the network's function as
it is.

K-sort (Trukhanov and Soloveychik, 2403.20137) orders the channels of keys by the norms of the key
projection's rows, so that a block of a block floating-point format holds channels of like size. How
the paper handles rotary embeddings could not be read: both ways here are reconstructions, as are the
descending order and its tie rule, which no result depends on.

Merging the channel scales of post-LayerNorm activations into one is RepQ-ViT's algebra; DopQ-ViT
(2408.03291) chooses the one scale by its MOSF rule, of which several versions exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from macloom.errors import MacloomError


class Rope(StrEnum):
    """How K-sort treats rotary embeddings, whose pairs are channels i and i + d/2 of a head.

    NONE: there are none. PAIRS: whole pairs are sorted by the norm of both rows, and partners stay d/2
    apart. FREE: channels are sorted one by one; the rotation looks up each one's partner.
    """

    NONE = "none"
    PAIRS = "pairs"
    FREE = "free"


@dataclass(frozen=True, eq=False)
class KSort:
    """An order of the channels of every key head, and what the rotary embedding needs to follow it.

    Attributes:
        order: (key heads, d), the original channel at each new position.
        frequency: (key heads, d), which of the d/2 rotation angles a position takes.
        partner: (key heads, d), the position of the other channel of the pair.
        sign: (key heads, d), -1 where the partner's part is subtracted.
    """

    order: np.ndarray
    frequency: np.ndarray
    partner: np.ndarray
    sign: np.ndarray

    def rows(self, weight: np.ndarray, heads: int) -> np.ndarray:
        """Return a projection's rows, or a bias, in the new order.

        Args:
            weight: (heads * d, ...), query or key projection or bias.
            heads: its heads, a multiple of the key heads; each group of query heads follows its key head.
        """
        order = self._per_head(heads, weight.shape[0])
        split = weight.reshape(heads, order.shape[1], *weight.shape[1:])
        return np.stack([head[o] for head, o in zip(split, order, strict=True)]).reshape(weight.shape)

    def columns(self, weight: np.ndarray, heads: int) -> np.ndarray:
        """Return an output projection (..., heads * d) with its columns in the new order, for sorted values."""
        return np.moveaxis(self.rows(np.moveaxis(weight, -1, 0), heads), 0, -1)

    def _per_head(self, heads: int, size: int) -> np.ndarray:
        key_heads, d = self.order.shape
        if heads % key_heads or size != heads * d:
            raise MacloomError(
                f"k_sort: needs heads in multiples of {key_heads} with {d} channels each, not {heads} in {size} rows"
            )
        return np.repeat(self.order, heads // key_heads, axis=0)

    def rotate(self, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        """Return queries or keys with rotary embeddings, channels in the new order.

        Args:
            x: (heads, positions, d), channels in the new order.
            cos, sin: (positions, d / 2), of the original angles.
        """
        repeat = len(x) // len(self.order)
        frequency, partner, sign = (np.repeat(a, repeat, axis=0) for a in (self.frequency, self.partner, self.sign))
        out = np.empty_like(x)
        for h, head in enumerate(x):
            out[h] = head * cos[:, frequency[h]] + sign[h] * head[:, partner[h]] * sin[:, frequency[h]]
        return out


def k_sort(key_weight: np.ndarray, key_heads: int, rope: Rope = Rope.NONE) -> KSort:
    """Return the order of key channels by the norms of their rows, the largest first, ties by index.

    Args:
        key_weight: (key heads * d, inputs).

    >>> k_sort(np.array([[1.0], [3.0], [2.0], [0.0]]), key_heads=1).order.tolist()
    [[1, 2, 0, 3]]
    >>> k_sort(np.array([[1.0], [3.0], [2.0], [0.0]]), 1, Rope.PAIRS).order.tolist()
    [[1, 0, 3, 2]]
    """
    rows = key_weight.shape[0]
    if key_weight.ndim != 2 or key_heads < 1 or rows % key_heads or rows // key_heads % 2:
        raise MacloomError(f"k_sort: needs (heads * even d, inputs) for {key_heads} heads, not {key_weight.shape}")
    d = rows // key_heads
    energy = np.square(key_weight.astype(np.float64)).sum(axis=1).reshape(key_heads, d)
    if rope is Rope.PAIRS:
        pairs = np.argsort(-(energy[:, : d // 2] + energy[:, d // 2 :]), axis=1, kind="stable")
        order = np.concatenate((pairs, pairs + d // 2), axis=1)
    else:
        order = np.argsort(-energy, axis=1, kind="stable")
    position = np.argsort(order, axis=1)
    partner = np.take_along_axis(position, (order + d // 2) % d, axis=1)
    return KSort(order, order % (d // 2), partner, np.where(order < d // 2, -1.0, 1.0))


class Merge(StrEnum):
    """How one scale is chosen from those of the channels: DopQ-ViT's versions, and the mean of RepQ-ViT.

    MEDIAN (v1). MAD: the mean of the scales that lie within k median absolute deviations of the median
    (a reconstruction of v3's "MAD-guided"). SEARCH: the candidate with the least error (v2).
    """

    MEDIAN = "median"
    MAD = "mad"
    MEAN = "mean"
    SEARCH = "search"


def merge_scales(
    scales: np.ndarray,
    merge: Merge = Merge.MEDIAN,
    *,
    k: float = 3.0,
    error: Callable[[float], float] | None = None,
    candidates: int = 100,
) -> float:
    """Return the layer's one scale from its channels' positive scales.

    Args:
        k: for MAD, how many deviations away a channel still counts.
        error: for SEARCH, the error of a scale; of equal ones the smallest scale is taken.
        candidates: for SEARCH, equal steps from the smallest scale to the largest.
    """
    s = np.asarray(scales, np.float64).reshape(-1)
    if not s.size or not np.all((s > 0) & np.isfinite(s)):
        raise MacloomError("merge_scales: needs positive, finite scales")
    middle = float(np.median(s))
    match merge:
        case Merge.MEDIAN:
            return middle
        case Merge.MEAN:
            return float(s.mean())
        case Merge.MAD:
            distance = np.abs(s - middle)
            return float(s[distance <= k * np.median(distance)].mean())
        case Merge.SEARCH:
            if error is None:
                raise MacloomError("merge_scales: 'search' needs the error of a scale; pass error=")
            return min(np.linspace(s.min(), s.max(), candidates).tolist(), key=error)


@dataclass(frozen=True, eq=False)
class MergedNorm:
    """A LayerNorm and the linear layer behind it, rewritten so that one scale and zero point serve all channels."""

    gamma: np.ndarray
    beta: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


def merge_channels(
    gamma: np.ndarray,
    beta: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray,
    scale: float,
    zero: float = 0.0,
) -> MergedNorm:
    """Return LayerNorm and linear layer for which `scale` and `zero` stand in for those of each channel.

    With r1 = scales / scale and r2 = zeros - zero: gamma / r1, (beta + scales * r2) / r1, weight columns
    times r1, and bias - weight (scales * r2). A channel then has the codes that it had with its own scale
    and zero point, q = round(x / scale) + zero.

    Args:
        gamma, beta, scales, zeros: (C,).
        weight: (N, C). bias: (N,).
    """
    g, b, w, s, z = (np.asarray(a, np.float64) for a in (gamma, beta, weight, scales, zeros))
    if w.ndim != 2 or any(a.shape != (w.shape[1],) for a in (g, b, s, z)) or np.shape(bias) != (w.shape[0],):
        raise MacloomError(f"merge_channels: needs vectors of {w.shape[-1]} channels and a bias of {w.shape[0]}")
    if not scale > 0 or not np.all(s > 0):
        raise MacloomError("merge_channels: scales must be positive")
    r1, r2 = s / scale, z - zero
    return MergedNorm(g / r1, (b + s * r2) / r1, w * r1, np.asarray(bias, np.float64) - w @ (s * r2))
