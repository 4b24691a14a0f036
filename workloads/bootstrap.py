"""Confidence intervals of accuracy by the bootstrap over windows or documents, paired with the unquantized model.

Both models run on the same windows, so a resample draws windows and takes the scores of both models from each:
what makes one window hard for both does not widen the interval of their ratio. The intervals are BCa
(bias-corrected and accelerated: Efron, "Better Bootstrap Confidence Intervals", Journal of the American
Statistical Association 82(397), 1987; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 14),
or plain percentiles of the resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from macloom.errors import MacloomError, require_positive_integer, unknown

METHODS = ("bca", "percentile")
MOST_AT_ONCE = 1 << 22  # drawn indices that are held at a time
NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowScores:
    """Sums over the predicted tokens of each window, float64, one element per window.

    `nats` and `reference_nats` are negative log-probabilities of the text under the quantized and the
    unquantized model, `kl_nats` the divergence of the first from the second, `agreements` how often both have
    the same most probable token, and `tokens` how many were predicted.
    """

    tokens: np.ndarray
    reference_nats: np.ndarray
    nats: np.ndarray
    kl_nats: np.ndarray
    agreements: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def table(self) -> np.ndarray:
        """Return the five sums as columns, windows x 5, in the order of the fields."""
        return np.stack([self.tokens, self.reference_nats, self.nats, self.kl_nats, self.agreements], -1)

    def grouped(self, groups: np.ndarray) -> WindowScores:
        """Return the sums of the windows that have the same number in `groups`, in the order of the numbers.

        >>> one = np.ones(3)
        >>> scores = WindowScores(tokens=one, reference_nats=one, nats=2 * one, kl_nats=one, agreements=one)
        >>> scores.grouped(np.array([7, 4, 7])).nats.tolist()
        [2.0, 4.0]
        """
        _, place = np.unique(groups, return_inverse=True)
        return WindowScores(**{name: np.bincount(place, values) for name, values in vars(self).items()})


def document_ends(data: bytes, separator: bytes) -> np.ndarray:
    """Return where in a text, in bytes, each document but the last ends, its separator included.

    >>> document_ends(b"aaaa|bbb|cc", b"|").tolist()
    [5, 9]
    """
    ends, found = [], data.find(separator)
    while found >= 0:
        ends.append(found + len(separator))
        found = data.find(separator, ends[-1])
    return np.array(ends, np.int64)


def documents_of_windows(data: bytes, length: int, count: int, separator: bytes) -> np.ndarray:
    """Return the number of the document in which each window of `Text.windows(length, count)` begins.

    >>> documents_of_windows(b"aaaa|bbbbbbbbb|cc", length=4, count=9, separator=b"|").tolist()
    [0, 0, 1, 1]
    """
    available = len(data) // length
    take = min(count, available)
    starts = np.arange(take) * available // max(take, 1) * length
    return np.searchsorted(document_ends(data, separator), starts, side="right")


def _mean(column: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: sums[..., column] / sums[..., 0]


def _exp(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(x)


# What has an interval: a function of the five sums of `WindowScores.table` along the last axis.
STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "reference_perplexity": lambda sums: _exp(_mean(1)(sums)),
    "perplexity": lambda sums: _exp(_mean(2)(sums)),
    "perplexity_ratio": lambda sums: _exp((sums[..., 2] - sums[..., 1]) / sums[..., 0]),
    "kl_nats": _mean(3),
    "top1_agreement": _mean(4),
}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value measured on all windows and the interval around it; `method` is `bca`, `percentile` or `constant`.

    `constant` marks a value that every resample shares. All three numbers are NaN where a model has no finite score.
    """

    value: float
    low: float
    high: float
    method: str

    def to_dict(self) -> dict[str, Any]:
        finite = {
            name: x if math.isfinite(x) else None
            for name, x in (("value", self.value), ("low", self.low), ("high", self.high))
        }
        return {**finite, "method": self.method}


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Intervals of every statistic, from `resamples` draws of `units` windows or documents (`over`)."""

    intervals: Mapping[str, Interval]
    over: str
    units: int
    resamples: int
    confidence: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "over": self.over,
            "units": self.units,
            "resamples": self.resamples,
            "confidence": self.confidence,
            "seed": self.seed,
            "intervals": {name: interval.to_dict() for name, interval in self.intervals.items()},
        }


def bootstrap(
    scores: WindowScores,
    resamples: int = 1000,
    *,
    confidence: float = 0.95,
    method: str = "bca",
    seed: int = 0,
    over: str = "window",
) -> Intervals:
    """Return the intervals of perplexity, its ratio to the unquantized model's, KL and top-1 agreement.

    Args:
        scores: what each window contributed, such as `Accuracy.by_window`; the windows count as independent.
        resamples: how many times as many windows are drawn with replacement.
        confidence: probability that an interval is meant to cover.
        method: `bca` or `percentile`. A BCa interval that does not exist, because every resample lies on one
            side of the value, becomes one of percentiles and says so.
        seed: draws the resamples.
        over: what the elements of `scores` are, for the record.

    Raises:
        MacloomError: bad arguments, or fewer than two windows.
    """
    require_positive_integer("bootstrap", resamples)
    if method not in METHODS:
        raise unknown("bootstrap method", method, METHODS)
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 < confidence < 1:
        raise MacloomError(f"confidence: must be a number between 0 and 1, not {confidence!r}")
    if len(scores) < 2:
        raise MacloomError(
            f"bootstrap: must have at least 2 {over}s to draw from, not {len(scores)}; "
            "give a longer text or more windows"
        )
    table = scores.table()
    total = table.sum(0)
    finite = np.where(np.isfinite(total), table, 0.0)
    drawn = _resampled(finite, resamples, np.random.default_rng(seed))
    without = finite.sum(0) - finite  # of the jackknife: one window left out
    intervals = {}
    for name, statistic in STATISTICS.items():
        value = float(statistic(total))
        if math.isfinite(value):
            draws, left = statistic(drawn), statistic(without)
            intervals[name] = _interval(value, draws, left, confidence, method)
        else:
            intervals[name] = Interval(value=math.nan, low=math.nan, high=math.nan, method=method)
    return Intervals(
        intervals=intervals, over=over, units=len(scores), resamples=resamples, confidence=confidence, seed=seed
    )


def _resampled(table: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the sums of `resamples` draws of as many rows as `table` has, resamples x columns."""
    n = len(table)
    step = max(1, MOST_AT_ONCE // n)
    sums = []
    for begin in range(0, resamples, step):
        drawn = rng.integers(0, n, (min(step, resamples - begin), n))
        rows = np.arange(len(drawn))[:, None] * n + drawn
        times = np.bincount(rows.ravel(), minlength=drawn.size).reshape(drawn.shape)
        sums.append(times @ table)
    return np.concatenate(sums)


def _interval(value: float, draws: np.ndarray, left: np.ndarray, confidence: float, method: str) -> Interval:
    if np.all(draws == draws[0]) or np.ptp(draws) <= 1e-12 * abs(value):
        return Interval(value=value, low=value, high=value, method="constant")
    tail = (1 - confidence) / 2
    levels = (tail, 1 - tail)
    if method == "bca":
        corrected = _bca_levels(value, draws, left, tail)
        method = "bca" if corrected else "percentile"
        levels = corrected or levels
    low, high = np.quantile(draws, levels)
    return Interval(value=value, low=float(low), high=float(high), method=method)


def _bca_levels(value: float, draws: np.ndarray, left: np.ndarray, tail: float) -> tuple[float, float] | None:
    """Return the corrected quantile levels (Efron and Tibshirani, section 14.3), or None."""
    below = (np.count_nonzero(draws < value) + np.count_nonzero(draws <= value)) / (2 * len(draws))
    if not 0 < below < 1:
        return None
    z0 = NORMAL.inv_cdf(below)
    influence = left.mean() - left
    spread = float((influence**2).sum())
    a = float((influence**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0

    def level(z: float) -> float:
        return NORMAL.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))

    return level(NORMAL.inv_cdf(tail)), level(-NORMAL.inv_cdf(tail))
