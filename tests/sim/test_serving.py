"""What requests see, against the results they are made of."""

from __future__ import annotations

import time

import pytest

from macloom.errors import MacloomError
from macloom.sim import serve_summary, simulate, simulate_serving
from macloom.workloads import load_workload


def decode(context, batch=1):
    return simulate(load_workload("tiny", phase="decode", context=context, batch=batch), "olive-sa", "ovp4")


def prefill(sequence, batch=1):
    workload = load_workload("tiny", sequence=sequence, batch=batch, head_tokens="last")
    return simulate(workload, "olive-sa", "ovp4")


def test_a_summary_adds_its_results_up():
    first, steps = prefill(64, 2), [decode(65, 2), decode(66, 2), decode(67, 2)]
    summary = serve_summary(first, steps, batch=2)
    assert (summary.batch, summary.steps, summary.tokens) == (2, 3, 8)
    assert summary.ttft_s == first.seconds
    assert summary.tpot_s == pytest.approx(sum(s.seconds for s in steps) / 3)
    assert summary.total_s == pytest.approx(first.seconds + sum(s.seconds for s in steps))
    assert summary.energy_j == pytest.approx(first.energy_j + sum(s.energy_j for s in steps))
    assert summary.tokens_per_s == pytest.approx(8 / summary.total_s)
    # Tokens per second and watt are tokens per joule.
    power = summary.energy_j / summary.total_s
    assert summary.tokens_per_s_per_w == pytest.approx(summary.tokens_per_s / power)
    assert summary.energy_per_token_j * summary.tokens_per_s_per_w == pytest.approx(1)
    assert summary.decode_tokens_per_s == pytest.approx(2 / summary.tpot_s)
    assert summary.to_dict()["steps"] == 3


def test_one_result_may_stand_for_all_steps():
    first, step = prefill(64), decode(80)
    assert serve_summary(first, step, steps=5) == serve_summary(first, [step] * 5)


def test_every_step_sees_one_key_more():
    whole = simulate_serving("tiny", "olive-sa", "ovp4", prompt=64, tokens=6)
    assert whole == serve_summary(prefill(64), [decode(context) for context in range(65, 70)])
    assert whole.last_step_s == decode(69).seconds


def test_steps_between_strides_lie_on_straight_lines():
    every = simulate_serving("tiny", "olive-sa", "ovp4", prompt=64, tokens=34)
    some = simulate_serving("tiny", "olive-sa", "ovp4", prompt=64, tokens=34, stride=8)
    assert (some.steps, some.last_step_s) == (every.steps, every.last_step_s)
    assert some.tpot_s == pytest.approx(every.tpot_s, rel=0.02)
    assert some.energy_j == pytest.approx(every.energy_j, rel=0.02)


def test_options_reach_the_simulator():
    plain, early = (simulate_serving("tiny", "olive-sa", "ovp4", prompt=8, tokens=3, prefetch=p) for p in (False, True))
    assert early.tpot_s < plain.tpot_s


def test_a_model_of_billions_is_served_in_seconds():
    simulate_serving("opt-6.7b", "olive-sa", "ovp4", prompt=8, tokens=2)  # imports
    start = time.process_time()
    summary = simulate_serving("opt-6.7b", "olive-sa", "ovp4", prompt=1024, tokens=33)
    assert time.process_time() - start < 3
    assert summary.ttft_s > summary.tpot_s


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 1}, "serve.tokens: must be at least 2"),
        ({"prompt": 0}, "serve.prompt: must be a positive integer, not 0"),
        ({"stride": 0}, "serve.stride: must be a positive integer, not 0"),
        ({"batch": -1}, "serve.batch: must be a positive integer, not -1"),
        ({"prompt": 4000}, "sequence: must be at most 1024"),
    ],
)
def test_bad_requests(change, message):
    with pytest.raises(MacloomError, match=message):
        simulate_serving("tiny", "olive-sa", "ovp4", **({"prompt": 8, "tokens": 4} | change))


def test_phases_and_steps_must_fit():
    first, step = prefill(8), decode(9)
    with pytest.raises(MacloomError, match="serve: must have a result of prefill and results of decode, not decode"):
        serve_summary(step, step)
    with pytest.raises(MacloomError, match=r"serve\.decode: must hold at least one result"):
        serve_summary(first, [])
    with pytest.raises(MacloomError, match=r"serve\.steps: must not be given beside a list"):
        serve_summary(first, [step], steps=2)
    with pytest.raises(MacloomError, match=r"serve\.steps: must be a positive integer, not 0"):
        serve_summary(first, step, steps=0)
