"""`macloom evaluate` on a small random model that is saved as a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from macloom.cli import main

Capture = pytest.CaptureFixture[str]
RunJson = Callable[..., Any]
Fail = Callable[..., str]


def test_every_option_reaches_the_evaluation(model: str, text: str, run_json: RunJson) -> None:
    arguments = ("evaluate", "--model", model, "--recipe", "int4", "--text", text, "--windows", "3", "--context", "48")
    result = run_json(*arguments, "--seed", "5")
    assert result["model"]["name"] == "small"
    assert result["recipe"]["weight"] == "int4"
    assert result["text"]["name"] == "pangrams.txt"
    assert (result["windows"], result["context"], result["seed"]) == (3, 48, 5)
    assert result["perplexity"] != result["reference_perplexity"]
    other = run_json(*arguments, "--seed", "6")
    assert other["search"] != result["search"]


def test_prints_for_reading_and_writes_the_result(model: str, text: str, capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "new" / "accuracy.json"
    arguments = ["evaluate", "--model", model, "--recipe", "fp32", "--text", text, "--windows", "2", "--context", "32"]
    assert main([*arguments, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    result = json.loads(out.read_text())
    assert f"perplexity per byte  {result['perplexity']:.4f}" in captured.out
    assert f"top-1 agreement      {100 * result['top1_agreement']:.2f} %" in captured.out
    assert "pangrams.txt, 2 windows of 32 bytes" in captured.out
    assert "lm_head" in captured.out
    assert captured.err == f"evaluating {model} in fp32\nwrote {out}\n"


def test_quiet(model: str, text: str, capsys: Capture) -> None:
    arguments = ["evaluate", "-q", "--model", model, "--recipe", "int8", "--text", text]
    assert main([*arguments, "--windows", "1", "--context", "16"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "tyni", "error: model: unknown name 'tyni'; did you mean 'tiny'"),
        ("--model", "no/where", "error: model: no such directory 'no/where'"),
        ("--recipe", "int44", "did you mean 'int4'"),
        ("--recipe", "none.toml", "error: recipe: no such file 'none.toml'"),
        ("--text", "none.txt", "error: text: no such file 'none.txt'"),
        ("--context", "65", "error: context: must be at most 64, the model's limit, not 65"),
    ],
)
def test_bad_input(model: str, text: str, fail: Fail, tmp_path: Path, option: str, value: str, message: str) -> None:
    given = {"--model": model, "--recipe": "int4", "--text": text, "--context": "16", option: value}
    out = tmp_path / "result.json"
    assert message in fail("evaluate", *(word for pair in given.items() for word in pair), "--out", str(out))
    assert not out.exists()


def test_truncated_checkpoint(model: str, text: str, fail: Fail, tmp_path: Path) -> None:
    for file in Path(model).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    message = fail("evaluate", "--model", str(tmp_path), "--recipe", "int4", "--text", text)
    assert "model.safetensors: is not a whole safetensors file" in message
