"""Scenarios: how requests arrive, and how long prompts and outputs are, from published percentile summaries.

A summary states a few percentiles only. Lengths are drawn from the quantile function whose logarithm is linear
between them, a reconstruction: it keeps the stated percentiles and little else (its mean is off by some percent).
Below the lowest percentile the first slope goes on; what is above the highest has that length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from macloom.errors import MacloomError, require_positive_integer, unknown
from macloom.explore.serving.request import Request


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Token counts by quantile: `points` maps a probability between 0 and 1 to a count. One point: always that.

    >>> Lengths(points={0.5: 100}).at(np.array([0.1, 0.9])).tolist()
    [100, 100]
    >>> Lengths(points={0.1: 10, 0.9: 1000}).at(np.array([0.1, 0.5, 1.0])).tolist()
    [10, 100, 1000]
    """

    points: Mapping[float, int]
    mean: float | None = None

    def __post_init__(self) -> None:
        if not self.points:
            raise MacloomError("lengths.points: must hold at least one quantile")
        for probability, count in self.points.items():
            if not 0 < probability < 1:
                raise MacloomError(f"lengths.points: must be at probabilities between 0 and 1, not {probability!r}")
            require_positive_integer(f"lengths.points[{probability}]", count)
        counts = [self.points[p] for p in sorted(self.points)]
        if counts != sorted(counts):
            raise MacloomError(f"lengths.points: must rise with the probability, not {dict(self.points)!r}")

    def at(self, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the counts at `probabilities`, at least 1 token each."""
        known = np.array(sorted(self.points))
        logs = np.log([self.points[p] for p in known.tolist()])
        drawn = np.interp(probabilities, known, logs)
        if known.size > 1:
            slope = (logs[1] - logs[0]) / (known[1] - known[0])
            drawn = np.where(probabilities < known[0], logs[0] + slope * (probabilities - known[0]), drawn)
        return np.maximum(1, np.rint(np.exp(drawn))).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a server is asked: the lengths of prompts and outputs, and where they come from.

    >>> requests = SCENARIOS["chat"].requests(3, rate=2.0, seed=1)
    >>> [request.prompt for request in requests] == [r.prompt for r in SCENARIOS["chat"].requests(3, rate=9, seed=1)]
    True
    """

    name: str
    prompt: Lengths
    output: Lengths
    source: str

    def requests(self, count: int, *, rate: float, seed: int = 0, variation: float = 1.0) -> tuple[Request, ...]:
        """Return `count` requests that arrive at `rate` per second on average.

        Prompt and output lengths are independent draws; in traces they may not be.

        Args:
            count: how many.
            rate: requests per second; infinity lets all arrive at once.
            seed: of all draws; lengths do not depend on the rate.
            variation: coefficient of variation of the time between arrivals: 1 is a Poisson process, 0 a
                steady beat, others draw the times from a gamma distribution.

        Raises:
            MacloomError: a count, rate or variation that is none.
        """
        require_positive_integer("serve.requests", count)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
            raise MacloomError(f"serve.rate: must be a positive number of requests per second, not {rate!r}")
        if isinstance(variation, bool) or not isinstance(variation, int | float) or not 0 <= variation < math.inf:
            raise MacloomError(f"serve.variation: must be zero or a positive number, not {variation!r}")
        lengths, arrivals = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
        uniform = lengths.random((count, 2))
        prompts, outputs = self.prompt.at(uniform[:, 0]), self.output.at(uniform[:, 1])
        gaps = np.ones(count)
        if variation:
            gaps = arrivals.gamma(variation**-2, variation**2, count)
        gaps[0] = 0.0
        times = np.cumsum(gaps) / rate
        return tuple(
            Request(arrived_s=t, prompt=p, output=o)
            for t, p, o in zip(times.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
        )


def _quartet(mean: float, p10: int, p50: int, p90: int, p99: int) -> Lengths:
    return Lengths(points={0.10: p10, 0.50: p50, 0.90: p90, 0.99: p99}, mean=mean)


def fixed(prompt: int, output: int) -> Scenario:
    """Return a scenario in which all requests are alike.

    >>> fixed(512, 128).requests(2, rate=1.0)[1].prompt
    512
    """
    return Scenario(
        name="fixed", prompt=Lengths(points={0.5: prompt}), output=Lengths(points={0.5: output}), source="given"
    )


# Percentiles computed from the published traces; mean, then p10, p50, p90, p99.
SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        fixed(512, 128),
        Scenario(
            name="chat",
            prompt=_quartet(1155, 207, 1020, 2734, 4142),
            output=_quartet(211, 54, 129, 424, 601),
            source="Azure LLM inference trace 2023, conversation: 19366 requests (Patel et al., Splitwise, ISCA 2024)",
        ),
        Scenario(
            name="code",
            prompt=_quartet(2048, 147, 1469, 5186, 7436),
            output=_quartet(28, 7, 13, 55, 249),
            source="Azure LLM inference trace 2023, code: 8819 requests (Patel et al., Splitwise, ISCA 2024)",
        ),
        Scenario(
            name="long-context",
            prompt=_quartet(2588, 1242, 2730, 3702, 3933),
            output=_quartet(291, 78, 167, 372, 3270),
            source="arXiv summarization trace, filtered by Vidur: 28257 requests (Agrawal et al., Vidur, MLSys 2024)",
        ),
    )
}


def get_scenario(name: str) -> Scenario:
    """Return a scenario by name; an unknown one raises MacloomError with the nearest names.

    >>> get_scenario("chat").prompt.points[0.5]
    1020
    """
    if name not in SCENARIOS:
        raise unknown("scenario", name, SCENARIOS)
    return SCENARIOS[name]
