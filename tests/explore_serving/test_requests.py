"""Requests: traces as Vidur writes them, lengths from percentiles, arrivals, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from macloom.errors import MacloomError
from macloom.explore.serving import SCENARIOS, Lengths, Request, fitted, fixed, get_scenario, read_requests


def test_a_trace_of_vidur_is_read_in_order_of_arrival(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("id,arrived_at,num_prefill_tokens,num_decode_tokens\n7,2.5,100,20\n8,0.25,30.0,4\n\n")
    assert read_requests(file) == (
        Request(arrived_s=0.25, prompt=30, output=4),
        Request(arrived_s=2.5, prompt=100, output=20),
    )


HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arrived_at,prompt\n", "line 1: must have the columns arrived_at, num_prefill_tokens, num_decode_tokens"),
        ("", "line 1: must have the columns"),
        (HEADER, "must hold at least one request"),
        (HEADER + "0,8,4\n1,x,4\n", "line 3: num_prefill_tokens: must be a whole number of at least 1, not 'x'"),
        (HEADER + "0,8\n", "line 2: must have 3 columns, not '0,8'"),
        (HEADER + "0,8.5,1\n", "line 2: num_prefill_tokens: must be a whole number of at least 1, not '8.5'"),
        (HEADER + "-1,8,1\n", "line 2: arrived_at: must be zero or a positive number of seconds, not '-1'"),
        (HEADER + "nan,8,1\n", "line 2: arrived_at: must be zero or a positive number of seconds, not 'nan'"),
        (HEADER + "0,0,1\n", "line 2: num_prefill_tokens: must be a whole number of at least 1, not '0'"),
        (HEADER + "0,1000,0\n", "line 2: num_decode_tokens: must be a whole number of at least 1, not '0'"),
    ],
)
def test_a_malformed_trace_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(MacloomError, match=message):
        read_requests(file)


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MacloomError, match=r"no such file .*; it must be a CSV with arrived_at"):
        read_requests(tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["chat", "code", "long-context"])
def test_drawn_lengths_have_the_published_percentiles(name: str) -> None:
    scenario = get_scenario(name)
    drawn = scenario.requests(40_000, rate=1.0, seed=3)
    for field in ("prompt", "output"):
        lengths: Lengths = getattr(scenario, field)
        values = np.array([getattr(request, field) for request in drawn])
        for probability, count in lengths.points.items():
            assert np.quantile(values, probability) == pytest.approx(count, rel=0.04)
        assert values.min() >= 1
        assert lengths.mean is not None
        # The summary has the mean, too, which the reconstruction does not use. Lengths beyond the 99th percentile
        # are cut, and few requests make much of it.
        assert values.mean() == pytest.approx(lengths.mean, rel=0.17)


@pytest.mark.parametrize("variation", [0.0, 0.5, 1.0, 2.0])
def test_arrivals_have_the_rate_and_the_variation(variation: float) -> None:
    requests = fixed(8, 8).requests(20_000, rate=4.0, seed=1, variation=variation)
    gaps = np.diff([request.arrived_s for request in requests])
    assert requests[0].arrived_s == 0
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, abs=0.05)


def test_the_same_seed_gives_the_same_requests_and_another_seed_others() -> None:
    chat = SCENARIOS["chat"]
    assert chat.requests(50, rate=1.0, seed=5) == chat.requests(50, rate=1.0, seed=5)
    assert chat.requests(50, rate=1.0, seed=5) != chat.requests(50, rate=1.0, seed=6)
    at_once = chat.requests(50, rate=float("inf"), seed=5)
    assert {request.arrived_s for request in at_once} == {0.0}
    assert [r.prompt for r in at_once] == [r.prompt for r in chat.requests(50, rate=1.0, seed=5)]


def test_prompts_and_outputs_are_cut_to_the_longest_context_and_counted() -> None:
    requests = (Request(arrived_s=0, prompt=90, output=20), Request(arrived_s=1, prompt=81, output=20))
    kept, prompts, outputs = fitted(requests, 100)
    assert (kept[0].prompt, kept[1], prompts, outputs) == (81, requests[1], 1, 0)
    assert all(request.tokens <= 100 for request in kept)
    kept, prompts, outputs = fitted(requests, 10)
    assert [(r.prompt, r.output, r.tokens) for r in kept] == [(1, 10, 10)] * 2
    assert (prompts, outputs) == (2, 2)
    assert fitted(requests, None) == (requests, 0, 0)


@pytest.mark.parametrize("name", list(SCENARIOS))
@pytest.mark.parametrize("longest", [1, 1024, 2048])
def test_every_preset_fits_into_every_context(name: str, longest: int) -> None:
    found = fitted(SCENARIOS[name].requests(500, rate=1.0), longest)
    assert max(request.tokens for request in found.requests) <= longest
    assert len(found.requests) == 500


def test_an_output_of_a_trace_beyond_the_context_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(HEADER + "5,8,2048\n0,8,2621\n")
    with pytest.raises(MacloomError, match=r"trace.csv: line 3: num_decode_tokens: must be at most 2048, .* not 2621"):
        read_requests(file, 2048)
    assert len(read_requests(file, 2621)) == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Request(arrived_s=-1.0, prompt=1, output=1), "request.arrived_s: must be zero or a positive number"),
        (lambda: Request(arrived_s=0.0, prompt=0, output=1), "request.prompt: must be a positive integer, not 0"),
        (lambda: Request(arrived_s=0.0, prompt=1, output=0), "request.output: must be a positive integer, not 0"),
        (lambda: Lengths(points={}), "lengths.points: must hold at least one quantile"),
        (lambda: Lengths(points={1.0: 5}), "lengths.points: must be at probabilities between 0 and 1, not 1.0"),
        (lambda: Lengths(points={0.1: 9, 0.9: 5}), "lengths.points: must rise with the probability"),
        (lambda: get_scenario("chatt"), "scenario: unknown name 'chatt'; did you mean 'chat'"),
        (lambda: fixed(1, 1).requests(0, rate=1.0), "serve.requests: must be a positive integer, not 0"),
        (lambda: fixed(1, 1).requests(1, rate=0.0), "serve.rate: must be a positive number of requests per second"),
        (lambda: fixed(1, 1).requests(1, rate=1.0, variation=-1.0), "serve.variation: must be zero or a positive"),
    ],
)
def test_what_is_no_request_is_refused(build: object, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        build()  # type: ignore[operator]
