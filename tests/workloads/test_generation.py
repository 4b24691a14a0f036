"""Continuations: greedy against a plain loop, departures, divergences at equal text, drawing, every message."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import pytest
import torch

from macloom.errors import MacloomError
from macloom.formats import get_format
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.generation import Generation, generate
from macloom.workloads.lm.data import Text
from macloom.workloads.lm.model import FLOAT, forward
from macloom.workloads.recipe import load_recipe

PROMPT = "def read(path):\n"


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator("tiny", windows=1, context=64)


@pytest.fixture(scope="module")
def found(evaluator: Evaluator) -> Generation:
    return generate(evaluator, ["int4", "int8"], PROMPT, 24)


def test_the_unquantized_text_is_that_of_a_plain_loop(evaluator: Evaluator, found: Generation) -> None:
    text = torch.tensor(list(PROMPT.encode()))[None]
    for _ in range(24):
        logits = forward(evaluator.model.parameters, evaluator.model.config, text)
        text = torch.cat([text, logits[:, -1:].argmax(-1)], 1)
    assert found.reference.tokens == tuple(text[0, len(PROMPT) :].tolist())
    assert found.reference.text == bytes(found.reference.tokens).decode(errors="replace")
    assert (found.reference.departs, found.reference.recipe) == (None, None)
    assert found.reference.mean_kl_nats == 0


def test_departures_and_divergences(found: Generation) -> None:
    four, eight = found.continuations[1:]
    for c in (four, eight):
        if c.departs is None:
            assert c.tokens == found.reference.tokens
        else:
            assert c.tokens[: c.departs] == found.reference.tokens[: c.departs]
            assert c.tokens[c.departs] != found.reference.tokens[c.departs]
        assert len(c.kl_nats) == 24
        assert not c.collapsed
    assert 0 < eight.mean_kl_nats < 0.1 * four.mean_kl_nats
    assert four.departs is not None


def test_divergences_equal_an_evaluation_of_the_same_text(evaluator: Evaluator, found: Generation) -> None:
    """The continuation as a text of one window, evaluated as any other: its last predictions are the 24 tokens."""
    whole = PROMPT.encode() + bytes(found.reference.tokens)
    other = Evaluator(evaluator.model, Text(name="t", data=whole), windows=1, context=len(whole) - 1)
    plan = evaluator.plan(load_recipe("int8"))
    logits = other.quantized_logits(load_recipe("int8"), plan)[1][0]
    scores, reference = torch.log_softmax(logits, -1)[-24:], other.reference[0, -24:]
    kl = (reference.double().exp() * (reference.double() - scores.double())).sum(-1)
    assert found.continuations[2].kl_nats == pytest.approx(kl.tolist(), rel=1e-3, abs=1e-7)


def test_a_recipe_without_loss_writes_the_same_text(evaluator: Evaluator) -> None:
    exact = dataclasses.replace(load_recipe("fp32"), output=get_format("fp32"), overrides=())
    for temperature in (0.0, 1.0):
        (reference, same) = generate(evaluator, [exact], PROMPT, 16, temperature=temperature, seed=4).continuations
        assert same.tokens == reference.tokens
        assert same.departs is None
        assert same.mean_kl_nats < 1e-6


def test_draws_are_seeded_and_follow_the_probabilities(evaluator: Evaluator) -> None:
    first = generate(evaluator, [], PROMPT, 12, temperature=1.0, seed=1)
    assert first.reference.tokens == generate(evaluator, [], PROMPT, 12, temperature=1.0, seed=1).reference.tokens
    assert first.reference.tokens != generate(evaluator, [], PROMPT, 12, temperature=1.0, seed=2).reference.tokens
    drawn = [generate(evaluator, [], "import o", 1, temperature=1.0, seed=s).reference.tokens[0] for s in range(60)]
    logits = evaluator.logits(FLOAT, tokens=torch.tensor([[*b"import o", 0]]))[0, -1]
    likely = int(logits.argmax())
    share = float(logits.softmax(-1)[likely])
    assert drawn.count(likely) / 60 == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / 60) + 0.02)


def test_the_record(found: Generation) -> None:
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (data["prompt"], data["temperature"], data["seed"]) == (PROMPT, 0.0, 0)
    assert [c["name"] for c in data["continuations"]] == ["unquantized", "int4", "int8"]
    assert data["continuations"][1]["mean_kl_nats"] == found.continuations[1].mean_kl_nats


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "prompt: must hold at least one token, not ''"),
        ({"tokens": 0}, "tokens: must be a positive integer, not 0"),
        ({"temperature": -1.0}, "temperature: must be a number of at least 0, not -1.0"),
        (
            {"tokens": 2000},
            "prompt: must leave room for 2000 tokens within the 1024 of the model, not be 1 long; shorten",
        ),
        ({"recipes": ["int44"]}, "unknown name 'int44'"),
    ],
)
def test_bad_arguments(evaluator: Evaluator, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MacloomError, match=re.escape(message)):
        generate(evaluator, **{"recipes": [], "prompt": "x", **options})
