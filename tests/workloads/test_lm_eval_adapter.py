"""What the harness asks for, against forward passes by hand; the adapter itself where `lm_eval` is installed."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from macloom.errors import MacloomError
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.lm.model import forward
from macloom.workloads.lm_eval_adapter import Scorer, lm_eval_model, run_tasks


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator("tiny", windows=1, context=64)


def scores_of(evaluator: Evaluator, data: bytes) -> torch.Tensor:
    """Log-probabilities of every byte of `data` after the first, by one forward pass."""
    tokens = torch.tensor(list(data))
    logits = forward(evaluator.model.parameters, evaluator.model.config, tokens[None, :-1])[0]
    return torch.log_softmax(logits, -1).gather(-1, tokens[1:, None])[:, 0]


def test_a_continuation_has_the_log_probability_of_its_bytes(evaluator: Evaluator) -> None:
    scorer = Scorer(evaluator, None)
    found, greedy = scorer.continuation("import", " os\n")
    expected = scores_of(evaluator, b"import os\n")[-4:]
    assert found == pytest.approx(float(expected.sum()), rel=1e-5)
    assert not scorer.continuation("import", " \x01\x02")[1]
    best = scorer.write("def f(", [], 3)
    assert scorer.continuation("def f(", best)[1]
    assert isinstance(greedy, bool)
    alone, _ = scorer.continuation("", "import")
    assert alone == pytest.approx(float(scores_of(evaluator, b"\0import").sum()), rel=1e-5)
    assert scorer.continuation("x", "") == (0.0, True)


def test_long_texts_are_cut_at_the_left(evaluator: Evaluator) -> None:
    context = "x = [" + "1, 2, 3, " * 30
    found, _ = Scorer(evaluator, None).continuation(context, "4]")
    expected = scores_of(evaluator, (context + "4]").encode()[-65:])[-2:]
    assert found == pytest.approx(float(expected.sum()), rel=1e-5)


def test_a_whole_text_is_scored_in_windows(evaluator: Evaluator) -> None:
    text = "def add(a, b):\n    return a + b\n" * 5
    data = b"\0" + text.encode()
    expected = sum(float(scores_of(evaluator, data[i : i + 65]).sum()) for i in range(0, len(data) - 1, 64))
    assert Scorer(evaluator, None).whole(text) == pytest.approx(expected, rel=1e-5)


def test_a_recipe_changes_the_scores_a_little(evaluator: Evaluator) -> None:
    exact, eight, four = (Scorer(evaluator, r).whole("import os\nimport sys\n") for r in (None, "int8", "int4"))
    assert 0 < abs(eight - exact) < abs(four - exact)
    assert Scorer(evaluator, "int8").name == "tiny in int8"
    assert Scorer(evaluator, None).name == "tiny in float"


def test_writing_stops_before_a_stop(evaluator: Evaluator) -> None:
    scorer = Scorer(evaluator, None)
    free = scorer.write("import os\n", [], 24)
    assert len(free.encode()) >= 24
    stop = free[5:8]
    assert scorer.write("import os\n", ["never", stop], 24) == free[: free.index(stop)]
    with pytest.raises(MacloomError, match="tokens: must be a positive integer, not 0"):
        scorer.write("x", [], 0)


def test_without_the_package_the_message_says_what_to_do(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lm_eval", "lm_eval.api.model", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    message = r"lm-eval: needs the package lm_eval \(lm_eval\S* is missing\); pip install lm_eval"
    with pytest.raises(MacloomError, match=message):
        lm_eval_model(evaluator, "int8")
    with pytest.raises(MacloomError, match=message):
        run_tasks(evaluator, "int8", ["mine"])
    with pytest.raises(MacloomError, match=re.escape("lm-eval: must have at least one task to run")):
        run_tasks(evaluator, "int8", [])


def test_tasks_of_the_harness_on_local_files(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    pages = ["import os\nimport sys\n", "def add(a, b):\n    return a + b\n"]
    (tmp_path / "ppl.jsonl").write_text("".join(json.dumps({"page": p}) + "\n" for p in pages))
    items = [{"ctx": "import ", "choices": ["os\n", "qx\x01"], "gold": 0}] * 2
    (tmp_path / "mc.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    shared = "dataset_path: json\ntest_split: test\n"
    (tmp_path / "ppl.yaml").write_text(
        f"task: own_ppl\n{shared}dataset_kwargs: {{data_files: {{test: {tmp_path}/ppl.jsonl}}}}\n"
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{page}}"\n'
        "metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}]\n"
    )
    (tmp_path / "mc.yaml").write_text(
        f"task: own_mc\n{shared}dataset_kwargs: {{data_files: {{test: {tmp_path}/mc.jsonl}}}}\n"
        'output_type: multiple_choice\ndoc_to_text: "{{ctx}}"\ntarget_delimiter: ""\n'
        'doc_to_choice: "{{choices}}"\ndoc_to_target: "{{gold}}"\nmetric_list: [{metric: acc}]\n'
    )
    found = run_tasks(evaluator, "int8", ["own_ppl", "own_mc"], include=tmp_path)
    scorer = Scorer(evaluator, "int8")
    nats = -sum(scorer.whole(p) for p in pages) / sum(len(p.encode()) for p in pages)
    assert found["own_ppl"]["bits_per_byte,none"] == pytest.approx(nats / math.log(2), rel=1e-6)
    assert found["own_mc"]["acc,none"] == 1.0
    with pytest.raises(MacloomError, match="lm-eval: must know the task 'own_none'"):
        run_tasks(evaluator, None, ["own_none"], include=tmp_path)
