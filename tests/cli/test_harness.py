"""`macloom evaluate --lm-eval`: its messages without the package, its rows, and a task where it is installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fail = Callable[..., str]
RunJson = Callable[..., Any]


def arguments(model: str, text: str, *more: str) -> tuple[str, ...]:
    return ("evaluate", model, "--recipe", "int8", "--text", text, "--windows", "2", "--context", "24", *more)


def test_messages(model: str, text: str, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in (("--lm-eval-path", "tasks"), ("--lm-eval-limit", "5")):
        message = fail(*arguments(model, text, *option))
        assert message == "error: --lm-eval-path, --lm-eval-limit: belong to --lm-eval; name the tasks to run"
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else real(name))
    message = fail(*arguments(model, text, "--lm-eval", "mine"))
    assert message == "error: --lm-eval: needs the package lm_eval; pip install lm_eval"


def test_own_task(model: str, text: str, run_json: RunJson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "ppl.jsonl").write_text('{"page": "one"}\n{"page": "two"}\n')
    (tmp_path / "ppl.yaml").write_text(
        "task: own_ppl\ndataset_path: json\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/ppl.jsonl}}}}\n"
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{page}}"\n'
        "metric_list: [{metric: bits_per_byte}]\n"
    )
    given = ("--lm-eval", "own_ppl", "--lm-eval-path", str(tmp_path), "--lm-eval-limit", "1")
    found = run_json(*arguments(model, text, *given))["lm_eval"]
    assert list(found) == ["int8", "unquantized"]
    assert found["int8"]["own_ppl"]["bits_per_byte,none"] > 0


def test_a_task_on_a_model_of_your_own(
    text: str, run_json: RunJson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    transformers = pytest.importorskip("transformers")
    import torch

    from macloom.workloads.lm.checkpoint import byte_tokenizer

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=257, bos_token_id=256, eos_token_id=256
    )
    own = tmp_path / "small-gpt2"
    transformers.GPT2LMHeadModel(config).save_pretrained(own)
    document = byte_tokenizer()
    document["added_tokens"] = [
        {"id": 256, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
    ]  # fmt: skip
    (own / "tokenizer.json").write_text(json.dumps(document))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (own / "tokenizer_config.json").write_text(json.dumps(names))
    items = [{"ctx": "The quick", "choices": [" brown", " zebra"], "gold": 0}] * 2
    (tmp_path / "mc.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "mc.yaml").write_text(
        "task: own_mc\ndataset_path: json\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/mc.jsonl}}}}\n"
        'output_type: multiple_choice\ndoc_to_text: "{{ctx}}"\ntarget_delimiter: ""\n'
        'doc_to_choice: "{{choices}}"\ndoc_to_target: "{{gold}}"\nmetric_list: [{metric: acc}]\n'
    )
    given = ("--lm-eval", "own_mc", "--lm-eval-path", str(tmp_path), "--calibration", text)
    found = run_json(*arguments(str(own), text, *given))["lm_eval"]
    assert list(found) == ["int8", "unquantized"]
    assert found["unquantized"]["own_mc"]["acc,none"] in (0.0, 1.0)
