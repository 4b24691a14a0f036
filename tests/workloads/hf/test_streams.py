"""Streaming: one block in memory, interruption and resumption, windows and strides, scales, rope, edges."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.hf import lean
from macloom.workloads.hf.evaluator import ModelEvaluator
from macloom.workloads.hf.resident import generate
from macloom.workloads.hf.text import Reader
from macloom.workloads.hf.weights import WeightMap
from macloom.workloads.lm.data import Text
from macloom.workloads.quantized import QuantizedArithmetic, RecordingArithmetic
from macloom.workloads.recipe import Recipe
from macloom.workloads.search import plan_operands
from macloom.workloads.steps import TimeLeft

Directory = Callable[[str], Path]
Quick = Callable[..., Recipe]


def evaluator(path: Path, text: Text, **options: Any) -> ModelEvaluator:
    given = {"context": 20, "windows": 3, "batch": 2, "calibration": text, "calibration_windows": 2, **options}
    return ModelEvaluator(path, text, **given)


def test_one_block_is_in_memory_at_a_time(
    directory: Directory, sentences: Text, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = evaluator(directory("qwen2"), sentences)
    model, most = e.skeleton.model, 0
    original = WeightMap.fill

    def fill(self: WeightMap, *arguments: Any, **options: Any) -> None:
        nonlocal most
        original(self, *arguments, **options)
        most = max(most, sum(p.numel() for p in model.parameters() if not p.is_meta))

    monkeypatch.setattr(WeightMap, "fill", fill)
    e.run(quick("int4"))
    blocks = [sum(p.numel() for p in e.skeleton.module(n).parameters()) for n in e.skeleton.layers]
    assert 0 < most <= max(*blocks, 264 * 64 + 64)
    assert all(p.is_meta for p in model.parameters())
    assert most < e.weights.parameters / 2


def test_an_interrupted_run_goes_on_and_gives_the_same_result(
    directory: Directory, sentences: Text, quick: Quick, tmp_path: Path
) -> None:
    path, state, recipe = directory("llama"), tmp_path / "state", quick("ovp4")
    whole = evaluator(path, sentences).run(recipe)
    seen: list[str] = []

    def interrupt(text: str, done: int, total: int) -> None:
        seen.append(text.split(",")[0])
        if text.startswith("block 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator(path, sentences, state=state, progress=interrupt).run(recipe)
    assert seen == ["before the blocks", "block 1 of 2", "block 2 of 2"]
    assert json.loads((state / "state.json").read_text())["blocks"] == 1
    with pytest.raises(MacloomError, match=r"is of another evaluation \(recipe differs\); give another --state"):
        evaluator(path, sentences, state=state).run(quick("int4"))
    seen.clear()
    resumed = evaluator(path, sentences, state=state, progress=lambda text, *_: seen.append(text.split(",")[0]))
    assert resumed.run(recipe).to_dict() == whole.to_dict()
    assert seen == ["before the blocks", "block 2 of 2", "after the blocks"]
    assert list(state.iterdir()) == []  # a finished run leaves nothing


def test_damaged_state(directory: Directory, sentences: Text, quick: Quick, tmp_path: Path) -> None:
    def interrupt(text: str, done: int, total: int) -> None:
        if text.startswith("block 2"):
            raise KeyboardInterrupt

    options: dict[str, Any] = {"state": tmp_path / "state"}
    with pytest.raises(KeyboardInterrupt):
        evaluator(directory("llama"), sentences, progress=interrupt, **options).run(quick("int8"))
    (hidden,) = (tmp_path / "state").glob("*.safetensors")
    hidden.write_bytes(hidden.read_bytes()[:-50])
    with pytest.raises(MacloomError, match="state: its state is damaged .*; remove it to start afresh"):
        evaluator(directory("llama"), sentences, **options).run(quick("int8"))
    (tmp_path / "file").write_text("")
    with pytest.raises(MacloomError, match="must be a directory, or not be there yet"):
        evaluator(directory("llama"), sentences, state=tmp_path / "file").run(quick("int8"))


def test_time_left_counts_only_the_steps_of_this_run() -> None:
    seen: list[str] = []
    seconds = iter((0.0, 10.0, 40.0, 300.0))
    left = TimeLeft(lambda text, done, total: seen.append(f"{done}/{total} {text}"), 12, 8, lambda: next(seconds))
    for text in ("a", "b", "c"):
        left.step(text)
    assert seen == ["8/12 a", "9/12 b, 30 s left", "10/12 c, 40 s left"]


def test_every_token_counts_once_unless_a_stride_gives_more_context(
    directory: Directory, build: Callable[..., Any], sentences: Text, unquantized: Recipe
) -> None:
    model, tokens = build("opt"), torch.tensor(list(sentences.data))
    for stride in (20, 5):
        e = evaluator(directory("opt"), sentences, stride=stride, windows=4)
        accuracy = e.run(unquantized)
        starts = np.arange(4) * ((len(tokens) - 21) // stride + 1) // 4 * stride
        nats = []
        for s in starts:
            with torch.inference_mode():
                logits = model(tokens[None, s : s + 20]).logits[0]
            nats.append(torch.nn.functional.cross_entropy(logits[-stride:], tokens[s + 21 - stride : s + 21]))
        assert accuracy.reference_perplexity == pytest.approx(math.exp(sum(nats) / 4), rel=1e-5)
        assert accuracy.scored_bytes == 4 * stride
        assert accuracy.bits_per_byte == pytest.approx(math.log2(accuracy.perplexity), rel=1e-6)


def test_bytes_of_tokens_are_those_of_the_text(directory: Directory, sentences: Text) -> None:
    text = Text(name="accents", data=("naïve café, 日本 " * 30).encode())
    e = evaluator(directory("llama"), text, calibration=sentences)
    assert e.text.bytes is not None
    assert 0 < e.text.bytes.sum() <= len(text.data)
    _, lengths = Reader(e.checkpoint.directory, e.skeleton).encode(text.data.decode())
    assert lengths is not None
    assert lengths.sum() == len(text.data)


def test_dynamic_scales_follow_each_tensor(directory: Directory, sentences: Text, quick: Quick) -> None:
    path, recipe = directory("gpt2"), quick("int4")
    static, dynamic = (evaluator(path, sentences, scales=s).run(recipe) for s in ("static", "dynamic"))
    kinds = [{r["operand"]: r["scale"] for r in result.searches} for result in (static, dynamic)]
    assert kinds[0]["activation"] == kinds[0]["key"] == "calibrated"
    assert set(kinds[1].values()) == {"own"}
    assert static.kl_nats != dynamic.kl_nats


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_keys_are_rounded_before_rotation(family: str, directory: Directory, sentences: Text, quick: Quick) -> None:
    fp32 = get_format("fp32")
    others = dict.fromkeys(("weight", "activation", "probability", "output"), fp32)
    before, after, plain = (
        evaluator(directory(family), sentences, rope=rope).run(quick(kv, **others, overrides=()))
        for rope, kv in (("before", "int4"), ("after", "int4"), ("before", "fp32"))
    )
    stored = {r["op"]: r["format"] for r in before.searches if r["operand"] == "stored_key"}
    assert len(stored) == 2
    assert set(stored.values()) == {"int4"}
    assert plain.kl_nats < 1e-6 < min(before.kl_nats, after.kl_nats)
    assert before.kl_nats != after.kl_nats
    keys = next(op for op in before.sqnr_db if op.endswith(("k_proj", "qkv_proj")))
    assert before.sqnr_db[keys] > 100  # the projection itself is exact: rounding comes after it


@pytest.mark.parametrize("family", ["opt", "falcon"])
def test_rope_needs_keys_that_are_found(family: str, directory: Directory, sentences: Text) -> None:
    with pytest.raises(MacloomError, match="rope: must be 'after' for (OPT|Falcon)"):
        evaluator(directory(family), sentences, rope="before")


def test_edges_and_patterns_have_formats_of_their_own(directory: Directory, sentences: Text, quick: Quick) -> None:
    recipe = quick("int4", overrides=(("c_fc", get_format("int8")), ("lm_head", get_format("fp16"))))
    result = evaluator(directory("gpt2"), sentences, edge_layers=1, edge_format="fp16").run(recipe)
    assert {r["format"] for r in result.searches} == {"fp16"}
    result = evaluator(directory("gpt2"), sentences).run(recipe)
    formats = {r["op"]: r["format"] for r in result.searches}
    assert formats["transformer.h.0.mlp.c_fc"] == "int8"
    assert formats["transformer.h.0.mlp.c_proj"] == "int4"
    assert formats["lm_head"] == "fp16"
    bert = evaluator(directory("bert"), sentences).run(recipe)
    assert {r["format"] for r in bert.searches if r["op"] == "cls.predictions.decoder"} == {"fp16"}
    assert bert.recipe.overrides[-1][0] == "cls.predictions.decoder"


def test_hidden_states_in_bf16_change_little(directory: Directory, sentences: Text, quick: Quick) -> None:
    recipe = quick("int8")
    exact, rounded = (evaluator(directory("llama"), sentences, activations=a).run(recipe) for a in ("fp32", "bf16"))
    assert rounded.perplexity != exact.perplexity
    assert rounded.perplexity == pytest.approx(exact.perplexity, rel=0.05)


def test_collapse_is_seen(directory: Directory, sentences: Text, quick: Quick) -> None:
    result = evaluator(directory("llama"), sentences).run(quick("int2"))
    assert result.collapsed  # random weights know nothing, whatever the format
    assert result.to_dict()["collapsed"] is True
    assert len(result.by_window) == 3


def test_generation_is_greedy_and_in_float_that_of_transformers(
    directory: Directory, build: Callable[..., Any], sentences: Text
) -> None:
    model, prompt = build("llama"), "The quick brown"
    ids = torch.tensor([list(prompt.encode())])
    with torch.inference_mode():
        expected = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=-1)[0, len(prompt) :]
    written = generate(directory("llama"), None, prompt, 6, context=16, calibration=sentences)
    e = evaluator(directory("llama"), sentences)
    assert written == Reader(e.checkpoint.directory, e.skeleton).tokenizer.decode(expected)
    assert generate(directory("llama"), "int2", prompt, 6, context=16, calibration=sentences) != written
    with pytest.raises(MacloomError, match="must be at most 49, what the prompt leaves of 64, not 50"):
        generate(directory("llama"), None, prompt, 50, context=16, calibration=sentences)
    with pytest.raises(MacloomError, match="prompt: must be at least one token, not empty"):
        generate(directory("llama"), None, "", 5, context=16, calibration=sentences)
    with pytest.raises(MacloomError, match="must be a causal language model, not a masked language model"):
        generate(directory("bert"), None, prompt, 5, context=16, calibration=sentences)


@pytest.mark.parametrize("name", ["int4", "int4:group=32", "mxfp4", "nvfp4", "ovp4", "affine4", "llm_int8", "fp16"])
def test_weights_multiplied_tile_by_tile_give_the_bits_of_whole_ones(
    name: str, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x, weight = (torch.from_numpy(rng.standard_normal(shape, np.float32)) for shape in ((9, 64), (23, 64)))
    recipe = quick(name, output=get_format("fp32"))
    recorder = RecordingArithmetic(rng=rng)
    recorder.linear("op", x, weight)
    plan = plan_operands(recipe, recorder.samples)
    monkeypatch.setattr(lean, "TILE_ELEMENTS", 5 * 64)
    whole, tiled = QuantizedArithmetic(recipe, plan), lean.LeanArithmetic(recipe, plan)
    tiled.encode_weight("op", weight)
    expected = whole.linear("op", x, weight)
    assert torch.equal(tiled.linear("op", x, torch.empty((23, 64), device="meta")), expected)
    assert tiled.reports["op"] == whole.reports["op"]
