"""`macloom evaluate --lm-eval`: its messages without the package, its rows, and a task where it is installed."""

from __future__ import annotations

import importlib.util
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
