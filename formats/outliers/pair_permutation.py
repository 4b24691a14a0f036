"""A channel order that keeps two outliers out of one pair."""

from __future__ import annotations

import numpy as np

from macloom.errors import MacloomError


def shared_pairs(outliers: np.ndarray) -> int:
    """Return how many pairs of channels hold two outlier channels.

    Args:
        outliers: bool or counts per channel, as in `pair_permutation`.
    """
    hot = _hot(outliers)
    return int(np.sum(hot[0 : len(hot) // 2 * 2 : 2] & hot[1::2]))


def pair_permutation(outliers: np.ndarray) -> np.ndarray:
    """Return an order of the channels with the least possible number of pairs of two outlier channels.

    A pair of two outlier channels costs one of them wherever both are large, so that a few fixed outlier
    channels make or break outlier-victim pairs. Permute the reduction axis of both operands with it,
    `a[..., order]` and `b[..., order]`: a GEMM's sums only change their order, and for weights the
    permutation is folded in beforehand. Channels move only if they must, in exchange with one of the
    first pair that holds no outlier channel. With more outlier channels than pairs the excess remains.

    Args:
        outliers: bool or counts per channel (K,), or the mask (..., K) of a tensor's outliers
            (`Ovp.outliers`), of which every channel with any counts.

    >>> import numpy as np
    >>> pair_permutation(np.array([True, True, False, False, False, True])).tolist()
    [0, 2, 1, 3, 4, 5]
    """
    hot = _hot(outliers)
    order = np.arange(len(hot))
    pairs = len(hot) // 2
    both = hot[0 : 2 * pairs : 2] & hot[1::2]
    neither = ~hot[0 : 2 * pairs : 2] & ~hot[1::2]
    takers = 2 * np.flatnonzero(both) + 1
    givers = 2 * np.flatnonzero(neither)
    if len(hot) % 2 and not hot[-1]:  # the padding zero is a partner that nobody misses
        givers = np.append(givers, len(hot) - 1)
    count = min(len(takers), len(givers))
    order[takers[:count]], order[givers[:count]] = givers[:count], takers[:count]
    return order


def _hot(outliers: np.ndarray) -> np.ndarray:
    array = np.asarray(outliers)
    if array.ndim == 0 or array.size == 0 or array.dtype.kind not in "biuf":
        raise MacloomError(
            f"outliers: must be a mask or counts with the channels on the last axis, not {array.dtype} of {array.shape}"
        )
    return (array != 0).reshape(-1, array.shape[-1]).any(axis=0)
