"""What can be served: formulas and traces, equal where a model has both; the rest is refused with its reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from macloom.arch import load_accelerator
from macloom.errors import MacloomError
from macloom.explore.serving import Policy, Request, fixed, longest_context, serve
from macloom.explore.serving.costs import Group, StepCosts, groups_of
from macloom.explore.serving.memory import CacheSize, state_bits, weight_bits
from macloom.explore.serving.passes import FormulaPasses, TracedPasses, passes_of
from macloom.sim import simulate
from macloom.workloads import Workload, load_recipe, load_workload

ACCELERATOR = load_accelerator("olive-sa")
OVP4 = load_recipe("ovp4")
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96,
}  # fmt: skip
TRACED: dict[str, dict[str, Any]] = {
    "gpt_neox": {**SMALL, "max_position_embeddings": 256},
    "qwen3_moe": {
        **SMALL, "num_key_value_heads": 2, "head_dim": 16, "moe_intermediate_size": 32, "num_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 256,
    },
    "gemma3_text": {
        **SMALL, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 32, "max_position_embeddings": 256,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "mamba2": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1,
        "expand": 2, "vocab_size": 96, "chunk_size": 64,
    },
}  # fmt: skip


def configuration(directory: Path, kind: str, **fields: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps({"model_type": kind, **fields}))
    return path


def operations(workload: Workload) -> list[object]:
    return [replace(op, reads=()) for op in workload.ops]


@pytest.mark.parametrize(
    ("model", "longest", "own"), [("opt-6.7b", 2048, {"scores", "softmax", "values"}), ("mamba-130m", None, set())]
)
def test_formulas_are_served(model: str, longest: int | None, own: set[str]) -> None:
    passes = passes_of(model)
    assert isinstance(passes, FormulaPasses)
    assert longest_context(model) == longest
    assert {name.split(".")[-1] for name, group in groups_of(passes).items() if group is Group.REQUEST} == own


@pytest.mark.parametrize("model", ["gemma-2-9b", "mistral-7b"])
def test_the_parts_of_a_step_behind_a_window_are_the_whole_step(model: str) -> None:
    table = StepCosts(model=model, accelerator=ACCELERATOR, recipe=OVP4, longest=8)
    step = table.passes.decode(6000, 1)
    assert {table.group(op) for op in step.ops if "." in op.name and op.name.endswith("scores")} == {Group.REQUEST}
    own = simulate(replace(step, ops=table.part(step, Group.REQUEST)), ACCELERATOR, OVP4)
    whole = simulate(step, ACCELERATOR, OVP4)
    assert table.tokens(1)[0] + table.head(1)[0] + own.seconds == pytest.approx(whole.seconds, rel=1e-12)


def test_the_state_of_a_mamba_is_stored_once_whatever_the_length() -> None:
    cache = CacheSize.of("mamba-130m", OVP4)
    step = load_workload("mamba-130m", phase="decode", context=50)
    assert cache.bits(1) == cache.bits(5000) == 16 * step.kv_elements  # the output format has 16 bits


def test_keys_that_several_layers_read_are_stored_once() -> None:
    step = load_workload("llama-3-8b", phase="decode", context=64)
    half = replace(step, kv_elements=step.kv_elements // 2)
    assert state_bits(half, OVP4) == pytest.approx(state_bits(step, OVP4) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bert-large", "serve: bert-large is an encoder and makes no tokens one by one; there is nothing to serve"),
        ("vit-base", "serve: vit-base looks at images and makes no tokens .*; there is nothing to serve"),
        ("t5-small", "serve: t5-small reads its prompt with an encoder, all at once; serve-sim serves decoders"),
        ("opt-6.8b", "workload: unknown name 'opt-6.8b'; did you mean 'opt-6.7b'"),
    ],
)
def test_what_cannot_be_served_says_why(model: str, message: str) -> None:
    with pytest.raises(MacloomError, match=message):
        passes_of(model)


def test_a_saved_trace_is_one_pass(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    path.write_text(json.dumps({"macloom_trace": 1}))
    with pytest.raises(MacloomError, match=r"serve: .*saved.json is the trace of one pass, .* give the model's config"):
        passes_of(path)


@pytest.mark.parametrize("kind", list(TRACED))
def test_a_model_without_a_formula_is_served_from_its_traces(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    path = configuration(tmp_path, kind, **TRACED[kind])
    passes = passes_of(path, reach=128)
    assert isinstance(passes, TracedPasses)
    for context, batch in ((40, 1), (100, 1), (2, 37)):
        traced = load_workload(path, phase="decode", context=context, batch=batch)
        found = passes.decode(context, batch)
        assert operations(found) == operations(traced)
        assert batch > 1 or found.kv_elements == traced.kv_elements
    for tokens, history in ((21, 0), (13, 90)):
        chunk = load_workload(path, sequence=tokens, past=history, head_tokens="last")
        assert operations(passes.chunk(tokens, history)) == operations(chunk)
    # One request alone costs what `simulate` says.
    result = serve(passes, ACCELERATOR, OVP4, [Request(arrived_s=0.0, prompt=21, output=3)],
                   policy=Policy(chunked=False), per_octave=None)  # fmt: skip
    prefill = simulate(passes.chunk(21, 0), ACCELERATOR, OVP4)
    steps = [simulate(passes.decode(c, 1), ACCELERATOR, OVP4) for c in (22, 23)]
    assert result.requests[0].ttft_s == pytest.approx(prefill.seconds, rel=1e-12)
    assert result.decode_j == pytest.approx(sum(s.energy_j for s in steps), rel=1e-12)
    assert result.weight_bits > 4 * load_workload(path, phase="decode", context=2).parameters
    assert result.settings["traces"] == passes.facts["traces"] < 100


def test_formula_and_traces_of_a_llama_serve_alike(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from macloom.workloads.trace.tracer import trace_workload

    path = configuration(tmp_path, "llama", **SMALL, num_key_value_heads=2, max_position_embeddings=256)
    formula = passes_of(path, reach=128)
    assert isinstance(formula, FormulaPasses)
    traced = TracedPasses(
        model=path, longest=256, reach=128, window=None, load=trace_workload,
        first=trace_workload(path, phase="decode", context=2),
    )  # fmt: skip
    assert weight_bits(traced, OVP4) == weight_bits(formula, OVP4)
    requests = fixed(40, 6).requests(3, rate=2000.0, seed=1)
    one, two = (
        serve(passes, ACCELERATOR, OVP4, requests, policy=Policy(tokens=64, requests=4)) for passes in (formula, traced)
    )
    assert two.settings["traces"] <= 20
    for found, expected in zip(two.iterations, one.iterations, strict=True):
        assert found.cache_bits == expected.cache_bits
        assert found.seconds == pytest.approx(expected.seconds, rel=1e-12)
        assert found.decode_j == pytest.approx(expected.decode_j, rel=1e-12)
