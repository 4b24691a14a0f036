"""Intervals: equal to scipy's, cover what they should, paired, seeded, and every message."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from macloom.errors import MacloomError
from macloom.workloads import bootstrap as module
from macloom.workloads.bootstrap import STATISTICS, WindowScores, bootstrap
from macloom.workloads.scoring import window_scores


def drawn_scores(windows: int, rng: np.random.Generator, *, spread: float = 0.3) -> WindowScores:
    """Windows that are hard or easy for both models alike, the quantized one slightly worse."""
    tokens = rng.integers(50, 200, windows).astype(float)
    reference = tokens * rng.gamma(1 / spread**2, spread**2, windows)
    worse = tokens * rng.gamma(4.0, 0.01, windows)
    return WindowScores(
        tokens=tokens, reference_nats=reference, nats=reference + worse, kl_nats=worse * rng.gamma(9.0, 1 / 9, windows),
        agreements=np.floor(tokens * 0.9),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("name", list(STATISTICS))
def test_intervals_equal_scipys(method: str, name: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    scores = drawn_scores(17, np.random.default_rng(3))
    ours = bootstrap(scores, 400, confidence=0.9, method=method, seed=7).intervals[name]
    table = scores.table()

    def statistic(rows: np.ndarray, axis: int) -> np.ndarray:
        assert axis == -1
        return STATISTICS[name](table[rows.astype(int)].sum(-2))

    theirs = stats.bootstrap(
        (np.arange(17),), statistic, n_resamples=400, vectorized=True, confidence_level=0.9,
        method={"bca": "BCa", "percentile": "percentile"}[method], rng=np.random.default_rng(7),
    ).confidence_interval  # fmt: skip
    assert ours.method == method
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert ours.value == pytest.approx(float(STATISTICS[name](table.sum(0))))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """The perplexity of the process the windows are drawn from, 200 times, against 90 % intervals.

    Windows of equal length whose nats per token have mean 1; 24 windows, 300 resamples.
    """
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(200):
        nats = 100 * rng.gamma(16.0, 1 / 16, 24)
        scores = WindowScores(tokens=np.full(24, 100.0), reference_nats=nats, nats=nats, kl_nats=nats, agreements=nats)
        interval = bootstrap(scores, 300, confidence=0.9, seed=trial).intervals["reference_perplexity"]
        covered += interval.low <= math.e <= interval.high
    assert 0.83 < covered / 200 < 0.95


def test_pairing_narrows_the_ratio() -> None:
    scores = drawn_scores(40, np.random.default_rng(0))
    paired = bootstrap(scores).intervals["perplexity_ratio"]
    shuffled = np.random.default_rng(1).permutation(40)
    apart = WindowScores(**{**vars(scores), "reference_nats": scores.reference_nats[shuffled]})
    unpaired = bootstrap(apart).intervals["perplexity_ratio"]
    assert unpaired.value == pytest.approx(paired.value)
    assert unpaired.high - unpaired.low > 5 * (paired.high - paired.low)
    assert paired.low > 1


def test_the_seed_decides_and_chunks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = drawn_scores(9, np.random.default_rng(2))
    first = bootstrap(scores, 101, seed=4)
    monkeypatch.setattr(module, "MOST_AT_ONCE", 20)
    assert bootstrap(scores, 101, seed=4).to_dict() == first.to_dict()
    assert bootstrap(scores, 101, seed=5).to_dict() != first.to_dict()


def test_equal_models_have_a_ratio_without_doubt_and_a_broken_one_none() -> None:
    scores = drawn_scores(9, np.random.default_rng(2))
    same = WindowScores(**{**vars(scores), "nats": scores.reference_nats})
    ratio = bootstrap(same).intervals["perplexity_ratio"]
    assert (ratio.low, ratio.value, ratio.high, ratio.method) == (1.0, 1.0, 1.0, "constant")
    broken = WindowScores(**{**vars(scores), "nats": np.full(9, math.inf), "kl_nats": np.full(9, math.inf)})
    found = bootstrap(broken).to_dict()["intervals"]
    assert found["perplexity"] == {"value": None, "low": None, "high": None, "method": "bca"}
    assert found["kl_nats"]["low"] is None
    assert found["reference_perplexity"]["low"] > 1


def test_bca_becomes_percentiles_where_every_resample_lies_on_one_side() -> None:
    scores = drawn_scores(8, np.random.default_rng(0))
    found = [bootstrap(scores, 2, seed=seed).intervals["kl_nats"] for seed in range(30)]
    fallen = [interval for interval in found if interval.method == "percentile"]
    assert fallen
    for interval in fallen:
        assert interval.high <= interval.value or interval.value <= interval.low


def test_window_scores_are_the_sums_of_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 5, 11, generator=generator) for _ in range(2))
    following = torch.randint(0, 11, (3, 5), generator=generator)
    found = window_scores(F.log_softmax(a, -1), F.log_softmax(b, -1), following)
    p, q = a.double().softmax(-1), b.double().softmax(-1)
    for w in range(3):
        assert found.tokens[w] == 5
        assert found.nats[w] == pytest.approx(F.cross_entropy(b[w], following[w], reduction="sum").item(), rel=1e-5)
        expected = F.cross_entropy(a[w], following[w], reduction="sum").item()
        assert found.reference_nats[w] == pytest.approx(expected, rel=1e-5)
        assert found.kl_nats[w] == pytest.approx(float((p[w] * (p[w] / q[w]).log()).sum()), rel=1e-5)
        assert found.agreements[w] == int((p[w].argmax(-1) == q[w].argmax(-1)).sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "bootstrap: must be a positive integer, not 0"),
        ({"method": "bcaa"}, "bootstrap method: unknown name 'bcaa'; did you mean 'bca'?"),
        ({"confidence": 1.0}, "confidence: must be a number between 0 and 1, not 1.0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError, match=re.escape(message)):
        bootstrap(drawn_scores(4, np.random.default_rng(0)), **options)


def test_one_window_is_not_enough() -> None:
    message = "bootstrap: must have at least 2 windows to draw from, not 1; give a longer text or more windows"
    with pytest.raises(MacloomError, match=re.escape(message)):
        bootstrap(drawn_scores(1, np.random.default_rng(0)))
