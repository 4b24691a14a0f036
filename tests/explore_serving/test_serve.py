"""Serving on the simulator: equal to `simulate` where a server does nothing else, and its figures are right."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from macloom.arch import load_accelerator
from macloom.errors import MacloomError
from macloom.explore.serving import Objective, Policy, Request, fixed, longest_context, serve
from macloom.explore.serving.costs import Group, StepCosts
from macloom.explore.serving.memory import CacheSize, weight_bits
from macloom.explore.serving.plot import serving_figure
from macloom.sim import simulate
from macloom.workloads import load_recipe, load_workload

ACCELERATOR = load_accelerator("olive-sa")
OVP4 = load_recipe("ovp4")


def costs(model: str = "tiny", per_octave: int | None = 4, **options: object) -> StepCosts:
    return StepCosts(
        model=model, accelerator=ACCELERATOR, recipe=OVP4, longest=256, per_octave=per_octave, options=options
    )


@pytest.mark.parametrize("model", ["tiny", "gpt2", "gemma-2-9b", "mixtral-8x7b", "mamba-130m"])
def test_one_request_costs_what_simulate_says(model: str) -> None:
    request = Request(arrived_s=0.0, prompt=19, output=3)
    result = serve(model, ACCELERATOR, OVP4, [request], policy=Policy(chunked=False), per_octave=None)
    prefill = simulate(load_workload(model, sequence=19, head_tokens="last"), ACCELERATOR, OVP4)
    steps = [simulate(load_workload(model, phase="decode", context=c), ACCELERATOR, OVP4) for c in (20, 21)]
    assert result.requests[0].ttft_s == pytest.approx(prefill.seconds, rel=1e-12)
    assert result.seconds == pytest.approx(prefill.seconds + sum(s.seconds for s in steps), rel=1e-12)
    assert result.prefill_j == pytest.approx(prefill.energy_j, rel=1e-12)
    assert result.decode_j == pytest.approx(sum(s.energy_j for s in steps), rel=1e-12)


def test_a_chunk_costs_what_simulate_says_of_its_operations() -> None:
    table = costs(per_octave=None)
    chunk = table.passes.chunk(24, 40)
    assert [op.n for op in chunk.gemms if op.name.endswith("scores")] == [64]
    only = simulate(replace(chunk, ops=table.part(chunk, Group.REQUEST)), ACCELERATOR, OVP4)
    assert table.prefill_attention(24, 40)[0] == only.seconds


def test_sizes_between_simulated_ones_are_close_to_the_simulated_cost() -> None:
    lines, every = costs(), costs(per_octave=None)
    for size in (3, 21, 77, 133, 250):
        assert lines.tokens(size) == pytest.approx(every.tokens(size), rel=0.015)
        step = every.passes.decode(size, 1)
        only = simulate(replace(step, ops=every.part(step, Group.REQUEST)), ACCELERATOR, OVP4)
        found = lines.decode_attention(np.array([size, size]))
        assert found == pytest.approx([2 * only.seconds, 2 * only.energy_j], rel=0.015)
    for tokens, history in ((5, 0), (21, 9), (77, 133)):
        exact = every.prefill_attention(tokens, history)
        assert lines.prefill_attention(tokens, history) == pytest.approx(exact, rel=0.015)


def test_a_server_is_deterministic_and_its_figures_are_those_of_its_requests(tmp_path: Path) -> None:
    requests = fixed(40, 12).requests(10, rate=400.0, seed=2)
    objective = Objective(ttft_s=0.0005, tpot_s=0.00014)
    one, two = (
        serve("tiny", ACCELERATOR, OVP4, requests, objective=objective, memory_bits=8 * 2**21) for _ in range(2)
    )
    assert one.to_dict() == two.to_dict()
    totals = one.totals()
    ttft = [r.first_s - r.request.arrived_s for r in one.requests]
    assert totals["ttft_s"]["p90"] == pytest.approx(np.quantile(ttft, 0.9))
    assert totals["ttft_s"]["mean"] == pytest.approx(np.mean(ttft))
    good = sum(r.ttft_s <= 0.0005 and r.tpot_s <= 0.00014 for r in one.requests)
    assert 0 < good < 10
    assert totals["met_share"] == good / 10
    assert totals["output_tokens_per_s"] == pytest.approx(120 / one.seconds)
    assert totals["energy_j"] == pytest.approx(one.prefill_j + one.decode_j)
    assert 0 < totals["busy_share"] <= 1 + 1e-12
    assert totals["peak_cache_bytes"] <= totals["cache_bytes"]
    # Little's law: requests in the system on average = arrivals per second * time in the system.
    steps = sorted([(r.request.arrived_s, 1) for r in one.requests] + [(r.finished_s, -1) for r in one.requests])
    area, inside, before = 0.0, 0, 0.0
    for at, change in steps:
        area, inside, before = area + inside * (at - before), inside + change, at
    assert area == pytest.approx(totals["latency_s"]["mean"] * 10)

    paths = one.save(tmp_path / "out")
    assert json.loads(paths[0].read_text())["totals"]["iterations"] == len(one.iterations)
    rows = list(csv.DictReader(paths[1].read_text().splitlines()))
    assert [float(row["ttft_s"]) for row in rows] == ttft
    assert len(list(csv.DictReader(paths[2].read_text().splitlines()))) == len(one.iterations)
    axes = serving_figure(one).axes
    assert [ax.get_ylabel() for ax in axes] == ["share of requests", "requests", "cache, KiB"]


def test_a_smaller_cache_format_lets_more_requests_run_at_a_time() -> None:
    requests = fixed(64, 32).requests(24, rate=float("inf"))
    policy = Policy(cache_bits=3 * CacheSize.of("tiny", load_recipe("int8")).bits(96))
    int8, ovp4 = (serve("tiny", "olive-sa", name, requests, policy=policy) for name in ("int8", "ovp4"))
    assert max(i.decode_tokens for i in int8.iterations) == 3
    assert 5 <= max(i.decode_tokens for i in ovp4.iterations) <= 7
    assert ovp4.totals()["output_tokens_per_s"] > int8.totals()["output_tokens_per_s"]


def test_stored_bits_of_weights_and_cache() -> None:
    fp16 = load_recipe("fp16")
    opt = load_workload("opt-6.7b", sequence=1)
    assert weight_bits("opt-6.7b", fp16) == 16 * opt.parameters
    # 2 * layers * KV heads * head size * 2 bytes a token: 512 KiB and 128 KiB.
    assert CacheSize.of("opt-6.7b", fp16).bits(2048) == 2048 * 512 * 1024 * 8
    assert CacheSize.of("llama-3-8b", fp16).bits(4096) == 4096 * 128 * 1024 * 8
    assert CacheSize.of("opt-6.7b", fp16, block=100).bits(2048) == CacheSize.of("opt-6.7b", fp16).bits(2048)
    assert longest_context("opt-6.7b") == 2048
    mixtral = load_workload("mixtral-8x7b", sequence=1)
    assert weight_bits("mixtral-8x7b", fp16) == 16 * mixtral.parameters


@pytest.mark.parametrize(
    ("requests", "options", "message"),
    [
        ([], {}, "requests: must hold at least one request"),
        ([Request(arrived_s=0, prompt=1024, output=2)], {}, "requests: must need at most 1024 tokens, .*`fitted` cuts"),
        (
            [Request(arrived_s=0, prompt=6, output=2)],
            {"memory_bits": 8},
            r"serve.memory_bits \(--memory\): must be more than the .* MiB of the weights, not 1 B",
        ),
        ([Request(arrived_s=0, prompt=6, output=2)], {"prefetch": True}, "serve.prefetch: must be left out"),
        ([Request(arrived_s=0, prompt=6, output=2)], {"per_octave": 0}, "serve.per_octave: must be a positive integer"),
    ],
)
def test_what_cannot_be_served_is_refused(requests: list[Request], options: dict[str, object], message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        serve("tiny", ACCELERATOR, OVP4, requests, **options)  # type: ignore[arg-type]


def test_an_encoder_cannot_be_served() -> None:
    with pytest.raises(MacloomError, match="serve: bert-base is an encoder .*; there is nothing to serve"):
        serve("bert-base", ACCELERATOR, OVP4, [Request(arrived_s=0, prompt=6, output=2)])


def test_without_an_objective_there_is_no_goodput(tmp_path: Path) -> None:
    result = serve("tiny", ACCELERATOR, OVP4, fixed(6, 2).requests(2, rate=10.0))
    assert (result.totals()["goodput_requests_per_s"], result.totals()["met_share"]) == (None, None)
    (path, *_) = result.save(tmp_path)
    assert json.loads(path.read_text())["totals"]["met_share"] is None


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), True])
def test_an_objective_must_be_a_time(value: float) -> None:
    with pytest.raises(MacloomError, match=r"serve.ttft_s: must be a positive number of seconds"):
        Objective(ttft_s=value)
