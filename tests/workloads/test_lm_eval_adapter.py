"""What the harness asks for, against forward passes by hand; the adapter itself where `lm_eval` is installed."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from macloom.errors import MacloomError
from macloom.workloads.evaluator import Evaluator
from macloom.workloads.lm.checkpoint import EMBEDDED, byte_tokenizer
from macloom.workloads.lm.data import Text
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
    # The space at the end of the context is scored with the continuation, as in the harness.
    expected = scores_of(evaluator, (context + "4]").encode()[-65:])[-3:]
    assert found == pytest.approx(float(expected.sum()), rel=1e-5)


def test_a_whole_text_is_scored_in_windows(evaluator: Evaluator) -> None:
    text = "def add(a, b):\n    return a + b\n" * 5
    data = b"\0" + text.encode()
    ends = [*range(64, len(data) - 1, 64), len(data) - 1]
    counts = [64] * (len(ends) - 1) + [len(data) - 1 - ends[-2]]
    expected = sum(
        float(scores_of(evaluator, data[max(0, end - 64) : end + 1])[-n:].sum())
        for end, n in zip(ends, counts, strict=True)
    )
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


REQUESTS = {
    "loglikelihood": [
        ("The quick", " brown"), ("The quick ", "brown fox"), ("", "jumps"), ("over " * 30, "the lazy dog"),
        ("pack", " my box with jugs" * 2),
    ],
    "loglikelihood_rolling": [("short",), ("The quick brown fox jumps over the lazy dog. " * 4,), ("",)],
    "generate_until": [
        ("The quick", {"until": ["zz"], "max_gen_toks": 12}), ("a b " * 20, {"until": ["\n"], "max_gen_toks": 20}),
    ],
}  # fmt: skip


def answers(lm: Any, kind: str) -> list[Any]:
    """What a model of the harness answers to the requests of one kind."""
    from lm_eval.api.instance import Instance  # type: ignore[import-not-found]

    requests = [
        Instance(request_type=kind, doc={}, arguments=given, idx=i)  # type: ignore[arg-type]
        for i, given in enumerate(REQUESTS[kind])
        if given != ("",)
    ]
    return getattr(lm, kind)(requests)


def random_llama(path: Path, begins: bool) -> Path:
    """Save a small Llama with random weights and a tokenizer of bytes, which puts a token before texts or does not."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=258, max_position_embeddings=64, bos_token_id=256, eos_token_id=257, initializer_range=0.2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    document = byte_tokenizer()
    document["added_tokens"] = [
        {"id": 256 + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for i, token in enumerate(("<s>", "</s>"))
    ]  # fmt: skip
    if begins:
        document["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}},
        }
    (path / "tokenizer.json").write_text(json.dumps(document))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps(names))
    return path


@pytest.mark.parametrize("begins", [False, True])
def test_an_own_model_gets_the_answers_of_the_harness_own(begins: bool, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]

    from macloom.workloads.hf.evaluator import ModelEvaluator

    path = random_llama(tmp_path / "llama", begins)
    theirs = HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=1)
    text = Text(name="pangrams", data=b"The quick brown fox jumps over the lazy dog. " * 60)
    own = ModelEvaluator(path, text, windows=1, calibration=text, calibration_windows=1)
    compare(lm_eval_model(own, None), theirs)
    # A recipe is seen.
    quantized = answers(lm_eval_model(own, "int4"), "loglikelihood_rolling")
    assert quantized != pytest.approx(answers(theirs, "loglikelihood_rolling"), abs=1e-2)


def test_a_model_of_bytes_gets_the_answers_of_the_harness_own(evaluator: Evaluator) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]

    theirs = HFLM(
        pretrained=str(EMBEDDED["tiny"]), device="cpu", dtype="float32", batch_size=1, max_length=64, prefix_token_id=0,
    )  # fmt: skip
    compare(lm_eval_model(evaluator, None), theirs, but="generate_until")  # which needs a token that ends texts


def compare(ours: Any, theirs: Any, but: str = "") -> None:
    for kind in REQUESTS:
        if kind == but:
            continue
        for mine, other in zip(answers(ours, kind), answers(theirs, kind), strict=True):
            if kind == "loglikelihood":
                assert mine[0] == pytest.approx(other[0], abs=1e-4)
                assert mine[1] == other[1]
            else:
                assert mine == (other if isinstance(other, str) else pytest.approx(other, abs=1e-4))


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
