"""Accuracy: identities on small random models, determinism, collapse, provenance, every message."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.evaluator import Evaluator, evaluate
from macloom.workloads.lm.checkpoint import LanguageModel
from macloom.workloads.lm.data import Text, stdlib_text
from macloom.workloads.lm.model import FLOAT, LlamaConfig, forward
from macloom.workloads.recipe import Recipe, load_recipe

CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=256,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
)
SENTENCE = b"The quick brown fox jumps over the lazy dog; pack my box with five dozen jugs. "
TEXT = Text(name="pangrams", data=SENTENCE * 20)
OPS = 2 * 9 + 1


def random_model(seed: int = 0, scale: float = 0.2, config: LlamaConfig = CONFIG) -> LanguageModel:
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: torch.normal(0.0, scale, shape, generator=generator) if len(shape) == 2 else torch.ones(shape)
        for name, shape in config.parameter_shapes().items()
    }
    return LanguageModel(name="random", config=config, parameters=parameters, sha256="0" * 64)


def knowing_model() -> LanguageModel:
    """A random model whose head is fitted to predict TEXT from the states of the blocks."""
    model = random_model()
    tokens = torch.from_numpy(TEXT.windows(33).astype(np.int64))
    hidden: list[torch.Tensor] = []
    forward(model.parameters, CONFIG, tokens[:, :-1], _Tap(hidden))
    states, following = hidden[0].flatten(0, 1), F.one_hot(tokens[:, 1:].flatten(), 256).float()
    head = 12 * torch.linalg.lstsq(states, following).solution.T
    return dataclasses.replace(model, parameters={**model.parameters, "lm_head.weight": head.contiguous()})


class _Tap:
    """Float arithmetic that keeps the input of the head."""

    def __init__(self, kept: list[torch.Tensor]) -> None:
        self.kept = kept

    def linear(self, name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if name == "lm_head":
            self.kept.append(x)
        return F.linear(x, weight)

    def attention(self, name: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def small(model: LanguageModel, **options: Any) -> Evaluator:
    return Evaluator(model, TEXT, **{"windows": 4, "context": 32, "batch": 2, **options})


def unquantized() -> Recipe:
    return dataclasses.replace(load_recipe("fp32"), output=get_format("fp32"), overrides=())


def test_a_model_compared_with_itself_is_itself() -> None:
    accuracy = small(random_model()).run(unquantized())
    assert accuracy.kl_nats < 1e-9
    assert accuracy.top1_agreement == 1.0
    assert accuracy.perplexity == pytest.approx(accuracy.reference_perplexity, rel=1e-6)
    assert min(accuracy.sqnr_db.values()) > 100
    assert len(accuracy.sqnr_db) == OPS


def test_reference_perplexity_is_the_mean_over_windows_of_the_text() -> None:
    model = random_model()
    accuracy = small(model).run(unquantized())
    tokens = torch.from_numpy(TEXT.windows(33, 4).astype(np.int64))
    logits = forward(model.parameters, CONFIG, tokens[:, :-1])
    nats = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert accuracy.reference_perplexity == pytest.approx(math.exp(nats), rel=1e-5)
    assert accuracy.bits_per_byte == pytest.approx(nats / math.log(2), rel=1e-5)
    assert (accuracy.windows, accuracy.context) == (4, 32)
    assert accuracy.stride == len(TEXT.data) // 33 * 33 // 4


def test_kl_and_agreement_equal_their_definitions() -> None:
    model = random_model()
    evaluator = small(model)
    accuracy = evaluator.run("int4")
    assert 0 < accuracy.kl_nats < 10
    assert 0 < accuracy.top1_agreement < 1
    # The head alone in a coarse format: its logits can be recomputed here.
    recipe = dataclasses.replace(unquantized(), overrides=(("lm_head", get_format("int4:token")),))
    recipe = dataclasses.replace(recipe, search=dataclasses.replace(recipe.search, objective="absmax"))
    accuracy = evaluator.run(recipe)
    tokens = torch.from_numpy(TEXT.windows(33, 4).astype(np.int64))[:, :-1]
    hidden: list[torch.Tensor] = []
    p = forward(model.parameters, CONFIG, tokens, _Tap(hidden)).double().softmax(-1)
    fmt = get_format("int4:token")
    head = model.parameters["lm_head.weight"].numpy()
    q = (fmt.quantize(hidden[0].numpy()).astype(np.float64) @ fmt.quantize(head).T.astype(np.float64))  # fmt: skip
    log_q = torch.from_numpy(q).log_softmax(-1)
    assert accuracy.kl_nats == pytest.approx(float((p * (p.log() - log_q)).sum(-1).mean()), rel=1e-4)
    agreement = float((p.argmax(-1) == log_q.argmax(-1)).double().mean())
    assert accuracy.top1_agreement == pytest.approx(agreement, abs=1 / tokens.numel())


def test_more_bits_are_more_accurate() -> None:
    evaluator = small(random_model())
    results = {name: evaluator.run(name) for name in ("int3", "int4", "int6", "int8")}
    kl = [r.kl_nats for r in results.values()]
    assert kl == sorted(kl, reverse=True)
    for op in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        sqnr = [r.sqnr_db[op] for r in results.values()]
        assert sqnr == sorted(sqnr)
    # One more bit halves the step: about 6 dB each where both operands are well scaled.
    gain = results["int8"].sqnr_db["model.layers.0.self_attn.q_proj"]
    gain -= results["int6"].sqnr_db["model.layers.0.self_attn.q_proj"]
    assert 9 < gain < 15


def test_same_seed_same_result_and_batches_do_not_matter() -> None:
    first = small(random_model()).run("int4").to_dict()
    assert small(random_model()).run("int4").to_dict() == first
    other = small(random_model(), batch=4).run("int4").to_dict()
    assert other["perplexity"] == pytest.approx(first["perplexity"], rel=1e-5)
    reseeded = small(random_model(), seed=1).run("int4").to_dict()
    assert reseeded["search"] != first["search"]


def test_recipes_do_not_disturb_each_other() -> None:
    alone = small(random_model()).run("mxfp4").to_dict()
    shared = small(random_model())
    shared.run("int4")
    assert shared.run("mxfp4").to_dict() == alone


def test_evaluate_is_one_run_of_an_evaluator() -> None:
    model = random_model()
    once = evaluate(model, "int8", TEXT, windows=4, context=32, batch=2)
    assert once.to_dict() == small(model).run("int8").to_dict()


def test_a_model_of_zeros_is_collapsed_and_says_so() -> None:
    model = random_model()
    zeros = dataclasses.replace(model, parameters={n: torch.zeros_like(t) for n, t in model.parameters.items()})
    accuracy = small(zeros).run("int4")
    assert accuracy.perplexity == pytest.approx(256, rel=1e-5)
    assert accuracy.blocks_zeroed_perplexity == pytest.approx(256, rel=1e-5)
    assert accuracy.collapsed
    assert accuracy.to_dict()["collapsed"] is True


def test_collapse_is_the_level_of_the_blocks_zeroed_model_or_of_guessing() -> None:
    evaluator = small(knowing_model())
    good = evaluator.run("int8")
    assert good.perplexity < 100 < good.blocks_zeroed_perplexity
    assert not good.collapsed
    model = evaluator.model
    cut = {n: t * (not n.endswith(("o_proj.weight", "down_proj.weight"))) for n, t in model.parameters.items()}
    without = small(dataclasses.replace(model, parameters=cut)).run(unquantized())
    assert without.reference_perplexity == pytest.approx(good.blocks_zeroed_perplexity, rel=1e-6)
    assert without.collapsed
    level = dataclasses.replace(good, blocks_zeroed_perplexity=50.0)
    assert not dataclasses.replace(level, perplexity=45.0).collapsed
    assert dataclasses.replace(level, perplexity=45.3).collapsed  # within 0.1 nats: 50 / e**0.1 = 45.24
    assert dataclasses.replace(good, blocks_zeroed_perplexity=9e9, perplexity=240.0).collapsed


def test_unigram_level_is_that_of_the_training_frequencies() -> None:
    evaluator = small(random_model())
    train = stdlib_text("train").data
    targets = TEXT.windows(33, 4)[:, 1:].reshape(-1)
    total = sum(-math.log((train.count(bytes([b])) + 1) / (len(train) + 256)) for b in targets)
    assert evaluator.unigram_perplexity == pytest.approx(math.exp(total / len(targets)), rel=1e-9)


def test_int4_per_tensor_visibly_degrades_the_outlier_model_and_int8_does_not() -> None:
    evaluator = Evaluator("tiny-outlier", windows=4, context=128)
    int8, int4 = evaluator.run("int8"), evaluator.run("int4")
    assert int8.perplexity < 1.1 * int8.reference_perplexity
    assert int4.perplexity > 2 * int4.reference_perplexity
    assert int4.kl_nats > 20 * int8.kl_nats
    assert int8.reference_perplexity < int8.unigram_perplexity / 2


def test_result_carries_its_provenance_and_is_json() -> None:
    accuracy = small(random_model(), seed=3).run("int4")
    document = json.loads(json.dumps(accuracy.to_dict(), allow_nan=False))
    assert document["model"] == {"name": "random", "sha256": "0" * 64}
    assert document["text"] == {"name": "pangrams", "sha256": TEXT.sha256}
    assert document["calibration_text"]["name"] == "python-stdlib/train"
    assert document["recipe"] == load_recipe("int4").to_dict()
    assert document["seed"] == 3
    assert len(document["search"]) == 2 * OPS
    head = [s for s in document["search"] if s["op"] == "lm_head"]
    assert [(s["operand"], s["format"], s["clip"]) for s in head] == [
        ("activation", "fp16", 1.0),
        ("weight", "fp16", 1.0),
    ]


def test_numbers_that_are_not_finite_are_reported_and_collapsed(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = small(random_model())
    evaluator.run("int4")
    original = Evaluator._forward

    def damaged(self: Evaluator, *args: object, **options: object) -> torch.Tensor:
        logits = original(self, *args, **options)  # type: ignore[arg-type]
        logits[0, 0, :3] = math.nan
        return logits

    monkeypatch.setattr(Evaluator, "_forward", damaged)
    accuracy = evaluator.run("int4")
    assert accuracy.nonfinite_logits == 3
    assert accuracy.collapsed
    document = accuracy.to_dict()
    assert document["perplexity"] is None
    assert document["kl_nats"] is None
    json.dumps(document, allow_nan=False)


def test_overflows_of_a_narrow_accumulator_are_counted_by_operation() -> None:
    evaluator = small(random_model())
    wide = evaluator.run("int8")
    assert not wide.overflows
    narrow = evaluator.run(dataclasses.replace(load_recipe("int8"), accumulator="int15"))
    assert narrow.overflows["model.layers.0.self_attn.q_proj"] > 0
    assert narrow.to_dict()["overflows"] == narrow.overflows
    assert narrow.kl_nats > wide.kl_nats


def test_fewer_windows_than_asked_are_reported() -> None:
    assert small(random_model(), windows=10_000).windows == len(TEXT.data) // 33


def test_default_text_is_the_held_out_library() -> None:
    evaluator = Evaluator(random_model(), windows=1, context=16)
    assert evaluator.text.name == "python-stdlib/held-out"


def test_messages(tmp_path: Path) -> None:
    model = random_model()
    cases: list[tuple[str, dict[str, object]]] = [
        ("windows: must be a positive integer, not 0", {"windows": 0}),
        ("context: must be a positive integer, not -3", {"context": -3}),
        ("batch: must be a positive integer, not 1.5", {"batch": 1.5}),
        ("seed: must be a non-negative integer, not -1", {"seed": -1}),
        ("context: must be at most 64, the model's limit, not 65", {"context": 65}),
        ("text: no such file", {"text": tmp_path / "none.txt"}),
        ("text 'short': must hold at least one window of 33 bytes, not 3", {"text": Text(name="short", data=b"abc")}),
    ]
    for message, options in cases:
        with pytest.raises(MacloomError, match="^" + re.escape(message)):
            Evaluator(model, **{"text": TEXT, "context": 32, **options})  # type: ignore[arg-type]
    (tmp_path / "empty.txt").touch()
    with pytest.raises(MacloomError, match="^text: file .*empty.txt' is empty"):
        evaluate(model, "int4", tmp_path / "empty.txt", context=32)
    with pytest.raises(MacloomError, match="^recipe: format: unknown name 'int44'; did you mean"):
        small(model).run("int44")
    with pytest.raises(MacloomError, match="^model: unknown name 'tinny'; did you mean 'tiny'"):
        evaluate("tinny", "int4")


def test_models_that_cannot_be_evaluated_are_refused() -> None:
    wide = dataclasses.replace(CONFIG, vocab_size=300)
    with pytest.raises(MacloomError, match="^model 'random': must have a byte vocabulary, not 300 tokens"):
        small(random_model(config=wide))
    model = random_model()
    parameters = dict(model.parameters)
    parameters["model.norm.weight"] = torch.full((32,), math.nan)
    with pytest.raises(
        MacloomError, match=r"^model 'random': must give finite logits, not \d+ that are NaN or infinite"
    ):
        small(dataclasses.replace(model, parameters=parameters)).run(unquantized())


def test_calibration_text_windows_and_recalibration() -> None:
    other = Text(name="other", data=b"0123456789 " * 50)
    evaluator = small(random_model(), calibration=other, calibration_windows=2)
    first = evaluator.run("int4")
    assert (first.calibration_text, first.calibration_sha256) == ("other", other.sha256)
    again = evaluator.recalibrated(TEXT, windows=5, seed=3)
    assert (again.calibration_text, again.calibration_windows, again.seed) == (TEXT, 5, 3)
    assert again.reference is evaluator.reference
    second = again.run("int4")
    assert second.calibration_text == "pangrams"
    assert second.searches != first.searches
    assert (
        small(random_model(), calibration=TEXT, calibration_windows=5, seed=3).run("int4").to_dict() == second.to_dict()
    )
    assert evaluator.run("int4").to_dict() == first.to_dict()
    with pytest.raises(
        MacloomError, match="calibration text 'short': must hold more than one context of 32 bytes, not 5"
    ):
        evaluator.recalibrated(Text(name="short", data=b"short"))
    with pytest.raises(MacloomError, match="calibration_windows: must be a positive integer, not 0"):
        evaluator.recalibrated(windows=0)


def test_logits_of_other_tokens_and_their_text() -> None:
    evaluator = small(random_model())
    tokens = evaluator.encode("Fünf")
    assert tokens.tolist() == list("Fünf".encode())
    assert evaluator.decode(tokens) == "Fünf"
    assert evaluator.decode(tokens[:2]) == "F\N{REPLACEMENT CHARACTER}"
    padded = torch.cat((tokens, tokens[:1]))[None]
    expected = forward(evaluator.model.parameters, CONFIG, tokens[None])
    torch.testing.assert_close(evaluator.logits(FLOAT, tokens=padded), expected)
    torch.testing.assert_close(evaluator.logits(FLOAT), evaluator.float_logits())
