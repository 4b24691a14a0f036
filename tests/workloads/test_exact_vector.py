"""Exact vector operations in a model: every call against the scalar reference, any number of threads, every message."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from macloom.errors import MacloomError
from macloom.formats import set_threads
from macloom.formats.vector import Curve, get_vector_unit, list_vector_units, reference
from macloom.testing.vector import mismatches, pairs
from macloom.workloads.evaluator import Evaluator, evaluate
from macloom.workloads.exact_vector import ExactVector, RangeVector, vector_unit
from macloom.workloads.lm.checkpoint import LanguageModel
from macloom.workloads.lm.data import Text
from macloom.workloads.lm.model import FLOAT, LlamaConfig, forward
from macloom.workloads.recipe import load_recipe
from macloom.workloads.scoring import digest

CONFIG = LlamaConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=256,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
)
TEXT = Text(name="pangrams", data=b"The quick brown fox jumps over the lazy dog; pack my box with jugs. " * 12)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: torch.normal(0.0, 0.4, shape, generator=generator) if len(shape) == 2 else torch.ones(shape) * 1.3
        for name, shape in CONFIG.parameter_shapes().items()
    }
    return LanguageModel(name="random", config=CONFIG, parameters=parameters, sha256="0" * 64)


def small(model: LanguageModel, **options: Any) -> Evaluator:
    return Evaluator(model, TEXT, **{"windows": 3, "context": 24, "batch": 2, **options})


class Checked(ExactVector):
    """Compares every result with the scalar reference on the same data."""

    calls: dict[str, int]

    def _check(self, kind: str, got: Tensor, want: list[reference.Pair]) -> Tensor:
        assert mismatches(got.numpy(), want) == 0, kind
        self.calls[kind] = self.calls.get(kind, 0) + 1
        return got

    def norm(self, name: str, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        op = self.unit.norm_for(*(self._largest(name, t) for t in ("x", "gain", "output")))
        rows = x.reshape(-1, x.shape[-1])
        want = [y for row in rows for y in reference.norm(op, eps, pairs(row), pairs(weight))]
        return self._check("norm", super().norm(name, x, weight, eps), want)

    def rotate(self, name: str, x: Tensor, positions: Any) -> Tensor:
        op, half = self.unit.rope_for(self._largest(name, "x")), x.shape[-1] // 2
        table = reference.rope_table(op, x.shape[-2], x.shape[-1], positions)
        want = []
        for index, row in enumerate(x.reshape(-1, x.shape[-1])):
            a, b, t = pairs(row[:half]), pairs(row[half:]), index % x.shape[-2]
            turned = [reference.rotate(op, a[j], b[j], *table[j][t]) for j in range(half)]
            want += [p for p, _ in turned] + [q for _, q in turned]
        return self._check("rotate", super().rotate(name, x, positions), want)

    def softmax(self, name: str, scores: Tensor, scale: float) -> Tensor:
        op, length = self.unit.softmax_for(self._largest(name, "x")), scores.shape[-1]
        want = []
        for index, row in enumerate(scores.reshape(-1, length)):
            count = index % length + 1
            want += reference.softmax(op, scale, pairs(row[:count])) + [reference.Pair(0, 0)] * (length - count)
        return self._check("softmax", super().softmax(name, scores, scale), want)

    def gated(self, name: str, gate: Tensor, up: Tensor) -> Tensor:
        x, act = self._largest(name, "x"), self._largest(name, "act")
        activation = self.unit.activation_for(x, act)
        product = self.unit.product_for(act, self._largest(name, "up"), self._largest(name, "output"))
        want = [
            reference.multiply(product, reference.activate(activation, Curve.SILU, g), u)
            for g, u in zip(pairs(gate), pairs(up), strict=True)
        ]
        return self._check("gated", super().gated(name, gate, up), want)

    def add(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        op = self.unit.sum_for(*(self._largest(name, t) for t in ("x", "y", "output")))
        want = [reference.add(op, a, b) for a, b in zip(pairs(x), pairs(y), strict=True)]
        return self._check("add", super().add(name, x, y), want)


@pytest.mark.parametrize("name", list_vector_units())
def test_a_decoder_layer_equals_the_reference_operation_by_operation(model: LanguageModel, name: str) -> None:
    evaluator = small(model, windows=1, context=12)
    placed = evaluator.operations(f"exact:{name}")
    assert isinstance(placed, ExactVector)
    checked = Checked(placed.unit, placed.ranges)
    checked.calls = {}
    recipe = load_recipe("int4")
    plan = evaluator.plan(recipe, exact=True)
    _, logits = evaluator.quantized_logits(recipe, plan, vector=checked)
    assert checked.calls == {"norm": 3, "rotate": 2, "softmax": 1, "gated": 1, "add": 2}
    _, again = evaluator.quantized_logits(recipe, plan, vector=placed)
    np.testing.assert_array_equal(logits.numpy(), again.numpy())


@pytest.mark.parametrize("name", ["fp32", "fixed16"])
def test_logits_are_the_same_on_any_number_of_threads(model: LanguageModel, name: str) -> None:
    before = torch.get_num_threads()
    digests, plans = set(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            set_threads(count)
            accuracy = small(model).run("ovp4", vector=f"exact:{name}", accumulator="int16:saturate")
            digests.add(accuracy.logits_sha256)
            plans.append([s.to_dict() for s in accuracy.searches])
    finally:
        torch.set_num_threads(before)
        set_threads(None)
    assert len(digests) == 1
    assert plans[0] == plans[1] == plans[2]


def test_the_digest_sees_one_wrong_bit_but_not_the_sign_of_zero() -> None:
    logits = torch.tensor([[1.0, -2.5, 0.0]])
    wrong = logits.clone()
    wrong[0, 1] = torch.nextafter(wrong[0, 1], torch.tensor(0.0))
    assert digest(wrong) != digest(logits)
    assert digest(logits * torch.tensor([1.0, 1.0, -1.0])) == digest(logits)


def test_single_precision_unit_is_close_to_torch(model: LanguageModel) -> None:
    tokens = torch.from_numpy(TEXT.windows(25, 3).astype(np.int64))[:, :-1]
    exact = forward(model.parameters, CONFIG, tokens, FLOAT, ExactVector(get_vector_unit("fp32")))
    floating = forward(model.parameters, CONFIG, tokens)
    torch.testing.assert_close(exact, floating, rtol=1e-4, atol=1e-4)
    assert not torch.equal(exact, floating)


def test_cost_of_exact_operations_is_measured_beside_float(model: LanguageModel) -> None:
    evaluator = small(model)
    accuracy = evaluator.run("int8", vector="exact:lut8")
    cost = accuracy.vector_cost
    assert cost is not None
    assert accuracy.vector == "exact:lut8"
    assert accuracy.vector_unit == get_vector_unit("lut8").to_dict()
    document = json.loads(json.dumps(accuracy.to_dict(), allow_nan=False))
    assert document["vector_cost"] == cost.to_dict()
    assert document["vector_unit"]["softmax"]["exponential"]["table"]["index_bits"] == 8
    assert re.fullmatch("[0-9a-f]{64}", document["logits_sha256"])
    # The recipe's own scales come from another calibration, so that float beside it is close, not equal.
    assert cost.float_perplexity == pytest.approx(evaluator.run("int8").perplexity, rel=0.05)
    assert 0 < cost.kl_nats < 1
    better = evaluator.run("int8", vector="exact").vector_cost
    assert better is not None
    assert better.kl_nats < cost.kl_nats
    floating = evaluator.run("int8")
    assert (floating.vector, floating.vector_unit, floating.vector_cost) == ("float", None, None)
    assert floating.to_dict()["logits_sha256"] is None


def test_ranges_cover_every_tensor_that_fixed_point_lanes_place(model: LanguageModel) -> None:
    evaluator = small(model)
    placed = evaluator.operations("exact:fixed16")
    assert isinstance(placed, ExactVector)
    assert placed.ranges is not None
    assert min(placed.ranges.values()) > 0
    unit = get_vector_unit("fixed16")
    tokens = torch.from_numpy(TEXT.windows(25, 2).astype(np.int64))[:, :-1]
    with pytest.raises(MacloomError, match="^vector: model.embed_tokens/output: must be among the calibrated ranges"):
        forward(model.parameters, CONFIG, tokens, FLOAT, ExactVector(unit, {}))


def test_ranges_are_largest_magnitudes(model: LanguageModel) -> None:
    ranges = RangeVector()
    x = torch.tensor([[0.5, -3.0], [2.0, 1.0]])
    ranges.add("here", x, 2 * x)
    ranges.add("here", x / 4, x)
    assert ranges.ranges == {"here/x": 3.0, "here/y": 6.0, "here/output": 9.0}


def test_progress_counts_every_step_once(model: LanguageModel) -> None:
    seen: list[tuple[str, int, int]] = []
    small(model, progress=lambda *step: seen.append(step)).run("int4", vector="exact:bf16")
    assert [done for _, done, _ in seen] == list(range(10))
    assert {total for *_, total in seen} == {10}
    texts = ["unquantized", "calibration", "scale search", "quantized", "float vector operations"]
    assert list(dict.fromkeys(text for text, *_ in seen)) == texts


@pytest.mark.parametrize("text", ["float", "exact", *(f"exact:{u}" for u in list_vector_units())])
def test_vector_names(text: str) -> None:
    unit = vector_unit(text)
    assert (unit is None) == (text == "float")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vector": "exact:fixd16"}, "vector: unknown name 'exact:fixd16'; did you mean 'exact:fixed16'"),
        ({"vector": "flaot"}, "vector: unknown name 'flaot'; did you mean 'float'"),
        ({"vector": "float:bf16"}, "vector: unknown name 'float:bf16'; did you mean"),
        ({"accumulator": "int16:satrate"}, "recipe.accumulator: "),
        (
            {"accumulator": "int8"},
            "recipe 'int8': model.layers.0.self_attn.q_proj: gemm: accumulator 'int8:wrap' is narrower than products "
            "of 'int8' and 'int8': 'int15' holds one",
        ),
    ],
)
def test_messages(model: LanguageModel, options: dict[str, str], message: str) -> None:
    with pytest.raises(MacloomError, match="^" + re.escape(message)):
        evaluate(model, "int8", TEXT, windows=1, context=16, **options)  # type: ignore[arg-type]


def test_an_impossible_accumulator_is_refused_before_the_search(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("macloom.workloads.evaluator.plan_operands", lambda *_: pytest.fail("searched"))
    with pytest.raises(MacloomError, match=r"self_attn.q_proj: gemm: accumulator 'int10:wrap' is narrower"):
        small(model).run("int8", accumulator="int10")


def test_collapsed_runs_are_reported(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Evaluator._forward

    def damaged(self: Evaluator, *args: Any, **options: Any) -> Tensor:
        logits = original(self, *args, **options)
        if args and args[0] is not FLOAT:
            logits[0, 0, 0] = math.nan
        return logits

    evaluator = small(model)
    evaluator.run("int4")
    monkeypatch.setattr(Evaluator, "_forward", damaged)
    accuracy = evaluator.run("int4", vector="exact")
    assert accuracy.collapsed
    assert accuracy.vector_cost is not None
    json.dumps(accuracy.to_dict(), allow_nan=False)
